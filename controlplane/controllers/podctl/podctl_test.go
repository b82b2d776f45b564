package podctl

import (
	"slices"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var now = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

type change func(*v1.Pod)

func ready(since time.Duration) change {
	return func(p *v1.Pod) {
		p.Status.Conditions = []v1.PodCondition{{Type: v1.PodReady, Status: v1.ConditionTrue, LastTransitionTime: metav1.NewTime(now.Add(-since))}}
	}
}

func cost(s string) change {
	return func(p *v1.Pod) { p.Annotations = map[string]string{v1.PodDeletionCost: s} }
}

func pod(name, node string, phase v1.PodPhase, age time.Duration, changes ...change) *v1.Pod {
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.NewTime(now.Add(-age))}, Spec: v1.PodSpec{NodeName: node}, Status: v1.PodStatus{Phase: phase}}
	for _, f := range changes {
		f(p)
	}
	return p
}

func TestVictimsCheapestFirst(t *testing.T) {
	restarted := func(p *v1.Pod) { p.Status.ContainerStatuses = []v1.ContainerStatus{{RestartCount: 5}} }
	list := []*v1.Pod{
		pod("old-ready", "n1", v1.PodRunning, 100*time.Hour, ready(99*time.Hour)),
		pod("restarted", "n1", v1.PodRunning, 100*time.Hour, ready(99*time.Hour), restarted),
		pod("just-ready", "n1", v1.PodRunning, 100*time.Hour, ready(time.Minute)),
		pod("crowded", "n2", v1.PodRunning, 100*time.Hour, ready(99*time.Hour)),
		pod("cheap", "n1", v1.PodRunning, 100*time.Hour, ready(99*time.Hour), cost("-5")),
		pod("not-ready", "n1", v1.PodRunning, 100*time.Hour),
		pod("pending", "n1", v1.PodPending, 100*time.Hour),
		pod("no-node", "", v1.PodPending, 100*time.Hour),
	}
	crowd := slices.Clone(list)
	for range 9 {
		crowd = append(crowd, pod("sibling", "n2", v1.PodRunning, time.Hour))
	}
	var got []string
	for _, p := range Victims(list, crowd, now) {
		got = append(got, p.Name)
	}
	want := []string{"no-node", "pending", "not-ready", "cheap", "crowded", "just-ready", "restarted", "old-ready"}
	if !slices.Equal(got, want) {
		t.Errorf("order %v\nwant  %v", got, want)
	}
}

func TestAvailable(t *testing.T) {
	for _, c := range []struct {
		name    string
		p       *v1.Pod
		minimum int32
		ok      bool
		left    time.Duration
	}{
		{"not ready", pod("p", "n", v1.PodRunning, 0), 0, false, 0},
		{"ready, no minimum", pod("p", "n", v1.PodRunning, 0, ready(0)), 0, true, 0},
		{"too short", pod("p", "n", v1.PodRunning, 0, ready(4*time.Second)), 10, false, 6 * time.Second},
		{"long enough", pod("p", "n", v1.PodRunning, 0, ready(10*time.Second)), 10, true, 0},
	} {
		if ok, left := Available(c.p, c.minimum, now); ok != c.ok || left != c.left {
			t.Errorf("%s: %v, %s; want %v, %s", c.name, ok, left, c.ok, c.left)
		}
	}
}

func TestFromTemplateSharesNothing(t *testing.T) {
	tpl := &v1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}}, Spec: v1.PodSpec{Containers: []v1.Container{{Name: "c"}}}}
	p := FromTemplate(tpl, "ns", "web", nil)
	p.Labels["a"], p.Spec.Containers[0].Name = "changed", "changed"
	if tpl.Labels["a"] != "b" || tpl.Spec.Containers[0].Name != "c" || p.GenerateName != "web-" || p.Namespace != "ns" {
		t.Errorf("template %+v, pod %+v", tpl, p.ObjectMeta)
	}
}
