package status

import (
	"net/netip"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/reevehq/reeve/agent/allocate"
	"github.com/reevehq/reeve/agent/container"
	"github.com/reevehq/reeve/agent/podworker"
	"github.com/reevehq/reeve/agent/podworker/podspec"
	"github.com/reevehq/reeve/agent/podworker/podstate"
)

// Input is everything a pod's status is made of.
type Input struct {
	podworker.Report
	// Old is the status as last written, or as the API had it.
	Old     v1.PodStatus
	HostIPs []netip.Addr
	// Pending is why a resize of the pod is not allocated, nil if none is.
	Pending *allocate.Refusal
	// Trouble is why the runtime cannot work with the pod, "" if it can.
	Trouble string
	// Probed answers started and ready of a running container.
	Probed func(c *v1.Container, containerID string) (started, ready bool)
	// Runtime is the scheme of container IDs, as "containerd".
	Runtime string
	Now     time.Time
}

// Generate returns the pod's status. It never moves a phase back, lowers a restart count or touches conditions that are
// not the node's.
func Generate(in Input) v1.PodStatus {
	g := &generator{in: in, spec: &in.Pod.Spec}
	out := v1.PodStatus{
		ObservedGeneration: in.Pod.Generation,
		NominatedNodeName:  in.Old.NominatedNodeName,
		QOSClass:           container.QOS(in.Pod),
		StartTime:          in.Old.StartTime,
		Resize:             in.Old.Resize,

		ResourceClaimStatuses:       in.Old.ResourceClaimStatuses,
		ExtendedResourceClaimStatus: in.Old.ExtendedResourceClaimStatus,
		Reason:                      in.Old.Reason,
		Message:                     in.Old.Message,
	}
	if out.StartTime == nil {
		t := metav1.NewTime(in.Now).Rfc3339Copy()
		out.StartTime = &t
	}
	g.addresses(&out)
	hasInit := len(g.spec.InitContainers) > 0
	for i := range g.spec.InitContainers {
		c := &g.spec.InitContainers[i]
		kind := podspec.KindInit
		if podspec.IsSidecar(c) {
			kind = podspec.KindSidecar
		}
		out.InitContainerStatuses = append(out.InitContainerStatuses, g.container(c, kind, hasInit, in.Old.InitContainerStatuses))
	}
	for i := range g.spec.Containers {
		out.ContainerStatuses = append(out.ContainerStatuses,
			g.container(&g.spec.Containers[i], podspec.KindApp, hasInit, in.Old.ContainerStatuses))
	}
	for i := range g.spec.EphemeralContainers {
		c := v1.Container(g.spec.EphemeralContainers[i].EphemeralContainerCommon)
		out.EphemeralContainerStatuses = append(out.EphemeralContainerStatuses,
			g.container(&c, podspec.KindEphemeral, false, in.Old.EphemeralContainerStatuses))
	}
	g.phase(&out)
	g.conditions(&out)
	return out
}

type generator struct {
	in   Input
	spec *v1.PodSpec
}

func terminal(p v1.PodPhase) bool { return p == v1.PodSucceeded || p == v1.PodFailed }

func (g *generator) addresses(out *v1.PodStatus) {
	for _, ip := range g.in.HostIPs {
		out.HostIPs = append(out.HostIPs, v1.HostIP{IP: ip.String()})
	}
	if len(out.HostIPs) > 0 {
		out.HostIP = out.HostIPs[0].IP
	}
	s := g.in.State.Current()
	switch {
	case g.spec.HostNetwork:
		if s != nil || len(g.in.Old.PodIPs) > 0 {
			for _, ip := range g.in.HostIPs {
				out.PodIPs = append(out.PodIPs, v1.PodIP{IP: ip.String()})
			}
		}
	case s != nil && len(s.IPs) > 0 && (s.Ready || g.in.Stage != podworker.Syncing):
		for _, ip := range s.IPs {
			out.PodIPs = append(out.PodIPs, v1.PodIP{IP: ip.String()})
		}
	case g.in.Stage != podworker.Syncing || terminal(g.in.Old.Phase):
		out.PodIPs = g.in.Old.PodIPs // what had it is gone, but that is where it was
	}
	if len(out.PodIPs) > 0 {
		out.PodIP = out.PodIPs[0].IP
	}
}

