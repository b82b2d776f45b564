package validation

import (
	"fmt"
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validation/path"
	"k8s.io/apimachinery/pkg/util/intstr"
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

func ingressCreate(i *networkingv1.Ingress) field.ErrorList {
	r := &report{}
	p := field.NewPath("spec")
	if len(i.Spec.Rules) == 0 && i.Spec.DefaultBackend == nil {
		r.invalid(p, i.Spec.Rules, "either `defaultBackend` or `rules` must be specified")
	}
	if class, ok := i.Annotations["kubernetes.io/ingress.class"]; ok && i.Spec.IngressClassName != nil && *i.Spec.IngressClassName != class {
		r.invalid(field.NewPath("annotations").Child("kubernetes.io/ingress.class"), class, "must match `ingressClassName` when both are specified")
	}
	if b := i.Spec.DefaultBackend; b != nil {
		ingressBackend(r, p.Child("defaultBackend"), b)
	}
	if c := i.Spec.IngressClassName; c != nil {
		dnsSubdomain(r, p.Child("ingressClassName"), *c)
	}
	for n, tls := range i.Spec.TLS {
		at := p.Child("tls").Index(n)
		for m, host := range tls.Hosts {
			ingressHost(r, at.Child("hosts").Index(m), host)
		}
		if tls.SecretName != "" {
			dnsSubdomain(r, at.Child("secretName"), tls.SecretName)
		}
	}
	for n := range i.Spec.Rules {
		rule, at := &i.Spec.Rules[n], p.Child("rules").Index(n)
		if rule.Host != "" {
			if isAddress(rule.Host) {
				r.invalid(at.Child("host"), rule.Host, "must be a DNS name, not an IP address")
			}
			ingressHost(r, at.Child("host"), rule.Host)
		}
		if rule.HTTP == nil {
			continue
		}
		paths := at.Child("http", "paths")
		if len(rule.HTTP.Paths) == 0 {
			r.required(paths, "")
		}
		for m := range rule.HTTP.Paths {
			ingressPath(r, paths.Index(m), &rule.HTTP.Paths[m])
		}
	}
	return r.list
}

func ingressHost(r *report, p *field.Path, host string) {
	if strings.Contains(host, "*") {
		r.each(p, host, validation.IsWildcardDNS1123Subdomain(host))
		return
	}
	dnsSubdomain(r, p, host)
}

func ingressPath(r *report, p *field.Path, h *networkingv1.HTTPIngressPath) {
	at := p.Child("path")
	switch {
	case h.PathType == nil:
		r.required(p.Child("pathType"), "pathType must be specified")
	default:
		optionalOneOf(r, p.Child("pathType"), h.PathType, networkingv1.PathTypeExact, networkingv1.PathTypePrefix, networkingv1.PathTypeImplementationSpecific)
		if *h.PathType == networkingv1.PathTypeImplementationSpecific {
			if h.Path != "" && !strings.HasPrefix(h.Path, "/") {
				r.invalid(at, h.Path, "must be an absolute path")
			}
			break
		}
		if !strings.HasPrefix(h.Path, "/") {
			r.invalid(at, h.Path, "must be an absolute path")
		}
		// Proxies read these in different ways, which has been used to get around rules.
		for _, bad := range []string{"//", "/./", "/../", "%2f", "%2F"} {
			if strings.Contains(h.Path, bad) {
				r.invalid(at, h.Path, fmt.Sprintf("must not contain '%s'", bad))
			}
		}
		for _, bad := range []string{"/..", "/."} {
			if strings.HasSuffix(h.Path, bad) {
				r.invalid(at, h.Path, fmt.Sprintf("cannot end with '%s'", bad))
			}
		}
	}
	ingressBackend(r, p.Child("backend"), &h.Backend)
}

func ingressBackend(r *report, p *field.Path, b *networkingv1.IngressBackend) {
	switch {
	case b.Resource != nil && b.Service != nil:
		r.invalid(p, "", "cannot set both resource and service backends")
	case b.Resource != nil:
		typedReferenceAny(r, p.Child("resource"), b.Resource)
	case b.Service == nil:
		r.required(p, "must specify a resource or service backend")
	default:
		if b.Service.Name == "" {
			r.required(p.Child("service", "name"), "")
		} else {
			r.each(p.Child("service", "name"), b.Service.Name, validation.IsDNS1035Label(b.Service.Name))
		}
		port, at := b.Service.Port, p.Child("service", "port")
		switch {
		case port.Name != "" && port.Number != 0:
			r.invalid(p, "", "cannot set both port name & port number")
		case port.Name == "" && port.Number == 0:
			r.required(p, "port name or number is required")
		case port.Name != "":
			r.each(at.Child("name"), port.Name, validation.IsValidPortName(port.Name))
		default:
			r.each(at.Child("number"), port.Number, validation.IsValidPortNum(int(port.Number)))
		}
	}
}

func typedReferenceAny(r *report, p *field.Path, t *corev1.TypedLocalObjectReference) {
	if t.APIGroup != nil {
		dnsSubdomain(r, p.Child("apiGroup"), *t.APIGroup)
	}
	segment(r, p.Child("kind"), t.Kind)
	segment(r, p.Child("name"), t.Name)
}

func segment(r *report, p *field.Path, value string) {
	if value == "" {
		r.required(p, "")
		return
	}
	r.each(p, value, path.IsValidPathSegmentName(value))
}

func ingressStatus(i, _ *networkingv1.Ingress) field.ErrorList {
	r := &report{}
	for n, in := range i.Status.LoadBalancer.Ingress {
		at := field.NewPath("status", "loadBalancer", "ingress").Index(n)
		if in.IP != "" {
			ip(r, at.Child("ip"), in.IP)
		}
		if in.Hostname != "" {
			dnsSubdomain(r, at.Child("hostname"), in.Hostname)
			if isAddress(in.Hostname) {
				r.invalid(at.Child("hostname"), in.Hostname, "must be a DNS name, not an IP address")
			}
		}
	}
	return r.list
}

// maxControllerName bounds the name of an ingress controller.
const maxControllerName = 250

func ingressClassCreate(c *networkingv1.IngressClass) field.ErrorList {
	r := &report{}
	p := field.NewPath("spec")
	if len(c.Spec.Controller) > maxControllerName {
		r.add(field.TooLong(p.Child("controller"), c.Spec.Controller, maxControllerName))
	}
	r.list = append(r.list, domainPath(p.Child("controller"), c.Spec.Controller)...)
	if q := c.Spec.Parameters; q != nil {
		at := p.Child("parameters")
		if q.APIGroup != nil {
			dnsSubdomain(r, at.Child("apiGroup"), *q.APIGroup)
		}
		segment(r, at.Child("kind"), q.Kind)
		segment(r, at.Child("name"), q.Name)
		if q.Scope == nil {
			r.required(at.Child("scope"), "")
		} else {
			optionalOneOf(r, at.Child("scope"), q.Scope, networkingv1.IngressClassParametersReferenceScopeCluster, networkingv1.IngressClassParametersReferenceScopeNamespace)
			namespaced := *q.Scope == networkingv1.IngressClassParametersReferenceScopeNamespace
			switch {
			case namespaced && (q.Namespace == nil || *q.Namespace == ""):
				r.required(at.Child("namespace"), "`parameters.scope` is set to 'Namespace'")
			case namespaced:
				dnsLabel(r, at.Child("namespace"), *q.Namespace)
			case q.Namespace != nil:
				r.forbidden(at.Child("namespace"), "`parameters.scope` is set to 'Cluster'")
			}
		}
	}
	return r.list
}

func ingressClassUpdate(c, old *networkingv1.IngressClass) field.ErrorList {
	r := &report{list: ingressClassCreate(c)}
	immutable(r, field.NewPath("spec", "controller"), c.Spec.Controller, old.Spec.Controller, func(a, b string) bool { return a == b })
	return r.list
}

func networkPolicyCreate(n *networkingv1.NetworkPolicy) field.ErrorList {
	r := &report{}
	p := field.NewPath("spec")
	selector(r, p.Child("podSelector"), &n.Spec.PodSelector)
	for i := range n.Spec.Ingress {
		at := p.Child("ingress").Index(i)
		policyPorts(r, at.Child("ports"), n.Spec.Ingress[i].Ports)
		policyPeers(r, at.Child("from"), n.Spec.Ingress[i].From)
	}
	for i := range n.Spec.Egress {
		at := p.Child("egress").Index(i)
		policyPorts(r, at.Child("ports"), n.Spec.Egress[i].Ports)
		policyPeers(r, at.Child("to"), n.Spec.Egress[i].To)
	}
	types := p.Child("policyTypes")
	if len(n.Spec.PolicyTypes) > 2 {
		r.invalid(types, n.Spec.PolicyTypes, "may not specify more than two policyTypes")
		return r.list
	}
	for i, t := range n.Spec.PolicyTypes {
		oneOf(r, types.Index(i), t, true, networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress)
	}
	return r.list
}

func policyPorts(r *report, p *field.Path, ports []networkingv1.NetworkPolicyPort) {
	for i, port := range ports {
		at := p.Index(i)
		optionalOneOf(r, at.Child("protocol"), port.Protocol, corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)
		if port.Port == nil {
			if port.EndPort != nil {
				r.invalid(at.Child("endPort"), *port.EndPort, "may not be specified when `port` is not specified")
			}
			continue
		}
		portNumberOrName(r, at.Child("port"), *port.Port)
		if port.EndPort == nil {
			continue
		}
		end := at.Child("endPort")
		if port.Port.Type != intstr.Int {
			r.invalid(end, *port.EndPort, "may not be specified when `port` is non-numeric")
			continue
		}
		if *port.EndPort < port.Port.IntVal {
			r.invalid(end, *port.EndPort, "must be greater than or equal to `port`")
		}
		r.each(end, *port.EndPort, validation.IsValidPortNum(int(*port.EndPort)))
	}
}

func policyPeers(r *report, p *field.Path, peers []networkingv1.NetworkPolicyPeer) {
	for i, peer := range peers {
		at := p.Index(i)
		n := 0
		if peer.PodSelector != nil {
			n++
			selector(r, at.Child("podSelector"), peer.PodSelector)
		}
		if peer.NamespaceSelector != nil {
			n++
			selector(r, at.Child("namespaceSelector"), peer.NamespaceSelector)
		}
		if peer.IPBlock != nil {
			ipBlock(r, at.Child("ipBlock"), peer.IPBlock)
		}
		switch {
		case n == 0 && peer.IPBlock == nil:
			r.required(at, "must specify a peer")
		case n > 0 && peer.IPBlock != nil:
			r.forbidden(at, "may not specify both ipBlock and another peer")
		}
	}
}

func ipBlock(r *report, p *field.Path, b *networkingv1.IPBlock) {
	if b.CIDR == "" {
		r.required(p.Child("cidr"), "")
		return
	}
	errs := validation.IsValidCIDRForLegacyField(p.Child("cidr"), b.CIDR, true, nil)
	r.list = append(r.list, errs...)
	whole, err := netip.ParsePrefix(b.CIDR)
	if err != nil {
		return
	}
	for i, e := range b.Except {
		at := p.Child("except").Index(i)
		r.list = append(r.list, validation.IsValidCIDRForLegacyField(at, e, true, nil)...)
		part, err := netip.ParsePrefix(e)
		if err != nil {
			continue
		}
		if !whole.Contains(part.Addr()) || part.Bits() <= whole.Bits() {
			r.invalid(at, e, "must be a strict subset of `cidr`")
		}
	}
}

func ipAddressCreate(a *networkingv1.IPAddress) field.ErrorList {
	r := &report{}
	name := field.NewPath("metadata", "name")
	if parsed, err := netip.ParseAddr(a.Name); err != nil || parsed.String() != a.Name {
		r.invalid(name, a.Name, "must be an IP address in canonical form")
	}
	p := field.NewPath("spec", "parentRef")
	ref := a.Spec.ParentRef
	if ref == nil {
		r.required(p, "")
		return r.list
	}
	if ref.Group != "" {
		dnsSubdomain(r, p.Child("group"), ref.Group)
	}
	segment(r, p.Child("resource"), ref.Resource)
	segment(r, p.Child("name"), ref.Name)
	if ref.Namespace != "" {
		dnsLabel(r, p.Child("namespace"), ref.Namespace)
	}
	return r.list
}

func ipAddressUpdate(a, old *networkingv1.IPAddress) field.ErrorList {
	r := &report{}
	immutable(r, field.NewPath("spec", "parentRef"), a.Spec.ParentRef, old.Spec.ParentRef, func(a, b *networkingv1.ParentReference) bool { return equality.Semantic.DeepEqual(a, b) })
	return r.list
}

func serviceCIDRCreate(c *networkingv1.ServiceCIDR) field.ErrorList {
	r := &report{}
	p := field.NewPath("spec", "cidrs")
	switch n := len(c.Spec.CIDRs); {
	case n == 0:
		r.required(p, "at least one CIDR required")
		return r.list
	case n > 2:
		r.invalid(p, c.Spec, "may only hold up to 2 values")
		return r.list
	}
	families := sets.New[bool]()
	for i, text := range c.Spec.CIDRs {
		r.list = append(r.list, validation.IsValidCIDR(p.Index(i), text)...)
		if prefix, err := netip.ParsePrefix(text); err == nil {
			if families.Has(prefix.Addr().Is4()) {
				r.invalid(p, c.Spec, "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64")
			}
			families.Insert(prefix.Addr().Is4())
		}
	}
	return r.list
}

// serviceCIDRUpdate: a second family may be added; what Services were given from stays.
func serviceCIDRUpdate(c, old *networkingv1.ServiceCIDR) field.ErrorList {
	r := &report{}
	p := field.NewPath("spec", "cidrs")
	switch {
	case len(old.Spec.CIDRs) == 1 && len(c.Spec.CIDRs) == 2:
		r.list = serviceCIDRCreate(c)
		if c.Spec.CIDRs[0] != old.Spec.CIDRs[0] {
			r.invalid(p.Index(0), c.Spec.CIDRs[0], "field is immutable")
		}
	case !equality.Semantic.DeepEqual(c.Spec.CIDRs, old.Spec.CIDRs):
		r.invalid(p, c.Spec.CIDRs, "field is immutable")
	}
	return r.list
}
