package podeviction

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/util/dryrun"
	policyclient "k8s.io/client-go/kubernetes/typed/policy/v1"
)

const (
	// attempts bounds how often an eviction is tried again when pod or budget change under it.
	attempts = 20
	// attemptPause is the first pause between attempts; it grows by half each time.
	attemptPause = 10 * time.Millisecond
	// budgetTimeout bounds reading and spending the budget once.
	budgetTimeout = 10 * time.Second
)

// Pods is the registry's store for pods.
type Pods interface {
	rest.Getter
	rest.GracefulDeleter
}

// Eviction is the storage of pods/eviction.
type Eviction struct {
	pods    Pods
	status  rest.Updater
	budgets policyclient.PodDisruptionBudgetsGetter
}

var (
	_ rest.NamedCreater             = (*Eviction)(nil)
	_ rest.GroupVersionKindProvider = (*Eviction)(nil)
)

// New evicts from pods; status is the pods/status storage, where the DisruptionTarget condition is written; budgets
// are read and spent through the API.
func New(pods Pods, status rest.Updater, budgets policyclient.PodDisruptionBudgetsGetter) *Eviction {
	return &Eviction{pods, status, budgets}
}

func (*Eviction) New() runtime.Object { return &policyv1.Eviction{} }
func (*Eviction) Destroy()            {}
func (*Eviction) GroupVersionKind(schema.GroupVersion) schema.GroupVersionKind {
	return policyv1.SchemeGroupVersion.WithKind("Eviction")
}

// Create evicts the pod called name. 429 TooManyRequests says that the budget does not allow it now: try again later.
func (e *Eviction) Create(ctx context.Context, name string, obj runtime.Object, validate rest.ValidateObjectFunc, options *metav1.CreateOptions) (runtime.Object, error) {
	eviction, ok := obj.(*policyv1.Eviction)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("not an Eviction object: %T", obj))
	}
	if name != eviction.Name {
		return nil, apierrors.NewBadRequest("name in URL does not match name in Eviction object")
	}
	if validate != nil {
		if err := validate(ctx, eviction.DeepCopyObject()); err != nil {
			return nil, err
		}
	}
	del, err := deleteOptions(eviction, options)
	if err != nil {
		return nil, err
	}
	pause := attemptPause
	for try := 1; ; try++ {
		err := e.once(ctx, name, del)
		if err == nil {
			return &metav1.Status{Status: metav1.StatusSuccess}, nil
		}
		// A precondition of the caller's own that fails stays failed.
		if !isRace(err) || try == attempts || preconditionFails(del, err) {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(pause):
			pause += pause / 2
		}
	}
}

// race wraps a conflict that comes from a change between our reading and writing, not from the caller.
type race struct{ error }

func (r race) Unwrap() error { return r.error }

func isRace(err error) bool { _, ok := err.(race); return ok }

func preconditionFails(del *metav1.DeleteOptions, err error) bool {
	return del.Preconditions != nil && del.Preconditions.ResourceVersion != nil && apierrors.IsConflict(err)
}

func deleteOptions(eviction *policyv1.Eviction, options *metav1.CreateOptions) (*metav1.DeleteOptions, error) {
	del := &metav1.DeleteOptions{}
	if eviction.DeleteOptions != nil {
		del = eviction.DeleteOptions.DeepCopy()
	}
	if dryrun.IsDryRun(options.DryRun) {
		del.DryRun = options.DryRun
	} else if dryrun.IsDryRun(del.DryRun) {
		options.DryRun = del.DryRun
	}
	return del, nil
}

// once reads, spends the budget, marks and deletes.
func (e *Eviction) once(ctx context.Context, name string, del *metav1.DeleteOptions) error {
	obj, err := e.pods.Get(ctx, name, &metav1.GetOptions{})
	if err != nil {
		return err
	}
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return fmt.Errorf("look up pod %q: got a %T", name, obj)
	}
	if err := checkPreconditions(pod, del.Preconditions); err != nil {
		return err
	}
	pinned := !needsBudget(pod) // it may leave freely only as it is now
	if !pinned {
		free, err := e.spend(ctx, pod, dryrun.IsDryRun(del.DryRun))
		if err != nil {
			return err
		}
		pinned = free
	}
	return e.remove(ctx, pod, del, pinned)
}

