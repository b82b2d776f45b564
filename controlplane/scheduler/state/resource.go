package state

import (
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"
	"k8s.io/kube-scheduler/framework"
)

// What scoring assumes of a container without a request, so that pods that ask for nothing still spread: the values
// upstream's scheduler uses.
const (
	DefaultMilliCPURequest int64 = 100
	DefaultMemoryRequest   int64 = 200 * 1024 * 1024
)

// Resource is an amount of node resources. CPU in thousandths, memory and ephemeral storage in bytes.
type Resource struct {
	MilliCPU         int64
	Memory           int64
	EphemeralStorage int64
	AllowedPodNumber int
	Scalar           map[v1.ResourceName]int64
}

var _ framework.Resource = (*Resource)(nil)

// NewResource reads a resource list; "pods" becomes AllowedPodNumber.
func NewResource(rl v1.ResourceList) *Resource {
	r := &Resource{}
	r.Add(rl)
	return r
}

func (r *Resource) GetMilliCPU() int64         { return r.MilliCPU }
func (r *Resource) GetMemory() int64           { return r.Memory }
func (r *Resource) GetEphemeralStorage() int64 { return r.EphemeralStorage }
func (r *Resource) GetAllowedPodNumber() int   { return r.AllowedPodNumber }

// GetScalarResources returns the extended resources and hugepages; callers must not change it.
func (r *Resource) GetScalarResources() map[v1.ResourceName]int64 { return r.Scalar }

// Add adds every entry of the list.
func (r *Resource) Add(rl v1.ResourceList) {
	for name, q := range rl {
		switch name {
		case v1.ResourceCPU:
			r.MilliCPU += q.MilliValue()
		case v1.ResourceMemory:
			r.Memory += q.Value()
		case v1.ResourceEphemeralStorage:
			r.EphemeralStorage += q.Value()
		case v1.ResourcePods:
			r.AllowedPodNumber += int(q.Value())
		default:
			r.addScalar(name, q.Value())
		}
	}
}

func (r *Resource) addScalar(name v1.ResourceName, n int64) {
	if r.Scalar == nil {
		r.Scalar = map[v1.ResourceName]int64{}
	}
	r.Scalar[name] += n
}

// SetMaxResource raises each amount to at least that of the list.
func (r *Resource) SetMaxResource(rl v1.ResourceList) {
	for name, q := range rl {
		switch name {
		case v1.ResourceCPU:
			r.MilliCPU = max(r.MilliCPU, q.MilliValue())
		case v1.ResourceMemory:
			r.Memory = max(r.Memory, q.Value())
		case v1.ResourceEphemeralStorage:
			r.EphemeralStorage = max(r.EphemeralStorage, q.Value())
		case v1.ResourcePods:
			r.AllowedPodNumber = max(r.AllowedPodNumber, int(q.Value()))
		default:
			if r.Scalar[name] < q.Value() {
				r.addScalar(name, q.Value()-r.Scalar[name])
			}
		}
	}
}

// change adds (sign 1) or takes away (sign -1) another amount.
func (r *Resource) change(o *Resource, sign int64) {
	r.MilliCPU += sign * o.MilliCPU
	r.Memory += sign * o.Memory
	r.EphemeralStorage += sign * o.EphemeralStorage
	for name, n := range o.Scalar {
		r.addScalar(name, sign*n)
	}
}

// Clone returns a deep copy.
func (r *Resource) Clone() *Resource {
	c := *r
	if r.Scalar != nil {
		c.Scalar = make(map[v1.ResourceName]int64, len(r.Scalar))
		for k, v := range r.Scalar {
			c.Scalar[k] = v
		}
	}
	return &c
}

var nonMissing = v1.ResourceList{
	v1.ResourceCPU:    *resource.NewMilliQuantity(DefaultMilliCPURequest, resource.DecimalSI),
	v1.ResourceMemory: *resource.NewQuantity(DefaultMemoryRequest, resource.BinarySI),
}

// PodRequest is what a pod takes from its node: containers, init containers and sidecars by their rules, pod-level
// requests and overhead; where a resize is under way, the larger of wanted and allocated.
func PodRequest(pod *v1.Pod) *Resource {
	return NewResource(resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{UseStatusResources: true}))
}

func calculate(pod *v1.Pod) framework.PodResource {
	res := PodRequest(pod)
	non0 := resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{
		UseStatusResources: true, NonMissingContainerRequests: nonMissing,
	})
	return framework.PodResource{Resource: res, Non0CPU: non0.Cpu().MilliValue(), Non0Mem: non0.Memory().Value()}
}
