package native

import (
	"context"
	"errors"
	"io"
	"sync"
	"time"

	apievents "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/typeurl/v2"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/reevehq/reeve/internal/logkey"
)

var errEOF = io.EOF

// exitEvent is the end of a task as containerd tells it.
type exitEvent struct {
	pid  uint32
	code uint32
	at   time.Time
}

// subscription is one stream of containerd's events.
type subscription struct {
	events <-chan *events.Envelope
	errs   <-chan error
}

func (r *Runtime) subscribe(ctx context.Context) subscription {
	ns := "namespace==" + r.cfg.Namespace
	ch, errs := r.client.EventService().Subscribe(ctx,
		ns+`,topic=="/tasks/exit"`, ns+`,topic=="/tasks/oom"`, ns+`,topic~="/images/"`)
	return subscription{ch, errs}
}

// eventLoop follows containerd's events. When the stream breaks, because containerd died, it subscribes again and then
// asks for the state of everything, since exits may have been missed.
func (r *Runtime) eventLoop(ctx context.Context, sub subscription) {
	wait := eventRetryMin
	for {
		select {
		case <-ctx.Done():
			return
		case env := <-sub.events:
			if env != nil {
				wait = eventRetryMin
				r.handle(ctx, env)
			}
			continue
		case err := <-sub.errs:
			if ctx.Err() != nil {
				return
			}
			r.log.Debug("Containerd's event stream broke", logkey.Err, err)
		}
		for {
			select {
			case <-ctx.Done():
				return
			case <-time.After(wait):
			}
			wait = min(2*wait, eventRetryMax)
			sub = r.subscribe(ctx)
			if err := r.resync(ctx, ctx); err != nil {
				r.log.Debug("Could not resync with containerd", logkey.Err, err)
				continue
			}
			r.log.Info("Resynced with containerd")
			r.kickGC()
			break
		}
	}
}

func (r *Runtime) handle(ctx context.Context, env *events.Envelope) {
	if env.Event == nil {
		return
	}
	v, err := typeurl.UnmarshalAny(env.Event)
	if err != nil {
		r.log.Debug("Could not read an event", "topic", env.Topic, logkey.Err, err)
		return
	}
	switch ev := v.(type) {
	case *apievents.TaskExit:
		if ev.ID != ev.ContainerID {
			return // an exec's; whoever ran it waits for it
		}
		r.onExit(ev.ContainerID, exitEvent{pid: ev.Pid, code: ev.ExitStatus, at: ev.ExitedAt.AsTime()})
	case *apievents.TaskOOM:
		r.store.mu.Lock()
		if c := r.store.containers[ev.ContainerID]; c != nil {
			c.oom = true
			if c.state == stateExited && c.exit.Code == 137 && c.exit.Reason != reasonOOM {
				c.exit.Reason = reasonOOM // the event came after the exit
				rec := c.exit
				r.store.mu.Unlock()
				r.keepExit(c, rec)
				return
			}
		}
		r.store.mu.Unlock()
	case *apievents.ImageCreate:
		r.images.refresh(ctx, ev.Name)
	case *apievents.ImageUpdate:
		r.images.refresh(ctx, ev.Name)
	case *apievents.ImageDelete:
		r.images.forget(ev.Name)
	}
}

// onExit starts what follows from the end of a task; it does not wait.
func (r *Runtime) onExit(id string, ev exitEvent) {
	r.store.mu.Lock()
	s, c := r.store.sandboxes[id], r.store.containers[id]
	if s != nil && s.rec.Pinned && s.state == sandboxReady && s.pid != ev.pid {
		s.early = ev.pid // of an earlier runtime's half-made pause, or of one that is just being started
		s = nil
	}
	r.store.mu.Unlock()
	switch {
	case s != nil:
		r.onSandboxExit(s)
	case c != nil:
		r.onContainerExit(c, ev)
	}
}

// onSandboxExit notes that pause has ended. Taking the rest down is StopPodSandbox's, which the agent calls when it sees
// a sandbox that is not ready.
func (r *Runtime) onSandboxExit(s *sandbox) {
	r.store.mu.Lock()
	select {
	case <-s.exited:
		r.store.mu.Unlock()
		return
	default:
		close(s.exited)
	}
	var ev *runtimeapi.ContainerEventResponse
	if s.state == sandboxReady {
		s.state = sandboxNotReady
		ev = r.eventLocked(runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT, s.id, s.id)
	}
	r.store.mu.Unlock()
	if ev != nil {
		r.log.Warn("Pause container ended by itself", logkey.SandboxID, s.id)
		r.kickGC() // its shim may have been killed
		r.events.send(ev)
	}
}