func find(list []v1.ContainerStatus, name string) *v1.ContainerStatus {
	for i := range list {
		if list[i].Name == name {
			return &list[i]
		}
	}
	return nil
}

func (g *generator) container(c *v1.Container, kind podspec.Kind, hasInit bool, oldList []v1.ContainerStatus) v1.ContainerStatus {
	in := &g.in
	old := find(oldList, c.Name)
	cs := in.State.Latest(c.Name)
	no := false
	out := v1.ContainerStatus{Name: c.Name, Image: c.Image, Started: &no}
	if old != nil {
		out.RestartCount, out.LastTerminationState = old.RestartCount, old.LastTerminationState
	}
	var previous *podstate.Container
	visible := cs
	if cs != nil && (cs.State == podstate.Created || in.Starting[c.Name] && cs.State == podstate.Running) {
		// Until its postStart hook has run, a container is not running in anybody's eyes.
		visible = nil
		previous = in.State.Previous(c.Name, cs.ID)
	}
	if visible == nil {
		g.unseen(c, hasInit, old, previous, &out)
		return out
	}
	out.RestartCount = max(out.RestartCount, visible.RestartCount)
	out.ContainerID = g.id(visible.ID)
	out.ImageID = visible.ImageID
	if visible.Image != "" {
		out.Image = visible.Image
	}
	if visible.HasUser {
		out.User = &v1.ContainerUser{Linux: &v1.LinuxContainerUser{
			UID: visible.UID, GID: visible.GID, SupplementalGroups: visible.SupplementalGroups}}
	}
	if visible.StopSignal != "" {
		s := v1.Signal(visible.StopSignal)
		out.StopSignal = &s
	}
	if p := in.State.Previous(c.Name, visible.ID); p != nil {
		out.LastTerminationState.Terminated = g.terminated(p)
	} else if visible.RestartCount == 0 {
		out.LastTerminationState = v1.ContainerState{}
	}
	switch visible.State {
	case podstate.Running:
		out.State.Running = &v1.ContainerStateRunning{StartedAt: metav1.NewTime(visible.StartedAt)}
		g.runningDetails(c, kind, visible, &out)
	default:
		t := g.terminated(visible)
		w, waits := in.Waiting[c.Name]
		if waits && in.Stage == podworker.Syncing && podworker.Restarts(in.Pod, c, kind, visible) {
			out.State.Waiting = &v1.ContainerStateWaiting{Reason: w.Reason, Message: w.Message}
			out.LastTerminationState = v1.ContainerState{Terminated: t}
		} else {
			out.State.Terminated = t
			out.Ready = kind == podspec.KindInit && visible.ExitCode == 0
		}
	}
	return out
}

// unseen fills the status of a container that the runtime does not have, or not yet.
func (g *generator) unseen(c *v1.Container, hasInit bool, old *v1.ContainerStatus, previous *podstate.Container, out *v1.ContainerStatus) {
	if previous != nil {
		out.LastTerminationState = v1.ContainerState{Terminated: g.terminated(previous)}
		out.RestartCount = max(out.RestartCount, previous.RestartCount)
		out.ContainerID, out.ImageID = g.id(previous.ID), previous.ImageID
	}
	if old != nil && old.ContainerID != "" && previous == nil {
		out.ContainerID, out.ImageID = old.ContainerID, old.ImageID
		switch {
		case old.State.Terminated != nil && (g.in.Stage != podworker.Syncing || terminal(g.in.Old.Phase)):
			out.State, out.Ready = old.State, old.Ready
			return
		case old.State.Running != nil && g.in.Stage != podworker.Syncing:
			// It ran, and the runtime has no trace of how it ended.
			out.State.Terminated = &v1.ContainerStateTerminated{
				ExitCode: 137, Reason: "ContainerStatusUnknown", ContainerID: old.ContainerID,
				Message: "The container could not be located when the pod was terminated",
			}
			return
		case old.State.Terminated != nil:
			out.LastTerminationState = v1.ContainerState{Terminated: old.State.Terminated}
		}
	}
	w := v1.ContainerStateWaiting{Reason: "ContainerCreating"}
	if hasInit {
		w.Reason = "PodInitializing"
	}
	if r, ok := g.in.Waiting[c.Name]; ok {
		w.Reason, w.Message = r.Reason, r.Message
	}
	out.State.Waiting = &w
}

