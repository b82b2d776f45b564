package native

import (
	"context"
	"encoding/json"
	"slices"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Version names the runtime "containerd" with containerd's version: nodeInfo's containerd://1.6.20 and container IDs of
// the form containerd://… are what users' tools parse.
func (r *Runtime) Version(context.Context, string) (*runtimeapi.VersionResponse, error) {
	return &runtimeapi.VersionResponse{Version: "0.1.0", RuntimeName: "containerd", RuntimeVersion: r.version, RuntimeApiVersion: "v1"}, nil
}

// Status says whether containerd and logpump answer, and whether pods can be connected.
func (r *Runtime) Status(ctx context.Context, verbose bool) (*runtimeapi.StatusResponse, error) {
	cctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	rt := &runtimeapi.RuntimeCondition{Type: runtimeapi.RuntimeReady, Status: true}
	cv, err := r.client.Version(cctx)
	if err != nil {
		rt.Status, rt.Reason, rt.Message = false, "ContainerdNotReady", "containerd does not answer: "+err.Error()
	} else if _, _, err := r.pump.c.Ping(cctx); err != nil {
		rt.Status, rt.Reason, rt.Message = false, "LogpumpNotReady", err.Error()
	}
	net := &runtimeapi.RuntimeCondition{Type: runtimeapi.NetworkReady, Status: true}
	if r.cfg.Network == nil {
		net.Status, net.Reason, net.Message = false, "NetworkPluginNotReady", "no pod network is configured"
	} else if err := r.cfg.Network.Status(cctx); err != nil {
		net.Status, net.Reason, net.Message = false, "NetworkPluginNotReady", err.Error()
	}
	resp := &runtimeapi.StatusResponse{
		Status:   &runtimeapi.RuntimeStatus{Conditions: []*runtimeapi.RuntimeCondition{rt, net}},
		Features: &runtimeapi.RuntimeFeatures{SupplementalGroupsPolicy: true},
	}
	for name := range r.cfg.Handlers {
		resp.RuntimeHandlers = append(resp.RuntimeHandlers, &runtimeapi.RuntimeHandler{Name: name, Features: &runtimeapi.RuntimeHandlerFeatures{
			RecursiveReadOnlyMounts: r.recursiveReadOnly(ctx, name),
		}})
	}
	slices.SortFunc(resp.RuntimeHandlers, func(a, b *runtimeapi.RuntimeHandler) int {
		if a.Name < b.Name {
			return -1
		}
		return 1
	})
	if verbose {
		b, err := json.Marshal(map[string]any{
			"containerd": cv.Version, "containerdAddress": r.cfg.Address, "containerdNamespace": r.cfg.Namespace, "snapshotter": r.cfg.Snapshotter,
			"cgroupDriver": r.cfg.CgroupDriver, "cgroupV2": r.cgroups.Unified, "pauseImage": r.cfg.PauseImage, "minOOMScoreAdj": r.host.MinOOMScoreAdj,
			"apparmor": r.host.AppArmor, "selinux": r.host.SELinux, "seccomp": r.host.SeccompDefault != nil,
		})
		if err != nil {
			return nil, toStatus(err)
		}
		resp.Info = map[string]string{"config": string(b)}
	}
	return resp, nil
}

// RuntimeConfig tells the cgroup driver, so that nobody has to configure it twice.
func (r *Runtime) RuntimeConfig(context.Context) (*runtimeapi.RuntimeConfigResponse, error) {
	d := runtimeapi.CgroupDriver_CGROUPFS
	if r.cfg.CgroupDriver == "systemd" {
		d = runtimeapi.CgroupDriver_SYSTEMD
	}
	return &runtimeapi.RuntimeConfigResponse{Linux: &runtimeapi.LinuxRuntimeConfiguration{CgroupDriver: d}}, nil
}

// UpdateRuntimeConfig is told the node's pod CIDR. The built-in network learns it from the agent, conflists have theirs.
func (r *Runtime) UpdateRuntimeConfig(context.Context, *runtimeapi.RuntimeConfig) error { return nil }
