package validation

import (
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func roleCreate(role *rbacv1.Role) field.ErrorList {
	r := &report{}
	policyRules(r, role.Rules, true)
	return r.list
}

func clusterRoleCreate(role *rbacv1.ClusterRole) field.ErrorList {
	r := &report{}
	policyRules(r, role.Rules, false)
	if a := role.AggregationRule; a != nil {
		p := field.NewPath("aggregationRule", "clusterRoleSelectors")
		if len(a.ClusterRoleSelectors) == 0 {
			r.required(p, "at least one clusterRoleSelector required if aggregationRule is non-nil")
		}
		for i := range a.ClusterRoleSelectors {
			selector(r, p.Index(i), &a.ClusterRoleSelectors[i])
		}
	}
	return r.list
}

func policyRules(r *report, rules []rbacv1.PolicyRule, namespaced bool) {
	for i, rule := range rules {
		p := field.NewPath("rules").Index(i)
		if len(rule.Verbs) == 0 {
			r.required(p.Child("verbs"), "verbs must contain at least one value")
		}
		if len(rule.NonResourceURLs) > 0 {
			if namespaced {
				r.invalid(p.Child("nonResourceURLs"), rule.NonResourceURLs, "namespaced rules cannot apply to non-resource URLs")
			}
			if len(rule.APIGroups)+len(rule.Resources)+len(rule.ResourceNames) > 0 {
				r.invalid(p.Child("nonResourceURLs"), rule.NonResourceURLs, "rules cannot apply to both regular resources and non-resource URLs")
			}
			continue
		}
		if len(rule.APIGroups) == 0 {
			r.required(p.Child("apiGroups"), "resource rules must supply at least one api group")
		}
		if len(rule.Resources) == 0 {
			r.required(p.Child("resources"), "resource rules must supply at least one resource")
		}
	}
}

func roleBindingCreate(b *rbacv1.RoleBinding) field.ErrorList {
	r := &report{}
	roleRef(r, b.RoleRef, "Role", "ClusterRole")
	subjects(r, b.Subjects, true)
	return r.list
}

func clusterRoleBindingCreate(b *rbacv1.ClusterRoleBinding) field.ErrorList {
	r := &report{}
	roleRef(r, b.RoleRef, "ClusterRole")
	subjects(r, b.Subjects, false)
	return r.list
}

func roleRef(r *report, ref rbacv1.RoleRef, kinds ...string) {
	p := field.NewPath("roleRef")
	if ref.APIGroup != rbacv1.GroupName {
		r.add(field.NotSupported(p.Child("apiGroup"), ref.APIGroup, []string{rbacv1.GroupName}))
	}
	known := false
	for _, k := range kinds {
		known = known || ref.Kind == k
	}
	if !known {
		r.add(field.NotSupported(p.Child("kind"), ref.Kind, kinds))
	}
	segment(r, p.Child("name"), ref.Name)
}

func subjects(r *report, list []rbacv1.Subject, namespaced bool) {
	for i, s := range list {
		p := field.NewPath("subjects").Index(i)
		if s.Name == "" {
			r.required(p.Child("name"), "")
		}
		switch s.Kind {
		case rbacv1.ServiceAccountKind:
			if s.Name != "" {
				dnsSubdomain(r, p.Child("name"), s.Name)
			}
			if s.APIGroup != "" {
				r.add(field.NotSupported(p.Child("apiGroup"), s.APIGroup, []string{""}))
			}
			if !namespaced && s.Namespace == "" {
				r.required(p.Child("namespace"), "")
			}
		case rbacv1.UserKind, rbacv1.GroupKind:
			if s.APIGroup != rbacv1.GroupName {
				r.add(field.NotSupported(p.Child("apiGroup"), s.APIGroup, []string{rbacv1.GroupName}))
			}
		default:
			r.add(field.NotSupported(p.Child("kind"), s.Kind, []string{rbacv1.ServiceAccountKind, rbacv1.UserKind, rbacv1.GroupKind}))
		}
	}
}

// roleBindingUpdate: who may bind a role was checked for the role that is bound; it stays.
func roleBindingUpdate(b, old *rbacv1.RoleBinding) field.ErrorList {
	r := &report{list: roleBindingCreate(b)}
	sameRole(r, b.RoleRef, old.RoleRef)
	return r.list
}

func clusterRoleBindingUpdate(b, old *rbacv1.ClusterRoleBinding) field.ErrorList {
	r := &report{list: clusterRoleBindingCreate(b)}
	sameRole(r, b.RoleRef, old.RoleRef)
	return r.list
}

func sameRole(r *report, now, was rbacv1.RoleRef) {
	if now != was {
		r.invalid(field.NewPath("roleRef"), now, "cannot change roleRef")
	}
}
