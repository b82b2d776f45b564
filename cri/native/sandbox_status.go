package native

import (
	"context"
	"encoding/json"
	"slices"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/reevehq/reeve/cri/match"
)

// Messages given out are built anew at each call, but share config messages, which nobody changes after creation.

func (s *sandbox) proto() runtimeapi.PodSandboxState {
	if s.state == sandboxReady {
		return runtimeapi.PodSandboxState_SANDBOX_READY
	}
	return runtimeapi.PodSandboxState_SANDBOX_NOTREADY
}

func (s *sandbox) statusLocked() *runtimeapi.PodSandboxStatus {
	c := s.rec.Config.M
	st := &runtimeapi.PodSandboxStatus{
		Id: s.id, Metadata: c.Metadata, State: s.proto(), CreatedAt: s.created.UnixNano(), Labels: c.Labels,
		Annotations: c.Annotations, RuntimeHandler: s.rec.Handler, Network: &runtimeapi.PodSandboxNetworkStatus{},
		Linux: &runtimeapi.LinuxPodSandboxStatus{Namespaces: &runtimeapi.Namespace{Options: c.GetLinux().GetSecurityContext().GetNamespaceOptions()}},
	}
	for i, ip := range s.net.IPs {
		if i == 0 {
			st.Network.Ip = ip.String()
			continue
		}
		st.Network.AdditionalIps = append(st.Network.AdditionalIps, &runtimeapi.PodIP{Ip: ip.String()})
	}
	return st
}

// PodSandboxStatus answers with the sandbox and its containers' statuses.
func (r *Runtime) PodSandboxStatus(ctx context.Context, id string, verbose bool) (*runtimeapi.PodSandboxStatusResponse, error) {
	s, err := r.store.sandbox(id)
	if err != nil {
		return nil, err
	}
	r.store.mu.RLock()
	resp := &runtimeapi.PodSandboxStatusResponse{Status: s.statusLocked(), Timestamp: time.Now().UnixNano()}
	for _, c := range r.store.containersOfLocked(s.id) {
		resp.ContainersStatuses = append(resp.ContainersStatuses, c.statusLocked())
	}
	pid, cni, checked, trouble := s.pid, s.net.Raw, s.checked, r.troubles[s.id]
	r.store.mu.RUnlock()
	if verbose {
		info := map[string]any{"pid": pid, "config": s.rec.Config.M, "runtimeHandler": s.rec.Handler, "netns": s.rec.NetNS, "cgroup": s.rec.Cgroup}
		// Where tools of containerd's CRI look for the network namespace.
		spaces := []map[string]string{}
		for t, path := range r.namespacesOf(s, pid) {
			if path != "" && (pid != 0 || s.rec.Pinned) {
				spaces = append(spaces, map[string]string{"type": string(t), "path": path})
			}
		}
		info["runtimeSpec"] = map[string]any{"linux": map[string]any{"namespaces": spaces}}
		if checked != "" {
			info["networkCheck"] = checked
		}
		if len(cni) > 0 {
			info["cniResult"] = json.RawMessage(cni)
		}
		b, err := json.Marshal(info)
		if err != nil {
			return nil, toStatus(err)
		}
		resp.Info = map[string]string{"info": string(b)}
		if trouble != "" {
			resp.Info["trouble"] = trouble
		}
	}
	return resp, nil
}

// ListPodSandbox lists the newest first. A sandbox being made is not listed yet.
func (r *Runtime) ListPodSandbox(_ context.Context, f *runtimeapi.PodSandboxFilter) ([]*runtimeapi.PodSandbox, error) {
	r.store.mu.RLock()
	defer r.store.mu.RUnlock()
	out := make([]*runtimeapi.PodSandbox, 0, len(r.store.sandboxes))
	for _, s := range r.store.sandboxes {
		if s.state == sandboxMaking {
			continue
		}
		c := s.rec.Config.M
		p := &runtimeapi.PodSandbox{
			Id: s.id, Metadata: c.Metadata, State: s.proto(), CreatedAt: s.created.UnixNano(), Labels: c.Labels,
			Annotations: c.Annotations, RuntimeHandler: s.rec.Handler,
		}
		if match.Sandbox(f, p) {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(a, b *runtimeapi.PodSandbox) int { return int(b.CreatedAt - a.CreatedAt) })
	return out, nil
}

// UpdatePodSandboxResources is told that the pod's cgroup was resized; nothing of ours depends on it.
func (r *Runtime) UpdatePodSandboxResources(_ context.Context, req *runtimeapi.UpdatePodSandboxResourcesRequest) (*runtimeapi.UpdatePodSandboxResourcesResponse, error) {
	if _, err := r.store.sandbox(req.PodSandboxId); err != nil {
		return nil, err
	}
	return &runtimeapi.UpdatePodSandboxResourcesResponse{}, nil
}
