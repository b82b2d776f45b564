package registry

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/util/dryrun"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

func podCreate(_ context.Context, obj runtime.Object) {
	pod := obj.(*corev1.Pod)
	pod.Status = corev1.PodStatus{Phase: corev1.PodPending, QOSClass: qosClass(pod)}
	if len(pod.Spec.SchedulingGates) > 0 {
		pod.Status.Conditions = append(pod.Status.Conditions, corev1.PodCondition{
			Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonSchedulingGated,
			Message: "Scheduling is blocked due to non-empty scheduling gates",
		})
	}
}

func podUpdate(_ context.Context, obj, old runtime.Object) {
	// Only the resize and ephemeralcontainers endpoints change these; validation rejects the rest.
	obj.(*corev1.Pod).Status = old.(*corev1.Pod).Status
}

func podUpdateStatus(_ context.Context, obj, old runtime.Object) {
	now, before := obj.(*corev1.Pod), old.(*corev1.Pod)
	// A pod in deletion may be finished off by its node only through a delete.
	now.DeletionTimestamp = nil
	if before.DeletionTimestamp != nil {
		now.DeletionTimestamp = before.DeletionTimestamp
	}
	if now.Status.QOSClass == "" {
		now.Status.QOSClass = before.Status.QOSClass
	}
}

// podGracefulDelete gives pods that run somewhere time to stop; unscheduled and finished pods go at once.
func podGracefulDelete(_ context.Context, obj runtime.Object, options *metav1.DeleteOptions) bool {
	pod := obj.(*corev1.Pod)
	var period int64
	switch {
	case options.GracePeriodSeconds != nil:
		period = *options.GracePeriodSeconds
	case pod.Spec.TerminationGracePeriodSeconds != nil:
		period = *pod.Spec.TerminationGracePeriodSeconds
	}
	if pod.Spec.NodeName == "" || pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded {
		period = 0
	}
	if period < 0 {
		period = 1
	}
	options.GracePeriodSeconds = &period
	return true
}

// qosClass is Guaranteed when every container's cpu and memory requests equal its limits, BestEffort when none has
// either, else Burstable. Pod-level resources, where given, decide alone.
func qosClass(pod *corev1.Pod) corev1.PodQOSClass {
	requests, limits := corev1.ResourceList{}, corev1.ResourceList{}
	guaranteed := true
	count := func(r corev1.ResourceRequirements) {
		seen := 0
		for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			if q, ok := r.Requests[name]; ok && !q.IsZero() {
				addTo(requests, name, q)
			}
			if q, ok := r.Limits[name]; ok && !q.IsZero() {
				addTo(limits, name, q)
				seen++
			}
		}
		if seen < 2 {
			guaranteed = false
		}
	}
	if pod.Spec.Resources != nil && (len(pod.Spec.Resources.Requests) > 0 || len(pod.Spec.Resources.Limits) > 0) {
		count(*pod.Spec.Resources)
	} else {
		for i := range pod.Spec.InitContainers {
			count(pod.Spec.InitContainers[i].Resources)
		}
		for i := range pod.Spec.Containers {
			count(pod.Spec.Containers[i].Resources)
		}
	}
	if len(requests) == 0 && len(limits) == 0 {
		return corev1.PodQOSBestEffort
	}
	if guaranteed && len(requests) == len(limits) {
		for name, q := range requests {
			if limit := limits[name]; q.Cmp(limit) != 0 {
				return corev1.PodQOSBurstable
			}
		}
		return corev1.PodQOSGuaranteed
	}
	return corev1.PodQOSBurstable
}

func addTo(list corev1.ResourceList, name corev1.ResourceName, q resource.Quantity) {
	sum := list[name]
	sum.Add(q)
	list[name] = sum
}

// binding serves pods/binding, by which a scheduler assigns a pod to a node.
type binding struct {
	store *genericregistry.Store
}

var (
	_ rest.NamedCreater                   = (*binding)(nil)
	_ rest.SubresourceObjectMetaPreserver = (*binding)(nil)
)

// NewBinding gives the binding subresource of the pods store.
func NewBinding(pods *Store) rest.Storage { return &binding{pods.Store} }

func (b *binding) New() runtime.Object { return &corev1.Binding{} }
func (b *binding) Destroy()            {}

// PreserveRequestObjectMetaSystemFieldsOnSubresourceCreate keeps the UID and resourceVersion that the scheduler bound
// against: a pod that was replaced meanwhile must not be bound.
func (b *binding) PreserveRequestObjectMetaSystemFieldsOnSubresourceCreate() bool { return true }

