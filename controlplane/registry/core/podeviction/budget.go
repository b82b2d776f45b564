package podeviction

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

const (
	// maxDisrupted bounds status.disruptedPods: should nobody clear it, evictions stop before the object grows too big.
	maxDisrupted = 2000
	// retryAfterSeconds tells clients when to come back while the controller has not seen the budget yet.
	retryAfterSeconds = 10
)

// spend takes one disruption from the pod's budget. free says that the pod may go without (no budget covers it, or its
// unhealthy pods may leave), as long as it stays as it is.
func (e *Eviction) spend(ctx context.Context, pod *corev1.Pod, dry bool) (free bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, budgetTimeout)
	defer cancel()
	budget, err := e.budgetOf(ctx, pod)
	if err != nil {
		return false, err
	}
	if budget == nil {
		return false, nil // nothing was judged that could change
	}
	if leaves, err := leavesFreely(budget, pod); leaves || err != nil {
		return leaves, err
	}
	next, err := decrement(budget, pod.Name, time.Now())
	if err != nil || dry {
		return false, err
	}
	if _, err := e.budgets.PodDisruptionBudgets(budget.Namespace).UpdateStatus(ctx, next, metav1.UpdateOptions{}); err != nil {
		if apierrors.IsConflict(err) {
			return false, race{err}
		}
		return false, fmt.Errorf("spend a disruption of budget %q: %w", budget.Namespace+"/"+budget.Name, err)
	}
	return false, nil
}

func (e *Eviction) budgetOf(ctx context.Context, pod *corev1.Pod) (*policyv1.PodDisruptionBudget, error) {
	list, err := e.budgets.PodDisruptionBudgets(pod.Namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list disruption budgets: %w", err)
	}
	var found *policyv1.PodDisruptionBudget
	for i := range list.Items {
		b := &list.Items[i]
		selector, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
		if err != nil || !selector.Matches(labels.Set(pod.Labels)) { // a bad selector selects nothing
			continue
		}
		if found != nil {
			return nil, apierrors.NewInternalError(fmt.Errorf("this pod has more than one PodDisruptionBudget, which the eviction subresource does not support: %q and %q", found.Name, b.Name))
		}
		found = b
	}
	return found, nil
}

// leavesFreely: what is not ready serves nobody. AlwaysAllow lets it go; by default it may go while enough others are
// healthy.
func leavesFreely(b *policyv1.PodDisruptionBudget, pod *corev1.Pod) (bool, error) {
	for i := range pod.Status.Conditions {
		if c := &pod.Status.Conditions[i]; c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue {
			return false, nil
		}
	}
	if p := b.Spec.UnhealthyPodEvictionPolicy; p != nil && *p == policyv1.AlwaysAllow {
		return true, nil
	}
	return b.Status.CurrentHealthy >= b.Status.DesiredHealthy && b.Status.DesiredHealthy > 0, nil
}

// decrement returns the budget with one disruption spent on the pod, or why it cannot be.
func decrement(b *policyv1.PodDisruptionBudget, pod string, now time.Time) (*policyv1.PodDisruptionBudget, error) {
	resource := policyv1.Resource("poddisruptionbudget")
	switch {
	case b.Status.ObservedGeneration < b.Generation:
		err := apierrors.NewTooManyRequests("Cannot evict pod as it would violate the pod's disruption budget.", retryAfterSeconds)
		cause(err, fmt.Sprintf("The disruption budget %s is still being processed by the server.", b.Name))
		return nil, err
	case b.Status.DisruptionsAllowed < 0:
		return nil, apierrors.NewForbidden(resource, b.Name, fmt.Errorf("pdb disruptions allowed is negative"))
	case len(b.Status.DisruptedPods) > maxDisrupted:
		return nil, apierrors.NewForbidden(resource, b.Name, fmt.Errorf("DisruptedPods map too big - too many evictions not confirmed by PDB controller"))
	case b.Status.DisruptionsAllowed == 0:
		err := apierrors.NewTooManyRequests("Cannot evict pod as it would violate the pod's disruption budget.", 0)
		message := fmt.Sprintf("The disruption budget %s needs %d healthy pods and has %d currently", b.Name, b.Status.DesiredHealthy, b.Status.CurrentHealthy)
		if c := meta.FindStatusCondition(b.Status.Conditions, policyv1.DisruptionAllowedCondition); c != nil && c.Reason == policyv1.SyncFailedReason && c.Status == metav1.ConditionFalse {
			message = fmt.Sprintf("The disruption budget %s does not allow evicting pods currently because it failed sync: %v", b.Name, c.Message)
		}
		cause(err, message)
		return nil, err
	}
	next := b.DeepCopy()
	next.Status.DisruptionsAllowed--
	if next.Status.DisruptionsAllowed == 0 {
		meta.SetStatusCondition(&next.Status.Conditions, metav1.Condition{
			Type: policyv1.DisruptionAllowedCondition, Status: metav1.ConditionFalse,
			Reason: policyv1.InsufficientPodsReason, ObservedGeneration: next.Status.ObservedGeneration,
		})
	}
	if next.Status.DisruptedPods == nil {
		next.Status.DisruptedPods = map[string]metav1.Time{}
	}
	next.Status.DisruptedPods[pod] = metav1.NewTime(now)
	return next, nil
}

func cause(err *apierrors.StatusError, message string) {
	err.ErrStatus.Details.Causes = append(err.ErrStatus.Details.Causes,
		metav1.StatusCause{Type: policyv1.DisruptionBudgetCause, Message: message})
}
