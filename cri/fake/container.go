package fake

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	utilexec "k8s.io/utils/exec"

	"github.com/reevehq/reeve/cri"
	"github.com/reevehq/reeve/cri/match"
)

// CreateContainer wants a ready sandbox and an image that is on the node. The name (sandbox, name, attempt) stays
// reserved until RemoveContainer.
func (r *Runtime) CreateContainer(ctx context.Context, sandboxID string, config *runtimeapi.ContainerConfig, _ *runtimeapi.PodSandboxConfig) (string, error) {
	m := config.GetMetadata()
	if m == nil || m.Name == "" {
		return "", status.Error(codes.InvalidArgument, "container config must include metadata with a name")
	}
	if err := r.begin("CreateContainer", m.Name); err != nil {
		return "", err
	}
	if err := ctx.Err(); err != nil {
		return "", err
	}
	r.mu.Lock()
	s := r.findSandboxLocked(sandboxID)
	if s == nil {
		r.mu.Unlock()
		return "", status.Errorf(codes.NotFound, "sandbox %q not found", sandboxID)
	}
	if s.state != runtimeapi.PodSandboxState_SANDBOX_READY {
		r.mu.Unlock()
		return "", status.Errorf(codes.FailedPrecondition, "sandbox %q is not ready", sandboxID)
	}
	img := r.findImageLocked(config.GetImage().GetImage())
	if img == nil {
		r.mu.Unlock()
		return "", status.Errorf(codes.NotFound, "image %q not found", config.GetImage().GetImage())
	}
	for _, c := range r.containers {
		if c.sandbox == s.id && c.config.Metadata.Name == m.Name && c.config.Metadata.Attempt == m.Attempt {
			r.mu.Unlock()
			return "", status.Errorf(codes.AlreadyExists, "container %q attempt %d is reserved by %q", m.Name, m.Attempt, c.id)
		}
	}
	c := &container{id: r.newIDLocked(), sandbox: s.id, config: proto.Clone(config).(*runtimeapi.ContainerConfig)}
	ref := img.Id
	if len(img.RepoDigests) > 0 {
		ref = img.RepoDigests[0]
	}
	c.status = &runtimeapi.ContainerStatus{
		Id: c.id, Metadata: c.config.Metadata, State: runtimeapi.ContainerState_CONTAINER_CREATED,
		CreatedAt: time.Now().UnixNano(), Image: &runtimeapi.ImageSpec{Image: c.config.Image.Image, UserSpecifiedImage: c.config.Image.UserSpecifiedImage},
		ImageRef: ref, ImageId: img.Id, Labels: c.config.Labels, Annotations: c.config.Annotations, Mounts: c.config.Mounts,
		Resources: &runtimeapi.ContainerResources{Linux: c.config.GetLinux().GetResources()},
	}
	if c.config.LogPath != "" {
		c.status.LogPath = strings.TrimSuffix(s.config.LogDirectory, "/") + "/" + c.config.LogPath
	}
	r.containers[c.id] = c
	ev := r.eventLocked(runtimeapi.ContainerEventType_CONTAINER_CREATED_EVENT, c.id, s.id)
	r.mu.Unlock()
	r.publish(ev)
	return c.id, nil
}

// StartContainer runs a created container.
func (r *Runtime) StartContainer(_ context.Context, id string) error {
	if err := r.begin("StartContainer", id); err != nil {
		return err
	}
	r.mu.Lock()
	c, err := r.findContainerLocked(id)
	if err != nil {
		r.mu.Unlock()
		return err
	}
	if c.status.State != runtimeapi.ContainerState_CONTAINER_CREATED {
		r.mu.Unlock()
		return status.Errorf(codes.FailedPrecondition, "container %q is in state %s, not created", id, c.status.State)
	}
	if s := r.sandboxes[c.sandbox]; s == nil || s.state != runtimeapi.PodSandboxState_SANDBOX_READY {
		r.mu.Unlock()
		return status.Errorf(codes.FailedPrecondition, "sandbox %q of container %q is not ready", c.sandbox, id)
	}
	c.status.State = runtimeapi.ContainerState_CONTAINER_RUNNING
	c.status.StartedAt = time.Now().UnixNano()
	ev := r.eventLocked(runtimeapi.ContainerEventType_CONTAINER_STARTED_EVENT, c.id, c.sandbox)
	onStart := r.onStart
	r.mu.Unlock()
	r.publish(ev)
	if onStart != nil {
		onStart(c.id)
	}
	return nil
}

