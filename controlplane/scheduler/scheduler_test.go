package scheduler

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"
	"k8s.io/utils/ptr"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type cluster struct {
	*fake.Clientset
	t *testing.T
}

// start runs a scheduler on a fake API that carries out bindings, until the test ends.
func start(t *testing.T, objs ...runtime.Object) *cluster {
	t.Helper()
	c := &cluster{fake.NewClientset(objs...), t}
	c.PrependReactor("create", "pods", func(a k8stesting.Action) (bool, runtime.Object, error) {
		if a.GetSubresource() != "binding" {
			return false, nil, nil
		}
		b := a.(k8stesting.CreateAction).GetObject().(*v1.Binding)
		gvr := v1.SchemeGroupVersion.WithResource("pods")
		obj, err := c.Tracker().Get(gvr, a.GetNamespace(), b.Name)
		if err != nil {
			return true, nil, err
		}
		pod := obj.(*v1.Pod).DeepCopy()
		pod.Spec.NodeName = b.Target.Name
		return true, b, c.Tracker().Update(gvr, pod, a.GetNamespace())
	})
	ctx, cancel := context.WithCancel(t.Context())
	inf := informers.NewSharedInformerFactory(c, 0)
	var done sync.WaitGroup
	done.Go(func() {
		if err := Run(ctx, Config{Client: c, Informers: inf}); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	t.Cleanup(func() { cancel(); done.Wait(); inf.Shutdown() })
	return c
}

func node(name, cpu string, change ...func(*v1.Node)) *v1.Node {
	n := &v1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{v1.LabelHostname: name}},
		Status: v1.NodeStatus{Allocatable: v1.ResourceList{
			v1.ResourceCPU: resource.MustParse(cpu), v1.ResourceMemory: resource.MustParse("4Gi"), v1.ResourcePods: resource.MustParse("110"),
		}},
	}
	for _, f := range change {
		f(n)
	}
	return n
}

func pod(name, cpu string, change ...func(*v1.Pod)) *v1.Pod {
	p := &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: types.UID(name)},
		Spec: v1.PodSpec{SchedulerName: v1.DefaultSchedulerName, Containers: []v1.Container{{
			Name: "c", Image: "i", Resources: v1.ResourceRequirements{Requests: v1.ResourceList{v1.ResourceCPU: resource.MustParse(cpu)}},
		}}},
	}
	for _, f := range change {
		f(p)
	}
	return p
}

func (c *cluster) create(p *v1.Pod) {
	c.t.Helper()
	if _, err := c.CoreV1().Pods(p.Namespace).Create(c.t.Context(), p, metav1.CreateOptions{}); err != nil {
		c.t.Fatal(err)
	}
}

// eventually polls, since the fake API has no other way to say that something happened.
func (c *cluster) eventually(name, what string, ok func(*v1.Pod) bool) *v1.Pod {
	c.t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		p, err := c.CoreV1().Pods("default").Get(c.t.Context(), name, metav1.GetOptions{})
		if err == nil && ok(p) {
			return p
		}
		if time.Now().After(deadline) {
			c.t.Fatalf("pod %s: never saw %s; last: node %q, conditions %+v, err %v", name, what, p.Spec.NodeName, p.Status.Conditions, err)
		}
		time.Sleep(2 * time.Millisecond)
	}
}

func bound(node string) func(*v1.Pod) bool {
	return func(p *v1.Pod) bool { return p.Spec.NodeName == node }
}

func refused(parts ...string) func(*v1.Pod) bool {
	return func(p *v1.Pod) bool {
		for _, c := range p.Status.Conditions {
			if c.Type == v1.PodScheduled && c.Status == v1.ConditionFalse && c.Reason == v1.PodReasonUnschedulable {
				for _, s := range parts {
					if !strings.Contains(c.Message, s) {
						return false
					}
				}
				return true
			}
		}
		return false
	}
}

func TestPodGoesWhereItFits(t *testing.T) {
	c := start(t,
		node("small", "1"),
		node("cordoned", "8", func(n *v1.Node) { n.Spec.Unschedulable = true }),
		node("tainted", "8", func(n *v1.Node) { n.Spec.Taints = []v1.Taint{{Key: "k", Effect: v1.TaintEffectNoSchedule}} }),
		node("fine", "4", func(n *v1.Node) { n.Labels["disk"] = "ssd" }),
	)
	c.create(pod("big", "3"))
	c.eventually("big", "node fine", bound("fine"))
	c.create(pod("picky", "100m", func(p *v1.Pod) { p.Spec.NodeSelector = map[string]string{"disk": "ssd"} }))
	c.eventually("picky", "node fine", bound("fine"))
	c.create(pod("tolerant", "6", func(p *v1.Pod) { p.Spec.Tolerations = []v1.Toleration{{Key: "k", Operator: v1.TolerationOpExists}} }))
	c.eventually("tolerant", "node tainted", bound("tainted"))
	hostPort := func(p *v1.Pod) { p.Spec.Containers[0].Ports = []v1.ContainerPort{{HostPort: 80, ContainerPort: 80}} }
	c.create(pod("port1", "100m", hostPort))
	first := c.eventually("port1", "a node", func(p *v1.Pod) bool { return p.Spec.NodeName != "" })
	c.create(pod("port2", "100m", hostPort))
	second := c.eventually("port2", "a node", func(p *v1.Pod) bool { return p.Spec.NodeName != "" })
	if first.Spec.NodeName == second.Spec.NodeName {
		t.Errorf("both pods with host port 80 went to %q", first.Spec.NodeName)
	}
}

