package podworker

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/reevehq/reeve/agent/podworker/podspec"
	"github.com/reevehq/reeve/agent/podworker/podstate"
	"github.com/reevehq/reeve/internal/logkey"
)

// op is one operation under way.
type op struct {
	key    string
	name   string // container, empty for the pod's own
	work   Work
	cancel context.CancelFunc
	kill   Kill
}

// outcome is how an operation ended.
type outcome struct {
	op    *op
	image Image
	tried string
	ids   []string
	err   error
}

const (
	// With a slash, which no container's name has.
	opSandbox  = "pod/sandbox"
	opStopSB   = "pod/stop-sandbox"
	opVolumes  = "pod/volumes"
	opRelease  = "pod/release"
	opCleanup  = "pod/cleanup"
	opSettle   = "pod/settle"
	opResize   = "pod/resize"
	killPrefix = "kill/"
)

// launch runs f as operation o.
func (w *worker) launch(ctx context.Context, o *op, f func(ctx context.Context) outcome) {
	ctx, cancel := context.WithCancel(ctx)
	o.cancel = cancel
	w.ops[o.key] = o
	go func() {
		defer cancel()
		r := f(ctx)
		r.op = o
		w.results <- r
	}()
}

// ensureVolumes waits for the volumes beside everything else; it returns when to try again.
func (w *worker) ensureVolumes(ctx context.Context, pod *v1.Pod) time.Time {
	if w.volumesReady || w.ops[opVolumes] != nil {
		return time.Time{}
	}
	if at := w.retryAt[opVolumes]; time.Now().Before(at) {
		return at
	}
	w.launch(ctx, &op{key: opVolumes}, func(ctx context.Context) outcome {
		return outcome{err: w.pool.cfg.Volumes.WaitMounted(ctx, pod)}
	})
	return time.Time{}
}

// act carries a plan out.
func (w *worker) act(ctx context.Context, pod *v1.Pod, a Actions, now time.Time) {
	rt := w.pool.cfg.Runtime
	state := w.state
	w.tell(pod, a.Note)
	for name, b := range a.Backoff {
		w.waiting[name] = Waiting{Reason: "CrashLoopBackOff", Message: fmt.Sprintf(
			"back-off %s restarting failed container=%s pod=%s_%s(%s)", b.Delay, name, pod.Name, pod.Namespace, pod.UID)}
		w.pool.cfg.event(pod, name, v1.EventTypeWarning, "BackOff",
			fmt.Sprintf("Back-off restarting failed container %s in pod %s_%s(%s)", name, pod.Name, pod.Namespace, pod.UID), w, b.Until)
	}
	for _, k := range a.Kill {
		w.log.Info("Killing container", logkey.ContainerName, k.Name, "reason", k.Reason.String(), "grace", k.Grace.String())
		w.launch(ctx, &op{key: killPrefix + k.Name, name: k.Name, work: Killing, kill: k}, func(ctx context.Context) outcome {
			return outcome{err: rt.KillContainer(ctx, pod, &state, k)}
		})
	}
	if len(a.StopSandboxes) > 0 {
		ids := a.StopSandboxes
		w.launch(ctx, &op{key: opStopSB}, func(ctx context.Context) outcome {
			var errs []error
			for _, id := range ids {
				if err := rt.StopSandbox(ctx, pod, id); err != nil {
					errs = append(errs, err)
				}
			}
			return outcome{err: errors.Join(errs...), ids: ids}
		})
	}
	if a.CreateSandbox {
		w.launch(ctx, &op{key: opSandbox}, func(ctx context.Context) outcome {
			return outcome{err: rt.CreateSandbox(ctx, pod, a.SandboxAttempt)}
		})
	}
	w.resize(ctx, pod, a)
	for _, name := range a.Pull {
		c, _ := podspec.Find(&pod.Spec, name)
		w.launch(ctx, &op{key: "pull/" + name, name: name, work: Pulling}, func(ctx context.Context) outcome {
			img, err := rt.EnsureImage(ctx, pod, c)
			return outcome{image: img, err: err}
		})
	}
	for _, s := range a.Start {
		img := w.images[s.Name]
		delete(w.images, s.Name) // the next start asks again, by the pull policy
		w.launch(ctx, &op{key: "start/" + s.Name, name: s.Name, work: Starting}, func(ctx context.Context) outcome {
			tried, err := rt.StartContainer(ctx, pod, &state, s, img)
			return outcome{tried: tried, err: err}
		})
	}
}

// tell records a note as an Event, once until something else is to be noted.
func (w *worker) tell(pod *v1.Pod, n Note) {
	if n == w.noted || n == NoNote {
		return
	}
	w.noted = n
	if w.pool.cfg.Event == nil {
		return
	}
	switch n {
	case NoteSandboxChanged:
		w.pool.cfg.Event(pod, "", v1.EventTypeNormal, "SandboxChanged", "Pod sandbox changed, it will be killed and re-created.")
	case NoteNoNetwork:
		w.pool.cfg.Event(pod, "", v1.EventTypeWarning, "NetworkNotReady", "network is not ready: container runtime network not ready")
	}
}

