package authz

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	rbacinformers "k8s.io/client-go/informers/rbac/v1"
	rbaclisters "k8s.io/client-go/listers/rbac/v1"
	"k8s.io/client-go/tools/cache"
)

// subjectIndex finds bindings by who they bind, so that a request costs as many look-ups as its user has groups,
// however many bindings the cluster has.
const subjectIndex = "reeve/subject"

// Rules is RBAC: an authorizer and a rule resolver over the roles and bindings in informers. Safe for concurrent use.
type Rules struct {
	roles               rbaclisters.RoleLister
	clusterRoles        rbaclisters.ClusterRoleLister
	roleBindings        cache.Indexer
	clusterRoleBindings cache.Indexer
}

var (
	_ authorizer.Authorizer   = (*Rules)(nil)
	_ authorizer.RuleResolver = (*Rules)(nil)
)

// NewRules adds its index to the informers, which must not have been started.
func NewRules(informers rbacinformers.Interface) (*Rules, error) {
	crb, rb := informers.ClusterRoleBindings().Informer(), informers.RoleBindings().Informer()
	if err := crb.AddIndexers(cache.Indexers{subjectIndex: func(obj any) ([]string, error) {
		b, ok := obj.(*rbacv1.ClusterRoleBinding)
		if !ok {
			return nil, nil
		}
		return subjectKeys(b.Subjects, ""), nil
	}}); err != nil {
		return nil, fmt.Errorf("index ClusterRoleBindings by subject: %w", err)
	}
	if err := rb.AddIndexers(cache.Indexers{subjectIndex: func(obj any) ([]string, error) {
		b, ok := obj.(*rbacv1.RoleBinding)
		if !ok {
			return nil, nil
		}
		keys := subjectKeys(b.Subjects, b.Namespace)
		for i, k := range keys {
			keys[i] = b.Namespace + "\x00" + k
		}
		return keys, nil
	}}); err != nil {
		return nil, fmt.Errorf("index RoleBindings by subject: %w", err)
	}
	return &Rules{
		roles:               informers.Roles().Lister(),
		clusterRoles:        informers.ClusterRoles().Lister(),
		roleBindings:        rb.GetIndexer(),
		clusterRoleBindings: crb.GetIndexer(),
	}, nil
}

const (
	userKey  = "u:"
	groupKey = "g:"
)

// subjectKeys: a service account is indexed as the user that it authenticates as. Subjects of foreign API groups bind
// nobody.
func subjectKeys(subjects []rbacv1.Subject, defaultNamespace string) []string {
	keys := make([]string, 0, len(subjects))
	for _, s := range subjects {
		switch {
		case s.Kind == rbacv1.UserKind && s.APIGroup == rbacv1.GroupName:
			keys = append(keys, userKey+s.Name)
		case s.Kind == rbacv1.GroupKind && s.APIGroup == rbacv1.GroupName:
			keys = append(keys, groupKey+s.Name)
		case s.Kind == rbacv1.ServiceAccountKind && s.APIGroup == "":
			ns := s.Namespace
			if ns == "" {
				ns = defaultNamespace
			}
			if ns != "" {
				keys = append(keys, userKey+serviceaccount.MakeUsername(ns, s.Name))
			}
		}
	}
	return keys
}

// source is a binding that gave rules, for the reason in audit logs.
type source struct{ binding, role string }

// each yields the rules of every role bound to u: cluster-wide ones and, with a namespace, that namespace's. A role that
// cannot be found yields an error and no rules; the walk goes on, as one dangling binding must not lock others out.
func (r *Rules) each(u user.Info, namespace string) iter.Seq2[bindingRules, error] {
	return func(yield func(bindingRules, error) bool) {
		keys := make([]string, 0, 1+len(u.GetGroups()))
		keys = append(keys, userKey+u.GetName())
		for _, g := range u.GetGroups() {
			keys = append(keys, groupKey+g)
		}
		for _, k := range keys {
			objs, err := r.clusterRoleBindings.ByIndex(subjectIndex, k)
			if err != nil {
				yield(bindingRules{}, fmt.Errorf("find ClusterRoleBindings: %w", err))
				return
			}
			for _, obj := range objs {
				b := obj.(*rbacv1.ClusterRoleBinding)
				rules, err := r.roleRules(b.RoleRef, "")
				if !yield(bindingRules{source{"ClusterRoleBinding " + b.Name, b.RoleRef.Kind + " " + b.RoleRef.Name}, rules}, err) {
					return
				}
			}
		}
		if namespace == "" {
			return
		}
		for _, k := range keys {
			objs, err := r.roleBindings.ByIndex(subjectIndex, namespace+"\x00"+k)
			if err != nil {
				yield(bindingRules{}, fmt.Errorf("find RoleBindings: %w", err))
				return
			}
			for _, obj := range objs {
				b := obj.(*rbacv1.RoleBinding)
				rules, err := r.roleRules(b.RoleRef, namespace)
				if !yield(bindingRules{source{"RoleBinding " + b.Namespace + "/" + b.Name, b.RoleRef.Kind + " " + b.RoleRef.Name}, rules}, err) {
					return
				}
			}
		}
	}
}

