package podworker

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"

	"github.com/reevehq/reeve/agent/podworker/podspec"
	"github.com/reevehq/reeve/agent/podworker/podstate"
)

var t0 = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func at(s int) time.Time { return t0.Add(time.Duration(s) * time.Second) }

func app(name string) v1.Container { return v1.Container{Name: name, Image: "img"} }

func sidecar(name string) v1.Container {
	c := app(name)
	c.RestartPolicy = ptr.To(v1.ContainerRestartPolicyAlways)
	return c
}

func hooked(name string) v1.Container {
	c := app(name)
	c.Lifecycle = &v1.Lifecycle{PostStart: &v1.LifecycleHandler{Sleep: &v1.SleepAction{Seconds: 1}}}
	return c
}

func pod(policy v1.RestartPolicy, init []v1.Container, apps ...v1.Container) *v1.Pod {
	p := &v1.Pod{Spec: v1.PodSpec{RestartPolicy: policy, InitContainers: init, Containers: apps, TerminationGracePeriodSeconds: ptr.To[int64](30)}}
	p.Name, p.Namespace, p.UID = "web", "default", "u1"
	return p
}

func sb(id string, ready bool) podstate.Sandbox {
	return podstate.Sandbox{ID: id, Ready: ready, CreatedAt: t0, IPs: []netip.Addr{netip.MustParseAddr("10.244.0.5")}}
}

func ran(name, sandbox string, state podstate.State, exit int32) podstate.Container {
	spec := app(name)
	c := podstate.Container{ID: name + "-id", Name: name, SandboxID: sandbox, State: state, ExitCode: exit, StartedAt: t0, CreatedAt: t0, Hash: podspec.Hash(&spec)}
	if state == podstate.Exited {
		c.FinishedAt = at(1)
	}
	return c
}

// ready is what is observed when nothing holds a start back.
func ready(sandboxes []podstate.Sandbox, cs ...podstate.Container) Observed {
	o := Observed{
		State:        podstate.Pod{UID: "u1", Sandboxes: sandboxes, Containers: cs},
		VolumesReady: true, NetworkReady: true, Images: map[string]bool{"a": true, "b": true, "i1": true, "i2": true, "s1": true, "s2": true},
		Probes: map[string]Verdict{},
	}
	for _, c := range cs {
		o.Probes[c.ID] = Verdict{Started: true}
	}
	return o
}

func start(name string, restarts, crashes int32) Start {
	return Start{Name: name, SandboxID: "sb", RestartCount: restarts, CrashCount: crashes}
}

