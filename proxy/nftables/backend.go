package nftables

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"sigs.k8s.io/knftables"

	"github.com/reevehq/reeve/proxy/plan"
)

// kernel is what the backend needs of nftables: a *Table.
type kernel interface {
	NewTransaction() *knftables.Transaction
	Run(ctx context.Context, tx *knftables.Transaction) error
	WriteElements(ctx context.Context, remove, add map[slot]content) error
	ReadElements(ctx context.Context, name string) (map[string]content, error)
	ReadObjects(ctx context.Context) (objects, error)
	CountRules(ctx context.Context) (map[string]int, error)
	KeepTracking(ctx context.Context) error
	StopTracking(ctx context.Context) error
	PortID() uint32
	Close()
}

// Backend keeps one family's table. Not safe for concurrent use but for Watch; one loop owns it.
type Backend struct {
	cfg   Config
	nft   kernel
	state *state          // as far as this process knows
	idle  map[object]bool // numbered objects that no element needs now; they wait to be needed again

	damage damage
}

// idleMax bounds the idle objects: making one takes a run of nft, which a Service whose pods come and go should not cost
// each time.
const idleMax = 256

// New makes a backend that knows nothing of the kernel yet: its first Apply must be a full one.
func New(cfg Config, nft kernel) *Backend {
	return &Backend{cfg: cfg, nft: nft, state: newState(), idle: map[object]bool{}}
}

// Close ends the backend's connection to the kernel. The table stays.
func (b *Backend) Close() { b.nft.Close() }

// Family of the rules.
func (b *Backend) Family() plan.Family { return b.cfg.Family }

// SetFacts replaces what the rules depend on beside Services. The next Apply must be a full one.
func (b *Backend) SetFacts(f plan.Facts) { b.cfg.Facts = f }

// Rejected is empty: what Services are made of, elements of typed maps, no kernel that takes the table refuses.
func (b *Backend) Rejected() map[plan.Name]error { return nil }

// Rules counts what is in the table: "rules" do not grow with Services, "elements" do.
func (b *Backend) Rules() map[string]int {
	rules := 0
	for _, c := range b.chains() {
		rules += len(c.rules)
	}
	return map[string]int{"rules": rules, "elements": b.state.elements}
}

// applyTimeout bounds one Apply, so that a stuck nft does not stop the loop: 10,000 Services from empty take some seconds on
// a slow host.
const applyTimeout = 2 * time.Minute

// Apply brings the table from what the last successful Apply made to what changes say: a Service's plan, or nil for a
// Service that is gone, in one transaction of only the elements that differ, or two (write). Numbered chains and maps that
// they are the first to need are made before. With full, changes are all Services, the table is listed first, and the
// difference to what it really holds is written; where that fails (another version's table), the table is replaced in one
// transaction.
// After an error the next Apply must be full. The plans must not be changed afterwards.
func (b *Backend) Apply(ctx context.Context, changes map[plan.Name]*plan.Planned, full bool) error {
	ctx, cancel := context.WithTimeout(ctx, applyTimeout)
	defer cancel()
	if full {
		return b.applyFull(ctx, changes)
	}
	d := b.state.change(b.cfg, changes)
	if d.empty() {
		return nil
	}
	tx := b.nft.NewTransaction()
	for _, o := range sorted(d.newObjects) {
		if !b.idle[o] {
			b.create(tx, o)
		}
		delete(b.idle, o)
	}
	if tx.NumOperations() > 0 {
		if err := b.nft.Run(ctx, tx); err != nil {
			return fmt.Errorf("change table %q: %w", b.cfg.Table, err)
		}
	}
	if err := b.write(ctx, d.remove, d.add); err != nil {
		return fmt.Errorf("change table %q: %w", b.cfg.Table, err)
	}
	for _, o := range d.unusedObjects {
		b.idle[o] = true
	}
	if len(b.idle) > idleMax {
		if err := b.dropIdle(ctx); err != nil {
			return err
		}
	}
	if d.forgetsAffinity {
		return b.forgetClients(ctx)
	}
	return nil
}

