package podworker

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/reevehq/reeve/agent/podworker/podspec"
	"github.com/reevehq/reeve/agent/podworker/podstate"
)

// The model: a world that carries plans out, in its own time and with accidents, and rules that hold at every plan,
// whatever the combination of containers, policies, crashes, probes, delays and restarts of the agent.
//
//	world   what there is (obs), what is under way (obs.Work), and what was (trace)
//	rules   one a sentence of Kubernetes' contract; each looks at the world and the plan that was just made for it
//	shapes  every combination of init list, app list and restart policy up to a size, times the moment of deletion
type world struct {
	rng      *rand.Rand
	pod      *v1.Pod
	stop     *Stop
	obs      Observed
	now      time.Time
	serial   int
	trace    []string
	counts   map[string]int32     // restart count of the last start
	begun    map[string]time.Time // when a start under way began
	starting map[string]Start
	killing  map[string]Kill
	finished v1.PodPhase
}

func (w *world) note(format string, a ...any) { w.trace = append(w.trace, fmt.Sprintf(format, a...)) }

func (w *world) id() string { w.serial++; return fmt.Sprint("c", w.serial) }

// next is the init container right before name in the list, or the last one for an app.
func (w *world) next(name string) string {
	prev := ""
	for _, c := range w.pod.Spec.InitContainers {
		if c.Name == name {
			break
		}
		prev = c.Name
	}
	return prev
}

// initialised tells whether an app container was made in the current sandbox.
func (w *world) initialised() bool {
	cur := w.obs.State.Current()
	for _, c := range w.pod.Spec.Containers {
		if cur != nil && w.obs.State.LatestIn(c.Name, cur.ID) != nil {
			return true
		}
	}
	return false
}

// endsBefore tells whether x must be gone before sidecar s is stopped: every ordinary container, every later sidecar.
func (w *world) endsBefore(x, s string) bool {
	if _, kind := podspec.Find(&w.pod.Spec, x); kind != podspec.KindSidecar {
		return true
	}
	at := func(name string) int {
		return slices.IndexFunc(w.pod.Spec.InitContainers, func(c v1.Container) bool { return c.Name == name })
	}
	return at(x) > at(s)
}

func (w *world) busy() bool { return len(w.starting)+len(w.killing) > 0 }

// apply begins what the plan asks for.
func (w *world) apply(a Actions) {
	if a.CreateSandbox {
		w.obs.State.Sandboxes = append([]podstate.Sandbox{{ID: w.id(), Ready: true, Attempt: a.SandboxAttempt, CreatedAt: w.now,
			IPs: []netip.Addr{netip.MustParseAddr("10.0.0.1")}}}, w.obs.State.Sandboxes...)
		w.note("sandbox %d", a.SandboxAttempt)
	}
	for _, id := range a.StopSandboxes {
		w.obs.SandboxesDown[id] = true
		w.sandboxDies(id)
		w.note("stop-sandbox")
	}
	for _, n := range a.Pull {
		w.obs.Images[n] = true
	}
	for _, s := range a.Start {
		w.counts[s.Name] = s.RestartCount
		w.obs.Work[s.Name], w.starting[s.Name], w.begun[s.Name] = Starting, s, w.now
		delete(w.obs.Images, s.Name)
		w.note("start %s %d", s.Name, s.RestartCount)
		w.create(s)
		if w.rng.IntN(2) == 0 {
			w.started(s.Name)
		}
	}
	for _, k := range a.Kill {
		w.obs.Work[k.Name], w.killing[k.Name] = Killing, k
		w.note("kill %s (%s)", k.Name, k.Reason)
		if w.rng.IntN(2) == 0 {
			w.killed(k.Name)
		}
	}
}

func (w *world) sandboxDies(id string) {
	for i := range w.obs.State.Sandboxes {
		if w.obs.State.Sandboxes[i].ID == id {
			w.obs.State.Sandboxes[i].Ready = false
		}
	}
}

func (w *world) create(s Start) {
	spec, _ := podspec.Find(&w.pod.Spec, s.Name)
	id := w.id()
	w.obs.State.Containers = append([]podstate.Container{{ID: id, Name: s.Name, SandboxID: s.SandboxID, State: podstate.Running,
		CreatedAt: w.now, StartedAt: w.now, RestartCount: s.RestartCount, CrashCount: s.CrashCount, Hash: podspec.Hash(spec)}}, w.obs.State.Containers...)
	w.obs.Probes[id] = Verdict{Started: w.rng.IntN(2) == 0}
}

func (w *world) started(name string) {
	delete(w.starting, name)
	delete(w.obs.Work, name)
	w.note("started %s", name)
}

func (w *world) killed(name string) {
	k := w.killing[name]
	delete(w.killing, name)
	delete(w.obs.Work, name)
	if c := w.obs.State.ByID(k.ID); c != nil && c.State == podstate.Running {
		w.exit(c, 137, "killed")
	}
	if k.Reason == KillResize {
		w.obs.Excused[k.ID] = true
	}
}

func (w *world) exit(c *podstate.Container, code int32, how string) {
	c.State, c.ExitCode, c.FinishedAt = podstate.Exited, code, w.now
	w.note("%s %s %d", how, c.Name, code)
}

