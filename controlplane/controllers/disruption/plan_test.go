package disruption

import (
	"fmt"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

func pods(ready, sick int) (out []*v1.Pod) {
	for i := range ready + sick {
		p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("p", i)}}
		if i < ready {
			p.Status.Conditions = []v1.PodCondition{{Type: v1.PodReady, Status: v1.ConditionTrue}}
		}
		out = append(out, p)
	}
	return out
}

func TestAllowed(t *testing.T) {
	lo := func(s string) policyv1.PodDisruptionBudgetSpec {
		return policyv1.PodDisruptionBudgetSpec{MinAvailable: ptr.To(intstr.Parse(s))}
	}
	hi := func(s string) policyv1.PodDisruptionBudgetSpec {
		return policyv1.PodDisruptionBudgetSpec{MaxUnavailable: ptr.To(intstr.Parse(s))}
	}
	for _, c := range []struct {
		spec        policyv1.PodDisruptionBudgetSpec
		ready, sick int
		expected    int32
		allowed     int32
	}{
		{lo("2"), 3, 0, 3, 1}, {lo("3"), 3, 0, 3, 0}, {lo("50%"), 5, 0, 5, 2}, {lo("50%"), 3, 2, 5, 0},
		{hi("1"), 3, 0, 3, 1}, {hi("1"), 2, 1, 3, 0}, {hi("30%"), 10, 0, 10, 3}, {hi("100%"), 3, 0, 3, 3}, {hi("1"), 2, 0, 3, 0}, {lo("0"), 0, 0, 0, 0},
	} {
		b := &policyv1.PodDisruptionBudget{Spec: c.spec}
		list := pods(c.ready, c.sick)
		count, desired, err := numbers(b, list, c.expected)
		if err != nil {
			t.Fatal(err)
		}
		if got := status(b, list, count, desired, nil).Status; got.DisruptionsAllowed != c.allowed {
			t.Errorf("%+v with %d ready, %d sick of %d: %+v, want %d allowed", c.spec, c.ready, c.sick, c.expected, got, c.allowed)
		}
	}
}

func TestAllowedEvictionsCountUntilTheyHappenOrAreGivenUp(t *testing.T) {
	now := time.Unix(10000, 0)
	b := &policyv1.PodDisruptionBudget{Spec: policyv1.PodDisruptionBudgetSpec{MinAvailable: ptr.To(intstr.FromInt32(2))}}
	b.Status.DisruptedPods = map[string]metav1.Time{
		"p0": metav1.NewTime(now.Add(-time.Minute)), "p1": metav1.NewTime(now.Add(-3 * time.Minute)), "p2": metav1.NewTime(now), "gone": metav1.NewTime(now),
	}
	list := pods(4, 0)
	list[2].DeletionTimestamp = &metav1.Time{Time: now}
	got, wait := pending(b, list, now)
	if len(got) != 1 || wait != time.Minute {
		t.Errorf("pending %v, wait %s; want p0 for a minute", got, wait)
	}
	if s := status(b, list, 4, 2, got).Status; s.CurrentHealthy != 2 || s.DisruptionsAllowed != 0 {
		t.Errorf("p0 and p2 are leaving: %+v", s)
	}
}
