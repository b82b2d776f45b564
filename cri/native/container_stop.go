package native

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/reevehq/reeve/internal/logkey"
)

// StopContainer sends the stop signal (the container's, else the image's, else SIGTERM), waits up to timeout seconds,
// then SIGKILLs, and returns when the container has exited. With timeout 0 it kills at once. Unknown and exited
// containers are fine.
func (r *Runtime) StopContainer(ctx context.Context, id string, timeout int64) error {
	c, err := r.store.container(id)
	if status.Code(err) == codes.NotFound {
		return nil
	}
	if err != nil {
		return err
	}
	return toStatus(r.stopContainer(ctx, c, time.Duration(timeout)*time.Second))
}

// stopContainer takes no operation lock: a stop with a long grace period must not keep a kill waiting.
func (r *Runtime) stopContainer(ctx context.Context, c *container, grace time.Duration) error {
	r.store.mu.Lock()
	state := c.state
	r.store.mu.Unlock()
	if state == stateStarting { // wait for the start to be over, either way
		unlock, err := r.lock(ctx, c.op, "container "+c.id)
		if err != nil {
			return err
		}
		unlock()
		r.store.mu.Lock()
		state = c.state
		r.store.mu.Unlock()
	}
	if state != stateRunning {
		return nil
	}
	if grace > 0 {
		if err := r.signalContainer(ctx, c, stopSignal(c.rec.StopSignal)); err != nil {
			return fmt.Errorf("stop container %q: %w", c.id, err)
		}
		t := time.NewTimer(grace)
		defer t.Stop()
		select {
		case <-c.exited:
			return nil
		case <-ctx.Done():
			return fmt.Errorf("stop container %q: %w", c.id, ctx.Err())
		case <-t.C:
			r.log.Info("Killed container after its grace period", logkey.ContainerName, c.name(), logkey.ContainerID, c.id)
		}
	}
	if err := r.signalContainer(ctx, c, syscall.SIGKILL); err != nil {
		return fmt.Errorf("kill container %q: %w", c.id, err)
	}
	t, ask := time.NewTimer(killTimeout), time.NewTimer(linkPatience)
	defer t.Stop()
	defer ask.Stop()
	for waiting := true; waiting; {
		select {
		case <-c.exited:
			return nil
		case <-ctx.Done():
			return fmt.Errorf("kill container %q: %w", c.id, ctx.Err())
		case <-ask.C: // a stopped containerd tells no exits, and says so no earlier than it is asked
			if _, err := r.getTask(ctx, c.id); err != nil && r.link.stopped() {
				return fmt.Errorf("learn of the end of container %q: %w", c.id, err)
			}
		case <-t.C:
			waiting = false
		}
	}
	// No event: ask. A task stuck in the kernel stays, and so does the error.
	if err := r.resyncContainer(ctx, c); err != nil {
		return fmt.Errorf("kill container %q: %w", c.id, err)
	}
	select {
	case <-c.exited:
		return nil
	case <-time.After(drainTimeout):
		return status.Errorf(codes.DeadlineExceeded, "container %q did not end within %s of SIGKILL", c.id, killTimeout)
	}
}

func (r *Runtime) signalContainer(ctx context.Context, c *container, sig syscall.Signal) error {
	r.store.mu.RLock()
	sent := c.pidfd.signal(sig)
	r.store.mu.RUnlock()
	if sent {
		return nil // the shim kills the rest, if the PID namespace is shared
	}
	ended, err := r.killTask(ctx, c.id, "", sig, sig == syscall.SIGKILL)
	if err != nil {
		return err
	}
	if ended {
		return r.resyncContainer(ctx, c)
	}
	return nil
}

// stopSignal parses "SIGTERM", "TERM", "15", "SIGRTMIN+3" and CRI's "SIGRTMINPLUS3"; anything else is SIGTERM.
func stopSignal(s string) syscall.Signal {
	s = strings.ToUpper(strings.TrimSpace(s))
	if n, err := strconv.Atoi(s); err == nil && n > 0 && n < 65 {
		return syscall.Signal(n)
	}
	if s != "" && !strings.HasPrefix(s, "SIG") {
		s = "SIG" + s
	}
	if sig := unix.SignalNum(s); sig != 0 {
		return sig
	}
	s = strings.NewReplacer("PLUS", "+", "MINUS", "-").Replace(s)
	const rtMin, rtMax = 34, 64
	for prefix, base := range map[string]int{"SIGRTMIN": rtMin, "SIGRTMAX": rtMax} {
		if off, ok := strings.CutPrefix(s, prefix); ok {
			n, err := strconv.Atoi(off)
			if off == "" {
				n, err = 0, nil
			}
			if err == nil && base+n >= rtMin && base+n <= rtMax {
				return syscall.Signal(base + n)
			}
		}
	}
	return syscall.SIGTERM
}

// RemoveContainer kills the container if it runs, and forgets it. Its log file stays. Unknown containers are fine.
func (r *Runtime) RemoveContainer(ctx context.Context, id string) error {
	c, err := r.store.container(id)
	if status.Code(err) == codes.NotFound {
		return nil
	}
	if err != nil {
		return err
	}
	if err := r.stopContainer(ctx, c, 0); err != nil {
		return toStatus(err)
	}
	unlock, err := r.lock(ctx, c.op, "container "+c.id)
	if err != nil {
		return err
	}
	defer unlock()
	r.store.mu.Lock()
	_, had := r.store.containers[c.id]
	hasTask, gone := c.state != stateCreated, c.taskGone
	r.store.mu.Unlock()
	if !had {
		return nil
	}
	if gone != nil { // being deleted already
		select {
		case <-gone:
		case <-ctx.Done():
		}
	}
	if hasTask {
		if err := r.deleteTask(ctx, c.id); err != nil {
			if err := r.destroyTask(ctx, c.id); err != nil {
				return toStatus(err)
			}
		}
	}
	if err := r.eraseContainer(ctx, c); err != nil {
		return toStatus(fmt.Errorf("remove container %q: %w", c.id, err))
	}
	r.store.mu.Lock()
	delete(r.store.containers, c.id)
	ev := r.eventLocked(runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT, c.id, c.rec.SandboxID)
	r.store.mu.Unlock()
	r.store.release(containerName(c.rec.SandboxID, c.rec.Config.M.Metadata), c.id)
	r.events.send(ev)
	return nil
}
