package plugins

import (
	"context"
	"fmt"

	v1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/klog/v2"
	"k8s.io/kube-scheduler/framework"

	"github.com/reevehq/reeve/controlplane/scheduler/queue"
	"github.com/reevehq/reeve/controlplane/scheduler/state"
)

// Gates keeps pods with scheduling gates out of the ready queue.
type Gates struct{}

func (Gates) Name() string { return NameSchedulingGates }

func (Gates) PreEnqueue(_ context.Context, pod *v1.Pod) *framework.Status {
	if len(pod.Spec.SchedulingGates) == 0 {
		return nil
	}
	names := make([]string, len(pod.Spec.SchedulingGates))
	for i, g := range pod.Spec.SchedulingGates {
		names[i] = g.Name
	}
	return failForGood(fmt.Sprintf("waiting for scheduling gates: %v", names))
}

// Sort orders the ready queue: priority, then age.
type Sort struct{}

func (Sort) Name() string                           { return NamePrioritySort }
func (Sort) Less(a, b framework.QueuedPodInfo) bool { return queue.ByPriority(a, b) }

// NodeName honours a spec.nodeName that is already there.
type NodeName struct{}

func (NodeName) Name() string { return NameNodeName }

func (NodeName) Filter(_ context.Context, _ framework.CycleState, pod *v1.Pod, n framework.NodeInfo) *framework.Status {
	if pod.Spec.NodeName != "" && pod.Spec.NodeName != n.Node().Name {
		return failForGood("node(s) didn't match the requested node name")
	}
	return nil
}

func (NodeName) EventsToRegister(context.Context) ([]framework.ClusterEventWithHint, error) {
	return []framework.ClusterEventWithHint{on(framework.Node, framework.Add, nil)}, nil
}

// Unschedulable keeps pods off cordoned nodes, unless they tolerate that.
type Unschedulable struct{}

func (Unschedulable) Name() string { return NameNodeUnschedulable }

func (Unschedulable) Filter(_ context.Context, _ framework.CycleState, pod *v1.Pod, n framework.NodeInfo) *framework.Status {
	if !n.Node().Spec.Unschedulable || toleratesCordon(pod) {
		return nil
	}
	return failForGood("node(s) were unschedulable")
}

func toleratesCordon(pod *v1.Pod) bool {
	return corev1.TolerationsTolerateTaint(klog.Background(), pod.Spec.Tolerations,
		&v1.Taint{Key: v1.TaintNodeUnschedulable, Effect: v1.TaintEffectNoSchedule}, false)
}

func (Unschedulable) EventsToRegister(context.Context) ([]framework.ClusterEventWithHint, error) {
	return []framework.ClusterEventWithHint{
		on(framework.Node, framework.Add|framework.UpdateNodeTaint, func(_ klog.Logger, pod *v1.Pod, _, obj any) (framework.QueueingHint, error) {
			if n := nodeOf(obj); n != nil && n.Spec.Unschedulable && !toleratesCordon(pod) {
				return framework.QueueSkip, nil
			}
			return framework.Queue, nil
		}),
		on(framework.Pod, framework.UpdatePodToleration, nil),
	}, nil
}

// Ports keeps two pods from one host port of a node.
type Ports struct{}

func (Ports) Name() string { return NameNodePorts }

func (Ports) PreFilter(_ context.Context, _ framework.CycleState, pod *v1.Pod, _ []framework.NodeInfo) (*framework.PreFilterResult, *framework.Status) {
	if len(state.HostPorts(pod)) == 0 {
		return nil, skip()
	}
	return nil, nil
}

func (Ports) PreFilterExtensions() framework.PreFilterExtensions { return nil }

func (Ports) Filter(_ context.Context, _ framework.CycleState, pod *v1.Pod, n framework.NodeInfo) *framework.Status {
	used := n.GetUsedPorts()
	for _, p := range state.HostPorts(pod) {
		if used.CheckConflict(p.HostIP, string(p.Protocol), p.HostPort) {
			return fail("node(s) didn't have free ports for the requested pod ports")
		}
	}
	return nil
}

func (Ports) EventsToRegister(context.Context) ([]framework.ClusterEventWithHint, error) {
	return []framework.ClusterEventWithHint{
		on(framework.Pod, framework.Delete, func(_ klog.Logger, pod *v1.Pod, old, _ any) (framework.QueueingHint, error) {
			gone := podOf(old)
			if gone == nil {
				return framework.Queue, nil
			}
			used := framework.HostPortInfo{}
			for _, p := range state.HostPorts(gone) {
				used.Add(p.HostIP, string(p.Protocol), p.HostPort)
			}
			for _, p := range state.HostPorts(pod) {
				if used.CheckConflict(p.HostIP, string(p.Protocol), p.HostPort) {
					return framework.Queue, nil
				}
			}
			return framework.QueueSkip, nil
		}),
		on(framework.Node, framework.Add, nil),
	}, nil
}

