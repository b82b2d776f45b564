package native

import (
	"context"
	"encoding/json"
	"slices"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/reevehq/reeve/cri/match"
)

func (c *container) statusLocked() *runtimeapi.ContainerStatus {
	config := c.rec.Config.M
	st := &runtimeapi.ContainerStatus{
		Id: c.id, Metadata: config.Metadata, State: c.state.proto(), CreatedAt: c.created.UnixNano(),
		Image:    &runtimeapi.ImageSpec{Image: config.GetImage().GetImage(), UserSpecifiedImage: config.GetImage().GetUserSpecifiedImage()},
		ImageRef: c.rec.ImageRef, ImageId: c.rec.ImageID, Labels: config.Labels, Annotations: config.Annotations,
		Mounts: config.Mounts, LogPath: c.rec.LogPath, StopSignal: config.StopSignal,
		User: &runtimeapi.ContainerUser{Linux: &runtimeapi.LinuxContainerUser{Uid: c.rec.UID, Gid: c.rec.GID, SupplementalGroups: c.rec.Groups}},
	}
	if res := config.GetLinux().GetResources(); res != nil {
		st.Resources = &runtimeapi.ContainerResources{Linux: res}
	}
	if !c.started.IsZero() {
		st.StartedAt = c.started.UnixNano()
	}
	if c.state == stateExited {
		st.ExitCode, st.Reason, st.Message = c.exit.Code, c.exit.Reason, c.exit.Message
		st.StartedAt, st.FinishedAt = nanos(c.exit.Started), nanos(c.exit.At)
	}
	return st
}

// ContainerStatus answers codes.NotFound for an unknown container.
func (r *Runtime) ContainerStatus(_ context.Context, id string, verbose bool) (*runtimeapi.ContainerStatusResponse, error) {
	c, err := r.store.container(id)
	if err != nil {
		return nil, err
	}
	r.store.mu.RLock()
	resp := &runtimeapi.ContainerStatusResponse{Status: c.statusLocked()}
	pid := c.pid
	r.store.mu.RUnlock()
	if verbose {
		// The configuration without its environment: values may be secrets.
		b, err := json.Marshal(map[string]any{
			"sandboxID": c.rec.SandboxID, "pid": pid, "cgroup": c.rec.Cgroup, "snapshotter": r.cfg.Snapshotter, "snapshotKey": c.id,
			"stopSignal": c.rec.StopSignal,
		})
		if err != nil {
			return nil, toStatus(err)
		}
		resp.Info = map[string]string{"info": string(b)}
	}
	return resp, nil
}

// ListContainers lists the newest first.
func (r *Runtime) ListContainers(_ context.Context, f *runtimeapi.ContainerFilter) ([]*runtimeapi.Container, error) {
	r.store.mu.RLock()
	defer r.store.mu.RUnlock()
	out := make([]*runtimeapi.Container, 0, len(r.store.containers))
	for _, c := range r.store.containers {
		config := c.rec.Config.M
		p := &runtimeapi.Container{
			Id: c.id, PodSandboxId: c.rec.SandboxID, Metadata: config.Metadata, Image: config.Image, ImageRef: c.rec.ImageRef,
			ImageId: c.rec.ImageID, State: c.state.proto(), CreatedAt: c.created.UnixNano(), Labels: config.Labels, Annotations: config.Annotations,
		}
		if match.Container(f, p) {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(a, b *runtimeapi.Container) int { return int(b.CreatedAt - a.CreatedAt) })
	return out, nil
}
