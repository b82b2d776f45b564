package nftables

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
)

// damage is what Watch has heard that others did to the table.
type damage struct {
	mu    sync.Mutex
	rules bool            // a rule, chain, map or the table itself went
	sets  map[string]bool // elements of these maps and sets changed
	all   bool            // the kernel told more than could be heard
}

// found is what take answers.
type found struct {
	rules, all bool
	sets       map[string]bool
}

func (d *damage) note(set string, rules, all bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.rules, d.all = d.rules || rules, d.all || all
	if set != "" {
		if d.sets == nil {
			d.sets = map[string]bool{}
		}
		d.sets[set] = true
	}
}

func (d *damage) take() found {
	d.mu.Lock()
	defer d.mu.Unlock()
	out := found{d.rules, d.all, d.sets}
	d.rules, d.all, d.sets = false, false, nil
	return out
}

// Heal looks for what others did to the table since the last look, and undoes it: flushed rules are written again, and of
// the maps and sets that Watch heard to have been changed, the difference. It answers what it mended, empty when all was
// well. Only a table that was removed as a whole is written as a whole. After an error the next Apply must be full.
func (b *Backend) Heal(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, applyTimeout)
	defer cancel()
	d := b.damage.take()
	intact, err := b.Intact(ctx)
	if err != nil {
		return "", err
	}
	var mended []string
	if !intact {
		have, err := b.nft.ReadObjects(ctx)
		if err != nil {
			return "", err
		}
		for _, name := range b.collections() {
			if !have.maps[name] && !have.sets[name] {
				// A map that went took its elements along.
				return "everything", b.applyFull(ctx, maps.Clone(b.state.plans))
			}
		}
		if err := b.nft.KeepTracking(ctx); err != nil {
			return "", err
		}
		tx := b.nft.NewTransaction()
		b.writeAll(tx)
		if err := b.nft.Run(ctx, tx); err != nil {
			return "", fmt.Errorf("write the rules of table %q again: %w", b.cfg.Table, err)
		}
		mended = append(mended, "rules")
	}
	names := b.collections()
	if !d.all {
		names = slices.DeleteFunc(names, func(name string) bool { return !d.sets[name] })
	}
	if len(names) == 0 {
		return strings.Join(mended, ", "), nil
	}
	want := b.wanted(names)
	remove, add := map[slot]content{}, map[slot]content{}
	for _, name := range names {
		if err := b.compare(ctx, name, want[name], remove, add); err != nil {
			return "", err
		}
	}
	if len(remove)+len(add) == 0 {
		return strings.Join(mended, ", "), nil
	}
	if err := b.nft.WriteElements(ctx, remove, add); err != nil {
		return "", fmt.Errorf("write elements of table %q again: %w", b.cfg.Table, err)
	}
	for at := range remove {
		d.note(&mended, at.in)
	}
	for at := range add {
		d.note(&mended, at.in)
	}
	return strings.Join(mended, ", "), nil
}

// note names a map once.
func (found) note(mended *[]string, name string) {
	if name = "elements of " + name; !slices.Contains(*mended, name) {
		*mended = append(*mended, name)
	}
}

// wanted is what some maps and sets should hold, by key.
func (b *Backend) wanted(names []string) map[string]map[string]content {
	out := map[string]map[string]content{}
	for _, name := range names {
		out[name] = map[string]content{}
	}
	for name, p := range b.state.plans {
		for _, g := range b.cfg.render(p) {
			if b.state.owners[g.front] != name {
				continue
			}
			for _, e := range g.elements {
				if in := out[e.in]; in != nil {
					in[e.key] = content{e.value, e.comment}
				}
			}
		}
	}
	if in := out[hairpinSet]; in != nil {
		for addr := range b.state.hairpins {
			in[addr.String()+concat+addr.String()] = content{}
		}
	}
	return out
}
