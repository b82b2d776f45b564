package registry

import (
	"context"
	"reflect"

	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage/names"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/reevehq/reeve/controlplane/apis"
	"github.com/reevehq/reeve/controlplane/scheme"
)

// strategy is the create, update and delete strategy of a kind's main endpoint, driven by its descriptor.
type strategy struct {
	runtime.ObjectTyper
	names.NameGenerator

	kind  *apis.Kind
	hooks hooks
	// status and spec are the indices of the struct fields Status and Spec; -1 without one.
	status, spec int
}

var (
	_ rest.RESTCreateStrategy              = (*strategy)(nil)
	_ rest.RESTUpdateStrategy              = (*strategy)(nil)
	_ rest.RESTDeleteStrategy              = (*strategy)(nil)
	_ rest.GarbageCollectionDeleteStrategy = (*strategy)(nil)
	_ rest.ResetFieldsStrategy             = (*strategy)(nil)
)

func newStrategy(kind *apis.Kind) *strategy {
	s := &strategy{
		ObjectTyper: scheme.Scheme, NameGenerator: names.SimpleNameGenerator,
		kind: kind, hooks: hooksFor(kind), status: -1, spec: -1,
	}
	t := reflect.TypeOf(kind.New()).Elem()
	if f, ok := t.FieldByName("Status"); ok {
		s.status = f.Index[0]
	}
	if f, ok := t.FieldByName("Spec"); ok {
		s.spec = f.Index[0]
	}
	return s
}

func (s *strategy) NamespaceScoped() bool { return s.kind.Namespaced() }

func (s *strategy) PrepareForCreate(ctx context.Context, obj runtime.Object) {
	if s.kind.Status && s.status >= 0 && !s.hooks.keepStatusOnCreate {
		f := reflect.ValueOf(obj).Elem().Field(s.status)
		f.Set(reflect.Zero(f.Type()))
	}
	if s.kind.Generation != apis.NoGeneration {
		accessor(obj).SetGeneration(1)
	}
	if s.hooks.create != nil {
		s.hooks.create(ctx, obj)
	}
}

func (s *strategy) PrepareForUpdate(ctx context.Context, obj, old runtime.Object) {
	if s.kind.Status && s.status >= 0 {
		reflect.ValueOf(obj).Elem().Field(s.status).Set(reflect.ValueOf(old).Elem().Field(s.status))
	}
	if s.hooks.update != nil {
		s.hooks.update(ctx, obj, old)
	}
	if s.kind.Generation == apis.NoGeneration {
		return
	}
	now, before := accessor(obj), accessor(old)
	now.SetGeneration(before.GetGeneration())
	changed := s.desiredChanged(obj, old)
	if s.kind.Generation == apis.OnSpecAndAnnotations {
		changed = changed || !apiequality.Semantic.DeepEqual(now.GetAnnotations(), before.GetAnnotations())
	}
	if changed {
		now.SetGeneration(before.GetGeneration() + 1)
	}
}

// desiredChanged compares everything but type, metadata and status.
func (s *strategy) desiredChanged(obj, old runtime.Object) bool {
	a, b := reflect.ValueOf(obj).Elem(), reflect.ValueOf(old).Elem()
	for i := range a.NumField() {
		if a.Type().Field(i).Anonymous || i == s.status {
			continue
		}
		if !apiequality.Semantic.DeepEqual(a.Field(i).Interface(), b.Field(i).Interface()) {
			return true
		}
	}
	return false
}

func (s *strategy) Validate(ctx context.Context, obj runtime.Object) field.ErrorList {
	return validateCreate(ctx, obj)
}

func (s *strategy) ValidateUpdate(ctx context.Context, obj, old runtime.Object) field.ErrorList {
	return validateUpdate(ctx, obj, old)
}

func (s *strategy) WarningsOnCreate(ctx context.Context, obj runtime.Object) []string {
	return warnings(ctx, obj, nil)
}

func (s *strategy) WarningsOnUpdate(ctx context.Context, obj, old runtime.Object) []string {
	return warnings(ctx, obj, old)
}

func (s *strategy) Canonicalize(obj runtime.Object) {
	if s.hooks.canonicalize != nil {
		s.hooks.canonicalize(obj)
	}
}

func (s *strategy) AllowCreateOnUpdate() bool      { return s.kind.CreateOnUpdate }
func (s *strategy) AllowUnconditionalUpdate() bool { return !s.kind.VersionedUpdate }

func (s *strategy) DefaultGarbageCollectionPolicy(context.Context) rest.GarbageCollectionPolicy {
	switch s.kind.Collection {
	case apis.OrphanDependents:
		return rest.OrphanDependents
	case apis.Uncollected:
		return rest.Unsupported
	default:
		return rest.DeleteDependents
	}
}

// GetResetFields names what the main endpoint ignores, so that server-side apply does not own it there.
func (s *strategy) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	if !s.kind.Status {
		return nil
	}
	return s.everyVersion(fieldpath.MakePathOrDie("status"))
}

func (s *strategy) everyVersion(paths ...fieldpath.Path) map[fieldpath.APIVersion]*fieldpath.Set {
	out := map[fieldpath.APIVersion]*fieldpath.Set{}
	for _, gv := range s.kind.ServedIn() {
		out[fieldpath.APIVersion(gv.String())] = fieldpath.NewSet(paths...)
	}
	return out
}

// gracefulStrategy adds graceful deletion (pods).
type gracefulStrategy struct {
	*strategy
}

func (s gracefulStrategy) CheckGracefulDelete(ctx context.Context, obj runtime.Object, options *metav1.DeleteOptions) bool {
	return s.hooks.gracefulDelete(ctx, obj, options)
}

// statusStrategy is the status endpoint: it takes the status and, as upstream, the metadata that it does not name.
type statusStrategy struct {
	*strategy
}

func (s statusStrategy) PrepareForUpdate(ctx context.Context, obj, old runtime.Object) {
	if s.spec >= 0 {
		reflect.ValueOf(obj).Elem().Field(s.spec).Set(reflect.ValueOf(old).Elem().Field(s.spec))
	}
	now, before := accessor(obj), accessor(old)
	now.SetGeneration(before.GetGeneration())
	now.SetOwnerReferences(before.GetOwnerReferences())
	now.SetDeletionTimestamp(before.GetDeletionTimestamp())
	if s.kind.StatusKeepsLabels {
		now.SetLabels(before.GetLabels())
	}
	if s.hooks.updateStatus != nil {
		s.hooks.updateStatus(ctx, obj, old)
	}
}

func (s statusStrategy) ValidateUpdate(ctx context.Context, obj, old runtime.Object) field.ErrorList {
	return validateStatus(ctx, obj, old)
}

func (s statusStrategy) WarningsOnUpdate(context.Context, runtime.Object, runtime.Object) []string {
	return nil
}

func (s statusStrategy) AllowCreateOnUpdate() bool { return false }

func (s statusStrategy) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	paths := []fieldpath.Path{fieldpath.MakePathOrDie("spec")}
	if s.kind.StatusKeepsLabels {
		paths = append(paths, fieldpath.MakePathOrDie("metadata", "labels"))
	}
	return s.everyVersion(paths...)
}

// accessor is meta.Accessor for stored kinds, which all have metadata.
func accessor(obj runtime.Object) metav1.Object {
	m, err := meta.Accessor(obj)
	if err != nil {
		panic(err) // a kind without metadata in the table: caught by any test that touches it
	}
	return m
}
