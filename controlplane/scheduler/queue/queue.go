package queue

import (
	"context"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/klog/v2"
	"k8s.io/kube-scheduler/framework"
	"k8s.io/utils/clock"

	"github.com/reevehq/reeve/controlplane/scheduler/state"
)

// Upstream's defaults, which users see as the pace of retries.
const (
	InitialBackoff = 1 * time.Second
	MaxBackoff     = 10 * time.Second
	// MaxUnschedulable is after how long a pod is tried again though no event spoke for it.
	MaxUnschedulable = 5 * time.Minute
)

// Config is fixed for the life of a queue.
type Config struct {
	Clock clock.Clock // nil: the real one
	// Less orders ready pods. Nil: higher priority first, then who waited longer.
	Less framework.LessFunc
	// PreEnqueue says whether the pod may become ready; a rejection names its plugin. Nil: always.
	PreEnqueue func(ctx context.Context, pod *v1.Pod) *framework.Status
	// Hints maps a plugin's name to the events that may help pods it rejected.
	Hints                      map[string][]framework.ClusterEventWithHint
	InitialBackoff, MaxBackoff time.Duration // zero: the defaults above
}

// Queue is safe for concurrent use.
//
//	Add ─→ ready ─Pop→ (in flight) ─Failed→ backing off ──time──→ ready
//	  └gated┐             └Failed, no event helped→ unschedulable ──event, 5 min──→ backing off or ready
//	        └→ unschedulable (Gate set) ──gates lifted──→ ready
type Queue struct {
	cfg Config

	mu       sync.Mutex
	cond     *sync.Cond
	ready    *podHeap
	backing  *podHeap
	parked   map[types.UID]*Pod // unschedulable and gated
	inFlight map[types.UID]int  // position in events at Pop
	events   []event            // since the oldest Pop still in flight
	nominees nominator
	closed   bool
	wake     chan struct{}
}

type event struct {
	framework.ClusterEvent
	old, new any
}

// New returns an empty queue.
func New(cfg Config) *Queue {
	if cfg.Clock == nil {
		cfg.Clock = clock.RealClock{}
	}
	if cfg.Less == nil {
		cfg.Less = ByPriority
	}
	if cfg.InitialBackoff == 0 {
		cfg.InitialBackoff = InitialBackoff
	}
	if cfg.MaxBackoff == 0 {
		cfg.MaxBackoff = MaxBackoff
	}
	q := &Queue{
		cfg: cfg, parked: map[types.UID]*Pod{}, inFlight: map[types.UID]int{}, wake: make(chan struct{}, 1),
		nominees: nominator{byNode: map[string][]*state.PodInfo{}, node: map[types.UID]string{}},
	}
	q.cond = sync.NewCond(&q.mu)
	q.ready = newHeap(func(a, b *Pod) bool { return cfg.Less(a, b) })
	q.backing = newHeap(func(a, b *Pod) bool { return a.backoffUntil.Before(b.backoffUntil) })
	return q
}

// ByPriority is the default order.
func ByPriority(a, b framework.QueuedPodInfo) bool {
	pa, pb := corev1.PodPriority(a.GetPodInfo().GetPod()), corev1.PodPriority(b.GetPodInfo().GetPod())
	if pa != pb {
		return pa > pb
	}
	return a.GetTimestamp().Before(b.GetTimestamp())
}

// Run moves pods whose waits end, until ctx ends; then Pop returns nil for good.
func (q *Queue) Run(ctx context.Context) {
	timer := q.cfg.Clock.NewTimer(MaxUnschedulable)
	defer timer.Stop()
	for {
		next := q.release()
		timer.Reset(next)
		select {
		case <-ctx.Done():
			q.mu.Lock()
			q.closed = true
			q.cond.Broadcast()
			q.mu.Unlock()
			return
		case <-timer.C():
		case <-q.wake:
		}
	}
}

