package validation

import (
	"fmt"
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const (
	// kubeletPort may not be given to the outside by accident.
	kubeletPort = 10250
	// maxAffinitySeconds bounds how long a client stays with its endpoint: 1 day.
	maxAffinitySeconds = 86400
)

func serviceCreate(s *corev1.Service) field.ErrorList {
	r := &report{}
	p := field.NewPath("spec")
	spec := &s.Spec
	headless := spec.ClusterIP == corev1.ClusterIPNone || (len(spec.ClusterIPs) > 0 && spec.ClusterIPs[0] == corev1.ClusterIPNone)

	if len(spec.Ports) == 0 && !headless && spec.Type != corev1.ServiceTypeExternalName {
		r.required(p.Child("ports"), "")
	}
	serviceType(r, p, spec, headless)
	servicePorts(r, p.Child("ports"), spec)
	labelMap(r, p.Child("selector"), spec.Selector)
	sessionAffinity(r, p, spec)
	clusterAddresses(r, p, spec)
	for i, a := range spec.ExternalIPs {
		at := p.Child("externalIPs").Index(i)
		ip(r, at, a)
		ordinaryIP(r, at, a)
	}
	loadBalancer(r, p, s)
	trafficPolicies(r, p, spec)
	return r.list
}

func serviceType(r *report, p *field.Path, spec *corev1.ServiceSpec, headless bool) {
	oneOf(r, p.Child("type"), spec.Type, true, corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort, corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeExternalName)
	switch spec.Type {
	case corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeNodePort:
		if headless {
			r.invalid(p.Child("clusterIPs").Index(0), corev1.ClusterIPNone, fmt.Sprintf("may not be set to 'None' for %s services", spec.Type))
		}
	case corev1.ServiceTypeExternalName:
		if spec.ClusterIP != "" || len(spec.ClusterIPs) > 0 {
			r.forbidden(p.Child("clusterIPs"), "may not be set for ExternalName services")
		}
		at := p.Child("externalName")
		// A trailing dot says that no search list applies.
		if name := strings.TrimSuffix(spec.ExternalName, "."); name != "" {
			dnsSubdomain(r, at, name)
		} else {
			r.required(at, "")
		}
	}
	if spec.Type != corev1.ServiceTypeLoadBalancer {
		return
	}
	for i := range spec.Ports {
		if spec.Ports[i].Port == kubeletPort {
			r.invalid(p.Child("ports").Index(i), kubeletPort, "may not expose port 10250 externally since it is used by kubelet")
		}
	}
}

func servicePorts(r *report, p *field.Path, spec *corev1.ServiceSpec) {
	names := sets.New[string]()
	type pair struct {
		protocol corev1.Protocol
		number   int32
	}
	ports, nodePorts := sets.New[pair](), sets.New[pair]()
	for i := range spec.Ports {
		port, at := &spec.Ports[i], p.Index(i)
		switch {
		case port.Name == "" && len(spec.Ports) > 1:
			r.required(at.Child("name"), "")
		case port.Name != "":
			dnsLabel(r, at.Child("name"), port.Name)
			if names.Has(port.Name) {
				r.duplicate(at.Child("name"), port.Name)
			}
			names.Insert(port.Name)
		}
		r.each(at.Child("port"), port.Port, validation.IsValidPortNum(int(port.Port)))
		oneOf(r, at.Child("protocol"), port.Protocol, true, corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)
		portNumberOrName(r, at.Child("targetPort"), port.TargetPort)
		if port.AppProtocol != nil {
			r.each(at.Child("appProtocol"), *port.AppProtocol, validation.IsQualifiedName(*port.AppProtocol))
		}
		key := pair{port.Protocol, port.Port}
		if ports.Has(key) {
			r.duplicate(at, corev1.ServicePort{Protocol: port.Protocol, Port: port.Port})
		}
		ports.Insert(key)
		if port.NodePort == 0 {
			continue
		}
		if spec.Type == corev1.ServiceTypeClusterIP {
			r.forbidden(at.Child("nodePort"), "may not be used when `type` is 'ClusterIP'")
		}
		key = pair{port.Protocol, port.NodePort}
		if nodePorts.Has(key) {
			r.duplicate(at.Child("nodePort"), port.NodePort)
		}
		nodePorts.Insert(key)
	}
}

func sessionAffinity(r *report, p *field.Path, spec *corev1.ServiceSpec) {
	oneOf(r, p.Child("sessionAffinity"), spec.SessionAffinity, true, corev1.ServiceAffinityClientIP, corev1.ServiceAffinityNone)
	at := p.Child("sessionAffinityConfig")
	c := spec.SessionAffinityConfig
	switch spec.SessionAffinity {
	case corev1.ServiceAffinityClientIP:
		timeout := at.Child("clientIP", "timeoutSeconds")
		switch {
		case c == nil:
			r.required(at, "when session affinity type is ClientIP")
		case c.ClientIP == nil:
			r.required(at.Child("clientIP"), "when session affinity type is ClientIP")
		case c.ClientIP.TimeoutSeconds == nil:
			r.required(timeout, "when session affinity type is ClientIP")
		case *c.ClientIP.TimeoutSeconds <= 0 || *c.ClientIP.TimeoutSeconds > maxAffinitySeconds:
			r.invalid(timeout, *c.ClientIP.TimeoutSeconds, fmt.Sprintf("must be greater than 0 and less than %d", maxAffinitySeconds))
		}
	case corev1.ServiceAffinityNone:
		if c != nil {
			r.forbidden(at, "must not be set when session affinity is None")
		}
	}
}

// clusterAddresses checks addresses and families among themselves; whether they are free is the allocator's to say.
func clusterAddresses(r *report, p *field.Path, spec *corev1.ServiceSpec) {
	if spec.Type == corev1.ServiceTypeExternalName {
		if len(spec.IPFamilies) > 0 {
			r.forbidden(p.Child("ipFamilies"), "may not be used for ExternalName services")
		}
		if spec.IPFamilyPolicy != nil {
			r.forbidden(p.Child("ipFamilyPolicy"), "may not be used for ExternalName services")
		}
		return
	}
	families := sets.New[corev1.IPFamily]()
	for i, f := range spec.IPFamilies {
		at := p.Child("ipFamilies").Index(i)
		if f != corev1.IPv4Protocol && f != corev1.IPv6Protocol {
			r.add(field.NotSupported(at, f, []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}))
		}
		if families.Has(f) {
			r.duplicate(at, f)
		}
		families.Insert(f)
	}
	optionalOneOf(r, p.Child("ipFamilyPolicy"), spec.IPFamilyPolicy, corev1.IPFamilyPolicySingleStack, corev1.IPFamilyPolicyPreferDualStack, corev1.IPFamilyPolicyRequireDualStack)

	ips := p.Child("clusterIPs")
	switch {
	case len(spec.ClusterIPs) > 0 && spec.ClusterIP == "":
		r.required(p.Child("clusterIP"), "must be set when clusterIPs is set")
	case len(spec.ClusterIPs) > 0 && spec.ClusterIP != spec.ClusterIPs[0]:
		r.invalid(ips, spec.ClusterIPs, "first value must match `clusterIP`")
	case len(spec.ClusterIPs) == 0 && spec.ClusterIP != "":
		// The REST layer copies clusterIP over before this; a caller who did not gets it checked all the same.
		clusterIP(r, p.Child("clusterIP"), spec.ClusterIP)
	}
	if len(spec.ClusterIPs) > 2 {
		r.invalid(ips, spec.ClusterIPs, "may only hold up to 2 values")
	}
	seen := sets.New[string]()
	for i, a := range spec.ClusterIPs {
		at := ips.Index(i)
		if a == corev1.ClusterIPNone {
			if i > 0 || len(spec.ClusterIPs) > 1 {
				r.invalid(at, a, "'None' must be the first and only value")
			}
			continue
		}
		if seen.Has(a) {
			r.duplicate(at, a)
		}
		seen.Insert(a)
		clusterIP(r, at, a)
		if i < len(spec.IPFamilies) {
			address, err := netip.ParseAddr(a)
			if err == nil && (spec.IPFamilies[i] == corev1.IPv4Protocol) != address.Is4() {
				r.invalid(at, a, fmt.Sprintf("expected an %s value as indicated by `ipFamilies[%d]`", spec.IPFamilies[i], i))
			}
		}
	}
	if len(spec.ClusterIPs) == 2 && spec.ClusterIPs[0] != corev1.ClusterIPNone {
		first, err1 := netip.ParseAddr(spec.ClusterIPs[0])
		second, err2 := netip.ParseAddr(spec.ClusterIPs[1])
		if err1 == nil && err2 == nil && first.Is4() == second.Is4() {
			r.invalid(ips, spec.ClusterIPs, "may specify no more than one IP for each IP family")
		}
	}
	single := spec.IPFamilyPolicy != nil && *spec.IPFamilyPolicy == corev1.IPFamilyPolicySingleStack
	if single && len(spec.IPFamilies) == 2 {
		r.invalid(p.Child("ipFamilyPolicy"), *spec.IPFamilyPolicy, "must be RequireDualStack or PreferDualStack when multiple ipFamilies are specified")
	}
	if single && len(spec.ClusterIPs) == 2 {
		r.invalid(p.Child("ipFamilyPolicy"), *spec.IPFamilyPolicy, "must be RequireDualStack or PreferDualStack when multiple clusterIPs are specified")
	}
}

