package state

import (
	"fmt"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

func node(name, zone string) *v1.Node {
	return &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{v1.LabelTopologyZone: zone}},
		Status: v1.NodeStatus{Allocatable: v1.ResourceList{v1.ResourceCPU: resource.MustParse("4")}, Images: []v1.ContainerImage{{Names: []string{"img:1"}, SizeBytes: 100}}}}
}

func pod(name, on, cpu string, port int32) *v1.Pod {
	return &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: types.UID(name)}, Spec: v1.PodSpec{NodeName: on, Containers: []v1.Container{{
		Resources: v1.ResourceRequirements{Requests: v1.ResourceList{v1.ResourceCPU: resource.MustParse(cpu)}}, Ports: []v1.ContainerPort{{HostPort: port}},
	}}}}
}

func TestSumsComeBackToZero(t *testing.T) {
	c := NewCache()
	c.SetPod(pod("early", "n", "1", 0)) // before its node
	c.SetNode(node("n", "z"))
	if err := c.AssumePod(pod("a", "n", "500m", 80)); err != nil {
		t.Fatal(err)
	}
	if err := c.AssumePod(pod("a", "n", "500m", 80)); err == nil {
		t.Error("a pod was assumed twice")
	}
	n := c.NodeInfo("n")
	if got := n.GetRequested().GetMilliCPU(); got != 1500 || !n.GetUsedPorts().CheckConflict("", "TCP", 80) {
		t.Errorf("requested %d m, ports %v", got, n.GetUsedPorts())
	}
	c.SetPod(pod("a", "n", "250m", 81)) // confirmed, and resized meanwhile
	if c.IsAssumed("a") {
		t.Error("still assumed after the watch confirmed it")
	}
	c.ForgetPod(pod("a", "n", "250m", 81))
	if got := c.NodeInfo("n").GetRequested().GetMilliCPU(); got != 1250 {
		t.Errorf("forgetting a confirmed pod changed the sum to %d m", got)
	}
	c.RemovePod("a")
	c.RemovePod("early")
	n = c.NodeInfo("n")
	if n.GetRequested().GetMilliCPU() != 0 || n.GetNonZeroRequested().GetMemory() != 0 || n.GetUsedPorts().Len() != 0 || len(n.GetPods()) != 0 {
		t.Errorf("left over: %s, ports %v", n, n.GetUsedPorts())
	}
}

func TestSnapshotTakesZonesInTurnAndDoesNotChange(t *testing.T) {
	c := NewCache()
	for _, n := range []*v1.Node{node("a1", "a"), node("a2", "a"), node("a3", "a"), node("b1", "b")} {
		c.SetNode(n)
	}
	s := &Snapshot{}
	names := func() (out []string) {
		list, _ := s.List()
		for _, n := range list {
			out = append(out, n.Node().Name)
		}
		return out
	}
	c.UpdateSnapshot(s)
	if got := fmt.Sprint(names()); got != "[a1 b1 a2 a3]" {
		t.Errorf("order %s", got)
	}
	before, _ := s.Get("a1")
	c.SetPod(pod("p", "a1", "1", 0))
	if before.GetRequested().GetMilliCPU() != 0 {
		t.Error("a snapshot changed under its reader")
	}
	c.UpdateSnapshot(s)
	if after, _ := s.Get("a1"); after.GetRequested().GetMilliCPU() != 1000 {
		t.Error("an updated snapshot misses a pod")
	}
	c.RemoveNode("a1")
	c.UpdateSnapshot(s)
	if got := fmt.Sprint(names()); got != "[a2 b1 a3]" {
		t.Errorf("order after a node went: %s", got)
	}
	if _, err := s.Get("a1"); err == nil {
		t.Error("a removed node is still there")
	}
}

func TestImagesCountNodes(t *testing.T) {
	c := NewCache()
	c.SetNode(node("a", "z"))
	c.SetNode(node("b", "z"))
	if got := c.NodeInfo("b").GetImageStates()["img:1"]; got == nil || got.NumNodes != 2 {
		t.Errorf("image on two nodes: %+v", got)
	}
	c.RemoveNode("a")
	c.SetNode(node("b", "z"))
	if got := c.NodeInfo("b").GetImageStates()["img:1"]; got.NumNodes != 1 {
		t.Errorf("image on one node: %+v", got)
	}
}

func TestPodRequestFollowsTheRules(t *testing.T) {
	cpu := func(s string) v1.ResourceRequirements {
		return v1.ResourceRequirements{Requests: v1.ResourceList{v1.ResourceCPU: resource.MustParse(s)}}
	}
	p := &v1.Pod{Spec: v1.PodSpec{
		InitContainers: []v1.Container{
			{Name: "sidecar", Resources: cpu("100m"), RestartPolicy: ptr.To(v1.ContainerRestartPolicyAlways)}, {Name: "init", Resources: cpu("2")},
		},
		Containers: []v1.Container{{Name: "a", Resources: cpu("300m")}, {Name: "b", Resources: cpu("400m")}},
		Overhead:   v1.ResourceList{v1.ResourceCPU: resource.MustParse("50m")},
	}}
	if got := PodRequest(p).MilliCPU; got != 2150 { // sidecar and init at once, and the overhead
		t.Errorf("requests %d m, want 2150", got)
	}
	pi, _ := NewPodInfo(&v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{{}, {}}}})
	if r := pi.CalculateResource(); r.Non0CPU != 2*DefaultMilliCPURequest || r.Non0Mem != 2*DefaultMemoryRequest || r.Resource.GetMilliCPU() != 0 {
		t.Errorf("pod without requests: %+v", r)
	}
}
