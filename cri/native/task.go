package native

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/api/types/runc/options"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/typeurl/v2"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// containerd's task calls, one function each, with a deadline and native errors. They talk to the task service directly:
// the client's Container and Task objects read the record again at every step, which is a quarter of a pod's round
// trips.

type mountList []*types.Mount

func toMounts(ms []mount.Mount) mountList {
	out := make(mountList, 0, len(ms))
	for _, m := range ms {
		out = append(out, &types.Mount{Type: m.Type, Source: m.Source, Target: m.Target, Options: m.Options})
	}
	return out
}

// taskIO names a task's FIFOs; empty ones go to /dev/null.
type taskIO struct {
	stdin, stdout, stderr string
	terminal              bool
}

func (r *Runtime) createRecord(ctx context.Context, id, handler string, s *specs.Spec, labels map[string]string, record any, snapshotKey, image string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	h := r.cfg.Handlers[handler]
	anySpec, err := typeurl.MarshalAny(s)
	if err != nil {
		return fmt.Errorf("encode spec: %w", err)
	}
	ext, err := encodeRecord(record)
	if err != nil {
		return fmt.Errorf("encode record: %w", err)
	}
	c := containers.Container{
		ID: id, Labels: labels, Spec: anySpec, Extensions: ext, Image: image,
		Runtime: containers.RuntimeInfo{Name: h.Type},
	}
	if snapshotKey != "" {
		c.Snapshotter, c.SnapshotKey = r.cfg.Snapshotter, snapshotKey
	}
	if h.Type == runcType {
		opts, err := typeurl.MarshalAny(&options.Options{BinaryName: h.Binary, SystemdCgroup: r.host.SystemdCgroup})
		if err != nil {
			return fmt.Errorf("encode runtime options: %w", err)
		}
		c.Runtime.Options = opts
	}
	if _, err := r.conts.Create(ctx, c); err != nil {
		return fmt.Errorf("record %q in containerd: %w", id, err)
	}
	return nil
}

// createTask makes a task. One that containerd finished for a runtime that was killed meanwhile, and that nobody has
// heard of, is replaced.
func (r *Runtime) createTask(ctx context.Context, id string, rootfs mountList, io taskIO) (pid uint32, err error) {
	ctx, cancel := context.WithTimeout(ctx, createTimeout)
	defer cancel()
	if pid, err = r.tryCreateTask(ctx, id, rootfs, io); !errdefs.IsAlreadyExists(err) {
		return pid, err
	}
	if err := r.destroyTask(ctx, id); err != nil {
		return 0, err
	}
	return r.tryCreateTask(ctx, id, rootfs, io)
}

func (r *Runtime) tryCreateTask(ctx context.Context, id string, rootfs mountList, io taskIO) (pid uint32, err error) {
	release, err := r.holdShim(ctx, id)
	if err != nil {
		return 0, err
	}
	defer release()
	resp, err := r.tasks.Create(ctx, &tasks.CreateTaskRequest{
		ContainerID: id, Rootfs: rootfs, Stdin: io.stdin, Stdout: io.stdout, Stderr: io.stderr, Terminal: io.terminal,
	})
	if err != nil {
		return 0, errgrpc.ToNative(err)
	}
	return resp.Pid, nil
}

func (r *Runtime) startTask(ctx context.Context, id, execID string) (pid uint32, err error) {
	ctx, cancel := context.WithTimeout(ctx, createTimeout)
	defer cancel()
	resp, err := r.tasks.Start(ctx, &tasks.StartRequest{ContainerID: id, ExecID: execID})
	if err != nil {
		return 0, errgrpc.ToNative(err)
	}
	return resp.Pid, nil
}

// killTask sends a signal. A task that is gone or has ended is fine: ended is true then.
func (r *Runtime) killTask(ctx context.Context, id, execID string, sig syscall.Signal, all bool) (ended bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err = r.tasks.Kill(ctx, &tasks.KillRequest{ContainerID: id, ExecID: execID, Signal: uint32(sig), All: all})
	err = errgrpc.ToNative(err)
	if errdefs.IsNotFound(err) || errdefs.IsFailedPrecondition(err) {
		return true, nil
	}
	return false, err
}

// deleteTask removes an ended task, and with the last one of a sandbox the shim. Gone is fine.
func (r *Runtime) deleteTask(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	release, err := r.holdShim(ctx, id)
	if err != nil {
		return err
	}
	defer release()
	_, err = r.tasks.Delete(ctx, &tasks.DeleteTaskRequest{ContainerID: id})
	err = errgrpc.ToNative(err)
	if errdefs.IsNotFound(err) {
		return nil
	}
	return err
}

