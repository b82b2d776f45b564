package agent

import (
	"context"
	"sync"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/reevehq/reeve/agent/podworker"
	"github.com/reevehq/reeve/agent/podworker/podspec"
	"github.com/reevehq/reeve/agent/podworker/podstate"
	"github.com/reevehq/reeve/probes"
	"github.com/reevehq/reeve/volumes"
)

// podVolumes is the workers' view of the volume manager. A pod that was let go is never set again.
type podVolumes struct {
	m *volumes.Manager

	mu       sync.Mutex
	released map[types.UID]bool
}

func (v *podVolumes) set(pod *v1.Pod) {
	v.mu.Lock()
	gone := v.released[pod.UID]
	v.mu.Unlock()
	if !gone {
		v.m.SetPod(pod)
	}
}

func (v *podVolumes) WaitMounted(ctx context.Context, pod *v1.Pod) error {
	v.set(pod)
	return v.m.WaitMounted(ctx, pod.UID)
}

func (v *podVolumes) Release(ctx context.Context, pod *v1.Pod) error {
	v.mu.Lock()
	v.released[pod.UID] = true
	v.mu.Unlock()
	v.m.ReleasePod(pod.UID)
	return v.m.WaitUnmounted(ctx, pod.UID)
}

func (v *podVolumes) forget(uid types.UID) {
	v.mu.Lock()
	delete(v.released, uid)
	v.mu.Unlock()
}

// podProbes is the workers' view of the prober.
type podProbes struct {
	m      *probes.Manager
	nodeIP string
}

func (p *podProbes) Set(pod *v1.Pod, state *podstate.Pod, terminating bool) {
	st := probes.PodState{Terminating: terminating, Containers: map[string]probes.ContainerState{}}
	if pod.Spec.HostNetwork {
		st.IP = p.nodeIP
	} else if s := state.Current(); s != nil && len(s.IPs) > 0 {
		st.IP = s.IPs[0].String()
	}
	for i := range state.Containers {
		c := &state.Containers[i]
		if _, dup := st.Containers[c.Name]; c.State == podstate.Running && !dup {
			st.Containers[c.Name] = probes.ContainerState{ID: c.ID, StartedAt: c.StartedAt}
		}
	}
	p.m.SetPod(pod, st)
}

func (p *podProbes) Verdict(c *v1.Container, id string) podworker.Verdict {
	var v podworker.Verdict
	v.Started, _ = p.m.ContainerStatus(c, id)
	if t, bad := p.m.Unhealthy(id); bad {
		v.StartupFailed, v.LivenessFailed = t == probes.Startup, t == probes.Liveness
	}
	return v
}

func (p *podProbes) Remove(uid types.UID) { p.m.RemovePod(uid) }

// seedProbes hands what the API says of a pod's containers to the prober, so that a container which was ready stays so
// until its probe says otherwise: an agent's restart is no reason to take traffic away. What the prober knows itself wins.
func seedProbes(m *probes.Manager, pod *v1.Pod) {
	for _, ss := range [][]v1.ContainerStatus{pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses} {
		for i := range ss {
			s := &ss[i]
			id := bareID(s.ContainerID)
			c, _ := podspec.Find(&pod.Spec, s.Name)
			if id == "" || c == nil || s.State.Running == nil {
				continue
			}
			if c.StartupProbe != nil && s.Started != nil && *s.Started {
				m.Seed(id, probes.Startup, probes.Success)
			}
			if c.ReadinessProbe != nil && s.Ready {
				m.Seed(id, probes.Readiness, probes.Success)
			}
		}
	}
}

// bareID strips the scheme off a container ID as it stands in a status.
func bareID(id string) string {
	for i := 0; i+3 <= len(id); i++ {
		if id[i:i+3] == "://" {
			return id[i+3:]
		}
	}
	return id
}
