package rbac

import (
	"context"
	"fmt"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/component-helpers/auth/rbac/validation"
)

// Resolver knows roles and who holds what: *authz.Rules.
type Resolver interface {
	PolicyRules(ctx context.Context, u user.Info, namespace string) ([]rbacv1.PolicyRule, error)
	RoleRules(ref rbacv1.RoleRef, namespace string) ([]rbacv1.PolicyRule, error)
}

// Guard checks writes of roles and bindings.
type Guard struct {
	authz    authorizer.Authorizer
	resolver Resolver
}

// NewGuard takes who may escalate and bind from authz, and what a caller holds from resolver.
func NewGuard(authz authorizer.Authorizer, resolver Resolver) *Guard { return &Guard{authz, resolver} }

// Check judges the write of obj in place of old, which is nil for a create. It returns a Forbidden API error that lists
// what the caller lacks. Writes that change no rights pass.
func (g *Guard) Check(ctx context.Context, obj, old runtime.Object) error {
	if skips(ctx) {
		return nil
	}
	switch o := obj.(type) {
	case *rbacv1.Role:
		if was, ok := old.(*rbacv1.Role); ok && equality.Semantic.DeepEqual(was.Rules, o.Rules) {
			return nil
		}
		return g.role(ctx, "roles", o.Namespace, o.Name, o.Rules)
	case *rbacv1.ClusterRole:
		return g.clusterRole(ctx, o, old)
	case *rbacv1.RoleBinding:
		if was, ok := old.(*rbacv1.RoleBinding); ok && was.RoleRef == o.RoleRef && equality.Semantic.DeepEqual(was.Subjects, o.Subjects) {
			return nil
		}
		return g.binding(ctx, "rolebindings", o.Namespace, o.Name, o.RoleRef)
	case *rbacv1.ClusterRoleBinding:
		if was, ok := old.(*rbacv1.ClusterRoleBinding); ok && was.RoleRef == o.RoleRef && equality.Semantic.DeepEqual(was.Subjects, o.Subjects) {
			return nil
		}
		return g.binding(ctx, "clusterrolebindings", "", o.Name, o.RoleRef)
	}
	return nil
}

// skips: system:masters may do everything, and calls inside the process that come with no user are the server's own.
func skips(ctx context.Context) bool {
	u, ok := request.UserFrom(ctx)
	if !ok {
		return true
	}
	for _, group := range u.GetGroups() {
		if group == user.SystemPrivilegedGroup {
			return true
		}
	}
	return false
}

func (g *Guard) clusterRole(ctx context.Context, o *rbacv1.ClusterRole, old runtime.Object) error {
	was, update := old.(*rbacv1.ClusterRole)
	rulesChanged := !update || !equality.Semantic.DeepEqual(was.Rules, o.Rules)
	sumChanged := o.AggregationRule != nil && (!update || !equality.Semantic.DeepEqual(was.AggregationRule, o.AggregationRule))
	if sumChanged {
		// Which roles it will sum up to is open, so only who may do everything may write a new sum.
		everything := []rbacv1.PolicyRule{
			{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}},
			{Verbs: []string{"*"}, NonResourceURLs: []string{"*"}},
		}
		return g.role(ctx, "clusterroles", "", o.Name, everything)
	}
	if !rulesChanged {
		return nil
	}
	return g.role(ctx, "clusterroles", "", o.Name, o.Rules)
}

func (g *Guard) role(ctx context.Context, resource, namespace, name string, rules []rbacv1.PolicyRule) error {
	if g.may(ctx, "escalate", resource, namespace, name) {
		return nil
	}
	return g.covered(ctx, resource, namespace, name, rules)
}

func (g *Guard) binding(ctx context.Context, resource, namespace, name string, ref rbacv1.RoleRef) error {
	refResource, refNamespace := "clusterroles", ""
	if ref.Kind == "Role" {
		refResource, refNamespace = "roles", namespace
	}
	if refNamespace == "" {
		refNamespace = namespace // the right to bind a ClusterRole may be given for one namespace
	}
	if g.may(ctx, "bind", refResource, refNamespace, ref.Name) {
		return nil
	}
	rules, err := g.resolver.RoleRules(ref, namespace)
	if err != nil {
		if apierrors.IsNotFound(err) {
			return apierrors.NewForbidden(groupResource(resource), name,
				fmt.Errorf("%s %q does not exist: only who has the verb bind may refer to it", ref.Kind, ref.Name))
		}
		return apierrors.NewInternalError(fmt.Errorf("look up %s %q: %w", ref.Kind, ref.Name, err))
	}
	return g.covered(ctx, resource, namespace, name, rules)
}

