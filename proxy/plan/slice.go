package plan

import (
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
)

// Slice is what the proxy keeps of a discovery/v1 EndpointSlice.
type Slice struct {
	Name      Name
	Service   Name
	Ports     []SlicePort
	Endpoints []SliceEndpoint
	// Trigger is when the change happened that this slice first carried (endpoints.kubernetes.io/last-change-trigger-time);
	// zero when unknown. It is for the latency metric and changes no plan.
	Trigger time.Time
}

// SlicePort is one port of a slice, which all its endpoints serve.
type SlicePort struct {
	Name     string
	Protocol corev1.Protocol
	Port     uint16
}

// SliceEndpoint is one endpoint of a slice.
type SliceEndpoint struct {
	Addr               netip.Addr
	Ready              bool
	Serving            bool
	Terminating        bool
	NodeName           string
	ForZones, ForNodes []string // hints
}

// FromSlice converts an EndpointSlice. False means that it is no proxied Service's: of host names, headless, or without
// a Service.
func FromSlice(s *discoveryv1.EndpointSlice) (Slice, bool) {
	service := s.Labels[discoveryv1.LabelServiceName]
	if service == "" || s.AddressType == discoveryv1.AddressTypeFQDN {
		return Slice{}, false
	}
	if _, headless := s.Labels[corev1.IsHeadlessService]; headless {
		return Slice{}, false
	}
	if _, foreign := s.Labels[ServiceProxyNameLabel]; foreign {
		return Slice{}, false
	}
	out := Slice{Name: Name{s.Namespace, s.Name}, Service: Name{s.Namespace, service}}
	if at := s.Annotations[corev1.EndpointsLastChangeTriggerTime]; at != "" {
		out.Trigger, _ = time.Parse(time.RFC3339Nano, at)
	}
	for _, p := range s.Ports {
		if p.Port == nil {
			continue
		}
		port := SlicePort{Protocol: corev1.ProtocolTCP, Port: uint16(*p.Port)}
		if p.Name != nil {
			port.Name = *p.Name
		}
		if p.Protocol != nil {
			port.Protocol = *p.Protocol
		}
		out.Ports = append(out.Ports, port)
	}
	for _, e := range s.Endpoints {
		if len(e.Addresses) == 0 {
			continue
		}
		// Only the first address counts, as the API says.
		addr, err := netip.ParseAddr(e.Addresses[0])
		if err != nil {
			continue
		}
		ep := SliceEndpoint{Addr: addr.Unmap()}
		ep.Ready = e.Conditions.Ready == nil || *e.Conditions.Ready
		ep.Serving = ep.Ready
		if e.Conditions.Serving != nil {
			ep.Serving = *e.Conditions.Serving
		}
		ep.Terminating = e.Conditions.Terminating != nil && *e.Conditions.Terminating
		if e.NodeName != nil {
			ep.NodeName = *e.NodeName
		}
		if e.Hints != nil {
			for _, z := range e.Hints.ForZones {
				ep.ForZones = append(ep.ForZones, z.Name)
			}
			for _, n := range e.Hints.ForNodes {
				ep.ForNodes = append(ep.ForNodes, n.Name)
			}
		}
		out.Endpoints = append(out.Endpoints, ep)
	}
	return out, true
}

// Equal reports that two slices program the same.
func (s Slice) Equal(o Slice) bool {
	return s.Name == o.Name && s.Service == o.Service && slices.Equal(s.Ports, o.Ports) &&
		slices.EqualFunc(s.Endpoints, o.Endpoints, func(a, b SliceEndpoint) bool {
			return a.Addr == b.Addr && a.Ready == b.Ready && a.Serving == b.Serving && a.Terminating == b.Terminating &&
				a.NodeName == b.NodeName && slices.Equal(a.ForZones, b.ForZones) && slices.Equal(a.ForNodes, b.ForNodes)
		})
}
