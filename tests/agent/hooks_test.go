package agent

import (
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
)

// TestPostStart: exec, HTTP and sleep; until the hook has run the container is not Running and the next one does not
// start. An HTTP hook is called once, as soon as its container runs, so what it calls has to serve already: web, which
// its own hook holds until it listens on 8080 (1F90).
func TestPostStart(t *testing.T) {
	s := open(t)
	s.pod("p", `
containers:
- {name: c, command: [sh, -c, "echo c >> /story/log; sleep 1000"], lifecycle: {postStart: {exec: {command: [sh, -c, "until test -e /story/go; do sleep 0.1; done; echo hook >> /story/log"]}}}}
- {name: web, image: "`+responder+`", lifecycle: {postStart: {exec: {command: [sh, -c, "until busybox grep -q ':1F90 ' /proc/net/tcp /proc/net/tcp6 2>/dev/null; do sleep 0.1; done"]}}}}
- {name: http, command: [sleep, "1000"], lifecycle: {postStart: {httpGet: {port: 8080, path: /hook, httpHeaders: [{name: X-Test, value: post}]}}}}
- {name: d, command: [sh, -c, "echo d >> /story/log; sleep 1000"], lifecycle: {postStart: {exec: {command: [sh, -c, "until grep -q d /story/log; do sleep 0.1; done"]}}}}
- {name: e, command: [sh, -c, "echo e >> /story/log; sleep 1000"], lifecycle: {postStart: {sleep: {seconds: 1}}}}
`)
	s.eventually("the first container", func() error { return is("story", s.read("log"), "c\n") })
	s.wait("p", "in its hook", func(p *v1.Pod) error {
		return first(is("phase", p.Status.Phase, v1.PodPending), waiting(p, "c", "ContainerCreating"), is("address", p.Status.PodIP != "", true))
	})
	s.write("go", "")
	p := s.ready("p")
	s.eventually("the story", func() error { return is("story", s.read("log"), "c\nhook\nd\ne\n") })
	for _, c := range p.Status.ContainerStatuses {
		if c.RestartCount != 0 {
			t.Errorf("container %s was restarted %d times: %+v", c.Name, c.RestartCount, c.LastTerminationState)
		}
	}
	if seen := s.fetch("http://" + p.Status.PodIP + ":8080/seen"); !strings.Contains(seen, "/hook host="+p.Status.PodIP+":8080") || !strings.Contains(seen, "x-test=post") || !strings.Contains(seen, "kube-lifecycle/") {
		t.Errorf("the HTTP hook's request: %s", seen)
	}
}

// TestFailedPostStart kills the container and tells why.
func TestFailedPostStart(t *testing.T) {
	s := open(t)
	s.pod("p", `{containers: [{name: c, command: [sh, -c, "trap 'echo term >> /story/log; exit 0' TERM; echo c >> /story/log; sleep 1000 & wait"], lifecycle: {postStart: {exec: {command: [sh, -c, "until test -s /story/log; do sleep 0.1; done; exit 3"]}}}}]}`)
	s.event("p", "FailedPostStartHook", "PostStartHook failed")
	s.wait("p", "restarted", func(p *v1.Pod) error {
		if n := status(p, "c").RestartCount; n < 1 {
			return is("restarts", n, 1)
		}
		return nil
	})
	s.eventually("the second run", func() error { return inOrder(s.story(), "c", "term", "c") })
}

