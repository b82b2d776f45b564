package ipvs

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/reevehq/reeve/internal/xtables"
	"github.com/reevehq/reeve/proxy/plan"
)

// kernel is what the backend needs of one family's kernel: an *Kernel.
type kernel interface {
	// Host answers the node's own addresses, those of Device left out.
	Host() (addrs []netip.Addr, err error)
	EnsureDevice() error
	HasDevice() (bool, error)
	Routes() (map[netip.Addr]struct{}, error)
	AddRoute(netip.Addr) error
	DeleteRoute(netip.Addr) error

	EnsureSets(c Config) error
	ListSet(c Config, s setID) ([]entry, error)
	AddEntries(c Config, s setID, entries []entry) error
	DeleteEntries(c Config, s setID, entries []entry) error
	HasEntry(c Config, s setID, e entry) (bool, error)

	Virtuals() (map[frontend]*known, error)
	HasVirtual(frontend) bool
	NewVirtual(frontend, *known) error
	SetVirtual(frontend, *known) error
	DeleteVirtual(frontend) error
	ChangeReal(frontend, realChange) error
	// Idle answers which draining servers have no connection left.
	Idle(frontend) ([]netip.AddrPort, error)

	Restore(ctx context.Context, input []byte) error
	Save(ctx context.Context, table string) ([]byte, error)
	Exists(table, chain string, rule ...string) (bool, error)
}

// Backend keeps one family's virtual services. Not safe for concurrent use; one loop owns it.
type Backend struct {
	cfg Config
	k   kernel

	want     *want
	host     host
	hostKey  []netip.Addr // what host was made of
	known    map[frontend]*known
	routes   map[netip.Addr]struct{}
	draining map[frontend]struct{} // fronts with servers that drain
	awaited  map[netip.Addr]int    // their addresses, with how many fronts
	rejected map[plan.Name]error
}

// New makes a backend that knows nothing of the kernel yet: its first Apply must be a full one.
func New(cfg Config, k kernel) *Backend {
	b := &Backend{cfg: cfg, k: k}
	b.reset()
	return b
}

func (b *Backend) reset() {
	b.want = newWant()
	b.known = map[frontend]*known{}
	b.routes = map[netip.Addr]struct{}{}
	b.draining, b.awaited = map[frontend]struct{}{}, map[netip.Addr]int{}
	b.rejected = nil
}

// Close frees the kernel's sockets. What was programmed stays.
func (b *Backend) Close() {
	if k, ok := b.k.(*Kernel); ok {
		k.Close()
	}
}

// Family of the virtual services.
func (b *Backend) Family() plan.Family { return b.cfg.Family }

// Label is the connection label of connections to Services, which come in to the node itself; 0: they bear none.
func (b *Backend) Label() int { return b.cfg.Label }

// SetFacts replaces what the rules depend on beside Services. The next Apply must be a full one.
func (b *Backend) SetFacts(f plan.Facts) { b.cfg.Facts = f }

// Rejected are the Services that this kernel does not take (a protocol that its IPVS lacks), with its words.
func (b *Backend) Rejected() map[plan.Name]error { return b.rejected }

// Rules counts what is in place.
func (b *Backend) Rules() map[string]int {
	out := map[string]int{"virtual": 0, "real": 0, "addresses": len(b.routes), "entries": len(b.want.hairpins) + len(b.want.addrs)}
	for _, k := range b.known {
		if k.virtual {
			out["virtual"]++
		}
		out["real"] += len(k.reals)
		for s := setID(0); s < frontendSets; s++ {
			if k.sets.has(s) {
				out["entries"]++
			}
		}
	}
	return out
}

// Apply brings the kernel from what the last successful Apply made to what changes say: a Service's plan, or nil for a
// Service that is gone. With full, changes are all Services, what the kernel holds is read first, and what nobody wants
// any more goes. After an error the next Apply must be full.
func (b *Backend) Apply(ctx context.Context, changes map[plan.Name]*plan.Planned, full bool) error {
	if full {
		return b.applyFull(ctx, changes)
	}
	t := newTouched()
	for name, p := range changes {
		var r *rendered
		if p != nil {
			r = b.cfg.render(*p, b.host)
		}
		b.want.set(name, r, t)
	}
	var w writes
	for at := range t.fronts {
		w.fronts = append(w.fronts, at)
	}
	for h, had := range t.hairpins {
		if has := b.want.hairpins[h] > 0; has && !had {
			w.add[setHairpin] = append(w.add[setHairpin], hairpinEntry(h))
		} else if had && !has {
			w.del[setHairpin] = append(w.del[setHairpin], hairpinEntry(h))
		}
	}
	for a := range t.addrs {
		w.addrs = append(w.addrs, a)
	}
	for port, had := range t.health {
		if has := b.want.health[port] > 0; has && !had {
			w.linesAdd = append(w.linesAdd, b.cfg.healthLine(port))
		} else if had && !has {
			w.linesDel = append(w.linesDel, b.cfg.healthLine(port))
		}
	}
	return b.write(ctx, &w)
}

