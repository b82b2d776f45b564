package agent

import (
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/reevehq/reeve/tests/node"
)

// TestAgentKilled kills the agent under pods in every kind of trouble, on a node of its own: what each had come to goes on
// from there.
func TestAgentKilled(t *testing.T) {
	n := node.New(t)
	n.Busybox()
	responderImage(n)
	n.Start()
	s := openOn(t, n)
	after := map[string]func(){}
	begun := make(chan struct{})
	go func() { defer close(begun); s.pod("crash", crashing) }()
	after["resizes wait"] = resizesWait(s)
	<-begun
	after["probe results"] = probesDecided(s)
	after["ordinary"] = nothingHappens(s)
	after["crashes"] = crashesCounted(s)
	s.killRole("agent")
	for _, name := range []string{"ordinary", "probe results", "crashes", "resizes wait"} {
		after[name]()
	}
}

const crashing = `{containers: [{name: c, command: [sh, -c, "exit 3"]}, {name: ok, command: [sleep, "1000"]}]}`

// crashesCounted: restart count, crash back-off and image back-off go on where they were.
func crashesCounted(s *space) func() {
	s.pod("image", `{containers: [{name: c, image: "127.0.0.1:1/none:v1", imagePullPolicy: Always}]}`)
	s.wait("image", "in back-off", func(p *v1.Pod) error { return waiting(p, "c", "ImagePullBackOff") })
	var restarts int32
	before := s.wait("crash", "restarted", func(p *v1.Pod) error {
		if restarts = status(p, "c").RestartCount; restarts < 1 {
			return is("restarts", restarts, 1)
		}
		return waiting(p, "c", "CrashLoopBackOff")
	})
	return func() {
		s.wait("image", "in back-off still", func(p *v1.Pod) error { return waiting(p, "c", "ImagePullBackOff") })
		after := s.wait("crash", "restarted once more", func(p *v1.Pod) error { return is("restarts", status(p, "c").RestartCount, restarts+1) })
		end := status(before, "c").LastTerminationState.Terminated.FinishedAt
		var began time.Time
		switch c := status(after, "c"); {
		case c.State.Terminated != nil:
			began = c.State.Terminated.StartedAt.Time
		case c.State.Running != nil:
			began = c.State.Running.StartedAt.Time
		case c.LastTerminationState.Terminated != nil:
			began = c.LastTerminationState.Terminated.StartedAt.Time
		}
		if d, want := began.Sub(end.Time), 10*time.Second<<(restarts-1)-time.Second; d < want {
			s.t.Errorf("restart %d came %s after the end before it, want %s", restarts+1, d, want)
		}
		if a, b := status(before, "ok").ContainerID, status(after, "ok").ContainerID; a != b {
			s.t.Errorf("the neighbour's container %s became %s", a, b)
		}
	}
}

// nothingHappens: an ordinary pod with init container and sidecar stays as it is, and its status is not written.
func nothingHappens(s *space) func() {
	s.pod("ordinary", `
initContainers:
- {name: i, command: [sh, -c, "echo i >> /story/ordinary"]}
- {name: s, restartPolicy: Always, command: [sh, -c, "echo s >> /story/ordinary; sleep 1000"], lifecycle: {postStart: {exec: {command: [sh, -c, "until grep -q ^s /story/ordinary; do sleep 0.1; done"]}}}}
containers: [{name: c, command: [sh, -c, "echo c >> /story/ordinary; sleep 1000"]}]
`)
	before := s.ready("ordinary")
	s.eventually("its story", func() error { return is("story", s.read("ordinary"), "i\ns\nc\n") })
	return func() {
		s.eventually("the agent to serve", func() error { _, err := s.exec("ordinary", "c", "true"); return err })
		if err := first(is("story", s.read("ordinary"), "i\ns\nc\n"), is("resourceVersion", s.now("ordinary").ResourceVersion, before.ResourceVersion)); err != nil {
			s.t.Error(err)
		}
	}
}

// probesDecided: what probes had decided stands: the unready stays unready and the started is not asked again.
func probesDecided(s *space) func() {
	s.write("ready", "")
	s.pod("probed", `
containers:
- name: c
  command: [sleep, "1000"]
  startupProbe: {exec: {command: [sh, -c, "echo startup >> /story/startup; test $(wc -l < /story/startup) -ge 3"]}, periodSeconds: 1, failureThreshold: 100, timeoutSeconds: 10}
  readinessProbe: {exec: {command: [test, -e, /story/ready]}, periodSeconds: 1, failureThreshold: 1, successThreshold: 3, timeoutSeconds: 10}
`)
	s.ready("probed")
	asked := s.read("startup")
	s.remove("ready")
	before := s.wait("probed", "unready", func(p *v1.Pod) error { return condition(p, v1.PodReady, v1.ConditionFalse, "ContainersNotReady") })
	return func() {
		if err := condition(s.now("probed"), v1.PodReady, v1.ConditionFalse, "ContainersNotReady"); err != nil {
			s.t.Error(err)
		}
		s.write("ready", "")
		after := s.ready("probed")
		if err := first(is("startup probes", s.read("startup"), asked), is("containerID", status(after, "c").ContainerID, status(before, "c").ContainerID)); err != nil {
			s.t.Error(err)
		}
	}
}
