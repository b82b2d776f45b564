package ipvs

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/reevehq/reeve/proxy/plan"
)

// fakeKernel keeps what the kernel would, and refuses what it would refuse.
type fakeKernel struct {
	family   plan.Family
	addrs    []netip.Addr
	device   bool
	routes   map[netip.Addr]struct{}
	sets     map[setID]map[entry]struct{}
	virtuals map[frontend]*known
	busy     map[netip.AddrPort]bool        // servers with connections
	tables   map[string]map[string][]string // table → chain → rules
	calls    int
}

func newFake(family plan.Family, addrs ...netip.Addr) *fakeKernel {
	k := &fakeKernel{
		family: family, routes: map[netip.Addr]struct{}{}, sets: map[setID]map[entry]struct{}{}, virtuals: map[frontend]*known{},
		busy: map[netip.AddrPort]bool{}, tables: map[string]map[string][]string{"mangle": {}, "nat": {}, "filter": {}},
	}
	for _, a := range addrs {
		if plan.FamilyOf(a) == family {
			k.addrs = append(k.addrs, a)
		}
	}
	return k
}

func (k *fakeKernel) Host() ([]netip.Addr, error) { return k.addrs, nil }
func (k *fakeKernel) EnsureDevice() error         { k.device = true; return nil }
func (k *fakeKernel) HasDevice() (bool, error)    { return k.device, nil }

func (k *fakeKernel) Routes() (map[netip.Addr]struct{}, error) {
	out := map[netip.Addr]struct{}{}
	for a := range k.routes {
		out[a] = struct{}{}
	}
	return out, nil
}

func (k *fakeKernel) AddRoute(a netip.Addr) error {
	k.calls++
	if !k.device {
		return fmt.Errorf("route %s: no device", a)
	}
	k.routes[a] = struct{}{}
	return nil
}

func (k *fakeKernel) DeleteRoute(a netip.Addr) error {
	k.calls++
	delete(k.routes, a)
	return nil
}

func (k *fakeKernel) EnsureSets(Config) error {
	for s := setID(0); s < setCount; s++ {
		if k.sets[s] == nil {
			k.sets[s] = map[entry]struct{}{}
		}
	}
	return nil
}

func (k *fakeKernel) ListSet(_ Config, s setID) ([]entry, error) {
	var out []entry
	for e := range k.sets[s] {
		out = append(out, e)
	}
	return out, nil
}

func (k *fakeKernel) AddEntries(_ Config, s setID, entries []entry) error {
	for _, e := range entries {
		if k.sets[s] == nil {
			return fmt.Errorf("no set %s", setNames[s])
		}
		if plan.FamilyOf(e.addr) != k.family || (s == setAllow && e.other.Bits() == 0) {
			return fmt.Errorf("set %s refuses %v", setNames[s], e)
		}
		k.sets[s][e] = struct{}{}
	}
	k.calls += len(entries)
	return nil
}

func (k *fakeKernel) DeleteEntries(_ Config, s setID, entries []entry) error {
	for _, e := range entries {
		delete(k.sets[s], e)
	}
	k.calls += len(entries)
	return nil
}

func (k *fakeKernel) HasEntry(_ Config, s setID, e entry) (bool, error) {
	_, ok := k.sets[s][e]
	return ok, nil
}

func (k *fakeKernel) Virtuals() (map[frontend]*known, error) {
	out := map[frontend]*known{}
	for at, v := range k.virtuals {
		c := *v
		c.reals = slices.Clone(v.reals)
		out[at] = &c
	}
	return out, nil
}

func (k *fakeKernel) HasVirtual(at frontend) bool { return k.virtuals[at] != nil }

func (k *fakeKernel) NewVirtual(at frontend, v *known) error {
	k.calls++
	if k.virtuals[at] != nil {
		return fmt.Errorf("%s exists", at)
	}
	k.virtuals[at] = &known{virtual: true, scheduler: v.scheduler, flags: v.flags, affinity: v.affinity}
	return nil
}

func (k *fakeKernel) SetVirtual(at frontend, v *known) error {
	k.calls++
	old := k.virtuals[at]
	if old == nil {
		return fmt.Errorf("no %s", at)
	}
	old.scheduler, old.flags, old.affinity = v.scheduler, v.flags, v.affinity
	return nil
}

func (k *fakeKernel) DeleteVirtual(at frontend) error {
	k.calls++
	if k.virtuals[at] == nil {
		return fmt.Errorf("no %s", at)
	}
	for _, r := range k.virtuals[at].reals {
		if k.busy[r.at] && at.proto == 6 {
			return fmt.Errorf("%s goes with connections to %s", at, r.at)
		}
	}
	delete(k.virtuals, at)
	return nil
}