func TestPlanRunning(t *testing.T) {
	up := []podstate.Sandbox{sb("sb", true)}
	for _, tc := range []struct {
		name string
		pod  *v1.Pod
		obs  func() Observed
		now  time.Time
		want Actions
	}{
		{
			name: "an empty node: the image is fetched while the sandbox is made",
			pod:  pod(v1.RestartPolicyAlways, nil, app("a"), app("b")),
			obs:  func() Observed { o := ready(nil); o.Images = nil; return o },
			want: Actions{CreateSandbox: true, Pull: []string{"a", "b"}},
		},
		{
			name: "only the first init container's image is fetched ahead",
			pod:  pod(v1.RestartPolicyAlways, []v1.Container{app("i1")}, app("a")),
			obs:  func() Observed { o := ready(nil); o.Images = nil; return o },
			want: Actions{CreateSandbox: true, Pull: []string{"i1"}},
		},
		{
			name: "no network yet: no sandbox, but images",
			pod:  pod(v1.RestartPolicyAlways, nil, app("a")),
			obs:  func() Observed { o := ready(nil); o.Images, o.NetworkReady = nil, false; return o },
			want: Actions{Pull: []string{"a"}, Note: NoteNoNetwork},
		},
		{
			name: "volumes hold containers back, not the sandbox",
			pod:  pod(v1.RestartPolicyAlways, nil, app("a")),
			obs:  func() Observed { o := ready(up); o.VolumesReady = false; return o },
		},
		{
			name: "all app containers start together",
			pod:  pod(v1.RestartPolicyAlways, nil, app("a"), app("b")),
			obs:  func() Observed { return ready(up) },
			want: Actions{Start: []Start{start("a", 0, 0), start("b", 0, 0)}},
		},
		{
			name: "a postStart hook holds back the containers after it",
			pod:  pod(v1.RestartPolicyAlways, nil, hooked("a"), app("b")),
			obs: func() Observed {
				o := ready(up, ran("a", "sb", podstate.Running, 0))
				o.Work = map[string]Work{"a": Starting}
				return o
			},
		},
		{
			name: "init containers go one by one",
			pod:  pod(v1.RestartPolicyAlways, []v1.Container{app("i1"), app("i2")}, app("a")),
			obs:  func() Observed { return ready(up, ran("i1", "sb", podstate.Exited, 0)) },
			want: Actions{Start: []Start{start("i2", 0, 0)}},
		},
		{
			name: "a sidecar that has not passed its startup probe holds back the next",
			pod:  pod(v1.RestartPolicyAlways, []v1.Container{sidecar("s1"), app("i1")}, app("a")),
			obs: func() Observed {
				o := ready(up, ran("s1", "sb", podstate.Running, 0))
				o.Probes["s1-id"] = Verdict{}
				return o
			},
		},
		{
			name: "a sidecar that crashed later is restarted beside the running app",
			pod:  pod(v1.RestartPolicyAlways, []v1.Container{sidecar("s1")}, app("a")),
			obs: func() Observed {
				return ready(up, ran("a", "sb", podstate.Running, 0), ran("s1", "sb", podstate.Exited, 1))
			},
			now:  at(2),
			want: Actions{Start: []Start{start("s1", 1, 1)}},
		},
		{
			name: "a failed init container of a Never pod ends it",
			pod:  pod(v1.RestartPolicyNever, []v1.Container{app("i1")}, app("a")),
			obs:  func() Observed { return ready(up, ran("i1", "sb", podstate.Exited, 3)) },
			want: Actions{Done: v1.PodFailed},
		},
		{
			name: "init containers are not run again once an app container was made",
			pod:  pod(v1.RestartPolicyAlways, []v1.Container{app("i1")}, app("a")),
			obs:  func() Observed { return ready(up, ran("a", "sb", podstate.Running, 0)) },
		},
		{
			name: "the first crash is restarted at once",
			pod:  pod(v1.RestartPolicyAlways, nil, app("a")),
			obs:  func() Observed { return ready(up, ran("a", "sb", podstate.Exited, 1)) },
			now:  at(1),
			want: Actions{Start: []Start{start("a", 1, 1)}},
		},
		{
			name: "the third run waits 20 s after the end of the second",
			pod:  pod(v1.RestartPolicyAlways, nil, app("a")),
			obs: func() Observed {
				c := ran("a", "sb", podstate.Exited, 1)
				c.RestartCount, c.CrashCount = 7, 2
				return ready(up, c)
			},
			now:  at(5),
			want: Actions{Backoff: map[string]Backoff{"a": {Until: at(21), Delay: 20 * time.Second}}, Again: at(21)},
		},
		{
			name: "ten good minutes forget the back-off",
			pod:  pod(v1.RestartPolicyAlways, nil, app("a")),
			obs: func() Observed {
				c := ran("a", "sb", podstate.Exited, 1)
				c.RestartCount, c.CrashCount, c.FinishedAt = 7, 6, at(600)
				return ready(up, c)
			},
			now:  at(600),
			want: Actions{Start: []Start{start("a", 8, 1)}},
		},
		{
			name: "the restart count survives a runtime that forgot the container",
			pod:  pod(v1.RestartPolicyAlways, nil, app("a")),
			obs:  func() Observed { o := ready(up); o.NextRestart = map[string]int32{"a": 4}; return o },
			want: Actions{Start: []Start{start("a", 4, 0)}},
		},
		{
			name: "a container made but not started before the agent died is started, not made anew",
			pod:  pod(v1.RestartPolicyAlways, nil, app("a")),
			obs:  func() Observed { return ready(up, ran("a", "sb", podstate.Created, 0)) },
			want: Actions{Start: []Start{{Name: "a", SandboxID: "sb", ResumeID: "a-id"}}},
		},
		{
			name: "a failed liveness probe kills with the probe's own grace",
			pod: func() *v1.Pod {
				c := app("a")
				c.LivenessProbe = &v1.Probe{TerminationGracePeriodSeconds: ptr.To[int64](5)}
				return pod(v1.RestartPolicyAlways, nil, c)
			}(),
			obs: func() Observed {
				o := ready(up, ran("a", "sb", podstate.Running, 0))
				o.Probes["a-id"] = Verdict{Started: true, LivenessFailed: true}
				return o
			},
			want: Actions{Kill: []Kill{{Name: "a", ID: "a-id", Grace: 5 * time.Second, Reason: KillLiveness,
				Message: "Container a failed liveness probe, will be restarted"}}},
		},
		{
			name: "a new image kills the container",
			pod: func() *v1.Pod {
				c := app("a")
				c.Image = "img:v2"
				return pod(v1.RestartPolicyAlways, nil, c)
			}(),
			obs: func() Observed { return ready(up, ran("a", "sb", podstate.Running, 0)) },
			want: Actions{Kill: []Kill{{Name: "a", ID: "a-id", Grace: 30 * time.Second, Reason: KillChanged,
				Message: "Container a definition changed, will be restarted"}}},
		},
		{
			name: "a lost sandbox takes the containers with it before a new one is made",
			pod:  pod(v1.RestartPolicyAlways, nil, app("a")),
			obs: func() Observed {
				return ready([]podstate.Sandbox{sb("sb", false)}, ran("a", "sb", podstate.Running, 0))
			},
			want: Actions{Kill: []Kill{{Name: "a", ID: "a-id", Grace: 30 * time.Second, Reason: KillSandbox,
				Message: "Pod sandbox changed, it will be killed and re-created."}}, Note: NoteSandboxChanged},
		},
		{
			name: "the dead sandbox's network goes first",
			pod:  pod(v1.RestartPolicyAlways, nil, app("a")),
			obs: func() Observed {
				return ready([]podstate.Sandbox{sb("sb", false)}, ran("a", "sb", podstate.Exited, 137))
			},
			want: Actions{StopSandboxes: []string{"sb"}},
		},
		{
			name: "then the next attempt",
			pod:  pod(v1.RestartPolicyAlways, nil, app("a")),
			obs: func() Observed {
				o := ready([]podstate.Sandbox{sb("sb", false)}, ran("a", "sb", podstate.Exited, 137))
				o.SandboxesDown = map[string]bool{"sb": true}
				return o
			},
			now:  at(1),
			want: Actions{CreateSandbox: true, SandboxAttempt: 1},
		},
		{
			name: "a finished pod gets no new sandbox",
			pod:  pod(v1.RestartPolicyNever, nil, app("a")),
			obs: func() Observed {
				o := ready([]podstate.Sandbox{sb("sb", false)}, ran("a", "sb", podstate.Exited, 0))
				o.SandboxesDown = map[string]bool{"sb": true}
				return o
			},
			want: Actions{Done: v1.PodSucceeded},
		},
		{
			name: "one failure among finished containers fails the pod",
			pod:  pod(v1.RestartPolicyNever, nil, app("a"), app("b")),
			obs: func() Observed {
				return ready(up, ran("a", "sb", podstate.Exited, 0), ran("b", "sb", podstate.Exited, 2))
			},
			want: Actions{Done: v1.PodFailed},
		},
		{
			name: "OnFailure restarts only what failed",
			pod:  pod(v1.RestartPolicyOnFailure, nil, app("a"), app("b")),
			obs: func() Observed {
				return ready(up, ran("a", "sb", podstate.Exited, 0), ran("b", "sb", podstate.Exited, 2))
			},
			now:  at(1),
			want: Actions{Start: []Start{start("b", 1, 1)}},
		},
		{
			name: "a failed pull is left alone until its time",
			pod:  pod(v1.RestartPolicyAlways, nil, app("a")),
			obs: func() Observed {
				o := ready(up)
				o.RetryAt = map[string]time.Time{"a": at(9)}
				return o
			},
			want: Actions{Again: at(9)},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			now := tc.now
			if now.IsZero() {
				now = t0
			}
			if d := cmp.Diff(tc.want, Plan(Desired{Pod: tc.pod}, tc.obs(), now)); d != "" {
				t.Errorf("plan differs (-want +got):\n%s", d)
			}
		})
	}
}