// happen lets time pass, operations end, and something occur by itself.
func (w *world) happen(accidents bool) {
	w.now = w.now.Add(time.Duration(1+w.rng.IntN(60)) * time.Second)
	for _, name := range keys(w.starting) {
		if w.rng.IntN(2) == 0 {
			w.started(name)
		}
	}
	for _, name := range keys(w.killing) {
		if w.rng.IntN(2) == 0 || w.now.After(w.begun[name].Add(time.Hour)) {
			w.killed(name)
		}
	}
	running := w.obs.State.Running()
	if len(running) == 0 {
		return
	}
	c := running[w.rng.IntN(len(running))]
	v := w.obs.Probes[c.ID]
	switch w.rng.IntN(12) {
	case 0, 1, 2:
		w.exit(c, int32(w.rng.IntN(3)/2), "exit")
	case 3:
		if accidents && v.Started && w.obs.Work[c.Name] == Idle {
			v.LivenessFailed = true
			w.obs.Probes[c.ID] = v
			w.note("unhealthy %s", c.Name)
		}
	case 4:
		if accidents && w.rng.IntN(6) == 0 {
			w.sandboxDies(w.obs.State.Current().ID)
			w.note("sandbox dies")
		}
	case 5:
		if accidents && !w.busy() {
			// The agent is killed: what only its memory held is gone. Operations under way ended with it.
			w.obs.Images, w.obs.Failed, w.obs.Excused, w.obs.RetryAt = map[string]bool{}, nil, map[string]bool{}, nil
			w.note("agent restarts")
		}
	default:
		if !v.Started {
			v.Started = true
			w.obs.Probes[c.ID] = v
			w.note("ready %s", c.Name)
		}
	}
}

func keys[V any](m map[string]V) []string {
	out := make([]string, 0, len(m))
	for k := range m {
		out = append(out, k)
	}
	slices.Sort(out)
	return out
}

// shapes are all pods of up to three init containers and two apps: letters i (init), s (sidecar), a (app), h (app with a
// postStart hook).
func shapes() []*v1.Pod {
	var out []*v1.Pod
	for _, policy := range []v1.RestartPolicy{v1.RestartPolicyAlways, v1.RestartPolicyOnFailure, v1.RestartPolicyNever} {
		for _, init := range []string{"", "i", "s", "ii", "is", "si", "ss", "isi", "sis", "ssi", "sss"} {
			for _, apps := range []string{"a", "h", "aa", "ah", "ha", "hh"} {
				var ic, ac []v1.Container
				for n, k := range init {
					c := app(fmt.Sprintf("%c%d", k, n))
					if k == 's' {
						c = sidecar(c.Name)
					}
					ic = append(ic, c)
				}
				for n, k := range apps {
					c := app(fmt.Sprintf("%c%d", k, n))
					if k == 'h' {
						c = hooked(c.Name)
					}
					ac = append(ac, c)
				}
				out = append(out, pod(policy, ic, ac...))
			}
		}
	}
	return out
}

// TestOrderHoldsForEveryShape takes every shape through lives that differ by seed: with and without accidents, deleted
// early, late or never, with an hour of grace or with hardly any.
func TestOrderHoldsForEveryShape(t *testing.T) {
	lives := 0
	for n, p := range shapes() {
		for seed := range uint64(24) {
			rng := rand.New(rand.NewPCG(seed, uint64(n)))
			w := &world{rng: rng, pod: p, now: t0, counts: map[string]int32{}, begun: map[string]time.Time{}, starting: map[string]Start{}, killing: map[string]Kill{},
				obs: Observed{VolumesReady: true, NetworkReady: true, Work: map[string]Work{}, Images: map[string]bool{}, Excused: map[string]bool{},
					SandboxesDown: map[string]bool{}, Probes: map[string]Verdict{}}}
			w.live(t, seed)
			lives++
		}
	}
	t.Logf("%d lives", lives)
}

// live runs one life to its end.
func (w *world) live(t *testing.T, seed uint64) {
	t.Helper()
	fail := func(format string, a ...any) {
		t.Helper()
		t.Fatalf("seed %d: %s\npod: %s\ntrace:\n  %s", seed, fmt.Sprintf(format, a...), describe(w.pod), strings.Join(w.trace, "\n  "))
	}
	deleted := []int{3, 10, 40, 120}[w.rng.IntN(4)]
	grace := []time.Duration{time.Hour, 30 * time.Second}[w.rng.IntN(2)]
	for step := range 400 {
		a := Plan(Desired{Pod: w.pod, Stop: w.stop}, w.obs, w.now)
		for _, r := range rules {
			if why := r.broken(w, a); why != "" {
				fail("broken: %s: %s", r.says, why)
			}
		}
		if a.Torn {
			return
		}
		if a.Done != "" && w.stop == nil {
			w.stop = &Stop{Cause: Completed, Since: w.now, Grace: grace}
			w.note("DONE %s", a.Done)
			w.cutOff()
			continue
		}
		w.apply(a)
		if step >= deleted && w.stop == nil {
			w.stop = &Stop{Cause: Deleted, Since: w.now, Grace: grace}
			w.note("STOP")
			w.cutOff()
		}
		w.happen(w.stop == nil)
		if idle(a) && !w.busy() && w.stop == nil {
			w.now = w.now.Add(7 * time.Minute)
		}
	}
	fail("the pod did not come to its end")
}

// cutOff ends the starts under way, as a worker whose pod is to stop does.
func (w *world) cutOff() {
	for _, name := range keys(w.starting) {
		w.started(name)
	}
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
