package agent

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/reevehq/reeve/agent/admit"
	"github.com/reevehq/reeve/agent/container"
	"github.com/reevehq/reeve/agent/mirror"
	"github.com/reevehq/reeve/agent/node"
	"github.com/reevehq/reeve/agent/podconfig"
	"github.com/reevehq/reeve/agent/podworker"
	"github.com/reevehq/reeve/agent/podworker/podstate"
	"github.com/reevehq/reeve/agent/status"
	"github.com/reevehq/reeve/internal/logkey"
	"github.com/reevehq/reeve/probes"
)

// pods knows every pod that this node is to run. It stands between the sources and the workers: it admits, hands on,
// keeps the newest status, and finds orphans once all sources have told what they have.
type pods struct {
	ctx     context.Context
	cfg     *Config
	log     *slog.Logger
	pool    *podworker.Pool
	volumes *podVolumes
	probes  *probes.Manager
	writer  *status.Writer  // nil standalone
	mirrors *mirror.Manager // nil standalone
	node    *node.Manager
	events  *events
	runtime string // scheme of container IDs
	sources map[podconfig.Source]bool
	onSync  func()
	refuses func(*v1.Pod) v1.NodeConditionType
	look    func(ctx context.Context, uid types.UID) (podstate.Pod, error)
	resizes *resizes
	noted   func(*v1.Pod) // hears of each pod that ran before this process

	deletions deletions

	setting sync.Mutex // one set at a time, so that an older state of a pod never follows a newer one

	mu       sync.Mutex
	known    map[types.UID]*v1.Pod
	admitted map[types.UID]bool
	statuses map[types.UID]v1.PodStatus
	reports  map[types.UID]podworker.Report
	held     []*v1.Pod // new pods that wait until the source has told of those that run already
	waiters  map[string]waiter
	troubles map[types.UID]string // what is wrong with the pods' shims
	// preempting are critical pods that wait until others have made room.
	preempting map[types.UID]bool
}

// waiter waits for the end of a container of the pod.
type waiter struct {
	pod  types.UID
	done chan struct{}
}

// SetPod implements podconfig.Receiver.
func (p *pods) SetPod(src podconfig.Source, pod *v1.Pod) {
	if src == podconfig.API && container.IsMirror(pod) {
		p.setMirror(pod)
		return
	}
	if src == podconfig.File {
		if wait := p.namesake(pod); wait != nil {
			go func() { // ends with ctx at the latest: a worker ends then
				select {
				case <-wait:
					p.set(pod)
				case <-p.ctx.Done():
				}
			}()
			return
		}
	}
	p.mu.Lock()
	if src == podconfig.API && p.sources[src] && pod.Status.StartTime == nil && pod.DeletionTimestamp == nil && p.known[pod.UID] == nil {
		// Pods that were here before come first, in whatever order the list gives them.
		p.held = append(p.held, pod)
		p.mu.Unlock()
		return
	}
	p.mu.Unlock()
	p.set(pod)
}

// namesake returns a channel that closes when an earlier static pod of the same name is gone; nil: there is none.
func (p *pods) namesake(pod *v1.Pod) <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	for uid, other := range p.known {
		if uid != pod.UID && other.Name == pod.Name && other.Namespace == pod.Namespace && p.pool.Has(uid) {
			return p.pool.Done(uid)
		}
	}
	for uid, r := range p.reports {
		if uid != pod.UID && r.Pod.Name == pod.Name && r.Pod.Namespace == pod.Namespace && p.pool.Has(uid) {
			return p.pool.Done(uid)
		}
	}
	return nil
}

func (p *pods) set(pod *v1.Pod) {
	p.setting.Lock()
	defer p.setting.Unlock()
	p.setLocked(pod)
}

