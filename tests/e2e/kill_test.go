package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/reevehq/reeve/tests/node"
)

// TestKillEachProcess kills every process of the node in turn, with SIGKILL, under a Service that is asked all the time
// and a container that writes numbered lines: no container dies or stalls, no request fails, no line is lost or
// doubled, and each time the node can run a new pod again.
func TestKillEachProcess(t *testing.T) {
	n := story{node.New(t)}
	n.Busybox()
	n.Start()
	n.Kubectl("apply", "-f", "testdata/kill.yaml")
	n.Kubectl("rollout", "status", "deployment/hello", "--timeout=180s")
	n.Kubectl("wait", "--for=condition=Ready", "pod/writer", "--timeout=180s")
	url := "http://" + n.Kubectl("get", "service", "hello", "-o", "jsonpath={.spec.clusterIP}") + "/"
	node.Eventually(t, "the Service to answer", func() error { _, err := get(url); return err })
	before := n.states()
	l := startLoad(url)
	l.progress(t, 20)

	type victim struct {
		name string
		kill func()
	}
	victims := []victim{
		{"control plane", func() { n.killRole("controlplane") }},
		{"agent", func() { n.killRole("agent") }},
		{"supervisor", func() {
			n.KillServer()
			n.Start() // as systemd would
		}},
		{"logpump", func() { n.killProcess("logpump --dir", n.DataDir()) }},
		{"logpump's keeper", func() { n.killProcess("logpump --keep", n.DataDir()) }},
		{"containerd", func() { n.killProcess("containerd --config", filepath.Join(n.DataDir(), "containerd")) }},
	}
	if n.Plugin != nil {
		// There is no logpump, and containerd is the user's: a killed one is not reeve's to start.
		victims = victims[:3]
		victims = append(victims, victim{"containerd", func() { n.Plugin.KillAndRestart(t) }})
	}
	for i, v := range victims {
		lines := n.wantEveryLineOnce("writer", "writer")
		v.kill()
		l.progress(t, 100)
		pod := fmt.Sprintf("after-%d", i)
		node.Eventually(t, "a new pod after the kill of "+v.name, func() error {
			_, err := n.TryKubectl("", "run", pod, "--image="+node.BusyboxImage, "--image-pull-policy=Never", "--restart=Never", "--", "true")
			if err != nil && strings.Contains(err.Error(), "AlreadyExists") {
				err = nil
			}
			return err
		})
		node.Eventually(t, "the new pod to end", func() error {
			phase, err := n.TryKubectl("", "get", "pod", pod, "-o", "jsonpath={.status.phase}")
			if err == nil && phase != "Succeeded" {
				err = fmt.Errorf("phase %s", phase)
			}
			return err
		})
		if now := n.wantEveryLineOnce("writer", "writer"); now <= lines {
			t.Errorf("after the kill of %s the writer stands at %d lines, before %d", v.name, now, lines)
		}
		n.wantSame("after the kill of "+v.name, before)
		if t.Failed() {
			break
		}
	}
	l.stop(t)
	t.Logf("%d numbered lines, each once", n.wantEveryLineOnce("writer", "writer"))
}

// killRole kills the process that holds a role, and waits until another holds it.
func (n story) killRole(role string) {
	n.T.Helper()
	pid, err := n.PIDOf(role)
	if err != nil {
		n.T.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		n.T.Fatalf("kill %s (%d): %v", role, pid, err)
	}
	node.Eventually(n.T, role+" to be started again", func() error {
		now, err := n.PIDOf(role)
		if err == nil && now == pid {
			err = fmt.Errorf("still process %d", pid)
		}
		return err
	})
}

// killProcess kills the one process whose command line has all parts, and waits until there is another.
func (n story) killProcess(parts ...string) {
	n.T.Helper()
	var pids []int
	node.Eventually(n.T, "one "+parts[0], func() error {
		if pids = node.Processes(parts...); len(pids) != 1 {
			return fmt.Errorf("processes %v", pids)
		}
		return nil
	})
	if err := syscall.Kill(pids[0], syscall.SIGKILL); err != nil {
		n.T.Fatal(err)
	}
	node.Eventually(n.T, parts[0]+" to be started again", func() error {
		if now := node.Processes(parts...); len(now) != 1 || now[0] == pids[0] {
			return fmt.Errorf("processes %v", now)
		}
		return nil
	})
}
