package agent

import (
	"fmt"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/reevehq/reeve/agent/admit"
	"github.com/reevehq/reeve/agent/podworker"
	"github.com/reevehq/reeve/internal/logkey"
)

const (
	preempted = "Preempted in order to admit critical pod"
	// preemptSlack is how much longer than their grace a critical pod waits for those that make room for it, and
	// preemptLook how often it looks.
	preemptSlack = 30 * time.Second
	preemptLook  = 100 * time.Millisecond
)

// preempt makes room for a critical pod: it ends others and sets the pod again when they are gone. It returns false when
// there is nothing to do, and the pod is to be admitted or rejected now.
func (p *pods) preempt(pod *v1.Pod) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.preempting[pod.UID] {
		return true
	}
	if pod.Status.StartTime != nil || pod.Status.Phase == v1.PodSucceeded || pod.Status.Phase == v1.PodFailed {
		return false
	}
	victims := admit.Preempt(p.admitNode(), p.activeLocked(pod.UID), pod)
	if len(victims) == 0 {
		return false
	}
	if p.preempting == nil {
		p.preempting = map[types.UID]bool{}
	}
	p.preempting[pod.UID] = true
	deadline := time.Now().Add(preemptSlack)
	for _, v := range victims {
		stop := podworker.Stop{Cause: podworker.Evicted, Since: time.Now(), Grace: graceOf(v), Reason: "Preempting", Message: preempted}
		if t := stop.Deadline().Add(preemptSlack); t.After(deadline) {
			deadline = t
		}
		p.log.Warn("Preempting pod for a critical one", logkey.Pod, v.Namespace+"/"+v.Name, "for", pod.Namespace+"/"+pod.Name)
		p.events.pod(v, "", v1.EventTypeWarning, "Preempting", fmt.Sprintf("%s %s/%s", preempted, pod.Namespace, pod.Name))
		go p.pool.Stop(v, stop) // never under the lock: a worker reports back
	}
	go p.whenGone(pod.UID, victims, deadline) // ends at the deadline at the latest
	return true
}

// whenGone sets the pod again once no container of the victims runs, or at the deadline.
func (p *pods) whenGone(uid types.UID, victims []*v1.Pod, deadline time.Time) {
	tick := time.NewTicker(preemptLook)
	defer tick.Stop()
	gone := func() bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, v := range victims {
			if r, ok := p.reports[v.UID]; ok && r.Stage < podworker.Stopped {
				return false
			}
		}
		return true
	}
	for !gone() && time.Now().Before(deadline) {
		select {
		case <-p.ctx.Done():
			return
		case <-tick.C:
		}
	}
	p.mu.Lock()
	delete(p.preempting, uid)
	pod := p.known[uid]
	p.mu.Unlock()
	if pod != nil && pod.DeletionTimestamp == nil {
		p.set(pod)
	}
}
