package iptables

import (
	"bytes"
	"context"
	"fmt"
	"hash/maphash"
	"slices"
	"strings"

	"github.com/reevehq/reeve/internal/xtables"
	"github.com/reevehq/reeve/proxy/plan"
)

// kernel is what the backend needs of a family's iptables: an *xtables.Handle.
type kernel interface {
	Restore(ctx context.Context, input []byte) error
	Save(ctx context.Context, table string) ([]byte, error)
	Exists(table, chain string, rule ...string) (bool, error)
}

// tables that the backend writes, in order.
var tables = []string{"mangle", "nat", "filter"}

// rewriteAbove is how many lines of a dispatch chain may change before it is written anew as a whole: each single
// deletion searches the chain.
const rewriteAbove = 100

// Backend keeps one family's rules. Not safe for concurrent use; one loop owns it.
type Backend struct {
	cfg Config
	xt  kernel

	// What the kernel holds as far as this process knows. Rules themselves are not kept: a hash tells whether a chain
	// differs.
	chains   map[string]uint64 // nat chains of Services
	services map[plan.Name]*serviceState
	counts   [dispatchChains]int
	natRules int
	rejected map[plan.Name]error
	written  map[string]int // rules in the last transaction, by table
}

type serviceState struct {
	chains []string
	rules  int
	lines  [dispatchChains][]string
}

var seed = maphash.MakeSeed()

// New makes a backend that knows nothing of the kernel yet: its first Apply must be a full one.
func New(cfg Config, xt kernel) *Backend {
	b := &Backend{cfg: cfg, xt: xt}
	b.reset()
	return b
}

func (b *Backend) reset() {
	b.chains = map[string]uint64{}
	b.services = map[plan.Name]*serviceState{}
	b.counts = [dispatchChains]int{}
	b.natRules = 0
	b.rejected = nil
}

// Family of the rules.
func (b *Backend) Family() plan.Family { return b.cfg.Family }

// SetFacts replaces what the rules depend on beside Services. The next Apply must be a full one.
func (b *Backend) SetFacts(f plan.Facts) { b.cfg.Facts = f }

// Apply brings the kernel's rules from what the last successful Apply made to what changes say: a Service's plan, or nil
// for a Service that is gone. With full, changes are all Services, nothing is presumed of the kernel: the tables are read,
// chains that differ are written, and chains of ours that no Service has any more are removed. After an error the next Apply must be full. A full one leaves out the
// Services whose rules this kernel does not take (Rejected), so that they harm no other.
func (b *Backend) Apply(ctx context.Context, changes map[plan.Name]*plan.Planned, full bool) error {
	if !full {
		input := b.difference(changes)
		if input == nil {
			return nil
		}
		return b.xt.Restore(ctx, input)
	}
	b.reset()
	input, err := b.full(ctx, changes)
	if err != nil || input == nil {
		return err
	}
	err = b.xt.Restore(ctx, input)
	if err == nil || !judged(err) {
		return err
	}
	return b.applyApart(ctx, changes, err)
}

// edit collects the lines of one table's transaction.
type edit struct{ declare, rules, remove bytes.Buffer }

func (e *edit) chain(name string, rules []string) {
	e.declare.WriteString(":" + name + " - [0:0]\n")
	for _, r := range rules {
		e.rules.WriteString("-A " + name + " " + r + "\n")
	}
}

func (e *edit) drop(name string) {
	e.declare.WriteString(":" + name + " - [0:0]\n")
	e.remove.WriteString("-X " + name + "\n")
}

func (e *edit) empty() bool { return e.declare.Len()+e.rules.Len() == 0 }

func (e *edit) writeTo(out *bytes.Buffer, table string) {
	out.WriteString("*" + table + "\n")
	for _, part := range []*bytes.Buffer{&e.declare, &e.rules, &e.remove} {
		out.Write(part.Bytes())
	}
	out.WriteString("COMMIT\n")
}

func (e *edit) input(table string) []byte {
	var out bytes.Buffer
	e.writeTo(&out, table)
	return out.Bytes()
}

// write appends a table's edit, if there is one, and counts its rules.
func (b *Backend) write(e *edit, out *bytes.Buffer, table string) {
	b.written[table] = bytes.Count(e.rules.Bytes(), []byte("\n"))
	if !e.empty() {
		e.writeTo(out, table)
	}
}

// Written counts the rules that the last Apply added or removed, by table.
func (b *Backend) Written() map[string]int { return b.written }

// mine reports a chain that this backend makes for Services. Fixed chains are always wanted.
func (c Config) mine(chain string) bool {
	for _, kind := range []string{"SVC-", "SVL-", "SEP-", "EXT-", "FW-", "XLB-"} {
		if strings.HasPrefix(chain, c.chain(kind)) {
			return true
		}
	}
	return false
}

