package status

import (
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/reevehq/reeve/agent/container"
	"github.com/reevehq/reeve/agent/podworker/podstate"
)

// actual returns the resources that a container runs with: what it was allocated, but for what the runtime says otherwise.
// Memory requests are nowhere in a cgroup and are taken as allocated.
func actual(c *v1.Container, have *podstate.Resources) *v1.ResourceRequirements {
	out := &v1.ResourceRequirements{Requests: c.Resources.Requests, Limits: c.Resources.Limits}
	if have == nil {
		return out
	}
	set := func(list *v1.ResourceList, name v1.ResourceName, q *resource.Quantity) {
		l := list.DeepCopy()
		if l == nil {
			l = v1.ResourceList{}
		}
		if q == nil {
			delete(l, name)
		} else {
			l[name] = *q
		}
		*list = l
	}
	if asked := c.Resources.Limits.Memory().Value(); max(have.MemoryLimitBytes, 0) != asked {
		if have.MemoryLimitBytes > 0 {
			set(&out.Limits, v1.ResourceMemory, resource.NewQuantity(have.MemoryLimitBytes, resource.BinarySI))
		} else {
			set(&out.Limits, v1.ResourceMemory, nil)
		}
	}
	if asked := container.QuotaOf(c.Resources.Limits.Cpu().MilliValue()); max(have.CPUQuota, 0) != asked {
		if have.CPUQuota > 0 && have.CPUPeriod > 0 {
			set(&out.Limits, v1.ResourceCPU, resource.NewMilliQuantity(have.CPUQuota*1000/have.CPUPeriod, resource.DecimalSI))
		} else {
			set(&out.Limits, v1.ResourceCPU, nil)
		}
	}
	request, asked := c.Resources.Requests[v1.ResourceCPU]
	if !asked {
		return out // the shares then come from the limit
	}
	if have.CPUShares > 0 && have.CPUShares != container.SharesOf(request.MilliValue()) {
		set(&out.Requests, v1.ResourceCPU, resource.NewMilliQuantity((have.CPUShares*1000+1023)/1024, resource.DecimalSI))
	}
	return out
}
