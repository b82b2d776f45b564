package podworker

import (
	"fmt"

	v1 "k8s.io/api/core/v1"

	"github.com/reevehq/reeve/agent/podworker/podstate"
)

// resize brings a running container to the resources that its pod was allocated: in place, or by a restart where its
// resizePolicy asks for one. It returns whether the container is to die.
func (p *planner) resize(c *v1.Container, cs *podstate.Container) bool {
	if cs.CreatedWith != nil && p.d.Pod.Spec.RestartPolicy != v1.RestartPolicyNever && restartsToResize(c, cs.CreatedWith) {
		p.a.Resizing = append(p.a.Resizing, c.Name)
		p.kill(cs, KillResize, p.specGrace(), fmt.Sprintf("Container %s resize requires restart", c.Name))
		return true
	}
	want, known := p.d.Figures[c.Name]
	if !known || cs.Resources == nil || cs.Resources.Same(want) {
		return false
	}
	p.a.Resizing = append(p.a.Resizing, c.Name)
	if p.o.ResizeBusy {
		return false
	}
	if t := p.o.RetryAt[opResize]; p.now.Before(t) {
		p.again(t)
		return false
	}
	p.a.Resize = append(p.a.Resize, c.Name)
	return false
}

// restartsToResize tells whether a resource that the container cannot take in while it runs differs from what it was
// created with.
func restartsToResize(c *v1.Container, was *v1.ResourceRequirements) bool {
	for _, policy := range c.ResizePolicy {
		if policy.RestartPolicy != v1.RestartContainer {
			continue
		}
		for _, pair := range [][2]v1.ResourceList{{c.Resources.Requests, was.Requests}, {c.Resources.Limits, was.Limits}} {
			now, before := pair[0][policy.ResourceName], pair[1][policy.ResourceName]
			if now.Cmp(before) != 0 {
				return true
			}
		}
	}
	return false
}
