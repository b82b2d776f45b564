package native

import (
	"context"
	"time"

	tasktypes "github.com/containerd/containerd/api/types/task"
)

// resync compares the store with containerd's tasks and settles the exits that no event told of. Whose shim does not
// answer is asked again in the background.
func (r *Runtime) resync(ctx, run context.Context) error {
	running, err := r.listTasks(ctx)
	if err != nil {
		return err
	}
	r.store.mu.RLock()
	var sandboxes []*sandbox
	var conts []*container
	for _, s := range r.store.sandboxes {
		if s.state == sandboxReady && !alive(running[s.id]) && !s.pausePending() {
			sandboxes = append(sandboxes, s)
		}
	}
	for _, c := range r.store.containers {
		if c.state == stateRunning && !alive(running[c.id]) {
			conts = append(conts, c)
		}
	}
	r.store.mu.RUnlock()
	for _, s := range sandboxes {
		r.verifySandbox(run, s)
	}
	for _, c := range conts {
		if p := running[c.id]; ended(p) {
			r.onContainerExit(c, exitEvent{code: p.ExitStatus, at: p.ExitedAt.AsTime()})
		} else {
			r.verifyContainer(run, c)
		}
	}
	return nil
}

// verifySandbox asks the shim, in the background and until it answers, whether pause still runs.
func (r *Runtime) verifySandbox(run context.Context, s *sandbox) {
	r.verify(run, s.id, s.id, func(v taskView) {
		if !alive(v.task) {
			r.onSandboxExit(s)
		}
	}, func() bool { return s.state == sandboxReady })
}

// verifyContainer asks the shim, in the background and until it answers, what has become of a container.
func (r *Runtime) verifyContainer(run context.Context, c *container) {
	r.verify(run, c.id, c.rec.SandboxID, func(v taskView) { r.settleMissed(c, v.task) }, func() bool { return c.state == stateRunning && !c.settling })
}

// verify looks at a task until there is an answer; wanted, under the store's lock, says whether it is still of interest.
func (r *Runtime) verify(run context.Context, id, sandboxID string, answer func(taskView), wanted func() bool) {
	r.store.mu.Lock()
	defer r.store.mu.Unlock()
	if r.verifying[id] {
		return
	}
	if r.verifying == nil {
		r.verifying = map[string]bool{}
	}
	r.verifying[id] = true
	r.wg.Go(func() {
		defer func() {
			r.store.mu.Lock()
			delete(r.verifying, id)
			r.store.mu.Unlock()
		}()
		for wait := undoRetryMin; ; wait = min(2*wait, verifyRetryMax) {
			if v := r.viewTask(run, id); !v.unknown {
				answer(v)
				return
			}
			r.setTrouble(sandboxID, shimSilent)
			select {
			case <-run.Done():
				return
			case <-time.After(wait):
			}
			r.store.mu.RLock()
			still := wanted()
			r.store.mu.RUnlock()
			if !still {
				return
			}
		}
	})
}

// resyncContainer asks for one container's task and settles it if it has ended.
func (r *Runtime) resyncContainer(ctx context.Context, c *container) error {
	p, err := r.getTask(ctx, c.id)
	if err != nil {
		return err
	}
	r.settleMissed(c, p)
	return nil
}

// settleMissed settles a container whose task, as its shim says, has ended or is gone.
func (r *Runtime) settleMissed(c *container, p *tasktypes.Process) {
	switch {
	case alive(p):
	case ended(p):
		r.onContainerExit(c, exitEvent{code: p.ExitStatus, at: p.ExitedAt.AsTime()})
	case p == nil:
		r.loseContainer(c)
	}
}
