package pod

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

// allow makes a budget for app=web that allows n disruptions, as the controller would say.
func allow(t *testing.T, ns string, n int32) {
	t.Helper()
	ctx := t.Context()
	budgets := shared.Admin.PolicyV1().PodDisruptionBudgets(ns)
	b, err := budgets.Create(ctx, &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Name: "b"}, Spec: policyv1.PodDisruptionBudgetSpec{
		MinAvailable: ptr.To(intstr.FromInt32(1)), Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}}}, metav1.CreateOptions{})
	must(t, "create budget", err)
	b.Status = policyv1.PodDisruptionBudgetStatus{ObservedGeneration: b.Generation, DisruptionsAllowed: n, CurrentHealthy: 1 + n, DesiredHealthy: 1, ExpectedPods: 1 + n}
	_, err = budgets.UpdateStatus(ctx, b, metav1.UpdateOptions{})
	must(t, "report budget", err)
}

func TestEviction(t *testing.T) {
	ctx := t.Context()
	ns, a := namespace(t, "evict"), newAgent(t, "evict-node")
	allow(t, ns, 1)
	for _, name := range []string{"one", "two"} {
		running(t, ns, name, a.name, "", true)
	}
	pods := shared.Admin.CoreV1().Pods(ns)
	evict := func(name string, options *metav1.DeleteOptions) error {
		return pods.EvictV1(ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: ns}, DeleteOptions: options})
	}

	must(t, "dry run", evict("one", &metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}}))
	p, err := pods.Get(ctx, "one", metav1.GetOptions{})
	must(t, "read pod", err)
	if p.DeletionTimestamp != nil || len(p.Status.Conditions) != 1 {
		t.Errorf("the dry run changed the pod: %+v", p.Status.Conditions)
	}
	if err := evict("one", &metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions("old")}); !apierrors.IsConflict(err) {
		t.Errorf("another pod's UID: %v", err)
	}

	must(t, "evict the first", evict("one", nil))
	p, err = pods.Get(ctx, "one", metav1.GetOptions{})
	must(t, "read pod", err)
	marked := false
	for _, c := range p.Status.Conditions {
		marked = marked || c.Type == corev1.DisruptionTarget && c.Status == corev1.ConditionTrue
	}
	if p.DeletionTimestamp == nil || !marked {
		t.Errorf("deleted %v, conditions %+v", p.DeletionTimestamp, p.Status.Conditions)
	}
	b, err := shared.Admin.PolicyV1().PodDisruptionBudgets(ns).Get(ctx, "b", metav1.GetOptions{})
	must(t, "read budget", err)
	if _, ok := b.Status.DisruptedPods["one"]; !ok || b.Status.DisruptionsAllowed != 0 {
		t.Errorf("budget is %+v", b.Status)
	}

	err = evict("two", nil)
	if !apierrors.IsTooManyRequests(err) || !apierrors.HasStatusCause(err, policyv1.DisruptionBudgetCause) {
		t.Errorf("the second: %v", err)
	}
	must(t, "evict the first again", evict("one", nil))
}
