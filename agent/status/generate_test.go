package status

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/reevehq/reeve/agent/podworker"
	"github.com/reevehq/reeve/agent/podworker/podstate"
)

var now = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func input(init []string, apps ...string) Input {
	p := &v1.Pod{Spec: v1.PodSpec{RestartPolicy: v1.RestartPolicyAlways}}
	p.Name, p.Namespace, p.UID, p.Generation = "web", "default", "u1", 4
	for _, n := range init {
		p.Spec.InitContainers = append(p.Spec.InitContainers, v1.Container{Name: n, Image: "img"})
	}
	for _, n := range apps {
		p.Spec.Containers = append(p.Spec.Containers, v1.Container{Name: n, Image: "img"})
	}
	return Input{
		Report:  podworker.Report{Pod: p, State: podstate.Pod{Sandboxes: []podstate.Sandbox{{ID: "sb", Ready: true, IPs: []netip.Addr{netip.MustParseAddr("10.244.0.5")}}}}},
		HostIPs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, Runtime: "containerd", Now: now,
		Probed: func(*v1.Container, string) (bool, bool) { return true, true },
	}
}

func runs(name string) podstate.Container {
	return podstate.Container{ID: name + "-1", Name: name, SandboxID: "sb", State: podstate.Running, StartedAt: now}
}

func died(name string, code, restarts int32) podstate.Container {
	return podstate.Container{ID: name + "-0", Name: name, SandboxID: "sb", State: podstate.Exited, ExitCode: code, StartedAt: now, FinishedAt: now.Add(time.Second), RestartCount: restarts}
}

// digest is what a table row says of a status.
type digest struct {
	Phase      v1.PodPhase
	Ready      string // reason of the Ready condition, or "True"
	Init       string // the same of Initialized
	Container  string // state of the last app container
	Restarts   int32
	Reason     string
	PodIP      string
	LastReason string
}

func state(s v1.ContainerState) string {
	switch {
	case s.Running != nil:
		return "running"
	case s.Terminated != nil:
		return "terminated " + s.Terminated.Reason
	case s.Waiting != nil:
		return "waiting " + s.Waiting.Reason
	}
	return ""
}

func cond(s v1.PodStatus, t v1.PodConditionType) string {
	for _, c := range s.Conditions {
		if c.Type == t {
			if c.Status == v1.ConditionTrue && c.Reason == "" {
				return "True"
			}
			return c.Reason
		}
	}
	return "missing"
}

func digestOf(s v1.PodStatus) digest {
	c := s.ContainerStatuses[len(s.ContainerStatuses)-1]
	return digest{Phase: s.Phase, Ready: cond(s, v1.PodReady), Init: cond(s, v1.PodInitialized), Container: state(c.State),
		Restarts: c.RestartCount, Reason: s.Reason, PodIP: s.PodIP, LastReason: state(c.LastTerminationState)}
}

