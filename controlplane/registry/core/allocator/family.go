package allocator

import (
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func needsClusterIP(s *corev1.Service) bool {
	switch s.Spec.Type {
	case corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort, corev1.ServiceTypeLoadBalancer, "":
		return true
	}
	return false
}

func needsNodePort(s *corev1.Service) bool {
	return s.Spec.Type == corev1.ServiceTypeNodePort ||
		s.Spec.Type == corev1.ServiceTypeLoadBalancer && (s.Spec.AllocateLoadBalancerNodePorts == nil || *s.Spec.AllocateLoadBalancerNodePorts)
}

func needsHealthPort(s *corev1.Service) bool {
	return s.Spec.Type == corev1.ServiceTypeLoadBalancer && s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

func headless(s *corev1.Service) bool {
	return len(s.Spec.ClusterIPs) == 1 && s.Spec.ClusterIPs[0] == corev1.ClusterIPNone
}

// normalizeAddresses keeps clusterIP, the old single field, and clusterIPs in step: whichever the caller changed counts.
func normalizeAddresses(s, old *corev1.Service) {
	switch {
	case old == nil:
		if s.Spec.ClusterIP != "" && len(s.Spec.ClusterIPs) == 0 {
			s.Spec.ClusterIPs = []string{s.Spec.ClusterIP}
		}
	case s.Spec.ClusterIP == "" && old.Spec.ClusterIP != "" && slices.Equal(s.Spec.ClusterIPs, old.Spec.ClusterIPs):
		s.Spec.ClusterIPs = nil // an old client that clears its field clears both
	case s.Spec.ClusterIP != old.Spec.ClusterIP && slices.Equal(s.Spec.ClusterIPs, old.Spec.ClusterIPs):
		s.Spec.ClusterIPs = []string{s.Spec.ClusterIP}
	}
}

// dropTypeFields clears what the new type has no use for, where the caller left it as it was: changing the type alone
// must be enough to change it.
func dropTypeFields(s, old *corev1.Service) {
	if needsClusterIP(old) && !needsClusterIP(s) && s.Spec.ClusterIP == old.Spec.ClusterIP && slices.Equal(s.Spec.ClusterIPs, old.Spec.ClusterIPs) {
		s.Spec.ClusterIP, s.Spec.ClusterIPs = "", nil
	}
	if needsClusterIP(old) && !needsClusterIP(s) {
		if equalPtr(s.Spec.IPFamilyPolicy, old.Spec.IPFamilyPolicy) {
			s.Spec.IPFamilyPolicy = nil
		}
		if slices.Equal(s.Spec.IPFamilies, old.Spec.IPFamilies) {
			s.Spec.IPFamilies = nil
		}
		if equalPtr(s.Spec.InternalTrafficPolicy, old.Spec.InternalTrafficPolicy) {
			s.Spec.InternalTrafficPolicy = nil
		}
	}
	if needsNodePort(old) && !needsNodePort(s) && samePorts(s, old) {
		for i := range s.Spec.Ports {
			s.Spec.Ports[i].NodePort = 0
		}
	}
	if needsHealthPort(old) && !needsHealthPort(s) && s.Spec.HealthCheckNodePort == old.Spec.HealthCheckNodePort {
		s.Spec.HealthCheckNodePort = 0
	}
	external := func(s *corev1.Service) bool {
		return s.Spec.Type == corev1.ServiceTypeNodePort || s.Spec.Type == corev1.ServiceTypeLoadBalancer || len(s.Spec.ExternalIPs) > 0
	}
	if external(old) && !external(s) && s.Spec.ExternalTrafficPolicy == old.Spec.ExternalTrafficPolicy {
		s.Spec.ExternalTrafficPolicy = ""
	}
	if old.Spec.Type == corev1.ServiceTypeLoadBalancer && s.Spec.Type != corev1.ServiceTypeLoadBalancer {
		if equalPtr(s.Spec.AllocateLoadBalancerNodePorts, old.Spec.AllocateLoadBalancerNodePorts) {
			s.Spec.AllocateLoadBalancerNodePorts = nil
		}
		if equalPtr(s.Spec.LoadBalancerClass, old.Spec.LoadBalancerClass) {
			s.Spec.LoadBalancerClass = nil
		}
	}
}

func equalPtr[T comparable](a, b *T) bool {
	if a == nil || b == nil {
		return a == b
	}
	return *a == *b
}

// samePorts says whether the caller left every node port as it was.
func samePorts(s, old *corev1.Service) bool {
	had := map[int32]bool{}
	for _, p := range old.Spec.Ports {
		had[p.NodePort] = true
	}
	for _, p := range s.Spec.Ports {
		if p.NodePort != 0 && !had[p.NodePort] {
			return false
		}
	}
	return true
}

// keepAllocated fills in what an update left out and the old object has: clients that replace a Service need not know
// what was allocated for it.
func keepAllocated(s, old *corev1.Service) {
	if needsClusterIP(old) && needsClusterIP(s) {
		if s.Spec.ClusterIP == "" {
			s.Spec.ClusterIP = old.Spec.ClusterIP
		}
		if len(s.Spec.ClusterIPs) == 0 && s.Spec.ClusterIP == old.Spec.ClusterIP {
			s.Spec.ClusterIPs = slices.Clone(old.Spec.ClusterIPs)
		}
	}
	if needsNodePort(old) && needsNodePort(s) {
		type key struct {
			protocol corev1.Protocol
			port     int32
		}
		was, used := map[key]int32{}, map[int32]bool{}
		for _, p := range old.Spec.Ports {
			was[key{p.Protocol, p.Port}] = p.NodePort
		}
		for _, p := range s.Spec.Ports {
			if p.NodePort != 0 {
				used[p.NodePort] = true
			}
		}
		for i := range s.Spec.Ports {
			p := &s.Spec.Ports[i]
			if n := was[key{p.Protocol, p.Port}]; p.NodePort == 0 && n != 0 && !used[n] {
				p.NodePort = n
			}
		}
	}
	if needsHealthPort(old) && needsHealthPort(s) && s.Spec.HealthCheckNodePort == 0 {
		s.Spec.HealthCheckNodePort = old.Spec.HealthCheckNodePort
	}
}

// defaultFamilies fills ipFamilyPolicy and ipFamilies and trims what a downgrade to one family gives up. families are
// those that the cluster has ranges for, the primary first.
func defaultFamilies(s, old *corev1.Service, families []corev1.IPFamily) field.ErrorList {
	if s.Spec.Type == corev1.ServiceTypeExternalName {
		return nil
	}
	if old != nil && needsClusterIP(old) {
		downgrade(s, old)
		if preferUnchanged(s, old) {
			return nil
		}
	}
	spec := field.NewPath("spec")

	// Addresses that are given decide the families that are not.
	for i, text := range s.Spec.ClusterIPs {
		if text == corev1.ClusterIPNone || i < len(s.Spec.IPFamilies) {
			continue
		}
		a, err := netip.ParseAddr(text)
		if err != nil {
			return field.ErrorList{field.Invalid(spec.Child("clusterIPs").Index(i), text, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)")}
		}
		if i == len(s.Spec.IPFamilies) {
			s.Spec.IPFamilies = append(s.Spec.IPFamilies, familyOf(a))
		}
	}
	free := headless(s) && len(s.Spec.Selector) == 0 // its endpoints are the user's own, of any family

	var errs field.ErrorList
	for i, f := range s.Spec.IPFamilies {
		if !free && !slices.Contains(families, f) && (i == 0 || old == nil || !slices.Contains(old.Spec.IPFamilies, f)) {
			errs = append(errs, field.Invalid(spec.Child("ipFamilies").Index(i), f, "not configured on this cluster"))
		}
	}
	if s.Spec.IPFamilyPolicy == nil {
		policy := corev1.IPFamilyPolicySingleStack
		if len(s.Spec.ClusterIPs) == 2 || len(s.Spec.IPFamilies) == 2 || free {
			policy = corev1.IPFamilyPolicyRequireDualStack
		}
		s.Spec.IPFamilyPolicy = &policy
	}
	policy := *s.Spec.IPFamilyPolicy
	if policy == corev1.IPFamilyPolicySingleStack && (len(s.Spec.IPFamilies) == 2 || len(s.Spec.ClusterIPs) == 2) {
		errs = append(errs, field.Invalid(spec.Child("ipFamilyPolicy"), policy,
			"must be RequireDualStack or PreferDualStack when multiple `ipFamilies` or `clusterIPs` are specified"))
	}
	if policy == corev1.IPFamilyPolicyRequireDualStack && len(families) < 2 && !free {
		errs = append(errs, field.Invalid(spec.Child("ipFamilyPolicy"), policy, "this cluster is not configured for dual-stack services"))
	}
	if len(errs) > 0 {
		return errs
	}

	if len(s.Spec.IPFamilies) == 0 {
		s.Spec.IPFamilies = []corev1.IPFamily{families[0]}
	}
	if policy != corev1.IPFamilyPolicySingleStack && len(s.Spec.IPFamilies) == 1 {
		if second := other(s.Spec.IPFamilies[0]); free || slices.Contains(families, second) {
			s.Spec.IPFamilies = append(s.Spec.IPFamilies, second)
		}
	}
	return nil
}

func other(f corev1.IPFamily) corev1.IPFamily {
	if f == corev1.IPv4Protocol {
		return corev1.IPv6Protocol
	}
	return corev1.IPv4Protocol
}

// downgrade: who sets SingleStack and leaves the rest gives up the second address.
func downgrade(s, old *corev1.Service) {
	now, was := s.Spec.IPFamilyPolicy, old.Spec.IPFamilyPolicy
	if now == nil || *now != corev1.IPFamilyPolicySingleStack || was == nil || *was == corev1.IPFamilyPolicySingleStack {
		return
	}
	if len(s.Spec.ClusterIPs) == 2 && slices.Equal(s.Spec.ClusterIPs, old.Spec.ClusterIPs) {
		s.Spec.ClusterIPs = s.Spec.ClusterIPs[:1:1]
	}
	if len(s.Spec.IPFamilies) == 2 && slices.Equal(s.Spec.IPFamilies, old.Spec.IPFamilies) {
		s.Spec.IPFamilies = s.Spec.IPFamilies[:1:1]
	}
}

// preferUnchanged: a PreferDualStack Service is not moved between one and two families only because the cluster has
// changed; its owner has to ask.
func preferUnchanged(s, old *corev1.Service) bool {
	now, was := s.Spec.IPFamilyPolicy, old.Spec.IPFamilyPolicy
	return now != nil && was != nil && *now == corev1.IPFamilyPolicyPreferDualStack && *was == *now &&
		slices.Equal(s.Spec.ClusterIPs, old.Spec.ClusterIPs) && slices.Equal(s.Spec.IPFamilies, old.Spec.IPFamilies) &&
		len(s.Spec.IPFamilies) > 0
}

// clusterAddresses are the parsed addresses that a Service holds.
func clusterAddresses(s *corev1.Service) []netip.Addr {
	if !needsClusterIP(s) {
		return nil
	}
	list := s.Spec.ClusterIPs
	if len(list) == 0 && s.Spec.ClusterIP != "" {
		list = []string{s.Spec.ClusterIP}
	}
	var out []netip.Addr
	for _, text := range list {
		if a, err := netip.ParseAddr(text); err == nil { // "None" is none
			out = append(out, a.Unmap())
		}
	}
	return out
}

// nodePorts are the numbers that a Service holds, each once.
func nodePorts(s *corev1.Service) []int32 {
	var out []int32
	if s.Spec.Type == corev1.ServiceTypeNodePort || s.Spec.Type == corev1.ServiceTypeLoadBalancer {
		for _, p := range s.Spec.Ports {
			if p.NodePort != 0 {
				out = append(out, p.NodePort)
			}
		}
		if s.Spec.HealthCheckNodePort != 0 {
			out = append(out, s.Spec.HealthCheckNodePort)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}
