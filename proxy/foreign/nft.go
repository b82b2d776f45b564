package foreign

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/reevehq/reeve/proxy/plan"
)

// keepTables looks at nftables' tables, but for ours and iptables'.
func (k *Keeper) keepTables(ctx context.Context, conn *nftables.Conn, ports []uint16) (changed []string, troubles []Trouble, err error) {
	chains, err := conn.ListChains()
	if err != nil {
		return nil, nil, fmt.Errorf("list nftables' chains: %w", err)
	}
	type place struct {
		table nftables.Table
		h     hook
	}
	needed := map[place][]*nftables.Chain{} // our chain's place → the chains that must jump there
	dropping := map[place]string{}          // and the name of the base chain that drops
	ours := map[place]*nftables.Chain{}
	for _, c := range chains {
		if c.Table == nil || c.Table.Name == k.cfg.Table || isIPTables(uint8(c.Table.Family), c.Table.Name) {
			continue
		}
		if c.Table.Name == firewalldPanic {
			continue
		}
		if len(familiesOf(c.Table)) == 0 {
			continue
		}
		at := nftables.Table{Name: c.Table.Name, Family: c.Table.Family}
		for _, h := range hooks {
			if c.Name == k.cfg.chain(h) {
				ours[place{at, h}] = c
			}
			if !onHook(c, h) {
				continue
			}
			rules, err := conn.GetRules(c.Table, c)
			if err != nil {
				return changed, troubles, fmt.Errorf("list rules of chain %s: %w", name(c), err)
			}
			if drops, _ := dropsByDefault(c, rules, k.cfg.chain(h)); drops {
				needed[place{at, h}] = append(needed[place{at, h}], before(c, chains))
				dropping[place{at, h}] = name(c)
			}
		}
	}
	for at, base := range needed {
		done, err := k.acceptIn(ctx, conn, at.table, at.h, base, ours[place(at)], ports)
		if done {
			changed = append(changed, "accepted in "+dropping[at])
		}
		if err != nil {
			troubles = append(troubles, Trouble{Where: dropping[at], Err: err, firewalld: isFirewalld(at.table.Name), hook: at.h})
		}
	}
	for at, c := range ours {
		if len(needed[at]) > 0 {
			continue
		}
		if err := removeFrom(ctx, conn, chains, c); err != nil {
			troubles = append(troubles, Trouble{Where: name(c), Err: err})
			continue
		}
		delete(k.written, name(c))
		changed = append(changed, "removed "+name(c))
	}
	return changed, troubles, nil
}

const (
	// firewalldTable is firewalld's, whose base chains end by leaving a packet to the chain of its zone, which does not come
	// back. Behind all that the zone's owner allows or forbids, and before the zone's last rule, that jumps to the chains of
	// this suffix.
	firewalldTable  = "firewalld"
	firewalldBehind = "_POLICIES_post"
	// firewalldPanic is the table by which firewalld drops everything, for as long as it reloads or its owner panics.
	firewalldPanic = "firewalld_policy_drop"
)

func isFirewalld(table string) bool { return table == firewalldTable }

// before answers the chain of which the end comes before a base chain drops: itself, but with firewalld.
func before(c *nftables.Chain, all []*nftables.Chain) *nftables.Chain {
	if !isFirewalld(c.Table.Name) {
		return c
	}
	for _, o := range all {
		if o.Table != nil && o.Table.Name == c.Table.Name && o.Table.Family == c.Table.Family && o.Name == c.Name+firewalldBehind {
			return o
		}
	}
	return c
}

func familiesOf(t *nftables.Table) []plan.Family {
	switch t.Family {
	case nftables.TableFamilyIPv4:
		return []plan.Family{plan.IPv4}
	case nftables.TableFamilyIPv6:
		return []plan.Family{plan.IPv6}
	case nftables.TableFamilyINet:
		return []plan.Family{plan.IPv4, plan.IPv6}
	}
	return nil
}

func familyWord(t *nftables.Table) string {
	return map[nftables.TableFamily]string{
		nftables.TableFamilyIPv4: "ip", nftables.TableFamilyIPv6: "ip6", nftables.TableFamilyINet: "inet",
	}[t.Family]
}

func name(c *nftables.Chain) string { return familyWord(c.Table) + " " + c.Table.Name + " " + c.Name }

func onHook(c *nftables.Chain, h hook) bool {
	if c.Hooknum == nil || c.Type != nftables.ChainTypeFilter {
		return false
	}
	want := uint32(unix.NF_INET_FORWARD)
	if h == input {
		want = unix.NF_INET_LOCAL_IN
	}
	return uint32(*c.Hooknum) == want
}

// dropsByDefault reports a base chain that drops or rejects what it does not know, by its policy or by a last rule without
// any match; that rule's handle, else 0. Our own jump does not count as a rule.
func dropsByDefault(c *nftables.Chain, rules []*nftables.Rule, own string) (bool, uint64) {
	rules = slices.DeleteFunc(slices.Clone(rules), func(r *nftables.Rule) bool { return jumpsTo(r, own) })
	if n := len(rules); n > 0 && endsAll(rules[n-1]) {
		return true, rules[n-1].Handle
	}
	return c.Policy != nil && *c.Policy == nftables.ChainPolicyDrop, 0
}

