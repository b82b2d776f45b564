package replicaset

import (
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/utils/ptr"

	"github.com/reevehq/reeve/controlplane/controllers/podctl"
)

// Burst bounds how many pods one reconciliation creates or deletes (upstream's 500).
const Burst = 500

// Actions is what a reconciliation does.
type Actions struct {
	Create int
	Delete []*v1.Pod
}

// Plan compares the wanted number with the active pods. related are pods of the same owner's other sets, for choosing
// victims.
func Plan(want int32, active, related []*v1.Pod, now time.Time) Actions {
	diff := len(active) - int(want)
	switch {
	case diff < 0:
		return Actions{Create: min(-diff, Burst)}
	case diff == 0:
		return Actions{}
	case diff < len(active):
		return Actions{Delete: podctl.Victims(active, related, now)[:min(diff, Burst)]}
	}
	return Actions{Delete: active[:min(diff, Burst)]}
}

// Status computes the set's status. recheck is how long until a ready pod becomes available, zero if none is waiting.
func Status(set *Set, active, terminating []*v1.Pod, failed error, now time.Time) (status State, recheck time.Duration) {
	status = State{ObservedGeneration: set.Generation, Replicas: int32(len(active)), Conditions: slices.Clone(set.Status.Conditions)}
	if set.CountsTerminating {
		status.Terminating = ptr.To(int32(len(terminating)))
	}
	template := labels.Set(set.Template.Labels).AsSelectorPreValidated()
	for _, p := range active {
		if template.Matches(labels.Set(p.Labels)) {
			status.FullyLabeled++
		}
		if !podctl.Ready(p) {
			continue
		}
		status.Ready++
		ok, left := podctl.Available(p, set.MinReadySeconds, now)
		if ok {
			status.Available++
		} else if recheck == 0 || left < recheck {
			recheck = left
		}
	}
	i := slices.IndexFunc(status.Conditions, func(c Condition) bool { return c.Type == failure })
	switch {
	case failed != nil && i < 0:
		reason := "FailedCreate"
		if len(active) > int(set.Replicas) {
			reason = "FailedDelete"
		}
		status.Conditions = append(status.Conditions, Condition{
			Type: failure, Status: v1.ConditionTrue, Reason: reason, Message: failed.Error(), LastTransitionTime: metav1.NewTime(now),
		})
	case failed == nil && i >= 0:
		status.Conditions = slices.Delete(status.Conditions, i, i+1)
	}
	return status, recheck
}

const failure = "ReplicaFailure"

func (s State) equal(o State) bool {
	return s.Replicas == o.Replicas && s.FullyLabeled == o.FullyLabeled && s.Ready == o.Ready && s.Available == o.Available &&
		s.ObservedGeneration == o.ObservedGeneration && slices.Equal(s.Conditions, o.Conditions) && ptr.Equal(s.Terminating, o.Terminating)
}
