package admit

import (
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/utils/ptr"
)

// sized is a pod that requests, and for "G" limits, so much CPU (milli) and memory (Mi).
func sized(name, class, cpu, memory string) *v1.Pod {
	p := &v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{{Name: "c"}}}}
	p.Name = name
	if class == "E" {
		return p
	}
	l := v1.ResourceList{v1.ResourceCPU: resource.MustParse(cpu), v1.ResourceMemory: resource.MustParse(memory)}
	p.Spec.Containers[0].Resources.Requests = l
	if class == "G" {
		p.Spec.Containers[0].Resources.Limits = l
	}
	return p
}

func TestPreempt(t *testing.T) {
	node := Node{Allocatable: v1.ResourceList{
		v1.ResourceCPU: resource.MustParse("1"), v1.ResourceMemory: resource.MustParse("1Gi"), v1.ResourcePods: resource.MustParse("4"),
	}}
	critical := func(cpu, memory string) *v1.Pod {
		p := sized("critical", "B", cpu, memory)
		p.Spec.Priority = ptr.To[int32](2_000_000_000)
		return p
	}
	for _, tc := range []struct {
		name   string
		active []*v1.Pod
		pod    *v1.Pod
		want   string
	}{
		{"room enough", []*v1.Pod{sized("a", "B", "100m", "100Mi")}, critical("100m", "100Mi"), ""},
		{"burstable before guaranteed", []*v1.Pod{sized("g", "G", "500m", "500Mi"), sized("b", "B", "500m", "500Mi")}, critical("300m", "300Mi"), "b"},
		{"one big enough rather than two", []*v1.Pod{sized("s1", "B", "200m", "100Mi"), sized("s2", "B", "200m", "100Mi"), sized("l", "B", "600m", "300Mi")}, critical("500m", "1Mi"), "l"},
		{"the smaller of two that do", []*v1.Pod{sized("l", "B", "600m", "300Mi"), sized("s", "B", "400m", "100Mi")}, critical("300m", "1Mi"), "s"},
		{"both are needed", []*v1.Pod{sized("a", "B", "500m", "1Mi"), sized("b", "B", "500m", "1Mi")}, critical("900m", "1Mi"), "a b"},
		{"a seat", []*v1.Pod{sized("e", "E", "", ""), sized("b", "B", "1m", "1Mi"), sized("g", "G", "1m", "1Mi"), sized("b2", "B", "1m", "1Mi")}, critical("1m", "1Mi"), "e"},
		{"critical ones stay", []*v1.Pod{critical("800m", "1Mi")}, critical("500m", "1Mi"), ""},
		{"never enough", []*v1.Pod{sized("a", "B", "500m", "1Mi")}, critical("2", "1Mi"), ""},
		{"not critical", []*v1.Pod{sized("a", "B", "800m", "1Mi")}, sized("p", "G", "500m", "1Mi"), ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var got []string
			for _, p := range Preempt(node, tc.active, tc.pod) {
				got = append(got, p.Name)
			}
			if s := strings.Join(got, " "); s != tc.want {
				t.Errorf("victims = %q, want %q", s, tc.want)
			}
		})
	}
}

func TestPreemptOnlyForLackOfResources(t *testing.T) {
	node := Node{Allocatable: v1.ResourceList{v1.ResourceCPU: resource.MustParse("1"), v1.ResourcePods: resource.MustParse("9")}}
	p := sized("critical", "B", "500m", "0")
	p.Spec.Priority = ptr.To[int32](2_000_000_000)
	p.Spec.OS = &v1.PodOS{Name: v1.Windows}
	if got := Preempt(node, []*v1.Pod{sized("a", "B", "800m", "0")}, p); got != nil {
		t.Errorf("victims for a pod that the node refuses anyway: %v", got)
	}
}
