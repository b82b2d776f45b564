package agent

import (
	"context"
	"fmt"
	"os"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/reevehq/reeve/agent/container"
	"github.com/reevehq/reeve/agent/podworker"
	"github.com/reevehq/reeve/agent/podworker/podstate"
	"github.com/reevehq/reeve/agent/status"
)

// Report implements podworker.Reporter.
func (p *pods) Report(r podworker.Report) {
	p.mu.Lock()
	before, reported := p.reports[r.Pod.UID]
	p.reports[r.Pod.UID] = r
	// Room may have come free: a pod has come to its end, or has shrunk.
	freed := r.Stage >= podworker.Stopped && (!reported || before.Stage < podworker.Stopped) || before.Resizing && !r.Resizing
	for id, w := range p.waiters {
		if c := r.State.ByID(id); w.pod == r.Pod.UID && (c == nil || c.State != podstate.Running) {
			close(w.done)
			delete(p.waiters, id)
		}
	}
	if r.Removed || p.known[r.Pod.UID] == nil {
		p.mu.Unlock()
		return
	}
	if freed {
		defer p.retryResizes(false)
	}
	old, ok := p.statuses[r.Pod.UID]
	trouble := p.troubles[r.Pod.UID]
	p.mu.Unlock()
	if !ok {
		old = r.Pod.Status
	} else {
		// Conditions of others are as the API has them now.
		old.Conditions = foreign(old.Conditions, r.Pod.Status.Conditions)
	}
	st := status.Generate(status.Input{
		Report: r, Old: old, Trouble: trouble, Pending: p.resizes.pending(r.Pod.UID), HostIPs: p.cfg.NodeIPs, Probed: p.probes.ContainerStatus, Runtime: p.runtime, Now: time.Now(),
	})
	p.mu.Lock()
	if p.known[r.Pod.UID] == nil {
		p.mu.Unlock()
		return
	}
	p.statuses[r.Pod.UID] = st
	p.mu.Unlock()
	if p.writer == nil {
		return
	}
	target, finish := r.Pod, r.Stage >= podworker.Stopped && r.Pod.DeletionTimestamp != nil
	if container.IsStatic(r.Pod) {
		if target = p.mirrors.Mirror(r.Pod); target == nil {
			return
		}
		finish = false
	}
	p.writer.Set(target, st, urgent(old, st, r), finish)
}

// urgent tells news from what is about to be overtaken by news: a pod that merely begins, or that is on its way out with
// its deletion known to everybody already.
func urgent(old, st v1.PodStatus, r podworker.Report) bool {
	switch {
	case r.Stage == podworker.Syncing && st.Phase == v1.PodPending && (old.Phase == v1.PodPending || old.Phase == ""):
		return len(r.Waiting) > 0
	case r.Stage == podworker.Stopping:
		return st.Phase != old.Phase || r.Pod.DeletionTimestamp == nil && readyOf(st) != readyOf(old)
	case r.Stage >= podworker.Stopped:
		return st.Phase != old.Phase || r.Pod.DeletionTimestamp != nil
	}
	return true
}

func readyOf(s v1.PodStatus) v1.ConditionStatus {
	for _, c := range s.Conditions {
		if c.Type == v1.PodReady {
			return c.Status
		}
	}
	return ""
}

// foreign returns the node's own conditions of mine with everybody else's of theirs.
func foreign(mine, theirs []v1.PodCondition) []v1.PodCondition {
	own := func(t v1.PodConditionType) bool {
		if t == v1.DisruptionTarget {
			return true
		}
		for _, o := range status.Owned {
			if o == t {
				return true
			}
		}
		return false
	}
	var out []v1.PodCondition
	for _, c := range mine {
		if own(c.Type) {
			out = append(out, c)
		}
	}
	for _, c := range theirs {
		if !own(c.Type) {
			out = append(out, c)
		}
	}
	return out
}

// List implements server.Pods.
func (p *pods) List() []*v1.Pod {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]*v1.Pod, 0, len(p.known))
	for uid, pod := range p.known {
		out = append(out, p.withStatusLocked(uid, pod))
	}
	return out
}

func (p *pods) withStatusLocked(uid types.UID, pod *v1.Pod) *v1.Pod {
	st, ok := p.statuses[uid]
	if !ok {
		return pod
	}
	c := *pod
	c.Status = st
	return &c
}

// Get implements server.Pods.
func (p *pods) Get(namespace, name string) (*v1.Pod, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for uid, pod := range p.known {
		if pod.Name == name && pod.Namespace == namespace {
			return p.withStatusLocked(uid, pod), true
		}
	}
	return nil, false
}

// listTimeout bounds the runtime's answer to /runningpods.
const listTimeout = 30 * time.Second

// Running implements server.Pods.
func (p *pods) Running(ctx context.Context) ([]*v1.Pod, error) {
	ctx, cancel := context.WithTimeout(ctx, listTimeout)
	defer cancel()
	list, err := p.cfg.Runtime.ListPodSandbox(ctx, &runtimeapi.PodSandboxFilter{
		State: &runtimeapi.PodSandboxStateValue{State: runtimeapi.PodSandboxState_SANDBOX_READY}})
	if err != nil {
		return nil, fmt.Errorf("list sandboxes: %w", err)
	}
	byID := map[string]*v1.Pod{}
	var out []*v1.Pod
	for _, s := range list {
		pod := &v1.Pod{}
		pod.Name, pod.Namespace, pod.UID = s.GetMetadata().GetName(), s.GetMetadata().GetNamespace(), types.UID(s.GetMetadata().GetUid())
		byID[s.Id] = pod
		out = append(out, pod)
	}
	containers, err := p.cfg.Runtime.ListContainers(ctx, &runtimeapi.ContainerFilter{
		State: &runtimeapi.ContainerStateValue{State: runtimeapi.ContainerState_CONTAINER_RUNNING}})
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	for _, c := range containers {
		if pod := byID[c.PodSandboxId]; pod != nil {
			pod.Spec.Containers = append(pod.Spec.Containers, v1.Container{Name: c.GetMetadata().GetName(), Image: c.GetImage().GetImage()})
		}
	}
	return out, nil
}

// SandboxID implements server.Pods.
func (p *pods) SandboxID(ctx context.Context, pod *v1.Pod) (string, error) {
	state, err := p.look(ctx, pod.UID)
	if err != nil {
		return "", err
	}
	if s := state.Current(); s != nil && s.Ready {
		return s.ID, nil
	}
	return "", fmt.Errorf("pod %s/%s has no ready sandbox", pod.Namespace, pod.Name)
}

// Exited implements server.Pods.
func (p *pods) Exited(containerID string) <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if w, ok := p.waiters[containerID]; ok {
		return w.done
	}
	ch := make(chan struct{})
	for uid, r := range p.reports {
		if c := r.State.ByID(containerID); c != nil && c.State == podstate.Running {
			p.waiters[containerID] = waiter{pod: uid, done: ch}
			return ch
		}
	}
	close(ch)
	return ch
}

// hasAppArmor tells whether the kernel confines by AppArmor.
func hasAppArmor() bool {
	b, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	return err == nil && len(b) > 0 && b[0] == 'Y'
}
