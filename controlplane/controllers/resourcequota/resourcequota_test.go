package resourcequota

import (
	"fmt"
	"testing"

	"go.uber.org/goleak"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/reevehq/reeve/controlplane/controllers/looptest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestUsageFollowsPods(t *testing.T) {
	pod := func(name string) *v1.Pod {
		return &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}, Spec: v1.PodSpec{Containers: []v1.Container{{
			Resources: v1.ResourceRequirements{Requests: v1.ResourceList{v1.ResourceCPU: resource.MustParse("500m")}},
		}}}}
	}
	c := looptest.New(t, pod("a"), pod("b"), &v1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "q", Namespace: "default"},
		Spec: v1.ResourceQuotaSpec{Hard: v1.ResourceList{v1.ResourcePods: resource.MustParse("10"), v1.ResourceRequestsCPU: resource.MustParse("4"), v1.ResourceServices: resource.MustParse("2")}}})
	c.Run(New(c.Env))
	want := func(pods, cpu string) {
		t.Helper()
		c.Eventually("usage "+pods+" "+cpu, func() error {
			q, err := c.CoreV1().ResourceQuotas("default").Get(t.Context(), "q", metav1.GetOptions{})
			if err != nil {
				return err
			}
			p, r, s := q.Status.Used[v1.ResourcePods], q.Status.Used[v1.ResourceRequestsCPU], q.Status.Used[v1.ResourceServices]
			if p.String() != pods || r.String() != cpu || s.String() != "0" || len(q.Status.Hard) != 3 {
				return fmt.Errorf("%+v", q.Status)
			}
			return nil
		})
	}
	want("2", "1")
	if err := c.CoreV1().Pods("default").Delete(t.Context(), "a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	want("1", "500m")
}
