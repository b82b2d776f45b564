package registry

import (
	"context"
	"errors"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/generic"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	storageerr "k8s.io/apiserver/pkg/storage/errors"
	"k8s.io/apiserver/pkg/util/dryrun"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/reevehq/reeve/controlplane/apis"
)

func namespaceCreate(_ context.Context, obj runtime.Object) {
	ns := obj.(*corev1.Namespace)
	ns.Status = corev1.NamespaceStatus{Phase: corev1.NamespaceActive}
	if !slices.Contains(ns.Spec.Finalizers, corev1.FinalizerKubernetes) {
		ns.Spec.Finalizers = append(ns.Spec.Finalizers, corev1.FinalizerKubernetes)
	}
	labelWithName(ns)
}

func namespaceUpdate(_ context.Context, obj, old runtime.Object) {
	now, before := obj.(*corev1.Namespace), old.(*corev1.Namespace)
	// Finalizers change only through the finalize endpoint.
	now.Spec.Finalizers = before.Spec.Finalizers
	labelWithName(now)
}

// labelWithName keeps the label that network policies and webhooks select namespaces by. A generated name is known
// only here, after defaulting.
func labelWithName(ns *corev1.Namespace) {
	if ns.Labels[corev1.LabelMetadataName] == ns.Name || ns.Name == "" {
		return
	}
	ns.Labels = merged(ns.Labels, map[string]string{corev1.LabelMetadataName: ns.Name})
}

// Namespaces is the namespaces endpoint. A delete first only marks the namespace Terminating; it goes when the
// namespace controller has emptied it and taken its finalizer away.
type Namespaces struct {
	*Store
}

// NewNamespaces builds the namespaces endpoint.
func NewNamespaces(kind *apis.Kind, options generic.RESTOptionsGetter) (*Namespaces, error) {
	store, err := NewStore(kind, options)
	if err != nil {
		return nil, err
	}
	store.ShouldDeleteDuringUpdate = func(ctx context.Context, key string, obj, existing runtime.Object) bool {
		return len(obj.(*corev1.Namespace).Spec.Finalizers) == 0 &&
			genericregistry.ShouldDeleteDuringUpdate(ctx, key, obj, existing)
	}
	return &Namespaces{store}, nil
}

// Delete implements rest.GracefulDeleter.
func (n *Namespaces) Delete(ctx context.Context, name string, validate rest.ValidateObjectFunc, options *metav1.DeleteOptions) (runtime.Object, bool, error) {
	obj, err := n.Get(ctx, name, &metav1.GetOptions{})
	if err != nil {
		return nil, false, err
	}
	ns := obj.(*corev1.Namespace)

	if options == nil {
		options = metav1.NewDeleteOptions(0)
	}
	if options.Preconditions == nil {
		options.Preconditions = &metav1.Preconditions{}
	}
	if options.Preconditions.UID == nil {
		options.Preconditions.UID = &ns.UID
	} else if *options.Preconditions.UID != ns.UID {
		return nil, false, apierrors.NewConflict(n.DefaultQualifiedResource, name,
			errors.New("UID in precondition does not match the namespace's"))
	}
	if v := options.Preconditions.ResourceVersion; v != nil && *v != ns.ResourceVersion {
		return nil, false, apierrors.NewConflict(n.DefaultQualifiedResource, name,
			errors.New("resourceVersion in precondition does not match the namespace's"))
	}

	// Emptied already: the real delete.
	if ns.DeletionTimestamp != nil && len(ns.Spec.Finalizers) == 0 {
		return n.Store.Delete(ctx, name, validate, options)
	}
	if ns.DeletionTimestamp != nil && ns.Status.Phase == corev1.NamespaceTerminating {
		if validate != nil {
			if err := validate(ctx, ns.DeepCopyObject()); err != nil {
				return nil, false, err
			}
		}
		return ns, false, nil
	}

	key, err := n.KeyFunc(ctx, name)
	if err != nil {
		return nil, false, err
	}
	preconditions := storage.Preconditions{UID: options.Preconditions.UID, ResourceVersion: options.Preconditions.ResourceVersion}
	out := n.NewFunc()
	err = n.Storage.GuaranteedUpdate(ctx, key, out, false, &preconditions,
		storage.SimpleUpdate(func(existing runtime.Object) (runtime.Object, error) {
			ns := existing.(*corev1.Namespace)
			if validate != nil {
				if err := validate(ctx, ns.DeepCopyObject()); err != nil {
					return nil, err
				}
			}
			if ns.DeletionTimestamp == nil {
				now := metav1.Now()
				ns.DeletionTimestamp = &now
			}
			ns.Status.Phase = corev1.NamespaceTerminating
			// The metadata finalizers follow the propagation policy: only an explicit wish adds or drops one.
			ns.Finalizers = propagationFinalizers(ns.Finalizers, options)
			return ns, nil
		}), dryrun.IsDryRun(options.DryRun), nil)
	if err != nil {
		return nil, false, interpretUpdateError(err, n.Store.Store, name)
	}
	return out, false, nil
}

func propagationFinalizers(finalizers []string, options *metav1.DeleteOptions) []string {
	orphan := options.OrphanDependents != nil && *options.OrphanDependents
	foreground := false
	if p := options.PropagationPolicy; p != nil {
		orphan, foreground = *p == metav1.DeletePropagationOrphan, *p == metav1.DeletePropagationForeground
	} else if options.OrphanDependents == nil {
		return finalizers
	}
	out := slices.DeleteFunc(slices.Clone(finalizers), func(f string) bool {
		return f == metav1.FinalizerOrphanDependents || f == metav1.FinalizerDeleteDependents
	})
	if orphan {
		out = append(out, metav1.FinalizerOrphanDependents)
	}
	if foreground {
		out = append(out, metav1.FinalizerDeleteDependents)
	}
	return out
}

// NewNamespaceFinalize gives the finalize subresource, which alone changes spec.finalizers.
func NewNamespaceFinalize(namespaces *Namespaces) rest.Storage {
	return newPart(namespaces.Store, finalizeStrategy{newStrategy(namespaces.kind)})
}

type finalizeStrategy struct {
	*strategy
}

func (s finalizeStrategy) PrepareForUpdate(_ context.Context, obj, old runtime.Object) {
	obj.(*corev1.Namespace).Status = old.(*corev1.Namespace).Status
}

func (s finalizeStrategy) ValidateUpdate(ctx context.Context, obj, old runtime.Object) field.ErrorList {
	return validatePart("finalize")(ctx, obj, old)
}

func (s finalizeStrategy) AllowCreateOnUpdate() bool { return false }

func (s finalizeStrategy) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return s.everyVersion(fieldpath.MakePathOrDie("status"))
}

// interpretUpdateError turns a store's error into an API status that names the object.
func interpretUpdateError(err error, store *genericregistry.Store, name string) error {
	return storageerr.InterpretUpdateError(err, store.DefaultQualifiedResource, name)
}
