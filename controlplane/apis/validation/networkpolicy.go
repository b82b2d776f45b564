package validation

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

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