func TestGenerate(t *testing.T) {
	const ip = "10.244.0.5"
	for _, tc := range []struct {
		name string
		in   func() Input
		want digest
	}{
		{"nothing yet", func() Input {
			in := input(nil, "a")
			in.State = podstate.Pod{}
			return in
		}, digest{Phase: v1.PodPending, Ready: "ContainersNotReady", Init: "True", Container: "waiting ContainerCreating"}},
		{"initialising", func() Input {
			in := input([]string{"i"}, "a")
			in.State.Containers = []podstate.Container{runs("i")}
			return in
		}, digest{Phase: v1.PodPending, Ready: "ContainersNotReady", Init: "ContainersNotInitialized", Container: "waiting PodInitializing", PodIP: ip}},
		{"running", func() Input {
			in := input(nil, "a")
			in.State.Containers = []podstate.Container{runs("a")}
			return in
		}, digest{Phase: v1.PodRunning, Ready: "True", Init: "True", Container: "running", PodIP: ip}},
		{"not probed ready", func() Input {
			in := input(nil, "a")
			in.State.Containers = []podstate.Container{runs("a")}
			in.Probed = func(*v1.Container, string) (bool, bool) { return true, false }
			return in
		}, digest{Phase: v1.PodRunning, Ready: "ContainersNotReady", Init: "True", Container: "running", PodIP: ip}},
		{"postStart hook under way", func() Input {
			in := input(nil, "a")
			in.State.Containers = []podstate.Container{runs("a")}
			in.Starting = map[string]bool{"a": true}
			return in
		}, digest{Phase: v1.PodPending, Ready: "ContainersNotReady", Init: "True", Container: "waiting ContainerCreating", PodIP: ip}},
		{"crash loop", func() Input {
			in := input(nil, "a")
			in.State.Containers = []podstate.Container{died("a", 1, 3)}
			in.Waiting = map[string]podworker.Waiting{"a": {Reason: "CrashLoopBackOff"}}
			in.Old.Phase = v1.PodRunning
			return in
		}, digest{Phase: v1.PodRunning, Ready: "ContainersNotReady", Init: "True", Container: "waiting CrashLoopBackOff", Restarts: 3, PodIP: ip, LastReason: "terminated Error"}},
		{"restarted", func() Input {
			in := input(nil, "a")
			c := runs("a")
			c.RestartCount = 4
			in.State.Containers = []podstate.Container{c, died("a", 0, 3)}
			return in
		}, digest{Phase: v1.PodRunning, Ready: "True", Init: "True", Container: "running", Restarts: 4, PodIP: ip, LastReason: "terminated Completed"}},
		{"a runtime that forgot never lowers the count", func() Input {
			in := input(nil, "a")
			in.Old.ContainerStatuses = []v1.ContainerStatus{{Name: "a", RestartCount: 9, ContainerID: "containerd://x"}}
			in.State.Containers = []podstate.Container{runs("a")}
			return in
		}, digest{Phase: v1.PodRunning, Ready: "True", Init: "True", Container: "running", Restarts: 9, PodIP: ip}},
		{"image cannot be pulled", func() Input {
			in := input(nil, "a")
			in.Waiting = map[string]podworker.Waiting{"a": {Reason: "ImagePullBackOff"}}
			return in
		}, digest{Phase: v1.PodPending, Ready: "ContainersNotReady", Init: "True", Container: "waiting ImagePullBackOff", PodIP: ip}},
		{"succeeded", func() Input {
			in := input(nil, "a")
			in.State.Containers = []podstate.Container{died("a", 0, 0)}
			in.Done, in.Stage = v1.PodSucceeded, podworker.Stopping
			return in
		}, digest{Phase: v1.PodSucceeded, Ready: "PodCompleted", Init: "PodCompleted", Container: "terminated Completed", PodIP: ip}},
		{"done, but a sidecar still runs", func() Input {
			in := input(nil, "a", "b")
			in.State.Containers = []podstate.Container{died("b", 0, 0), runs("a")}
			in.Done, in.Stage = v1.PodFailed, podworker.Stopping
			return in
		}, digest{Phase: v1.PodRunning, Ready: "ContainersNotReady", Init: "True", Container: "terminated Completed", PodIP: ip}},
		{"evicted", func() Input {
			in := input(nil, "a")
			in.State.Containers = []podstate.Container{died("a", 137, 0)}
			in.Stage, in.Stop = podworker.Stopping, &podworker.Stop{Cause: podworker.Evicted, Reason: "Evicted"}
			return in
		}, digest{Phase: v1.PodFailed, Ready: "PodFailed", Init: "True", Container: "terminated Error", Reason: "Evicted", PodIP: ip}},
		{"stopped without ever having started", func() Input {
			in := input(nil, "a")
			in.State = podstate.Pod{}
			in.Stage, in.Stop = podworker.Stopped, &podworker.Stop{Cause: podworker.Deleted}
			return in
		}, digest{Phase: v1.PodFailed, Ready: "PodFailed", Init: "True", Container: "waiting ContainerCreating"}},
		{"stopped, and the runtime has no trace", func() Input {
			in := input(nil, "a")
			in.State = podstate.Pod{}
			in.Old.ContainerStatuses = []v1.ContainerStatus{{Name: "a", ContainerID: "containerd://x", State: v1.ContainerState{Running: &v1.ContainerStateRunning{}}}}
			in.Old.PodIPs = []v1.PodIP{{IP: ip}}
			in.Stage = podworker.Stopped
			return in
		}, digest{Phase: v1.PodFailed, Ready: "PodFailed", Init: "True", Container: "terminated ContainerStatusUnknown", PodIP: ip}},
		{"a terminal phase stays", func() Input {
			in := input(nil, "a")
			in.State.Containers = []podstate.Container{runs("a")}
			in.Old.Phase = v1.PodFailed
			return in
		}, digest{Phase: v1.PodFailed, Ready: "PodFailed", Init: "True", Container: "running", PodIP: ip}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if d := cmp.Diff(tc.want, digestOf(Generate(tc.in()))); d != "" {
				t.Errorf("status differs (-want +got):\n%s", d)
			}
		})
	}
}

