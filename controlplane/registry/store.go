package registry

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/generic"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/client-go/tools/cache"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/reevehq/reeve/controlplane/apis"
	"github.com/reevehq/reeve/controlplane/registry/table"
)

// Store is the storage of one kind's main endpoint: every verb, discovery's short names and categories, and tables.
type Store struct {
	*genericregistry.Store
	kind *apis.Kind
}

var (
	_ rest.StandardStorage    = (*Store)(nil)
	_ rest.ShortNamesProvider = (*Store)(nil)
	_ rest.CategoriesProvider = (*Store)(nil)
)

// ShortNames implements rest.ShortNamesProvider.
func (s *Store) ShortNames() []string { return s.kind.ShortNames }

// Categories implements rest.CategoriesProvider.
func (s *Store) Categories() []string { return s.kind.Categories }

// NewStore builds the storage of kind with its descriptor's strategy. The caller may wrap hooks (BeginCreate and so
// on) on the embedded generic store before it serves.
func NewStore(kind *apis.Kind, options generic.RESTOptionsGetter) (*Store, error) {
	s := newStrategy(kind)
	store := &genericregistry.Store{
		NewFunc:                   kind.New,
		NewListFunc:               kind.NewList,
		DefaultQualifiedResource:  kind.GroupResource(),
		SingularQualifiedResource: schema.GroupResource{Group: kind.Group, Resource: kind.Singular},
		CreateStrategy:            s,
		UpdateStrategy:            s,
		DeleteStrategy:            s,
		ResetFieldsStrategy:       s,
		TableConvertor:            table.For(kind),
		ReturnDeletedObject:       s.hooks.returnDeleted,
		TTLFunc:                   s.hooks.ttl,
	}
	if s.hooks.gracefulDelete != nil {
		store.DeleteStrategy = gracefulStrategy{s}
	}
	attrs := attrsOf(kind)
	store.PredicateFunc = func(label labels.Selector, field fields.Selector) storage.SelectionPredicate {
		return storage.SelectionPredicate{Label: label, Field: field, GetAttrs: attrs, IndexFields: kind.Indexed}
	}
	triggers, indexers := indexesOf(kind)
	if err := store.CompleteWithOptions(&generic.StoreOptions{
		RESTOptions: options, AttrFunc: attrs, TriggerFunc: triggers, Indexers: indexers,
	}); err != nil {
		return nil, fmt.Errorf("build store of %s: %w", kind.GroupResource(), err)
	}
	return &Store{store, kind}, nil
}

func attrsOf(kind *apis.Kind) storage.AttrFunc {
	return func(obj runtime.Object) (labels.Set, fields.Set, error) {
		m := accessor(obj)
		set := fields.Set{}
		if kind.Fields != nil {
			set = kind.Fields(obj)
		}
		set["metadata.name"] = m.GetName()
		if kind.Namespaced() {
			set["metadata.namespace"] = m.GetNamespace()
		}
		return m.GetLabels(), set, nil
	}
}

// indexesOf lets the watch cache dispatch and list by the kind's indexed fields without visiting every object: each
// node watches only its own pods.
func indexesOf(kind *apis.Kind) (storage.IndexerFuncs, *cache.Indexers) {
	if len(kind.Indexed) == 0 {
		return nil, nil
	}
	triggers, indexers := storage.IndexerFuncs{}, cache.Indexers{}
	for _, name := range kind.Indexed {
		value := func(obj runtime.Object) string { return kind.Fields(obj)[name] }
		if name == "spec.nodeName" {
			value = func(obj runtime.Object) string { return obj.(*corev1.Pod).Spec.NodeName }
		}
		triggers[name] = value
		indexers[storage.FieldIndex(name)] = func(obj any) ([]string, error) {
			return []string{value(obj.(runtime.Object))}, nil
		}
	}
	return triggers, &indexers
}

// Part is a subresource that reads and writes the same stored object through another strategy: status, finalize,
// approval, resize, ephemeralcontainers.
type Part struct {
	store *genericregistry.Store
}

var (
	_ rest.Patcher             = (*Part)(nil)
	_ rest.ResetFieldsStrategy = (*Part)(nil)
)

// newPart gives the subresource of store with the update strategy s.
func newPart(store *Store, s interface {
	rest.RESTUpdateStrategy
	rest.ResetFieldsStrategy
}) *Part {
	copied := *store.Store
	copied.UpdateStrategy = s
	copied.ResetFieldsStrategy = s
	copied.BeginUpdate, copied.AfterUpdate = nil, nil
	return &Part{&copied}
}

// NewStatus gives the status subresource of store.
func NewStatus(store *Store) *Part {
	return newPart(store, statusStrategy{newStrategy(store.kind)})
}

func (p *Part) New() runtime.Object { return p.store.New() }

// Destroy does nothing: the main endpoint owns the storage.
func (p *Part) Destroy() {}

func (p *Part) Get(ctx context.Context, name string, options *metav1.GetOptions) (runtime.Object, error) {
	return p.store.Get(ctx, name, options)
}

func (p *Part) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, create rest.ValidateObjectFunc, update rest.ValidateObjectUpdateFunc, _ bool, options *metav1.UpdateOptions) (runtime.Object, bool, error) {
	// A subresource never creates, whatever the parent allows.
	return p.store.Update(ctx, name, unstamped{info}, create, update, false, options)
}

func (p *Part) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return p.store.GetResetFields()
}

func (p *Part) ConvertToTable(ctx context.Context, object, options runtime.Object) (*metav1.Table, error) {
	return p.store.ConvertToTable(ctx, object, options)
}
