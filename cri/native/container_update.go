package native

import (
	"context"
	"errors"
	"fmt"

	"github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/reevehq/reeve/cri/native/spec"
	"github.com/reevehq/reeve/internal/logpump"
)

// UpdateContainerResources changes the limits of a created or running container in place, and remembers them.
func (r *Runtime) UpdateContainerResources(ctx context.Context, id string, res *runtimeapi.ContainerResources) error {
	c, err := r.store.container(id)
	if err != nil {
		return err
	}
	unlock, err := r.lock(ctx, c.op, "container "+c.id)
	if err != nil {
		return err
	}
	defer unlock()
	r.store.mu.RLock()
	state, rec := c.state, c.rec
	r.store.mu.RUnlock()
	if state == stateExited {
		return status.Errorf(codes.FailedPrecondition, "container %q has exited", c.id)
	}
	config := proto.Clone(rec.Config.M).(*runtimeapi.ContainerConfig)
	if config.Linux == nil {
		config.Linux = &runtimeapi.LinuxContainerConfig{}
	}
	config.Linux.Resources = spec.Merge(config.Linux.Resources, res.GetLinux())
	limits := r.host.Resources(res.GetLinux())
	cctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	if state == stateRunning {
		anyRes, err := typeurl.MarshalAny(limits)
		if err != nil {
			return toStatus(err)
		}
		_, err = r.tasks.Update(cctx, &tasks.UpdateTaskRequest{ContainerID: c.id, Resources: typeurl.MarshalProto(anyRes)})
		if err = errgrpc.ToNative(err); err != nil {
			return toStatus(fmt.Errorf("update resources of container %q: %w", c.id, err))
		}
	}
	rec.Config.M = config
	ext, err := encodeRecord(rec)
	if err != nil {
		return toStatus(err)
	}
	change := containers.Container{ID: c.id, Extensions: ext}
	paths := []string{"extensions." + extRecord}
	if state == stateCreated { // its spec has yet to be used
		old, err := r.conts.Get(cctx, c.id)
		if err != nil {
			return toStatus(err)
		}
		if change.Spec, err = respec(old, r.host, config.Linux.Resources); err != nil {
			return toStatus(err)
		}
		paths = append(paths, "spec")
	}
	if _, err := r.conts.Update(cctx, change, paths...); err != nil {
		return toStatus(fmt.Errorf("record new resources of container %q: %w", c.id, err))
	}
	r.store.mu.Lock()
	c.rec = rec
	r.store.mu.Unlock()
	return nil
}

// ReopenContainerLog makes logpump close the log file, which the caller has renamed, and open its path anew.
func (r *Runtime) ReopenContainerLog(ctx context.Context, id string) error {
	c, err := r.store.container(id)
	if err != nil {
		return err
	}
	r.store.mu.RLock()
	state := c.state
	r.store.mu.RUnlock()
	if state != stateRunning {
		return status.Errorf(codes.FailedPrecondition, "container %q is not running", c.id)
	}
	if err := r.pump.Reopen(ctx, c.id); err != nil {
		if errors.Is(err, logpump.ErrUnknown) {
			return status.Errorf(codes.FailedPrecondition, "container %q has no open log", c.id)
		}
		return toStatus(err)
	}
	return nil
}

// CheckpointContainer is not supported; see docs/SCOPE.md.
func (r *Runtime) CheckpointContainer(_ context.Context, req *runtimeapi.CheckpointContainerRequest) error {
	return status.Errorf(codes.Unimplemented, "checkpoint of container %q: not supported by this runtime", req.ContainerId)
}