func checkPreconditions(pod *corev1.Pod, p *metav1.Preconditions) error {
	if p == nil {
		return nil
	}
	resource := corev1.Resource("pods")
	if p.UID != nil && *p.UID != pod.UID {
		return apierrors.NewConflict(resource, pod.Name, fmt.Errorf("the UID in the precondition (%s) does not match the UID in record (%s). The object might have been deleted and then recreated", *p.UID, pod.UID))
	}
	if p.ResourceVersion != nil && *p.ResourceVersion != pod.ResourceVersion {
		return apierrors.NewConflict(resource, pod.Name, fmt.Errorf("the ResourceVersion in the precondition (%s) does not match the ResourceVersion in record (%s). The object might have been modified", *p.ResourceVersion, pod.ResourceVersion))
	}
	return nil
}

// needsBudget: a pod that has not started, has ended or is going already disturbs nobody.
func needsBudget(pod *corev1.Pod) bool {
	return pod.DeletionTimestamp == nil && pod.Status.Phase != corev1.PodSucceeded &&
		pod.Status.Phase != corev1.PodFailed && pod.Status.Phase != corev1.PodPending
}

// remove marks the pod as a disruption's target and deletes it. pinned demands that the pod still is what was judged.
func (e *Eviction) remove(ctx context.Context, pod *corev1.Pod, del *metav1.DeleteOptions, pinned bool) error {
	del = del.DeepCopy()
	if del.Preconditions == nil {
		del.Preconditions = &metav1.Preconditions{}
	}
	uid := pod.UID
	del.Preconditions.UID = &uid
	if pod.DeletionTimestamp == nil {
		marked, err := e.mark(ctx, pod, del, pinned)
		if err != nil {
			if apierrors.IsConflict(err) {
				return race{err}
			}
			return err
		}
		pod = marked
	}
	dry := dryrun.IsDryRun(del.DryRun)
	if (pinned || del.Preconditions.ResourceVersion != nil) && !dry {
		del.Preconditions.ResourceVersion = &pod.ResourceVersion // our own mark has moved it on
	}
	_, _, err := e.pods.Delete(request.WithNamespace(ctx, pod.Namespace), pod.Name, rest.ValidateAllObjectFunc, del)
	switch {
	case apierrors.IsConflict(err):
		return race{err}
	case apierrors.IsNotFound(err):
		return nil // gone meanwhile, which is what was asked for
	}
	return err
}

// mark writes the DisruptionTarget condition, so that a Job can tell an eviction from a failure.
func (e *Eviction) mark(ctx context.Context, pod *corev1.Pod, del *metav1.DeleteOptions, pinned bool) (*corev1.Pod, error) {
	info := rest.DefaultUpdatedObjectInfo(nil, func(_ context.Context, _, stored runtime.Object) (runtime.Object, error) {
		now, ok := stored.(*corev1.Pod)
		if !ok {
			return nil, fmt.Errorf("update pod %q: got a %T", pod.Name, stored)
		}
		if now.UID != pod.UID || (pinned && now.ResourceVersion != pod.ResourceVersion) {
			return nil, apierrors.NewConflict(corev1.Resource("pods"), pod.Name, fmt.Errorf("the pod changed while it was being evicted"))
		}
		now = now.DeepCopy()
		setCondition(&now.Status, corev1.PodCondition{
			Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue,
			ObservedGeneration: now.Generation,
			Reason:             "EvictionByEvictionAPI", Message: "Eviction API: evicting",
			LastTransitionTime: metav1.Now(),
		})
		return now, nil
	})
	obj, _, err := e.status.Update(ctx, pod.Name, info, rest.ValidateAllObjectFunc, rest.ValidateAllObjectUpdateFunc, false,
		&metav1.UpdateOptions{DryRun: del.DryRun})
	if err != nil {
		return nil, err
	}
	marked, ok := obj.(*corev1.Pod)
	if !ok {
		return nil, fmt.Errorf("update pod %q: got a %T", pod.Name, obj)
	}
	return marked, nil
}

func setCondition(s *corev1.PodStatus, c corev1.PodCondition) {
	for i := range s.Conditions {
		if s.Conditions[i].Type == c.Type {
			if s.Conditions[i].Status == c.Status {
				c.LastTransitionTime = s.Conditions[i].LastTransitionTime
			}
			s.Conditions[i] = c
			return
		}
	}
	s.Conditions = append(s.Conditions, c)
}
