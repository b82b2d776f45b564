package plan

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// ServiceProxyNameLabel set on a Service gives it to another proxy.
const ServiceProxyNameLabel = "service.kubernetes.io/service-proxy-name"

// Name is a namespaced name.
type Name struct{ Namespace, Name string }

func (n Name) String() string { return n.Namespace + "/" + n.Name }

// Service is what the proxy keeps of a core/v1 Service.
type Service struct {
	Name                Name
	Ports               []ServicePort
	ClusterIPs          []netip.Addr
	ExternalIPs         []netip.Addr
	LoadBalancerIPs     []netip.Addr   // only those that the node must answer (ipMode VIP)
	SourceRanges        []netip.Prefix // who may use the load balancer's IPs; empty: all
	AffinitySeconds     int            // 0: none
	InternalLocal       bool
	ExternalLocal       bool
	HealthCheckNodePort uint16
	// Faults name the fields that could not be read, in words for users. An API server refuses most of them.
	Faults []string
}

// ServicePort is one port of a Service.
type ServicePort struct {
	Name     string
	Protocol corev1.Protocol
	Port     uint16
	NodePort uint16 // 0: none
}

// FromService converts a Service. False means that the proxy leaves it alone: headless, ExternalName, another proxy's.
func FromService(s *corev1.Service) (Service, bool) {
	if _, foreign := s.Labels[ServiceProxyNameLabel]; foreign {
		return Service{}, false
	}
	if s.Spec.Type == corev1.ServiceTypeExternalName || s.Spec.ClusterIP == corev1.ClusterIPNone || s.Spec.ClusterIP == "" {
		return Service{}, false
	}
	out := Service{Name: Name{s.Namespace, s.Name}}
	clusterIPs := s.Spec.ClusterIPs
	if len(clusterIPs) == 0 {
		clusterIPs = []string{s.Spec.ClusterIP}
	}
	out.ClusterIPs = out.addrs("spec.clusterIPs", clusterIPs)
	out.ExternalIPs = out.addrs("spec.externalIPs", s.Spec.ExternalIPs)
	balanced := s.Spec.Type == corev1.ServiceTypeLoadBalancer
	nodePorts := balanced || s.Spec.Type == corev1.ServiceTypeNodePort
	if balanced {
		for _, in := range s.Status.LoadBalancer.Ingress {
			if in.IPMode != nil && *in.IPMode != corev1.LoadBalancerIPModeVIP {
				continue
			}
			if in.IP != "" {
				out.LoadBalancerIPs = append(out.LoadBalancerIPs, out.addrs("status.loadBalancer.ingress", []string{in.IP})...)
			}
		}
		for i, r := range s.Spec.LoadBalancerSourceRanges {
			p, err := netip.ParsePrefix(strings.TrimSpace(r))
			if err != nil {
				out.Faults = append(out.Faults, fmt.Sprintf("spec.loadBalancerSourceRanges[%d] %q is no address range: use one like 192.0.2.0/24", i, r))
				continue
			}
			out.SourceRanges = append(out.SourceRanges, p.Masked())
		}
		if len(s.Spec.LoadBalancerSourceRanges) > 0 && len(out.SourceRanges) == 0 {
			out.SourceRanges = []netip.Prefix{nobody} // a mistake must not open it to all
		}
	}
	for _, p := range s.Spec.Ports {
		port := ServicePort{Name: p.Name, Protocol: p.Protocol, Port: uint16(p.Port)}
		if port.Protocol == "" {
			port.Protocol = corev1.ProtocolTCP
		}
		if nodePorts {
			port.NodePort = uint16(p.NodePort)
		}
		out.Ports = append(out.Ports, port)
	}
	if s.Spec.SessionAffinity == corev1.ServiceAffinityClientIP {
		out.AffinitySeconds = int(corev1.DefaultClientIPServiceAffinitySeconds)
		if c := s.Spec.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil {
			out.AffinitySeconds = int(*c.ClientIP.TimeoutSeconds)
		}
	}
	out.InternalLocal = s.Spec.InternalTrafficPolicy != nil && *s.Spec.InternalTrafficPolicy == corev1.ServiceInternalTrafficPolicyLocal
	if nodePorts || len(out.ExternalIPs) > 0 {
		out.ExternalLocal = s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
	}
	if out.ExternalLocal && balanced {
		out.HealthCheckNodePort = uint16(s.Spec.HealthCheckNodePort)
	}
	return out, true
}

// Equal reports that two Services program the same.
func (s Service) Equal(o Service) bool {
	return s.Name == o.Name && s.AffinitySeconds == o.AffinitySeconds && s.InternalLocal == o.InternalLocal &&
		s.ExternalLocal == o.ExternalLocal && s.HealthCheckNodePort == o.HealthCheckNodePort &&
		slices.Equal(s.Ports, o.Ports) && slices.Equal(s.ClusterIPs, o.ClusterIPs) && slices.Equal(s.ExternalIPs, o.ExternalIPs) &&
		slices.Equal(s.LoadBalancerIPs, o.LoadBalancerIPs) && slices.Equal(s.SourceRanges, o.SourceRanges) &&
		slices.Equal(s.Faults, o.Faults)
}

// nobody is a range that no packet comes from.
var nobody = netip.PrefixFrom(netip.IPv4Unspecified(), 32)

// addrs parses a field's addresses, leaving out, and noting, what is none.
func (s *Service) addrs(field string, in []string) []netip.Addr {
	var out []netip.Addr
	for _, text := range in {
		a, err := netip.ParseAddr(text)
		if err != nil {
			s.Faults = append(s.Faults, fmt.Sprintf("%s %q is no IP address", field, text))
			continue
		}
		out = append(out, a.Unmap())
	}
	return out
}
