package allocate

import (
	"fmt"
	"slices"

	v1 "k8s.io/api/core/v1"
	resourcehelper "k8s.io/component-helpers/resource"
)

// Refusal is why a resize is not allocated: v1.PodReasonInfeasible, never on this node, or v1.PodReasonDeferred, not now.
type Refusal struct{ Reason, Message string }

// Decide returns nil if a node with the given allocatable resources can give want beside the other pods, which are as
// allocated.
func Decide(allocatable v1.ResourceList, others []*v1.Pod, want *v1.Pod) *Refusal {
	opts := resourcehelper.PodResourcesOptions{}
	asked := resourcehelper.PodRequests(want, opts)
	used := v1.ResourceList{}
	for _, p := range others {
		for name, q := range resourcehelper.PodRequests(p, opts) {
			sum := used[name]
			sum.Add(q)
			used[name] = sum
		}
	}
	var deferred *Refusal
	for _, name := range []v1.ResourceName{v1.ResourceCPU, v1.ResourceMemory} {
		q, max, sum := asked[name], allocatable[name], used[name].DeepCopy()
		if q.Cmp(max) > 0 {
			return &Refusal{v1.PodReasonInfeasible, fmt.Sprintf("Node didn't have enough capacity: %s, requested: %d, capacity: %d",
				name, amount(name, asked), amount(name, allocatable))}
		}
		sum.Add(q)
		if sum.Cmp(max) > 0 && deferred == nil {
			deferred = &Refusal{v1.PodReasonDeferred, fmt.Sprintf("Node didn't have enough resource: %s, requested: %d, used: %d, capacity: %d",
				name, amount(name, asked), amount(name, used), amount(name, allocatable))}
		}
	}
	return deferred
}

// amount is in thousandths for CPU, else in units.
func amount(name v1.ResourceName, l v1.ResourceList) int64 {
	q := l[name]
	if name == v1.ResourceCPU {
		return q.MilliValue()
	}
	return q.Value()
}

// Turn orders pods that wait for the same room: the more important first, then Guaranteed before Burstable before
// BestEffort; equals keep their order.
func Turn(pods []*v1.Pod, qos func(*v1.Pod) v1.PodQOSClass) {
	rank := func(p *v1.Pod) int {
		return slices.Index([]v1.PodQOSClass{v1.PodQOSGuaranteed, v1.PodQOSBurstable, v1.PodQOSBestEffort}, qos(p))
	}
	priority := func(p *v1.Pod) int32 {
		if p.Spec.Priority == nil {
			return 0
		}
		return *p.Spec.Priority
	}
	slices.SortStableFunc(pods, func(a, b *v1.Pod) int {
		if d := int(priority(b)) - int(priority(a)); d != 0 {
			return d
		}
		return rank(a) - rank(b)
	})
}
