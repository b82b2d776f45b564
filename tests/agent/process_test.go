package agent

import (
	"fmt"
	"os"
	"syscall"

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