func (p *pods) setLocked(pod *v1.Pod) {
	pod = p.allocated(pod)
	p.mu.Lock()
	first := p.known[pod.UID] == nil
	p.known[pod.UID] = pod
	was := p.admitted[pod.UID]
	p.mu.Unlock()
	if first {
		p.first(pod)
		if pod.Status.StartTime != nil && p.noted != nil {
			p.noted(pod)
		}
	}
	if p.writer != nil {
		p.writer.Observe(pod)
	}
	if pod.DeletionTimestamp != nil {
		p.pool.Stop(pod, p.deletions.of(pod))
		return
	}
	if !was && p.preempt(pod) {
		return // it comes back here when there is room
	}
	if !was {
		if r := p.admit(pod); r != nil {
			p.events.pod(pod, "", v1.EventTypeWarning, r.Reason, r.Message)
			p.log.Warn("Rejected pod", logkey.Pod, pod.Namespace+"/"+pod.Name, "reason", r.Reason)
			p.pool.Stop(pod, podworker.Stop{Cause: podworker.Rejected, Since: time.Now(), Reason: r.Reason,
				Message: "Pod was rejected: " + r.Message})
			return
		}
	}
	if pod.Status.Phase != v1.PodSucceeded && pod.Status.Phase != v1.PodFailed {
		p.volumes.set(pod)
		p.resizes.book.Give(pod)
	}
	p.pool.Update(pod)
}

// first sees a pod for the first time in this process.
func (p *pods) first(pod *v1.Pod) {
	seedProbes(p.probes, pod)
	if container.IsStatic(pod) && p.mirrors != nil {
		p.mirrors.SetStatic(pod)
	}
}

// admit decides once a pod. One that has run here before is never asked again: the node it fitted has only changed around
// it.
func (p *pods) admit(pod *v1.Pod) *admit.Rejection {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.admitted[pod.UID] = true
	if pod.Status.StartTime != nil || pod.Status.Phase == v1.PodSucceeded || pod.Status.Phase == v1.PodFailed {
		return nil
	}
	if c := p.refuses(pod); c != "" {
		delete(p.admitted, pod.UID)
		return &admit.Rejection{Reason: "Evicted", Message: fmt.Sprintf("The node had condition: [%s]. ", c)}
	}
	active := p.activeLocked(pod.UID)
	r := admit.Pod(p.admitNode(), active, pod)
	if r != nil {
		delete(p.admitted, pod.UID)
	}
	return r
}

// admitNode is the node as admission sees it now.
func (p *pods) admitNode() admit.Node {
	n := admit.Node{Allocatable: p.node.Allocatable(), AllowedUnsafeSysctls: p.cfg.AllowedUnsafeSysctls, AppArmor: hasAppArmor()}
	if p.writer != nil {
		n.Object = p.node.Node()
	}
	return n
}

// activeLocked lists the admitted pods that have not come to their end, but for one.
func (p *pods) activeLocked(but types.UID) []*v1.Pod {
	var active []*v1.Pod
	for uid, other := range p.known {
		if uid == but || !p.admitted[uid] || other.Status.Phase == v1.PodSucceeded || other.Status.Phase == v1.PodFailed {
			continue
		}
		if r, ok := p.reports[uid]; ok && (r.Stage >= podworker.Stopped || r.Stop != nil && r.Stop.Cause == podworker.Rejected) {
			continue
		}
		active = append(active, other)
	}
	return active
}

// active lists the pods that run or are to run, and are not being stopped.
func (p *pods) active() []*v1.Pod {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []*v1.Pod
	for _, pod := range p.activeLocked("") {
		if r, ok := p.reports[pod.UID]; ok && r.Stage == podworker.Syncing {
			out = append(out, pod)
		}
	}
	return out
}

