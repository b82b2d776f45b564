package quota

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/quota/v1/generic"
)

// Names of what is counted besides the resources that k8s.io/api names.
const (
	serviceCount     corev1.ResourceName = "count/services"
	claimCount       corev1.ResourceName = "count/persistentvolumeclaims"
	deviceClaimCount corev1.ResourceName = "count/resourceclaims.resource.k8s.io"
	// classSuffix and deviceSuffix make a quota for the claims of one class: "<class>.<suffix>/<resource>".
	classSuffix  = ".storageclass.storage.k8s.io/"
	deviceSuffix = ".deviceclass.resource.k8s.io/devices"
)

func quantity(n int64) resource.Quantity { return *resource.NewQuantity(n, resource.DecimalSI) }

func newServices(list generic.ListFuncByNamespace) *evaluator {
	names := sets.New(corev1.ResourceServices, corev1.ResourceServicesNodePorts, corev1.ResourceServicesLoadBalancers, serviceCount)
	return &evaluator{
		resource: corev1.Resource("services"), handles: onWrite, counts: names.Has, list: list,
		usage: func(o runtime.Object) (corev1.ResourceList, error) {
			s, ok := o.(*corev1.Service)
			if !ok {
				return nil, wrongType("Service", o)
			}
			out := corev1.ResourceList{serviceCount: quantity(1), corev1.ResourceServices: quantity(1),
				corev1.ResourceServicesNodePorts: quantity(0), corev1.ResourceServicesLoadBalancers: quantity(0)}
			switch s.Spec.Type {
			case corev1.ServiceTypeNodePort:
				out[corev1.ResourceServicesNodePorts] = quantity(int64(len(s.Spec.Ports)))
			case corev1.ServiceTypeLoadBalancer:
				out[corev1.ResourceServicesLoadBalancers] = quantity(1)
				out[corev1.ResourceServicesNodePorts] = quantity(nodePorts(s))
			}
			return out, nil
		},
	}
}

// nodePorts counts the node ports that a load balancer takes: all, or those asked for where none are given by itself.
func nodePorts(s *corev1.Service) int64 {
	if s.Spec.AllocateLoadBalancerNodePorts == nil || *s.Spec.AllocateLoadBalancerNodePorts {
		return int64(len(s.Spec.Ports))
	}
	n := int64(0)
	for _, p := range s.Spec.Ports {
		if p.NodePort != 0 {
			n++
		}
	}
	return n
}

func newClaims(list generic.ListFuncByNamespace) *evaluator {
	names := sets.New(corev1.ResourcePersistentVolumeClaims, corev1.ResourceRequestsStorage, claimCount)
	return &evaluator{
		resource: corev1.Resource("persistentvolumeclaims"), handles: onWrite, list: list,
		counts: func(n corev1.ResourceName) bool {
			return names.Has(n) || strings.HasSuffix(string(n), classSuffix+string(corev1.ResourceRequestsStorage)) ||
				strings.HasSuffix(string(n), classSuffix+string(corev1.ResourcePersistentVolumeClaims))
		},
		usage: func(o runtime.Object) (corev1.ResourceList, error) {
			c, ok := o.(*corev1.PersistentVolumeClaim)
			if !ok {
				return nil, wrongType("PersistentVolumeClaim", o)
			}
			out := corev1.ResourceList{claimCount: quantity(1), corev1.ResourcePersistentVolumeClaims: quantity(1)}
			storage, asks := claimStorage(c)
			if asks {
				out[corev1.ResourceRequestsStorage] = storage
			}
			if class := claimClass(c); class != "" {
				out[corev1.ResourceName(class+classSuffix)+corev1.ResourcePersistentVolumeClaims] = quantity(1)
				if asks {
					out[corev1.ResourceName(class+classSuffix)+corev1.ResourceRequestsStorage] = storage
				}
			}
			return out, nil
		},
		scope: func(s corev1.ScopedResourceSelectorRequirement, o runtime.Object) (bool, error) {
			c, ok := o.(*corev1.PersistentVolumeClaim)
			if !ok {
				return false, wrongType("PersistentVolumeClaim", o)
			}
			if s.ScopeName != corev1.ResourceQuotaScopeVolumeAttributesClass {
				return false, nil
			}
			// A claim that moves from one class to another takes from both until it has.
			for _, name := range []*string{c.Spec.VolumeAttributesClassName, c.Status.CurrentVolumeAttributesClassName} {
				if name == nil {
					continue
				}
				if ok, err := selects(s, *name); ok || err != nil {
					return ok, err
				}
			}
			return false, nil
		},
	}
}

// claimStorage is what a claim asks for, or what it was given already where an expansion was taken back.
func claimStorage(c *corev1.PersistentVolumeClaim) (resource.Quantity, bool) {
	asked, ok := c.Spec.Resources.Requests[corev1.ResourceStorage]
	if given, has := c.Status.AllocatedResources[corev1.ResourceStorage]; has && given.Cmp(asked) > 0 {
		return given, true
	}
	return asked, ok
}

func claimClass(c *corev1.PersistentVolumeClaim) string {
	if name, ok := c.Annotations[corev1.BetaStorageClassAnnotation]; ok {
		return name
	}
	if c.Spec.StorageClassName == nil {
		return ""
	}
	return *c.Spec.StorageClassName
}

func newDeviceClaims(list generic.ListFuncByNamespace) *evaluator {
	return &evaluator{
		resource: resourcev1.Resource("resourceclaims"), handles: onWrite, list: list,
		counts: func(n corev1.ResourceName) bool {
			return n == deviceClaimCount || strings.HasSuffix(string(n), deviceSuffix)
		},
		usage: func(o runtime.Object) (corev1.ResourceList, error) {
			c, ok := o.(*resourcev1.ResourceClaim)
			if !ok {
				return nil, wrongType("ResourceClaim", o)
			}
			out := corev1.ResourceList{deviceClaimCount: quantity(1)}
			for _, r := range c.Spec.Devices.Requests {
				for class, n := range devicesOf(&r) {
					name := corev1.ResourceName(class + deviceSuffix)
					sum := out[name]
					sum.Add(quantity(n))
					out[name] = sum
				}
			}
			return out, nil
		},
	}
}

// devicesOf counts the devices that a request can take at most, by class. Of alternatives each class counts its largest;
// a request for all devices counts as many as one claim can hold.
func devicesOf(r *resourcev1.DeviceRequest) map[string]int64 {
	count := func(mode resourcev1.DeviceAllocationMode, n int64) int64 {
		if mode == resourcev1.DeviceAllocationModeAll {
			return resourcev1.AllocationResultsMaxSize
		}
		return n
	}
	out := map[string]int64{}
	if r.Exactly != nil {
		out[r.Exactly.DeviceClassName] = count(r.Exactly.AllocationMode, r.Exactly.Count)
	}
	for _, s := range r.FirstAvailable {
		out[s.DeviceClassName] = max(out[s.DeviceClassName], count(s.AllocationMode, s.Count))
	}
	return out
}
