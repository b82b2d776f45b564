package agent

import (
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/reevehq/reeve/internal/testenv"
)

// TestRestartPolicies: which ends of a container are followed by another start.
func TestRestartPolicies(t *testing.T) {
	s := open(t)
	for name, c := range map[string]struct{ policy, command string }{
		"always":          {"Always", "exit 0"},
		"onfailure-good":  {"OnFailure", "exit 0"},
		"onfailure-bad":   {"OnFailure", "test -e /story/once || { touch /story/once; exit 1; }"},
		"never-bad":       {"Never", "exit 1"},
		"container-rules": {"Never", "test -e /story/rule && exit 1; touch /story/rule; exit 42"},
	} {
		text := `{restartPolicy: ` + c.policy + `, containers: [{name: c, command: [sh, -c, "` + c.command + `"]}]}`
		if name == "container-rules" {
			text = `{restartPolicy: Never, containers: [{name: c, restartPolicy: Never, restartPolicyRules: [{action: Restart, exitCodes: {operator: In, values: [42]}}], command: [sh, -c, "` + c.command + `"]}]}`
		}
		if _, err := s.try(name, text); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	s.wait("always", "restarted", func(p *v1.Pod) error {
		if c := status(p, "c"); c.RestartCount == 0 || c.LastTerminationState.Terminated == nil || c.LastTerminationState.Terminated.ExitCode != 0 {
			return is("restarts", c.RestartCount, 1)
		}
		return nil
	})
	for name, want := range map[string]struct {
		phase    v1.PodPhase
		code     int32
		restarts int32
	}{
		"onfailure-good": {v1.PodSucceeded, 0, 0}, "onfailure-bad": {v1.PodSucceeded, 0, 1}, "never-bad": {v1.PodFailed, 1, 0},
		"container-rules": {v1.PodFailed, 1, 1},
	} {
		p := s.ended(name, want.phase)
		if err := first(terminated(p, "c", want.code), is("restarts", status(p, "c").RestartCount, want.restarts)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestCrashBackOff reads off the containers' own clocks that the first restart comes at once, the second after 10 s, and
// (REEVE_LONG) the third after 20 s.
func TestCrashBackOff(t *testing.T) {
	s := open(t)
	s.pod("p", `{containers: [{name: c, command: [sh, -c, "echo why > /dev/termination-log; exit 3"]}]}`)
	restarts := int32(2)
	if testenv.Long() {
		restarts = 3
	}
	s.wait("p", "in back-off", func(p *v1.Pod) error {
		c := status(p, "c")
		if last := c.LastTerminationState.Terminated; last == nil || last.ExitCode != 3 || last.Message != "why\n" {
			return is("last state", state(&v1.ContainerStatus{State: c.LastTerminationState}), "terminated: 3 why")
		}
		return first(waiting(p, "c", "CrashLoopBackOff"), condition(p, v1.PodReady, v1.ConditionFalse, "ContainersNotReady"), is("phase", p.Status.Phase, v1.PodRunning))
	})
	s.event("p", "BackOff", "Back-off restarting failed container c in pod p_"+s.ns)
	p := s.wait("p", "restarted", func(p *v1.Pod) error {
		if n := status(p, "c").RestartCount; n < restarts {
			return is("restarts", n, restarts)
		}
		return nil
	})
	// The last end before each restart, and the beginning of it, are in the statuses.
	began, ended := map[int32]time.Time{}, map[int32]time.Time{}
	for _, p := range s.past(p.UID) {
		c := status(p, "c")
		for _, x := range []v1.ContainerState{c.State, c.LastTerminationState} {
			if e := x.Terminated; e != nil {
				n := c.RestartCount
				if x == c.LastTerminationState && c.State.Waiting == nil {
					n--
				}
				began[n], ended[n] = e.StartedAt.Time, e.FinishedAt.Time
			}
		}
	}
	for n, delay := range map[int32]time.Duration{2: 10 * time.Second, 3: 20 * time.Second} {
		if began[n].IsZero() || ended[n-1].IsZero() {
			continue
		}
		// Status times are whole seconds.
		if got := began[n].Sub(ended[n-1]); got < delay-time.Second {
			t.Errorf("restart %d came %s after the end before it, want at least %s", n, got, delay)
		}
	}
}

// TestContainerKilledFromOutside: a container that somebody kills is restarted, with 137 in its last state.
func TestContainerKilledFromOutside(t *testing.T) {
	s := open(t)
	s.pod("p", `{containers: [{name: c, command: [sleep, "1000"]}]}`)
	p := s.ready("p")
	s.killInit(p, "c")
	s.wait("p", "restarted", func(p *v1.Pod) error {
		c := status(p, "c")
		if last := c.LastTerminationState.Terminated; last == nil || last.ExitCode != 137 {
			return is("last state", state(&v1.ContainerStatus{State: c.LastTerminationState}), "terminated: 137")
		}
		return first(is("restarts", c.RestartCount, 1), condition(p, v1.PodReady, v1.ConditionTrue, ""))
	})
}

// TestSandboxKilled: when the sandbox goes, the pod gets a new one with new containers, init containers included.
func TestSandboxKilled(t *testing.T) {
	s := open(t)
	s.pod("p", `
terminationGracePeriodSeconds: 1
initContainers: [{name: i, command: [sh, -c, "echo i >> /story/log"]}]
containers: [{name: c, command: [sh, -c, "echo c >> /story/log; sleep 1000"]}]
`)
	before := s.ready("p")
	s.eventually("the first run", func() error { return is("the story", s.read("log"), "i\nc\n") })
	s.killPause(before)
	p := s.wait("p", "made anew", func(p *v1.Pod) error {
		if status(p, "c").ContainerID == status(before, "c").ContainerID {
			return is("restarts", status(p, "c").RestartCount, 1)
		}
		return first(is("restarts", status(p, "c").RestartCount, 1), condition(p, v1.PodReady, v1.ConditionTrue, ""))
	})
	s.event("p", "SandboxChanged", "")
	if err := is("phase", p.Status.Phase, v1.PodRunning); err != nil {
		t.Error(err)
	}
	s.eventually("the second run", func() error { return is("the story", s.read("log"), "i\nc\ni\nc\n") })
}
