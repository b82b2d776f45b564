package podeviction

import (
	"context"
	"fmt"
	"strconv"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/util/dryrun"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/utils/ptr"
)

// store is a stateful fake of the pods store and its status: resource versions move, preconditions hold.
type store struct {
	pod     *corev1.Pod
	deleted *metav1.DeleteOptions
	// beforeMark runs once, between our reading of the pod and the write of its condition.
	beforeMark func(*store)
}

func (s *store) bump() {
	n, _ := strconv.Atoi(s.pod.ResourceVersion)
	s.pod.ResourceVersion = strconv.Itoa(n + 1)
}

func (s *store) Get(_ context.Context, name string, _ *metav1.GetOptions) (runtime.Object, error) {
	if s.pod == nil || s.pod.Name != name {
		return nil, apierrors.NewNotFound(corev1.Resource("pods"), name)
	}
	return s.pod.DeepCopy(), nil
}

func (s *store) Delete(_ context.Context, name string, _ rest.ValidateObjectFunc, o *metav1.DeleteOptions) (runtime.Object, bool, error) {
	if p := o.Preconditions; p != nil {
		if p.UID != nil && *p.UID != s.pod.UID || p.ResourceVersion != nil && *p.ResourceVersion != s.pod.ResourceVersion {
			return nil, false, apierrors.NewConflict(corev1.Resource("pods"), name, fmt.Errorf("precondition"))
		}
	}
	s.deleted = o
	return s.pod, true, nil
}

type statusOf struct{ *store }

func (s statusOf) New() runtime.Object { return &corev1.Pod{} }
func (s statusOf) Update(ctx context.Context, _ string, info rest.UpdatedObjectInfo, _ rest.ValidateObjectFunc, _ rest.ValidateObjectUpdateFunc, _ bool, o *metav1.UpdateOptions) (runtime.Object, bool, error) {
	if f := s.beforeMark; f != nil {
		s.beforeMark = nil
		f(s.store)
	}
	obj, err := info.UpdatedObject(ctx, s.pod.DeepCopy())
	if err != nil {
		return nil, false, err
	}
	if dryrun.IsDryRun(o.DryRun) {
		return obj, false, nil
	}
	s.pod = obj.(*corev1.Pod)
	s.bump()
	return s.pod.DeepCopy(), false, nil
}

func running(ready bool) *corev1.Pod {
	status := corev1.ConditionFalse
	if ready {
		status = corev1.ConditionTrue
	}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web", UID: "u", ResourceVersion: "5", Labels: map[string]string{"app": "web"}},
		Status:     corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: status}}},
	}
}

func budget(name string, change func(*policyv1.PodDisruptionBudget)) *policyv1.PodDisruptionBudget {
	b := &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, Generation: 1},
		Spec:       policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}},
		Status:     policyv1.PodDisruptionBudgetStatus{ObservedGeneration: 1, DisruptionsAllowed: 1, CurrentHealthy: 3, DesiredHealthy: 2, ExpectedPods: 3},
	}
	if change != nil {
		change(b)
	}
	return b
}

type attempt struct {
	store  *store
	client *fake.Clientset
	err    error
}

