package podworker

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/reevehq/reeve/agent/podworker/podspec"
	"github.com/reevehq/reeve/agent/podworker/podstate"
)

// world is a runtime that carries a plan out at once or in a random order, and records what happened when. The rules of
// Kubernetes are then read off the record, whatever the combination of containers, policies, crashes and delays.
type world struct {
	rng    *rand.Rand
	pod    *v1.Pod
	obs    Observed
	now    time.Time
	serial int
	trace  []string
}

func (w *world) note(format string, a ...any) { w.trace = append(w.trace, fmt.Sprintf(format, a...)) }

func (w *world) id() string { w.serial++; return fmt.Sprint("c", w.serial) }

func (w *world) apply(a Actions) {
	if a.CreateSandbox {
		w.obs.State.Sandboxes = append([]podstate.Sandbox{{ID: w.id(), Ready: true, Attempt: a.SandboxAttempt, CreatedAt: w.now,
			IPs: []netip.Addr{netip.MustParseAddr("10.0.0.1")}}}, w.obs.State.Sandboxes...)
		w.note("sandbox %d", a.SandboxAttempt)
	}
	for _, id := range a.StopSandboxes {
		w.obs.SandboxesDown[id] = true
		for i := range w.obs.State.Sandboxes {
			if w.obs.State.Sandboxes[i].ID == id {
				w.obs.State.Sandboxes[i].Ready = false
			}
		}
		w.note("stop-sandbox")
	}
	for _, n := range a.Pull {
		w.obs.Images[n] = true
	}
	for _, s := range a.Start {
		spec, _ := podspec.Find(&w.pod.Spec, s.Name)
		id := w.id()
		w.obs.State.Containers = append([]podstate.Container{{ID: id, Name: s.Name, SandboxID: s.SandboxID, State: podstate.Running,
			CreatedAt: w.now, StartedAt: w.now, RestartCount: s.RestartCount, CrashCount: s.CrashCount, Hash: podspec.Hash(spec)}}, w.obs.State.Containers...)
		w.obs.Probes[id] = Verdict{Started: w.rng.IntN(2) == 0}
		delete(w.obs.Images, s.Name)
		w.note("start %s %d", s.Name, s.RestartCount)
	}
	for _, k := range a.Kill {
		w.exit(w.obs.State.ByID(k.ID), 137, "kill")
	}
}

func (w *world) exit(c *podstate.Container, code int32, how string) {
	c.State, c.ExitCode, c.FinishedAt = podstate.Exited, code, w.now
	w.note("%s %s %d", how, c.Name, code)
}

// disturb lets something happen by itself: an exit, a startup probe that passes, time.
func (w *world) disturb() {
	w.now = w.now.Add(time.Duration(1+w.rng.IntN(60)) * time.Second)
	running := w.obs.State.Running()
	if len(running) == 0 {
		return
	}
	c := running[w.rng.IntN(len(running))]
	switch w.rng.IntN(3) {
	case 0:
		code := int32(0)
		if w.rng.IntN(3) == 0 {
			code = 1
		}
		w.exit(c, code, "exit")
	default:
		v := w.obs.Probes[c.ID]
		v.Started = true
		w.obs.Probes[c.ID] = v
		w.note("started %s", c.Name)
	}
}

func randomPod(rng *rand.Rand) *v1.Pod {
	var init, apps []v1.Container
	for i := range rng.IntN(4) {
		c := app(fmt.Sprint("i", i))
		if rng.IntN(2) == 0 {
			c = sidecar(fmt.Sprint("s", i))
		}
		init = append(init, c)
	}
	for i := range 1 + rng.IntN(3) {
		apps = append(apps, app(fmt.Sprint("a", i)))
	}
	return pod([]v1.RestartPolicy{v1.RestartPolicyAlways, v1.RestartPolicyOnFailure, v1.RestartPolicyNever}[rng.IntN(3)], init, apps...)
}

func TestOrderHoldsForRandomPods(t *testing.T) {
	for seed := range uint64(3000) {
		rng := rand.New(rand.NewPCG(seed, 7))
		w := &world{rng: rng, pod: randomPod(rng), now: t0, obs: Observed{
			VolumesReady: true, NetworkReady: true, Images: map[string]bool{}, SandboxesDown: map[string]bool{}, Probes: map[string]Verdict{}}}
		w.run(t, seed)
	}
}