func TestPlanStopping(t *testing.T) {
	up := []podstate.Sandbox{sb("sb", true)}
	stop := &Stop{Cause: Deleted, Since: t0, Grace: 30 * time.Second}
	kill := func(name string, grace time.Duration) Kill {
		return Kill{Name: name, ID: name + "-id", Grace: grace, Message: "Stopping container " + name}
	}
	mesh := pod(v1.RestartPolicyAlways, []v1.Container{sidecar("s1"), sidecar("s2")}, app("a"), app("b"))
	s1, s2 := ran("s1", "sb", podstate.Running, 0), ran("s2", "sb", podstate.Running, 0)
	for _, tc := range []struct {
		name string
		obs  Observed
		now  time.Time
		want Actions
	}{
		{
			name: "apps go first, together, sidecars stay",
			obs:  ready(up, ran("a", "sb", podstate.Running, 0), ran("b", "sb", podstate.Running, 0), s1, s2),
			now:  t0,
			want: Actions{Kill: []Kill{kill("a", 30*time.Second), kill("b", 30*time.Second)}, Again: at(30)},
		},
		{
			name: "sidecars go against the order of the list, with what is left of the grace",
			obs:  ready(up, s1, s2, ran("a", "sb", podstate.Exited, 0)),
			now:  at(10),
			want: Actions{Kill: []Kill{kill("s2", 20*time.Second)}, Again: at(30)},
		},
		{
			name: "the first sidecar last",
			obs:  ready(up, s1, ran("s2", "sb", podstate.Exited, 0)),
			now:  at(12),
			want: Actions{Kill: []Kill{kill("s1", 18*time.Second)}, Again: at(30)},
		},
		{
			name: "when the grace has run out everything goes",
			obs:  ready(up, ran("a", "sb", podstate.Running, 0), s1, s2),
			now:  at(31),
			want: Actions{Kill: []Kill{kill("a", time.Second), kill("s1", time.Second), kill("s2", time.Second)}},
		},
		{
			name: "then the sandbox",
			obs:  ready(up, ran("a", "sb", podstate.Exited, 0)),
			now:  at(3),
			want: Actions{StopSandboxes: []string{"sb"}},
		},
		{
			name: "nothing left",
			obs: func() Observed {
				o := ready([]podstate.Sandbox{sb("sb", false)}, ran("a", "sb", podstate.Exited, 0))
				o.SandboxesDown = map[string]bool{"sb": true}
				return o
			}(),
			now:  at(3),
			want: Actions{Torn: true},
		},
		{name: "nothing ever was", obs: ready(nil), now: t0, want: Actions{Torn: true}},
		{
			name: "a start under way is waited for",
			obs:  func() Observed { o := ready(up); o.Work = map[string]Work{"a": Starting}; return o }(),
			now:  t0,
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if d := cmp.Diff(tc.want, Plan(Desired{Pod: mesh, Stop: stop}, tc.obs, tc.now)); d != "" {
				t.Errorf("plan differs (-want +got):\n%s", d)
			}
		})
	}
}