type bindingRules struct {
	source
	rules []rbacv1.PolicyRule
}

// RoleRules are the rules of the role that ref names; namespace is that of the binding, empty for a
// ClusterRoleBinding. NotFound API error when there is no such role.
func (r *Rules) RoleRules(ref rbacv1.RoleRef, namespace string) ([]rbacv1.PolicyRule, error) {
	return r.roleRules(ref, namespace)
}

func (r *Rules) roleRules(ref rbacv1.RoleRef, namespace string) ([]rbacv1.PolicyRule, error) {
	switch ref.Kind {
	case "Role":
		if namespace == "" {
			return nil, fmt.Errorf("a cluster-wide binding refers to Role %q: it must be a ClusterRole", ref.Name)
		}
		role, err := r.roles.Roles(namespace).Get(ref.Name)
		if err != nil {
			return nil, err
		}
		return role.Rules, nil
	case "ClusterRole":
		role, err := r.clusterRoles.Get(ref.Name)
		if err != nil {
			return nil, err
		}
		return role.Rules, nil
	}
	return nil, fmt.Errorf("roleRef.kind %q is unknown: it must be Role or ClusterRole", ref.Kind)
}

// Authorize allows what a bound role allows and has no opinion on the rest.
func (r *Rules) Authorize(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	u := a.GetUser()
	if u == nil {
		return authorizer.DecisionNoOpinion, "", nil
	}
	var errs []error
	for b, err := range r.each(u, a.GetNamespace()) {
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if Allows(a, b.rules) {
			return authorizer.DecisionAllow, fmt.Sprintf("RBAC: allowed by %s of %s", b.binding, b.role), nil
		}
	}
	reason := ""
	if len(errs) > 0 {
		reason = "RBAC: " + strings.ReplaceAll(errors.Join(errs...).Error(), "\n", "; ")
	}
	return authorizer.DecisionNoOpinion, reason, nil
}

// PolicyRules are all RBAC rules that u has in namespace (and cluster-wide). The error joins what could not be
// resolved; the rules beside it still hold.
func (r *Rules) PolicyRules(_ context.Context, u user.Info, namespace string) ([]rbacv1.PolicyRule, error) {
	var rules []rbacv1.PolicyRule
	var errs []error
	for b, err := range r.each(u, namespace) {
		if err != nil {
			errs = append(errs, err)
			continue
		}
		rules = append(rules, b.rules...)
	}
	return rules, errors.Join(errs...)
}

// errNodeRules tells a node that its rules depend on the pods that it runs.
var errNodeRules = errors.New("what the Node authorizer allows depends on the node's pods and is not listed")

// RulesFor implements authorizer.RuleResolver for SelfSubjectRulesReview. For a node's agent the list is incomplete.
func (r *Rules) RulesFor(ctx context.Context, u user.Info, namespace string) ([]authorizer.ResourceRuleInfo, []authorizer.NonResourceRuleInfo, bool, error) {
	policy, err := r.PolicyRules(ctx, u, namespace)
	if _, node := NodeName(u); node {
		err = errors.Join(err, errNodeRules)
	}
	var resource []authorizer.ResourceRuleInfo
	var nonResource []authorizer.NonResourceRuleInfo
	for i := range policy {
		p := &policy[i]
		if len(p.Resources) > 0 {
			resource = append(resource, &authorizer.DefaultResourceRuleInfo{
				Verbs: p.Verbs, APIGroups: p.APIGroups, Resources: p.Resources, ResourceNames: p.ResourceNames})
		}
		if len(p.NonResourceURLs) > 0 {
			nonResource = append(nonResource, &authorizer.DefaultNonResourceRuleInfo{
				Verbs: p.Verbs, NonResourceURLs: p.NonResourceURLs})
		}
	}
	return resource, nonResource, err != nil, err
}
