package dns

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/reevehq/reeve/internal/xtables"
)

// A host whose INPUT policy is to drop (ufw, hardened images) would drop its pods' questions, which come in for an address
// of the host. One chain of ours accepts them.

func chainName(prefix string) string { return prefix + "-DNS" }

func firewallJump(prefix string) xtables.Jump {
	return xtables.Jump{Table: "filter", Chain: "INPUT", Rule: "-j " + chainName(prefix), First: true}
}

// firewallRules are the chain and its rules as restore input, without the jump. Pure.
func firewallRules(cfg Config, family xtables.Family) string {
	var b strings.Builder
	chain := chainName(cfg.ChainPrefix)
	fmt.Fprintf(&b, "*filter\n:%s - [0:0]\n", chain)
	for _, a := range cfg.ListenAddrs {
		if familyOf(a) != family {
			continue
		}
		for _, protocol := range []string{"udp", "tcp"} {
			fmt.Fprintf(&b, "-A %s -d %s -p %s -m %s --dport %d -j ACCEPT\n", chain, netip.PrefixFrom(a, a.BitLen()), protocol, protocol, cfg.Port)
		}
	}
	return b.String()
}

func familyOf(a netip.Addr) xtables.Family {
	if a.Is6() {
		return xtables.IPv6
	}
	return xtables.IPv4
}

func families(addrs []netip.Addr) []xtables.Family {
	var out []xtables.Family
	for _, family := range []xtables.Family{xtables.IPv4, xtables.IPv6} {
		for _, a := range addrs {
			if familyOf(a) == family {
				out = append(out, family)
				break
			}
		}
	}
	return out
}

// openFirewall writes the chain and its jump, unless both are there.
func openFirewall(ctx context.Context, cfg Config) error {
	for _, family := range families(cfg.ListenAddrs) {
		h, err := xtables.New(family, xtables.Flavor(cfg.IPTables))
		if err != nil {
			return err
		}
		saved, err := h.Save(ctx, "filter")
		if err != nil {
			return fmt.Errorf("look for the DNS rules: %w", err)
		}
		jumps := xtables.MissingJumps([]xtables.Jump{firewallJump(cfg.ChainPrefix)}, "filter", xtables.ParseSave(saved))
		if len(jumps) == 0 && strings.Contains(string(saved), "-A "+chainName(cfg.ChainPrefix)+" ") {
			continue
		}
		input := firewallRules(cfg, family)
		for _, line := range jumps {
			input += line + "\n"
		}
		if err := h.Restore(ctx, []byte(input+"COMMIT\n")); err != nil {
			return fmt.Errorf("write the DNS rules: %w", err)
		}
	}
	return nil
}

// closeFirewall removes chain and jump. A host without iptables has none.
func closeFirewall(ctx context.Context, prefix, flavor string, addrs []netip.Addr) error {
	var errs []error
	for _, family := range families(addrs) {
		h, err := xtables.New(family, xtables.Flavor(flavor))
		if err != nil {
			continue
		}
		errs = append(errs, h.DeleteJump(firewallJump(prefix)),
			h.DeleteChains(ctx, "filter", func(chain string) bool { return chain == chainName(prefix) }))
	}
	return errors.Join(errs...)
}
