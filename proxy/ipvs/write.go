package ipvs

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/reevehq/reeve/internal/xtables"
	"github.com/reevehq/reeve/proxy/plan"
)

// writes is what an Apply does.
type writes struct {
	fronts   []frontend
	addrs    []netip.Addr
	add, del [setCount][]entry

	linesAdd, linesDel []line
	full               bool              // all chains are looked at, with the lines to add only
	saved              map[string][]byte // each table, if full
	haveAddrs          []entry
}

// compare notes the difference between a set's entries and those wanted.
func (w *writes) compare(s setID, have []entry, size int, wanted func(func(entry))) {
	left := make(map[entry]struct{}, len(have))
	for _, e := range have {
		left[e] = struct{}{}
	}
	w.add[s] = make([]entry, 0, max(0, size-len(have)))
	wanted(func(e entry) {
		if _, ok := left[e]; ok {
			delete(left, e)
		} else {
			w.add[s] = append(w.add[s], e)
		}
	})
	for e := range left {
		w.del[s] = append(w.del[s], e)
	}
}

// task is what becomes of one frontend.
type task struct {
	at   frontend
	step step
	next *known
}

// write does it in an order in which no packet meets half of a new frontend: what judges packets, then what answers
// them, then the address; and backwards for what goes.
func (b *Backend) write(ctx context.Context, w *writes) error {
	tasks := b.tasks(w)
	place, displace := b.moves(w)
	for s := setCount; s > 0; s-- { // who may pass before who is stopped
		if err := b.k.AddEntries(b.cfg, s-1, w.add[s-1]); err != nil {
			return err
		}
	}
	if err := b.writeRules(ctx, w); err != nil {
		return err
	}
	for _, t := range tasks {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := b.writeFront(t.at, t.step, t.next); err != nil {
			return err
		}
	}
	for _, a := range place {
		if err := b.k.AddRoute(a); err != nil {
			return err
		}
		b.routes[a] = struct{}{}
	}
	for _, a := range displace {
		if err := b.k.DeleteRoute(a); err != nil {
			return err
		}
		delete(b.routes, a)
	}
	for s := setID(0); s < setCount; s++ {
		if err := b.k.DeleteEntries(b.cfg, s, w.del[s]); err != nil {
			return err
		}
	}
	if b.ranged == 0 && b.guarded {
		b.guarded = false
		return b.k.Restore(ctx, b.cfg.guardInput(false))
	}
	return nil
}

// tasks are the steps of the frontends, noted as made, with what the sets and rules need for them in w.
func (b *Backend) tasks(w *writes) []task {
	tasks := make([]task, 0, len(w.fronts))
	for _, at := range w.fronts {
		s, next := b.cfg.step(at, b.want.front(at), b.known[at])
		b.know(at, next)
		if s.empty() {
			continue
		}
		tasks = append(tasks, task{at, s, next})
		for id := setID(0); id < frontendSets; id++ {
			if s.setsAdd.has(id) {
				w.add[id] = append(w.add[id], entry{frontend: at})
			}
			if s.setsDel.has(id) {
				w.del[id] = append(w.del[id], entry{frontend: at})
			}
		}
		for _, p := range s.allowAdd {
			w.add[setAllow] = append(w.add[setAllow], entry{at, p})
		}
		for _, p := range s.allowDel {
			w.del[setAllow] = append(w.del[setAllow], entry{at, p})
		}
		if s.detourAdd.IsValid() {
			w.linesAdd = append(w.linesAdd, b.cfg.detourLine(at, s.detourAdd))
		}
		if s.detourDel.IsValid() {
			w.linesDel = append(w.linesDel, b.cfg.detourLine(at, s.detourDel))
		}
	}
	return tasks
}

// moves are the addresses that are to come and to go; their set is in w.
func (b *Backend) moves(w *writes) (place, displace []netip.Addr) {
	for _, a := range w.addrs {
		_, has := b.routes[a]
		if want := b.needed(a); want && !has {
			place = append(place, a)
		} else if has && !want {
			displace = append(displace, a)
		}
	}
	slices.SortFunc(place, netip.Addr.Compare)
	if w.full {
		w.compare(setAddresses, w.haveAddrs, len(w.addrs), func(yield func(entry)) {
			for _, a := range w.addrs {
				if b.needed(a) {
					yield(addressEntry(a))
				}
			}
		})
	} else {
		for _, a := range place {
			w.add[setAddresses] = append(w.add[setAddresses], addressEntry(a))
		}
		for _, a := range displace {
			w.del[setAddresses] = append(w.del[setAddresses], addressEntry(a))
		}
	}
	return place, displace
}

// writeRules writes the rules, and the guard where that is to come.
func (b *Backend) writeRules(ctx context.Context, w *writes) error {
	rules := linesInput(w.linesAdd, w.linesDel)
	if guard := b.cfg.guard(); w.full {
		rules = b.cfg.rulesInput(w.linesAdd, w.saved)
		b.guarded = xtables.ParseSave(w.saved[guard.Table]).Rules[guard.Chain][guard.Rule] > 0
	}
	if b.ranged > 0 && !b.guarded {
		rules = append(rules, b.cfg.guardInput(true)...)
		b.guarded = true
	}
	if len(rules) == 0 {
		return nil
	}
	return b.k.Restore(ctx, rules)
}

// know notes what the kernel has of a frontend after a step.
func (b *Backend) know(at frontend, k *known) {
	_, drained := b.draining[at]
	switch drains := k != nil && k.draining(); {
	case drains && !drained:
		b.draining[at] = struct{}{}
		count(b.awaited, nil, at.addr, 1)
	case drained && !drains:
		delete(b.draining, at)
		count(b.awaited, nil, at.addr, -1)
	}
	if b.known[at].hasRanges() {
		b.ranged--
	}
	if k.hasRanges() {
		b.ranged++
	}
	if delete(b.known, at); k != nil {
		b.known[at] = k
	}
}

// needed reports that an address is wanted, or that connections to it are being waited for.
func (b *Backend) needed(a netip.Addr) bool {
	return b.want.addrs[a] > 0 || (!b.host.own[a] && b.awaited[a] > 0)
}

func (b *Backend) writeFront(at frontend, s step, next *known) error {
	switch s.virtual {
	case virtualNew:
		err := b.k.NewVirtual(at, next)
		if errors.Is(err, unix.EPROTONOSUPPORT) {
			b.reject(at, err)
			return nil
		}
		if err != nil {
			return fmt.Errorf("create virtual service %s: %w", at, err)
		}
	case virtualSet:
		if err := b.k.SetVirtual(at, next); err != nil {
			return fmt.Errorf("change virtual service %s: %w", at, err)
		}
	case virtualDelete:
		if err := b.k.DeleteVirtual(at); err != nil {
			return fmt.Errorf("delete virtual service %s: %w", at, err)
		}
		return nil
	}
	for _, r := range s.reals {
		if err := b.k.ChangeReal(at, r); err != nil {
			return fmt.Errorf("change server %s of virtual service %s: %w", r.at, at, err)
		}
	}
	return nil
}

func (b *Backend) reject(at frontend, err error) {
	if b.rejected == nil {
		b.rejected = map[plan.Name]error{}
	}
	if o := b.want.owners[at]; len(o) > 0 {
		b.rejected[o[0].name] = fmt.Errorf("create virtual service %s: %w: this kernel's IPVS lacks %s", at, err, strings.ToUpper(protocolName(at.proto)))
	}
	b.know(at, nil)
}
