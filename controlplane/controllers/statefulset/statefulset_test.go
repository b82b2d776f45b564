package statefulset

import (
	"fmt"
	"testing"

	"go.uber.org/goleak"
	appsv1 "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"

	"github.com/reevehq/reeve/controlplane/controllers/looptest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// readyAll plays the kubelet; it is an error if some pod was not ready yet.
func readyAll(t *testing.T, c *looptest.Cluster) error {
	list, err := c.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		return err
	}
	for i := range list.Items {
		p := &list.Items[i]
		if p.Status.Phase != v1.PodRunning {
			p.Status.Phase, p.Status.Conditions = v1.PodRunning, []v1.PodCondition{{Type: v1.PodReady, Status: v1.ConditionTrue}}
			_, uerr := c.CoreV1().Pods("default").UpdateStatus(t.Context(), p, metav1.UpdateOptions{})
			err = fmt.Errorf("%s was not ready (%v)", p.Name, uerr)
		}
	}
	return err
}

func TestPodsKeepNamesAndClaimsThroughARollout(t *testing.T) {
	c := looptest.New(t, sts(3, func(s *appsv1.StatefulSet) {
		s.Spec.Template.Spec.Containers = []v1.Container{{Name: "c", Image: "one"}}
		s.Spec.VolumeClaimTemplates = []v1.PersistentVolumeClaim{{ObjectMeta: metav1.ObjectMeta{Name: "data"}}}
	}))
	c.Run(New(c.Env))
	settle := func(image string) {
		t.Helper()
		c.Eventually("three pods of image "+image, func() error {
			if err := readyAll(t, c); err != nil {
				return err
			}
			for i := range 3 {
				p, err := c.CoreV1().Pods("default").Get(t.Context(), fmt.Sprintf("db-%d", i), metav1.GetOptions{})
				if err != nil {
					return err
				}
				if got := p.Spec.Containers[0].Image; got != image {
					return fmt.Errorf("db-%d has image %s", i, got)
				}
				if p.Spec.Hostname != p.Name || p.Spec.Subdomain != "db" || p.Spec.Volumes[0].PersistentVolumeClaim.ClaimName != "data-"+p.Name {
					t.Fatalf("identity of %s: %+v", p.Name, p.Spec)
				}
			}
			return nil
		})
	}
	settle("one")
	if err := retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		set, err := c.AppsV1().StatefulSets("default").Get(t.Context(), "db", metav1.GetOptions{})
		if err != nil {
			return err
		}
		set.Spec.Template.Spec.Containers[0].Image = "two"
		_, err = c.AppsV1().StatefulSets("default").Update(t.Context(), set, metav1.UpdateOptions{})
		return err
	}); err != nil {
		t.Fatal(err)
	}
	settle("two")
	claims, err := c.CoreV1().PersistentVolumeClaims("default").List(t.Context(), metav1.ListOptions{})
	if err != nil || len(claims.Items) != 3 {
		t.Errorf("%d claims, %v; want 3", len(claims.Items), err)
	}
	revisions, err := c.AppsV1().ControllerRevisions("default").List(t.Context(), metav1.ListOptions{})
	if err != nil || len(revisions.Items) != 2 {
		t.Errorf("%d revisions, %v; want 2", len(revisions.Items), err)
	}
}
