package disruption

import (
	"maps"
	"time"

	v1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/component-helpers/apps/poddisruptionbudget"

	"github.com/reevehq/reeve/controlplane/controllers/podctl"
)

// deletionTimeout is how long an allowed eviction may take to show as a deletion before it counts as given up (upstream's).
const deletionTimeout = 2 * time.Minute

// numbers are expected pods and how many of them must stay healthy.
func numbers(b *policyv1.PodDisruptionBudget, pods []*v1.Pod, expected int32) (count, desired int32, err error) {
	switch {
	case b.Spec.MaxUnavailable != nil:
		n, err := intstr.GetScaledValueFromIntOrPercent(b.Spec.MaxUnavailable, int(expected), true)
		if err != nil {
			return 0, 0, err
		}
		return expected, max(expected-int32(n), 0), nil
	case b.Spec.MinAvailable != nil && b.Spec.MinAvailable.Type == intstr.Int:
		return int32(len(pods)), b.Spec.MinAvailable.IntVal, nil
	case b.Spec.MinAvailable != nil:
		n, err := intstr.GetScaledValueFromIntOrPercent(b.Spec.MinAvailable, int(expected), true)
		return expected, int32(n), err
	}
	return int32(len(pods)), 0, nil
}

// pending keeps the evictions that were allowed but have not happened yet; wait is until the first of them is given up.
func pending(b *policyv1.PodDisruptionBudget, pods []*v1.Pod, now time.Time) (out map[string]metav1.Time, wait time.Duration) {
	out = map[string]metav1.Time{}
	for _, p := range pods {
		at, ok := b.Status.DisruptedPods[p.Name]
		if !ok || p.DeletionTimestamp != nil {
			continue
		}
		left := at.Add(deletionTimeout).Sub(now)
		if left <= 0 {
			continue
		}
		out[p.Name] = at
		if wait == 0 || left < wait {
			wait = left
		}
	}
	return out, wait
}

// status is what the budget's status should be.
func status(b *policyv1.PodDisruptionBudget, pods []*v1.Pod, count, desired int32, disrupted map[string]metav1.Time) *policyv1.PodDisruptionBudget {
	var healthy int32
	for _, p := range pods {
		if _, going := disrupted[p.Name]; going || p.DeletionTimestamp != nil {
			continue
		}
		if podctl.Ready(p) {
			healthy++
		}
	}
	next := b.DeepCopy()
	next.Status.CurrentHealthy, next.Status.DesiredHealthy, next.Status.ExpectedPods = healthy, desired, count
	next.Status.DisruptionsAllowed = max(healthy-desired, 0)
	if count <= 0 {
		next.Status.DisruptionsAllowed = 0
	}
	next.Status.DisruptedPods = disrupted
	if len(disrupted) == 0 {
		next.Status.DisruptedPods = nil
	}
	next.Status.ObservedGeneration = b.Generation
	poddisruptionbudget.UpdateDisruptionAllowedCondition(next)
	return next
}

func same(a, b *policyv1.PodDisruptionBudget) bool {
	x, y := a.Status, b.Status
	return x.CurrentHealthy == y.CurrentHealthy && x.DesiredHealthy == y.DesiredHealthy && x.ExpectedPods == y.ExpectedPods &&
		x.DisruptionsAllowed == y.DisruptionsAllowed && x.ObservedGeneration == y.ObservedGeneration &&
		maps.EqualFunc(x.DisruptedPods, y.DisruptedPods, func(p, q metav1.Time) bool { return p.Equal(&q) }) &&
		poddisruptionbudget.ConditionsAreUpToDate(a)
}