func evict(t *testing.T, pod *corev1.Pod, options *metav1.DeleteOptions, prepare func(*store, *fake.Clientset), budgets ...runtime.Object) attempt {
	t.Helper()
	a := attempt{store: &store{pod: pod}, client: fake.NewClientset(budgets...)}
	if prepare != nil {
		prepare(a.store, a.client)
	}
	e := New(a.store, statusOf{a.store}, a.client.PolicyV1())
	_, a.err = e.Create(request.WithNamespace(t.Context(), "shop"), "web",
		&policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"}, DeleteOptions: options}, nil, &metav1.CreateOptions{})
	return a
}

func (a attempt) budget(t *testing.T) *policyv1.PodDisruptionBudget {
	t.Helper()
	b, err := a.client.PolicyV1().PodDisruptionBudgets("shop").Get(t.Context(), "b", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestEvictionSpendsTheBudgetAndMarksThePod(t *testing.T) {
	a := evict(t, running(true), nil, nil, budget("b", nil))
	if a.err != nil || a.store.deleted == nil {
		t.Fatalf("deleted %v, err %v", a.store.deleted, a.err)
	}
	b := a.budget(t)
	if _, ok := b.Status.DisruptedPods["web"]; b.Status.DisruptionsAllowed != 0 || !ok {
		t.Errorf("budget is %+v", b.Status)
	}
	marked := false
	for _, c := range a.store.pod.Status.Conditions {
		marked = marked || c.Type == corev1.DisruptionTarget && c.Status == corev1.ConditionTrue && c.Reason == "EvictionByEvictionAPI"
	}
	if !marked {
		t.Errorf("conditions are %+v", a.store.pod.Status.Conditions)
	}
}

func TestEvictionThatTheBudgetForbids(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*policyv1.PodDisruptionBudget)
		is     func(error) bool
	}{
		"spent":          {func(b *policyv1.PodDisruptionBudget) { b.Status.DisruptionsAllowed = 0 }, apierrors.IsTooManyRequests},
		"not seen yet":   {func(b *policyv1.PodDisruptionBudget) { b.Generation = 2 }, apierrors.IsTooManyRequests},
		"negative":       {func(b *policyv1.PodDisruptionBudget) { b.Status.DisruptionsAllowed = -1 }, apierrors.IsForbidden},
		"too many going": {func(b *policyv1.PodDisruptionBudget) { b.Status.DisruptedPods = crowd(maxDisrupted + 1) }, apierrors.IsForbidden},
	} {
		a := evict(t, running(true), nil, nil, budget("b", c.change))
		if !c.is(a.err) || a.store.deleted != nil {
			t.Errorf("%s: deleted %v, err %v", name, a.store.deleted, a.err)
		}
		if apierrors.IsTooManyRequests(a.err) && !apierrors.HasStatusCause(a.err, policyv1.DisruptionBudgetCause) {
			t.Errorf("%s: the answer lacks its cause: %v", name, a.err)
		}
	}
	if a := evict(t, running(true), nil, nil, budget("b", nil), budget("c", nil)); !apierrors.IsInternalError(a.err) || a.store.deleted != nil {
		t.Errorf("two budgets: %v", a.err)
	}
}

func crowd(n int) map[string]metav1.Time {
	m := map[string]metav1.Time{}
	for i := range n {
		m[fmt.Sprint(i)] = metav1.NewTime(time.Unix(0, 0))
	}
	return m
}

func TestPodsThatNeedNoBudget(t *testing.T) {
	spent := func(b *policyv1.PodDisruptionBudget) { b.Status.DisruptionsAllowed = 0 }
	phase := func(p corev1.PodPhase) *corev1.Pod { pod := running(true); pod.Status.Phase = p; return pod }
	going := running(true)
	going.DeletionTimestamp = ptr.To(metav1.Now())
	for name, c := range map[string]struct {
		pod    *corev1.Pod
		change func(*policyv1.PodDisruptionBudget)
	}{
		"pending":                      {phase(corev1.PodPending), spent},
		"succeeded":                    {phase(corev1.PodSucceeded), spent},
		"failed":                       {phase(corev1.PodFailed), spent},
		"going":                        {going, spent},
		"unhealthy, others are enough": {running(false), spent},
		"unhealthy, always allowed": {running(false), func(b *policyv1.PodDisruptionBudget) {
			spent(b)
			b.Status.CurrentHealthy = 0
			b.Spec.UnhealthyPodEvictionPolicy = ptr.To(policyv1.AlwaysAllow)
		}},
	} {
		if a := evict(t, c.pod, nil, nil, budget("b", c.change)); a.err != nil || a.store.deleted == nil || len(a.budget(t).Status.DisruptedPods) != 0 {
			t.Errorf("%s: deleted %v, err %v", name, a.store.deleted, a.err)
		}
	}
	few := func(b *policyv1.PodDisruptionBudget) { spent(b); b.Status.CurrentHealthy = 1 }
	if a := evict(t, running(false), nil, nil, budget("b", few)); !apierrors.IsTooManyRequests(a.err) || a.store.deleted != nil {
		t.Errorf("unhealthy among too few: %v", a.err)
	}
}

func TestDryRunChangesNothing(t *testing.T) {
	a := evict(t, running(true), &metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}}, nil, budget("b", nil))
	if a.err != nil || a.budget(t).Status.DisruptionsAllowed != 1 || len(a.store.pod.Status.Conditions) != 1 {
		t.Fatalf("err %v, budget %+v, pod %+v", a.err, a.budget(t).Status, a.store.pod.Status)
	}
	if !dryrun.IsDryRun(a.store.deleted.DryRun) {
		t.Error("the delete was real")
	}
}

func TestPreconditionsHold(t *testing.T) {
	for name, p := range map[string]*metav1.Preconditions{"uid": metav1.NewUIDPreconditions("old"), "version": metav1.NewRVDeletionPrecondition("4").Preconditions} {
		if a := evict(t, running(true), &metav1.DeleteOptions{Preconditions: p}, nil, budget("b", nil)); !apierrors.IsConflict(a.err) || a.store.deleted != nil {
			t.Errorf("%s: %v", name, a.err)
		}
	}
	if a := evict(t, running(true), metav1.NewRVDeletionPrecondition("5"), nil, budget("b", nil)); a.err != nil || a.store.deleted == nil {
		t.Errorf("the current version: %v", a.err)
	}
}

// A pod that was pending when it was judged must not slip past the budget when it has started meanwhile.
func TestAPodThatStartsMeanwhileIsJudgedAgain(t *testing.T) {
	pod := running(true)
	pod.Status.Phase = corev1.PodPending
	a := evict(t, pod, nil, func(s *store, _ *fake.Clientset) {
		s.beforeMark = func(s *store) { s.pod.Status.Phase = corev1.PodRunning; s.bump() }
	}, budget("b", func(b *policyv1.PodDisruptionBudget) { b.Status.DisruptionsAllowed = 0 }))
	if !apierrors.IsTooManyRequests(a.err) || a.store.deleted != nil {
		t.Errorf("deleted %v, err %v", a.store.deleted, a.err)
	}
}

func TestABudgetThatChangesMeanwhileIsReadAgain(t *testing.T) {
	conflicts := 2
	a := evict(t, running(true), nil, func(_ *store, c *fake.Clientset) {
		c.PrependReactor("update", "poddisruptionbudgets", func(clienttesting.Action) (bool, runtime.Object, error) {
			if conflicts == 0 {
				return false, nil, nil
			}
			conflicts--
			return true, nil, apierrors.NewConflict(policyv1.Resource("poddisruptionbudgets"), "b", fmt.Errorf("changed"))
		})
	}, budget("b", nil))
	if a.err != nil || a.store.deleted == nil || conflicts != 0 {
		t.Errorf("deleted %v, err %v", a.store.deleted, a.err)
	}
}
