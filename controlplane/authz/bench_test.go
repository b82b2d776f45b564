package authz

import (
	"context"
	"fmt"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
)

// A request must not cost more because other people have bindings.
func BenchmarkAuthorizeAmong5000Bindings(b *testing.B) {
	objs := policyObjects()
	for i := range 5000 {
		objs = append(objs, runtime.Object(&rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("b", i)},
			RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "view"}, Subjects: []rbacv1.Subject{asUser(fmt.Sprint("user", i))}}))
	}
	shared := informers.NewSharedInformerFactory(fake.NewClientset(objs...), 0)
	a, _, err := New(Config{Informers: shared})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer func() { cancel(); shared.Shutdown() }()
	shared.StartWithContext(ctx)
	shared.WaitForCacheSync(ctx.Done())
	r := request(&user.DefaultInfo{Name: "user77", Groups: []string{user.AllAuthenticated, "team"}}, "list", "pods", "shop/")
	for b.Loop() {
		if d, _, _ := a.Authorize(ctx, r); d != authorizer.DecisionAllow {
			b.Fatal("refused")
		}
	}
}