// getTask returns nil without error when there is none.
func (r *Runtime) getTask(ctx context.Context, id string) (*tasktypes.Process, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	resp, err := r.tasks.Get(ctx, &tasks.GetRequest{ContainerID: id})
	if err = errgrpc.ToNative(err); err != nil {
		if errdefs.IsNotFound(err) {
			return nil, nil
		}
		return nil, err
	}
	return resp.Process, nil
}

// destroyTask kills and deletes whatever task id has, in any state. It is for undoing and recovery, where no one waits
// for an exit event. It tries until ctx ends, or containerd is stopped.
func (r *Runtime) destroyTask(ctx context.Context, id string) error {
	for wait := time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		if _, err := r.killTask(ctx, id, "", syscall.SIGKILL, true); err != nil && !errdefs.IsUnavailable(err) {
			// An unreachable shim is containerd's to clean up, at the delete below.
			r.log.Debug("Could not kill task", "id", id, "err", err)
		}
		err := r.deleteTask(ctx, id)
		if err == nil {
			return nil
		}
		if r.link.stopped() || !errdefs.IsFailedPrecondition(err) && !errdefs.IsUnavailable(err) && ctx.Err() != nil {
			return fmt.Errorf("delete task %q: %w", id, err)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("delete task %q: %w", id, err)
		case <-time.After(wait):
		}
	}
}

// deleteRecord removes a container record; gone is fine.
func (r *Runtime) deleteRecord(ctx context.Context, id string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if err := r.conts.Delete(ctx, id); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("remove record %q from containerd: %w", id, err)
	}
	return nil
}

// prepareSnapshot makes the writable root of container key on top of parent.
func (r *Runtime) prepareSnapshot(ctx context.Context, key, parent string) (mountList, []mount.Mount, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	ms, err := r.snaps.Prepare(ctx, key, parent, snapshots.WithLabels(map[string]string{
		labelRoot: time.Now().UTC().Format(time.RFC3339), labelSnapshot: key,
	}))
	if err != nil {
		return nil, nil, fmt.Errorf("prepare snapshot %q: %w", key, err)
	}
	return toMounts(ms), ms, nil
}

// snapshotMounts asks again for the mounts of a snapshot.
func (r *Runtime) snapshotMounts(ctx context.Context, key string) (mountList, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	ms, err := r.snaps.Mounts(ctx, key)
	if err != nil {
		return nil, fmt.Errorf("mounts of snapshot %q: %w", key, err)
	}
	return toMounts(ms), nil
}

// removeSnapshot removes a container's root; gone is fine.
func (r *Runtime) removeSnapshot(ctx context.Context, key string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if err := r.snaps.Remove(ctx, key); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("remove snapshot %q: %w", key, err)
	}
	return nil
}

// lock takes an object's operation lock, or gives up with ctx.
func (r *Runtime) lock(ctx context.Context, l opLock, what string) (unlock func(), err error) {
	select {
	case l <- struct{}{}:
		return func() { <-l }, nil
	case <-ctx.Done():
		return nil, toStatus(fmt.Errorf("wait for another operation on %s: %w", what, ctx.Err()))
	}
}

// toStatus gives an error the gRPC code that CRI callers expect, keeping one that it already carries.
func toStatus(err error) error {
	if err == nil {
		return nil
	}
	type carrier interface{ GRPCStatus() *status.Status }
	if s, ok := err.(carrier); ok && s.GRPCStatus().Code() != codes.Unknown {
		return err // nothing was said around it
	}
	var s carrier
	if errors.As(err, &s) {
		if st := s.GRPCStatus(); st.Code() != codes.Unknown {
			return status.Error(st.Code(), err.Error())
		}
	}
	code := codes.Unknown
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		code = codes.DeadlineExceeded
	case errors.Is(err, context.Canceled):
		code = codes.Canceled
	case errdefs.IsNotFound(err):
		code = codes.NotFound
	case errdefs.IsAlreadyExists(err):
		code = codes.AlreadyExists
	case errdefs.IsInvalidArgument(err):
		code = codes.InvalidArgument
	case errdefs.IsFailedPrecondition(err):
		code = codes.FailedPrecondition
	case errdefs.IsUnavailable(err):
		code = codes.Unavailable
	case errdefs.IsNotImplemented(err):
		code = codes.Unimplemented
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT), strings.Contains(err.Error(), syscall.ENOSPC.Error()):
		code = codes.ResourceExhausted // ours, or in containerd's or runc's words
	}
	return status.Error(code, err.Error())
}
