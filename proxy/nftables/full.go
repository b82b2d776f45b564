package nftables

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"sigs.k8s.io/knftables"

	"github.com/reevehq/reeve/proxy/plan"
)

// applyFull makes the table what all says, whatever it holds.
func (b *Backend) applyFull(ctx context.Context, all map[plan.Name]*plan.Planned) error {
	b.state = newState()
	want := b.state.change(b.cfg, all).add
	found, err := b.nft.ListAll(ctx)
	switch {
	case knftables.IsNotFound(err):
	case err != nil:
		return fmt.Errorf("list table %q: %w", b.cfg.Table, err)
	case len(found["map"]) > 0:
		if b.reconcile(ctx, found, want) == nil {
			return b.forgetClients(ctx)
		}
		// Another version's table, or somebody else's: made anew below.
	}
	tx := b.nft.NewTransaction()
	table := &knftables.Table{Comment: knftables.PtrTo("rules of the service proxy")}
	tx.Add(table)
	tx.Delete(table)
	tx.Add(table)
	b.writeAll(tx)
	b.writeElements(tx, nil, want)
	if err := b.nft.Run(ctx, tx); err != nil {
		return fmt.Errorf("write table %q: %w", b.cfg.Table, err)
	}
	return nil
}

// writeAll makes every map, set and chain, with the chains' rules as they must be.
func (b *Backend) writeAll(tx *knftables.Transaction) {
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

// reconcile writes the difference between the table that was found and the one wanted.
func (b *Backend) reconcile(ctx context.Context, found map[string][]string, want map[slot]content) error {
	remove, add := map[slot]content{}, map[slot]content{}
	for at, c := range want {
		add[at] = c
	}
	mapsWanted, chainsWanted := map[string]bool{affinityMap: true}, map[string]bool{}
	for _, m := range b.cfg.fixedMaps() {
		mapsWanted[m.Name] = true
	}
	for o := range b.state.uses {
		if o.isMap {
			mapsWanted[o.name] = true
		}
	}
	for _, c := range b.chains() {
		chainsWanted[c.Name] = true
	}
	compare := func(kind, name string) error {
		elements, err := b.nft.ListElements(ctx, kind, name)
		if err != nil {
			return fmt.Errorf("list %s %q: %w", kind, name, err)
		}
		for _, e := range elements {
			at := slot{name, strings.Join(e.Key, concat)}
			c := content{value: strings.Join(e.Value, concat)}
			if e.Comment != nil {
				c.comment = *e.Comment
			}
			if wanted, ok := add[at]; ok && wanted == c {
				delete(add, at)
			} else {
				remove[at] = c
			}
		}
		return nil
	}
	var unusedMaps, unusedChains []string
	for _, name := range found["map"] {
		if name == affinityMap {
			continue
		}
		if !mapsWanted[name] {
			unusedMaps = append(unusedMaps, name)
		} else if err := compare("map", name); err != nil {
			return err
		}
	}
	for _, name := range found["set"] {
		if isSet(name) {
			if err := compare("set", name); err != nil {
				return err
			}
		}
	}
	for _, name := range found["chain"] {
		if !chainsWanted[name] {
			unusedChains = append(unusedChains, name)
		}
	}
	slices.Sort(unusedMaps)
	slices.Sort(unusedChains)

	tx := b.nft.NewTransaction()
	tx.Add(&knftables.Table{})
	b.writeAll(tx)
	for _, name := range unusedChains {
		tx.Flush(&knftables.Chain{Name: name})
	}
	b.writeElements(tx, remove, add)
	for _, name := range unusedMaps {
		tx.Delete(&knftables.Map{Name: name})
	}
	for _, name := range unusedChains {
		tx.Delete(&knftables.Chain{Name: name})
	}
	return b.nft.Run(ctx, tx)
}
