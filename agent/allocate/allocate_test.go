package allocate

import (
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

func list(cpu, memory string) v1.ResourceList {
	return v1.ResourceList{v1.ResourceCPU: resource.MustParse(cpu), v1.ResourceMemory: resource.MustParse(memory)}
}

func pod(uid, cpu, memory string) *v1.Pod {
	p := &v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{{Name: "c", Resources: v1.ResourceRequirements{Requests: list(cpu, memory), Limits: list(cpu, memory)}}}}}
	p.UID, p.Name = types.UID(uid), uid
	return p
}

func TestDecide(t *testing.T) {
	node := list("2", "4Gi")
	others := []*v1.Pod{pod("o", "1", "1Gi")}
	for _, c := range []struct {
		name, cpu, memory string
		reason, message   string
	}{
		{"fits exactly", "1", "3Gi", "", ""},
		{"never", "3", "1Gi", v1.PodReasonInfeasible, "cpu, requested: 3000, capacity: 2000"},
		{"not now", "1500m", "1Gi", v1.PodReasonDeferred, "cpu, requested: 1500, used: 1000, capacity: 2000"},
		{"not now for one, never for the other", "1500m", "5Gi", v1.PodReasonInfeasible, "memory"},
	} {
		r := Decide(node, others, pod("p", c.cpu, c.memory))
		if (r == nil) != (c.reason == "") || r != nil && (r.Reason != c.reason || !strings.Contains(r.Message, c.message)) {
			t.Errorf("%s: %+v", c.name, r)
		}
	}
}

func TestBookSurvives(t *testing.T) {
	b := NewBook()
	changed := 0
	b.Changed = func() { changed++ }
	b.Give(pod("p", "1", "1Gi"))
	b.Give(pod("p", "1000m", "1024Mi"))
	if changed != 1 {
		t.Errorf("%d changes, want 1: the same amounts in other words are no news", changed)
	}
	next := NewBook()
	if err := next.Restore(b.Checkpoint()); err != nil {
		t.Fatal(err)
	}
	bigger := pod("p", "2", "1Gi")
	got, differs := next.Allocated(bigger)
	if q := got.Spec.Containers[0].Resources.Requests.Cpu(); !differs || q.MilliValue() != 1000 {
		t.Errorf("allocated %v, differs %v", q, differs)
	}
	if bigger.Spec.Containers[0].Resources.Requests.Cpu().MilliValue() != 2000 {
		t.Error("the object itself was changed")
	}
	next.Forget("p")
	if _, differs := next.Allocated(bigger); differs {
		t.Error("a forgotten pod still differs")
	}
	for _, bad := range []string{"", "{}", `{"version":2}`} {
		if NewBook().Restore([]byte(bad)) == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestStatusTellsWithoutABook(t *testing.T) {
	p := pod("p", "2", "1Gi")
	p.Status.ContainerStatuses = []v1.ContainerStatus{{Name: "c", State: v1.ContainerState{Running: &v1.ContainerStateRunning{}},
		AllocatedResources: list("1", "1Gi"), Resources: &v1.ResourceRequirements{Requests: list("1", "1Gi"), Limits: list("1", "1Gi")}}}
	got, differs := NewBook().Allocated(p)
	if !differs || got.Spec.Containers[0].Resources.Limits.Cpu().MilliValue() != 1000 {
		t.Errorf("allocated %+v", got.Spec.Containers[0].Resources)
	}
}

func TestTurn(t *testing.T) {
	a, b, c := pod("burstable", "1", "1Gi"), pod("guaranteed", "1", "1Gi"), pod("important", "1", "1Gi")
	c.Spec.Priority = ptr.To[int32](5)
	pods := []*v1.Pod{a, b, c}
	Turn(pods, func(p *v1.Pod) v1.PodQOSClass {
		if p == b {
			return v1.PodQOSGuaranteed
		}
		return v1.PodQOSBurstable
	})
	if pods[0] != c || pods[1] != b || pods[2] != a {
		t.Errorf("order %s %s %s", pods[0].Name, pods[1].Name, pods[2].Name)
	}
}
