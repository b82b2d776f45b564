package podworker

import (
	"context"
	"log/slog"
	"maps"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/reevehq/reeve/agent/podworker/podspec"
	"github.com/reevehq/reeve/agent/podworker/podstate"
	"github.com/reevehq/reeve/internal/logkey"
)

const (
	// RetryDelay is how long a failed start waits for the next try (upstream's pod sync back-off).
	RetryDelay = 10 * time.Second
	// sandboxRetryMin doubles to RetryDelay for failed sandboxes, so that a network that comes up late costs little.
	sandboxRetryMin = time.Second
	// observeRetry is when to look again at a pod that the runtime would not tell about.
	observeRetry = 2 * time.Second
	// killRetry spaces attempts to stop a container that did not stop.
	killRetry = time.Second
)

// worker runs one pod. Everything below the line is owned by its goroutine.
type worker struct {
	uid  types.UID
	pool *Pool
	log  *slog.Logger
	wake chan struct{}
	done chan struct{}

	mu      sync.Mutex
	pod     *v1.Pod
	stop    *Stop
	removed bool
	dirty   bool // the runtime may have changed
	config  bool // a ConfigMap or Secret of the pod changed
	// ---
	stage    Stage
	state    podstate.Pod
	finished v1.PodPhase
	ops      map[string]*op
	results  chan outcome
	images   map[string]Image
	retryAt  map[string]time.Time
	waiting  map[string]Waiting
	down     map[string]bool
	failed   map[string]bool
	excused  map[string]bool
	onChange map[string]bool // containers that wait for a ConfigMap or Secret
	resizing map[string]bool
	acting   *Stop // the stop that the kills under way were planned for

	volumesReady  bool
	released      bool
	settled       bool
	cleaned       bool
	sandboxFails  int
	sandboxRetry  time.Time
	lastObserve   time.Time
	observeFailed bool
	noted         Note
	resizeError   string
}

func newWorker(p *Pool, pod *v1.Pod) *worker {
	return &worker{
		uid: pod.UID, pool: p, pod: pod, dirty: true,
		log:  p.cfg.Logger.With(logkey.Pod, pod.Namespace+"/"+pod.Name, logkey.PodUID, string(pod.UID)),
		wake: make(chan struct{}, 1), done: make(chan struct{}),
		ops: map[string]*op{}, results: make(chan outcome, 16), images: map[string]Image{}, retryAt: map[string]time.Time{},
		waiting: map[string]Waiting{}, down: map[string]bool{}, failed: map[string]bool{},
		excused: map[string]bool{}, onChange: map[string]bool{}, resizing: map[string]bool{},
	}
}

func (w *worker) poke() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// run is the worker's goroutine. It returns when the pod is gone or ctx ends, after its operations have ended.
func (w *worker) run(ctx context.Context) {
	defer close(w.done)
	ctx, cancel := context.WithCancel(ctx)
	defer w.drain()
	defer cancel()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.wake:
		case r := <-w.results:
			w.finish(r)
		case <-timer.C:
		}
		for more := true; more; {
			select {
			case r := <-w.results:
				w.finish(r)
			default:
				more = false
			}
		}
		again := w.step(ctx)
		if w.stage == Gone {
			return
		}
		timer.Reset(max(time.Until(again), 0))
	}
}

// drain waits for the operations, whose context has ended.
func (w *worker) drain() {
	for len(w.ops) > 0 {
		r := <-w.results
		delete(w.ops, r.op.key)
	}
}