func hairpinEntry(h hairpin) entry { return entry{h, hostPrefix(h.addr)} }

// applyFull reads the kernel and writes the difference.
func (b *Backend) applyFull(ctx context.Context, all map[plan.Name]*plan.Planned) error {
	b.reset()
	if err := b.k.EnsureDevice(); err != nil {
		return err
	}
	if err := b.k.EnsureSets(b.cfg); err != nil {
		return err
	}
	if err := b.readHost(); err != nil {
		return err
	}
	for name, p := range all {
		if p != nil {
			b.want.set(name, b.cfg.render(*p, b.host), nil)
		}
	}
	var w writes
	if err := b.observe(&w); err != nil {
		return err
	}
	for at := range b.want.owners {
		if b.known[at] == nil {
			w.fronts = append(w.fronts, at)
		}
	}
	for at := range b.known {
		w.fronts = append(w.fronts, at)
	}
	for a := range b.want.addrs {
		w.addrs = append(w.addrs, a)
	}
	for a := range b.routes {
		if b.want.addrs[a] == 0 {
			w.addrs = append(w.addrs, a)
		}
	}
	w.full = true
	for port := range b.want.health {
		w.linesAdd = append(w.linesAdd, b.cfg.healthLine(port))
	}
	w.saved = map[string]xtables.Saved{}
	for _, table := range tables {
		out, err := b.k.Save(ctx, table)
		if err != nil {
			return fmt.Errorf("read table %s: %w", table, err)
		}
		w.saved[table] = xtables.ParseSave(out)
	}
	return b.write(ctx, &w)
}

// readHost learns the node's addresses, and those among them on which node ports answer.
func (b *Backend) readHost() error {
	addrs, err := b.k.Host()
	if err != nil {
		return err
	}
	b.hostKey = addrs
	b.host = host{own: map[netip.Addr]bool{}}
	limits := b.cfg.Facts.NodePortAddresses
	for _, a := range addrs {
		b.host.own[a] = true
		// IPVS sends nothing on that comes from loopback.
		if a.IsLoopback() || a.IsLinkLocalUnicast() {
			continue
		}
		if len(limits) == 0 || slices.ContainsFunc(limits, func(p netip.Prefix) bool { return p.Contains(a) }) {
			b.host.nodePorts = append(b.host.nodePorts, a)
		}
	}
	return nil
}

// observe reads what the kernel has of ours, and notes which entries of the other sets are to be added and deleted.
func (b *Backend) observe(w *writes) error {
	virtuals, err := b.k.Virtuals()
	if err != nil {
		return err
	}
	if b.routes, err = b.k.Routes(); err != nil {
		return err
	}
	get := func(at frontend) *known {
		k := b.known[at]
		if k == nil {
			k = &known{}
			b.known[at] = k
		}
		return k
	}
	for s := setID(0); s < setCount; s++ {
		entries, err := b.k.ListSet(b.cfg, s)
		if err != nil {
			return err
		}
		switch {
		case s < frontendSets:
			for _, e := range entries {
				get(e.frontend).sets |= 1 << s
			}
		case s == setAllow:
			for _, e := range entries {
				k := get(e.frontend)
				k.allow = append(k.allow, e.other)
			}
		case s == setHairpin:
			w.compare(s, entries, len(b.want.hairpins), func(yield func(entry)) {
				for h := range b.want.hairpins {
					yield(hairpinEntry(h))
				}
			})
		case s == setAddresses:
			w.haveAddrs = entries
		}
	}
	for at, v := range virtuals {
		_, placed := b.routes[at.addr]
		if k := b.known[at]; !placed && b.want.front(at) == nil && (k == nil || !k.sets.has(setServices)) {
			continue // another's
		}
		if b.want.front(at) == nil && slices.ContainsFunc(b.cfg.Exclude, func(p netip.Prefix) bool { return p.Contains(at.addr) }) {
			continue
		}
		k := get(at)
		v.sets, v.allow = k.sets, k.allow
		b.known[at] = v
	}
	return nil
}

