package validation

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func tolerations(r *report, p *field.Path, list []corev1.Toleration) {
	for i := range list {
		t, at := &list[i], p.Index(i)
		if t.Key != "" {
			qualifiedName(r, at.Child("key"), t.Key)
		} else if t.Operator != corev1.TolerationOpExists {
			r.invalid(at.Child("operator"), t.Operator, "operator must be Exists when `key` is empty, which means \"match all values and all keys\"")
		}
		if t.TolerationSeconds != nil && t.Effect != corev1.TaintEffectNoExecute {
			r.invalid(at.Child("effect"), t.Effect, "effect must be 'NoExecute' when `tolerationSeconds` is set")
		}
		switch t.Operator {
		case corev1.TolerationOpEqual, "":
			r.each(at.Child("operator"), t.Value, validation.IsValidLabelValue(t.Value))
		case corev1.TolerationOpExists:
			if t.Value != "" {
				r.invalid(at.Child("operator"), *t, "value must be empty when `operator` is 'Exists'")
			}
		default:
			r.add(field.NotSupported(at.Child("operator"), t.Operator, []corev1.TolerationOperator{corev1.TolerationOpEqual, corev1.TolerationOpExists}))
		}
		taintEffect(r, at.Child("effect"), t.Effect, true)
	}
}

// taintEffect checks an effect; a toleration may leave it out to tolerate all.
func taintEffect(r *report, p *field.Path, e corev1.TaintEffect, mayBeEmpty bool) {
	oneOf(r, p, e, !mayBeEmpty, corev1.TaintEffectNoSchedule, corev1.TaintEffectPreferNoSchedule, corev1.TaintEffectNoExecute)
}

