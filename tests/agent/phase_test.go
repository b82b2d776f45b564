package agent

import (
	"testing"

	v1 "k8s.io/api/core/v1"
)

// TestPhaseOfCompletedPods runs pods to their end under each restart policy.
func TestPhaseOfCompletedPods(t *testing.T) {
	s := open(t)
	s.pod("good", `{restartPolicy: Never, containers: [{name: c, command: [sh, -c, "echo done"]}]}`)
	s.pod("bad", `{restartPolicy: Never, containers: [{name: c, command: [sh, -c, "exit 3"]}, {name: d, command: ["true"]}]}`)
	good := s.ended("good", v1.PodSucceeded)
	for _, err := range []error{
		terminated(good, "c", 0), is("reason", status(good, "c").State.Terminated.Reason, "Completed"),
		condition(good, v1.PodReady, v1.ConditionFalse, "PodCompleted"), condition(good, v1.ContainersReady, v1.ConditionFalse, "PodCompleted"),
		condition(good, v1.PodInitialized, v1.ConditionTrue, "PodCompleted"),
	} {
		if err != nil {
			t.Error(err)
		}
	}
	bad := s.ended("bad", v1.PodFailed)
	for _, err := range []error{
		terminated(bad, "c", 3), is("reason", status(bad, "c").State.Terminated.Reason, "Error"), terminated(bad, "d", 0),
		condition(bad, v1.PodReady, v1.ConditionFalse, "PodFailed"),
	} {
		if err != nil {
			t.Error(err)
		}
	}
}
