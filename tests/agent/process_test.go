package agent

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	v1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// killRole is kill -9 of one of the node's processes, and the wait for its successor.
func (s *space) killRole(role string) {
	s.t.Helper()
	pid, err := s.PIDOf(role)
	if err != nil {
		s.t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		s.t.Fatal(err)
	}
	s.eventually("another "+role, func() error {
		now, err := s.PIDOf(role)
		if err != nil {
			return err
		}
		if now == pid {
			return fmt.Errorf("it is still %d", pid)
		}
		_, err = os.Stat(fmt.Sprintf("/proc/%d", now))
		return err
	})
}

func priorityClass(name string, value int32) *schedulingv1.PriorityClass {
	return &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Value: value}
}

// processes returns the pids of the pod's processes whose cgroup is, or lies in, the container's (id), or the pod's for "".
func processes(p *v1.Pod, id string) []int {
	want := "pod" + string(p.UID)
	if id != "" {
		want = strings.TrimPrefix(id, "containerd://")
	}
	files, _ := filepath.Glob("/proc/[0-9]*/cgroup")
	var pids []int
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil || !strings.Contains(string(b), want) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(f))); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// killInit is kill -9 of all processes of a container, as the OOM killer or an operator does.
func (s *space) killInit(p *v1.Pod, name string) {
	s.t.Helper()
	pids := processes(p, status(p, name).ContainerID)
	if len(pids) == 0 {
		s.t.Fatalf("container %s has no process", name)
	}
	for _, pid := range pids {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}

// killPause is kill -9 of the process that holds the pod's sandbox.
func (s *space) killPause(p *v1.Pod) {
	s.t.Helper()
	s.eventually("the sandbox's process", func() error {
		for _, pid := range processes(p, "") {
			if comm, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); err == nil && strings.TrimSpace(string(comm)) == "pause" {
				return syscall.Kill(pid, syscall.SIGKILL)
			}
		}
		return fmt.Errorf("none of %v is pause", processes(p, ""))
	})
}

// noProcess waits until nothing of the pod runs.
func (s *space) noProcess(p *v1.Pod) {
	s.t.Helper()
	s.eventually("the end of all processes of "+p.Name, func() error {
		if pids := processes(p, ""); len(pids) > 0 {
			return fmt.Errorf("processes %v", pids)
		}
		return nil
	})
}

// noFolder waits until nothing of the pod is left below the root folder.
func (s *space) noFolder(p *v1.Pod) {
	s.t.Helper()
	s.eventually("the pod's folder to be gone", func() error { return absent(s.podDir(p)) })
}

// noLogs waits until the pod's log folder is gone.
func (s *space) noLogs(p *v1.Pod) {
	s.t.Helper()
	s.eventually("the pod's logs to be gone", func() error { return absent(s.logDir(p)) })
}

func (s *space) logDir(p *v1.Pod) string {
	return filepath.Join(s.Dir, "pod-logs", p.Namespace+"_"+p.Name+"_"+string(p.UID))
}

func absent(path string) error {
	_, err := os.Lstat(path)
	if os.IsNotExist(err) {
		return nil
	}
	return fmt.Errorf("%s is there (%v)", path, err)
}