func (r *Runtime) exitLocked(c *container, code int32, reason string) *runtimeapi.ContainerEventResponse {
	if c.status.State == runtimeapi.ContainerState_CONTAINER_EXITED {
		return nil
	}
	c.status.State = runtimeapi.ContainerState_CONTAINER_EXITED
	c.status.FinishedAt = time.Now().UnixNano()
	c.status.ExitCode = code
	switch {
	case reason != "":
		c.status.Reason = reason
	case code == 0:
		c.status.Reason = "Completed"
	default:
		c.status.Reason = "Error"
	}
	return r.eventLocked(runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT, c.id, c.sandbox)
}

// StopContainer ends a container at once with code 0 when a grace period (seconds) was given and 137 when not. Unknown
// and exited containers are fine.
func (r *Runtime) StopContainer(_ context.Context, id string, timeout int64) error {
	if err := r.begin("StopContainer", fmt.Sprintf("%s %d", id, timeout)); err != nil {
		return err
	}
	r.mu.Lock()
	c, err := r.findContainerLocked(id)
	if err != nil {
		r.mu.Unlock()
		return nil
	}
	code := int32(137)
	if timeout > 0 {
		code = 0
	}
	ev := r.exitLocked(c, code, "")
	r.mu.Unlock()
	r.publish(ev)
	return nil
}

// RemoveContainer kills and forgets a container. Unknown containers are fine.
func (r *Runtime) RemoveContainer(_ context.Context, id string) error {
	if err := r.begin("RemoveContainer", id); err != nil {
		return err
	}
	r.mu.Lock()
	c, err := r.findContainerLocked(id)
	if err != nil {
		r.mu.Unlock()
		return nil
	}
	var evs []*runtimeapi.ContainerEventResponse
	if c.status.State == runtimeapi.ContainerState_CONTAINER_RUNNING {
		evs = append(evs, r.exitLocked(c, 137, ""))
	}
	delete(r.containers, c.id)
	evs = append(evs, r.eventLocked(runtimeapi.ContainerEventType_CONTAINER_DELETED_EVENT, c.id, c.sandbox))
	r.mu.Unlock()
	r.publish(evs...)
	return nil
}

// ListContainers lists the newest first.
func (r *Runtime) ListContainers(_ context.Context, f *runtimeapi.ContainerFilter) ([]*runtimeapi.Container, error) {
	if err := r.check("ListContainers"); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []*runtimeapi.Container
	for _, c := range r.containers {
		p := &runtimeapi.Container{
			Id: c.id, PodSandboxId: c.sandbox, Metadata: c.config.Metadata, Image: c.config.Image, ImageRef: c.status.ImageRef,
			ImageId: c.status.ImageId, State: c.status.State, CreatedAt: c.status.CreatedAt, Labels: c.config.Labels,
			Annotations: c.config.Annotations,
		}
		if match.Container(f, p) {
			out = append(out, proto.Clone(p).(*runtimeapi.Container))
		}
	}
	slices.SortFunc(out, func(a, b *runtimeapi.Container) int { return int(b.CreatedAt - a.CreatedAt) })
	return out, nil
}

// ContainerStatus answers NotFound for an unknown container.
func (r *Runtime) ContainerStatus(_ context.Context, id string, _ bool) (*runtimeapi.ContainerStatusResponse, error) {
	if err := r.check("ContainerStatus"); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	c, err := r.findContainerLocked(id)
	if err != nil {
		return nil, err
	}
	return &runtimeapi.ContainerStatusResponse{Status: proto.Clone(c.status).(*runtimeapi.ContainerStatus)}, nil
}

// UpdateContainerResources keeps the resources in the status. The container must be created or running.
func (r *Runtime) UpdateContainerResources(_ context.Context, id string, res *runtimeapi.ContainerResources) error {
	if err := r.begin("UpdateContainerResources", id); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	c, err := r.findContainerLocked(id)
	if err != nil {
		return err
	}
	if c.status.State == runtimeapi.ContainerState_CONTAINER_EXITED {
		return status.Errorf(codes.FailedPrecondition, "container %q has exited", id)
	}
	c.status.Resources = proto.Clone(res).(*runtimeapi.ContainerResources)
	return nil
}

func (r *Runtime) runningLocked(id string) error {
	c, err := r.findContainerLocked(id)
	if err != nil {
		return err
	}
	if c.status.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		return status.Errorf(codes.FailedPrecondition, "container %q is not running", id)
	}
	return nil
}

