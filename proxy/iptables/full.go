package iptables

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/reevehq/reeve/internal/xtables"
	"github.com/reevehq/reeve/proxy/plan"
)

// full renders everything, and answers the restore input that leads there from what the tables hold, or nil when they are
// the same: chains that differ, jumps that are missing, and without the chains that nobody needs.
func (b *Backend) full(ctx context.Context, all map[plan.Name]*plan.Planned) ([]byte, error) {
	names := make([]plan.Name, 0, len(all))
	for name := range all {
		names = append(names, name)
	}
	slices.SortFunc(names, func(a, c plan.Name) int { return strings.Compare(a.String(), c.String()) })
	want := map[string]map[string]wanted{}
	declared := func(table string, c chainRules, last int) { want[table][c.name] = wanted{c.rules, last} }
	for _, table := range tables {
		want[table] = map[string]wanted{}
		for _, c := range b.cfg.fixed(table) {
			declared(table, c, len(c.rules))
		}
	}
	var lines [dispatchChains][]string
	for _, name := range names {
		if all[name] == nil {
			continue
		}
		r := b.cfg.render(*all[name])
		b.remember(name, r)
		for _, c := range r.chains {
			declared("nat", c, len(c.rules))
		}
		for w, l := range r.lines {
			lines[w] = append(lines[w], l...)
		}
	}
	for w := range dispatchChains {
		last := b.cfg.last(w)
		declared(w.table(), chainRules{b.cfg.dispatch(w), append(lines[w], last...)}, len(last))
	}

	var out bytes.Buffer
	b.written = map[string]int{}
	for _, table := range tables {
		saved, err := b.xt.Save(ctx, table)
		if err != nil {
			return nil, fmt.Errorf("read table %s: %w", table, err)
		}
		found := xtables.ParseSave(saved)
		same := unchanged(saved, found.Chains, want[table])
		e := &edit{}
		for _, name := range slices.Sorted(maps.Keys(want[table])) {
			if !same[name] {
				e.chain(name, want[table][name].rules)
			}
		}
		for _, chain := range found.Chains {
			if _, wanted := want[table][chain]; !wanted && b.cfg.mine(chain) {
				e.drop(chain)
			}
		}
		for _, line := range xtables.MissingJumps(b.cfg.jumps(), table, found) {
			e.rules.WriteString(line + "\n")
		}
		b.write(e, &out, table)
	}
	if out.Len() == 0 {
		return nil, nil
	}
	return out.Bytes(), nil
}

// wanted are a chain's rules. Of the last ones the order matters, of those before it does not.
type wanted struct {
	rules []string
	last  int
}

// unchanged are the chains that a saved table has as they are wanted, by name. Rules are rendered in iptables-save's own
// words; where another version's differ, a chain is written once more than it must.
func unchanged(saved []byte, chains []string, want map[string]wanted) map[string]bool {
	same := make(map[string]bool, len(chains))
	for _, c := range chains {
		_, same[c] = want[c]
	}
	at := map[string]int{}
	loose := map[string]map[string]int{} // how often a rule is wanted among those that have no order
	for chain, rule := range xtables.SavedRules(saved) {
		if !same[chain] {
			continue
		}
		w, i := want[chain], at[chain]
		at[chain]++
		if i >= len(w.rules)-w.last {
			same[chain] = i < len(w.rules) && w.rules[i] == rule
			continue
		}
		if loose[chain] == nil {
			loose[chain] = map[string]int{}
			for _, r := range w.rules[:len(w.rules)-w.last] {
				loose[chain][r]++
			}
		}
		loose[chain][rule]--
		same[chain] = loose[chain][rule] >= 0
	}
	for c := range same {
		same[c] = same[c] && at[c] == len(want[c].rules)
	}
	return same
}
