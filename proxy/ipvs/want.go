package ipvs

import (
	"net/netip"
	"slices"

	"github.com/reevehq/reeve/proxy/plan"
)

// want is what all Services together want. Two that want one frontend: the first by name has it.
type want struct {
	services map[plan.Name]*rendered
	owners   map[frontend][]owner // sorted by name
	hairpins map[hairpin]int
	addrs    map[netip.Addr]int // that are to be on the device, by how many frontends
	health   map[uint16]int     // ports of health checks
}

type owner struct {
	name plan.Name
	*front
}

func newWant() *want {
	return &want{
		services: map[plan.Name]*rendered{}, owners: map[frontend][]owner{}, hairpins: map[hairpin]int{}, addrs: map[netip.Addr]int{},
		health: map[uint16]int{},
	}
}

// touched is what changes may have changed, with whether it was wanted before.
type touched struct {
	fronts   map[frontend]struct{}
	hairpins map[hairpin]bool
	addrs    map[netip.Addr]bool
	health   map[uint16]bool
}

func newTouched() *touched {
	return &touched{fronts: map[frontend]struct{}{}, hairpins: map[hairpin]bool{}, addrs: map[netip.Addr]bool{}, health: map[uint16]bool{}}
}

func count[K comparable](counts map[K]int, before map[K]bool, key K, by int) {
	n := counts[key]
	if before != nil {
		if _, seen := before[key]; !seen {
			before[key] = n > 0
		}
	}
	if n += by; n == 0 {
		delete(counts, key)
	} else {
		counts[key] = n
	}
}

// set replaces what a Service wants; nil: nothing any more. With t, what it touches is noted.
func (w *want) set(name plan.Name, r *rendered, t *touched) {
	if old := w.services[name]; old != nil {
		delete(w.services, name)
		w.put(name, old, t, -1)
	}
	if r != nil {
		w.services[name] = r
		w.put(name, r, t, 1)
	}
}

func (w *want) put(name plan.Name, r *rendered, t *touched, by int) {
	if t == nil {
		t = &touched{}
	}
	for at, f := range r.fronts {
		if t.fronts != nil {
			t.fronts[at] = struct{}{}
		}
		owners := w.owners[at]
		i, _ := slices.BinarySearchFunc(owners, name, func(o owner, n plan.Name) int { return compareNames(o.name, n) })
		if by > 0 {
			w.owners[at] = slices.Insert(owners, i, owner{name, f})
		} else if owners = slices.Delete(owners, i, i+1); len(owners) == 0 {
			delete(w.owners, at)
		} else {
			w.owners[at] = owners
		}
		if f.placed {
			count(w.addrs, t.addrs, at.addr, by)
		}
	}
	for _, h := range r.hairpins {
		count(w.hairpins, t.hairpins, h, by)
	}
	if r.healthPort != 0 {
		count(w.health, t.health, r.healthPort, by)
	}
}

func compareNames(a, b plan.Name) int {
	switch {
	case a == b:
		return 0
	case a.Namespace < b.Namespace || (a.Namespace == b.Namespace && a.Name < b.Name):
		return -1
	}
	return 1
}

// front is what is wanted of a frontend, nil for nothing.
func (w *want) front(at frontend) *front {
	if o := w.owners[at]; len(o) > 0 {
		return o[0].front
	}
	return nil
}
