package agent

import (
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/reevehq/reeve/tests/node"
)

// TestEphemeralContainers joins a running pod: with the pod's network, with a target's processes, never restarted, and of
// no account for the pod's readiness.
func TestEphemeralContainers(t *testing.T) {
	s := open(t)
	s.pod("p", `{containers: [{name: c, command: [sh, -c, "sleep 12345"]}]}`)
	before := s.ready("p")
	s.eventually("add ephemeral containers", func() error {
		p := s.now("p")
		common := func(name, cmd string) v1.EphemeralContainerCommon {
			return v1.EphemeralContainerCommon{Name: name, Image: node.BusyboxImage, ImagePullPolicy: v1.PullNever, Command: []string{"sh", "-c", cmd}}
		}
		p.Spec.EphemeralContainers = []v1.EphemeralContainer{
			{EphemeralContainerCommon: common("look", "ip -4 -o addr; ps; sleep 1000"), TargetContainerName: "c"},
			{EphemeralContainerCommon: common("fails", "exit 9")},
		}
		_, err := s.pods().UpdateEphemeralContainers(s.ctx(), "p", p, metav1.UpdateOptions{})
		return err
	})
	p := s.wait("p", "debugged", func(p *v1.Pod) error {
		if c := status(p, "look"); c.State.Running == nil {
			return is("state of look", state(c), "running")
		}
		return first(terminated(p, "fails", 9), condition(p, v1.PodReady, v1.ConditionTrue, ""))
	})
	s.eventually("what it sees", func() error {
		out := s.logs("p", "look")
		if !strings.Contains(out, p.Status.PodIP+"/") || !strings.Contains(out, "sleep 12345") {
			return is("log", out, "the pod's address and the target's process")
		}
		return nil
	})
	if err := first(is("restarts", status(p, "fails").RestartCount, 0), is("the app", status(p, "c").ContainerID, status(before, "c").ContainerID)); err != nil {
		t.Error(err)
	}
	s.delete("p", 1)
	s.gone("p")
}