// step is one turn of the loop: read desired, look, plan, act, report. It returns when to turn again at the latest.
func (w *worker) step(ctx context.Context) time.Time {
	w.mu.Lock()
	pod, stop, removed, dirty, config := w.pod, w.stop, w.removed, w.dirty, w.config
	w.dirty = false
	// A start under way may still be reading the old content: the news is kept for its end.
	w.config = config && w.starting()
	w.mu.Unlock()
	if config && !w.config {
		for name := range w.onChange {
			delete(w.retryAt, name)
			delete(w.onChange, name)
		}
	}
	now := time.Now()
	again := now.Add(w.pool.cfg.SyncFrequency)
	sooner := func(t time.Time) {
		if !t.IsZero() && t.Before(again) {
			again = t
		}
	}
	if dirty || now.Sub(w.lastObserve) >= w.pool.cfg.SyncFrequency || w.observeFailed {
		st, err := w.pool.cfg.Observer.Observe(ctx, w.uid)
		if ctx.Err() != nil {
			return again
		}
		now = time.Now()
		w.observeFailed = err != nil
		if err != nil {
			w.log.Warn("Failed to look at pod", logkey.Err, err)
			if w.lastObserve.IsZero() {
				return now.Add(observeRetry) // nothing may be decided about a pod never seen
			}
			sooner(now.Add(observeRetry))
		} else {
			w.state, w.lastObserve = st, now
		}
	}
	if ph := pod.Status.Phase; w.stage == Syncing && stop == nil && (ph == v1.PodSucceeded || ph == v1.PodFailed) {
		w.finished = ph
		stop = &Stop{Cause: Completed, Since: now, Grace: specGrace(pod)}
	}
	if stop == nil && w.stage == Syncing {
		if s, at := deadlineStop(pod, now); s != nil {
			stop = s
		} else {
			sooner(at)
		}
	}
	if w.stage == Syncing && stop != nil {
		w.enterStopping(pod, stop)
	}
	switch w.stage {
	case Syncing:
		w.pool.cfg.Probes.Set(pod, &w.state, false)
		sooner(w.ensureVolumes(ctx, pod))
		a := Plan(w.desired(pod), w.observed(pod), now)
		if a.Done != "" {
			w.finished = a.Done
			stop = &Stop{Cause: Completed, Since: now, Grace: specGrace(pod)}
			w.enterStopping(pod, stop)
			a = Plan(Desired{Pod: pod, Stop: w.acting}, w.observed(pod), now)
		}
		w.act(ctx, pod, a, now)
		sooner(a.Again)
	case Stopping:
		w.pool.cfg.Probes.Set(pod, &w.state, true)
		w.hurry(stop)
		a := Plan(Desired{Pod: pod, Stop: w.acting}, w.observed(pod), now)
		w.act(ctx, pod, a, now)
		sooner(a.Again)
		sooner(w.stopping(ctx, pod, a))
	}
	if w.stage == Stopped {
		sooner(w.stopped(ctx, pod, removed))
	}
	w.report(pod, removed)
	return again
}

func specGrace(pod *v1.Pod) time.Duration {
	if g := pod.Spec.TerminationGracePeriodSeconds; g != nil {
		return time.Duration(*g) * time.Second
	}
	return 30 * time.Second
}

// deadlineStop returns the stop of a pod that outlived activeDeadlineSeconds, or when it will.
func deadlineStop(pod *v1.Pod, now time.Time) (*Stop, time.Time) {
	ads := pod.Spec.ActiveDeadlineSeconds
	if ads == nil || pod.Status.StartTime == nil {
		return nil, time.Time{}
	}
	at := pod.Status.StartTime.Add(time.Duration(*ads) * time.Second)
	if now.Before(at) {
		return nil, at
	}
	return &Stop{
		Cause: Evicted, Since: now, Grace: specGrace(pod), Reason: "DeadlineExceeded",
		Message: "Pod was active on the node longer than the specified deadline",
	}, time.Time{}
}

func (w *worker) enterStopping(pod *v1.Pod, stop *Stop) {
	w.stage, w.acting = Stopping, stop
	if stop.Cause == Evicted && w.pool.cfg.Event != nil {
		w.pool.cfg.Event(pod, "", v1.EventTypeNormal, stop.Reason, stop.Message)
	}
	w.log.Info("Stopping pod", "cause", stop.Cause.String(), "grace", stop.Grace.String())
	for _, o := range w.ops {
		if o.work == Pulling || o.work == Starting || o.key == opSandbox || o.key == opVolumes || o.key == opResize {
			o.cancel()
		}
	}
	w.pool.cfg.Probes.Set(pod, &w.state, true)
}

// hurry takes over a stop that leaves less time than the one being carried out, and restarts the kills under way.
func (w *worker) hurry(stop *Stop) {
	if stop == nil || w.acting == nil || !stop.Deadline().Before(w.acting.Deadline()) {
		return
	}
	w.acting = &Stop{Cause: w.acting.Cause, Since: stop.Since, Grace: stop.Grace, Reason: w.acting.Reason, Message: w.acting.Message}
	for _, o := range w.ops {
		if o.work == Killing {
			o.cancel()
		}
	}
}

// starting tells whether a container is on its way up.
func (w *worker) starting() bool {
	for _, o := range w.ops {
		if o.work == Starting {
			return true
		}
	}
	return false
}

func (w *worker) desired(pod *v1.Pod) Desired {
	d := Desired{Pod: pod}
	if w.pool.cfg.Figures != nil {
		d.Figures = w.pool.cfg.Figures(pod)
	}
	return d
}