func TestReadinessGatesAndForeignConditions(t *testing.T) {
	in := input(nil, "a")
	in.State.Containers = []podstate.Container{runs("a")}
	in.Pod.Spec.ReadinessGates = []v1.PodReadinessGate{{ConditionType: "example.com/gate"}}
	if got := cond(Generate(in), v1.PodReady); got != "ReadinessGatesNotReady" {
		t.Errorf("Ready without its gate: %s", got)
	}
	gate := v1.PodCondition{Type: "example.com/gate", Status: v1.ConditionTrue}
	in.Pod.Status.Conditions = []v1.PodCondition{gate}
	in.Old.Conditions = []v1.PodCondition{gate}
	out := Generate(in)
	if got := cond(out, v1.PodReady); got != "True" {
		t.Errorf("Ready with its gate: %s", got)
	}
	if got := cond(out, "example.com/gate"); got != "True" {
		t.Errorf("the gate itself: %s", got)
	}
}

func TestConditionsRememberTheirTransition(t *testing.T) {
	in := input(nil, "a")
	in.State.Containers = []podstate.Container{runs("a")}
	first := Generate(in)
	in.Old, in.Now = first, now.Add(time.Hour)
	second := Generate(in)
	if d := cmp.Diff(first, second); d != "" {
		t.Errorf("a second look an hour later changed the status:\n%s", d)
	}
}

func TestDiffLeavesOthersConditions(t *testing.T) {
	have := v1.PodStatus{Phase: v1.PodPending, Conditions: []v1.PodCondition{
		{Type: v1.PodReady, Status: v1.ConditionFalse}, {Type: "example.com/gate", Status: v1.ConditionTrue}}}
	want := v1.PodStatus{Phase: v1.PodRunning, Conditions: []v1.PodCondition{{Type: v1.PodReady, Status: v1.ConditionTrue}}}
	got := merge(have, want)
	if cond(got, "example.com/gate") != "True" || cond(got, v1.PodReady) != "True" || got.Phase != v1.PodRunning {
		t.Errorf("merge = %+v", got)
	}
	patch, err := diff("u1", have, got)
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"metadata":{"uid":"u1"},"status":{"$setElementOrder/conditions":[{"type":"Ready"},{"type":"example.com/gate"}],` +
		`"conditions":[{"status":"True","type":"Ready"}],"phase":"Running"}}`; string(patch) != want {
		t.Errorf("patch = %s", patch)
	}
	if patch, err := diff("u1", got, got); err != nil || patch != nil {
		t.Errorf("diff of equals = %s, %v", patch, err)
	}
}

func TestSameIgnoresWhatTheAPIRounds(t *testing.T) {
	a := v1.PodStatus{StartTime: ptr.To(metav1.NewTime(now.Add(300 * time.Millisecond)))}
	b := v1.PodStatus{StartTime: ptr.To(metav1.NewTime(now)), Conditions: []v1.PodCondition{}}
	if !Same(a, b) {
		t.Error("statuses that serialise alike differ")
	}
}
