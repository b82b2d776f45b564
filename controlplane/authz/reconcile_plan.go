package authz

import (
	"maps"
	"slices"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/auth/rbac/validation"
)

// locked: whoever sets the annotation to "false" keeps the object as it is.
func locked(m *metav1.ObjectMeta) bool {
	return m.Annotations[rbacv1.AutoUpdateAnnotationKey] == "false"
}

// addMeta copies missing labels and annotations from want to have; it never changes a value that is there.
func addMeta(have *metav1.ObjectMeta, want *metav1.ObjectMeta) (changed bool) {
	add := func(have *map[string]string, want map[string]string) {
		for k, v := range want {
			if _, ok := (*have)[k]; ok {
				continue
			}
			if *have == nil {
				*have = map[string]string{}
			}
			(*have)[k] = v
			changed = true
		}
	}
	add(&have.Labels, want.Labels)
	add(&have.Annotations, want.Annotations)
	return changed
}

func addRules(have *[]rbacv1.PolicyRule, want []rbacv1.PolicyRule) (changed bool) {
	ok, missing := validation.Covers(*have, want)
	if ok {
		return false
	}
	*have = append(slices.Clone(*have), missing...)
	return true
}

func addSubjects(have *[]rbacv1.Subject, want []rbacv1.Subject) (changed bool) {
	for _, s := range want {
		if !slices.Contains(*have, s) {
			*have = append(slices.Clone(*have), s)
			changed = true
		}
	}
	return changed
}

// planClusterRole returns live brought up to want, additively, or nil when there is nothing to do.
func planClusterRole(want, live *rbacv1.ClusterRole) *rbacv1.ClusterRole {
	if locked(&live.ObjectMeta) {
		return nil
	}
	next := live.DeepCopy()
	changed := addMeta(&next.ObjectMeta, &want.ObjectMeta)
	if want.AggregationRule == nil {
		changed = addRules(&next.Rules, want.Rules) || changed
	} else { // its rules belong to the aggregation controller
		if next.AggregationRule == nil {
			next.AggregationRule = &rbacv1.AggregationRule{}
		}
		for _, s := range want.AggregationRule.ClusterRoleSelectors {
			if !slices.ContainsFunc(next.AggregationRule.ClusterRoleSelectors, func(have metav1.LabelSelector) bool {
				return equality.Semantic.DeepEqual(have, s)
			}) {
				next.AggregationRule.ClusterRoleSelectors = append(next.AggregationRule.ClusterRoleSelectors, s)
				changed = true
			}
		}
	}
	if !changed {
		return nil
	}
	return next
}

func planRole(want, live *rbacv1.Role) *rbacv1.Role {
	if locked(&live.ObjectMeta) {
		return nil
	}
	next := live.DeepCopy()
	changed := addMeta(&next.ObjectMeta, &want.ObjectMeta)
	if !(addRules(&next.Rules, want.Rules) || changed) {
		return nil
	}
	return next
}

// planClusterRoleBinding: recreate says that live must be deleted first, as a roleRef cannot be changed.
func planClusterRoleBinding(want, live *rbacv1.ClusterRoleBinding) (next *rbacv1.ClusterRoleBinding, recreate bool) {
	if locked(&live.ObjectMeta) {
		return nil, false
	}
	if live.RoleRef != want.RoleRef {
		next = want.DeepCopy()
		addSubjects(&next.Subjects, live.Subjects)
		return next, true
	}
	next = live.DeepCopy()
	changed := addMeta(&next.ObjectMeta, &want.ObjectMeta)
	if !(addSubjects(&next.Subjects, want.Subjects) || changed) {
		return nil, false
	}
	return next, false
}

func planRoleBinding(want, live *rbacv1.RoleBinding) (next *rbacv1.RoleBinding, recreate bool) {
	if locked(&live.ObjectMeta) {
		return nil, false
	}
	if live.RoleRef != want.RoleRef {
		next = want.DeepCopy()
		addSubjects(&next.Subjects, live.Subjects)
		return next, true
	}
	next = live.DeepCopy()
	changed := addMeta(&next.ObjectMeta, &want.ObjectMeta)
	if !(addSubjects(&next.Subjects, want.Subjects) || changed) {
		return nil, false
	}
	return next, false
}

// seedAggregates fills the rules of the aggregated roles with what they will sum up to, so that admin, edit and view
// work from the first moment; from then on the aggregation controller keeps them.
func seedAggregates(roles []rbacv1.ClusterRole) {
	var sum func(name string, seen map[string]bool) []rbacv1.PolicyRule
	sum = func(name string, seen map[string]bool) []rbacv1.PolicyRule {
		var rules []rbacv1.PolicyRule
		for i := range roles {
			r := &roles[i]
			if r.Labels[aggregateLabelPrefix+name] != "true" || seen[r.Name] {
				continue
			}
			seen[r.Name] = true
			rules = append(rules, r.Rules...)
			if r.AggregationRule != nil {
				rules = append(rules, sum(r.Name, seen)...)
			}
		}
		return rules
	}
	seeded := map[string][]rbacv1.PolicyRule{}
	for i := range roles {
		if roles[i].AggregationRule != nil {
			seeded[roles[i].Name] = sum(roles[i].Name, map[string]bool{})
		}
	}
	for name := range maps.Keys(seeded) {
		for i := range roles {
			if roles[i].Name == name {
				roles[i].Rules = seeded[name]
			}
		}
	}
}
