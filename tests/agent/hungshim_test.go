package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// shimOf finds the shim of a pod: the parent of its container's process, which is found by what it runs.
func (s *space) shimOf(mark string) (pid int) {
	s.t.Helper()
	s.eventually("the pod's shim", func() (err error) { pid, err = findShim(mark); return err })
	return pid
}

func findShim(mark string) (int, error) {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range files {
		b, _ := os.ReadFile(file)
		if !strings.Contains(string(b), mark) || strings.Contains(string(b), "runc") {
			continue
		}
		for dir := filepath.Dir(file); dir != "/proc/1" && dir != "/proc/0"; {
			stat, err := os.ReadFile(dir + "/stat")
			if err != nil {
				break
			}
			f := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
			dir = "/proc/" + f[1]
			if name, _ := os.ReadFile(dir + "/cmdline"); strings.Contains(string(name), "containerd-shim") {
				var pid int
				fmt.Sscanf(dir, "/proc/%d", &pid)
				return pid, nil
			}
		}
	}
	return 0, fmt.Errorf("no shim above a process with %q", mark)
}

func conditionOf(p *v1.Pod, kind string) *v1.PodCondition {
	for i := range p.Status.Conditions {
		if string(p.Status.Conditions[i].Type) == kind {
			return &p.Status.Conditions[i]
		}
	}
	return nil
}

// TestStoppedShim: with one pod's shim stopped by SIGSTOP the node stays Ready and other pods start as fast as before; the
// victim runs on, with a condition and an Event that say what is wrong; with SIGCONT it is as before, and a deletion that
// had met the stopped shim is finished.
func TestStoppedShim(t *testing.T) {
	s := open(t)
	mark := "mark-" + s.ns
	s.pod("victim", "containers: [{name: c, command: [sh, -c, 'while :; do sleep 1; done', "+mark+"]}]")
	s.running("victim")
	shim := s.shimOf(mark)
	signal := func(sig syscall.Signal) {
		t.Helper()
		if err := syscall.Kill(shim, sig); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { syscall.Kill(shim, syscall.SIGCONT) })

	start := func(name string) time.Duration {
		t.Helper()
		began := time.Now()
		s.pod(name, "containers: [{name: c, command: [sleep, '1000']}]")
		s.running(name)
		took := time.Since(began)
		s.delete(name, 0)
		return took
	}
	var with, without []time.Duration
	for i := range 5 { // in turns, so that the machine's other work weighs on both
		without = append(without, start(fmt.Sprintf("without-%d", i)))
		signal(syscall.SIGSTOP)
		with = append(with, start(fmt.Sprintf("with-%d", i)))
		signal(syscall.SIGCONT)
	}
	slices.Sort(with)
	slices.Sort(without)
	t.Logf("another pod's start, median: %s, with a stopped shim %s", without[2], with[2])
	if with[2] > 4*without[len(without)-1] {
		t.Errorf("other pods start more slowly with a stopped shim: %v, without %v", with, without)
	}

	signal(syscall.SIGSTOP)
	p := s.wait("victim", "a condition that says what is wrong", func(p *v1.Pod) error {
		c := conditionOf(p, "reeve.dev/RuntimeResponding")
		if c == nil || c.Status != v1.ConditionFalse || !strings.Contains(c.Message, fmt.Sprintf("process %d", shim)) {
			return fmt.Errorf("it is %v", c)
		}
		return nil
	})
	if c := conditionOf(p, "Ready"); c == nil || c.Status != v1.ConditionTrue || p.Status.Phase != v1.PodRunning {
		t.Errorf("the victim still runs, but is %s, ready %v", p.Status.Phase, c)
	}
	s.event("victim", "RuntimeNotResponding", fmt.Sprintf("process %d", shim))
	nodes, err := s.client.CoreV1().Nodes().List(s.ctx(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range nodes.Items {
		for _, c := range n.Status.Conditions {
			if c.Type == v1.NodeReady && c.Status != v1.ConditionTrue && c.Reason != overwritten {
				t.Errorf("the node is not ready: %v", c)
			}
		}
	}
	signal(syscall.SIGCONT)
	s.wait("victim", "the condition to go", func(p *v1.Pod) error {
		if c := conditionOf(p, "reeve.dev/RuntimeResponding"); c != nil {
			return fmt.Errorf("it is %v", c)
		}
		return nil
	})
	if out, err := s.exec("victim", "c", "echo", "healed"); err != nil || strings.TrimSpace(out) != "healed" {
		t.Errorf("exec after SIGCONT: %q, %v", out, err)
	}
	if c := status(s.now("victim"), "c"); c.RestartCount != 0 {
		t.Errorf("the victim was restarted %d times", c.RestartCount)
	}

	signal(syscall.SIGSTOP)
	s.delete("victim", 1)
	signal(syscall.SIGCONT)
	s.gone("victim")
}
