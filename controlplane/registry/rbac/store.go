package rbac

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/rest"

	"github.com/reevehq/reeve/controlplane/registry"
)

// Store is a registry store of roles or bindings whose writes are guarded; everything else passes through.
type Store struct {
	*registry.Store
	guard *Guard
}

var _ rest.StandardStorage = (*Store)(nil)

// Wrap guards the store of roles, clusterroles, rolebindings or clusterrolebindings.
func (g *Guard) Wrap(store *registry.Store) *Store { return &Store{store, g} }

func (s *Store) Create(ctx context.Context, obj runtime.Object, validate rest.ValidateObjectFunc, options *metav1.CreateOptions) (runtime.Object, error) {
	return s.guard.Create(ctx, s.Store, obj, validate, options)
}

func (s *Store) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, create rest.ValidateObjectFunc, update rest.ValidateObjectUpdateFunc, forceAllowCreate bool, options *metav1.UpdateOptions) (runtime.Object, bool, error) {
	return s.guard.Update(ctx, s.Store, name, info, create, update, forceAllowCreate, options)
}