func affinity(r *report, p *field.Path, a *corev1.Affinity) {
	if a == nil {
		return
	}
	if n := a.NodeAffinity; n != nil {
		nodeAffinity(r, p.Child("nodeAffinity"), n)
	}
	if a.PodAffinity != nil {
		podAffinity(r, p.Child("podAffinity"), a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution, a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	if a.PodAntiAffinity != nil {
		podAffinity(r, p.Child("podAntiAffinity"), a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution, a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
	}
}

func nodeAffinity(r *report, p *field.Path, n *corev1.NodeAffinity) {
	if n.RequiredDuringSchedulingIgnoredDuringExecution != nil {
		nodeSelector(r, p.Child("requiredDuringSchedulingIgnoredDuringExecution"), n.RequiredDuringSchedulingIgnoredDuringExecution)
	}
	for i := range n.PreferredDuringSchedulingIgnoredDuringExecution {
		term, at := &n.PreferredDuringSchedulingIgnoredDuringExecution[i], p.Child("preferredDuringSchedulingIgnoredDuringExecution").Index(i)
		weight(r, at.Child("weight"), term.Weight)
		nodeSelectorTerm(r, at.Child("preference"), &term.Preference)
	}
}

func weight(r *report, p *field.Path, w int32) {
	if w <= 0 || w > 100 {
		r.invalid(p, w, "must be in the range 1-100")
	}
}

func nodeSelector(r *report, p *field.Path, s *corev1.NodeSelector) {
	at := p.Child("nodeSelectorTerms")
	if len(s.NodeSelectorTerms) == 0 {
		r.required(at, "must have at least one node selector term")
	}
	for i := range s.NodeSelectorTerms {
		nodeSelectorTerm(r, at.Index(i), &s.NodeSelectorTerms[i])
	}
}

func nodeSelectorTerm(r *report, p *field.Path, t *corev1.NodeSelectorTerm) {
	for i := range t.MatchExpressions {
		nodeExpression(r, p.Child("matchExpressions").Index(i), &t.MatchExpressions[i])
	}
	for i := range t.MatchFields {
		nodeField(r, p.Child("matchFields").Index(i), &t.MatchFields[i])
	}
}

func nodeExpression(r *report, p *field.Path, e *corev1.NodeSelectorRequirement) {
	switch e.Operator {
	case corev1.NodeSelectorOpIn, corev1.NodeSelectorOpNotIn:
		if len(e.Values) == 0 {
			r.required(p.Child("values"), "must be specified when `operator` is 'In' or 'NotIn'")
		}
	case corev1.NodeSelectorOpExists, corev1.NodeSelectorOpDoesNotExist:
		if len(e.Values) > 0 {
			r.forbidden(p.Child("values"), "may not be specified when `operator` is 'Exists' or 'DoesNotExist'")
		}
	case corev1.NodeSelectorOpGt, corev1.NodeSelectorOpLt:
		if len(e.Values) != 1 {
			r.required(p.Child("values"), "must be specified single value when `operator` is 'Lt' or 'Gt'")
		}
	default:
		r.invalid(p.Child("operator"), e.Operator, "not a valid selector operator")
	}
	qualifiedName(r, p.Child("key"), e.Key)
	for i, v := range e.Values {
		r.each(p.Child("values").Index(i), v, validation.IsValidLabelValue(v))
	}
}

func nodeField(r *report, p *field.Path, e *corev1.NodeSelectorRequirement) {
	switch e.Operator {
	case corev1.NodeSelectorOpIn, corev1.NodeSelectorOpNotIn:
		if len(e.Values) != 1 {
			r.required(p.Child("values"), "must be only one value when `operator` is 'In' or 'NotIn' for node field selector")
		}
	default:
		r.invalid(p.Child("operator"), e.Operator, "not a valid selector operator")
	}
	if e.Key != metav1.ObjectNameField {
		r.invalid(p.Child("key"), e.Key, "not a valid field selector key")
		return
	}
	for i, v := range e.Values {
		dnsSubdomain(r, p.Child("values").Index(i), v)
	}
}

func podAffinity(r *report, p *field.Path, must []corev1.PodAffinityTerm, prefer []corev1.WeightedPodAffinityTerm) {
	for i := range must {
		podAffinityTerm(r, p.Child("requiredDuringSchedulingIgnoredDuringExecution").Index(i), &must[i])
	}
	for i := range prefer {
		at := p.Child("preferredDuringSchedulingIgnoredDuringExecution").Index(i)
		weight(r, at.Child("weight"), prefer[i].Weight)
		podAffinityTerm(r, at.Child("podAffinityTerm"), &prefer[i].PodAffinityTerm)
	}
}

func podAffinityTerm(r *report, p *field.Path, t *corev1.PodAffinityTerm) {
	selector(r, p.Child("labelSelector"), t.LabelSelector)
	selector(r, p.Child("namespaceSelector"), t.NamespaceSelector)
	for _, name := range t.Namespaces {
		dnsLabel(r, p.Child("namespaces"), name)
	}
	matchKeys(r, p, t)
	if t.TopologyKey == "" {
		r.required(p.Child("topologyKey"), "can not be empty")
		return
	}
	qualifiedName(r, p.Child("topologyKey"), t.TopologyKey)
}

// matchKeys checks matchLabelKeys and mismatchLabelKeys: real labels, not in both lists, with a selector to add to. Their
// values are merged into the selector when the pod is created, so that a key there may be theirs.
func matchKeys(r *report, p *field.Path, t *corev1.PodAffinityTerm) {
	for name, keys := range sorted(map[string][]string{"matchLabelKeys": t.MatchLabelKeys, "mismatchLabelKeys": t.MismatchLabelKeys}) {
		if len(keys) == 0 {
			continue
		}
		if t.LabelSelector == nil {
			r.forbidden(p.Child(name), "must not be specified when labelSelector is not set")
		}
		for i, key := range keys {
			qualifiedName(r, p.Child(name).Index(i), key)
		}
	}
	for i, key := range t.MatchLabelKeys {
		if slices.Contains(t.MismatchLabelKeys, key) {
			r.invalid(p.Child("matchLabelKeys").Index(i), key, "exists in both matchLabelKeys and mismatchLabelKeys")
		}
	}
}

func topologySpread(r *report, p *field.Path, list []corev1.TopologySpreadConstraint) {
	seen := sets.New[string]()
	for i := range list {
		c, at := &list[i], p.Index(i)
		if c.MaxSkew <= 0 {
			r.invalid(at.Child("maxSkew"), c.MaxSkew, "must be greater than zero")
		}
		if c.TopologyKey == "" {
			r.required(at.Child("topologyKey"), "can not be empty")
		} else {
			qualifiedName(r, at.Child("topologyKey"), c.TopologyKey)
		}
		if c.WhenUnsatisfiable != corev1.DoNotSchedule && c.WhenUnsatisfiable != corev1.ScheduleAnyway {
			r.add(field.NotSupported(at.Child("whenUnsatisfiable"), c.WhenUnsatisfiable,
				[]corev1.UnsatisfiableConstraintAction{corev1.DoNotSchedule, corev1.ScheduleAnyway}))
		}
		pair := fmt.Sprintf("{%v, %v}", c.TopologyKey, c.WhenUnsatisfiable)
		if seen.Has(pair) {
			r.duplicate(at.Child("{topologyKey, whenUnsatisfiable}"), pair)
		}
		seen.Insert(pair)
		if d := c.MinDomains; d != nil {
			if *d <= 0 {
				r.invalid(at.Child("minDomains"), *d, "must be greater than zero")
			}
			if c.WhenUnsatisfiable != corev1.DoNotSchedule {
				r.invalid(at.Child("minDomains"), *d, "can only use minDomains if whenUnsatisfiable=DoNotSchedule, not "+string(c.WhenUnsatisfiable))
			}
		}
		optionalOneOf(r, at.Child("nodeAffinityPolicy"), c.NodeAffinityPolicy, corev1.NodeInclusionPolicyIgnore, corev1.NodeInclusionPolicyHonor)
		optionalOneOf(r, at.Child("nodeTaintsPolicy"), c.NodeTaintsPolicy, corev1.NodeInclusionPolicyIgnore, corev1.NodeInclusionPolicyHonor)
		selector(r, at.Child("labelSelector"), c.LabelSelector)
		spreadKeys(r, at.Child("matchLabelKeys"), c)
	}
}

func spreadKeys(r *report, p *field.Path, c *corev1.TopologySpreadConstraint) {
	if len(c.MatchLabelKeys) == 0 {
		return
	}
	if c.LabelSelector == nil {
		r.forbidden(p, "must not be specified when labelSelector is not set")
	}
	for i, key := range c.MatchLabelKeys {
		qualifiedName(r, p.Index(i), key)
		if c.LabelSelector == nil {
			continue
		}
		// The value is merged into the selector as an expression on creation; a label there is the author's own.
		if _, own := c.LabelSelector.MatchLabels[key]; own {
			r.invalid(p.Index(i), key, "exists in both matchLabelKeys and labelSelector")
		}
	}
}

func schedulingGates(r *report, p *field.Path, list []corev1.PodSchedulingGate) {
	seen := sets.New[string]()
	for i, g := range list {
		at := p.Index(i)
		if g.Name == "" {
			r.required(at, "must not be empty")
			continue
		}
		for _, m := range validation.IsQualifiedName(g.Name) {
			r.invalid(at.Child("name"), g.Name, m)
		}
		if seen.Has(g.Name) {
			r.duplicate(at, g.Name)
		}
		seen.Insert(g.Name)
	}
}

func readinessGates(r *report, p *field.Path, list []corev1.PodReadinessGate) {
	for i, g := range list {
		qualifiedName(r, p.Index(i).Child("conditionType"), string(g.ConditionType))
	}
}

// selectsTemplate reports a template whose labels its controller's selector does not match.
func selectsTemplate(r *report, p *field.Path, s labels.Selector, template map[string]string) {
	if !s.Matches(labels.Set(template)) {
		r.invalid(p.Child("metadata", "labels"), template, "`selector` does not match template `labels`")
	}
}
