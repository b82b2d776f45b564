package registry

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/handlers/fieldmanager"
	"k8s.io/apiserver/pkg/registry/rest"
)

// unstamped takes the kind off the old object again. Server-side apply converts the old object to its external version in
// place, which here is the same object: it leaves its kind on it. The library's check for an apply that changes nothing
// then sees a difference, and every such apply would be a write that only moves timestamps; so the check is made again.
type unstamped struct {
	rest.UpdatedObjectInfo
}

func (u unstamped) UpdatedObject(ctx context.Context, old runtime.Object) (runtime.Object, error) {
	obj, err := u.UpdatedObjectInfo.UpdatedObject(ctx, old)
	if err != nil || old == nil || obj == old {
		return obj, err
	}
	old.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	obj.GetObjectKind().SetGroupVersionKind(schema.GroupVersionKind{})
	return fieldmanager.IgnoreManagedFieldsTimestampsTransformer(ctx, obj, old)
}

// Update implements rest.Updater.
func (s *Store) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, create rest.ValidateObjectFunc, update rest.ValidateObjectUpdateFunc, forceAllowCreate bool, options *metav1.UpdateOptions) (runtime.Object, bool, error) {
	return s.Store.Update(ctx, name, unstamped{info}, create, update, forceAllowCreate, options)
}
