package validation

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// serviceUpdate: cluster addresses stay while the type has any; what clients resolved must not move.
func serviceUpdate(s, old *corev1.Service) field.ErrorList {
	r := &report{}
	p := field.NewPath("spec")
	keptAddresses(r, p, &s.Spec, &old.Spec)
	if s.Spec.Type == corev1.ServiceTypeLoadBalancer && old.Spec.Type == corev1.ServiceTypeLoadBalancer &&
		!equality.Semantic.DeepEqual(s.Spec.LoadBalancerClass, old.Spec.LoadBalancerClass) {
		r.invalid(p.Child("loadBalancerClass"), s.Spec.LoadBalancerClass, "may not change once set")
	}
	r.list = append(r.list, serviceCreate(s)...)
	return r.list
}

func keptAddresses(r *report, p *field.Path, now, was *corev1.ServiceSpec) {
	// A Service that becomes or was an ExternalName has no addresses to keep.
	if now.Type == corev1.ServiceTypeExternalName || was.Type == corev1.ServiceTypeExternalName {
		return
	}
	before, after := addressesOf(was), addressesOf(now)
	at := p.Child("clusterIPs")
	switch {
	case len(before) == 0:
	case len(after) == 0:
		r.required(at.Index(0), "primary clusterIP can not be unset")
	case before[0] != after[0]:
		r.invalid(at.Index(0), after[0], "may not change once set")
	}
	if len(before) > 1 {
		switch {
		case len(after) > 1 && before[1] != after[1]:
			r.invalid(at.Index(1), after[1], "may not change once set")
		case len(after) == 1 && now.IPFamilyPolicy != nil && *now.IPFamilyPolicy != corev1.IPFamilyPolicySingleStack:
			r.required(at.Index(1), "secondary clusterIP can not be unset while ipFamilyPolicy asks for two families")
		}
	}
	if len(was.IPFamilies) > 0 && len(now.IPFamilies) > 0 && was.IPFamilies[0] != now.IPFamilies[0] {
		r.invalid(p.Child("ipFamilies").Index(0), now.IPFamilies[0], "may not change once set")
	}
}

func addressesOf(s *corev1.ServiceSpec) []string {
	if len(s.ClusterIPs) > 0 {
		return s.ClusterIPs
	}
	if s.ClusterIP != "" {
		return []string{s.ClusterIP}
	}
	return nil
}

// serviceStatus checks where a load balancer says that it listens.
func serviceStatus(s, _ *corev1.Service) field.ErrorList {
	r := &report{}
	at := field.NewPath("status", "loadBalancer", "ingress")
	if s.Spec.Type != corev1.ServiceTypeLoadBalancer && len(s.Status.LoadBalancer.Ingress) > 0 {
		r.forbidden(at, "may only be used when `spec.type` is LoadBalancer")
		return r.list
	}
	for i, in := range s.Status.LoadBalancer.Ingress {
		p := at.Index(i)
		if in.IP != "" {
			ip(r, p.Child("ip"), in.IP)
		}
		switch {
		case in.IPMode == nil && in.IP != "":
			r.required(p.Child("ipMode"), "must be specified when `ip` is set")
		case in.IPMode != nil && in.IP == "":
			r.forbidden(p.Child("ipMode"), "may not be specified when `ip` is not set")
		}
		optionalOneOf(r, p.Child("ipMode"), in.IPMode, corev1.LoadBalancerIPModeVIP, corev1.LoadBalancerIPModeProxy)
		if in.Hostname != "" {
			dnsSubdomain(r, p.Child("hostname"), in.Hostname)
			if isAddress(in.Hostname) {
				r.invalid(p.Child("hostname"), in.Hostname, "must be a DNS name, not an IP address")
			}
		}
	}
	return r.list
}
