package rbac

import (
	"context"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/reevehq/reeve/controlplane/authz"
)

func rule(verbs, resources string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: strings.Split(verbs, ","), APIGroups: []string{"", rbacv1.GroupName}, Resources: strings.Split(resources, ",")}
}

func role(name string, rules ...rbacv1.PolicyRule) *rbacv1.ClusterRole {
	return &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: rules}
}

func give(name, role string) *rbacv1.ClusterRoleBinding {
	return &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: name + "-" + role},
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: name}}}
}

func giveIn(ns, name, role string) *rbacv1.RoleBinding {
	b := give(name, role)
	return &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: b.Name}, RoleRef: b.RoleRef, Subjects: b.Subjects}
}

func guard(t *testing.T, objs ...runtime.Object) *Guard {
	t.Helper()
	shared := informers.NewSharedInformerFactory(fake.NewClientset(objs...), 0)
	a, rules, err := authz.New(authz.Config{Informers: shared})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(func() { cancel(); shared.Shutdown() })
	shared.StartWithContext(ctx)
	shared.WaitForCacheSync(ctx.Done())
	return NewGuard(a, rules)
}

func as(name string, groups ...string) context.Context {
	return request.WithUser(request.WithNamespace(context.Background(), "shop"), &user.DefaultInfo{Name: name, Groups: groups})
}

func TestNobodyGrantsMoreThanHeHolds(t *testing.T) {
	g := guard(t,
		role("reader", rule("get,list", "pods")), role("all-pods", rule("*", "pods")),
		role("root", rbacv1.PolicyRule{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}}, rbacv1.PolicyRule{Verbs: []string{"*"}, NonResourceURLs: []string{"*"}}),
		role("escalator", rule("escalate", "roles,clusterroles")), role("binder", rbacv1.PolicyRule{
			Verbs: []string{"bind"}, APIGroups: []string{rbacv1.GroupName}, Resources: []string{"clusterroles"}, ResourceNames: []string{"root"}}),
		give("reader", "reader"), giveIn("shop", "shopper", "all-pods"), give("root", "root"), give("escalator", "escalator"), giveIn("shop", "binder", "binder"),
	)
	roleWith := func(r ...rbacv1.PolicyRule) *rbacv1.Role {
		return &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "new"}, Rules: r}
	}
	sum := role("sum")
	sum.AggregationRule = &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{{MatchLabels: map[string]string{"a": "b"}}}}
	missing := give("x", "nowhere")

	for _, c := range []struct {
		name string
		ctx  context.Context
		obj  runtime.Object
		want bool
	}{
		{"what one holds", as("reader"), roleWith(rule("get", "pods")), true},
		{"more verbs", as("reader"), roleWith(rule("get,delete", "pods")), false},
		{"other resources", as("reader"), roleWith(rule("get", "secrets")), false},
		{"everything", as("reader"), roleWith(rule("*", "*")), false},
		{"held in the namespace", as("shopper"), roleWith(rule("delete", "pods")), true},
		{"held in the namespace, granted everywhere", as("shopper"), role("new", rule("delete", "pods")), false},
		{"held in one namespace, granted in another", as("shopper"), &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Namespace: "bank", Name: "n"}, Rules: []rbacv1.PolicyRule{rule("delete", "pods")}}, false},
		{"escalate", as("escalator"), role("new", rule("*", "*")), true},
		{"system:masters", as("jane", user.SystemPrivilegedGroup), role("new", rule("*", "*")), true},
		{"binds what it holds", as("reader"), giveIn("shop", "x", "reader"), true},
		{"binds more", as("reader"), giveIn("shop", "x", "all-pods"), false},
		{"binds root to itself", as("reader"), give("reader", "root"), false},
		{"escalate is not bind", as("escalator"), give("escalator", "root"), false},
		{"bind in its namespace", as("binder"), giveIn("shop", "x", "root"), true},
		{"bind everywhere", as("binder"), give("x", "root"), false},
		{"bind a role that it may not", as("binder"), giveIn("shop", "x", "all-pods"), false},
		{"a role that is not there", as("reader"), missing, false},
		{"root binds a role that is not there yet", as("root"), missing, true},
		{"a sum of unknown roles", as("reader"), sum, false},
		{"a sum, by root", as("root"), sum, true},
	} {
		err := g.Check(c.ctx, c.obj, nil)
		if (err == nil) != c.want || err != nil && !apierrors.IsForbidden(err) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

func TestUpdatesThatChangeNoRightsPass(t *testing.T) {
	g := guard(t, role("root", rule("*", "*")))
	was := role("big", rule("*", "*"))
	same := was.DeepCopy()
	same.Labels = map[string]string{"x": "y"}
	if err := g.Check(as("nobody"), same, was); err != nil {
		t.Errorf("a new label grants nothing: %v", err)
	}
	more := was.DeepCopy()
	more.Rules = append(more.Rules, rule("get", "x"))
	if err := g.Check(as("nobody"), more, was); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "is attempting to grant RBAC permissions not currently held") {
		t.Errorf("more rules: %v", err)
	}
	binding := give("x", "root")
	labelled := binding.DeepCopy()
	labelled.Annotations = map[string]string{"x": "y"}
	if err := g.Check(as("nobody"), labelled, binding); err != nil {
		t.Errorf("a new annotation binds nobody: %v", err)
	}
	another := binding.DeepCopy()
	another.Subjects = append(another.Subjects, rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: "User", Name: "nobody"})
	if err := g.Check(as("nobody"), another, binding); !apierrors.IsForbidden(err) {
		t.Errorf("one more subject: %v", err)
	}
}
