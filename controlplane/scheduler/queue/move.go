package queue

import (
	"maps"
	"slices"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/kube-scheduler/framework"

	"github.com/reevehq/reeve/controlplane/scheduler/state"
)

type move int

const (
	stay move = iota
	toBackoff
	toReady
)

// MoveOn tells the queue of a cluster event: every pod that it may help moves on.
func (q *Queue) MoveOn(e framework.ClusterEvent, old, obj any) {
	q.mu.Lock()
	defer q.mu.Unlock()
	ev := event{e, old, obj}
	if len(q.inFlight) > 0 {
		q.events = append(q.events, ev)
	}
	for uid, p := range q.parked {
		if p.Gate != "" {
			continue
		}
		if m := q.helps(p, ev); m != stay {
			delete(q.parked, uid)
			q.move(p, m)
		}
	}
}

func (q *Queue) move(p *Pod, m move) {
	if m == toReady {
		q.makeReady(p)
		return
	}
	q.admit(p)
}

// helps decides from the plugins that rejected the pod whether the event may change their minds.
func (q *Queue) helps(p *Pod, e event) move {
	if e.Resource == framework.WildCard {
		return toBackoff
	}
	if pod, ok := e.new.(*v1.Pod); ok && e.Resource == framework.Pod && pod.UID != p.uid() && ownChange(e.ActionType) {
		return stay // another unscheduled pod's own change
	}
	ask := func(plugin string) bool {
		for _, h := range q.cfg.Hints[plugin] {
			if !matches(h.Event, e.ClusterEvent) {
				continue
			}
			if h.QueueingHintFn == nil {
				return true
			}
			hint, err := h.QueueingHintFn(logger, p.Info.Pod, e.old, e.new)
			if err != nil || hint == framework.Queue {
				return true // when in doubt, try
			}
		}
		return false
	}
	for plugin := range p.Pending {
		if ask(plugin) {
			return toReady
		}
	}
	for plugin := range p.Rejectors {
		if ask(plugin) {
			return toBackoff
		}
	}
	return stay
}

func ownChange(a framework.ActionType) bool {
	return a == framework.UpdatePodToleration || a == framework.UpdatePodSchedulingGatesEliminated
}

func matches(registered, seen framework.ClusterEvent) bool {
	if registered.Resource == framework.WildCard {
		return true
	}
	return registered.Resource == seen.Resource && registered.ActionType&seen.ActionType != 0
}

// PodChange names what changed from old to pod that scheduling cares about.
func PodChange(old, pod *v1.Pod) []framework.ActionType {
	var out []framework.ActionType
	if !maps.Equal(old.Labels, pod.Labels) {
		out = append(out, framework.UpdatePodLabel)
	}
	if !equality.Semantic.DeepEqual(old.Spec.Tolerations, pod.Spec.Tolerations) {
		out = append(out, framework.UpdatePodToleration)
	}
	if len(old.Spec.SchedulingGates) > 0 && len(pod.Spec.SchedulingGates) == 0 {
		out = append(out, framework.UpdatePodSchedulingGatesEliminated)
	}
	if !equality.Semantic.DeepEqual(old.Status.ResourceClaimStatuses, pod.Status.ResourceClaimStatuses) {
		out = append(out, framework.UpdatePodGeneratedResourceClaim)
	}
	if smaller(state.PodRequest(pod), state.PodRequest(old)) {
		out = append(out, framework.UpdatePodScaleDown)
	}
	return out
}

func smaller(a, b *state.Resource) bool {
	if a.MilliCPU < b.MilliCPU || a.Memory < b.Memory || a.EphemeralStorage < b.EphemeralStorage {
		return true
	}
	for name, n := range b.Scalar {
		if a.Scalar[name] < n {
			return true
		}
	}
	return false
}

// NodeChange names what changed of a node that scheduling cares about; zero for a heartbeat.
func NodeChange(old, node *v1.Node) framework.ActionType {
	var a framework.ActionType
	if old.Spec.Unschedulable != node.Spec.Unschedulable || !equality.Semantic.DeepEqual(old.Spec.Taints, node.Spec.Taints) {
		a |= framework.UpdateNodeTaint
	}
	if !equality.Semantic.DeepEqual(old.Status.Allocatable, node.Status.Allocatable) {
		a |= framework.UpdateNodeAllocatable
	}
	if !maps.Equal(old.Labels, node.Labels) {
		a |= framework.UpdateNodeLabel
	}
	if !maps.Equal(old.Annotations, node.Annotations) {
		a |= framework.UpdateNodeAnnotation
	}
	if !slices.EqualFunc(old.Status.Conditions, node.Status.Conditions, func(x, y v1.NodeCondition) bool {
		return x.Type == y.Type && x.Status == y.Status
	}) {
		a |= framework.UpdateNodeCondition
	}
	if !slices.Equal(old.Status.DeclaredFeatures, node.Status.DeclaredFeatures) {
		a |= framework.UpdateNodeDeclaredFeature
	}
	return a
}
