package agent

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/reevehq/reeve/internal/testenv"
	"github.com/reevehq/reeve/tests/node"
)

func sorted(list []string) []string {
	list = slices.Clone(list)
	slices.Sort(list)
	return list
}

// serving waits until the responder of the pod serves all that it is there for, and returns the pod's address. Ready alone,
// without a probe, says only that its process was made.
func (s *space) serving(name string) (address string) {
	s.t.Helper()
	address = s.ready(name).Status.PodIP
	for _, port := range []string{"8080", "8443", "9000", "9090"} {
		s.eventually("port "+port+" of "+name, func() error {
			c, err := net.DialTimeout("tcp", net.JoinHostPort(address, port), dialTimeout)
			if err == nil {
				err = c.Close()
			}
			return err
		})
	}
	return address
}

// dialTimeout bounds a connection to an address that is there.
const dialTimeout = 10 * time.Second

// fetch gets a page; the node itself is where it asks from.
func (s *space) fetch(url string) string {
	s.t.Helper()
	client := http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, Proxy: nil}}
	var body string
	s.eventually("fetch "+url, func() error {
		r, err := client.Get(url)
		if err != nil {
			return err
		}
		defer r.Body.Close()
		b, err := io.ReadAll(r.Body)
		body = string(b)
		return err
	})
	return body
}