func TestUnschedulablePodSaysWhyAndGoesOnceItCan(t *testing.T) {
	c := start(t, node("a", "1"))
	c.create(pod("p", "2"))
	c.eventually("p", "the reason", refused("0/1 nodes are available: 1 Insufficient cpu.", "preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."))
	if _, err := c.CoreV1().Nodes().Create(t.Context(), node("b", "4"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.eventually("p", "node b", bound("b"))
}

func TestWithoutNodesPodWaitsForTheFirst(t *testing.T) {
	c := start(t)
	c.create(pod("p", "1"))
	c.eventually("p", "the reason", refused("no nodes available to schedule pods"))
	if _, err := c.CoreV1().Nodes().Create(t.Context(), node("a", "4", func(n *v1.Node) {
		n.Spec.Taints = []v1.Taint{{Key: v1.TaintNodeNotReady, Effect: v1.TaintEffectNoSchedule}}
	}), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.eventually("p", "the taint", refused("node(s) had untolerated taint {node.kubernetes.io/not-ready: }"))
	if _, err := c.CoreV1().Nodes().Update(t.Context(), node("a", "4"), metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.eventually("p", "node a", bound("a"))
}

func TestGatesHoldAPodBack(t *testing.T) {
	c := start(t, node("a", "4"))
	gated := pod("p", "1", func(p *v1.Pod) { p.Spec.SchedulingGates = []v1.PodSchedulingGate{{Name: "g"}} })
	c.create(gated)
	c.create(pod("after", "1"))
	c.eventually("after", "node a", bound("a"))
	c.eventually("p", "no node", bound(""))
	if _, err := c.CoreV1().Pods("default").Update(t.Context(), pod("p", "1", func(p *v1.Pod) { p.ResourceVersion = "2" }), metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	c.eventually("p", "node a", bound("a"))
}

func TestHigherPriorityEvicts(t *testing.T) {
	c := start(t, node("a", "2"),
		pod("low", "2", func(p *v1.Pod) { p.Spec.NodeName = "a"; p.Spec.Priority = ptr.To[int32](0) }))
	c.create(pod("high", "1", func(p *v1.Pod) { p.Spec.Priority = ptr.To[int32](1000) }))
	c.eventually("high", "node a", bound("a"))
	if _, err := c.CoreV1().Pods("default").Get(t.Context(), "low", metav1.GetOptions{}); err == nil {
		t.Error("the victim is still there")
	}
}

func TestAntiAffinityAndSpread(t *testing.T) {
	c := start(t, node("a", "8"), node("b", "8"), node("c", "8"))
	app := func(p *v1.Pod) {
		p.Labels = map[string]string{"app": "x"}
		p.Spec.Affinity = &v1.Affinity{PodAntiAffinity: &v1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []v1.PodAffinityTerm{{
			LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "x"}}, TopologyKey: v1.LabelHostname,
		}}}}
	}
	seen := map[string]bool{}
	for i := range 3 {
		name := fmt.Sprintf("anti%d", i)
		c.create(pod(name, "1", app))
		seen[c.eventually(name, "a node", func(p *v1.Pod) bool { return p.Spec.NodeName != "" }).Spec.NodeName] = true
	}
	if len(seen) != 3 {
		t.Errorf("pods that repel each other share nodes: %v", seen)
	}
	c.create(pod("anti3", "1", app))
	c.eventually("anti3", "the reason", refused("3 node(s) didn't match pod anti-affinity rules"))

	spread := func(p *v1.Pod) {
		p.Labels = map[string]string{"app": "y"}
		p.Spec.TopologySpreadConstraints = []v1.TopologySpreadConstraint{{
			MaxSkew: 1, TopologyKey: v1.LabelHostname, WhenUnsatisfiable: v1.DoNotSchedule,
			LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "y"}},
		}}
	}
	per := map[string]int{}
	for i := range 6 {
		name := fmt.Sprintf("spread%d", i)
		c.create(pod(name, "100m", spread))
		per[c.eventually(name, "a node", func(p *v1.Pod) bool { return p.Spec.NodeName != "" }).Spec.NodeName]++
	}
	for n, k := range per {
		if k != 2 {
			t.Errorf("node %s holds %d of 6 spread pods, want 2: %v", n, k, per)
		}
	}
}

func TestConfigNamesWhatIsWrong(t *testing.T) {
	err := Run(t.Context(), Config{PercentageOfNodesToScore: 101})
	for _, want := range []string{"Client is required", "Informers is required", "percentageOfNodesToScore: 101"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v does not say %q", err, want)
		}
	}
}

// The path from a watch event to the POST of the binding must cost far less than the pod's start.
func BenchmarkScheduleOne(b *testing.B) {
	objs := []runtime.Object{}
	for i := range 10 {
		objs = append(objs, node(fmt.Sprint("n", i), "1000"))
	}
	client := fake.NewClientset(objs...)
	boundCh := make(chan struct{}, 1)
	client.PrependReactor("create", "pods", func(a k8stesting.Action) (bool, runtime.Object, error) {
		if a.GetSubresource() != "binding" {
			return false, nil, nil
		}
		boundCh <- struct{}{}
		return true, &v1.Binding{}, nil
	})
	ctx, cancel := context.WithCancel(b.Context())
	inf := informers.NewSharedInformerFactory(client, 0)
	var done sync.WaitGroup
	done.Go(func() { _ = Run(ctx, Config{Client: client, Informers: inf}) })
	b.Cleanup(func() { cancel(); done.Wait(); inf.Shutdown() })
	for i := 0; b.Loop(); i++ {
		p := pod(fmt.Sprint("p", i), "1m")
		if _, err := client.CoreV1().Pods("default").Create(ctx, p, metav1.CreateOptions{}); err != nil {
			b.Fatal(err)
		}
		<-boundCh
	}
}
