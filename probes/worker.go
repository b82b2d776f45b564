package probes

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/reevehq/reeve/internal/logkey"
)

// maxTries: a probe that could not be carried out (as opposed to one that failed) is tried at once this often, as
// kubelet does; after that the attempt counts as no answer.
const maxTries = 3

// earlyFirst doubles between the early questions to a container that has only just been started (see worker.early).
const earlyFirst = 100 * time.Millisecond

// worker asks one question of one container instance until it is stopped or the question is decided.
//
//	waiting (startup probe of the container undecided, initial delay, no address) → probing ⇄ asleep → stopped
type worker struct {
	m         *Manager
	pod       *corev1.Pod
	spec      *corev1.Probe
	c         *corev1.Container
	name      string
	typ       Type
	container ContainerState

	stop  context.CancelFunc
	woken chan struct{} // capacity 1: look again now

	mu sync.Mutex
	ip string
}

func newWorker(m *Manager, pod *corev1.Pod, c *corev1.Container, t Type, spec *corev1.Probe, st ContainerState, ip string, stop context.CancelFunc) *worker {
	return &worker{m: m, pod: pod, spec: spec, c: c, name: c.Name, typ: t, container: st, ip: ip,
		stop: stop, woken: make(chan struct{}, 1)}
}

func (w *worker) key() workerKey { return workerKey{w.name, w.typ} }

func (w *worker) wake() {
	select {
	case w.woken <- struct{}{}:
	default:
	}
}

func (w *worker) setAddress(ip string) {
	w.mu.Lock()
	changed := w.ip != ip
	w.ip = ip
	w.mu.Unlock()
	if changed {
		w.wake()
	}
}

func (w *worker) address() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.ip
}

func (w *worker) period() time.Duration {
	if w.spec.PeriodSeconds <= 0 {
		return 10 * time.Second // the API's default
	}
	return time.Duration(w.spec.PeriodSeconds) * time.Second
}

func (w *worker) timeout() time.Duration {
	if w.spec.TimeoutSeconds <= 0 {
		return time.Second // the API's default
	}
	return time.Duration(w.spec.TimeoutSeconds) * time.Second
}

// firstAt is when the first probe is due. Liveness asks first after a period where nothing says when the container serves,
// neither a delay nor a startup probe: a program that has just been started is not dead because it does not listen yet. A
// container that has run for longer than a period when we meet it was here before this process: its probes are spread over
// one period, so that a restart of the agent does not ask all at once.
func (w *worker) firstAt(now time.Time, spread float64) time.Time {
	due := w.container.StartedAt.Add(time.Duration(w.spec.InitialDelaySeconds) * time.Second)
	if w.typ == Liveness && w.spec.InitialDelaySeconds == 0 && w.c.StartupProbe == nil {
		due = due.Add(w.period())
	}
	if now.Sub(due) > w.period() {
		return now.Add(time.Duration(spread * float64(w.period())))
	}
	if due.Before(now) {
		return now
	}
	return due
}

// early tells whether this worker asks early as well: a startup or readiness probe over the network, of a container that it
// has never been asked about. Programs mostly listen a moment after their start, and a pod that was refused then would not
// be ready before the whole period is over. So between the first question and the second it asks again after 100, 200,
// 400 ms, …; only a success counts of these, a failure is as if nobody had asked. Commands cost too much for that.
func (w *worker) early() bool {
	return w.typ != Liveness && w.spec.Exec == nil && !w.m.probed(w.container.ID, w.typ)
}

func (w *worker) run(ctx context.Context) {
	defer w.stop()
	next := w.firstAt(time.Now(), rand.Float64())
	wait := time.Duration(0) // until the next early question; 0: none
	if w.early() {
		wait = earlyFirst
	}
	timer := time.NewTimer(time.Until(next))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-w.woken:
			// Only a probe that waits for something has a reason to look again before its time.
			if !w.mayProbe() || time.Now().Before(w.firstAt(time.Now(), 0)) {
				continue
			}
			next = time.Now()
			timer.Stop()
		case <-timer.C:
			if !w.mayProbe() {
				// Sleep until woken; the timer is only the net under a lost wake-up.
				next = time.Now().Add(w.period())
				timer.Reset(w.period())
				continue
			}
		}
		start := time.Now()
		if late := start.Sub(next); late > 0 {
			w.m.metrics.late.Observe(late.Seconds())
		}
		r, msg, ok := w.ask(ctx, w.timeout(), true)
		if ctx.Err() != nil {
			return
		}
		if ok && !w.m.answer(w, r, msg) {
			return
		}
		// The beat is kept from the time the probe was due, not from when it ended; beats that were missed are dropped.
		next = next.Add(w.period())
		if wait > 0 && (!ok || r == Failure) && !w.askEarly(ctx, wait, next) {
			return
		}
		wait = 0
		if now := time.Now(); next.Before(now) {
			next = now
		}
		timer.Reset(time.Until(next))
	}
}