// TestPreStop: exec, HTTP and sleep run before TERM, all within the grace.
func TestPreStop(t *testing.T) {
	s := open(t)
	s.pod("web", `{containers: [{name: web, image: "`+responder+`"}]}`)
	web := s.serving("web")
	trap := `command: [sh, -c, "trap 'echo term-$0 >> /story/log; exit 0' TERM; echo $0 >> /story/log; sleep 1000 & wait", `
	s.pod("p", `
terminationGracePeriodSeconds: 30
containers:
- {name: exec, `+trap+`exec], lifecycle: {preStop: {exec: {command: [sh, -c, "sleep 0.5; echo stop-exec >> /story/log"]}}}}
- {name: sleep, `+trap+`sleep], lifecycle: {preStop: {sleep: {seconds: 1}}}}
- {name: once, `+trap+`once], lifecycle: {preStop: {exec: {command: [sh, -c, "echo stop-once >> /story/log; sleep 4"]}}}}
- {name: http, `+trap+`http], lifecycle: {preStop: {httpGet: {host: `+web+`, port: 8080, path: /stop}}}}
- {name: https, `+trap+`https], lifecycle: {preStop: {httpGet: {host: `+web+`, port: 8443, path: /stop-tls, scheme: HTTPS}}}}
`)
	s.ready("p")
	s.eventually("all to be up", func() error { return inOrder(sorted(s.story()), "exec", "http", "https", "once", "sleep") })
	s.delete("p")
	s.gone("p")
	if err := inOrder(s.story(), "stop-exec", "term-exec"); err != nil {
		t.Error(err)
	}
	if got := strings.Count(strings.Join(s.story(), " "), "stop-once"); got != 1 {
		t.Errorf("a hook that outlasts the end of its neighbours ran %d times", got)
	}
	for _, n := range []string{"sleep", "http", "https"} {
		if err := inOrder(s.story(), n, "term-"+n); err != nil {
			t.Error(err)
		}
	}
	seen := s.fetch("http://" + web + ":8080/seen")
	for _, want := range []string{"/stop host=" + web + ":8080", "/stop-tls host=" + web + ":8443"} {
		if !strings.Contains(seen, want) {
			t.Errorf("the HTTP hooks' requests lack %q: %s", want, seen)
		}
	}
}

// TestPreStopCountsAgainstTheGrace: a hook that outlives the grace is cut off; a failing one is told and does no harm.
func TestPreStopCountsAgainstTheGrace(t *testing.T) {
	s := open(t)
	s.pod("long", `{terminationGracePeriodSeconds: 8, containers: [{name: c, command: [sh, -c, "trap 'echo term >> /story/log; exit 0' TERM; echo up >> /story/log; sleep 1000 & wait"], lifecycle: {preStop: {exec: {command: [sh, -c, "echo stop >> /story/log; sleep 600; echo never >> /story/log"]}}}}]}`)
	s.pod("failing", `{terminationGracePeriodSeconds: 30, containers: [{name: c, command: [sh, -c, "trap 'exit 0' TERM; echo up >> /story/failing; sleep 1000 & wait"], lifecycle: {preStop: {exec: {command: [sh, -c, "exit 7"]}}}}]}`)
	s.ready("long")
	s.ready("failing")
	s.eventually("both to be up", func() error { return first(is("log", s.read("log"), "up\n"), is("failing", s.read("failing"), "up\n")) })
	s.delete("long")
	s.delete("failing")
	s.gone("long")
	s.gone("failing")
	if err := is("story", s.read("log"), "up\nstop\nterm\n"); err != nil {
		t.Error(err)
	}
	s.event("failing", "FailedPreStopHook", "PreStopHook failed")
}

// TestPreStopBeforeARestart: a container that fails its liveness probe has its hook run too.
func TestPreStopBeforeARestart(t *testing.T) {
	s := open(t)
	s.pod("p", `
containers:
- name: c
  command: [sh, -c, "trap 'echo term >> /story/log; exit 0' TERM; echo c >> /story/log; sleep 1000 & wait"]
  lifecycle: {preStop: {exec: {command: [sh, -c, "echo stop >> /story/log"]}}}
  livenessProbe: {exec: {command: [sh, -c, "test \"$(grep -c ^c /story/log 2>/dev/null)\" != 1"]}, periodSeconds: 1, failureThreshold: 2, timeoutSeconds: 10}
`)
	s.wait("p", "restarted", func(p *v1.Pod) error { return is("restarts", status(p, "c").RestartCount, 1) })
	s.eventually("the second run", func() error { return inOrder(s.story(), "c", "stop", "term", "c") })
}
