package podworker

import (
	"fmt"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/reevehq/reeve/agent/podworker/podspec"
	"github.com/reevehq/reeve/agent/podworker/podstate"
)

// Crash back-off as kubelet's CrashLoopBackOff: first restart at once, then 10 s doubling to 5 min, forgotten after 10
// minutes of running.
const (
	BackoffBase  = 10 * time.Second
	BackoffMax   = 5 * time.Minute
	BackoffReset = 10 * time.Minute
)

// NextCrash returns how long a dead container must rest after its end and the crash count of its successor.
func NextCrash(c *podstate.Container) (delay time.Duration, count int32) {
	n := c.CrashCount
	if !c.StartedAt.IsZero() && c.FinishedAt.Sub(c.StartedAt) >= BackoffReset {
		n = 0
	}
	if n == 0 {
		return 0, 1
	}
	delay = BackoffMax
	if n < 6 {
		delay = min(BackoffBase<<(n-1), BackoffMax)
	}
	return delay, n + 1
}

// minGrace is what even a pod without any grace left gets between TERM and KILL.
const minGrace = time.Second

// Plan decides what to do for one pod. It is a pure function: same arguments, same actions.
func Plan(d Desired, o Observed, now time.Time) Actions {
	p := &planner{d: d, o: &o, now: now}
	if d.Stop != nil {
		p.stop()
	} else {
		p.run()
		if p.a.Done != "" {
			return Actions{Done: p.a.Done} // the rest was for a pod that goes on
		}
	}
	return p.a
}

type planner struct {
	d       Desired
	o       *Observed
	now     time.Time
	a       Actions
	sandbox string
}

func (p *planner) again(t time.Time) {
	if p.a.Again.IsZero() || t.Before(p.a.Again) {
		p.a.Again = t
	}
}

// usable returns the sandbox that containers can run in, and nil if one must be made.
func (p *planner) usable() *podstate.Sandbox {
	s := p.o.State.Current()
	if s == nil || !s.Ready || p.o.SandboxesDown[s.ID] {
		return nil
	}
	if s.HostNetwork != p.d.Pod.Spec.HostNetwork {
		return nil
	}
	if !s.HostNetwork && len(s.IPs) == 0 {
		return nil
	}
	return s
}

func (p *planner) run() {
	spec := &p.d.Pod.Spec
	if p.o.SandboxBusy {
		p.prefetch()
		return
	}
	s := p.usable()
	if s == nil {
		p.replaceSandbox()
		return
	}
	p.sandbox = s.ID
	for _, old := range p.o.State.Sandboxes[1:] {
		if old.Ready && !p.o.SandboxesDown[old.ID] {
			p.a.StopSandboxes = append(p.a.StopSandboxes, old.ID)
		}
	}
	for i := range spec.EphemeralContainers {
		c := v1.Container(spec.EphemeralContainers[i].EphemeralContainerCommon)
		if p.o.State.Latest(c.Name) == nil {
			p.want(&c, nil)
		}
	}
	if !p.initialised(true) {
		return
	}
	p.apps()
	p.finish()
}

// replaceSandbox clears away what is left of an unusable sandbox and asks for a new one, unless the pod has nothing
// left to do in it.
func (p *planner) replaceSandbox() {
	if len(p.o.State.Running()) > 0 {
		p.a.Note = NoteSandboxChanged
	}
	for _, c := range p.o.State.Running() {
		p.kill(c, KillSandbox, p.specGrace(), "Pod sandbox changed, it will be killed and re-created.")
	}
	if len(p.a.Kill) > 0 || p.busy(Killing) || p.busy(Starting) {
		return
	}
	down := true
	for _, s := range p.o.State.Sandboxes {
		if !p.o.SandboxesDown[s.ID] {
			p.a.StopSandboxes = append(p.a.StopSandboxes, s.ID)
			down = false
		}
	}
	if !down {
		return
	}
	if phase, done := p.outcome(""); done {
		p.a.Done = phase
		return
	}
	p.prefetch()
	if !p.d.Pod.Spec.HostNetwork && !p.o.NetworkReady {
		p.a.Note = NoteNoNetwork
		return // whoever reports the network ready wakes every worker
	}
	if p.now.Before(p.o.SandboxRetryAt) {
		p.again(p.o.SandboxRetryAt)
		return
	}
	p.a.CreateSandbox = true
	if s := p.o.State.Current(); s != nil {
		p.a.SandboxAttempt = s.Attempt + 1
	}
}