// write changes elements. A packet looks up one map after the other, and a transaction may come between: a connection that
// was sent to the chain for two endpoints must find them there when a third has come meanwhile, or it would pass
// untranslated, and stay so. So where a Service is sent to another chain, what only the former chain looks up goes in a
// second transaction. What is replaced in its place has no such moment.
func (b *Backend) write(ctx context.Context, remove, add map[slot]content) error {
	var later map[slot]content
	for _, c := range add {
		if strings.HasPrefix(c.value, "goto ") {
			later = map[slot]content{}
			break
		}
	}
	now := remove
	if later != nil {
		now = map[slot]content{}
		for at, c := range remove {
			if _, replaced := add[at]; !replaced && afterDispatch(at.in) {
				later[at] = c
			} else {
				now[at] = c
			}
		}
	}
	if err := b.nft.WriteElements(ctx, now, add); err != nil {
		return err
	}
	if len(later) == 0 {
		return nil
	}
	return b.nft.WriteElements(ctx, later, nil)
}

// dropIdle removes the numbered objects that nothing needs.
func (b *Backend) dropIdle(ctx context.Context) error {
	if len(b.idle) == 0 {
		return nil
	}
	tx := b.nft.NewTransaction()
	for _, o := range slices.Backward(sorted(slices.Collect(maps.Keys(b.idle)))) {
		drop(tx, o)
	}
	if err := b.nft.Run(ctx, tx); err != nil {
		return fmt.Errorf("remove unused chains and maps of table %q: %w", b.cfg.Table, err)
	}
	clear(b.idle)
	return nil
}

// chains are all that the state needs, each after those that it jumps to.
func (b *Backend) chains() []chain {
	out := b.cfg.fixedChains()
	for o := range b.state.uses {
		if !o.isMap {
			out = append(out, b.cfg.numberedChain(o.name))
		}
	}
	return out
}

// sorted puts maps before the chains that look them up.
func sorted(in []object) []object {
	slices.SortFunc(in, func(a, b object) int {
		switch {
		case a.isMap == b.isMap:
			return strings.Compare(a.name, b.name)
		case a.isMap:
			return -1
		}
		return 1
	})
	return in
}

func (b *Backend) create(tx *knftables.Transaction, o object) {
	if o.isMap {
		tx.Add(b.cfg.numberedMap(o.name))
		return
	}
	writeChain(tx, b.cfg.numberedChain(o.name))
}

func writeChain(tx *knftables.Transaction, c chain) {
	tx.Add(&c.Chain)
	writeRules(tx, c)
}

func writeRules(tx *knftables.Transaction, c chain) {
	for _, r := range c.rules {
		tx.Add(&knftables.Rule{Chain: c.Name, Rule: r})
	}
}

// drop removes a map or an unreferenced chain. Maps go after the chains that look them up.
func drop(tx *knftables.Transaction, o object) {
	if o.isMap {
		tx.Delete(&knftables.Map{Name: o.name})
		return
	}
	tx.Flush(&knftables.Chain{Name: o.name})
	tx.Delete(&knftables.Chain{Name: o.name})
}

func writeElements(tx *knftables.Transaction, add map[slot]content) {
	for _, at := range slots(add) {
		tx.Add(toElement(at, add[at]))
	}
}

// slots in a fixed order, so that transactions can be compared.
func slots(m map[slot]content) []slot {
	out := make([]slot, 0, len(m))
	for at := range m {
		out = append(out, at)
	}
	slices.SortFunc(out, func(a, b slot) int {
		if c := strings.Compare(a.in, b.in); c != 0 {
			return c
		}
		return strings.Compare(a.key, b.key)
	})
	return out
}

const concat = " . "

func toElement(at slot, c content) *knftables.Element {
	e := &knftables.Element{Key: strings.Split(at.key, concat)}
	if c.comment != "" {
		e.Comment = &c.comment
	}
	if isSet(at.in) {
		e.Set = at.in
		return e
	}
	e.Map = at.in
	if c.value != "" {
		e.Value = strings.Split(c.value, concat)
	}
	return e
}

// Intact looks for a foreign flush: whether each chain has as many rules as it should. It runs no program, and its time does
// not grow with Services. Elements that others change are heard of by Watch.
func (b *Backend) Intact(ctx context.Context) (bool, error) {
	have, err := b.nft.CountRules(ctx)
	if err != nil {
		return false, err
	}
	for _, c := range b.chains() {
		if have[c.Name] != len(c.rules) {
			return false, nil
		}
	}
	return true, nil
}
