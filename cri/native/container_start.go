package native

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/reevehq/reeve/internal/logkey"
	"github.com/reevehq/reeve/internal/logpump"
)

// StartContainer makes and starts the container's task. A container that cannot be started (no such program, no
// permission) has then exited, with the reason StartError and code 128.
func (r *Runtime) StartContainer(ctx context.Context, id string) error {
	c, err := r.store.container(id)
	if err != nil {
		return err
	}
	unlock, err := r.lock(ctx, c.op, "container "+c.id)
	if err != nil {
		return err
	}
	defer unlock()
	s, err := r.store.sandbox(c.rec.SandboxID)
	if err != nil {
		return err
	}
	s.busy.Add(1)
	defer s.busy.Add(-1)
	r.store.mu.Lock()
	switch {
	case c.state != stateCreated:
		st := c.state.proto()
		r.store.mu.Unlock()
		return status.Errorf(codes.FailedPrecondition, "container %q is in state %s, only a created one can start", c.id, st)
	case s.state != sandboxReady:
		r.store.mu.Unlock()
		return status.Errorf(codes.FailedPrecondition, "sandbox %q of container %q is not ready", s.id, c.id)
	}
	c.state = stateStarting
	r.store.mu.Unlock()

	pid, fd, started, err := r.launch(ctx, c, s.rec.Handler)
	s.first()
	if err != nil {
		fd.close()
		cctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
		defer cancel()
		if derr := r.destroyTask(cctx, c.id); derr != nil {
			r.log.Error("Could not undo a failed start", logkey.ContainerID, c.id, logkey.Err, derr)
		}
		now := time.Now()
		r.settle(cctx, c, exitRecord{
			Version: recordVersion, Code: codeStartError, Reason: reasonStartError, Message: startMessage(err), Started: now, At: now,
		}, true)
		return toStatus(fmt.Errorf("start container %q: %w", c.name(), err))
	}
	r.store.mu.Lock()
	c.pid, c.pidfd, c.started, c.state, c.mounts = pid, fd, started, stateRunning, nil
	early := c.early
	c.early = nil
	ev := r.eventLocked(runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT, c.id, c.rec.SandboxID)
	r.store.mu.Unlock()
	r.log.Info("Started container", logkey.ContainerName, c.name(), logkey.ContainerID, c.id)
	r.events.send(ev)
	if early != nil {
		r.onContainerExit(c, *early)
	}
	return nil
}

func (c *container) name() string { return c.rec.Config.M.GetMetadata().GetName() }

// launch opens the output, makes the task and starts it.
func (r *Runtime) launch(ctx context.Context, c *container, handler string) (pid uint32, fd pidfd, started time.Time, err error) {
	config := c.rec.Config.M
	io := taskIO{terminal: config.Tty}
	if err := r.pump.Add(ctx, c.id, c.rec.LogPath, config.Stdin, !config.Tty); err != nil {
		return 0, fd, started, err
	}
	p := logpump.PathsOf(r.cfg.LogpumpDir, c.id)
	io.stdout = p.Stdout
	if !config.Tty {
		io.stderr = p.Stderr
	}
	if config.Stdin {
		io.stdin = p.Stdin
	}
	if err := r.hold(c, io); err != nil {
		return 0, fd, started, err
	}
	rootfs := c.mounts
	if rootfs == nil {
		if rootfs, err = r.snapshotMounts(ctx, c.id); err != nil {
			return 0, fd, started, err
		}
	}
	leave, err := r.gate.enter(ctx, gateContainer)
	if err != nil {
		return 0, fd, started, err
	}
	defer leave()
	// From here on a caller that gives up must not leave a task that nobody knows: the calls have deadlines of their own.
	tctx := context.WithoutCancel(ctx)
	if pid, err = r.createTask(tctx, c.id, rootfs, io); err != nil {
		return 0, fd, started, err
	}
	if err := ctx.Err(); err != nil {
		return 0, fd, started, err
	}
	fd = r.openPidfd(handler, pid)
	started = time.Now()
	if err := writeJSON(filepath.Join(r.containerDir(c.id), "start.json"), startRecord{Version: recordVersion, PID: pid, At: started}, false); err != nil {
		return 0, fd, started, fmt.Errorf("note the start: %w", err)
	}
	if _, err := r.startTask(tctx, c.id, ""); err != nil {
		return 0, fd, started, err
	}
	return pid, fd, started, nil
}

// hold opens the read ends of the output, and stdin's FIFO, beside logpump: a FIFO that nobody holds loses what is in
// it, and the container might end in the very moment in which logpump is being restarted.
func (r *Runtime) hold(c *container, io taskIO) error {
	var files []*os.File
	for _, p := range []string{io.stdout, io.stderr} {
		if p == "" {
			continue
		}
		fd, err := syscall.Open(p, syscall.O_RDONLY|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
		if err != nil {
			return &os.PathError{Op: "open", Path: p, Err: err}
		}
		files = append(files, os.NewFile(uintptr(fd), p))
	}
	if io.stdin != "" && !c.rec.Config.M.StdinOnce {
		fd, err := syscall.Open(io.stdin, syscall.O_RDWR|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
		if err != nil {
			return &os.PathError{Op: "open", Path: io.stdin, Err: err}
		}
		files = append(files, os.NewFile(uintptr(fd), io.stdin))
	}
	r.store.mu.Lock()
	c.holds = append(c.holds, files...)
	r.store.mu.Unlock()
	return nil
}

// startMessage strips what containerd's layers put before runc's own words.
func startMessage(err error) string {
	msg := err.Error()
	for _, p := range []string{"failed to create shim task: ", "OCI runtime create failed: ", "OCI runtime start failed: ", "runc create failed: "} {
		if _, after, ok := strings.Cut(msg, p); ok {
			msg = after
		}
	}
	return msg
}
