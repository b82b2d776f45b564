package validation

import (
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Bounds of an EndpointSlice.
const (
	maxSliceEndpoints = 1000
	maxSlicePorts     = 20000
	maxSliceAddresses = 100
	maxTopologyLabels = 16
	maxZoneHints      = 8
	maxNodeHints      = 8
)

func endpointSliceCreate(s *discoveryv1.EndpointSlice) field.ErrorList {
	r := &report{}
	oneOf(r, field.NewPath("addressType"), s.AddressType, true, discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6, discoveryv1.AddressTypeFQDN)
	endpoints(r, field.NewPath("endpoints"), s)
	slicePorts(r, field.NewPath("ports"), s.Ports)
	return r.list
}

func endpoints(r *report, p *field.Path, s *discoveryv1.EndpointSlice) {
	if len(s.Endpoints) > maxSliceEndpoints {
		r.add(field.TooMany(p, len(s.Endpoints), maxSliceEndpoints))
		return
	}
	for i := range s.Endpoints {
		e, at := &s.Endpoints[i], p.Index(i)
		addresses := at.Child("addresses")
		switch n := len(e.Addresses); {
		case n == 0:
			r.required(addresses, "must contain at least 1 address")
		case n > maxSliceAddresses:
			r.add(field.TooMany(addresses, n, maxSliceAddresses))
		}
		for j, a := range e.Addresses {
			in := addresses.Index(j)
			switch s.AddressType {
			case discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6:
				ip(r, in, a)
				if parsed, err := netip.ParseAddr(a); err == nil && parsed.Is4() != (s.AddressType == discoveryv1.AddressTypeIPv4) {
					r.invalid(in, a, fmt.Sprintf("must be an %s address", s.AddressType))
				}
				ordinaryIP(r, in, a)
			case discoveryv1.AddressTypeFQDN:
				r.list = append(r.list, validation.IsFullyQualifiedDomainName(in, a)...)
			}
		}
		if e.NodeName != nil {
			dnsSubdomain(r, at.Child("nodeName"), *e.NodeName)
		}
		if e.Hostname != nil {
			dnsLabel(r, at.Child("hostname"), *e.Hostname)
		}
		topology := at.Child("deprecatedTopology")
		if len(e.DeprecatedTopology) > maxTopologyLabels {
			r.add(field.TooMany(topology, len(e.DeprecatedTopology), maxTopologyLabels))
		}
		labelMap(r, topology, e.DeprecatedTopology)
		if _, ok := e.DeprecatedTopology[corev1.LabelTopologyZone]; ok {
			r.invalid(topology.Key(corev1.LabelTopologyZone), corev1.LabelTopologyZone, "reserved key was not expected in discovery.k8s.io/v1")
		}
		if e.Hints != nil {
			hints(r, at.Child("hints"), e.Hints)
		}
	}
}

func hints(r *report, p *field.Path, h *discoveryv1.EndpointHints) {
	if len(h.ForZones) > maxZoneHints {
		r.add(field.TooMany(p.Child("forZones"), len(h.ForZones), maxZoneHints))
	}
	seen := sets.New[string]()
	for i, z := range h.ForZones {
		at := p.Child("forZones").Index(i).Child("name")
		if z.Name == "" {
			r.required(at, "")
			continue
		}
		if seen.Has(z.Name) {
			r.duplicate(at, z.Name)
		}
		seen.Insert(z.Name)
		r.each(at, z.Name, validation.IsValidLabelValue(z.Name))
	}
	if len(h.ForNodes) > maxNodeHints {
		r.add(field.TooMany(p.Child("forNodes"), len(h.ForNodes), maxNodeHints))
	}
	seen = sets.New[string]()
	for i, n := range h.ForNodes {
		at := p.Child("forNodes").Index(i).Child("name")
		if n.Name == "" {
			r.required(at, "")
			continue
		}
		if seen.Has(n.Name) {
			r.duplicate(at, n.Name)
		}
		seen.Insert(n.Name)
		dnsSubdomain(r, at, n.Name)
	}
}

func slicePorts(r *report, p *field.Path, ports []discoveryv1.EndpointPort) {
	if len(ports) > maxSlicePorts {
		r.add(field.TooMany(p, len(ports), maxSlicePorts))
		return
	}
	names := sets.New[string]()
	for i, port := range ports {
		at := p.Index(i)
		name := ""
		if port.Name != nil {
			name = *port.Name
		}
		if name != "" {
			dnsLabel(r, at.Child("name"), name)
		}
		if names.Has(name) {
			r.duplicate(at.Child("name"), name)
		}
		names.Insert(name)
		if port.Protocol == nil || *port.Protocol == "" {
			r.required(at.Child("protocol"), "")
		} else {
			oneOf(r, at.Child("protocol"), *port.Protocol, true, corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)
		}
		if port.AppProtocol != nil {
			r.each(at.Child("appProtocol"), *port.AppProtocol, validation.IsQualifiedName(*port.AppProtocol))
		}
	}
}

func endpointSliceUpdate(s, old *discoveryv1.EndpointSlice) field.ErrorList {
	r := &report{list: endpointSliceCreate(s)}
	immutable(r, field.NewPath("addressType"), s.AddressType, old.AddressType, func(a, b discoveryv1.AddressType) bool { return a == b })
	return r.list
}
