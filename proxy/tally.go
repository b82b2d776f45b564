package proxy

import "github.com/reevehq/reeve/proxy/plan"

// tally keeps, change by change, what the loop would otherwise count anew over all Services each time.
type tally struct {
	// checked are the Services with a health check node port.
	checked map[plan.Name]*plan.Planned
	// noLocalInternal and noLocalExternal count ports with a Local policy and endpoints, but none on this node.
	noLocalInternal, noLocalExternal int
}

func newTally() *tally { return &tally{checked: map[plan.Name]*plan.Planned{}} }

// replace takes one Service's plan in for another; nil is none.
func (t *tally) replace(name plan.Name, before, after *plan.Planned) {
	t.count(before, -1)
	t.count(after, 1)
	if delete(t.checked, name); after != nil && after.Health != nil {
		t.checked[name] = after
	}
}

func (t *tally) count(p *plan.Planned, by int) {
	if p == nil {
		return
	}
	for i := range p.Ports {
		q := &p.Ports[i]
		if q.InternalLocal && q.Internal == plan.Drop {
			t.noLocalInternal += by
		}
		if q.ExternalLocal && q.External == plan.Drop && q.HasExternal() {
			t.noLocalExternal += by
		}
	}
}

// healthPorts are the health check node ports of all Services.
func (t *tally) healthPorts() []uint16 {
	var out []uint16
	for _, p := range t.checked {
		out = append(out, p.Health.NodePort)
	}
	return out
}
