package validation

import (
	"net/netip"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

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