func addressEntry(a netip.Addr) entry { return entry{frontend: frontend{addr: a}} }

// writes is what an Apply does.
type writes struct {
	fronts   []frontend
	addrs    []netip.Addr
	add, del [setCount][]entry

	linesAdd, linesDel []line
	full               bool // all chains are written, with the lines to add only
	saved              map[string]xtables.Saved
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

// write does it in an order in which no packet meets half of a new frontend: what judges packets, then what answers
// them, then the address; and backwards for what goes.
func (b *Backend) write(ctx context.Context, w *writes) error {
	type task struct {
		at   frontend
		step step
		next *known
	}
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
	var place, displace []netip.Addr
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

	for s := setCount; s > 0; s-- { // who may pass before who is stopped
		if err := b.k.AddEntries(b.cfg, s-1, w.add[s-1]); err != nil {
			return err
		}
	}
	rules := linesInput(w.linesAdd, w.linesDel)
	if w.full {
		rules = b.cfg.rulesInput(w.linesAdd, w.saved)
	}
	if rules != nil {
		if err := b.k.Restore(ctx, rules); err != nil {
			return err
		}
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
	return nil
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
	delete(b.known, at)
}

// tendPeriod is how often servers that drain are looked at, while there are any.
const tendPeriod = 3 * time.Second

// Tend removes servers that have drained, and what was only there for them. It answers when it wants to be called again;
// 0: not before the next Apply. After an error the next Apply must be full.
func (b *Backend) Tend(ctx context.Context) (time.Duration, error) {
	var w writes
	for at := range b.draining {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		idle, err := b.k.Idle(at)
		if err != nil {
			return 0, fmt.Errorf("look at the servers of %s: %w", at, err)
		}
		k := b.known[at]
		gone := false
		k.reals = slices.DeleteFunc(k.reals, func(r real) bool {
			if !r.draining || !slices.Contains(idle, r.at) || err != nil {
				return false
			}
			err = b.k.ChangeReal(at, realChange{r.at, realDelete})
			gone = true
			return err == nil
		})
		if err != nil {
			return 0, fmt.Errorf("remove a drained server of %s: %w", at, err)
		}
		if gone {
			w.fronts = append(w.fronts, at)
			w.addrs = append(w.addrs, at.addr)
		}
	}
	if len(w.fronts) > 0 {
		slices.SortFunc(w.addrs, netip.Addr.Compare)
		w.addrs = slices.Compact(w.addrs)
		if err := b.write(ctx, &w); err != nil {
			return 0, err
		}
	}
	if len(b.draining) == 0 {
		return 0, nil
	}
	return tendPeriod, nil
}

// Intact looks for foreign changes: the device, a jump of each table, one virtual service, its entry in a set; and whether
// the node's addresses are those that node ports are on.
func (b *Backend) Intact(context.Context) (bool, error) {
	if ok, err := b.k.HasDevice(); err != nil || !ok {
		return false, err
	}
	addrs, err := b.k.Host()
	if err != nil || !slices.Equal(addrs, b.hostKey) {
		return false, err
	}
	for _, j := range b.cfg.jumps() {
		if j.Chain != "PREROUTING" && j.Chain != "INPUT" {
			continue
		}
		if ok, err := b.k.Exists(j.Table, j.Chain, strings.Fields(j.Rule)...); err != nil || !ok {
			return false, err
		}
	}
	for table, rule := range map[string][]string{"filter": {"INPUT", "-j " + b.cfg.chain("HEALTH-PORTS")}, "nat": {"OFF-CLUSTER", "-j " + b.cfg.chain("MARK")}} {
		if ok, err := b.k.Exists(table, b.cfg.chain(rule[0]), strings.Fields(rule[1])...); err != nil || !ok {
			return false, err
		}
	}
	for at, k := range b.known {
		if !k.virtual || !k.sets.has(setServices) {
			continue
		}
		if !b.k.HasVirtual(at) {
			return false, nil
		}
		if ok, err := b.k.HasEntry(b.cfg, setServices, entry{frontend: at}); err != nil || !ok {
			return false, err
		}
		break
	}
	return true, nil
}