// ExecSync answers what OnExec set, whose context ends with the command's time; an error after that is a timeout.
func (r *Runtime) ExecSync(ctx context.Context, id string, cmd []string, timeout time.Duration) ([]byte, []byte, error) {
	if err := r.begin("ExecSync", strings.Join(cmd, " ")); err != nil {
		return nil, nil, err
	}
	r.mu.Lock()
	err, exec := r.runningLocked(id), r.exec
	r.mu.Unlock()
	if err != nil || exec == nil {
		return nil, nil, err
	}
	run := ctx
	if timeout > 0 {
		var cancel context.CancelFunc
		run, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	stdout, stderr, code, err := exec(run, id, cmd)
	if err != nil && run.Err() != nil && ctx.Err() == nil {
		err = cri.ExecTimeout(cmd, timeout)
	}
	if err == nil && code != 0 {
		err = utilexec.CodeExitError{Err: fmt.Errorf("command %q exited with %d: %s", strings.Join(cmd, " "), code, stderr), Code: code}
	}
	return stdout, stderr, err
}

// Exec answers with a URL that nothing serves.
func (r *Runtime) Exec(_ context.Context, req *runtimeapi.ExecRequest) (*runtimeapi.ExecResponse, error) {
	if err := r.begin("Exec", req.ContainerId); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.runningLocked(req.ContainerId); err != nil {
		return nil, err
	}
	return &runtimeapi.ExecResponse{Url: "http://127.0.0.1:0/exec/fake"}, nil
}

// Attach answers with a URL that nothing serves.
func (r *Runtime) Attach(_ context.Context, req *runtimeapi.AttachRequest) (*runtimeapi.AttachResponse, error) {
	if err := r.begin("Attach", req.ContainerId); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := r.runningLocked(req.ContainerId); err != nil {
		return nil, err
	}
	return &runtimeapi.AttachResponse{Url: "http://127.0.0.1:0/attach/fake"}, nil
}

// ReopenContainerLog wants a running container.
func (r *Runtime) ReopenContainerLog(_ context.Context, id string) error {
	if err := r.begin("ReopenContainerLog", id); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.runningLocked(id)
}

// CheckpointContainer is not supported.
func (r *Runtime) CheckpointContainer(_ context.Context, req *runtimeapi.CheckpointContainerRequest) error {
	return status.Errorf(codes.Unimplemented, "checkpoint of container %q is not supported", req.ContainerId)
}

func (c *container) stats() *runtimeapi.ContainerStats {
	now := time.Now().UnixNano()
	return &runtimeapi.ContainerStats{
		Attributes: &runtimeapi.ContainerAttributes{Id: c.id, Metadata: c.config.Metadata, Labels: c.config.Labels, Annotations: c.config.Annotations},
		Cpu:        &runtimeapi.CpuUsage{Timestamp: now, UsageCoreNanoSeconds: &runtimeapi.UInt64Value{Value: 1e6}},
		Memory:     &runtimeapi.MemoryUsage{Timestamp: now, WorkingSetBytes: &runtimeapi.UInt64Value{Value: 1 << 20}, UsageBytes: &runtimeapi.UInt64Value{Value: 1 << 20}},
		WritableLayer: &runtimeapi.FilesystemUsage{Timestamp: now, FsId: &runtimeapi.FilesystemIdentifier{Mountpoint: "/"},
			UsedBytes: &runtimeapi.UInt64Value{Value: 4096}, InodesUsed: &runtimeapi.UInt64Value{Value: 1}},
	}
}

// ContainerStats gives fixed figures for a known container.
func (r *Runtime) ContainerStats(_ context.Context, id string) (*runtimeapi.ContainerStats, error) {
	if err := r.check("ContainerStats"); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	c, err := r.findContainerLocked(id)
	if err != nil {
		return nil, err
	}
	return c.stats(), nil
}

// ListContainerStats gives the stats of the running containers that the filter selects.
func (r *Runtime) ListContainerStats(_ context.Context, f *runtimeapi.ContainerStatsFilter) ([]*runtimeapi.ContainerStats, error) {
	if err := r.check("ListContainerStats"); err != nil {
		return nil, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []*runtimeapi.ContainerStats
	for _, c := range r.containers {
		if c.status.State == runtimeapi.ContainerState_CONTAINER_RUNNING && match.ContainerStats(f, c.id, c.sandbox, c.config.Labels) {
			out = append(out, c.stats())
		}
	}
	slices.SortFunc(out, func(a, b *runtimeapi.ContainerStats) int { return strings.Compare(a.Attributes.Id, b.Attributes.Id) })
	return out, nil
}
