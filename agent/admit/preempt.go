package admit

import (
	"maps"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	resourcehelper "k8s.io/component-helpers/resource"

	"github.com/reevehq/reeve/agent/container"
)

// Preempt returns the pods that must go so that node takes a critical pod which it would not otherwise, for lack of
// resources alone; nil when that does not help or pod is not critical. As few and as cheap ones as kubelet: BestEffort
// before Burstable before Guaranteed, those that come nearest to what is missing first. Static, mirror and critical pods
// stay.
func Preempt(node Node, active []*v1.Pod, pod *v1.Pod) []*v1.Pod {
	if !container.Critical(pod) {
		return nil
	}
	r := Pod(node, active, pod)
	if r == nil || !strings.HasPrefix(r.Reason, "OutOf") {
		return nil
	}
	need := missing(node, active, pod)
	byClass := map[v1.PodQOSClass][]*v1.Pod{}
	for _, p := range active {
		if !container.Critical(p) {
			byClass[container.QOS(p)] = append(byClass[container.QOS(p)], p)
		}
	}
	best, burst, guaranteed := byClass[v1.PodQOSBestEffort], byClass[v1.PodQOSBurstable], byClass[v1.PodQOSGuaranteed]
	goG := nearest(guaranteed, need.less(best, burst))
	goB := nearest(burst, need.less(best, goG))
	goE := nearest(best, need.less(goB, goG))
	victims := slices.Concat(goE, goB, goG)
	left := slices.DeleteFunc(slices.Clone(active), func(p *v1.Pod) bool { return slices.Contains(victims, p) })
	if len(victims) == 0 || Pod(node, left, pod) != nil {
		return nil
	}
	return victims
}

// needs is how much of each resource is missing; only positive amounts.
type needs map[v1.ResourceName]int64

func requestOf(p *v1.Pod, name v1.ResourceName) int64 {
	if name == v1.ResourcePods {
		return 1
	}
	q := resourcehelper.PodRequests(p, resourcehelper.PodResourcesOptions{})[name]
	return amount(name, q)
}

func missing(node Node, active []*v1.Pod, pod *v1.Pod) needs {
	out := needs{}
	for name, q := range node.Allocatable {
		n := requestOf(pod, name)
		if n == 0 {
			continue
		}
		for _, p := range active {
			n += requestOf(p, name)
		}
		if n -= amount(name, q); n > 0 {
			out[name] = n
		}
	}
	return out
}

// less is what is still missing without those pods.
func (n needs) less(lists ...[]*v1.Pod) needs {
	out := maps.Clone(n)
	for _, list := range lists {
		for _, p := range list {
			for name := range out {
				out[name] -= requestOf(p, name)
			}
		}
	}
	maps.DeleteFunc(out, func(_ v1.ResourceName, v int64) bool { return v <= 0 })
	return out
}

// distance is 0 for a pod that has all that is missing, and grows with what it lacks.
func (n needs) distance(p *v1.Pod) float64 {
	d := 0.0
	for name, v := range n {
		if lack := v - requestOf(p, name); lack > 0 {
			d += float64(lack) / float64(v) * float64(lack) / float64(v)
		}
	}
	return d
}

// nearest picks pods until nothing is missing, each time the one that brings most; of equals the smaller one.
func nearest(pods []*v1.Pod, need needs) []*v1.Pod {
	rest, out := slices.Clone(pods), []*v1.Pod(nil)
	for len(need) > 0 && len(rest) > 0 {
		best := 0
		for i := 1; i < len(rest); i++ {
			di, db := need.distance(rest[i]), need.distance(rest[best])
			if di < db || di == db && smaller(rest[i], rest[best]) {
				best = i
			}
		}
		out = append(out, rest[best])
		need = need.less(rest[best : best+1])
		rest = slices.Delete(rest, best, best+1)
	}
	return out
}

func smaller(a, b *v1.Pod) bool {
	for _, name := range []v1.ResourceName{v1.ResourceMemory, v1.ResourceCPU} {
		if x, y := requestOf(a, name), requestOf(b, name); x != y {
			return x < y
		}
	}
	return false
}
