package agent

import (
	"fmt"
	"strings"

	v1 "k8s.io/api/core/v1"
	corev1 "k8s.io/client-go/kubernetes/typed/core/v1"
)

type podClient = corev1.PodInterface

// lawful holds every recorded state of every pod against what may never go back.
func (s *space) lawful() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, states := range s.history {
		for i := 1; i < len(states); i++ {
			if err := follows(states[i-1], states[i]); err != nil {
				s.t.Errorf("pod %s, resource version %s → %s: %v", states[i].Name, states[i-1].ResourceVersion, states[i].ResourceVersion, err)
			}
		}
	}
}

// follows tells why b may not come after a.
func follows(a, b *v1.Pod) error {
	pa, pb := a.Status.Phase, b.Status.Phase
	switch {
	case (pa == v1.PodSucceeded || pa == v1.PodFailed) && pa != pb:
		return fmt.Errorf("phase goes from %s to %s", pa, pb)
	case pa == v1.PodRunning && pb == v1.PodPending:
		return fmt.Errorf("phase goes back from %s to %s", pa, pb)
	case a.Status.ObservedGeneration > b.Status.ObservedGeneration:
		return fmt.Errorf("observedGeneration goes back from %d to %d", a.Status.ObservedGeneration, b.Status.ObservedGeneration)
	case b.Status.ObservedGeneration > b.Generation:
		return fmt.Errorf("observedGeneration is %d, ahead of generation %d", b.Status.ObservedGeneration, b.Generation)
	case a.Status.StartTime != nil && !a.Status.StartTime.Equal(b.Status.StartTime):
		return fmt.Errorf("startTime goes from %v to %v", a.Status.StartTime, b.Status.StartTime)
	case a.Status.QOSClass != "" && a.Status.QOSClass != b.Status.QOSClass:
		return fmt.Errorf("qosClass goes from %s to %s", a.Status.QOSClass, b.Status.QOSClass)
	}
	for _, lists := range [][2][]v1.ContainerStatus{
		{a.Status.InitContainerStatuses, b.Status.InitContainerStatuses}, {a.Status.ContainerStatuses, b.Status.ContainerStatuses},
	} {
		for i := range lists[1] {
			y := &lists[1][i]
			x := containerIn(lists[0], y.Name)
			if x == nil {
				continue
			}
			switch {
			case x.RestartCount > y.RestartCount:
				return fmt.Errorf("restartCount of %s goes back from %d to %d", y.Name, x.RestartCount, y.RestartCount)
			case x.ContainerID != "" && y.ContainerID != "" && x.ContainerID != y.ContainerID && x.RestartCount == y.RestartCount && x.State.Waiting == nil:
				return fmt.Errorf("container %s was replaced with restartCount still %d", y.Name, y.RestartCount)
			case y.Ready && y.State.Running == nil && y.State.Terminated == nil:
				return fmt.Errorf("container %s is ready and not running", y.Name)
			}
		}
	}
	return nil
}

func containerIn(list []v1.ContainerStatus, name string) *v1.ContainerStatus {
	for i := range list {
		if list[i].Name == name {
			return &list[i]
		}
	}
	return nil
}

// status returns the status of the pod's container, of whatever kind; an empty one if there is none.
func status(p *v1.Pod, name string) *v1.ContainerStatus {
	for _, list := range [][]v1.ContainerStatus{p.Status.ContainerStatuses, p.Status.InitContainerStatuses, p.Status.EphemeralContainerStatuses} {
		if c := containerIn(list, name); c != nil {
			return c
		}
	}
	return &v1.ContainerStatus{}
}

// is compares.
func is[T comparable](what string, got, want T) error {
	if got != want {
		return fmt.Errorf("%s is %v, want %v", what, got, want)
	}
	return nil
}

// condition says why the pod's condition is not status, with the reason if one is given.
func condition(p *v1.Pod, kind v1.PodConditionType, status v1.ConditionStatus, reason string) error {
	for _, c := range p.Status.Conditions {
		if c.Type != kind {
			continue
		}
		if c.Status != status || reason != "" && c.Reason != reason {
			return fmt.Errorf("condition %s is %s %s: %s", kind, c.Status, c.Reason, c.Message)
		}
		return nil
	}
	return fmt.Errorf("no condition %s", kind)
}

// waiting says why the container does not wait for the reason.
func waiting(p *v1.Pod, name, reason string) error {
	w := status(p, name).State.Waiting
	if w == nil || w.Reason != reason {
		return fmt.Errorf("state of %s is %s", name, state(status(p, name)))
	}
	return nil
}

// terminated says why the container has not ended with the code.
func terminated(p *v1.Pod, name string, code int32) error {
	t := status(p, name).State.Terminated
	if t == nil || t.ExitCode != code {
		return fmt.Errorf("state of %s is %s", name, state(status(p, name)))
	}
	return nil
}

func state(c *v1.ContainerStatus) string {
	switch s := c.State; {
	case s.Waiting != nil:
		return "waiting: " + s.Waiting.Reason + " " + s.Waiting.Message
	case s.Running != nil:
		return "running"
	case s.Terminated != nil:
		return fmt.Sprintf("terminated: %d %s %s", s.Terminated.ExitCode, s.Terminated.Reason, s.Terminated.Message)
	}
	return "unknown"
}

// inOrder says why the words do not stand in the story in this order, each after the one before.
func inOrder(story []string, words ...string) error {
	at := 0
	for _, w := range words {
		for at < len(story) && story[at] != w {
			at++
		}
		if at == len(story) {
			return fmt.Errorf("the story is %q, want %q in this order (%q is missing)", strings.Join(story, " "), strings.Join(words, " "), w)
		}
		at++
	}
	return nil
}