func (b *binding) Create(ctx context.Context, name string, obj runtime.Object, validate rest.ValidateObjectFunc, options *metav1.CreateOptions) (runtime.Object, error) {
	binding, ok := obj.(*corev1.Binding)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("not a Binding object: %T", obj))
	}
	if name != binding.Name {
		return nil, apierrors.NewBadRequest("name in URL does not match name in Binding object")
	}
	if kind := binding.Target.Kind; kind != "" && kind != "Node" {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("target.kind: unsupported value %q: must be empty or \"Node\"", kind))
	}
	if binding.Target.Name == "" {
		return nil, apierrors.NewBadRequest("target.name: required: the node to bind to")
	}
	if validate != nil {
		if err := validate(ctx, binding.DeepCopyObject()); err != nil {
			return nil, err
		}
	}
	key, err := b.store.KeyFunc(ctx, name)
	if err != nil {
		return nil, err
	}
	var preconditions *storage.Preconditions
	if binding.UID != "" || binding.ResourceVersion != "" {
		preconditions = &storage.Preconditions{}
		if binding.UID != "" {
			uid := types.UID(binding.UID)
			preconditions.UID = &uid
		}
		if binding.ResourceVersion != "" {
			preconditions.ResourceVersion = &binding.ResourceVersion
		}
	}
	conflict := func(message string) error {
		return apierrors.NewConflict(b.store.DefaultQualifiedResource, name, fmt.Errorf("%s", message))
	}
	err = b.store.Storage.GuaranteedUpdate(ctx, key, &corev1.Pod{}, false, preconditions,
		storage.SimpleUpdate(func(obj runtime.Object) (runtime.Object, error) {
			pod := obj.(*corev1.Pod)
			switch {
			case pod.DeletionTimestamp != nil:
				return nil, conflict(fmt.Sprintf("pod %s is being deleted, cannot be assigned to a host", pod.Name))
			case pod.Spec.NodeName != "":
				return nil, conflict(fmt.Sprintf("pod %v is already assigned to node %q", pod.Name, pod.Spec.NodeName))
			case len(pod.Spec.SchedulingGates) != 0:
				return nil, conflict(fmt.Sprintf("pod %v has non-empty .spec.schedulingGates", pod.Name))
			}
			pod.Spec.NodeName = binding.Target.Name
			pod.Annotations = merged(pod.Annotations, binding.Annotations)
			pod.Labels = merged(pod.Labels, binding.Labels)
			// The scheduler's nomination has served its purpose.
			pod.Status.NominatedNodeName = ""
			setScheduled(&pod.Status)
			return pod, nil
		}), dryrun.IsDryRun(options.DryRun), nil)
	if err != nil {
		if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
			return nil, err
		}
		return nil, interpretUpdateError(err, b.store, name)
	}
	return &metav1.Status{Status: metav1.StatusSuccess}, nil
}

func merged(into, from map[string]string) map[string]string {
	if len(from) == 0 {
		return into
	}
	out := make(map[string]string, len(into)+len(from))
	for k, v := range into {
		out[k] = v
	}
	for k, v := range from {
		out[k] = v
	}
	return out
}

func setScheduled(status *corev1.PodStatus) {
	condition := corev1.PodCondition{Type: corev1.PodScheduled, Status: corev1.ConditionTrue, LastTransitionTime: metav1.Now()}
	for i := range status.Conditions {
		if status.Conditions[i].Type == corev1.PodScheduled {
			if status.Conditions[i].Status == corev1.ConditionTrue {
				return
			}
			status.Conditions[i] = condition
			return
		}
	}
	status.Conditions = append(status.Conditions, condition)
}

// NewResize gives the resize subresource: the containers' resources and resize policies, nothing else.
func NewResize(pods *Store) rest.Storage {
	return newPart(pods, podPartStrategy{newStrategy(pods.kind), func(now, before *corev1.PodSpec) {
		spec := before.DeepCopy()
		takeResources(spec.Containers, now.Containers)
		takeResources(spec.InitContainers, now.InitContainers)
		if now.Resources != nil {
			spec.Resources = now.Resources
		}
		*now = *spec
	}, validatePart("resize")})
}

func takeResources(into, from []corev1.Container) {
	for i := range into {
		for j := range from {
			if into[i].Name == from[j].Name {
				into[i].Resources = from[j].Resources
				into[i].ResizePolicy = from[j].ResizePolicy
			}
		}
	}
}

// NewEphemeralContainers gives the ephemeralcontainers subresource: debug containers are only ever added.
func NewEphemeralContainers(pods *Store) rest.Storage {
	return newPart(pods, podPartStrategy{newStrategy(pods.kind), func(now, before *corev1.PodSpec) {
		spec := before.DeepCopy()
		spec.EphemeralContainers = now.EphemeralContainers
		*now = *spec
	}, validatePart("ephemeralcontainers")})
}

// podPartStrategy takes one part of the pod's spec and keeps everything else of the stored pod.
type podPartStrategy struct {
	*strategy
	take     func(now, before *corev1.PodSpec)
	validate validateFunc
}

func (s podPartStrategy) PrepareForUpdate(_ context.Context, obj, old runtime.Object) {
	now, before := obj.(*corev1.Pod), old.(*corev1.Pod)
	s.take(&now.Spec, &before.Spec)
	now.Status = before.Status
	now.Labels, now.Annotations = before.Labels, before.Annotations
	now.Generation = before.Generation
	if s.desiredChanged(now, before) {
		now.Generation++
	}
}

func (s podPartStrategy) AllowCreateOnUpdate() bool { return false }

func (s podPartStrategy) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return s.everyVersion(fieldpath.MakePathOrDie("status"))
}

func (s podPartStrategy) ValidateUpdate(ctx context.Context, obj, old runtime.Object) field.ErrorList {
	return s.validate(ctx, obj, old)
}

// legacyBinding serves the bindings collection, the older way to pods/binding.
type legacyBinding struct {
	pod *binding
}

// NewLegacyBinding gives the bindings collection over the pods store.
func NewLegacyBinding(pods *Store) rest.Storage { return &legacyBinding{&binding{pods.Store}} }

func (b *legacyBinding) New() runtime.Object     { return &corev1.Binding{} }
func (b *legacyBinding) Destroy()                {}
func (b *legacyBinding) NamespaceScoped() bool   { return true }
func (b *legacyBinding) GetSingularName() string { return "binding" }

func (b *legacyBinding) Create(ctx context.Context, obj runtime.Object, validate rest.ValidateObjectFunc, options *metav1.CreateOptions) (runtime.Object, error) {
	return b.pod.Create(ctx, accessor(obj).GetName(), obj, validate, options)
}
