package pleg

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sort"
	"time"

	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	kubelettypes "k8s.io/kubelet/pkg/types"

	"github.com/reevehq/reeve/agent/container"
	"github.com/reevehq/reeve/agent/podworker/podstate"
)

// ObserveTimeout bounds one look at one pod: a hung shim answers nothing, and its pod then keeps its last known state.
const ObserveTimeout = 10 * time.Second

// Observe looks at the pod with this UID now. The result is complete or an error is returned; a container that vanished
// between the list and its status is left out.
func (g *Generator) Observe(ctx context.Context, uid types.UID) (podstate.Pod, error) {
	ctx, cancel := context.WithTimeout(ctx, ObserveTimeout)
	defer cancel()
	sel := map[string]string{kubelettypes.KubernetesPodUIDLabel: string(uid)}
	sandboxes, err := g.rt.ListPodSandbox(ctx, &runtimeapi.PodSandboxFilter{LabelSelector: sel})
	if err != nil {
		return podstate.Pod{}, fmt.Errorf("list sandboxes of pod %s: %w", uid, err)
	}
	containers, err := g.rt.ListContainers(ctx, &runtimeapi.ContainerFilter{LabelSelector: sel})
	if err != nil {
		return podstate.Pod{}, fmt.Errorf("list containers of pod %s: %w", uid, err)
	}
	p := podstate.Pod{UID: uid}
	for _, s := range sandboxes {
		sb, err := g.sandbox(ctx, s)
		if isGone(err) {
			continue
		}
		if err != nil {
			return podstate.Pod{}, err
		}
		if p.Name == "" && s.Metadata != nil {
			p.Name, p.Namespace = s.Metadata.Name, s.Metadata.Namespace
		}
		p.Sandboxes = append(p.Sandboxes, sb)
	}
	for _, c := range containers {
		ct, err := g.container(ctx, c)
		if isGone(err) {
			continue
		}
		if err != nil {
			return podstate.Pod{}, err
		}
		if p.Name == "" {
			p.Name, p.Namespace = c.Labels[kubelettypes.KubernetesPodNameLabel], c.Labels[kubelettypes.KubernetesPodNamespaceLabel]
		}
		p.Containers = append(p.Containers, ct)
	}
	sort.SliceStable(p.Sandboxes, func(i, j int) bool { return p.Sandboxes[i].CreatedAt.After(p.Sandboxes[j].CreatedAt) })
	sort.SliceStable(p.Containers, func(i, j int) bool { return p.Containers[i].CreatedAt.After(p.Containers[j].CreatedAt) })
	g.remember(uid, sandboxes, containers)
	return p, nil
}

func isGone(err error) bool {
	return err != nil && grpcstatus.Code(unwrapAll(err)) == codes.NotFound
}

func unwrapAll(err error) error {
	for {
		if _, ok := grpcstatus.FromError(err); ok {
			return err
		}
		next := errors.Unwrap(err)
		if next == nil {
			return err
		}
		err = next
	}
}

func (g *Generator) sandbox(ctx context.Context, s *runtimeapi.PodSandbox) (podstate.Sandbox, error) {
	ready := s.State == runtimeapi.PodSandboxState_SANDBOX_READY
	g.mu.Lock()
	cached, ok := g.sandboxes[s.Id]
	g.mu.Unlock()
	if ok && cached.Ready == ready {
		return cached, nil
	}
	out := podstate.Sandbox{ID: s.Id, Ready: ready, CreatedAt: time.Unix(0, s.CreatedAt)}
	if s.Metadata != nil {
		out.Attempt = s.Metadata.Attempt
	}
	resp, err := g.rt.PodSandboxStatus(ctx, s.Id, false)
	if err != nil {
		return out, fmt.Errorf("read status of sandbox %s: %w", s.Id, err)
	}
	st := resp.Status
	out.Ready = st.GetState() == runtimeapi.PodSandboxState_SANDBOX_READY
	out.HostNetwork = st.GetLinux().GetNamespaces().GetOptions().GetNetwork() == runtimeapi.NamespaceMode_NODE
	if n := st.GetNetwork(); n != nil && !out.HostNetwork {
		add := func(s string) {
			if ip, err := netip.ParseAddr(s); err == nil {
				out.IPs = append(out.IPs, ip)
			}
		}
		add(n.Ip)
		for _, a := range n.AdditionalIps {
			add(a.Ip)
		}
	}
	if !out.Ready || out.HostNetwork || len(out.IPs) > 0 {
		g.mu.Lock()
		g.sandboxes[s.Id] = out
		g.mu.Unlock()
	}
	return out, nil
}