// observed gathers the planner's input.
func (w *worker) observed(pod *v1.Pod) Observed {
	o := Observed{
		State: w.state, VolumesReady: w.volumesReady, NetworkReady: w.pool.NetworkReady(),
		SandboxBusy: w.ops[opSandbox] != nil || w.ops[opStopSB] != nil, SandboxRetryAt: w.sandboxRetry,
		SandboxesDown: w.down, Work: map[string]Work{}, RetryAt: w.retryAt, Images: map[string]bool{},
		NextRestart: nextRestart(pod), Failed: w.failed, Probes: map[string]Verdict{},
		Excused: w.excused, ResizeBusy: w.ops[opResize] != nil,
	}
	for _, x := range w.ops {
		if x.name != "" {
			o.Work[x.name] = x.work
		}
	}
	for name := range w.images {
		o.Images[name] = true
	}
	for i := range w.state.Containers {
		c := &w.state.Containers[i]
		if c.State != podstate.Running {
			continue
		}
		if spec, kind := podspec.Find(&pod.Spec, c.Name); kind == podspec.KindApp || kind == podspec.KindSidecar {
			o.Probes[c.ID] = w.pool.cfg.Probes.Verdict(spec, c.ID)
		}
	}
	return o
}

// nextRestart reads from the API's status how often containers have been started that the runtime may have forgotten.
func nextRestart(pod *v1.Pod) map[string]int32 {
	m := map[string]int32{}
	for _, list := range [][]v1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses} {
		for i := range list {
			if list[i].ContainerID != "" {
				m[list[i].Name] = list[i].RestartCount + 1
			}
		}
	}
	return m
}

// stopping lets go of the volumes as soon as no container is left, while the sandbox goes down, and ends the stage when
// both are gone. It returns when to try again what failed.
func (w *worker) stopping(ctx context.Context, pod *v1.Pod, a Actions) time.Time {
	if len(w.state.Running()) > 0 || len(a.Kill) > 0 {
		return time.Time{}
	}
	for _, o := range w.ops {
		if o.name != "" || o.key == opSandbox || o.key == opVolumes {
			return time.Time{}
		}
	}
	switch at := w.retryAt[opRelease]; {
	case w.released || w.ops[opRelease] != nil:
	case time.Now().Before(at):
		return at
	default:
		w.pool.cfg.Probes.Remove(w.uid)
		w.launch(ctx, &op{key: opRelease}, func(ctx context.Context) outcome {
			return outcome{err: w.pool.cfg.Volumes.Release(ctx, pod)}
		})
	}
	if w.released && a.Torn && len(w.ops) == 0 {
		w.stage = Stopped
		w.log.Info("Stopped pod")
	}
	return time.Time{}
}

// stopped settles a pod whose object stays, and clears everything away once the object is gone.
func (w *worker) stopped(ctx context.Context, pod *v1.Pod, removed bool) time.Time {
	rt := w.pool.cfg.Runtime
	if !removed && w.acting.Cause != Orphaned {
		// A pod whose object is about to go is cleaned up altogether in a moment.
		if !w.settled && w.ops[opSettle] == nil && pod.DeletionTimestamp == nil {
			w.launch(ctx, &op{key: opSettle}, func(ctx context.Context) outcome {
				return outcome{err: rt.Settle(ctx, pod)}
			})
		}
		return time.Time{}
	}
	if w.cleaned {
		w.stage = Gone
		return time.Time{}
	}
	if w.ops[opCleanup] != nil || w.ops[opSettle] != nil {
		return time.Time{}
	}
	if at := w.retryAt[opCleanup]; time.Now().Before(at) {
		return at
	}
	state := w.state
	w.launch(ctx, &op{key: opCleanup}, func(ctx context.Context) outcome {
		return outcome{err: rt.Cleanup(ctx, pod, &state)}
	})
	return time.Time{}
}

func (w *worker) report(pod *v1.Pod, removed bool) {
	starting := map[string]bool{}
	for _, o := range w.ops {
		if o.work == Starting {
			starting[o.name] = true
		}
	}
	w.pool.cfg.Reporter.Report(Report{
		Pod: pod, State: w.state, Stage: w.stage, Stop: w.acting, Done: w.finished, Waiting: maps.Clone(w.waiting),
		Starting: starting, Removed: removed, Resizing: w.stage == Syncing && len(w.resizing) > 0, ResizeError: w.resizeError,
	})
}