func groupResource(resource string) schema.GroupResource {
	return schema.GroupResource{Group: rbacv1.GroupName, Resource: resource}
}

func (g *Guard) may(ctx context.Context, verb, resource, namespace, name string) bool {
	u, ok := request.UserFrom(ctx)
	if !ok {
		return false
	}
	decision, _, err := g.authz.Authorize(ctx, authorizer.AttributesRecord{
		User: u, Verb: verb, APIGroup: rbacv1.GroupName, APIVersion: "*", Resource: resource,
		Namespace: namespace, Name: name, ResourceRequest: true,
	})
	return err == nil && decision == authorizer.DecisionAllow
}

// covered: the caller must hold every one of rules, in the namespace or cluster-wide.
func (g *Guard) covered(ctx context.Context, resource, namespace, name string, rules []rbacv1.PolicyRule) error {
	u, _ := request.UserFrom(ctx)
	held, err := g.resolver.PolicyRules(ctx, u, namespace)
	ok, missing := validation.Covers(held, rules)
	if ok {
		return nil
	}
	lines := make([]string, 0, len(missing))
	for _, r := range missing {
		lines = append(lines, ruleText(r))
	}
	detail := fmt.Sprintf("user %q (groups=%q) is attempting to grant RBAC permissions not currently held:\n%s",
		u.GetName(), u.GetGroups(), strings.Join(lines, "\n"))
	if err != nil {
		detail += fmt.Sprintf("; resolution errors: %v", err)
	}
	return apierrors.NewForbidden(groupResource(resource), name, fmt.Errorf("%s", detail))
}

func ruleText(r rbacv1.PolicyRule) string {
	var parts []string
	for _, p := range []struct {
		name   string
		values []string
	}{{"APIGroups", r.APIGroups}, {"Resources", r.Resources}, {"ResourceNames", r.ResourceNames}, {"NonResourceURLs", r.NonResourceURLs}, {"Verbs", r.Verbs}} {
		if len(p.values) > 0 {
			parts = append(parts, fmt.Sprintf("%s:%q", p.name, p.values))
		}
	}
	return "{" + strings.Join(parts, ", ") + "}"
}

// Writer is the part of a store that Guard wraps.
type Writer interface {
	Create(ctx context.Context, obj runtime.Object, validate rest.ValidateObjectFunc, options *metav1.CreateOptions) (runtime.Object, error)
	Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, create rest.ValidateObjectFunc, update rest.ValidateObjectUpdateFunc, forceAllowCreate bool, options *metav1.UpdateOptions) (runtime.Object, bool, error)
}

// Create checks and then creates in next.
func (g *Guard) Create(ctx context.Context, next Writer, obj runtime.Object, validate rest.ValidateObjectFunc, options *metav1.CreateOptions) (runtime.Object, error) {
	if err := g.Check(ctx, withNamespace(ctx, obj), nil); err != nil {
		return nil, err
	}
	return next.Create(ctx, obj, validate, options)
}

// Update checks what would be written, inside next's transaction, and then lets it be written.
func (g *Guard) Update(ctx context.Context, next Writer, name string, info rest.UpdatedObjectInfo, create rest.ValidateObjectFunc, update rest.ValidateObjectUpdateFunc, forceAllowCreate bool, options *metav1.UpdateOptions) (runtime.Object, bool, error) {
	checked := rest.WrapUpdatedObjectInfo(info, func(ctx context.Context, obj, old runtime.Object) (runtime.Object, error) {
		m, ok := old.(metav1.Object)
		if !ok || m.GetUID() == "" { // create on update (server-side apply): there is no old one
			return obj, g.Check(ctx, withNamespace(ctx, obj), nil)
		}
		return obj, g.Check(ctx, withNamespace(ctx, obj), old)
	})
	return next.Update(ctx, name, checked, create, update, forceAllowCreate, options)
}

// withNamespace: before the store has filled it in, the namespace is only in the request.
func withNamespace(ctx context.Context, obj runtime.Object) runtime.Object {
	m, ok := obj.(metav1.Object)
	ns := request.NamespaceValue(ctx)
	if !ok || ns == "" || m.GetNamespace() == ns {
		return obj
	}
	obj = obj.DeepCopyObject()
	obj.(metav1.Object).SetNamespace(ns)
	return obj
}