// release moves what is due and returns how long until the next is.
func (q *Queue) release() time.Duration {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := q.cfg.Clock.Now()
	for p := q.backing.peek(); p != nil && !p.backoffUntil.After(now); p = q.backing.peek() {
		q.makeReady(q.backing.pop())
	}
	next := MaxUnschedulable
	for uid, p := range q.parked {
		if p.Gate != "" {
			continue
		}
		if left := MaxUnschedulable - now.Sub(p.Timestamp); left > 0 {
			next = min(next, left)
			continue
		}
		delete(q.parked, uid)
		q.admit(p)
	}
	if p := q.backing.peek(); p != nil {
		next = min(next, p.backoffUntil.Sub(now))
	}
	return max(next, time.Millisecond)
}

func (q *Queue) nudge() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// makeReady expects the pod in no room.
func (q *Queue) makeReady(p *Pod) {
	if q.cfg.PreEnqueue != nil {
		if s := q.cfg.PreEnqueue(context.Background(), p.Info.Pod); !s.IsSuccess() {
			p.Gate = s.Plugin()
			q.parked[p.uid()] = p
			return
		}
	}
	p.Gate = ""
	q.ready.put(p)
	q.cond.Signal()
}

// admit sends a pod to the back-off room if its last attempt was too short ago, else makes it ready.
func (q *Queue) admit(p *Pod) {
	p.backoffUntil = p.Timestamp.Add(p.backoff(q.cfg.InitialBackoff, q.cfg.MaxBackoff))
	if p.backoffUntil.After(q.cfg.Clock.Now()) {
		q.backing.put(p)
		q.cond.Signal()
		q.nudge()
		return
	}
	q.makeReady(p)
}

// Add takes in a pod that has no node yet.
func (q *Queue) Add(pod *v1.Pod) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.known(pod.UID) {
		q.update(nil, pod)
		return
	}
	info, _ := state.NewPodInfo(pod)
	q.nominees.set(info, "")
	q.makeReady(&Pod{Info: info, Timestamp: q.cfg.Clock.Now()})
}

func (q *Queue) known(uid types.UID) bool {
	_, parked := q.parked[uid]
	_, flying := q.inFlight[uid]
	return parked || flying || q.ready.get(uid) != nil || q.backing.get(uid) != nil
}

// Update records a change of a waiting pod; one that may now fit, or whose gates fell, moves.
func (q *Queue) Update(old, pod *v1.Pod) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.update(old, pod)
}

func (q *Queue) update(old, pod *v1.Pod) {
	info, _ := state.NewPodInfo(pod)
	held := ""
	if old == nil || old.Status.NominatedNodeName == "" {
		held = q.nominees.node[pod.UID] // nominated here, not yet written to the API
	}
	if pod.Status.NominatedNodeName != "" {
		held = ""
	}
	q.nominees.set(info, held)
	if p := q.ready.get(pod.UID); p != nil {
		p.Info = info
		q.ready.put(p)
		return
	}
	if p := q.backing.get(pod.UID); p != nil {
		p.Info = info
		return
	}
	evs := podEvents(old, pod)
	if p, ok := q.parked[pod.UID]; ok {
		p.Info = info
		if p.Gate != "" {
			delete(q.parked, pod.UID)
			q.makeReady(p)
			return
		}
		for _, e := range evs {
			if m := q.helps(p, event{e, old, pod}); m != stay {
				delete(q.parked, pod.UID)
				q.move(p, m)
				return
			}
		}
		return
	}
	if _, ok := q.inFlight[pod.UID]; ok {
		for _, e := range evs {
			q.events = append(q.events, event{e, old, pod})
		}
		return
	}
	q.makeReady(&Pod{Info: info, Timestamp: q.cfg.Clock.Now()})
}

// Delete forgets a pod.
func (q *Queue) Delete(pod *v1.Pod) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.nominees.remove(pod.UID)
	q.ready.delete(pod.UID)
	q.backing.delete(pod.UID)
	delete(q.parked, pod.UID)
}