func (k *fakeKernel) ChangeReal(at frontend, c realChange) error {
	k.calls++
	v := k.virtuals[at]
	if v == nil {
		return fmt.Errorf("no %s", at)
	}
	i, found := slices.BinarySearchFunc(v.reals, c.at, func(r real, a netip.AddrPort) int { return r.at.Compare(a) })
	switch {
	case c.what == realNew && found, c.what != realNew && !found:
		return fmt.Errorf("%s of %s: found %v for %d", c.at, at, found, c.what)
	case c.what == realNew:
		v.reals = slices.Insert(v.reals, i, real{at: c.at})
	case c.what == realDelete:
		if k.busy[c.at] && at.proto == 6 {
			return fmt.Errorf("%s goes with connections", c.at)
		}
		v.reals = slices.Delete(v.reals, i, i+1)
	default:
		v.reals[i].draining = c.what == realDrain
	}
	return nil
}

func (k *fakeKernel) Idle(at frontend) ([]netip.AddrPort, error) {
	var out []netip.AddrPort
	for _, r := range k.virtuals[at].reals {
		if r.draining && !k.busy[r.at] {
			out = append(out, r.at)
		}
	}
	return out, nil
}

// Restore does what iptables-restore --noflush does with the lines that this package writes.
func (k *fakeKernel) Restore(_ context.Context, input []byte) error {
	k.calls++
	var table map[string][]string
	for line := range strings.Lines(string(input)) {
		line = strings.TrimSpace(line)
		verb, rest, _ := strings.Cut(line, " ")
		chain, rule, _ := strings.Cut(rest, " ")
		switch {
		case strings.HasPrefix(line, "*"):
			table = k.tables[line[1:]]
		case strings.HasPrefix(line, ":"):
			table[verb[1:]] = nil
		case verb == "-A":
			table[chain] = append(table[chain], rule)
		case verb == "-I":
			table[chain] = append([]string{strings.TrimPrefix(rule, "1 ")}, table[chain]...)
		case verb == "-F":
			table[chain] = nil
		case verb == "-X":
			if _, ok := table[chain]; !ok || len(table[chain]) > 0 {
				return fmt.Errorf("no empty chain %s to delete", chain)
			}
			delete(table, chain)
		case verb == "-D":
			i := slices.Index(table[chain], rule)
			if i < 0 {
				return fmt.Errorf("no rule %q in %s", rule, chain)
			}
			table[chain] = slices.Delete(slices.Clone(table[chain]), i, i+1)
		}
		if name, ok := matchedSet(rule); ok && k.setNamed(name) < 0 {
			return fmt.Errorf("no set for %q", rule)
		}
	}
	return nil
}

func matchedSet(rule string) (string, bool) {
	_, rest, ok := strings.Cut(rule, "--match-set ")
	name, _, _ := strings.Cut(rest, " ")
	return name, ok
}

func (k *fakeKernel) setNamed(name string) int {
	c := testConfig(k.family)
	for s := setID(0); s < setCount; s++ {
		if c.set(s) == name && k.sets[s] != nil {
			return int(s)
		}
	}
	return -1
}

func (k *fakeKernel) Save(_ context.Context, table string) ([]byte, error) {
	var b strings.Builder
	for chain, rules := range k.tables[table] {
		b.WriteString(":" + chain + " - [0:0]\n")
		for _, r := range rules {
			b.WriteString("-A " + chain + " " + r + "\n")
		}
	}
	return []byte(b.String()), nil
}

func (k *fakeKernel) Exists(table, chain string, rule ...string) (bool, error) {
	return slices.Contains(k.tables[table][chain], strings.Join(rule, " ")), nil
}

// String is everything that stands, in an order.
func (k *fakeKernel) String() string {
	var lines []string
	for a := range k.routes {
		lines = append(lines, "address "+a.String())
	}
	for s, entries := range k.sets {
		for e := range entries {
			lines = append(lines, fmt.Sprintf("set %s %s %s", setNames[s], e.frontend, e.other))
		}
	}
	for at, v := range k.virtuals {
		lines = append(lines, fmt.Sprintf("virtual %s %s %#x %d %v", at, v.scheduler, v.flags, v.affinity, v.reals))
	}
	for table, chains := range k.tables {
		for chain, rules := range chains {
			if len(rules) == 0 && !strings.Contains(chain, "-") {
				continue // a built-in one, which is always there
			}
			rules = slices.Clone(rules)
			if strings.HasSuffix(chain, "DETOURS") || strings.HasSuffix(chain, "HEALTH-PORTS") {
				slices.Sort(rules)
			}
			lines = append(lines, fmt.Sprintf("chain %s %s\n\t%s", table, chain, strings.Join(rules, "\n\t")))
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}
