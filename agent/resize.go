package agent

import (
	"sync"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/reevehq/reeve/agent/allocate"
	"github.com/reevehq/reeve/agent/container"
	"github.com/reevehq/reeve/agent/podworker"
	"github.com/reevehq/reeve/volumes/objects"
)

// resizes stands between the pods as the API has them and the pods as this node runs them: their resources are those that
// were allocated, and a wish for others waits here until there is room.
type resizes struct {
	book *allocate.Book

	mu     sync.Mutex
	asked  map[types.UID]*v1.Pod // in full, of pods whose wish is not granted
	refuse map[types.UID]*allocate.Refusal
	order  []types.UID // of asked, the longest waiting first
}

func newResizes() *resizes {
	return &resizes{book: allocate.NewBook(), asked: map[types.UID]*v1.Pod{}, refuse: map[types.UID]*allocate.Refusal{}}
}

func (r *resizes) pending(uid types.UID) *allocate.Refusal {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.refuse[uid]
}

// note keeps the answer to a wish; nil: granted, or there is none. It returns whether that is news.
func (r *resizes) note(pod *v1.Pod, why *allocate.Refusal) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	old := r.refuse[pod.UID]
	if why == nil {
		delete(r.asked, pod.UID)
		delete(r.refuse, pod.UID)
		for i, uid := range r.order {
			if uid == pod.UID {
				r.order = append(r.order[:i:i], r.order[i+1:]...)
				break
			}
		}
		return old != nil
	}
	if r.asked[pod.UID] == nil {
		r.order = append(r.order, pod.UID)
	}
	r.asked[pod.UID], r.refuse[pod.UID] = pod, why
	return old == nil || *old != *why
}

func (r *resizes) forget(uid types.UID) {
	pod := &v1.Pod{}
	pod.UID = uid
	r.note(pod, nil)
	r.book.Forget(uid)
}

// waiting lists the pods whose wishes wait for room, in their turn; with all, also those that were told they never fit.
func (r *resizes) waiting(all bool) []*v1.Pod {
	r.mu.Lock()
	var out []*v1.Pod
	for _, uid := range r.order {
		if all || r.refuse[uid].Reason == v1.PodReasonDeferred {
			out = append(out, r.asked[uid])
		}
	}
	r.mu.Unlock()
	allocate.Turn(out, container.QOS)
	return out
}

// latest returns the pod as it asked last, nil when it waits for nothing any more.
func (r *resizes) latest(uid types.UID) *v1.Pod {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.asked[uid]
}

// allocated returns the pod as the node runs it. A wish for other resources is granted now if the node has them.
func (p *pods) allocated(pod *v1.Pod) *v1.Pod {
	given, differs := p.resizes.book.Allocated(pod)
	p.mu.Lock()
	admitted := p.admitted[pod.UID]
	r, reported := p.reports[pod.UID]
	p.mu.Unlock()
	over := pod.Status.Phase == v1.PodSucceeded || pod.Status.Phase == v1.PodFailed || pod.DeletionTimestamp != nil ||
		reported && r.Stage != podworker.Syncing
	if !differs || over {
		p.resizes.note(pod, nil)
		return given
	}
	if !admitted && pod.Status.StartTime == nil {
		return pod // nothing of it was ever given; admission decides
	}
	if !p.allSynced() {
		// Not all that takes room is known yet; until it is, the answer is the one that an earlier agent gave.
		p.resizes.note(pod, told(pod))
		return given
	}
	why := p.decide(pod)
	news := p.resizes.note(pod, why)
	if why == nil {
		p.resizes.book.Give(pod)
		return pod
	}
	if news {
		p.events.pod(pod, "", v1.EventTypeWarning, "Resize"+why.Reason, "Pod resize "+why.Reason+": "+why.Message)
	}
	return given
}

// told is why a wish waits, as the pod's status has it.
func told(pod *v1.Pod) *allocate.Refusal {
	for _, c := range pod.Status.Conditions {
		if c.Type == v1.PodResizePending && c.Reason != "" {
			return &allocate.Refusal{Reason: c.Reason, Message: c.Message}
		}
	}
	return &allocate.Refusal{Reason: v1.PodReasonDeferred, Message: "The node has just started and does not know all its pods yet"}
}

// decide asks whether the node can give the pod what it asks for now.
func (p *pods) decide(pod *v1.Pod) *allocate.Refusal {
	if container.IsStatic(pod) {
		return &allocate.Refusal{Reason: v1.PodReasonInfeasible, Message: "In-place resize of static-pods is not supported"}
	}
	p.mu.Lock()
	others := p.activeLocked(pod.UID)
	p.mu.Unlock()
	return allocate.Decide(p.node.Allocatable(), others, pod)
}

// retryResizes grants what waited for room, now that a pod has left or shrunk, or all are known (all).
func (p *pods) retryResizes(all bool) {
	for _, pod := range p.resizes.waiting(all) {
		p.setting.Lock()
		p.mu.Lock()
		known := p.known[pod.UID] != nil
		p.mu.Unlock()
		if latest := p.resizes.latest(pod.UID); known && latest != nil {
			p.setLocked(latest)
		}
		p.setting.Unlock()
	}
}

// heard is a cache of ConfigMaps and Secrets that also tells the pods' workers when one changed.
type heard struct {
	*objects.Cache
	tell func(types.UID)
}

// Retain implements volumes.Objects.
func (h heard) Retain(owner types.UID, refs []objects.Ref, changed func()) {
	h.Cache.Retain(owner, refs, func() { changed(); h.tell(owner) })
}