func (g *generator) runningDetails(c *v1.Container, kind podspec.Kind, cs *podstate.Container, out *v1.ContainerStatus) {
	switch kind {
	case podspec.KindApp, podspec.KindSidecar:
		started, ready := g.in.Probed(c, cs.ID)
		out.Started, out.Ready = &started, ready
	case podspec.KindEphemeral:
		out.Started = nil
		return
	}
	out.AllocatedResources = c.Resources.Requests
	out.Resources = actual(c, cs.Resources)
	for _, m := range c.VolumeMounts {
		s := v1.VolumeMountStatus{Name: m.Name, MountPath: m.MountPath, ReadOnly: m.ReadOnly}
		if m.ReadOnly {
			mode := v1.RecursiveReadOnlyDisabled
			if r := m.RecursiveReadOnly; r != nil && *r == v1.RecursiveReadOnlyEnabled {
				mode = *r // the container would not run otherwise
			}
			s.RecursiveReadOnly = &mode
		}
		out.VolumeMounts = append(out.VolumeMounts, s)
	}
}

func (g *generator) id(id string) string { return g.in.Runtime + "://" + id }

func (g *generator) terminated(cs *podstate.Container) *v1.ContainerStateTerminated {
	t := &v1.ContainerStateTerminated{
		ExitCode: cs.ExitCode, Reason: cs.Reason, Message: cs.Message, ContainerID: g.id(cs.ID),
		FinishedAt: metav1.NewTime(cs.FinishedAt),
	}
	if !cs.StartedAt.IsZero() {
		t.StartedAt = metav1.NewTime(cs.StartedAt)
	}
	if t.Reason == "" {
		t.Reason = "Completed"
		if cs.ExitCode != 0 {
			t.Reason = "Error"
		}
	}
	return t
}

// phase decides where the pod stands in its life (core/v1 PodPhase).
func (g *generator) phase(out *v1.PodStatus) {
	in := &g.in
	alive := len(in.State.Running()) > 0
	switch {
	case terminal(in.Old.Phase):
		out.Phase = in.Old.Phase
		return
	case in.Stop != nil && (in.Stop.Cause == podworker.Evicted || in.Stop.Cause == podworker.Rejected):
		if !alive {
			out.Phase, out.Reason, out.Message = v1.PodFailed, in.Stop.Reason, in.Stop.Message
			return
		}
	case in.Done != "" && !alive:
		out.Phase = in.Done
		return
	case in.Stage >= podworker.Stopped && !container.IsStatic(in.Pod):
		out.Phase = v1.PodSucceeded
		for i := range out.ContainerStatuses {
			if t := out.ContainerStatuses[i].State.Terminated; t == nil || t.ExitCode != 0 {
				out.Phase = v1.PodFailed
			}
		}
		return
	}
	out.Phase = g.livePhase(out)
	if in.Old.Phase == v1.PodRunning && out.Phase == v1.PodPending {
		out.Phase = v1.PodRunning
	}
}

func (g *generator) livePhase(out *v1.PodStatus) v1.PodPhase {
	var waiting, running, stopped int
	for i := range out.ContainerStatuses {
		s := &out.ContainerStatuses[i]
		switch {
		case s.State.Running != nil:
			running++
		case s.State.Terminated != nil, s.LastTerminationState.Terminated != nil:
			stopped++
		default:
			waiting++
		}
	}
	if waiting > 0 || running+stopped == 0 {
		return v1.PodPending
	}
	if running == 0 && g.in.Stage == podworker.Syncing && g.uninitialised(out) && g.in.Old.Phase != v1.PodRunning {
		return v1.PodPending
	}
	return v1.PodRunning
}

func (g *generator) uninitialised(out *v1.PodStatus) bool { return len(g.incomplete(out)) > 0 }

// incomplete lists the init containers that have not done their part.
func (g *generator) incomplete(out *v1.PodStatus) []string {
	var names []string
	for i := range out.InitContainerStatuses {
		s := &out.InitContainerStatuses[i]
		ok := s.Ready
		if podspec.IsSidecar(&g.spec.InitContainers[i]) {
			ok = s.Started != nil && *s.Started
		}
		if !ok {
			names = append(names, s.Name)
		}
	}
	return names
}
