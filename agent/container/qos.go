package container

import (
	"math"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"

	"github.com/reevehq/reeve/agent/podworker/podspec"
)

// QOS returns the pod's quality of service class: its status's if the API server has set it, else computed from the
// requests and limits of CPU and memory (pod-level ones win).
func QOS(pod *v1.Pod) v1.PodQOSClass {
	if pod.Status.QOSClass != "" {
		return pod.Status.QOSClass
	}
	return ComputeQOS(pod)
}

// ComputeQOS classifies by the spec alone.
func ComputeQOS(pod *v1.Pod) v1.PodQOSClass {
	requests, limits := v1.ResourceList{}, v1.ResourceList{}
	guaranteed := true
	compute := []v1.ResourceName{v1.ResourceCPU, v1.ResourceMemory}
	add := func(to, from v1.ResourceList) (set int) {
		for _, name := range compute {
			q, ok := from[name]
			if !ok || q.Sign() <= 0 {
				continue
			}
			set++
			sum := to[name]
			sum.Add(q)
			to[name] = sum
		}
		return set
	}
	if resourcehelper.IsPodLevelResourcesSet(pod) {
		add(requests, pod.Spec.Resources.Requests)
		if add(limits, pod.Spec.Resources.Limits) != len(compute) {
			guaranteed = false
		}
	} else {
		for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
			for i := range list {
				add(requests, list[i].Resources.Requests)
				if add(limits, list[i].Resources.Limits) != len(compute) {
					guaranteed = false
				}
			}
		}
	}
	if len(requests) == 0 && len(limits) == 0 {
		return v1.PodQOSBestEffort
	}
	if guaranteed && len(requests) == len(limits) {
		for name, r := range requests {
			if l, ok := limits[name]; !ok || l.Cmp(r) != 0 {
				return v1.PodQOSBurstable
			}
		}
		return v1.PodQOSGuaranteed
	}
	return v1.PodQOSBurstable
}

// Critical tells a pod that node pressure and admission treat apart: static, or of system priority.
func Critical(pod *v1.Pod) bool {
	if IsStatic(pod) || IsMirror(pod) {
		return true
	}
	return pod.Spec.Priority != nil && *pod.Spec.Priority >= systemCriticalPriority
}

// systemCriticalPriority is the lowest priority of system-cluster-critical (2·10⁹).
const systemCriticalPriority = 2_000_000_000

// nodeCriticalPriority is system-node-critical's.
const nodeCriticalPriority = systemCriticalPriority + 1000

// IsStatic tells a pod that does not come from the API.
func IsStatic(pod *v1.Pod) bool {
	src, ok := pod.Annotations[ConfigSourceAnnotation]
	return ok && src != "api"
}

// IsMirror tells the API's image of a static pod.
func IsMirror(pod *v1.Pod) bool {
	_, ok := pod.Annotations[ConfigMirrorAnnotation]
	return ok
}

// OOMScoreAdj returns what the kernel should add to the badness of the container's processes, upstream's figures:
// Guaranteed and node-critical -997, BestEffort 1000, Burstable the less the more memory it requests. What a pod requests
// beyond its containers (spec.resources) counts for them in equal parts, and a sidecar goes no sooner than any of the
// containers that it serves.
func OOMScoreAdj(pod *v1.Pod, c *v1.Container, memoryCapacityBytes int64) int64 {
	const guaranteed, bestEffort = -997, 1000
	if pod.Spec.Priority != nil && *pod.Spec.Priority >= nodeCriticalPriority {
		return guaranteed
	}
	switch QOS(pod) {
	case v1.PodQOSGuaranteed:
		return guaranteed
	case v1.PodQOSBestEffort:
		return bestEffort
	}
	request := memoryOf(c.Resources.Requests)
	if podspec.IsSidecar(c) && len(pod.Spec.Containers) > 0 {
		least := int64(math.MaxInt64)
		for i := range pod.Spec.Containers {
			least = min(least, memoryOf(pod.Spec.Containers[i].Resources.Requests))
		}
		request = max(request, least)
	}
	request += unclaimed(pod)
	if memoryCapacityBytes <= 0 {
		return bestEffort - 1
	}
	adj := 1000 - 1000*request/memoryCapacityBytes
	if adj < 1000+guaranteed {
		return 1000 + guaranteed
	}
	if adj == bestEffort {
		return adj - 1
	}
	return adj
}

// unclaimed is each container's part of the memory that its pod requests and none of the containers does.
func unclaimed(pod *v1.Pod) int64 {
	if !resourcehelper.IsPodLevelRequestsSet(pod) {
		return 0
	}
	left := memoryOf(pod.Spec.Resources.Requests)
	count := int64(len(pod.Spec.Containers))
	for i := range pod.Spec.Containers {
		left -= memoryOf(pod.Spec.Containers[i].Resources.Requests)
	}
	for i := range pod.Spec.InitContainers {
		if c := &pod.Spec.InitContainers[i]; podspec.IsSidecar(c) {
			left -= memoryOf(c.Resources.Requests)
			count++
		}
	}
	if left <= 0 || count == 0 {
		return 0
	}
	return left / count
}

func memoryOf(l v1.ResourceList) int64 { return quantity(l, v1.ResourceMemory).Value() }

func quantity(l v1.ResourceList, name v1.ResourceName) *resource.Quantity {
	if q, ok := l[name]; ok {
		return &q
	}
	return &resource.Quantity{}
}