func (w *world) run(t *testing.T, seed uint64) {
	t.Helper()
	fail := func(format string, a ...any) {
		t.Fatalf("seed %d: %s\npod: %s\ntrace:\n  %s", seed, fmt.Sprintf(format, a...), describe(w.pod), strings.Join(w.trace, "\n  "))
	}
	var stop *Stop
	counts := map[string]int32{}
	for step := range 200 {
		a := Plan(Desired{Pod: w.pod, Stop: stop}, w.obs, w.now)
		w.check(a, stop != nil, counts, fail)
		if a.Done != "" && stop == nil {
			w.checkDone(a.Done, fail)
			stop = &Stop{Cause: Completed, Since: w.now, Grace: time.Hour}
			continue
		}
		if a.Torn {
			if len(w.obs.State.Running()) > 0 {
				fail("torn down while containers run")
			}
			return
		}
		w.apply(a)
		if step == 60+w.rng.IntN(40) && stop == nil {
			stop = &Stop{Cause: Deleted, Since: w.now, Grace: time.Hour}
			w.note("STOP")
		}
		if w.rng.IntN(2) == 0 && stop == nil {
			w.disturb()
		} else if idle(a) {
			w.now = w.now.Add(7 * time.Minute)
			if stop == nil {
				w.disturb()
			}
		}
		if step >= 120 && stop == nil {
			stop = &Stop{Cause: Deleted, Since: w.now, Grace: time.Hour}
			w.note("STOP")
		}
	}
	fail("the pod did not come to its end")
}

func idle(a Actions) bool {
	return !a.CreateSandbox && len(a.StopSandboxes)+len(a.Pull)+len(a.Start)+len(a.Kill) == 0
}

func describe(p *v1.Pod) string {
	s := string(p.Spec.RestartPolicy)
	for _, c := range p.Spec.InitContainers {
		s += " " + c.Name
	}
	s += " |"
	for _, c := range p.Spec.Containers {
		s += " " + c.Name
	}
	return s
}

// check holds one plan against the rules.
func (w *world) check(a Actions, stopping bool, counts map[string]int32, fail func(string, ...any)) {
	cur := w.obs.State.Current()
	for _, s := range a.Start {
		if stopping {
			fail("starts %s while stopping", s.Name)
		}
		if c := w.obs.State.Latest(s.Name); c != nil && c.State == podstate.Running {
			fail("starts %s twice", s.Name)
		}
		if last, ok := counts[s.Name]; ok && s.RestartCount != last+1 {
			fail("restart count of %s goes from %d to %d", s.Name, last, s.RestartCount)
		}
		counts[s.Name] = s.RestartCount
		if cur == nil || s.SandboxID != cur.ID {
			fail("starts %s outside the current sandbox", s.Name)
		}
		w.checkPredecessors(s.Name, cur.ID, fail)
	}
	for _, k := range a.Kill {
		if _, kind := podspec.Find(&w.pod.Spec, k.Name); stopping && kind == podspec.KindSidecar {
			for _, c := range w.obs.State.Running() {
				if w.stopsBefore(c.Name, k.Name) && c.Name != k.Name {
					fail("stops sidecar %s before %s", k.Name, c.Name)
				}
			}
		}
	}
	if len(a.StopSandboxes) > 0 && len(w.obs.State.Running()) > 0 {
		fail("stops the sandbox under running containers")
	}
}

// stopsBefore tells whether x must be gone before sidecar s is stopped: every ordinary container, every later sidecar.
func (w *world) stopsBefore(x, s string) bool {
	_, kind := podspec.Find(&w.pod.Spec, x)
	if kind != podspec.KindSidecar {
		return true
	}
	xi, si := -1, -1
	for i, c := range w.pod.Spec.InitContainers {
		if c.Name == x {
			xi = i
		}
		if c.Name == s {
			si = i
		}
	}
	return xi > si
}

// checkPredecessors: before a first start, every earlier init container has succeeded, every earlier sidecar has started.
func (w *world) checkPredecessors(name, sandbox string, fail func(string, ...any)) {
	if w.obs.State.LatestIn(name, sandbox) != nil {
		return // a restart
	}
	for i := range w.pod.Spec.InitContainers {
		c := &w.pod.Spec.InitContainers[i]
		if c.Name == name {
			return
		}
		cs := w.obs.State.LatestIn(c.Name, sandbox)
		if cs == nil {
			fail("starts %s before %s ever ran", name, c.Name)
		}
		if !podspec.IsSidecar(c) && (cs.State != podstate.Exited || cs.ExitCode != 0) {
			fail("starts %s before %s succeeded", name, c.Name)
		}
	}
}

func (w *world) checkDone(phase v1.PodPhase, fail func(string, ...any)) {
	if w.pod.Spec.RestartPolicy == v1.RestartPolicyAlways {
		fail("a pod that restarts always is done")
	}
	for _, c := range w.pod.Spec.Containers {
		cs := w.obs.State.Latest(c.Name)
		if phase == v1.PodSucceeded && (cs == nil || cs.State != podstate.Exited || cs.ExitCode != 0) {
			fail("succeeded though %s did not", c.Name)
		}
	}
}
