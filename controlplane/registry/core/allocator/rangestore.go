package allocator

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/storage"
)

// nodePortsKey is where upstream keeps the allocation below the store's prefix.
const nodePortsKey = "/ranges/servicenodeports"

// EtcdRange is the RangeStore in etcd.
type EtcdRange struct {
	storage storage.Interface
	destroy func()
}

var _ RangeStore = (*EtcdRange)(nil)

// NewEtcdRange opens the node-port allocation with the storage options of the core group. Destroy it at the end.
func NewEtcdRange(options generic.RESTOptionsGetter) (*EtcdRange, error) {
	resource := corev1.Resource("servicenodeportallocations")
	o, err := options.GetRESTOptions(resource, &corev1.RangeAllocation{})
	if err != nil {
		return nil, fmt.Errorf("storage options of %s: %w", resource, err)
	}
	s, destroy, err := generic.NewRawStorage(o.StorageConfig, func() runtime.Object { return &corev1.RangeAllocation{} }, nil, nodePortsKey)
	if err != nil {
		return nil, fmt.Errorf("open storage of %s: %w", resource, err)
	}
	return &EtcdRange{s, destroy}, nil
}

func (e *EtcdRange) Get(ctx context.Context) (*corev1.RangeAllocation, error) {
	a := &corev1.RangeAllocation{}
	if err := e.storage.Get(ctx, nodePortsKey, storage.GetOptions{IgnoreNotFound: true}, a); err != nil {
		return nil, err
	}
	return a, nil
}

func (e *EtcdRange) Update(ctx context.Context, change func(*corev1.RangeAllocation) error) error {
	return e.storage.GuaranteedUpdate(ctx, nodePortsKey, &corev1.RangeAllocation{}, true, nil,
		storage.SimpleUpdate(func(obj runtime.Object) (runtime.Object, error) {
			a, ok := obj.(*corev1.RangeAllocation)
			if !ok {
				return nil, fmt.Errorf("node-port allocation is a %T", obj)
			}
			if err := change(a); err != nil {
				return nil, err
			}
			return a, nil
		}), nil)
}

// Destroy closes the storage.
func (e *EtcdRange) Destroy() { e.destroy() }
