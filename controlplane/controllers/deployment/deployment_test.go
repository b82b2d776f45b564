package deployment

import (
	"fmt"
	"testing"

	"go.uber.org/goleak"
	appsv1 "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/util/retry"

	"github.com/reevehq/reeve/controlplane/controllers/looptest"
	"github.com/reevehq/reeve/controlplane/controllers/replicaset"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// readyAll plays the kubelet: every pod runs and is ready.
func readyAll(t *testing.T, c *looptest.Cluster) {
	pods, err := c.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range pods.Items {
		p := &pods.Items[i]
		if p.Status.Phase != v1.PodRunning {
			p.Status.Phase = v1.PodRunning
			p.Status.Conditions = []v1.PodCondition{{Type: v1.PodReady, Status: v1.ConditionTrue}}
			_, _ = c.CoreV1().Pods("default").UpdateStatus(t.Context(), p, metav1.UpdateOptions{})
		}
	}
}

func images(t *testing.T, c *looptest.Cluster) map[string]int {
	pods, err := c.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]int{}
	for _, p := range pods.Items {
		out[p.Spec.Containers[0].Image]++
	}
	return out
}

func (f fixture) rolled(image string, n int) {
	f.t.Helper()
	f.Eventually(fmt.Sprintf("%d pods of image %q and no others", n, image), func() error {
		readyAll(f.t, f.Cluster)
		if got := images(f.t, f.Cluster); got[image] != n || len(got) != 1 {
			return fmt.Errorf("pods by image: %v", got)
		}
		d, err := f.AppsV1().Deployments("default").Get(f.t.Context(), "d", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if c := condition(&d.Status, appsv1.DeploymentProgressing); c == nil || c.Reason != reasonComplete {
			return fmt.Errorf("conditions: %+v", d.Status.Conditions)
		}
		return nil
	})
}

type fixture struct {
	*looptest.Cluster
	t *testing.T
}

func (f fixture) change(do func(*appsv1.Deployment)) {
	f.t.Helper()
	err := retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		d, err := f.AppsV1().Deployments("default").Get(f.t.Context(), "d", metav1.GetOptions{})
		if err != nil {
			return err
		}
		do(d)
		d.Generation++
		_, err = f.AppsV1().Deployments("default").Update(f.t.Context(), d, metav1.UpdateOptions{})
		return err
	})
	if err != nil {
		f.t.Fatal(err)
	}
}

func start(t *testing.T, d *appsv1.Deployment) fixture {
	c := looptest.New(t, d)
	c.Run(New(c.Env))
	c.Run(replicaset.New(c.Env))
	return fixture{c, t}
}

func TestRollOutAndBack(t *testing.T) {
	f := start(t, dep(4, "25%", "25%"))
	f.rolled("new", 4)
	f.change(func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = "newer" })
	f.rolled("newer", 4)
	f.change(func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = "new" })
	f.rolled("new", 4)
	sets, err := f.AppsV1().ReplicaSets("default").List(t.Context(), metav1.ListOptions{LabelSelector: labels.Everything().String()})
	if err != nil {
		t.Fatal(err)
	}
	if len(sets.Items) != 2 {
		t.Errorf("a roll-back made a ReplicaSet of its own: there are %d", len(sets.Items))
	}
	d, _ := f.AppsV1().Deployments("default").Get(t.Context(), "d", metav1.GetOptions{})
	if d.Annotations[annRevision] != "3" {
		t.Errorf("revision %q after roll-out, update and roll-back, want 3", d.Annotations[annRevision])
	}
}

func TestPausedDeploymentDoesNotRoll(t *testing.T) {
	f := start(t, dep(2, "1", "0"))
	f.rolled("new", 2)
	f.change(func(d *appsv1.Deployment) {
		d.Spec.Paused = true
		d.Spec.Template.Spec.Containers[0].Image = "newer"
	})
	f.Eventually("the pause to be noted", func() error {
		d, err := f.AppsV1().Deployments("default").Get(t.Context(), "d", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if c := condition(&d.Status, appsv1.DeploymentProgressing); c == nil || c.Reason != reasonPaused {
			return fmt.Errorf("conditions: %+v", d.Status.Conditions)
		}
		return nil
	})
	f.change(func(d *appsv1.Deployment) { d.Spec.Replicas = new(int32); *d.Spec.Replicas = 3 })
	f.Eventually("scaling while paused", func() error {
		if got := images(t, f.Cluster); got["new"] != 3 || got["newer"] != 0 {
			return fmt.Errorf("pods by image: %v", got)
		}
		return nil
	})
	f.change(func(d *appsv1.Deployment) { d.Spec.Paused = false })
	f.rolled("newer", 3)
}

func TestRecreateNeverRunsTwoGenerations(t *testing.T) {
	d := dep(3, "1", "1")
	d.Spec.Strategy = appsv1.DeploymentStrategy{Type: appsv1.RecreateDeploymentStrategyType}
	f := start(t, d)
	f.rolled("new", 3)
	f.change(func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = "newer" })
	f.Eventually("the new generation", func() error {
		got := images(t, f.Cluster)
		if got["new"] > 0 && got["newer"] > 0 {
			t.Fatalf("both generations run: %v", got)
		}
		if got["newer"] != 3 {
			return fmt.Errorf("pods by image: %v", got)
		}
		return nil
	})
}