// DropPod implements podconfig.Receiver.
func (p *pods) DropPod(src podconfig.Source, pod *v1.Pod) {
	if src == podconfig.API && container.IsMirror(pod) {
		p.mirrors.DropMirror(pod)
		p.writer.Forget(pod.UID)
		return
	}
	p.setting.Lock()
	p.mu.Lock()
	delete(p.known, pod.UID)
	delete(p.admitted, pod.UID)
	delete(p.statuses, pod.UID)
	for i, h := range p.held {
		if h.UID == pod.UID {
			p.held = append(p.held[:i], p.held[i+1:]...)
			break
		}
	}
	p.mu.Unlock()
	p.setting.Unlock()
	if src == podconfig.File && p.mirrors != nil {
		p.mirrors.DropStatic(pod)
	}
	if p.writer != nil {
		p.writer.Forget(pod.UID)
	}
	if !p.pool.Has(pod.UID) {
		p.gone(pod.UID)
		return
	}
	stop := podworker.Stop{Cause: podworker.Deleted, Since: time.Now(), Grace: graceOf(pod)}
	p.pool.Remove(pod, stop)
	go func() { // ends with the worker
		<-p.pool.Done(pod.UID)
		p.gone(pod.UID)
	}()
}

// gone forgets a pod of which nothing is left.
func (p *pods) gone(uid types.UID) {
	p.mu.Lock()
	if p.known[uid] == nil {
		delete(p.reports, uid)
		delete(p.statuses, uid)
	}
	forgotten := p.known[uid] == nil
	p.mu.Unlock()
	if forgotten {
		p.resizes.forget(uid)
		p.deletions.forget(uid)
		p.retryResizes(false)
	}
	p.volumes.forget(uid)
	p.probes.RemovePod(uid)
}

// Synced implements podconfig.Receiver.
func (p *pods) Synced(src podconfig.Source) {
	p.mu.Lock()
	delete(p.sources, src)
	held := p.held
	if src == podconfig.API {
		p.held = nil
	}
	done := len(p.sources) == 0
	p.mu.Unlock()
	p.log.Info("Learnt all pods of source", "source", string(src))
	if src == podconfig.API {
		for _, pod := range held {
			p.set(pod)
		}
	}
	if done {
		p.retryResizes(true)
		if p.onSync != nil {
			p.onSync()
		}
	}
}

// allSynced tells whether every source has told what it has.
func (p *pods) allSynced() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.sources) == 0
}

// wake is called with each pod that the runtime reports a change of.
func (p *pods) wake(uid types.UID) {
	if !p.pool.Wake(uid) && p.allSynced() {
		p.mu.Lock()
		known := p.known[uid] != nil
		p.mu.Unlock()
		if !known {
			p.orphan(uid)
		}
	}
}

// orphan ends a pod that runs and that no source knows.
func (p *pods) orphan(uid types.UID) {
	pod := &v1.Pod{}
	pod.UID = uid
	state, err := p.look(p.ctx, uid)
	if err != nil {
		return // the next relist finds it again
	}
	if len(state.Sandboxes)+len(state.Containers) == 0 {
		return
	}
	grace := time.Duration(0)
	for i := range state.Containers {
		grace = max(grace, state.Containers[i].TerminationGracePeriod)
	}
	pod.Name, pod.Namespace = state.Name, state.Namespace
	p.log.Info("Found orphaned pod", logkey.Pod, pod.Namespace+"/"+pod.Name, logkey.PodUID, string(uid))
	p.pool.Remove(pod, podworker.Stop{Cause: podworker.Orphaned, Since: time.Now(), Grace: grace})
	go func() { // ends with the worker
		<-p.pool.Done(uid)
		p.gone(uid)
	}()
}

// all lists the pods that are known.
func (p *pods) all() []*v1.Pod {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]*v1.Pod, 0, len(p.known))
	for _, pod := range p.known {
		out = append(out, pod)
	}
	return out
}

func (p *pods) setMirror(pod *v1.Pod) {
	p.mirrors.SetMirror(pod)
	p.writer.Observe(pod)
	static := p.mirrors.Static(pod)
	if static == nil || p.mirrors.Mirror(static) == nil {
		return
	}
	p.mu.Lock()
	st, ok := p.statuses[static.UID]
	p.mu.Unlock()
	if ok {
		p.writer.Set(pod, st, true, false)
	}
}
