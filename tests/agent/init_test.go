package agent

import (
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
)

// TestInitContainersRunInOrder: one after the other, before any app container, once.
func TestInitContainersRunInOrder(t *testing.T) {
	s := open(t)
	for _, policy := range []string{"Never", "Always"} {
		t.Run(policy, func(t *testing.T) {
			s, name := s.sub(t), strings.ToLower(policy)
			s.pod(name, `
restartPolicy: `+policy+`
initContainers:
- {name: i1, command: [sh, -c, "until test -e /story/go-`+name+`; do sleep 0.1; done; echo i1 >> /story/`+name+`"]}
- {name: i2, command: [sh, -c, "echo i2 >> /story/`+name+`"]}
containers:
- {name: c, command: [sh, -c, "echo c >> /story/`+name+`; test `+policy+` = Never || sleep 1000"]}
`)
			s.wait(name, "initialising", func(p *v1.Pod) error {
				return first(condition(p, v1.PodInitialized, v1.ConditionFalse, "ContainersNotInitialized"), waiting(p, "c", "PodInitializing"))
			})
			s.write("go-"+name, "")
			p := s.wait(name, "past its init containers", func(p *v1.Pod) error {
				if policy == "Never" {
					return is("phase", p.Status.Phase, v1.PodSucceeded)
				}
				return condition(p, v1.PodReady, v1.ConditionTrue, "")
			})
			for _, n := range []string{"i1", "i2"} {
				if err := first(terminated(p, n, 0), is("ready of "+n, status(p, n).Ready, true), is("restarts of "+n, status(p, n).RestartCount, 0)); err != nil {
					t.Error(err)
				}
			}
			if got := s.read(name); got != "i1\ni2\nc\n" {
				t.Errorf("the story is %q", got)
			}
		})
	}
}

// TestFailedInitContainer: a pod that restarts never fails with it; one that restarts always tries it again, and no app
// container starts before it succeeds.
func TestFailedInitContainer(t *testing.T) {
	s := open(t)
	s.pod("never", `
restartPolicy: Never
initContainers:
- {name: i1, command: [sh, -c, "exit 4"]}
- {name: i2, command: [sh, -c, "echo i2 >> /story/never"]}
containers:
- {name: c, command: [sh, -c, "echo c >> /story/never"]}
`)
	s.pod("always", `
initContainers:
- {name: i1, command: [sh, -c, "echo i1 >> /story/log; test $(wc -l < /story/log) -ge 3"]}
- {name: i2, command: [sh, -c, "echo i2 >> /story/log"]}
containers:
- {name: c, command: [sh, -c, "echo c >> /story/log; sleep 1000"]}
`)
	p := s.ended("never", v1.PodFailed)
	if err := first(terminated(p, "i1", 4), is("restarts", status(p, "i1").RestartCount, 0), is("the story", s.read("never"), ""),
		condition(p, v1.PodInitialized, v1.ConditionFalse, "")); err != nil {
		t.Error(err)
	}
	s.wait("always", "backing off", func(p *v1.Pod) error {
		return first(waiting(p, "i1", "CrashLoopBackOff"), is("phase", p.Status.Phase, v1.PodPending), waiting(p, "c", "PodInitializing"))
	})
	p = s.ready("always")
	if err := first(is("the story", s.read("log"), "i1\ni1\ni1\ni2\nc\n"), is("restarts", status(p, "i1").RestartCount, 2)); err != nil {
		t.Error(err)
	}
}
