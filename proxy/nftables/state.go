package nftables

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/reevehq/reeve/proxy/plan"
)

// state is what the table holds of Services. It keeps the plans themselves, which the caller does not change, and makes
// their elements again when it needs them.
type state struct {
	plans    map[plan.Name]*plan.Planned
	owners   map[frontend]plan.Name
	waiting  map[frontend][]plan.Name // claim an owned frontend too, sorted
	hairpins map[netip.Addr]int       // frontends that an endpoint serves
	uses     map[object]int           // elements that need a numbered object
	elements int
	sticky   int // frontends with affinity
}

// object is a numbered map or chain.
type object struct {
	isMap bool
	name  string
}

func newState() *state {
	return &state{
		plans: map[plan.Name]*plan.Planned{}, owners: map[frontend]plan.Name{}, waiting: map[frontend][]plan.Name{},
		hairpins: map[netip.Addr]int{}, uses: map[object]int{},
	}
}

// slot is where an element stands.
type slot struct{ in, key string }

// content is what stands there.
type content struct{ value, comment string }

// delta leads from one state to the next.
type delta struct {
	remove, add     map[slot]content
	newObjects      []object
	unusedObjects   []object
	forgetsAffinity bool // a remembered endpoint may be none any more
}

func (d *delta) empty() bool {
	return len(d.remove)+len(d.add)+len(d.newObjects)+len(d.unusedObjects) == 0
}

// change takes in Services' new plans, nil for one that is gone, and answers what that changes of the table.
func (s *state) change(c Config, changes map[plan.Name]*plan.Planned) *delta {
	// Every frontend that a changed Service had or gets, with its owner's group before.
	before, after := map[frontend]*group{}, map[frontend]*group{}
	stale, fresh := map[plan.Name][]group{}, map[plan.Name][]group{}
	for name, p := range changes {
		stale[name], fresh[name] = c.render(s.plans[name]), c.render(p)
	}
	for _, rendered := range []map[plan.Name][]group{stale, fresh} {
		for _, groups := range rendered {
			for i := range groups {
				front := groups[i].front
				after[front] = nil
				if owner, owned := s.owners[front]; owned && before[front] == nil {
					g, isRendered := stale[owner]
					before[front] = c.groupAt(front, s.plans[owner], g, isRendered)
				}
			}
		}
	}
	for name := range changes {
		for i := range stale[name] {
			s.disclaim(stale[name][i].front, name)
		}
	}
	for name := range changes {
		for i := range fresh[name] {
			s.claim(fresh[name][i].front, name)
		}
	}
	for name, p := range changes {
		if delete(s.plans, name); p != nil {
			s.plans[name] = p
		}
	}
	for front := range after {
		if owner, owned := s.owners[front]; owned {
			groups, isFresh := fresh[owner]
			after[front] = c.groupAt(front, s.plans[owner], groups, isFresh)
		}
	}
	return s.replace(before, after)
}

// groupAt finds a Service's group at a frontend.
func (c Config) groupAt(front frontend, p *plan.Planned, rendered []group, isRendered bool) *group {
	if !isRendered {
		rendered = c.render(p)
	}
	if i := slices.IndexFunc(rendered, func(g group) bool { return g.front == front }); i >= 0 {
		return &rendered[i]
	}
	return nil
}

func compareNames(a, b plan.Name) int {
	if c := strings.Compare(a.Namespace, b.Namespace); c != 0 {
		return c
	}
	return strings.Compare(a.Name, b.Name)
}

func (s *state) claim(front frontend, name plan.Name) {
	owner, owned := s.owners[front]
	switch {
	case !owned:
		s.owners[front] = name
		return
	case owner == name:
		return
	case compareNames(name, owner) < 0:
		s.owners[front], name = name, owner
	}
	w := s.waiting[front]
	if at, found := slices.BinarySearchFunc(w, name, compareNames); !found {
		s.waiting[front] = slices.Insert(w, at, name)
	}
}

func (s *state) disclaim(front frontend, name plan.Name) {
	w := s.waiting[front]
	if s.owners[front] != name {
		if at, found := slices.BinarySearchFunc(w, name, compareNames); found {
			w = slices.Delete(w, at, at+1)
		}
	} else if delete(s.owners, front); len(w) > 0 {
		s.owners[front], w = w[0], w[1:]
	}
	if s.waiting[front] = w; len(w) == 0 {
		delete(s.waiting, front)
	}
}

// replace counts the groups before out and the groups after in.
func (s *state) replace(before, after map[frontend]*group) *delta {
	d := &delta{remove: map[slot]content{}, add: map[slot]content{}}
	hairpins := map[netip.Addr]int{}
	uses := map[object]int{}
	count := func(g *group, by int, to map[slot]content) {
		for _, e := range g.elements {
			to[slot{e.in, e.key}] = content{e.value, e.comment}
			for _, o := range needs(e) {
				uses[o] += by
			}
		}
		for i, e := range g.endpoints {
			if i == 0 || g.endpoints[i-1].Addr() != e.Addr() {
				hairpins[e.Addr()] += by
			}
		}
		if g.sticky {
			s.sticky += by
		}
	}
	for front, g := range before {
		if g == nil {
			continue
		}
		count(g, -1, d.remove)
		if g.sticky && loses(g, after[front]) {
			d.forgetsAffinity = true
		}
	}
	for _, g := range after {
		if g != nil {
			count(g, 1, d.add)
		}
	}
	for addr, by := range hairpins {
		had := s.hairpins[addr]
		if s.hairpins[addr] += by; s.hairpins[addr] == 0 {
			delete(s.hairpins, addr)
		}
		at := slot{hairpinSet, addr.String() + " . " + addr.String()}
		switch {
		case had == 0 && by > 0:
			d.add[at] = content{}
		case had > 0 && had+by == 0:
			d.remove[at] = content{}
		}
	}
	for o, by := range uses {
		had := s.uses[o]
		if s.uses[o] += by; s.uses[o] == 0 {
			delete(s.uses, o)
		}
		switch {
		case had == 0 && by > 0:
			d.newObjects = append(d.newObjects, o)
		case had > 0 && had+by == 0:
			d.unusedObjects = append(d.unusedObjects, o)
		}
	}
	for at, was := range d.remove {
		if is, still := d.add[at]; still && is == was {
			delete(d.remove, at)
			delete(d.add, at)
		}
	}
	s.elements += len(d.add) - len(d.remove)
	return d
}

// loses reports that a client of g may be remembered to an endpoint that after does not have.
func loses(g, after *group) bool {
	if after == nil || !after.sticky {
		return true
	}
	return slices.ContainsFunc(g.endpoints, func(e netip.AddrPort) bool { return !slices.Contains(after.endpoints, e) })
}

// needs are the numbered objects without which an element cannot be.
func needs(e element) []object {
	var out []object
	if _, _, _, numbered := split(e.in); numbered {
		out = append(out, object{true, e.in})
	}
	if to, is := strings.CutPrefix(e.value, "goto "); is {
		if _, _, _, numbered := split(to); numbered {
			out = append(out, object{false, to})
		}
	}
	return out
}