// prefetch asks for the images of what will start first, while there is no sandbox yet.
func (p *planner) prefetch() {
	spec := &p.d.Pod.Spec
	if len(spec.InitContainers) > 0 {
		p.want(&spec.InitContainers[0], nil)
		return
	}
	for i := range spec.Containers {
		c := &spec.Containers[i]
		if prev := p.o.State.Latest(c.Name); prev == nil || Restarts(p.d.Pod, c, podspec.KindApp, prev) {
			p.want(c, prev)
		}
	}
}

func (p *planner) apps() {
	spec := &p.d.Pod.Spec
	hookAhead := false
	for i := range spec.Containers {
		c := &spec.Containers[i]
		cs := p.o.State.Latest(c.Name)
		if cs != nil && cs.State == podstate.Running && cs.SandboxID == p.sandbox {
			p.mustDie(c, cs)
		} else if !hookAhead && (cs == nil || cs.State != podstate.Exited || Restarts(p.d.Pod, c, podspec.KindApp, cs)) {
			p.want(c, cs)
		}
		// Containers start in the order of the list, and one with a postStart hook holds back those after it until the
		// hook has run. Meshes rely on that to start their proxy first.
		if c.Lifecycle != nil && c.Lifecycle.PostStart != nil {
			starting := p.o.Work[c.Name] == Pulling || p.o.Work[c.Name] == Starting
			asked := slices.Contains(p.a.Pull, c.Name) || slices.ContainsFunc(p.a.Start, func(s Start) bool { return s.Name == c.Name })
			hookAhead = hookAhead || starting || asked
		}
	}
}

// mustDie kills a running container that changed or that its probes gave up; false: leave it.
func (p *planner) mustDie(c *v1.Container, cs *podstate.Container) bool {
	if p.o.Work[c.Name] != Idle {
		return p.o.Work[c.Name] == Killing
	}
	v := p.o.Probes[cs.ID]
	switch {
	case cs.Hash != "" && cs.Hash != podspec.Hash(c):
		p.kill(cs, KillChanged, p.specGrace(), fmt.Sprintf("Container %s definition changed, will be restarted", c.Name))
	case v.StartupFailed:
		p.kill(cs, KillStartup, p.probeGrace(c.StartupProbe), fmt.Sprintf("Container %s failed startup probe, will be restarted", c.Name))
	case v.LivenessFailed:
		p.kill(cs, KillLiveness, p.probeGrace(c.LivenessProbe), fmt.Sprintf("Container %s failed liveness probe, will be restarted", c.Name))
	default:
		return p.resize(c, cs)
	}
	return true
}

func (p *planner) specGrace() time.Duration {
	if g := p.d.Pod.Spec.TerminationGracePeriodSeconds; g != nil {
		return max(time.Duration(*g)*time.Second, minGrace)
	}
	return 30 * time.Second
}

func (p *planner) probeGrace(probe *v1.Probe) time.Duration {
	if probe != nil && probe.TerminationGracePeriodSeconds != nil {
		return max(time.Duration(*probe.TerminationGracePeriodSeconds)*time.Second, minGrace)
	}
	return p.specGrace()
}

