package evict

import (
	"cmp"
	"fmt"
	"slices"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	resourcehelper "k8s.io/component-helpers/resource"

	"github.com/reevehq/reeve/agent/container"
)

// Usage is what one pod uses, in bytes, inodes and processes; Containers by name, for the message.
type Usage struct {
	Memory, Disk      int64
	Inodes, Processes int64
	Volumes           map[string]int64 // emptyDirs by name
	ContainersMemory  map[string]int64
	ContainersDisk    map[string]int64 // writable layer and logs
}

func (u Usage) of(r v1.ResourceName) int64 {
	switch r {
	case v1.ResourceMemory:
		return u.Memory
	case "inodes":
		return u.Inodes
	case "pids":
		return u.Processes
	}
	return u.Disk
}

// Rank orders pods by who goes first: those above their request, then lower priority, then further above their request
// (kubelet's order for memory and disk; inodes and processes, which nobody can request, by priority and use). Critical
// pods are left out.
func Rank(pods []*v1.Pod, usage map[types.UID]Usage, r v1.ResourceName) []*v1.Pod {
	var out []*v1.Pod
	for _, p := range pods {
		if !container.Critical(p) {
			out = append(out, p)
		}
	}
	requested := r == v1.ResourceMemory || r == v1.ResourceEphemeralStorage
	over := func(p *v1.Pod) int64 {
		n := usage[p.UID].of(r)
		if requested {
			req := resourcehelper.PodRequests(p, resourcehelper.PodResourcesOptions{})
			q := req[r]
			n -= q.Value()
		}
		return n
	}
	priority := func(p *v1.Pod) int32 {
		if p.Spec.Priority == nil {
			return 0
		}
		return *p.Spec.Priority
	}
	slices.SortStableFunc(out, func(a, b *v1.Pod) int {
		if requested {
			if x, y := over(a) > 0, over(b) > 0; x != y {
				if x {
					return -1
				}
				return 1
			}
		}
		return cmp.Or(cmp.Compare(priority(a), priority(b)), cmp.Compare(over(b), over(a)))
	})
	return out
}

// message says why a pod was evicted, in kubelet's words.
func message(m Met, pod *v1.Pod, u Usage) string {
	res := m.Signal.Resource()
	number := bytes
	if res == "inodes" || res == "pids" {
		number = func(n int64) string { return resource.NewQuantity(n, resource.DecimalSI).String() }
	}
	msg := fmt.Sprintf("The node was low on resource: %s. Threshold quantity: %s, available: %s. ", res,
		number(m.Of(m.Capacity)), number(m.Available))
	var use map[string]int64
	switch res {
	case v1.ResourceMemory:
		use = u.ContainersMemory
	case v1.ResourceEphemeralStorage:
		use = u.ContainersDisk
	}
	for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			c := &list[i]
			req := c.Resources.Requests[res]
			if n := use[c.Name]; n > req.Value() {
				msg += fmt.Sprintf("Container %s was using %s, request is %s, has larger consumption of %s. ", c.Name, bytes(n), req.String(), res)
			}
		}
	}
	return msg
}

func bytes(n int64) string { return resource.NewQuantity(n, resource.BinarySI).String() }

// Outgrown says which storage limit of its own a pod has outgrown, "" for none.
func Outgrown(pod *v1.Pod, u Usage) string {
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.EmptyDir == nil || v.EmptyDir.SizeLimit == nil || v.EmptyDir.SizeLimit.Sign() == 0 {
			continue
		}
		if n, ok := u.Volumes[v.Name]; ok && n > v.EmptyDir.SizeLimit.Value() {
			return fmt.Sprintf("Usage of EmptyDir volume %q exceeds the limit %q. ", v.Name, v.EmptyDir.SizeLimit.String())
		}
	}
	for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			c := &list[i]
			if q, ok := c.Resources.Limits[v1.ResourceEphemeralStorage]; ok && u.ContainersDisk[c.Name] > q.Value() {
				return fmt.Sprintf("Container %s exceeded its local ephemeral storage limit %q. ", c.Name, q.String())
			}
		}
	}
	lim := resourcehelper.PodLimits(pod, resourcehelper.PodResourcesOptions{})
	if q, ok := lim[v1.ResourceEphemeralStorage]; ok && allLimited(pod) && u.Disk > q.Value() {
		return fmt.Sprintf("Pod ephemeral local storage usage exceeds the total limit of containers %s. ", q.String())
	}
	return ""
}

func allLimited(pod *v1.Pod) bool {
	for i := range pod.Spec.Containers {
		if _, ok := pod.Spec.Containers[i].Resources.Limits[v1.ResourceEphemeralStorage]; !ok {
			return false
		}
	}
	return true
}

// limited tells pods that have a storage limit of their own: only for them is disk use measured without need.
func limited(pod *v1.Pod) bool {
	for i := range pod.Spec.Volumes {
		if e := pod.Spec.Volumes[i].EmptyDir; e != nil && e.SizeLimit != nil && e.Medium != v1.StorageMediumMemory {
			return true
		}
	}
	for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			if _, ok := list[i].Resources.Limits[v1.ResourceEphemeralStorage]; ok {
				return true
			}
		}
	}
	return false
}
