package authz

import (
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// Allows says whether one of rules permits the request.
func Allows(a authorizer.Attributes, rules []rbacv1.PolicyRule) bool {
	for i := range rules {
		if allows(a, &rules[i]) {
			return true
		}
	}
	return false
}

func allows(a authorizer.Attributes, r *rbacv1.PolicyRule) bool {
	if !has(r.Verbs, a.GetVerb(), rbacv1.VerbAll) {
		return false
	}
	if !a.IsResourceRequest() {
		return urlMatches(r.NonResourceURLs, a.GetPath())
	}
	return has(r.APIGroups, a.GetAPIGroup(), rbacv1.APIGroupAll) &&
		resourceMatches(r.Resources, a.GetResource(), a.GetSubresource()) &&
		(len(r.ResourceNames) == 0 || slices.Contains(r.ResourceNames, a.GetName()))
}

func has(list []string, want, all string) bool {
	for _, v := range list {
		if v == want || v == all {
			return true
		}
	}
	return false
}

// resourceMatches: "*" is everything, "*/sub" that subresource of every resource, "res/sub" exactly it. A rule for "res"
// does not reach its subresources.
func resourceMatches(list []string, resource, subresource string) bool {
	for _, v := range list {
		if v == rbacv1.ResourceAll {
			return true
		}
		res, sub, _ := strings.Cut(v, "/")
		if sub == subresource && (res == resource || (res == "*" && sub != "")) {
			return true
		}
	}
	return false
}

// urlMatches: a trailing "*" matches any rest of the path.
func urlMatches(list []string, path string) bool {
	for _, v := range list {
		if v == rbacv1.NonResourceAll || v == path {
			return true
		}
		if prefix, ok := strings.CutSuffix(v, "*"); ok && strings.HasPrefix(path, prefix) {
			return true
		}
	}
	return false
}
