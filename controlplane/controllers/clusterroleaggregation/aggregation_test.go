package clusterroleaggregation

import (
	"fmt"
	"testing"

	"go.uber.org/goleak"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/reevehq/reeve/controlplane/controllers/looptest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestSumFollowsItsParts(t *testing.T) {
	part := func(name string, verbs ...string) *rbacv1.ClusterRole {
		return &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"sum": "yes"}}, Rules: []rbacv1.PolicyRule{{Verbs: verbs, Resources: []string{"pods"}}}}
	}
	whole := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "whole", Labels: map[string]string{"sum": "yes"}},
		AggregationRule: &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{{MatchLabels: map[string]string{"sum": "yes"}}}}}
	c := looptest.New(t, whole, part("b", "list"), part("a", "get"), part("c", "get"))
	c.Run(New(c.Env))
	want := func(verbs string) {
		t.Helper()
		c.Eventually("verbs "+verbs, func() error {
			r, err := c.RbacV1().ClusterRoles().Get(t.Context(), "whole", metav1.GetOptions{})
			if err != nil {
				return err
			}
			var got []string
			for _, rule := range r.Rules {
				got = append(got, rule.Verbs...)
			}
			if fmt.Sprint(got) != verbs {
				return fmt.Errorf("%v", got)
			}
			return nil
		})
	}
	want("[get list]") // each rule once, in the order of names
	if err := c.RbacV1().ClusterRoles().Delete(t.Context(), "b", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	want("[get]")
}