// askEarly asks after wait, twice wait, … until there is a success or the next beat is due. It returns whether the worker
// goes on.
func (w *worker) askEarly(ctx context.Context, wait time.Duration, next time.Time) (goOn bool) {
	for ; time.Until(next) > wait; wait *= 2 {
		select {
		case <-ctx.Done():
			return false
		case <-time.After(wait):
		}
		left := time.Until(next)
		if left <= 0 {
			break
		}
		r, msg, ok := w.ask(ctx, min(w.timeout(), left), false)
		if ctx.Err() != nil {
			return false
		}
		if ok && r == Success {
			return w.m.answer(w, r, msg)
		}
	}
	return true
}

// mayProbe: the container's startup probe holds back the others, and the network kinds need an address.
func (w *worker) mayProbe() bool {
	if w.typ != Startup && !w.m.started(w.c, w.container.ID) {
		return false
	}
	return w.spec.Exec != nil || w.address() != "" || hostOf(w.spec) != ""
}

// ask carries the probe out. ok is false when there is no answer to count: it could not be carried out, or this process
// itself was starved and a time-out says nothing about the container. Only a success is told of where failures do not
// matter.
func (w *worker) ask(ctx context.Context, timeout time.Duration, failures bool) (r Result, msg string, ok bool) {
	target := target{pod: w.pod, container: w.c, containerID: w.container.ID, ip: w.address(), userAgent: w.m.cfg.UserAgent}
	begun := time.Now()
	var a answer
	var err error
	counts := true
	for range maxTries {
		start := time.Now()
		var halfLate atomic.Int64
		half := time.AfterFunc(timeout/2, func() { halfLate.Store(int64(time.Since(start) - timeout/2)) })
		a, err = w.m.prober.probe(ctx, target, w.spec, timeout)
		half.Stop()
		if ctx.Err() != nil {
			return Unknown, "", false
		}
		// A time-out says something about the container only if this process was awake to hear it.
		late := max(time.Since(start)-timeout, time.Duration(halfLate.Load()))
		counts = err != nil || !a.timedOut || late < starved(timeout)
		if !counts && failures {
			w.m.metrics.discarded.Inc()
		}
		if err == nil && counts || !failures {
			break
		}
	}
	if !failures && (err != nil || a.result != Success) {
		return Unknown, "", false
	}
	took := time.Since(begun)
	w.m.metrics.duration.WithLabelValues(w.typ.String(), w.name, w.pod.Name, w.pod.Namespace).Observe(took.Seconds())
	log := w.m.log.With(logkey.Pod, w.pod.Namespace+"/"+w.pod.Name, logkey.ContainerName, w.name, "probeType", w.typ.String())
	if err != nil {
		w.m.metrics.count(w, Unknown)
		log.Warn("Probe could not be carried out", logkey.Err, err)
		w.event(corev1.EventTypeWarning, "Unhealthy", fmt.Sprintf("%s probe errored and resulted in unknown state: %v", w.typ, err))
		return Unknown, "", false
	}
	if !counts {
		log.Debug("Probe timed out while the agent was starved, not counted", logkey.Duration, took)
		return Unknown, "", false
	}
	w.m.metrics.count(w, a.result)
	switch {
	case a.result == Failure:
		log.Info("Probe failed", "output", a.message)
		w.event(corev1.EventTypeWarning, "Unhealthy", fmt.Sprintf("%s probe failed: %s", w.typ, a.message))
	case a.warning:
		w.event(corev1.EventTypeWarning, "ProbeWarning", fmt.Sprintf("%s probe warning: %s", w.typ, a.message))
	}
	return a.result, a.message, true
}

// starved is how late a timer may fire within a network probe (half-way, and at its time-out) before the lateness says
// more about this process than about the container: a fifth of the time-out. Such a probe is asked again at once.
func starved(timeout time.Duration) time.Duration { return timeout / 5 }

func (w *worker) event(eventType, reason, message string) {
	if w.m.cfg.OnEvent != nil {
		w.m.cfg.OnEvent(w.pod, w.name, eventType, reason, message)
	}
}
