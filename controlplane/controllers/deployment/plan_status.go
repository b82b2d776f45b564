package deployment

import (
	"fmt"
	"math"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// Reasons of the Progressing and Available conditions.
const (
	reasonNew       = "NewReplicaSetCreated"
	reasonFound     = "FoundNewReplicaSet"
	reasonComplete  = "NewReplicaSetAvailable"
	reasonUpdated   = "ReplicaSetUpdated"
	reasonTimedOut  = "ProgressDeadlineExceeded"
	reasonFailed    = "ReplicaSetCreateError"
	reasonPaused    = "DeploymentPaused"
	reasonResumed   = "DeploymentResumed"
	reasonEnough    = "MinimumReplicasAvailable"
	reasonNotEnough = "MinimumReplicasUnavailable"
)

func condition(s *appsv1.DeploymentStatus, t appsv1.DeploymentConditionType) *appsv1.DeploymentCondition {
	for i := range s.Conditions {
		if s.Conditions[i].Type == t {
			return &s.Conditions[i]
		}
	}
	return nil
}

func newCondition(t appsv1.DeploymentConditionType, status v1.ConditionStatus, reason, message string, now metav1.Time) appsv1.DeploymentCondition {
	return appsv1.DeploymentCondition{Type: t, Status: status, LastUpdateTime: now, LastTransitionTime: now, Reason: reason, Message: message}
}

// setCondition replaces the one of the type, keeping the transition time if the status is the same; same status and reason
// leave it as it is.
func setCondition(s *appsv1.DeploymentStatus, c appsv1.DeploymentCondition) {
	old := condition(s, c.Type)
	if old != nil && old.Status == c.Status && old.Reason == c.Reason {
		return
	}
	if old != nil && old.Status == c.Status {
		c.LastTransitionTime = old.LastTransitionTime
	}
	dropCondition(s, c.Type)
	s.Conditions = append(s.Conditions, c)
}

func dropCondition(s *appsv1.DeploymentStatus, t appsv1.DeploymentConditionType) {
	s.Conditions = slices.DeleteFunc(slices.Clone(s.Conditions), func(c appsv1.DeploymentCondition) bool { return c.Type == t })
}

// calculate is the status as the ReplicaSets show it; conditions other than Available are carried over.
func calculate(d *appsv1.Deployment, all []*appsv1.ReplicaSet, newRS *appsv1.ReplicaSet, now metav1.Time) appsv1.DeploymentStatus {
	var ready int32
	var terminating *int32
	for _, rs := range all {
		ready += rs.Status.ReadyReplicas
		if rs.Status.TerminatingReplicas != nil {
			terminating = ptr.To(ptr.Deref(terminating, 0) + *rs.Status.TerminatingReplicas)
		}
	}
	s := appsv1.DeploymentStatus{
		ObservedGeneration: d.Generation, Replicas: running(all), UpdatedReplicas: running(present(newRS)), ReadyReplicas: ready,
		AvailableReplicas: available(all), UnavailableReplicas: max(total(all)-available(all), 0), TerminatingReplicas: terminating,
		CollisionCount: d.Status.CollisionCount, Conditions: slices.Clone(d.Status.Conditions),
	}
	_, unavailable := fences(d)
	if s.AvailableReplicas >= wanted(d)-unavailable {
		setCondition(&s, newCondition(appsv1.DeploymentAvailable, v1.ConditionTrue, reasonEnough, "Deployment has minimum availability.", now))
	} else {
		setCondition(&s, newCondition(appsv1.DeploymentAvailable, v1.ConditionFalse, reasonNotEnough, "Deployment does not have minimum availability.", now))
	}
	return s
}

func complete(d *appsv1.Deployment, s *appsv1.DeploymentStatus) bool {
	return s.UpdatedReplicas == wanted(d) && s.Replicas == wanted(d) && s.AvailableReplicas == wanted(d) && s.ObservedGeneration >= d.Generation
}

func progressed(d *appsv1.Deployment, s *appsv1.DeploymentStatus) bool {
	old := d.Status
	return s.UpdatedReplicas > old.UpdatedReplicas || s.Replicas-s.UpdatedReplicas < old.Replicas-old.UpdatedReplicas ||
		s.ReadyReplicas > old.ReadyReplicas || s.AvailableReplicas > old.AvailableReplicas
}

func hasDeadline(d *appsv1.Deployment) bool {
	return d.Spec.ProgressDeadlineSeconds != nil && *d.Spec.ProgressDeadlineSeconds != math.MaxInt32
}

// timedOut reports whether the rollout made no progress for the deadline; left is how long it still has.
func timedOut(d *appsv1.Deployment, s *appsv1.DeploymentStatus, now time.Time) (late bool, left time.Duration) {
	c := condition(s, appsv1.DeploymentProgressing)
	if c == nil || !hasDeadline(d) {
		return false, 0
	}
	switch c.Reason {
	case reasonTimedOut:
		return true, 0
	case reasonComplete:
		return false, 0
	}
	left = c.LastUpdateTime.Add(time.Duration(*d.Spec.ProgressDeadlineSeconds) * time.Second).Sub(now)
	return left < 0, max(left, 0)
}

// rollout is the status of a rollout under way, its Progressing and ReplicaFailure conditions included.
func rollout(d *appsv1.Deployment, all []*appsv1.ReplicaSet, newRS *appsv1.ReplicaSet, now metav1.Time) appsv1.DeploymentStatus {
	s := calculate(d, all, newRS, now)
	if !hasDeadline(d) {
		dropCondition(&s, appsv1.DeploymentProgressing)
	}
	cur := condition(&s, appsv1.DeploymentProgressing)
	done := s.Replicas == s.UpdatedReplicas && cur != nil && cur.Reason == reasonComplete
	if hasDeadline(d) && !done {
		who := fmt.Sprintf("Deployment %q", d.Name)
		if newRS != nil {
			who = fmt.Sprintf("ReplicaSet %q", newRS.Name)
		}
		late, _ := timedOut(d, &s, now.Time)
		switch {
		case complete(d, &s):
			setCondition(&s, newCondition(appsv1.DeploymentProgressing, v1.ConditionTrue, reasonComplete, who+" has successfully progressed.", now))
		case progressed(d, &s):
			c := newCondition(appsv1.DeploymentProgressing, v1.ConditionTrue, reasonUpdated, who+" is progressing.", now)
			if cur != nil && cur.Status == v1.ConditionTrue {
				c.LastTransitionTime = cur.LastTransitionTime
			}
			// Even with the same reason the update time must move: the deadline counts from it.
			dropCondition(&s, appsv1.DeploymentProgressing)
			s.Conditions = append(s.Conditions, c)
		case late:
			setCondition(&s, newCondition(appsv1.DeploymentProgressing, v1.ConditionFalse, reasonTimedOut, who+" has timed out progressing.", now))
		}
	}
	if f := failure(all, newRS); f != nil {
		f.LastUpdateTime = now
		setCondition(&s, *f)
	} else {
		dropCondition(&s, appsv1.DeploymentReplicaFailure)
	}
	return s
}

func failure(all []*appsv1.ReplicaSet, newRS *appsv1.ReplicaSet) *appsv1.DeploymentCondition {
	for _, rs := range append(present(newRS), all...) {
		for _, c := range rs.Status.Conditions {
			if c.Type == appsv1.ReplicaSetReplicaFailure && c.Status == v1.ConditionTrue {
				return &appsv1.DeploymentCondition{
					Type: appsv1.DeploymentReplicaFailure, Status: c.Status, LastTransitionTime: c.LastTransitionTime, Reason: c.Reason, Message: c.Message,
				}
			}
		}
	}
	return nil
}