func TestNextCrashDoublesToFiveMinutes(t *testing.T) {
	c := &podstate.Container{StartedAt: t0, FinishedAt: at(1)}
	var got []time.Duration
	for range 9 {
		d, n := NextCrash(c)
		got = append(got, d)
		c.CrashCount = n
	}
	s := time.Second
	want := []time.Duration{0, 10 * s, 20 * s, 40 * s, 80 * s, 160 * s, 300 * s, 300 * s, 300 * s}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("delays differ (-want +got):\n%s", d)
	}
}

func TestRestartsByContainerRule(t *testing.T) {
	c := app("a")
	c.RestartPolicy = ptr.To(v1.ContainerRestartPolicyNever)
	c.RestartPolicyRules = []v1.ContainerRestartRule{{
		Action:    v1.ContainerRestartRuleActionRestart,
		ExitCodes: &v1.ContainerRestartRuleOnExitCodes{Operator: v1.ContainerRestartRuleOnExitCodesOpIn, Values: []int32{42}},
	}}
	p := pod(v1.RestartPolicyAlways, nil, c)
	for code, want := range map[int32]bool{42: true, 1: false, 0: false} {
		if got := Restarts(p, &c, podspec.KindApp, &podstate.Container{ExitCode: code}); got != want {
			t.Errorf("Restarts after exit code %d = %v, want %v", code, got, want)
		}
	}
}
