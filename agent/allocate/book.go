package allocate

import (
	"encoding/json"
	"fmt"
	"sync"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
)

// Book holds what is allocated to each pod. Safe for concurrent use.
type Book struct {
	// Changed, if set, is called after every change, for the book to be saved. It must not block.
	Changed func()

	mu   sync.Mutex
	pods map[types.UID]entry
}

// entry is one pod's containers by name.
type entry map[string]v1.ResourceRequirements

// bookVersion 1: {"version":1,"pods":{uid:{container:{requests,limits}}}}.
const bookVersion = 1

type checkpoint struct {
	Version int                 `json:"version"`
	Pods    map[types.UID]entry `json:"pods"`
}

// NewBook returns an empty book.
func NewBook() *Book { return &Book{pods: map[types.UID]entry{}} }

// Restore reads what Checkpoint wrote.
func (b *Book) Restore(data []byte) error {
	var c checkpoint
	if err := json.Unmarshal(data, &c); err != nil {
		return fmt.Errorf("decode allocations: %w", err)
	}
	if c.Version != bookVersion {
		return fmt.Errorf("decode allocations: version is %d, this program reads %d", c.Version, bookVersion)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for uid, e := range c.Pods {
		b.pods[uid] = e
	}
	return nil
}

// Checkpoint returns everything for a later Restore.
func (b *Book) Checkpoint() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	out, err := json.Marshal(checkpoint{Version: bookVersion, Pods: b.pods})
	if err != nil {
		return nil // plain data: cannot happen
	}
	return out
}

// Give allocates what the pod's spec asks for.
func (b *Book) Give(pod *v1.Pod) {
	e := entry{}
	each(&pod.Spec, func(c *v1.Container) { e[c.Name] = requirements(c) })
	b.mu.Lock()
	same := equality.Semantic.DeepEqual(b.pods[pod.UID], e)
	b.pods[pod.UID] = e
	b.mu.Unlock()
	if !same && b.Changed != nil {
		b.Changed()
	}
}

// Forget drops a pod that is gone.
func (b *Book) Forget(uid types.UID) {
	b.mu.Lock()
	_, had := b.pods[uid]
	delete(b.pods, uid)
	b.mu.Unlock()
	if had && b.Changed != nil {
		b.Changed()
	}
}

// Allocated returns the pod with the resources that it was given in place of those that it asks for, and whether the two
// differ. A pod that is not in the book is taken as its status tells that an earlier agent allocated it, else as it asks.
func (b *Book) Allocated(pod *v1.Pod) (*v1.Pod, bool) {
	b.mu.Lock()
	e, known := b.pods[pod.UID]
	b.mu.Unlock()
	if !known {
		e = told(pod)
	}
	differs := false
	each(&pod.Spec, func(c *v1.Container) {
		if r, ok := e[c.Name]; ok && !equality.Semantic.DeepEqual(r, requirements(c)) {
			differs = true
		}
	})
	if !differs {
		return pod, false
	}
	out := *pod
	out.Spec.Containers = append([]v1.Container(nil), pod.Spec.Containers...)
	out.Spec.InitContainers = append([]v1.Container(nil), pod.Spec.InitContainers...)
	each(&out.Spec, func(c *v1.Container) {
		if r, ok := e[c.Name]; ok {
			c.Resources.Requests, c.Resources.Limits = r.Requests, r.Limits
		}
	})
	return &out, true
}

// told reads allocations off the status that the node itself wrote.
func told(pod *v1.Pod) entry {
	e := entry{}
	for _, list := range [][]v1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses} {
		for i := range list {
			if s := &list[i]; s.Resources != nil && s.State.Running != nil {
				e[s.Name] = v1.ResourceRequirements{Requests: s.AllocatedResources, Limits: s.Resources.Limits}
			}
		}
	}
	return e
}

func each(spec *v1.PodSpec, f func(*v1.Container)) {
	for i := range spec.InitContainers {
		f(&spec.InitContainers[i])
	}
	for i := range spec.Containers {
		f(&spec.Containers[i])
	}
}

func requirements(c *v1.Container) v1.ResourceRequirements {
	return v1.ResourceRequirements{Requests: c.Resources.Requests, Limits: c.Resources.Limits}
}