// Taints keeps pods off nodes with NoSchedule and NoExecute taints that they do not tolerate, and prefers nodes with
// fewer PreferNoSchedule taints.
type Taints struct{}

func (Taints) Name() string { return NameTaintToleration }

func hardTaint(t *v1.Taint) bool {
	return t.Effect == v1.TaintEffectNoSchedule || t.Effect == v1.TaintEffectNoExecute
}

func untolerated(node *v1.Node, pod *v1.Pod) (v1.Taint, bool) {
	return corev1.FindMatchingUntoleratedTaint(klog.Background(), node.Spec.Taints, pod.Spec.Tolerations, hardTaint, false)
}

func (Taints) Filter(_ context.Context, _ framework.CycleState, pod *v1.Pod, n framework.NodeInfo) *framework.Status {
	t, found := untolerated(n.Node(), pod)
	if !found {
		return nil
	}
	return failForGood(fmt.Sprintf("node(s) had untolerated taint {%s: %s}", t.Key, t.Value))
}

func (Taints) Score(_ context.Context, _ framework.CycleState, pod *v1.Pod, n framework.NodeInfo) (int64, *framework.Status) {
	var count int64
	for i := range n.Node().Spec.Taints {
		t := &n.Node().Spec.Taints[i]
		if t.Effect == v1.TaintEffectPreferNoSchedule &&
			!corev1.TolerationsTolerateTaint(klog.Background(), pod.Spec.Tolerations, t, false) {
			count++
		}
	}
	return count, nil
}

func (t Taints) ScoreExtensions() framework.ScoreExtensions { return t }

func (Taints) NormalizeScore(_ context.Context, _ framework.CycleState, _ *v1.Pod, s framework.NodeScoreList) *framework.Status {
	normalize(s, true)
	return nil
}

func (Taints) EventsToRegister(context.Context) ([]framework.ClusterEventWithHint, error) {
	return []framework.ClusterEventWithHint{
		on(framework.Node, framework.Add|framework.UpdateNodeTaint, func(_ klog.Logger, pod *v1.Pod, _, obj any) (framework.QueueingHint, error) {
			if n := nodeOf(obj); n != nil {
				if _, found := untolerated(n, pod); found {
					return framework.QueueSkip, nil
				}
			}
			return framework.Queue, nil
		}),
		on(framework.Pod, framework.UpdatePodToleration, nil),
	}, nil
}

// Images prefers nodes that already have the pod's images, weighed by size and by how widely an image is spread.
type Images struct{ Handle framework.Handle }

func (Images) Name() string { return NameImageLocality }

// Below 23 MB an image is pulled too fast to matter; beyond 1 GB a container more is no more of a reason (upstream's).
const (
	imageMin          int64 = 23 * 1024 * 1024
	imageMaxContainer int64 = 1000 * 1024 * 1024
)

func (p Images) Score(_ context.Context, _ framework.CycleState, pod *v1.Pod, n framework.NodeInfo) (int64, *framework.Status) {
	all, err := p.Handle.SnapshotSharedLister().NodeInfos().List()
	if err != nil {
		return 0, framework.AsStatus(err)
	}
	var sum int64
	have := n.GetImageStates()
	add := func(c *v1.Container) {
		if s, ok := have[NormalizedImage(c.Image)]; ok && len(all) > 0 {
			sum += int64(float64(s.Size) * float64(s.NumNodes) / float64(len(all)))
		}
	}
	for i := range pod.Spec.InitContainers {
		add(&pod.Spec.InitContainers[i])
	}
	for i := range pod.Spec.Containers {
		add(&pod.Spec.Containers[i])
	}
	top := imageMaxContainer * int64(len(pod.Spec.Containers)+len(pod.Spec.InitContainers))
	sum = min(max(sum, imageMin), top)
	return framework.MaxNodeScore * (sum - imageMin) / (top - imageMin), nil
}

func (Images) ScoreExtensions() framework.ScoreExtensions { return nil }

// NormalizedImage adds ":latest" to a name without tag or digest, as node statuses list it.
func NormalizedImage(name string) string {
	for i := len(name) - 1; i >= 0 && name[i] != '/'; i-- {
		if name[i] == ':' || name[i] == '@' {
			return name
		}
	}
	return name + ":latest"
}
