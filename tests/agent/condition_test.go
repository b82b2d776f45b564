package agent

import (
	"testing"

	v1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TestReadinessGates: a pod is Ready only when the conditions that it names are True, whoever sets them.
func TestReadinessGates(t *testing.T) {
	s := open(t)
	s.pod("p", `{readinessGates: [{conditionType: example.com/lb}], containers: [{name: c, command: [sleep, "1000"]}]}`)
	s.wait("p", "held back", func(p *v1.Pod) error {
		return first(condition(p, v1.ContainersReady, v1.ConditionTrue, ""), condition(p, v1.PodReady, v1.ConditionFalse, "ReadinessGatesNotReady"))
	})
	set := func(to v1.ConditionStatus) {
		s.eventually("set the gate", func() error {
			p := s.now("p")
			found := false
			for i := range p.Status.Conditions {
				if c := &p.Status.Conditions[i]; c.Type == "example.com/lb" {
					c.Status, found = to, true
				}
			}
			if !found {
				p.Status.Conditions = append(p.Status.Conditions, v1.PodCondition{Type: "example.com/lb", Status: to})
			}
			_, err := s.pods().UpdateStatus(s.ctx(), p, metav1.UpdateOptions{})
			return err
		})
	}
	set(v1.ConditionTrue)
	s.ready("p")
	set(v1.ConditionFalse)
	s.wait("p", "held back again", func(p *v1.Pod) error {
		return condition(p, v1.PodReady, v1.ConditionFalse, "ReadinessGatesNotReady")
	})
}

// TestConditionsOnTheWay: a pod that waits for a volume is scheduled, has no sandbox to start containers in or has one, is
// not initialised; each condition turns once.
func TestConditionsOnTheWay(t *testing.T) {
	s := open(t)
	s.pod("p", `
volumes: [{name: late, configMap: {name: late}}]
initContainers: [{name: i, command: [sh, -c, "until test -e /story/go; do sleep 0.1; done"]}]
containers: [{name: c, command: [sleep, "1000"], volumeMounts: [{name: late, mountPath: /late}]}]
`)
	s.wait("p", "waiting for its volume", func(p *v1.Pod) error {
		return first(is("phase", p.Status.Phase, v1.PodPending), condition(p, v1.PodScheduled, v1.ConditionTrue, ""),
			condition(p, v1.PodInitialized, v1.ConditionFalse, "ContainersNotInitialized"), condition(p, v1.ContainersReady, v1.ConditionFalse, "ContainersNotReady"),
			condition(p, v1.PodReady, v1.ConditionFalse, "ContainersNotReady"))
	})
	s.event("p", "FailedMount", "late")
	if _, err := s.client.CoreV1().ConfigMaps(s.ns).Create(s.ctx(), &v1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "late"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	s.wait("p", "initialising", func(p *v1.Pod) error {
		if c := status(p, "i"); c.State.Running == nil {
			return is("state of i", state(c), "running")
		}
		return first(condition(p, v1.PodReadyToStartContainers, v1.ConditionTrue, ""), condition(p, v1.PodInitialized, v1.ConditionFalse, ""))
	})
	s.write("go", "")
	p := s.ready("p")
	s.delete("p", 1)
	s.gone("p")
	for _, kind := range []v1.PodConditionType{v1.PodReadyToStartContainers, v1.PodInitialized} {
		turns, last := 0, v1.ConditionStatus("")
		for _, p := range s.past(p.UID) {
			for _, c := range p.Status.Conditions {
				if c.Type == kind && c.Status != last && p.DeletionTimestamp == nil {
					turns, last = turns+1, c.Status
				}
			}
		}
		if turns > 2 {
			t.Errorf("condition %s turned %d times on the way up", kind, turns)
		}
	}
}

// TestDisruptionTarget: an eviction through the API marks the pod before it ends, and the mark stays.
func TestDisruptionTarget(t *testing.T) {
	s := open(t)
	s.pod("p", `{restartPolicy: Never, containers: [{name: c, command: [sh, -c, "trap 'exit 0' TERM; echo up >> /story/log; sleep 1000 & wait"]}]}`, kept)
	s.ready("p")
	s.eventually("it to listen to TERM", func() error { return is("the story", s.read("log"), "up\n") })
	if err := s.pods().EvictV1(s.ctx(), &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: s.ns}}); err != nil {
		t.Fatal(err)
	}
	s.wait("p", "ended and marked", func(p *v1.Pod) error {
		return first(condition(p, v1.DisruptionTarget, v1.ConditionTrue, "EvictionByEvictionAPI"), is("phase", p.Status.Phase, v1.PodSucceeded))
	})
	s.release("p")
	s.gone("p")
}

// TestQOSClass: each class in the status, and in the cgroup that the pod lives in.
func TestQOSClass(t *testing.T) {
	s := open(t)
	for name, c := range map[string]struct {
		resources string
		class     v1.PodQOSClass
		shares    int64
	}{
		"besteffort": {"{}", v1.PodQOSBestEffort, 2},
		"burstable":  {"{requests: {cpu: 50m}}", v1.PodQOSBurstable, 51},
		"guaranteed": {"{limits: {cpu: 50m, memory: 30Mi}}", v1.PodQOSGuaranteed, 51},
	} {
		s.pod(name, `{containers: [{name: c, command: [sleep, "1000"], resources: `+c.resources+`}]}`)
		p := s.running(name)
		quota, memory := int64(-1), int64(9223372036854771712)
		if c.class == v1.PodQOSGuaranteed {
			quota, memory = 5000, 30*mi
		}
		if err := first(is("qosClass", p.Status.QOSClass, c.class), s.limited(p, "", c.shares, quota, memory),
			s.limited(p, status(p, "c").ContainerID, c.shares, quota, memory)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