func clusterIP(r *report, p *field.Path, value string) {
	if value == corev1.ClusterIPNone {
		return
	}
	ip(r, p, value)
}

// ordinaryIP reports addresses that no Service or endpoint can have: nowhere, the host itself, the link.
func ordinaryIP(r *report, p *field.Path, value string) {
	a, err := netip.ParseAddr(value)
	if err != nil {
		return
	}
	switch {
	case a.IsUnspecified():
		r.invalid(p, value, fmt.Sprintf("may not be unspecified (%v)", value))
	case a.IsLoopback():
		r.invalid(p, value, "may not be in the loopback range (127.0.0.0/8, ::1/128)")
	case a.IsLinkLocalUnicast():
		r.invalid(p, value, "may not be in the link-local range (169.254.0.0/16, fe80::/10)")
	case a.IsLinkLocalMulticast():
		r.invalid(p, value, "may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)")
	}
}

func loadBalancer(r *report, p *field.Path, s *corev1.Service) {
	spec := &s.Spec
	balanced := spec.Type == corev1.ServiceTypeLoadBalancer
	const only = "may only be used when `type` is 'LoadBalancer'"
	ranges := p.Child("loadBalancerSourceRanges")
	if len(spec.LoadBalancerSourceRanges) > 0 {
		if !balanced {
			r.forbidden(ranges, only)
		}
		for i, c := range spec.LoadBalancerSourceRanges {
			r.list = append(r.list, validation.IsValidCIDRForLegacyField(ranges.Index(i), strings.TrimSpace(c), false, nil)...)
		}
	} else if value, ok := s.Annotations[corev1.AnnotationLoadBalancerSourceRangesKey]; ok {
		at := field.NewPath("metadata", "annotations").Key(corev1.AnnotationLoadBalancerSourceRangesKey)
		if !balanced {
			r.forbidden(at, only)
		}
		for _, c := range strings.Split(value, ",") {
			if strings.TrimSpace(value) != "" {
				r.list = append(r.list, validation.IsValidCIDRForLegacyField(at, strings.TrimSpace(c), false, nil)...)
			}
		}
	}
	switch {
	case balanced && spec.AllocateLoadBalancerNodePorts == nil:
		r.required(p.Child("allocateLoadBalancerNodePorts"), "")
	case !balanced && spec.AllocateLoadBalancerNodePorts != nil:
		r.forbidden(p.Child("allocateLoadBalancerNodePorts"), only)
	}
	if spec.LoadBalancerClass != nil {
		if !balanced {
			r.forbidden(p.Child("loadBalancerClass"), only)
		}
		r.each(p.Child("loadBalancerClass"), *spec.LoadBalancerClass, validation.IsQualifiedName(*spec.LoadBalancerClass))
	}
}

