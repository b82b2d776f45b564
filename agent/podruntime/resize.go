package podruntime

import (
	"context"
	"errors"
	"fmt"
	"time"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/reevehq/reeve/agent/container"
	"github.com/reevehq/reeve/agent/podworker/podspec"
	"github.com/reevehq/reeve/agent/podworker/podstate"
)

// Figures returns what the cgroups of the pod's app and sidecar containers should say.
func (r *Runtime) Figures(pod *v1.Pod) map[string]podstate.Resources {
	out := map[string]podstate.Resources{}
	add := func(c *v1.Container) {
		x := container.Resources(pod, c, r.cfg.Node.MemoryCapacityBytes, r.cfg.Node.CgroupV2)
		out[c.Name] = podstate.Resources{CPUShares: x.CpuShares, CPUQuota: x.CpuQuota, CPUPeriod: x.CpuPeriod, MemoryLimitBytes: x.MemoryLimitInBytes}
	}
	for i := range pod.Spec.InitContainers {
		if c := &pod.Spec.InitContainers[i]; podspec.IsSidecar(c) {
			add(c)
		}
	}
	for i := range pod.Spec.Containers {
		add(&pod.Spec.Containers[i])
	}
	return out
}

// Resize implements podworker.Runtime. The pod's cgroup first grows, then the containers change, then it shrinks, so that
// no limit is ever tighter than both the old one and the new one.
func (r *Runtime) Resize(ctx context.Context, pod *v1.Pod, state *podstate.Pod, names []string) error {
	if r.cfg.Cgroups != nil {
		if err := r.cfg.Cgroups.GrowPod(pod); err != nil {
			return fmt.Errorf("grow cgroup of pod: %w", err)
		}
	}
	var errs []error
	for _, name := range names {
		if err := r.resizeContainer(ctx, pod, state, name); err != nil {
			errs = append(errs, fmt.Errorf("resize container %q: %w", name, err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if r.cfg.Cgroups != nil {
		if err := r.cfg.Cgroups.EnsurePod(pod); err != nil {
			return fmt.Errorf("resize cgroup of pod: %w", err)
		}
	}
	return nil
}

func (r *Runtime) resizeContainer(ctx context.Context, pod *v1.Pod, state *podstate.Pod, name string) error {
	c, _ := podspec.Find(&pod.Spec, name)
	cs := state.Latest(name)
	if c == nil || cs == nil || cs.State != podstate.Running {
		return nil // the next plan sees what became of it
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	res := container.Resources(pod, c, r.cfg.Node.MemoryCapacityBytes, r.cfg.Node.CgroupV2)
	if cs.Resources != nil {
		if limit := res.MemoryLimitInBytes; limit > 0 && (cs.Resources.MemoryLimitBytes <= 0 || limit < cs.Resources.MemoryLimitBytes) {
			// cgroup v2 takes the new limit and kills.
			if used, err := r.memoryUsed(ctx, cs.ID); err == nil && used > limit {
				return fmt.Errorf("attempting to set memory limit (%d) below current usage (%d)", limit, used)
			}
		}
		if res.MemoryLimitInBytes == 0 && cs.Resources.MemoryLimitBytes > 0 {
			res.MemoryLimitInBytes = -1
		}
		if res.CpuQuota == 0 && cs.Resources.CPUQuota > 0 {
			res.CpuQuota = -1
		}
	}
	start := time.Now()
	err := r.cfg.CRI.UpdateContainerResources(ctx, cs.ID, &runtimeapi.ContainerResources{Linux: res})
	r.metrics.op("update_container", start, err)
	if r.cfg.Forget != nil {
		r.cfg.Forget(cs.ID)
	}
	return err
}

func (r *Runtime) memoryUsed(ctx context.Context, id string) (int64, error) {
	st, err := r.cfg.CRI.ContainerStats(ctx, id)
	if err != nil {
		return 0, err
	}
	return int64(st.GetMemory().GetWorkingSetBytes().GetValue()), nil
}
