package agent

import (
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
)

// says is a shell command that tells of its start, once it is ready for TERM, and of TERM a moment later.
func says(name string) string {
	return `command: [sh, -c, "trap 'sleep 0.2; echo end-` + name + ` >> /story/log; exit 0' TERM; echo ` + name + ` >> /story/log; sleep 1000 & wait"]`
}

// said is a hook that holds back what follows until the container has told of its start: running means no more than that
// its process was made.
func said(name string) string {
	return `lifecycle: {postStart: {exec: {command: [sh, -c, "until grep -q ^` + name + ` /story/log; do sleep 0.1; done"]}}}`
}

// TestSidecarsStartInOrderAndStopInReverse: each sidecar holds back what follows until it has started, and outlives all
// that came after it.
func TestSidecarsStartInOrderAndStopInReverse(t *testing.T) {
	s := open(t)
	s.pod("p", `
terminationGracePeriodSeconds: 30
initContainers:
- {name: s1, restartPolicy: Always, `+says("s1")+`, startupProbe: {exec: {command: [sh, -c, "grep -q ^s1 /story/log && echo started-s1 >> /story/log"]}, periodSeconds: 1, failureThreshold: 100, timeoutSeconds: 10}}
- {name: i1, command: [sh, -c, "echo i1 >> /story/log"]}
- {name: s2, restartPolicy: Always, `+says("s2")+`, `+said("s2")+`}
containers:
- {name: c, `+says("c")+`}
- {name: d, `+says("d")+`}
`)
	p := s.ready("p")
	for _, n := range []string{"s1", "s2"} {
		if c := status(p, n); c.State.Running == nil || !c.Ready || c.Started == nil || !*c.Started {
			t.Errorf("sidecar %s of a ready pod: %s, ready %v", n, state(c), c.Ready)
		}
	}
	s.eventually("the apps", func() error { return first(inOrder(s.story(), "c"), inOrder(s.story(), "d")) })
	s.delete("p")
	s.gone("p")
	story := s.story()
	for _, want := range [][]string{
		{"s1", "started-s1", "i1", "s2", "c", "end-c", "end-s2", "end-s1"}, {"s2", "d", "end-d", "end-s2"},
	} {
		if err := inOrder(story, want...); err != nil {
			t.Error(err)
		}
	}
}

// TestSidecarLivesOnlyWithItsPod: in a pod that restarts never, a sidecar that ends is started again, and when the app is
// done the sidecar is stopped and does not count for the phase.
func TestSidecarLivesOnlyWithItsPod(t *testing.T) {
	s := open(t)
	s.pod("p", `
restartPolicy: Never
terminationGracePeriodSeconds: 30
initContainers:
- {name: s, restartPolicy: Always, command: [sh, -c, "trap 'echo end-s >> /story/log; exit 7' TERM; echo s >> /story/log; test $(grep -c ^s /story/log) -gt 2 || exit 1; sleep 1000 & wait"]}
containers:
- {name: c, command: [sh, -c, "until test $(grep -c ^s /story/log) -gt 2; do sleep 0.1; done; echo c >> /story/log"]}
`)
	p := s.ended("p", v1.PodSucceeded)
	if err := first(is("restarts", status(p, "s").RestartCount, 2), terminated(p, "s", 7), terminated(p, "c", 0)); err != nil {
		t.Error(err)
	}
	if got := strings.Join(s.story(), " "); got != "s s s c end-s" {
		t.Errorf("the story is %q", got)
	}
}

// TestSidecarProbesGateThePod: an unready sidecar makes the pod unready, and one that never starts holds the app back.
func TestSidecarProbesGateThePod(t *testing.T) {
	s := open(t)
	s.pod("unready", `
initContainers:
- {name: s, restartPolicy: Always, command: [sleep, "1000"], readinessProbe: {exec: {command: [test, -e, /story/ready]}, periodSeconds: 1, timeoutSeconds: 10}}
containers:
- {name: c, command: [sleep, "1000"]}
`)
	s.wait("unready", "Running and not Ready", func(p *v1.Pod) error {
		return first(is("phase", p.Status.Phase, v1.PodRunning), is("ready of c", status(p, "c").Ready, true),
			condition(p, v1.PodReady, v1.ConditionFalse, "ContainersNotReady"))
	})
	s.write("ready", "")
	s.ready("unready")
	s.pod("stuck", `
initContainers:
- {name: s, restartPolicy: Always, command: [sleep, "1000"], startupProbe: {exec: {command: ["false"]}, periodSeconds: 1, failureThreshold: 1000, timeoutSeconds: 10}}
containers:
- {name: c, command: [sh, -c, "echo c >> /story/log; sleep 1000"]}
`)
	s.wait("stuck", "waiting for its sidecar", func(p *v1.Pod) error {
		if c := status(p, "s"); c.State.Running == nil {
			return is("state", state(c), "running")
		}
		return waiting(p, "c", "PodInitializing")
	})
	s.event("stuck", "Unhealthy", "Startup probe failed")
	if got := s.read("log"); got != "" {
		t.Errorf("the app started beside a sidecar that had not: %q", got)
	}
}