// Pop blocks until a pod is ready and hands it out; the caller must call Done or Failed. It returns nil once Run has ended.
// When nothing is ready, a pod that only backs off for want of a node is taken early: its event already came.
func (q *Queue) Pop() *Pod {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.ready.Len() == 0 && !q.closed {
		if p := q.early(); p != nil {
			q.makeReady(q.backing.delete(p.uid()))
			continue
		}
		q.cond.Wait()
	}
	if q.closed {
		return nil
	}
	p := q.ready.pop()
	p.Attempts++
	if p.FirstAttempt.IsZero() {
		p.FirstAttempt = q.cfg.Clock.Now()
	}
	q.inFlight[p.uid()] = len(q.events)
	return p
}

func (q *Queue) early() *Pod {
	var best *Pod
	for _, p := range q.backing.items {
		if p.Errors == 0 && (best == nil || q.cfg.Less(p, best)) {
			best = p
		}
	}
	return best
}

// Done ends the flight of a pod that needs no more scheduling.
func (q *Queue) Done(uid types.UID) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.land(uid)
}

func (q *Queue) land(uid types.UID) {
	delete(q.inFlight, uid)
	if len(q.inFlight) == 0 {
		q.events = nil
		return
	}
	oldest := len(q.events)
	for _, at := range q.inFlight {
		oldest = min(oldest, at)
	}
	if oldest < 1024 { // renumbering costs; let some history gather first
		return
	}
	q.events = append([]event(nil), q.events[oldest:]...)
	for u := range q.inFlight {
		q.inFlight[u] -= oldest
	}
}

// Failed ends a flight that placed the pod nowhere and puts it back, as the Rejectors, Pending, Unschedulable and Errors
// that the caller set say. Events that came while it flew count. pod is the latest version, or nil if the pod is gone.
func (q *Queue) Failed(p *Pod, pod *v1.Pod) {
	q.mu.Lock()
	defer q.mu.Unlock()
	since := q.inFlight[p.uid()]
	missed := q.events[min(since, len(q.events)):]
	m := stay
	if len(p.Rejectors)+len(p.Pending) == 0 {
		m = toBackoff // an error: nothing but time helps
	}
	for _, e := range missed {
		if m == toReady {
			break
		}
		m = max(m, q.helps(p, e))
	}
	q.land(p.uid())
	if pod == nil {
		q.nominees.remove(p.uid())
		return
	}
	if q.known(pod.UID) {
		return
	}
	if pod != p.Info.Pod {
		p.Info, _ = state.NewPodInfo(pod)
	}
	p.Timestamp = q.cfg.Clock.Now()
	if m == stay {
		q.parked[p.uid()] = p
		q.nudge()
		return
	}
	q.move(p, m)
}

// Activate makes the pods ready at once, whatever room they wait in.
func (q *Queue) Activate(pods map[string]*v1.Pod) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, pod := range pods {
		p, ok := q.parked[pod.UID]
		if ok {
			delete(q.parked, pod.UID)
		} else if p = q.backing.delete(pod.UID); p == nil {
			continue
		}
		q.makeReady(p)
	}
}

// Counts returns the numbers of pods in each room, for metrics.
func (q *Queue) Counts() (ready, backing, unschedulable, gated int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, p := range q.parked {
		if p.Gate != "" {
			gated++
		}
	}
	return q.ready.Len(), q.backing.Len(), len(q.parked) - gated, gated
}

// logger is what hint functions get; they may not log in the hot path.
var logger = klog.Background().V(5)

func podEvents(old, pod *v1.Pod) []framework.ClusterEvent {
	ev := func(a framework.ActionType) framework.ClusterEvent {
		return framework.ClusterEvent{Resource: framework.Pod, ActionType: a}
	}
	if old == nil {
		return []framework.ClusterEvent{ev(framework.All)}
	}
	var out []framework.ClusterEvent
	for _, a := range PodChange(old, pod) {
		out = append(out, ev(a))
	}
	return out
}

// Set is shorthand for plugins' names.
func Set(names ...string) sets.Set[string] { return sets.New(names...) }
