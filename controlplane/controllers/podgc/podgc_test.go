package podgc

import (
	"fmt"
	"slices"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestPlan(t *testing.T) {
	pod := func(name, node string, phase v1.PodPhase, deleting bool, age int) *v1.Pod {
		p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.Unix(int64(1000-age), 0)}, Spec: v1.PodSpec{NodeName: node}, Status: v1.PodStatus{Phase: phase}}
		if deleting {
			p.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)}
		}
		return p
	}
	up := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "up"}, Status: v1.NodeStatus{Conditions: []v1.NodeCondition{{Type: v1.NodeReady, Status: v1.ConditionTrue}}}}
	out := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "out"}, Spec: v1.NodeSpec{Taints: []v1.Taint{{Key: v1.TaintNodeOutOfService}}}}
	nodes := map[string]*v1.Node{"up": up, "out": out}
	pods := []*v1.Pod{
		pod("fine", "up", v1.PodRunning, false, 0), pod("terminating", "up", v1.PodRunning, true, 0), pod("waiting", "", v1.PodPending, false, 0),
		pod("unscheduled-deleted", "", v1.PodPending, true, 0), pod("orphan", "gone", v1.PodRunning, false, 0), pod("maybe-orphan", "blinked", v1.PodRunning, false, 0),
		pod("out-of-service", "out", v1.PodRunning, true, 0), pod("out-but-not-deleted", "out", v1.PodRunning, false, 0),
		pod("done-new", "up", v1.PodSucceeded, false, 1), pod("done-old", "up", v1.PodFailed, false, 9), pod("done-mid", "up", v1.PodSucceeded, false, 5),
	}
	var got []string
	for _, d := range plan(pods, func(n string) *v1.Node { return nodes[n] }, func(n string) bool { return n == "gone" }, 2) {
		got = append(got, d.pod.Name)
		if (d.reason != "") != (d.pod.Name == "orphan") {
			t.Errorf("%s: condition %q", d.pod.Name, d.reason)
		}
	}
	want := []string{"unscheduled-deleted", "orphan", "out-of-service", "done-old"}
	if !slices.Equal(got, want) {
		t.Errorf("plan %s, want %s", fmt.Sprint(got), fmt.Sprint(want))
	}
}