// endsAll reports a rule that drops or rejects every packet.
func endsAll(r *nftables.Rule) bool {
	ends := false
	for _, e := range r.Exprs {
		switch e := e.(type) {
		case *expr.Counter, *expr.Log:
		case *expr.Reject:
			ends = true
		case *expr.Verdict:
			if e.Kind != expr.VerdictDrop {
				return false
			}
			ends = true
		default:
			return false
		}
	}
	return ends
}

func jumpsTo(r *nftables.Rule, chain string) bool {
	return slices.ContainsFunc(r.Exprs, func(e expr.Any) bool {
		v, ok := e.(*expr.Verdict)
		return ok && v.Kind == expr.VerdictJump && v.Chain == chain
	})
}

// acceptIn makes our chain in a table and lets the base chains jump there, unless all of that is so.
func (k *Keeper) acceptIn(ctx context.Context, conn *nftables.Conn, t nftables.Table, h hook, base []*nftables.Chain, ours *nftables.Chain, ports []uint16) (bool, error) {
	family, own := familyWord(&t), k.cfg.chain(h)
	rules := k.cfg.nftRules(h, familiesOf(&t), ports)
	text := strings.Join(rules, "\n")
	where := family + " " + t.Name + " " + own

	var script bytes.Buffer
	intact := false
	if ours != nil && k.written[where] == text {
		have, err := conn.GetRules(ours.Table, ours)
		if err != nil {
			return false, fmt.Errorf("list rules of chain %s: %w", where, err)
		}
		intact = len(have) == len(rules)
	}
	if !intact {
		fmt.Fprintf(&script, "add chain %s\nflush chain %[1]s\n", where)
		for _, r := range rules {
			fmt.Fprintf(&script, "add rule %s %s\n", where, r)
		}
	}
	for _, c := range base {
		have, err := conn.GetRules(c.Table, c)
		if err != nil {
			return false, fmt.Errorf("list rules of chain %s: %w", name(c), err)
		}
		_, last := dropsByDefault(c, have, own)
		placed, ended := 0, false
		for _, r := range have {
			switch {
			case r.Handle == last && last != 0:
				ended = true
			case jumpsTo(r, own) && !ended:
				placed++
			case jumpsTo(r, own): // behind the rule that ends all
				fmt.Fprintf(&script, "delete rule %s handle %d\n", name(c), r.Handle)
			}
		}
		if placed > 0 {
			continue
		}
		const rule = `jump %s comment "Service proxy"`
		if last != 0 {
			fmt.Fprintf(&script, "insert rule %s position %d "+rule+"\n", name(c), last, own)
		} else {
			fmt.Fprintf(&script, "add rule %s "+rule+"\n", name(c), own)
		}
	}
	if script.Len() == 0 {
		return false, nil
	}
	if err := run(ctx, script.String()); err != nil {
		return false, err
	}
	k.written[where] = text
	return true, nil
}

// removeFrom removes our chain from a table, and what jumps there.
func removeFrom(ctx context.Context, conn *nftables.Conn, all []*nftables.Chain, ours *nftables.Chain) error {
	var script bytes.Buffer
	for _, c := range all {
		if c.Hooknum == nil && !strings.HasSuffix(c.Name, firewalldBehind) || c.Table == nil || c.Table.Name != ours.Table.Name || c.Table.Family != ours.Table.Family {
			continue
		}
		rules, err := conn.GetRules(c.Table, c)
		if err != nil {
			return fmt.Errorf("list rules of chain %s: %w", name(c), err)
		}
		for _, r := range rules {
			if jumpsTo(r, ours.Name) {
				fmt.Fprintf(&script, "delete rule %s handle %d\n", name(c), r.Handle)
			}
		}
	}
	fmt.Fprintf(&script, "flush chain %s\ndelete chain %[1]s\n", name(ours))
	return run(ctx, script.String())
}

// run gives nft a script, which it takes as a whole or not at all.
func run(ctx context.Context, script string) error {
	path, err := exec.LookPath("nft")
	if err != nil {
		return errors.New("the nft command is missing (install the nftables package)")
	}
	cmd := exec.CommandContext(ctx, path, "-f", "-")
	cmd.Stdin = strings.NewReader(script)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("run nft: %w: %s", err, strings.TrimSpace(stderr.String()))
	}
	return nil
}

// cleanTables removes our chains from nftables' tables.
func (k *Keeper) cleanTables(ctx context.Context) (removed bool, err error) {
	conn, err := nftables.New()
	if err != nil {
		return false, fmt.Errorf("open nftables: %w", err)
	}
	chains, err := conn.ListChains()
	if err != nil {
		return false, fmt.Errorf("list nftables' chains: %w", err)
	}
	var errs []error
	for _, c := range chains {
		if c.Table == nil || c.Table.Name == k.cfg.Table || isIPTables(uint8(c.Table.Family), c.Table.Name) {
			continue
		}
		for _, h := range hooks {
			if c.Name == k.cfg.chain(h) {
				removed = true
				errs = append(errs, removeFrom(ctx, conn, chains, c))
			}
		}
	}
	return removed, errors.Join(errs...)
}
