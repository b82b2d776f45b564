package registry

import (
	"context"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apimachinery/pkg/util/validation/field"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

// Scale is the scale subresource of a workload: its replicas seen and changed as autoscaling/v1 Scale.
type Scale struct {
	store *genericregistry.Store
	gv    schema.GroupVersion
}

var (
	_ rest.Patcher                  = (*Scale)(nil)
	_ rest.GroupVersionKindProvider = (*Scale)(nil)
)

// NewScale gives the scale subresource of store: Deployment, ReplicaSet, StatefulSet or ReplicationController.
func NewScale(store *Store) *Scale { return &Scale{store.Store, store.kind.GroupVersion()} }

func (s *Scale) New() runtime.Object { return &autoscalingv1.Scale{} }

// Destroy does nothing: the main endpoint owns the storage.
func (s *Scale) Destroy() {}

// GroupVersionKind says that the body is autoscaling/v1 Scale in whatever group it is served.
func (s *Scale) GroupVersionKind(schema.GroupVersion) schema.GroupVersionKind {
	return autoscalingv1.SchemeGroupVersion.WithKind("Scale")
}

func (s *Scale) Get(ctx context.Context, name string, options *metav1.GetOptions) (runtime.Object, error) {
	obj, err := s.store.Get(ctx, name, options)
	if err != nil {
		return nil, err
	}
	return scaleOf(obj)
}

func (s *Scale) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, create rest.ValidateObjectFunc, update rest.ValidateObjectUpdateFunc, _ bool, options *metav1.UpdateOptions) (runtime.Object, bool, error) {
	obj, _, err := s.store.Update(ctx, name, &scaleInfo{name: name, info: info, gv: s.gv},
		wrapCreate(create), wrapUpdate(update), false, options)
	if err != nil {
		return nil, false, err
	}
	scale, err := scaleOf(obj)
	return scale, false, err
}

func (s *Scale) ConvertToTable(ctx context.Context, object, options runtime.Object) (*metav1.Table, error) {
	return s.store.ConvertToTable(ctx, object, options)
}

// Admission of a scale sees Scale objects, not the workload.
func wrapCreate(f rest.ValidateObjectFunc) rest.ValidateObjectFunc {
	if f == nil {
		return nil
	}
	return func(ctx context.Context, obj runtime.Object) error {
		scale, err := scaleOf(obj)
		if err != nil {
			return err
		}
		return f(ctx, scale)
	}
}

func wrapUpdate(f rest.ValidateObjectUpdateFunc) rest.ValidateObjectUpdateFunc {
	if f == nil {
		return nil
	}
	return func(ctx context.Context, obj, old runtime.Object) error {
		now, err := scaleOf(obj)
		if err != nil {
			return err
		}
		before, err := scaleOf(old)
		if err != nil {
			return err
		}
		return f(ctx, now, before)
	}
}

// scaleInfo carries a change of the Scale over to the workload.
type scaleInfo struct {
	name string
	info rest.UpdatedObjectInfo
	gv   schema.GroupVersion
}

func (i *scaleInfo) Preconditions() *metav1.Preconditions { return i.info.Preconditions() }

func (i *scaleInfo) UpdatedObject(ctx context.Context, old runtime.Object) (runtime.Object, error) {
	if old == nil {
		return nil, apierrors.NewNotFound(schema.GroupResource{Group: i.gv.Group}, i.name)
	}
	workload := old.DeepCopyObject()
	meta := accessor(workload)
	mappings := managedfields.ResourcePathMappings{i.gv.String(): fieldpath.MakePathOrDie("spec", "replicas")}
	handler := managedfields.NewScaleHandler(meta.GetManagedFields(), i.gv, mappings)

	before, err := scaleOf(workload)
	if err != nil {
		return nil, err
	}
	if before.ManagedFields, err = handler.ToSubresource(); err != nil {
		return nil, err
	}
	obj, err := i.info.UpdatedObject(ctx, before)
	if err != nil {
		return nil, err
	}
	scale, ok := obj.(*autoscalingv1.Scale)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("expected a Scale, got %T", obj))
	}
	if scale.Spec.Replicas < 0 {
		return nil, apierrors.NewInvalid(autoscalingv1.SchemeGroupVersion.WithKind("Scale").GroupKind(), i.name, field.ErrorList{
			field.Invalid(field.NewPath("spec", "replicas"), scale.Spec.Replicas, "must be greater than or equal to 0"),
		})
	}
	if scale.ResourceVersion != "" && meta.GetResourceVersion() != "" {
		// A version given by the client is checked by the store's own precondition.
		meta.SetResourceVersion(scale.ResourceVersion)
	}
	if scale.UID != "" {
		meta.SetUID(scale.UID)
	}
	setReplicas(workload, scale.Spec.Replicas)
	fields, err := handler.ToParent(scale.ManagedFields)
	if err != nil {
		return nil, err
	}
	meta.SetManagedFields(fields)
	return workload, nil
}

func setReplicas(obj runtime.Object, n int32) {
	switch w := obj.(type) {
	case *appsv1.Deployment:
		w.Spec.Replicas = &n
	case *appsv1.ReplicaSet:
		w.Spec.Replicas = &n
	case *appsv1.StatefulSet:
		w.Spec.Replicas = &n
	case *corev1.ReplicationController:
		w.Spec.Replicas = &n
	}
}

func scaleOf(obj runtime.Object) (*autoscalingv1.Scale, error) {
	var replicas *int32
	var current int32
	var selector string
	switch w := obj.(type) {
	case *appsv1.Deployment:
		replicas, current = w.Spec.Replicas, w.Status.Replicas
		s, err := metav1.LabelSelectorAsSelector(w.Spec.Selector)
		if err != nil {
			return nil, err
		}
		selector = s.String()
	case *appsv1.ReplicaSet:
		replicas, current = w.Spec.Replicas, w.Status.Replicas
		s, err := metav1.LabelSelectorAsSelector(w.Spec.Selector)
		if err != nil {
			return nil, err
		}
		selector = s.String()
	case *appsv1.StatefulSet:
		replicas, current = w.Spec.Replicas, w.Status.Replicas
		s, err := metav1.LabelSelectorAsSelector(w.Spec.Selector)
		if err != nil {
			return nil, err
		}
		selector = s.String()
	case *corev1.ReplicationController:
		replicas, current = w.Spec.Replicas, w.Status.Replicas
		selector = labels.Set(w.Spec.Selector).AsSelector().String()
	default:
		return nil, fmt.Errorf("%T has no scale", obj)
	}
	m := accessor(obj)
	scale := &autoscalingv1.Scale{
		ObjectMeta: metav1.ObjectMeta{
			Name: m.GetName(), Namespace: m.GetNamespace(), UID: m.GetUID(), ResourceVersion: m.GetResourceVersion(),
			CreationTimestamp: m.GetCreationTimestamp(),
		},
		Status: autoscalingv1.ScaleStatus{Replicas: current, Selector: selector},
	}
	if replicas != nil {
		scale.Spec.Replicas = *replicas
	}
	return scale, nil
}
