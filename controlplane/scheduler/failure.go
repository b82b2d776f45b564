package scheduler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/kube-scheduler/framework"

	"github.com/reevehq/reeve/controlplane/scheduler/queue"
	"github.com/reevehq/reeve/controlplane/scheduler/state"
	"github.com/reevehq/reeve/internal/logkey"
)

// statusTimeout bounds the write of a pod's condition; the next attempt writes it again.
const statusTimeout = 15 * time.Second

// preempt lets PostFilter plugins make room and notes their outcome in the misfit and the pod's nomination.
func (s *Scheduler) preempt(ctx context.Context, p *profile, cs *state.CycleState, q *queue.Pod, m *misfit) {
	if m.nodes == 0 {
		return
	}
	var reasons []string
	for _, pl := range p.postFilter {
		r, st := pl.PostFilter(ctx, cs, q.Info.Pod, m.statuses)
		m.rejectors.Insert(pl.Name())
		if r != nil && r.NominatingInfo != nil && r.NominatingMode == framework.ModeOverride {
			pod := q.Info.Pod.DeepCopy()
			pod.Status.NominatedNodeName = r.NominatedNodeName
			q.Info.Pod = pod
			s.queue.AddNominatedPod(p.logger(), q.Info, r.NominatingInfo)
			if st.IsSuccess() && r.NominatedNodeName != "" {
				preemptions.Inc()
				return
			}
		}
		switch {
		case st.IsError():
			s.cfg.Log.Error("Failed to preempt", logkey.Pod, q.Info.Pod.Namespace+"/"+q.Info.Pod.Name, logkey.Err, st.AsError())
		case !st.IsSuccess():
			reasons = append(reasons, st.Message())
		}
	}
	m.post = strings.Join(reasons, " ")
}

// fail puts the pod back and tells the user why, by condition and event, without holding up the next decision.
func (s *Scheduler) fail(ctx context.Context, p *profile, q *queue.Pod, err error, start time.Time) {
	pod := q.Info.Pod
	result, reason := "error", v1.PodReasonSchedulerError
	var m *misfit
	if errors.As(err, &m) {
		result, reason = "unschedulable", v1.PodReasonUnschedulable
		q.Rejectors, q.Pending = m.rejectors, m.pending
		q.Unschedulable++
		q.Errors = 0
	} else {
		q.Rejectors, q.Pending = nil, nil
		q.Errors++
	}
	attempts.WithLabelValues(result, p.name).Inc()
	attemptDuration.WithLabelValues(result, p.name).Observe(time.Since(start).Seconds())

	// Put back the version that the cache has by now; gone or bound pods need nothing.
	current, getErr := s.pods.Pods(pod.Namespace).Get(pod.Name)
	if getErr != nil || current.UID != pod.UID || current.Spec.NodeName != "" {
		s.queue.Failed(q, nil)
		return
	}
	nominated := pod.Status.NominatedNodeName
	if current.Status.NominatedNodeName != nominated {
		current = current.DeepCopy()
		current.Status.NominatedNodeName = nominated
	}
	s.queue.Failed(q, current)

	message := err.Error()
	s.cfg.Log.Debug("Failed to schedule pod", logkey.Pod, pod.Namespace+"/"+pod.Name, logkey.Err, message)
	s.bindings.Go(func() {
		p.recorder.Eventf(current, nil, v1.EventTypeWarning, "FailedScheduling", "Scheduling", "%s", short(message))
		if err := s.writeCondition(ctx, pod, nominated, v1.PodCondition{
			Type: v1.PodScheduled, Status: v1.ConditionFalse, Reason: reason, Message: message, ObservedGeneration: pod.Generation,
		}); err != nil && ctx.Err() == nil {
			s.cfg.Log.Error("Failed to write pod condition", logkey.Pod, pod.Namespace+"/"+pod.Name, logkey.Err, err)
		}
	})
}

// short fits the note of an events.k8s.io Event: at most 1 kB.
func short(s string) string {
	const most = 1024
	if len(s) <= most {
		return s
	}
	return s[:most-len(" ...")] + " ..."
}

func (s *Scheduler) writeCondition(ctx context.Context, pod *v1.Pod, nominated string, c v1.PodCondition) error {
	stored, err := s.pods.Pods(pod.Namespace).Get(pod.Name)
	if err != nil {
		return nil // gone
	}
	c.LastTransitionTime = metav1.Now()
	same := stored.Status.NominatedNodeName == nominated
	for _, old := range stored.Status.Conditions {
		if old.Type != c.Type {
			continue
		}
		if old.Status == c.Status {
			c.LastTransitionTime = old.LastTransitionTime
		}
		if same && old.Status == c.Status && old.Reason == c.Reason && old.Message == c.Message {
			return nil
		}
	}
	status := map[string]any{"conditions": []v1.PodCondition{c}}
	if !same {
		status["nominatedNodeName"] = nominated
		if nominated == "" {
			status["nominatedNodeName"] = nil
		}
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": pod.UID}, "status": status})
	if err != nil {
		return fmt.Errorf("encode condition: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, statusTimeout)
	defer cancel()
	_, err = s.cfg.Client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil // another pod of the name, or gone
	}
	if err != nil {
		return fmt.Errorf("patch status of pod %q: %w", pod.Namespace+"/"+pod.Name, err)
	}
	return nil
}