// remember notes what a Service has in the kernel.
func (b *Backend) remember(name plan.Name, r rendered) {
	b.forget(name)
	s := &serviceState{lines: r.lines}
	for _, c := range r.chains {
		s.chains = append(s.chains, c.name)
		s.rules += len(c.rules)
		b.chains[c.name] = hashChain(c)
	}
	empty := len(s.chains) == 0
	for w, l := range r.lines {
		b.counts[w] += len(l)
		empty = empty && len(l) == 0
	}
	b.natRules += s.rules
	if !empty {
		b.services[name] = s
	}
}

func (b *Backend) forget(name plan.Name) {
	s := b.services[name]
	if s == nil {
		return
	}
	for _, c := range s.chains {
		delete(b.chains, c)
	}
	for w, l := range s.lines {
		b.counts[w] -= len(l)
	}
	b.natRules -= s.rules
	delete(b.services, name)
}

func hashChain(c chainRules) uint64 {
	var h maphash.Hash
	h.SetSeed(seed)
	for _, r := range c.rules {
		_, _ = h.WriteString(r)
		_ = h.WriteByte('\n')
	}
	return h.Sum64()
}

// difference renders the changed Services and answers the restore input that leads from the known state to the new one,
// or nil when they are the same. The state is the new one afterwards.
func (b *Backend) difference(changes map[plan.Name]*plan.Planned) []byte {
	edits := map[string]*edit{"nat": {}, "filter": {}}
	nat := edits["nat"]
	var added, removed [dispatchChains][]string
	for name, p := range changes {
		var r rendered
		if p != nil {
			r = b.cfg.render(*p)
		}
		var before serviceState
		if s := b.services[name]; s != nil {
			before = *s
		}
		now := map[string]bool{}
		for _, c := range r.chains {
			now[c.name] = true
			if old, ok := b.chains[c.name]; !ok || old != hashChain(c) {
				nat.chain(c.name, c.rules)
			}
		}
		for _, c := range before.chains {
			if !now[c] {
				nat.drop(c)
			}
		}
		for w := range dispatchChains {
			plus, minus := compare(before.lines[w], r.lines[w])
			added[w], removed[w] = append(added[w], plus...), append(removed[w], minus...)
		}
		b.remember(name, r)
	}
	for w := range dispatchChains {
		if len(added[w])+len(removed[w]) == 0 {
			continue
		}
		e, chain := edits[w.table()], b.cfg.dispatch(w)
		if n := len(added[w]) + len(removed[w]); n > rewriteAbove || n > b.counts[w] {
			e.chain(chain, append(b.allLines(w), b.cfg.last(w)...))
			continue
		}
		for _, l := range removed[w] {
			e.rules.WriteString("-D " + chain + " " + l + "\n")
		}
		for _, l := range added[w] {
			e.rules.WriteString("-I " + chain + " 1 " + l + "\n")
		}
	}
	var out bytes.Buffer
	b.written = map[string]int{}
	for _, table := range tables {
		if e := edits[table]; e != nil {
			b.write(e, &out, table)
		}
	}
	if out.Len() == 0 {
		return nil
	}
	return out.Bytes()
}

func (b *Backend) allLines(w where) []string {
	names := make([]plan.Name, 0, len(b.services))
	for name := range b.services {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, c plan.Name) int { return strings.Compare(a.String(), c.String()) })
	var out []string
	for _, name := range names {
		out = append(out, b.services[name].lines[w]...)
	}
	return out
}

// compare answers the lines only in after and only in before.
func compare(before, after []string) (plus, minus []string) {
	if slices.Equal(before, after) {
		return nil, nil
	}
	for _, l := range after {
		if !slices.Contains(before, l) {
			plus = append(plus, l)
		}
	}
	for _, l := range before {
		if !slices.Contains(after, l) {
			minus = append(minus, l)
		}
	}
	return plus, minus
}

// Rules counts the rules in place, by table.
func (b *Backend) Rules() map[string]int {
	out := map[string]int{"nat": b.natRules}
	for w, n := range b.counts {
		out[where(w).table()] += n + len(b.cfg.last(where(w)))
	}
	for _, table := range tables {
		for _, c := range b.cfg.fixed(table) {
			out[table] += len(c.rules)
		}
	}
	for _, j := range b.cfg.jumps() {
		out[j.Table]++
	}
	return out
}

// Intact looks for a foreign flush: in each table the canary's rule, and a jump that everything depends on. It costs four
// runs of iptables, some 3 ms each.
func (b *Backend) Intact(context.Context) (bool, error) {
	looks := []xtables.Jump{
		{Table: "nat", Chain: b.cfg.canary(), Rule: canaryRule},
		{Table: "filter", Chain: b.cfg.canary(), Rule: canaryRule},
	}
	for _, j := range b.cfg.jumps() {
		if j.Chain == "PREROUTING" || (j.Chain == "FORWARD" && j.Rule == "-j "+b.cfg.chain("FORWARD")) {
			looks = append(looks, j)
		}
	}
	for _, j := range looks {
		ok, err := b.xt.Exists(j.Table, j.Chain, strings.Fields(j.Rule)...)
		if err != nil {
			return false, fmt.Errorf("look for rule %q in %s: %w", j.Rule, j.Chain, err)
		}
		if !ok {
			return false, nil
		}
	}
	return true, nil
}