// finish takes in how an operation ended.
func (w *worker) finish(r outcome) {
	delete(w.ops, r.op.key)
	now := time.Now()
	cancelled := errors.Is(r.err, context.Canceled)
	touch := func() {
		w.mu.Lock()
		w.dirty = true
		w.mu.Unlock()
	}
	name := r.op.name
	switch {
	case r.op.key == opVolumes:
		w.volumesReady = r.err == nil
		if r.err != nil && !cancelled {
			w.log.Warn("Failed to mount volumes of pod", logkey.Err, r.err)
			w.retryAt[opVolumes] = now.Add(sandboxRetryMin)
		}
	case r.op.key == opSandbox:
		touch()
		if r.err == nil {
			w.noted = NoNote
			w.sandboxFails, w.sandboxRetry = 0, time.Time{}
			return
		}
		w.sandboxRetry = now.Add(min(sandboxRetryMin<<min(w.sandboxFails, 8), RetryDelay))
		w.sandboxFails++
		if !cancelled {
			w.log.Warn("Failed to create sandbox", logkey.Err, r.err)
		}
	case r.op.key == opStopSB:
		touch()
		if r.err == nil {
			for _, id := range r.ids {
				w.down[id] = true
			}
			return
		}
		w.log.Warn("Failed to stop sandbox", logkey.Err, r.err)
		w.sandboxRetry = now.Add(sandboxRetryMin)
	case r.op.key == opRelease:
		w.released = r.err == nil
		if r.err != nil && !cancelled {
			w.log.Warn("Failed to release volumes of pod", logkey.Err, r.err)
			w.retryAt[opRelease] = now.Add(sandboxRetryMin)
		}
	case r.op.key == opSettle:
		w.settled = true
		if r.err != nil && !cancelled {
			w.log.Warn("Failed to settle pod", logkey.Err, r.err)
		}
	case r.op.key == opCleanup:
		w.cleaned = r.err == nil
		touch()
		if r.err != nil && !cancelled {
			w.log.Warn("Failed to clean up after pod", logkey.Err, r.err)
			w.retryAt[opCleanup] = now.Add(RetryDelay)
		}
	case r.op.key == opResize:
		touch()
		w.resizeError = ""
		if r.err != nil && !cancelled {
			w.resizeError = r.err.Error()
			w.retryAt[opResize] = now.Add(RetryDelay)
			w.log.Warn("Failed to resize pod", logkey.Err, r.err)
		}
	case r.op.work == Pulling:
		if r.err == nil {
			w.images[name] = r.image
			delete(w.retryAt, name)
			return
		}
		if !cancelled {
			w.failStart(name, r.err, now)
		}
	case r.op.work == Starting:
		touch()
		if r.err == nil {
			delete(w.waiting, name)
			delete(w.retryAt, name)
			return
		}
		if r.tried != "" {
			w.failed[r.tried] = true
		}
		if !cancelled {
			w.failStart(name, r.err, now)
		}
	case r.op.work == Killing:
		touch()
		if r.op.kill.Reason == KillResize && r.err == nil {
			w.excused[r.op.kill.ID] = true
		}
		if r.err != nil && !cancelled {
			w.log.Warn("Failed to kill container", logkey.ContainerName, name, logkey.Err, r.err)
			w.retryAt[killPrefix+r.op.kill.ID] = now.Add(killRetry)
		}
	}
}

func (w *worker) failStart(name string, err error, now time.Time) {
	delay := RetryDelay
	var reason *Reason
	if errors.As(err, &reason) {
		w.waiting[name] = reason.Waiting
		if reason.OnChange {
			w.onChange[name] = true
		}
		if reason.RetryAfter > 0 {
			delay = reason.RetryAfter
		}
	} else {
		w.waiting[name] = Waiting{Reason: "CreateContainerError", Message: err.Error()}
	}
	w.retryAt[name] = now.Add(delay)
	w.log.Warn("Failed to start container", logkey.ContainerName, name, logkey.Err, err)
}

// resize carries out the in-place part of a resize, and keeps account of what of it is still to come.
func (w *worker) resize(ctx context.Context, pod *v1.Pod, a Actions) {
	for _, name := range a.Resizing {
		if !w.resizing[name] && w.pool.cfg.Event != nil && len(w.resizing) == 0 {
			w.pool.cfg.Event(pod, "", v1.EventTypeNormal, "ResizeStarted", fmt.Sprintf("Pod resize started: generation %d", pod.Generation))
		}
		w.resizing[name] = true
	}
	was := len(w.resizing)
	for name := range w.resizing {
		if c := w.state.Latest(name); !slices.Contains(a.Resizing, name) && (c == nil || c.State == podstate.Running) {
			delete(w.resizing, name)
		}
	}
	if was > 0 && len(w.resizing) == 0 {
		w.resizeError = ""
		if w.pool.cfg.Event != nil {
			w.pool.cfg.Event(pod, "", v1.EventTypeNormal, "ResizeCompleted", fmt.Sprintf("Pod resize completed: generation %d", pod.Generation))
		}
	}
	if len(a.Resize) == 0 {
		return
	}
	state, names := w.state, a.Resize
	w.launch(ctx, &op{key: opResize}, func(ctx context.Context) outcome {
		return outcome{err: w.pool.cfg.Runtime.Resize(ctx, pod, &state, names)}
	})
}
