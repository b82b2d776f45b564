package nftables

import (
	"context"
	"fmt"
	"slices"

	"sigs.k8s.io/knftables"

	"github.com/reevehq/reeve/proxy/plan"
)

// applyFull makes the table what all says, whatever it holds.
func (b *Backend) applyFull(ctx context.Context, all map[plan.Name]*plan.Planned) error {
	b.state = newState()
	clear(b.idle)
	b.damage.take() // whatever it was is mended here
	want := b.state.change(b.cfg, all).add
	if err := b.nft.KeepTracking(ctx); err != nil {
		return err
	}
	found, err := b.nft.ReadObjects(ctx)
	if err != nil {
		return err
	}
	if found.none() {
		tx := b.nft.NewTransaction()
		b.writeAll(tx)
		if err := b.nft.Run(ctx, tx); err != nil {
			return fmt.Errorf("write table %q: %w", b.cfg.Table, err)
		}
		return b.nft.WriteElements(ctx, nil, want)
	}
	if b.reconcile(ctx, found, want) == nil {
		return b.forgetClients(ctx)
	}
	// Another version's table, or somebody else's: made anew, all at once, so that there is no moment without rules.
	tx := b.nft.NewTransaction()
	tx.Add(&knftables.Table{})
	tx.Delete(&knftables.Table{})
	b.writeAll(tx)
	writeElements(tx, want)
	if err := b.nft.Run(ctx, tx); err != nil {
		return fmt.Errorf("write table %q: %w", b.cfg.Table, err)
	}
	return nil
}

// writeAll makes the table and every map, set and chain, with the chains' rules as they must be.
func (b *Backend) writeAll(tx *knftables.Transaction) {
	tx.Add(&knftables.Table{Comment: knftables.PtrTo("rules of the service proxy")})
	for _, m := range b.cfg.fixedMaps() {
		tx.Add(m)
	}
	for _, s := range b.cfg.fixedSets() {
		tx.Add(s)
	}
	for _, o := range sorted(b.objects()) {
		if o.isMap {
			tx.Add(b.cfg.numberedMap(o.name))
		}
	}
	chains := b.chains()
	for i := range chains {
		tx.Add(&chains[i].Chain)
		tx.Flush(&chains[i].Chain)
	}
	for _, c := range chains {
		writeRules(tx, c)
	}
}

func (b *Backend) objects() []object {
	out := make([]object, 0, len(b.state.uses))
	for o := range b.state.uses {
		out = append(out, o)
	}
	return out
}

// collections are the names of every map and set that the state needs, but for affinity's, which packets fill.
func (b *Backend) collections() []string {
	var out []string
	for _, m := range b.cfg.fixedMaps() {
		if m.Name != affinityMap {
			out = append(out, m.Name)
		}
	}
	for _, s := range b.cfg.fixedSets() {
		out = append(out, s.Name)
	}
	for o := range b.state.uses {
		if o.isMap {
			out = append(out, o.name)
		}
	}
	slices.Sort(out)
	return out
}

// reconcile writes the difference between the table that was found and the one wanted. Objects come first, then elements,
// then what nothing needs any more goes.
func (b *Backend) reconcile(ctx context.Context, found objects, want map[slot]content) error {
	tx := b.nft.NewTransaction()
	b.writeAll(tx)
	if err := b.nft.Run(ctx, tx); err != nil {
		return err
	}
	wanted := map[string]map[string]content{}
	for at, c := range want {
		if wanted[at.in] == nil {
			wanted[at.in] = map[string]content{}
		}
		wanted[at.in][at.key] = c
	}
	names := b.collections()
	used := map[string]bool{affinityMap: true}
	for _, name := range names {
		used[name] = true
	}
	remove, add := map[slot]content{}, map[slot]content{}
	for _, name := range names {
		if err := b.compare(ctx, name, wanted[name], remove, add); err != nil {
			return err
		}
	}
	// Chains that others made here would come back as strangers' verdicts: every element that leads to them is gone now.
	if len(remove)+len(add) > 0 {
		if err := b.write(ctx, remove, add); err != nil {
			return err
		}
	}
	return b.dropUnused(ctx, found, used)
}

// compare notes how a map or set differs from what it should hold.
func (b *Backend) compare(ctx context.Context, name string, want map[string]content, remove, add map[slot]content) error {
	have, err := b.nft.ReadElements(ctx, name)
	if err != nil {
		return err
	}
	for key, c := range have {
		if want[key] != c {
			remove[slot{name, key}] = c
		} else if _, ok := want[key]; !ok {
			remove[slot{name, key}] = c
		}
	}
	for key, c := range want {
		if has, ok := have[key]; !ok || has != c {
			add[slot{name, key}] = c
		}
	}
	return nil
}

// dropUnused removes the chains and maps that were found and are not needed.
func (b *Backend) dropUnused(ctx context.Context, found objects, used map[string]bool) error {
	chains := map[string]bool{}
	for _, c := range b.chains() {
		chains[c.Name] = true
	}
	tx := b.nft.NewTransaction()
	var unused []string
	for name := range found.chains {
		if !chains[name] {
			unused = append(unused, name)
		}
	}
	slices.Sort(unused)
	for _, name := range unused {
		tx.Flush(&knftables.Chain{Name: name})
	}
	for _, name := range unused {
		tx.Delete(&knftables.Chain{Name: name})
	}
	unused = nil
	for name := range found.maps {
		if !used[name] {
			unused = append(unused, name)
		}
	}
	slices.Sort(unused)
	for _, name := range unused {
		// A verdict map's elements may refer to a chain that goes.
		tx.Delete(&knftables.Map{Name: name})
	}
	if tx.NumOperations() == 0 {
		return nil
	}
	return b.nft.Run(ctx, tx)
}
