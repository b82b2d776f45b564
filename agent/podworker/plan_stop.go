package podworker

import (
	"fmt"
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/reevehq/reeve/agent/podworker/podspec"
	"github.com/reevehq/reeve/agent/podworker/podstate"
)

// stop plans the end: app and init containers at once, then sidecars one by one against the order of the list, then the
// sandboxes. When the grace has run out everything that is left goes at once.
func (p *planner) stop() {
	deadline := p.d.Stop.Deadline()
	grace := max(deadline.Sub(p.now), minGrace).Round(time.Millisecond)
	late := !p.now.Before(deadline)

	running := p.o.State.Running()
	ordinary := false
	sidecars := map[string]*podstate.Container{}
	for _, c := range running {
		if spec := p.spec(c.Name); spec != nil && podspec.IsSidecar(spec) && !late {
			if _, dup := sidecars[c.Name]; !dup {
				sidecars[c.Name] = c
				continue
			}
		}
		ordinary = true
		p.kill(c, KillStop, grace, fmt.Sprintf("Stopping container %s", c.Name))
	}
	if len(sidecars) > 0 {
		if !ordinary && !p.othersBusy(sidecars) {
			list := p.d.Pod.Spec.InitContainers
			for i := len(list) - 1; i >= 0; i-- {
				if c := sidecars[list[i].Name]; c != nil {
					p.kill(c, KillStop, grace, fmt.Sprintf("Stopping container %s", c.Name))
					break
				}
			}
		}
		p.again(deadline)
	}
	if len(running) > 0 || p.o.SandboxBusy || len(p.a.Kill) > 0 {
		return
	}
	for _, w := range p.o.Work {
		if w != Idle {
			return
		}
	}
	if p.now.Before(p.o.SandboxRetryAt) && len(p.o.State.Sandboxes) > 0 {
		p.again(p.o.SandboxRetryAt)
		for _, s := range p.o.State.Sandboxes {
			if !p.o.SandboxesDown[s.ID] {
				return
			}
		}
	}
	p.a.Torn = true
	for _, s := range p.o.State.Sandboxes {
		if !p.o.SandboxesDown[s.ID] {
			p.a.StopSandboxes = append(p.a.StopSandboxes, s.ID)
			p.a.Torn = false
		}
	}
}

// othersBusy tells whether anything but the sidecars is still being worked on.
func (p *planner) othersBusy(sidecars map[string]*podstate.Container) bool {
	for name, w := range p.o.Work {
		if w != Idle && sidecars[name] == nil {
			return true
		}
	}
	return false
}

func (p *planner) spec(name string) *v1.Container {
	c, _ := podspec.Find(&p.d.Pod.Spec, name)
	return c
}
