package ipvs

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

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
	ranged   int                   // fronts with source ranges
	guarded  bool                  // the guard is there
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
	b.ranged, b.guarded = 0, false
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
	w.saved = map[string][]byte{}
	for _, table := range tables {
		out, err := b.k.Save(ctx, table)
		if err != nil {
			return fmt.Errorf("read table %s: %w", table, err)
		}
		w.saved[table] = out
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
	for _, k := range b.known {
		if k.hasRanges() {
			b.ranged++
		}
	}
	return nil
}

func addressEntry(a netip.Addr) entry { return entry{frontend: frontend{addr: a}} }
