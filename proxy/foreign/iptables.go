package foreign

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/reevehq/reeve/internal/xtables"
	"github.com/reevehq/reeve/proxy/plan"
)

// dockerUser is the chain that Docker leaves to others, before its own rules.
const dockerUser = "DOCKER-USER"

// othersChains are where our jump goes rather than to a hook's own chain. Docker sets the policy and keeps a chain for others;
// firewalld's zones do not come back to that chain.
func othersChains(h hook) []string {
	behind := strings.ToUpper(string(h)) + firewalldBehind
	if h == forward {
		return []string{dockerUser, behind}
	}
	return []string{behind}
}

// keepIPTables looks at iptables' filter tables, of both kinds and families, where the kernel has them.
func (k *Keeper) keepIPTables(ctx context.Context, ports []uint16) (changed []string, troubles []Trouble, err error) {
	for _, xt := range k.handles() {
		for _, h := range hooks {
			what, err := k.keepChain(ctx, xt, h, ports)
			where := fmt.Sprintf("%s (%s) filter %s", xt.Family(), xt.Kind(), strings.ToUpper(string(h)))
			if err != nil {
				troubles = append(troubles, Trouble{Where: where, Err: err})
			} else if what != "" {
				changed = append(changed, what+" "+where)
			}
		}
	}
	return changed, troubles, nil
}

// handles are the iptables whose filter table the kernel has. One that nobody made is not made by looking.
func (k *Keeper) handles() []*xtables.Handle {
	var out []*xtables.Handle
	for _, flavor := range []xtables.Flavor{xtables.NFT, xtables.Legacy} {
		if k.cfg.IPTables != "" && k.cfg.IPTables != flavor {
			continue
		}
		for _, family := range []xtables.Family{xtables.IPv4, xtables.IPv6} {
			if xt, err := xtables.Find(family, flavor); err == nil && xt.Used("filter") {
				out = append(out, xt)
			}
		}
	}
	return out
}

// keepChain adds our jump to the chain of a hook where that drops by default, and else removes it.
func (k *Keeper) keepChain(ctx context.Context, xt *xtables.Handle, h hook, ports []uint16) (string, error) {
	builtin, own := strings.ToUpper(string(h)), k.cfg.xtChain(h)
	rules, err := xt.List("filter", builtin)
	if err != nil {
		return "", fmt.Errorf("list chain %s: %w", builtin, err)
	}
	at := builtin
	var elsewhere []string // what stands in the chain that its owner leaves to others
	for _, chain := range othersChains(h) {
		if elsewhere, err = xt.List("filter", chain); err == nil && len(elsewhere) > 0 {
			at = chain
			break
		}
	}
	drops, last := xtDropsByDefault(rules, builtin, own)
	jump := "-j " + own
	count := func(list []string) int {
		n := 0
		for _, r := range list {
			if strings.HasSuffix(r, " "+jump) {
				n++
			}
		}
		return n
	}
	here, there := count(rules), count(elsewhere)
	if !drops {
		if here+there == 0 {
			exists, err := xt.ChainExists("filter", own)
			if err != nil || !exists {
				return "", err
			}
		}
		return "removed from", k.removeChain(ctx, xt, h)
	}
	placed, ending := here, last
	if at != builtin {
		placed, ending = there, 0
	}
	want := k.cfg.xtRules(h, plan.Family(xt.Family()), ports)
	where := fmt.Sprint(xt.Family(), xt.Kind(), own)
	intact := placed == 1 && k.written[where] == strings.Join(want, "\n")
	if intact {
		have, err := xt.List("filter", own)
		intact = err == nil && len(have) == len(want)+1 // and the chain itself
	}
	if intact {
		return "", nil
	}
	var b strings.Builder
	fmt.Fprintf(&b, "*filter\n:%s - [0:0]\n", own)
	for _, r := range want {
		fmt.Fprintf(&b, "-A %s %s\n", own, r)
	}
	for range here {
		fmt.Fprintf(&b, "-D %s %s\n", builtin, jump)
	}
	for range there {
		fmt.Fprintf(&b, "-D %s %s\n", at, jump)
	}
	switch {
	case at == dockerUser:
		fmt.Fprintf(&b, "-I %s 1 %s\n", at, jump)
	case ending > 0:
		fmt.Fprintf(&b, "-I %s %d %s\n", at, ending, jump)
	default:
		fmt.Fprintf(&b, "-A %s %s\n", at, jump)
	}
	b.WriteString("COMMIT\n")
	if err := xt.Restore(ctx, []byte(b.String())); err != nil {
		return "", err
	}
	k.written[where] = strings.Join(want, "\n")
	return "accepted in", nil
}

// xtDropsByDefault reads a chain as `iptables -S` prints it: its policy, and a last rule that drops or rejects everything,
// with its number when our own jumps are left out, else 0.
func xtDropsByDefault(rules []string, builtin, own string) (bool, int) {
	drops := slices.Contains(rules, "-P "+builtin+" DROP")
	var others []string
	for _, r := range rules {
		if strings.HasPrefix(r, "-A ") && !strings.HasSuffix(r, " -j "+own) {
			others = append(others, strings.TrimPrefix(r, "-A "+builtin+" "))
		}
	}
	if n := len(others); n > 0 && (strings.HasPrefix(others[n-1], "-j REJECT") || others[n-1] == "-j DROP") {
		return true, n
	}
	return drops, 0
}

// removeChain removes our chain and what jumps there.
func (k *Keeper) removeChain(ctx context.Context, xt *xtables.Handle, h hook) error {
	own := k.cfg.xtChain(h)
	delete(k.written, fmt.Sprint(xt.Family(), xt.Kind(), own))
	var errs []error
	for _, chain := range append(othersChains(h), strings.ToUpper(string(h))) {
		errs = append(errs, xt.DeleteJump(xtables.Jump{Table: "filter", Chain: chain, Rule: "-j " + own}))
	}
	return errors.Join(append(errs, xt.DeleteChains(ctx, "filter", func(chain string) bool { return chain == own }))...)
}

// Cleanup removes everything of ours from others' firewalls, and answers whether there was anything.
func Cleanup(ctx context.Context, cfg Config) (bool, error) {
	asked, failed := cleanFirewalld(ctx)
	removed, err := cleanRules(ctx, cfg)
	return removed || asked, errors.Join(failed, err)
}

func cleanRules(ctx context.Context, cfg Config) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, keepTimeout)
	defer cancel()
	k := NewKeeper(cfg)
	removed, err := k.cleanTables(ctx)
	errs := []error{err}
	for _, xt := range k.handles() {
		for _, h := range hooks {
			exists, err := xt.ChainExists("filter", cfg.xtChain(h))
			if err == nil && exists {
				removed = true
				err = k.removeChain(ctx, xt, h)
			}
			errs = append(errs, err)
		}
	}
	return removed, errors.Join(errs...)
}
