package plugins

import (
	"cmp"
	"math"
	"slices"

	v1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/component-helpers/scheduling/corev1"
)

// candidate is a node that would take the pod once the victims are gone.
type candidate struct {
	node       string
	victims    []*v1.Pod // most important first
	violations int       // victims whose disruption budget does not allow it
}

// pick chooses the node where preemption hurts least: fewest broken budgets, then the lowest highest priority, the lowest
// sum of priorities, the fewest victims, and the latest start of the most important victim.
func pick(cs []candidate) candidate {
	sum := func(c candidate) (s int64) {
		for _, p := range c.victims {
			s += int64(corev1.PodPriority(p)) + math.MaxInt32 + 1 // negative priorities count too
		}
		return s
	}
	return slices.MinFunc(cs, func(a, b candidate) int {
		return cmp.Or(
			cmp.Compare(a.violations, b.violations),
			cmp.Compare(corev1.PodPriority(a.victims[0]), corev1.PodPriority(b.victims[0])),
			cmp.Compare(sum(a), sum(b)),
			cmp.Compare(len(a.victims), len(b.victims)),
			-earliest(a.victims).Compare(earliest(b.victims).Time),
			cmp.Compare(a.node, b.node),
		)
	})
}

// earliest is the first start among the victims of the highest priority.
func earliest(victims []*v1.Pod) metav1.Time {
	top := corev1.PodPriority(victims[0])
	first := started(victims[0])
	for _, p := range victims {
		if corev1.PodPriority(p) == top {
			if s := started(p); s.Before(&first) {
				first = s
			}
		}
	}
	return first
}

func started(p *v1.Pod) metav1.Time {
	if p.Status.StartTime != nil {
		return *p.Status.StartTime
	}
	return metav1.Now() // not started: nothing is lost
}

func moreImportant(a, b *v1.Pod) int {
	if c := cmp.Compare(corev1.PodPriority(b), corev1.PodPriority(a)); c != 0 {
		return c
	}
	sa, sb := started(a), started(b)
	return sa.Compare(sb.Time)
}

// splitByBudget separates pods whose eviction a PodDisruptionBudget forbids, counting each allowed disruption once.
func splitByBudget(pods []*v1.Pod, budgets []*policyv1.PodDisruptionBudget) (violating, fine []*v1.Pod) {
	left := make([]int32, len(budgets))
	for i, b := range budgets {
		left[i] = b.Status.DisruptionsAllowed
	}
	for _, p := range pods {
		violates := false
		for i, b := range budgets {
			if b.Namespace != p.Namespace || len(p.Labels) == 0 {
				continue
			}
			sel, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
			if err != nil || sel.Empty() || !sel.Matches(labels.Set(p.Labels)) {
				continue
			}
			if _, counted := b.Status.DisruptedPods[p.Name]; counted {
				continue
			}
			if left[i]--; left[i] < 0 {
				violates = true
			}
		}
		if violates {
			violating = append(violating, p)
		} else {
			fine = append(fine, p)
		}
	}
	return violating, fine
}