// TestReadinessOfEachKind: ready while the probe succeeds, unready while it fails, never restarted.
func TestReadinessOfEachKind(t *testing.T) {
	s := open(t)
	for name, c := range map[string]struct{ probe, fails, heals string }{
		"http":       {"httpGet: {port: 8080, path: /p}", "/set?path=/p&code=500", "/set?path=/p&code=204"},
		"https":      {"httpGet: {port: 8443, path: /p, scheme: HTTPS}", "/set?path=/p&code=403", "/set?path=/p&code=200"},
		"grpc":       {"grpc: {port: 9090}", "/set?path=grpc&code=2", "/set?path=grpc&code=1"},
		"named-port": {"httpGet: {port: web, path: /p}", "/set?path=/p&code=400", "/set?path=/p&code=399"},
		"tcp":        {"tcpSocket: {port: 9000}", "", ""},
		"grpc-named": {"grpc: {port: 9090, service: named}", "", ""},
		"redirect":   {"httpGet: {port: 8080, path: /redirect}", "/set?path=/healthz&code=500", "/set?path=/healthz&code=200"},
		"exec":       {`exec: {command: [sh, -c, "test ! -e /story/exec-bad"]}`, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := s.sub(t)
			s.pod(name, `
containers:
- name: c
  image: `+responder+`
  ports: [{name: web, containerPort: 8080}]
  readinessProbe: {`+c.probe+`, periodSeconds: 1, failureThreshold: 2, timeoutSeconds: 10}
`)
			p := s.ready(name)
			set := func(path string) { s.fetch("http://" + p.Status.PodIP + ":8080" + path) }
			switch {
			case name == "exec":
				s.write("exec-bad", "")
			case c.fails == "":
				return
			default:
				set(c.fails)
			}
			s.wait(name, "unready", func(p *v1.Pod) error {
				return first(condition(p, v1.PodReady, v1.ConditionFalse, "ContainersNotReady"), condition(p, v1.ContainersReady, v1.ConditionFalse, "ContainersNotReady"))
			})
			s.event(name, "Unhealthy", "Readiness probe failed")
			if name == "exec" {
				s.remove("exec-bad")
			} else {
				set(c.heals)
			}
			p = s.ready(name)
			if err := is("restarts", status(p, "c").RestartCount, 0); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestProbeRequest: an HTTP probe carries the headers, the host and the agent's name; a redirect to another host is a
// success with a warning, and nobody follows it.
func TestProbeRequest(t *testing.T) {
	s := open(t)
	s.pod("p", `
containers:
- name: c
  image: `+responder+`
  readinessProbe: {httpGet: {port: 8080, path: /asked, httpHeaders: [{name: Host, value: virtual.example}, {name: X-Test, value: probe}]}, periodSeconds: 1, timeoutSeconds: 10}
  livenessProbe: {httpGet: {port: 8080, path: /away}, periodSeconds: 1, timeoutSeconds: 10}
`)
	p := s.ready("p")
	if seen := s.fetch("http://" + p.Status.PodIP + ":8080/seen"); !strings.Contains(seen, "/asked host=virtual.example agent=kube-probe/1.36 x-test=probe tls=false") {
		t.Errorf("requests: %s", seen)
	}
	s.event("p", "ProbeWarning", "redirect")
	s.pod("host", `
containers:
- name: c
  command: [sleep, "1000"]
  readinessProbe: {httpGet: {host: `+p.Status.PodIP+`, port: 8080, path: /by-host}, periodSeconds: 1, timeoutSeconds: 10}
`)
	s.ready("host")
	if seen := s.fetch("http://" + p.Status.PodIP + ":8080/seen"); !strings.Contains(seen, "/by-host") {
		t.Errorf("the probe with a host of its own went elsewhere: %s", seen)
	}
}

// TestLivenessOfEachKind: a container that stops to answer is restarted, and one that answers is not.
func TestLivenessOfEachKind(t *testing.T) {
	s := open(t)
	for name, c := range map[string]struct{ probe, fails string }{
		"http": {"httpGet: {port: 8080, path: /p}", "/set?path=/p&code=500"},
		"grpc": {"grpc: {port: 9090}", "/set?path=grpc&code=2"},
		"tcp":  {"tcpSocket: {port: 9999}", ""},
		"exec": {`exec: {command: [sh, -c, "test ! -e /story/bad"]}`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := s.sub(t)
			s.pod(name, `
containers:
- {name: c, image: `+responder+`, livenessProbe: {`+c.probe+`, periodSeconds: 1, failureThreshold: 3, timeoutSeconds: 10}}
- {name: good, image: `+node.BusyboxImage+`, command: [sleep, "1000"], livenessProbe: {exec: {command: ["true"]}, periodSeconds: 1, timeoutSeconds: 10}}
`)
			p := s.running(name)
			switch {
			case name == "exec":
				s.write("bad", "")
			case c.fails != "":
				s.fetch("http://" + p.Status.PodIP + ":8080" + c.fails)
			}
			p = s.wait(name, "restarted", func(p *v1.Pod) error { return is("restarts", status(p, "c").RestartCount, 1) })
			if name == "exec" {
				s.remove("bad")
			}
			s.event(name, "Unhealthy", "Liveness probe failed")
			s.event(name, "Killing", "Container c failed liveness probe, will be restarted")
			if err := is("restarts of the neighbour", status(p, "good").RestartCount, 0); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestStartupProbe holds liveness and readiness back until it succeeds, and kills a container that never starts.
func TestStartupProbe(t *testing.T) {
	s := open(t)
	s.pod("slow", `
containers:
- name: c
  command: [sleep, "1000"]
  startupProbe: {exec: {command: [test, -e, /story/started]}, periodSeconds: 1, failureThreshold: 100, timeoutSeconds: 10}
  livenessProbe: {exec: {command: [sh, -c, "echo live >> /story/log; test -e /story/started"]}, periodSeconds: 1, failureThreshold: 1, timeoutSeconds: 10}
  readinessProbe: {exec: {command: [sh, -c, "echo ready >> /story/log"]}, periodSeconds: 1}
`)
	s.event("slow", "Unhealthy", "Startup probe failed")
	s.wait("slow", "running and not started", func(p *v1.Pod) error {
		c := status(p, "c")
		if c.State.Running == nil || c.Started == nil || *c.Started || c.Ready {
			return fmt.Errorf("%s, started %v, ready %v", state(c), c.Started, c.Ready)
		}
		return is("other probes", s.read("log"), "")
	})
	s.write("started", "")
	p := s.ready("slow")
	if err := is("restarts", status(p, "c").RestartCount, 0); err != nil {
		t.Error(err)
	}
	s.pod("never", `{containers: [{name: c, command: [sleep, "1000"], startupProbe: {exec: {command: ["false"]}, periodSeconds: 1, failureThreshold: 2, terminationGracePeriodSeconds: 1}}]}`)
	s.wait("never", "restarted", func(p *v1.Pod) error { return is("restarts", status(p, "c").RestartCount, 1) })
	s.event("never", "Killing", "failed startup probe")
}

// TestProbeTimeouts: an exec probe that hangs and an HTTP probe that is slow fail by their time-outs, and the hanging
// command is killed.
func TestProbeTimeouts(t *testing.T) {
	s := open(t)
	s.pod("exec", `{containers: [{name: c, command: [sleep, "1000"], livenessProbe: {exec: {command: [sh, -c, "exec sleep 777"]}, periodSeconds: 1, timeoutSeconds: 1, failureThreshold: 2}}]}`)
	s.pod("http", `{containers: [{name: c, image: `+responder+`, readinessProbe: {httpGet: {port: 8080, path: "/slow?ms=20000"}, periodSeconds: 1, timeoutSeconds: 1}}]}`)
	s.wait("exec", "restarted", func(p *v1.Pod) error { return is("restarts", status(p, "c").RestartCount, 1) })
	s.event("exec", "Unhealthy", "timed out after 1s")
	s.event("http", "Unhealthy", "Readiness probe failed")
	if err := condition(s.now("http"), v1.PodReady, v1.ConditionFalse, ""); err != nil {
		t.Error(err)
	}
	s.pod("leftover", `{containers: [{name: c, command: [sleep, "1000"], readinessProbe: {exec: {command: [sh, -c, "echo x >> /story/log; exec sleep 778"]}, periodSeconds: 1, timeoutSeconds: 1}}]}`)
	p := s.running("leftover")
	s.eventually("three time-outs", func() error {
		if n := len(s.story()); n < 4 {
			return fmt.Errorf("%d probes", n)
		}
		return nil
	})
	s.eventually("one command at most", func() error {
		n := 0
		for _, pid := range processes(p, status(p, "c").ContainerID) {
			if b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); err == nil && strings.Contains(string(b), "778") {
				n++
			}
		}
		if n > 1 {
			return fmt.Errorf("%d commands run", n)
		}
		return nil
	})
}

// TestProbeGrace: a failed liveness probe kills within its own grace, not the pod's.
func TestProbeGrace(t *testing.T) {
	s := open(t)
	s.pod("p", `
terminationGracePeriodSeconds: 600
containers:
- name: c
  command: [sh, -c, "trap 'echo term >> /story/log' TERM; touch /story/up; while true; do sleep 0.1; done"]
  livenessProbe: {exec: {command: [test, '!', -e, /story/up]}, periodSeconds: 1, failureThreshold: 1, terminationGracePeriodSeconds: 1, timeoutSeconds: 10}
`)
	p := s.wait("p", "killed and restarted", func(p *v1.Pod) error {
		c := status(p, "c")
		if last := c.LastTerminationState.Terminated; last == nil || last.ExitCode != 137 {
			return is("last state", state(&v1.ContainerStatus{State: c.LastTerminationState}), "terminated: 137")
		}
		return nil
	})
	if err := inOrder(s.story(), "term"); err != nil {
		t.Error(err)
	}
	s.delete(p.Name, 0)
}

// TestInitialDelayAndThresholds reads off the probes' own record: none before initialDelaySeconds, and ready only after
// successThreshold successes in a row.
func TestInitialDelayAndThresholds(t *testing.T) {
	s := open(t)
	s.pod("p", `
containers:
- name: c
  command: [sleep, "1000"]
  readinessProbe: {exec: {command: [sh, -c, "date +%s >> /story/probes; n=$(wc -l < /story/probes); test $n -ne 3"]}, initialDelaySeconds: 3, periodSeconds: 1, successThreshold: 3, failureThreshold: 1, timeoutSeconds: 10}
`)
	p := s.ready("p")
	probes := strings.Fields(s.read("probes"))
	if len(probes) < 6 {
		t.Errorf("ready after probes at %v: two successes, a failure, then three successes are needed", probes)
	}
	var asked int64
	fmt.Sscan(probes[0], &asked)
	if d := asked - status(p, "c").State.Running.StartedAt.Unix(); d < 2 { // both are whole seconds
		t.Errorf("the first probe came %d s after the start, want 3", d)
	}
}

// TestProbeSoak: containers with probes every second, two minutes long (REEVE_LONG) or ten seconds: nothing restarts or
// becomes unready, and in the long form, which wants the machine for itself, no probe fails, though one failure would be
// enough to restart a container or make it unready. Startup probes hold the others back until the containers serve: sixty
// that start at once on two processors take their time for that.
func TestProbeSoak(t *testing.T) {
	network, execs, lasts, limits := 9, 3, 10*time.Second, "failureThreshold: 3, timeoutSeconds: 10"
	if testenv.Long() {
		network, execs, lasts, limits = 50, 10, 2*time.Minute, "failureThreshold: 1"
	}
	s := open(t)
	kinds := []string{"httpGet: {port: 8080, path: /healthz}", "tcpSocket: {port: 9000}", "grpc: {port: 9090}"}
	var names []string
	for i := range network {
		k := kinds[i%len(kinds)]
		name := fmt.Sprint("net", i)
		names = append(names, name)
		s.pod(name, `{containers: [{name: c, image: `+responder+`, startupProbe: {`+k+`, periodSeconds: 1, failureThreshold: 120, timeoutSeconds: 10}, livenessProbe: {`+k+`, periodSeconds: 1, `+limits+`}, readinessProbe: {`+k+`, periodSeconds: 1, `+limits+`}}]}`)
	}
	for i := range execs {
		name := fmt.Sprint("exec", i)
		names = append(names, name)
		s.pod(name, `{containers: [{name: c, image: `+responder+`, startupProbe: {exec: {command: [/bin/busybox, "true"]}, periodSeconds: 1, failureThreshold: 120, timeoutSeconds: 10}, livenessProbe: {exec: {command: [/bin/busybox, "true"]}, periodSeconds: 1, `+limits+`}}]}`)
	}
	for _, n := range names {
		s.ready(n)
	}
	before := s.probeMetrics()
	time.Sleep(lasts) // the soak itself
	after := s.probeMetrics()
	for _, n := range names {
		p := s.now(n)
		if err := first(is("restarts", status(p, "c").RestartCount, 0), condition(p, v1.PodReady, v1.ConditionTrue, "")); err != nil {
			t.Errorf("%s: %v", n, err)
		}
	}
	good, bad := after["successful"]-before["successful"], after["failed"]-before["failed"]
	t.Logf("%d network and %d exec containers for %s: %d probes succeeded, %d failed; %d began late by more than 0.5 s; %d time-outs not counted", network, execs, lasts, good, bad, after["late"]-before["late"], after["discarded"]-before["discarded"])
	if want := (2*network + execs) * int(lasts.Seconds()) / 3; good < want {
		t.Errorf("%d probes in %s, want at least %d", good, lasts, want)
	}
	if bad > 0 && testenv.Long() { // the short form runs beside many other tests, whose load containers feel too
		t.Errorf("%d probes failed", bad)
	}
}

// probeMetrics sums /metrics/probes over this namespace's pods: by result, and how many began late, of the whole node.
func (s *space) probeMetrics() map[string]int {
	s.t.Helper()
	out := map[string]int{}
	all := 0
	for line := range strings.Lines(s.kubelet("/metrics/probes")) {
		f := strings.Fields(line)
		if len(f) != 2 {
			continue
		}
		var v float64
		fmt.Sscan(f[1], &v)
		switch {
		case strings.HasPrefix(line, "prober_probe_total{") && strings.Contains(line, `namespace="`+s.ns+`"`):
			for _, r := range []string{"successful", "failed", "unknown"} {
				if strings.Contains(line, `result="`+r+`"`) {
					out[r] += int(v)
				}
			}
		case strings.HasPrefix(line, `reeve_prober_late_seconds_bucket{le="0.5"}`):
			out["late"] -= int(v)
		case strings.HasPrefix(line, "reeve_prober_late_seconds_count"):
			all = int(v)
		case strings.HasPrefix(line, "reeve_prober_discarded_total"):
			out["discarded"] = int(v)
		}
	}
	out["late"] += all
	return out
}

// kubelet gets a path of the agent's server, through the API server.
func (s *space) kubelet(path string) string {
	s.t.Helper()
	b, err := s.client.CoreV1().RESTClient().Get().AbsPath("/api/v1/nodes/node-a/proxy" + path).DoRaw(s.ctx())
	if err != nil {
		s.t.Fatalf("GET %s of the node: %v", path, err)
	}
	return string(b)
}