func stateOf(s runtimeapi.ContainerState) podstate.State {
	switch s {
	case runtimeapi.ContainerState_CONTAINER_CREATED:
		return podstate.Created
	case runtimeapi.ContainerState_CONTAINER_RUNNING:
		return podstate.Running
	case runtimeapi.ContainerState_CONTAINER_EXITED:
		return podstate.Exited
	}
	return podstate.Unknown
}

// container reads one container's status, unless it is known in this very state: what is read (start and finish times,
// exit code, image) does not change within a state. In-place resize forgets the entry (Forget).
func (g *Generator) container(ctx context.Context, c *runtimeapi.Container) (podstate.Container, error) {
	state := stateOf(c.State)
	g.mu.Lock()
	cached, ok := g.containers[c.Id]
	g.mu.Unlock()
	if ok && cached.State == state && state != podstate.Unknown {
		return cached, nil
	}
	resp, err := g.rt.ContainerStatus(ctx, c.Id, false)
	if err != nil {
		return podstate.Container{}, fmt.Errorf("read status of container %s: %w", c.Id, err)
	}
	st := resp.Status
	out := podstate.Container{
		ID: c.Id, SandboxID: c.PodSandboxId, State: stateOf(st.GetState()),
		Name: c.GetLabels()[kubelettypes.KubernetesContainerNameLabel],
	}
	if out.Name == "" {
		out.Name = c.GetMetadata().GetName()
	}
	out.CreatedAt = time.Unix(0, st.GetCreatedAt())
	if st.GetStartedAt() > 0 {
		out.StartedAt = time.Unix(0, st.GetStartedAt())
	}
	if st.GetFinishedAt() > 0 {
		out.FinishedAt = time.Unix(0, st.GetFinishedAt())
	}
	out.ExitCode, out.Reason, out.Message = st.GetExitCode(), st.GetReason(), st.GetMessage()
	out.Image, out.ImageID, out.LogPath = st.GetImage().GetImage(), st.GetImageRef(), st.GetLogPath()
	if ann := st.GetImage().GetUserSpecifiedImage(); ann != "" {
		out.Image = ann
	}
	container.FromAnnotations(st.GetAnnotations(), &out)
	if u := st.GetUser().GetLinux(); u != nil {
		out.HasUser, out.UID, out.GID, out.SupplementalGroups = true, u.Uid, u.Gid, u.SupplementalGroups
	}
	if r := st.GetResources().GetLinux(); r != nil {
		out.Resources = &podstate.Resources{
			CPUShares: r.CpuShares, CPUQuota: r.CpuQuota, CPUPeriod: r.CpuPeriod, MemoryLimitBytes: r.MemoryLimitInBytes,
		}
	}
	if out.State == podstate.Unknown {
		// A runtime that lost a container must not leave its pod running for ever: it counts as killed.
		out.State, out.ExitCode, out.Reason = podstate.Exited, 137, "ContainerStatusUnknown"
		return out, nil
	}
	if sig := st.GetStopSignal(); sig != runtimeapi.Signal_RUNTIME_DEFAULT {
		out.StopSignal = sig.String()
	}
	if out.State == podstate.Exited && g.Message != nil {
		if msg := g.Message(types.UID(c.GetLabels()[kubelettypes.KubernetesPodUIDLabel]), &out); msg != "" {
			if out.Message != "" {
				out.Message += ": "
			}
			out.Message += msg
		}
	}
	g.mu.Lock()
	g.containers[c.Id] = out
	g.mu.Unlock()
	return out, nil
}
