package replicaset

import (
	"errors"
	"fmt"
	"testing"

	"go.uber.org/goleak"
	appsv1 "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/util/retry"
	"k8s.io/utils/ptr"

	"github.com/reevehq/reeve/controlplane/controllers/looptest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func rs(replicas int32) *appsv1.ReplicaSet {
	l := map[string]string{"app": "x"}
	return &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{Name: "rs", Namespace: "default", UID: "rs", Generation: 1},
		Spec: appsv1.ReplicaSetSpec{Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: l},
			Template: v1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: l}, Spec: v1.PodSpec{Containers: []v1.Container{{Name: "c"}}}}},
	}
}

func pods(t *testing.T, c *looptest.Cluster) []v1.Pod {
	list, err := c.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return list.Items
}

func wantPods(t *testing.T, c *looptest.Cluster, n int32) {
	t.Helper()
	c.Eventually(fmt.Sprintf("%d pods", n), func() error {
		if got := len(pods(t, c)); got != int(n) {
			return fmt.Errorf("there are %d", got)
		}
		got, err := c.AppsV1().ReplicaSets("default").Get(t.Context(), "rs", metav1.GetOptions{})
		if err != nil || got.Status.Replicas != n || got.Status.FullyLabeledReplicas != n {
			return fmt.Errorf("status %+v, %v", got.Status, err)
		}
		return nil
	})
}

func TestKeepsTheNumber(t *testing.T) {
	c := looptest.New(t, rs(3))
	c.Run(New(c.Env))
	wantPods(t, c, 3)
	for _, p := range pods(t, c) {
		if !metav1.IsControlledBy(&p, rs(3)) {
			t.Errorf("pod %s is owned by %v", p.Name, p.OwnerReferences)
		}
	}
	if err := c.CoreV1().Pods("default").Delete(t.Context(), pods(t, c)[0].Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	wantPods(t, c, 3)
	for _, n := range []int32{7, 1, 0} {
		if err := retry.RetryOnConflict(retry.DefaultBackoff, func() error {
			set, err := c.AppsV1().ReplicaSets("default").Get(t.Context(), "rs", metav1.GetOptions{})
			if err != nil {
				return err
			}
			set.Spec.Replicas = &n
			_, err = c.AppsV1().ReplicaSets("default").Update(t.Context(), set, metav1.UpdateOptions{})
			return err
		}); err != nil {
			t.Fatal(err)
		}
		wantPods(t, c, n)
	}
}

// A pod that terminates slowly must not delay its replacement.
func TestReplacesATerminatingPodAtOnce(t *testing.T) {
	c := looptest.New(t, rs(1))
	c.Run(New(c.Env))
	wantPods(t, c, 1)
	p := pods(t, c)[0]
	p.DeletionTimestamp = ptr.To(metav1.Now())
	p.Finalizers = []string{"example.com/slow"}
	if _, err := c.CoreV1().Pods("default").Update(t.Context(), &p, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.Eventually("a second pod", func() error {
		if n := len(pods(t, c)); n != 2 {
			return fmt.Errorf("there are %d", n)
		}
		return nil
	})
}

func TestAdoptsOrphansInsteadOfMaking(t *testing.T) {
	orphan := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "orphan", Namespace: "default", UID: "o", Labels: map[string]string{"app": "x"}}}
	c := looptest.New(t, rs(2), orphan)
	c.Run(New(c.Env))
	wantPods(t, c, 2)
	got, err := c.CoreV1().Pods("default").Get(t.Context(), "orphan", metav1.GetOptions{})
	if err != nil || !metav1.IsControlledBy(got, rs(2)) {
		t.Errorf("orphan: owners %v, %v", got.OwnerReferences, err)
	}
}

func TestSaysThatPodsCannotBeMade(t *testing.T) {
	c := looptest.New(t, rs(2))
	c.PrependReactor("create", "pods", func(clienttesting.Action) (bool, runtime.Object, error) {
		return true, nil, errors.New("exceeded quota: q")
	})
	c.Run(New(c.Env))
	c.Eventually("the condition", func() error {
		got, err := c.AppsV1().ReplicaSets("default").Get(t.Context(), "rs", metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, cond := range got.Status.Conditions {
			if cond.Type == appsv1.ReplicaSetReplicaFailure && cond.Reason == "FailedCreate" {
				return nil
			}
		}
		return fmt.Errorf("conditions %+v", got.Status.Conditions)
	})
}