func trafficPolicies(r *report, p *field.Path, spec *corev1.ServiceSpec) {
	outside := spec.Type == corev1.ServiceTypeLoadBalancer || spec.Type == corev1.ServiceTypeNodePort ||
		(spec.Type == corev1.ServiceTypeClusterIP && len(spec.ExternalIPs) > 0)
	at := p.Child("externalTrafficPolicy")
	switch {
	case outside:
		if spec.ExternalTrafficPolicy == "" {
			r.required(at, "must be set for externally-accessible services")
		}
		oneOf(r, at, spec.ExternalTrafficPolicy, false, corev1.ServiceExternalTrafficPolicyCluster, corev1.ServiceExternalTrafficPolicyLocal)
	case spec.ExternalTrafficPolicy != "":
		r.invalid(at, spec.ExternalTrafficPolicy, "may only be set for externally-accessible services")
	}
	health := p.Child("healthCheckNodePort")
	checked := spec.Type == corev1.ServiceTypeLoadBalancer && spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
	switch {
	case spec.HealthCheckNodePort < 0 || spec.HealthCheckNodePort > 65535:
		r.invalid(health, spec.HealthCheckNodePort, validation.InclusiveRangeError(1, 65535))
	case spec.HealthCheckNodePort != 0 && !checked:
		r.invalid(health, spec.HealthCheckNodePort, "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'")
	}
	if spec.Type != corev1.ServiceTypeExternalName {
		if spec.InternalTrafficPolicy == nil {
			r.required(p.Child("internalTrafficPolicy"), "")
		}
		optionalOneOf(r, p.Child("internalTrafficPolicy"), spec.InternalTrafficPolicy, corev1.ServiceInternalTrafficPolicyCluster, corev1.ServiceInternalTrafficPolicyLocal)
	}
	optionalOneOf(r, p.Child("trafficDistribution"), spec.TrafficDistribution, corev1.ServiceTrafficDistributionPreferClose,
		corev1.ServiceTrafficDistributionPreferSameZone, corev1.ServiceTrafficDistributionPreferSameNode)
}
