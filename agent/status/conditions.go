package status

import (
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/reevehq/reeve/agent/podworker"
	"github.com/reevehq/reeve/agent/podworker/podspec"
)

// Owned are the conditions that the node writes; all others on a pod belong to somebody else and are left as they are.
var Owned = []v1.PodConditionType{
	v1.PodReadyToStartContainers, v1.PodInitialized, v1.PodReady, v1.ContainersReady, v1.PodScheduled,
	v1.PodResizePending, v1.PodResizeInProgress, RuntimeResponding,
}

// RuntimeResponding is False while the pod's shim does not work: the pod runs, but cannot be stopped, entered or seen to
// end. It is ours, as upstream's node has no word for it, and absent while all is well.
const RuntimeResponding v1.PodConditionType = "reeve.dev/RuntimeResponding"

// passing are conditions of the node that a pod has only for a while.
func passing(t v1.PodConditionType) bool {
	return t == v1.PodResizePending || t == v1.PodResizeInProgress || t == RuntimeResponding
}

func (g *generator) conditions(out *v1.PodStatus) {
	conds := []v1.PodCondition{
		g.sandboxReady(),
		g.initialized(out),
		g.ready(out),
		g.containersReady(out),
		{Type: v1.PodScheduled, Status: v1.ConditionTrue},
	}
	if s := g.in.Stop; s != nil && s.Cause == podworker.Evicted && (s.Reason == "Evicted" || s.Reason == "Preempting") {
		conds = append(conds, v1.PodCondition{
			Type: v1.DisruptionTarget, Status: v1.ConditionTrue, Reason: v1.PodReasonTerminationByKubelet, Message: s.Message,
		})
	}
	conds = append(conds, g.resize()...)
	if g.in.Trouble != "" {
		conds = append(conds, v1.PodCondition{Type: RuntimeResponding, Status: v1.ConditionFalse, Reason: "ShimNotResponding", Message: g.in.Trouble})
	}
	for _, old := range g.in.Old.Conditions {
		if !passing(old.Type) && !slices.ContainsFunc(conds, func(c v1.PodCondition) bool { return c.Type == old.Type }) {
			conds = append(conds, old)
		}
	}
	for i := range conds {
		c := &conds[i]
		if !slices.Contains(Owned, c.Type) && c.Type != v1.DisruptionTarget {
			continue
		}
		c.ObservedGeneration = g.in.Pod.Generation
		c.LastTransitionTime = metav1.NewTime(g.in.Now).Rfc3339Copy()
		for _, old := range g.in.Old.Conditions {
			if old.Type == c.Type && old.Status == c.Status && !old.LastTransitionTime.IsZero() {
				c.LastTransitionTime = old.LastTransitionTime
			}
		}
	}
	out.Conditions = conds
}

// resize tells how far a change of the containers' resources has come.
func (g *generator) resize() []v1.PodCondition {
	var out []v1.PodCondition
	if p := g.in.Pending; p != nil && g.in.Stage == podworker.Syncing {
		out = append(out, v1.PodCondition{Type: v1.PodResizePending, Status: v1.ConditionTrue, Reason: p.Reason, Message: p.Message})
	}
	if g.in.Resizing {
		c := v1.PodCondition{Type: v1.PodResizeInProgress, Status: v1.ConditionTrue}
		if g.in.ResizeError != "" {
			c.Reason, c.Message = v1.PodReasonError, g.in.ResizeError
		}
		out = append(out, c)
	}
	return out
}

func (g *generator) sandboxReady() v1.PodCondition {
	c := v1.PodCondition{Type: v1.PodReadyToStartContainers, Status: v1.ConditionFalse}
	s := g.in.State.Current()
	if s != nil && s.Ready && (s.HostNetwork || len(s.IPs) > 0) && g.in.Stage < podworker.Stopped {
		c.Status = v1.ConditionTrue
	}
	return c
}

func (g *generator) initialized(out *v1.PodStatus) v1.PodCondition {
	c := v1.PodCondition{Type: v1.PodInitialized, Status: v1.ConditionTrue}
	if out.Phase == v1.PodSucceeded {
		c.Reason = "PodCompleted"
		return c
	}
	names := g.incomplete(out)
	if len(names) == 0 {
		return c
	}
	// Once an app container has run, initialisation is behind the pod even if the init containers were collected.
	for i := range out.ContainerStatuses {
		if s := &out.ContainerStatuses[i]; s.State.Running != nil || s.State.Terminated != nil || s.LastTerminationState.Terminated != nil {
			return c
		}
	}
	c.Status, c.Reason = v1.ConditionFalse, "ContainersNotInitialized"
	c.Message = "containers with incomplete status: [" + strings.Join(names, " ") + "]"
	return c
}

func (g *generator) containersReady(out *v1.PodStatus) v1.PodCondition {
	c := v1.PodCondition{Type: v1.ContainersReady, Status: v1.ConditionTrue}
	switch out.Phase {
	case v1.PodSucceeded:
		c.Status, c.Reason = v1.ConditionFalse, "PodCompleted"
		return c
	case v1.PodFailed:
		c.Status, c.Reason = v1.ConditionFalse, "PodFailed"
		return c
	}
	var unready []string
	for i := range out.InitContainerStatuses {
		if s := &out.InitContainerStatuses[i]; podspec.IsSidecar(&g.spec.InitContainers[i]) && !s.Ready {
			unready = append(unready, s.Name)
		}
	}
	for i := range out.ContainerStatuses {
		if s := &out.ContainerStatuses[i]; !s.Ready {
			unready = append(unready, s.Name)
		}
	}
	if len(unready) > 0 {
		c.Status, c.Reason = v1.ConditionFalse, "ContainersNotReady"
		c.Message = "containers with unready status: [" + strings.Join(unready, " ") + "]"
	}
	return c
}

func (g *generator) ready(out *v1.PodStatus) v1.PodCondition {
	c := g.containersReady(out)
	c.Type = v1.PodReady
	if c.Status != v1.ConditionTrue {
		return c
	}
	var missing []string
	for _, gate := range g.spec.ReadinessGates {
		i := slices.IndexFunc(g.in.Pod.Status.Conditions, func(x v1.PodCondition) bool { return x.Type == gate.ConditionType })
		switch {
		case i < 0:
			missing = append(missing, fmt.Sprintf("corresponding condition of pod readiness gate %q does not exist.", gate.ConditionType))
		case g.in.Pod.Status.Conditions[i].Status != v1.ConditionTrue:
			missing = append(missing, fmt.Sprintf("the status of pod readiness gate %q is not \"True\", but %v",
				gate.ConditionType, g.in.Pod.Status.Conditions[i].Status))
		}
	}
	if len(missing) > 0 {
		c.Status, c.Reason, c.Message = v1.ConditionFalse, "ReadinessGatesNotReady", strings.Join(missing, ", ")
	}
	return c
}
