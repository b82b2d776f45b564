package validation

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"
)

func isAddress(s string) bool {
	_, err := netip.ParseAddr(s)
	return err == nil
}

func nodeCreate(n *corev1.Node) field.ErrorList {
	r := &report{}
	nodeSpec(r, n)
	return r.list
}

func nodeSpec(r *report, n *corev1.Node) {
	p := field.NewPath("spec")
	taints(r, p.Child("taints"), n.Spec.Taints)
	cidrs := n.Spec.PodCIDRs
	if len(cidrs) == 0 && n.Spec.PodCIDR != "" {
		cidrs = []string{n.Spec.PodCIDR}
	}
	at := p.Child("podCIDRs")
	for i, c := range cidrs {
		r.list = append(r.list, validation.IsValidCIDRForLegacyField(at.Index(i), c, true, nil)...)
	}
	if len(n.Spec.PodCIDRs) > 0 && n.Spec.PodCIDR != "" && n.Spec.PodCIDRs[0] != n.Spec.PodCIDR {
		r.invalid(at.Index(0), n.Spec.PodCIDRs[0], "must match `podCIDR`")
	}
	if len(cidrs) > 1 {
		dual, err := netutils.IsDualStackCIDRStrings(cidrs)
		switch {
		case err != nil:
			r.invalid(at, cidrs, "invalid PodCIDRs: "+err.Error())
		case !dual || len(cidrs) > 2:
			r.invalid(at, cidrs, "may specify no more than one CIDR for each IP family")
		}
	}
}

// taints checks the taints of a node: no two with the same key and effect.
func taints(r *report, p *field.Path, list []corev1.Taint) {
	type identity struct {
		key    string
		effect corev1.TaintEffect
	}
	seen := sets.New[identity]()
	for i := range list {
		t, at := &list[i], p.Index(i)
		qualifiedName(r, at.Child("key"), t.Key)
		r.each(at.Child("value"), t.Value, validation.IsValidLabelValue(t.Value))
		taintEffect(r, at.Child("effect"), t.Effect, false)
		id := identity{t.Key, t.Effect}
		if seen.Has(id) {
			r.add(&field.Error{Type: field.ErrorTypeDuplicate, Field: at.String(), BadValue: *t, Detail: "taints must be unique by key and effect pair"})
		}
		seen.Insert(id)
	}
}

// nodeUpdate: what ties a node to its network and its machine is given once.
func nodeUpdate(n, old *corev1.Node) field.ErrorList {
	r := &report{}
	nodeSpec(r, n)
	nodeCapacity(r, n)
	p := field.NewPath("spec")
	if len(old.Spec.PodCIDRs) > 0 && !equality.Semantic.DeepEqual(n.Spec.PodCIDRs, old.Spec.PodCIDRs) {
		r.forbidden(p.Child("podCIDRs"), "node updates may not change podCIDR except from \"\" to valid")
	}
	if old.Spec.ProviderID != "" && n.Spec.ProviderID != old.Spec.ProviderID {
		r.forbidden(p.Child("providerID"), "node updates may not change providerID except from \"\" to valid")
	}
	if n.Spec.ConfigSource != nil && !equality.Semantic.DeepEqual(n.Spec.ConfigSource, old.Spec.ConfigSource) {
		r.forbidden(p.Child("configSource"), "configSource may not be set")
	}
	rest := n.Spec.DeepCopy()
	was := old.Spec
	rest.PodCIDR, rest.PodCIDRs, rest.ProviderID = was.PodCIDR, was.PodCIDRs, was.ProviderID
	rest.Unschedulable, rest.Taints, rest.ConfigSource = was.Unschedulable, was.Taints, was.ConfigSource
	if !equality.Semantic.DeepEqual(*rest, was) {
		r.forbidden(field.NewPath(""), "node updates may only change labels, taints, or capacity (or configSource, if the DynamicKubeletConfig feature gate is enabled)")
	}
	return r.list
}

func nodeStatus(n, _ *corev1.Node) field.ErrorList {
	r := &report{}
	nodeCapacity(r, n)
	seen := sets.New[corev1.NodeAddress]()
	for i, a := range n.Status.Addresses {
		if seen.Has(a) {
			r.duplicate(field.NewPath("status", "addresses").Index(i), a)
		}
		seen.Insert(a)
	}
	return r.list
}

func nodeCapacity(r *report, n *corev1.Node) {
	for name, list := range sorted(map[string]corev1.ResourceList{"capacity": n.Status.Capacity, "allocatable": n.Status.Allocatable}) {
		at := field.NewPath("status", name)
		for _, res := range sortedNames(list) {
			q := list[res]
			r.each(at.Key(string(res)), string(res), validation.IsQualifiedName(string(res)))
			quantityOf(r, at.Key(string(res)), res, q)
		}
	}
}