func (r *Runtime) onContainerExit(c *container, ev exitEvent) {
	r.store.mu.Lock()
	if c.state == stateStarting {
		c.early = &ev
		r.store.mu.Unlock()
		return
	}
	if c.state != stateRunning || c.settling {
		r.store.mu.Unlock()
		return
	}
	c.settling = true
	gone := make(chan struct{})
	c.taskGone = gone
	started, told := c.started, c.oom
	r.store.mu.Unlock()
	oom, counted := r.outOfMemory(c)
	rec := exitRecord{Version: recordVersion, Code: int32(ev.code), Started: started, At: ev.at, PodOOMKills: counted}
	switch {
	case ev.code == 137 && (oom || told):
		rec.Reason = reasonOOM
	case ev.code == 0:
		rec.Reason = reasonCompleted
	default:
		rec.Reason = reasonError
	}
	r.wg.Go(func() {
		ctx, cancel := context.WithTimeout(context.Background(), cleanupTimeout)
		defer cancel()
		defer close(gone)
		r.settle(ctx, c, rec, false)
		// The shim lets go of the task; with a sandbox's last one it leaves. Nobody waits for that.
		if err := r.deleteTask(ctx, c.id); err != nil {
			r.log.Debug("Could not delete an ended task", logkey.ContainerID, c.id, logkey.Err, err)
		}
	})
}

// settle makes a container exited: its log is complete, its exit is on disk, and only then is it told.
func (r *Runtime) settle(ctx context.Context, c *container, rec exitRecord, remove bool) {
	if remove {
		if err := r.pump.Remove(ctx, c.id); err != nil {
			r.log.Warn("Could not close a container's output", logkey.ContainerID, c.id, logkey.Err, err)
		}
	} else if _, err := r.pump.Finish(ctx, c.id, drainTimeout); err != nil {
		r.log.Warn("Could not finish a container's log", logkey.ContainerID, c.id, logkey.Err, err)
	}
	r.keepExit(c, rec)
	r.store.mu.Lock()
	holds := c.holds
	c.holds = nil
	var ev *runtimeapi.ContainerEventResponse
	if c.state != stateExited {
		c.state, c.exit, c.pid = stateExited, rec, 0
		c.pidfd.close()
		if rec.Reason == reasonStartError {
			c.started = rec.Started
		}
		close(c.exited)
		ev = r.eventLocked(runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT, c.id, c.rec.SandboxID)
	}
	r.store.mu.Unlock()
	for _, f := range holds {
		f.Close()
	}
	if ev != nil {
		r.log.Info("Container exited", logkey.ContainerName, c.name(), logkey.ContainerID, c.id, "exitCode", rec.Code, "reason", rec.Reason)
		r.events.send(ev)
	}
}

// keepExit writes the exit so that it survives us at once, and a power loss soon.
func (r *Runtime) keepExit(c *container, rec exitRecord) {
	path := r.containerDir(c.id) + "/exit.json"
	if err := writeJSON(path, rec, false); err != nil {
		r.log.Error("Could not keep a container's exit", logkey.ContainerID, c.id, logkey.Err, err)
		return
	}
	r.wg.Go(func() { syncFile(path) })
}

// eventLocked builds a CRI event with the statuses of the whole pod, as CRI wants.
func (r *Runtime) eventLocked(t runtimeapi.ContainerEventType, containerID, sandboxID string) *runtimeapi.ContainerEventResponse {
	ev := &runtimeapi.ContainerEventResponse{ContainerId: containerID, ContainerEventType: t, CreatedAt: time.Now().UnixNano()}
	if s := r.store.sandboxes[sandboxID]; s != nil {
		ev.PodSandboxStatus = s.statusLocked()
	}
	for _, c := range r.store.containersOfLocked(sandboxID) {
		ev.ContainersStatuses = append(ev.ContainersStatuses, c.statusLocked())
	}
	return ev
}

func (r *Runtime) publish(t runtimeapi.ContainerEventType, containerID, sandboxID string) {
	r.store.mu.RLock()
	ev := r.eventLocked(t, containerID, sandboxID)
	r.store.mu.RUnlock()
	r.events.send(ev)
}

// fanout gives CRI events to subscribers. send never blocks: a subscriber that is too slow is cut off, and sees that in
// its error.
type fanout struct {
	mu   sync.Mutex
	subs map[*subscriber]bool
}

type subscriber struct {
	ch  chan *runtimeapi.ContainerEventResponse
	cut chan struct{}
}

// eventBacklog is how many events a subscriber may be behind.
const eventBacklog = 1000

var errSlowSubscriber = errors.New("container events: the reader is too slow, some were dropped: list again and subscribe anew")

func (f *fanout) send(ev *runtimeapi.ContainerEventResponse) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for s := range f.subs {
		select {
		case s.ch <- ev:
		default:
			close(s.cut)
			delete(f.subs, s)
		}
	}
}

// GetContainerEvents sends every later change to ch until ctx ends. established, if set, is called with nil once nothing
// can be missed any more.
func (r *Runtime) GetContainerEvents(ctx context.Context, ch chan *runtimeapi.ContainerEventResponse, established func(runtimeapi.RuntimeService_GetContainerEventsClient)) error {
	s := &subscriber{ch: make(chan *runtimeapi.ContainerEventResponse, eventBacklog), cut: make(chan struct{})}
	r.events.mu.Lock()
	if r.events.subs == nil {
		r.events.subs = map[*subscriber]bool{}
	}
	r.events.subs[s] = true
	r.events.mu.Unlock()
	defer func() {
		r.events.mu.Lock()
		delete(r.events.subs, s)
		r.events.mu.Unlock()
	}()
	if established != nil {
		established(nil)
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.cut:
			return toStatus(errSlowSubscriber)
		case ev := <-s.ch:
			select {
			case ch <- ev:
			case <-ctx.Done():
				return ctx.Err()
			}
		}
	}
}
