package podworker

import (
	v1 "k8s.io/api/core/v1"

	"github.com/reevehq/reeve/agent/podworker/podspec"
	"github.com/reevehq/reeve/agent/podworker/podstate"
)

// initialised walks the init containers. It returns whether the app containers may run; with act it asks for what is
// missing.
func (p *planner) initialised(act bool) bool {
	spec := &p.d.Pod.Spec
	if len(spec.InitContainers) == 0 {
		return true
	}
	for i := range spec.Containers {
		if p.o.State.LatestIn(spec.Containers[i].Name, p.sandbox) != nil {
			// Once an app container was made in this sandbox, initialisation is behind us, whatever was collected since.
			if act {
				p.sidecars(len(spec.InitContainers))
			}
			return true
		}
	}
	// reached is the last init container that was ever made in this sandbox: those before it are behind us.
	reached := 0
	for i := range spec.InitContainers {
		if p.o.State.LatestIn(spec.InitContainers[i].Name, p.sandbox) != nil {
			reached = i
		}
	}
	if act {
		p.sidecars(reached)
	}
	for i := reached; i < len(spec.InitContainers); i++ {
		c := &spec.InitContainers[i]
		cs := p.o.State.LatestIn(c.Name, p.sandbox)
		ok := false
		if podspec.IsSidecar(c) {
			ok = p.sidecar(c, cs, act)
		} else {
			ok = p.init(c, cs, act)
		}
		if !ok {
			return false
		}
	}
	return true
}

// sidecars keeps the restartable init containers before index n running.
func (p *planner) sidecars(n int) {
	for i := range p.d.Pod.Spec.InitContainers[:n] {
		if c := &p.d.Pod.Spec.InitContainers[i]; podspec.IsSidecar(c) {
			p.sidecar(c, p.o.State.LatestIn(c.Name, p.sandbox), true)
		}
	}
}

// sidecar returns whether the sidecar has started, so that the next in line may.
func (p *planner) sidecar(c *v1.Container, cs *podstate.Container, act bool) bool {
	if cs != nil && cs.State == podstate.Running {
		if act && p.mustDie(c, cs) {
			return false
		}
		return p.o.Work[c.Name] == Idle && p.o.Probes[cs.ID].Started
	}
	if act {
		p.want(c, cs)
	}
	return false
}

// init returns whether the init container has succeeded.
func (p *planner) init(c *v1.Container, cs *podstate.Container, act bool) bool {
	switch {
	case cs == nil || cs.State == podstate.Created:
		if act {
			p.want(c, cs)
		}
	case cs.State == podstate.Running:
	case cs.ExitCode == 0:
		return p.o.Work[c.Name] == Idle
	case Restarts(p.d.Pod, c, podspec.KindInit, cs):
		if act {
			p.want(c, cs)
		}
	case act && p.o.Work[c.Name] == Idle:
		p.a.Done = v1.PodFailed
	}
	return false
}
