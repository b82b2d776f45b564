package agent

import (
	"fmt"
	"os"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/reevehq/reeve/internal/testenv"
)

// TestGeneration: what changes the spec counts, what does not does not, and the status says how far the node has come,
// also after 500 changes in a row.
func TestGeneration(t *testing.T) {
	s := open(t)
	s.pod("p", `{containers: [{name: c, command: [sleep, "1000"]}]}`)
	p := s.ready("p")
	if err := first(is("generation", p.Generation, 1), is("observedGeneration", p.Status.ObservedGeneration, 1)); err != nil {
		t.Fatal(err)
	}
	change := func(what string, f func(*v1.Pod)) *v1.Pod {
		t.Helper()
		var out *v1.Pod
		s.eventually(what, func() error {
			p := s.now("p")
			f(p)
			var err error
			out, err = s.pods().Update(s.ctx(), p, metav1.UpdateOptions{})
			return err
		})
		return out
	}
	if p := change("label it", func(p *v1.Pod) { p.Labels = map[string]string{"a": "b"} }); p.Generation != 1 {
		t.Errorf("a label made generation %d", p.Generation)
	}
	updates := 100
	if testenv.Long() {
		updates = 500 // as conformance has it; the pod grows with each, and so does the time
	}
	for i := range updates {
		change("tolerate", func(p *v1.Pod) {
			p.Spec.Tolerations = append(p.Spec.Tolerations[:len(p.Spec.Tolerations):len(p.Spec.Tolerations)], v1.Toleration{Key: fmt.Sprint("k", i), Operator: v1.TolerationOpExists})
		})
	}
	want := int64(updates + 1)
	p = s.wait("p", "observed", func(p *v1.Pod) error {
		return first(is("generation", p.Generation, want), is("observedGeneration", p.Status.ObservedGeneration, want))
	})
	for _, c := range p.Status.Conditions {
		if err := is("observedGeneration of "+string(c.Type), c.ObservedGeneration, want); err != nil {
			t.Error(err)
		}
	}
	if err := is("restarts", status(p, "c").RestartCount, 0); err != nil {
		t.Error(err)
	}
}

// TestImageChange: a container whose image changes is restarted with it, within its grace, and its neighbour is not.
func TestImageChange(t *testing.T) {
	s := open(t)
	s.pod("p", `{containers: [{name: c, command: [sh, -c, "trap 'echo term >> /story/log; exit 0' TERM; touch /story/up; sleep 1000 & wait"]}, {name: d, command: [sleep, "1000"]}]}`)
	before := s.ready("p")
	s.eventually("it to listen to TERM", func() error { _, err := os.Stat(s.path("up")); return err })
	s.eventually("change the image", func() error {
		p := s.now("p")
		p.Spec.Containers[0].Image = again
		_, err := s.pods().Update(s.ctx(), p, metav1.UpdateOptions{})
		return err
	})
	p := s.wait("p", "restarted with the new image", func(p *v1.Pod) error {
		return first(is("restarts", status(p, "c").RestartCount, 1), is("image", status(p, "c").Image, again), condition(p, v1.PodReady, v1.ConditionTrue, ""),
			is("observedGeneration", p.Status.ObservedGeneration, 2))
	})
	if err := first(is("the neighbour", status(p, "d").ContainerID, status(before, "d").ContainerID), is("story", s.read("log"), "term\n")); err != nil {
		t.Error(err)
	}
	s.event("p", "Killing", "definition changed")
}