// want moves a container that should run one step on: wait for its back-off, get its image, start it.
func (p *planner) want(c *v1.Container, prev *podstate.Container) {
	name := c.Name
	if p.o.Work[name] != Idle {
		return
	}
	if t := p.o.RetryAt[name]; p.now.Before(t) {
		p.again(t)
		return
	}
	if prev == nil {
		prev = p.o.State.Latest(name) // of an earlier sandbox
	}
	s := Start{Name: name, SandboxID: p.sandbox, RestartCount: p.o.NextRestart[name]}
	switch {
	case prev == nil:
	case prev.State == podstate.Created && prev.SandboxID == p.sandbox && !p.o.Failed[prev.ID]:
		s.ResumeID, s.RestartCount, s.CrashCount = prev.ID, prev.RestartCount, prev.CrashCount
	case prev.SandboxID != p.sandbox && p.sandbox != "":
		s.RestartCount = prev.RestartCount + 1 // a new sandbox starts afresh, without back-off
	case prev.State == podstate.Exited && p.o.Excused[prev.ID]:
		s.RestartCount, s.CrashCount = prev.RestartCount+1, prev.CrashCount
	case prev.State == podstate.Exited:
		delay, count := NextCrash(prev)
		s.RestartCount, s.CrashCount = prev.RestartCount+1, count
		if until := prev.FinishedAt.Add(delay); p.now.Before(until) {
			if p.a.Backoff == nil {
				p.a.Backoff = map[string]Backoff{}
			}
			p.a.Backoff[name] = Backoff{Until: until, Delay: delay}
			p.again(until)
			return
		}
	default:
		s.RestartCount = prev.RestartCount + 1
	}
	if !p.o.Images[name] && s.ResumeID == "" {
		p.a.Pull = append(p.a.Pull, name)
		return
	}
	if p.sandbox == "" || !p.o.VolumesReady {
		return
	}
	p.a.Start = append(p.a.Start, s)
}

func (p *planner) kill(c *podstate.Container, why KillReason, grace time.Duration, msg string) {
	if p.o.Work[c.Name] != Idle {
		return
	}
	if t := p.o.RetryAt["kill/"+c.ID]; p.now.Before(t) {
		p.again(t)
		return
	}
	p.a.Kill = append(p.a.Kill, Kill{Name: c.Name, ID: c.ID, Grace: grace, Reason: why, Message: msg})
}

func (p *planner) busy(w Work) bool {
	for _, x := range p.o.Work {
		if x == w {
			return true
		}
	}
	return false
}

// finish notes that the pod's own work is over.
func (p *planner) finish() {
	if phase, done := p.outcome(p.sandbox); done {
		p.a.Done = phase
	}
}

// outcome returns the phase in which the pod ended: every app container dead and none to be started again, or an init
// container that failed for good. With sandbox empty, init containers of any sandbox count.
func (p *planner) outcome(sandbox string) (v1.PodPhase, bool) {
	spec := &p.d.Pod.Spec
	if sandbox == "" {
		for i := range spec.InitContainers {
			c := &spec.InitContainers[i]
			cs := p.o.State.Latest(c.Name)
			if podspec.IsSidecar(c) || cs == nil || cs.State != podstate.Exited || cs.ExitCode == 0 {
				continue
			}
			if !Restarts(p.d.Pod, c, podspec.KindInit, cs) {
				return v1.PodFailed, true
			}
		}
	}
	if len(spec.Containers) == 0 {
		return "", false
	}
	phase := v1.PodSucceeded
	for i := range spec.Containers {
		c := &spec.Containers[i]
		cs := p.o.State.Latest(c.Name)
		if cs == nil || cs.State != podstate.Exited || p.o.Work[c.Name] != Idle || Restarts(p.d.Pod, c, podspec.KindApp, cs) {
			return "", false
		}
		if cs.ExitCode != 0 {
			phase = v1.PodFailed
		}
	}
	return phase, true
}

// Restarts tells whether a dead container is to be started again, by its own rules and policy, then the pod's.
func Restarts(pod *v1.Pod, c *v1.Container, kind podspec.Kind, cs *podstate.Container) bool {
	switch kind {
	case podspec.KindSidecar:
		return true
	case podspec.KindEphemeral:
		return false
	}
	for _, r := range c.RestartPolicyRules {
		if r.ExitCodes == nil || r.Action != v1.ContainerRestartRuleActionRestart {
			continue
		}
		in := slices.Contains(r.ExitCodes.Values, cs.ExitCode)
		if in == (r.ExitCodes.Operator == v1.ContainerRestartRuleOnExitCodesOpIn) {
			return true
		}
	}
	policy := pod.Spec.RestartPolicy
	if c.RestartPolicy != nil {
		policy = v1.RestartPolicy(*c.RestartPolicy)
	}
	switch policy {
	case v1.RestartPolicyNever:
		return false
	case v1.RestartPolicyOnFailure:
		return cs.ExitCode != 0
	}
	return kind != podspec.KindInit || cs.ExitCode != 0
}
