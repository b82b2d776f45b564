package agent

import (
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const finalizer = "tests.reeve.dev/keep"

// kept keeps the object of a deleted pod, so that its last status can be read.
func kept(p *v1.Pod) { p.Finalizers = append(p.Finalizers, finalizer) }

func (s *space) release(name string) {
	s.t.Helper()
	s.eventually("release "+name, func() error {
		p := s.now(name)
		p.Finalizers = nil
		_, err := s.pods().Update(s.ctx(), p, metav1.UpdateOptions{})
		return err
	})
}

// TestGracePeriod: TERM first, and KILL only when the grace has run out.
func TestGracePeriod(t *testing.T) {
	s := open(t)
	s.pod("polite", `{terminationGracePeriodSeconds: 60, restartPolicy: Never, containers: [{name: c, command: [sh, -c, "trap 'echo term >> /story/log; exit 5' TERM; echo up >> /story/log; sleep 1000 & wait"]}]}`, kept)
	s.pod("deaf", `{terminationGracePeriodSeconds: 3, restartPolicy: Never, containers: [{name: c, command: [sh, -c, "trap 'echo ignored' TERM; echo up >> /story/deaf; while true; do sleep 0.1; done"]}]}`, kept)
	s.eventually("both to be up", func() error { return first(is("log", s.read("log"), "up\n"), is("deaf", s.read("deaf"), "up\n")) })
	s.running("polite")
	s.running("deaf")
	s.delete("polite")
	s.delete("deaf")
	p := s.ended("polite", v1.PodFailed)
	if err := first(terminated(p, "c", 5), is("story", s.read("log"), "up\nterm\n")); err != nil {
		t.Error(err)
	}
	p = s.ended("deaf", v1.PodFailed)
	if err := terminated(p, "c", 137); err != nil {
		t.Error(err)
	}
	end := status(p, "c").State.Terminated.FinishedAt
	if d := end.Sub(p.DeletionTimestamp.Add(-3 * time.Second)); d < 2*time.Second {
		t.Errorf("KILL came %s after the deletion, within a grace of 3 s", d)
	}
	if !strings.Contains(s.logs("deaf", "c"), "ignored") {
		t.Error("the deaf container never heard TERM")
	}
	s.release("polite")
	s.release("deaf")
	s.gone("polite")
	s.gone("deaf")
}

// TestShorterGrace: a second deletion with less grace shortens the first.
func TestShorterGrace(t *testing.T) {
	s := open(t)
	s.pod("p", `{terminationGracePeriodSeconds: 600, containers: [{name: c, command: [sleep, "1000"]}]}`)
	s.ready("p")
	s.delete("p")
	s.wait("p", "terminating", func(p *v1.Pod) error {
		if p.DeletionTimestamp == nil {
			return is("deleted", false, true)
		}
		return nil
	})
	s.delete("p", 1)
	s.gone("p")
}

// TestForceDelete: the object goes at once, and so do the containers, without an object to report to.
func TestForceDelete(t *testing.T) {
	s := open(t)
	s.pod("p", `{terminationGracePeriodSeconds: 600, containers: [{name: c, command: [sh, -c, "trap '' TERM; while true; do sleep 0.1; date > /story/beat; done"]}]}`)
	p := s.ready("p")
	s.delete("p", 0)
	s.gone("p")
	s.noProcess(p)
	s.noFolder(p)
}

// TestStopSignal: a container's own stop signal is sent in place of TERM.
func TestStopSignal(t *testing.T) {
	s := open(t)
	s.pod("p", `{os: {name: linux}, terminationGracePeriodSeconds: 60, restartPolicy: Never, containers: [{name: c, lifecycle: {stopSignal: SIGUSR1}, command: [sh, -c, "trap 'echo usr1 >> /story/log; exit 0' USR1; trap 'echo term >> /story/log; exit 1' TERM; echo up >> /story/log; sleep 1000 & wait"]}]}`)
	s.eventually("the trap to be set", func() error { return is("log", s.read("log"), "up\n") })
	p := s.running("p")
	if got := status(p, "c").StopSignal; got == nil || *got != "SIGUSR1" {
		t.Errorf("stopSignal in the status is %v", got)
	}
	s.delete("p")
	s.gone("p")
	if err := is("story", s.read("log"), "up\nusr1\n"); err != nil {
		t.Error(err)
	}
}

// TestDeadline: a pod that outlives activeDeadlineSeconds is stopped and fails, and one whose deadline is set late too.
func TestDeadline(t *testing.T) {
	s := open(t)
	s.pod("p", `{activeDeadlineSeconds: 2, terminationGracePeriodSeconds: 1, containers: [{name: c, command: [sleep, "1000"]}]}`)
	s.pod("later", `{terminationGracePeriodSeconds: 1, containers: [{name: c, command: [sleep, "1000"]}]}`)
	s.ready("later")
	s.eventually("set a deadline", func() error {
		p := s.now("later")
		one := int64(1)
		p.Spec.ActiveDeadlineSeconds = &one
		_, err := s.pods().Update(s.ctx(), p, metav1.UpdateOptions{})
		return err
	})
	for _, n := range []string{"p", "later"} {
		p := s.ended(n, v1.PodFailed)
		if err := first(is("reason", p.Status.Reason, "DeadlineExceeded"), condition(p, v1.PodReady, v1.ConditionFalse, "PodFailed")); err != nil {
			t.Errorf("%s: %v", n, err)
		}
		s.noProcess(p)
	}
	s.event("p", "DeadlineExceeded", "longer than the specified deadline")
}

// TestTerminatedPodsAreKept: a finished pod keeps its status, its termination and its log until its object goes.
func TestTerminatedPodsAreKept(t *testing.T) {
	s := open(t)
	s.pod("p", `{restartPolicy: Never, containers: [{name: c, command: [sh, -c, "echo words"]}]}`)
	p := s.ended("p", v1.PodSucceeded)
	s.noProcess(p)
	if got := s.logs("p", "c"); got != "words\n" {
		t.Errorf("log of a finished pod is %q", got)
	}
	s.delete("p", 0)
	s.gone("p")
	s.noFolder(p)
	s.noLogs(p)
}
