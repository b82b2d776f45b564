package iptables

import (
	"context"
	"fmt"
	"net/netip"
	"strings"

	"github.com/reevehq/reeve/internal/xtables"
	"github.com/reevehq/reeve/proxy/plan"
)

// jumps into our chains, in the order that they must have in their chain. They go before everybody else's rules: a packet
// must get its real destination before others judge it.
func (c Config) jumps() []xtables.Jump {
	const first = "-m conntrack --ctstate NEW -j "
	out := []xtables.Jump{
		{Table: "nat", Chain: "PREROUTING", Rule: "-j " + c.chain("SERVICES"), First: true},
		{Table: "nat", Chain: "OUTPUT", Rule: "-j " + c.chain("SERVICES"), First: true},
		{Table: "nat", Chain: "POSTROUTING", Rule: "-j " + c.chain("POSTROUTING"), First: true},
		{Table: "filter", Chain: "INPUT", Rule: first + c.chain("PROXY-FIREWALL"), First: true},
		{Table: "filter", Chain: "INPUT", Rule: "-j " + c.chain("NODEPORTS"), First: true},
		{Table: "filter", Chain: "INPUT", Rule: first + c.chain("EXTERNAL-SERVICES"), First: true},
		{Table: "filter", Chain: "INPUT", Rule: "-j " + c.chain("FIREWALL"), First: true},
		{Table: "filter", Chain: "FORWARD", Rule: first + c.chain("PROXY-FIREWALL"), First: true},
		{Table: "filter", Chain: "FORWARD", Rule: "-j " + c.chain("FORWARD"), First: true},
		{Table: "filter", Chain: "FORWARD", Rule: first + c.chain("SERVICES"), First: true},
		{Table: "filter", Chain: "FORWARD", Rule: first + c.chain("EXTERNAL-SERVICES"), First: true},
		{Table: "filter", Chain: "OUTPUT", Rule: first + c.chain("PROXY-FIREWALL"), First: true},
		{Table: "filter", Chain: "OUTPUT", Rule: first + c.chain("SERVICES"), First: true},
	}
	if c.opensLoopback() {
		out = append(out, c.guardJump())
	}
	return out
}

// opensLoopback reports that node ports answer on 127.0.0.1, for which route_localnet is on.
func (c Config) opensLoopback() bool { return c.Facts.LocalhostNodePorts && c.Family == plan.IPv4 }

// guardJump leads to the chain that keeps neighbours off loopback addresses. It comes before any translation.
func (c Config) guardJump() xtables.Jump {
	return xtables.Jump{Table: "mangle", Chain: "PREROUTING", Rule: "-j " + c.chain("FIREWALL"), First: true}
}

// everyJump is every jump that some configuration has.
func (c Config) everyJump() []xtables.Jump {
	c.Facts.LocalhostNodePorts = false
	return append(c.jumps(), c.guardJump())
}

// GuardsLoopback reports that the rules which keep neighbours off loopback addresses are in place.
func GuardsLoopback(ctx context.Context, c Config, xt *xtables.Handle) bool {
	if !xt.Used("mangle") {
		return false
	}
	j := c.guardJump()
	ok, err := xt.Exists(j.Table, j.Chain, strings.Fields(j.Rule)...)
	return err == nil && ok
}

// canaryRule makes a chain whose rule tells that nobody flushed the table: emptied, its rule is gone; deleted, the chain.
const canaryRule = "-m comment --comment flushed-with-its-table"

func (c Config) canary() string { return c.chain("PROXY-CANARY") }

// fixed are the chains with the same rules whatever the Services are.
func (c Config) fixed(table string) []chainRules {
	mark := c.mark()
	loopback := "127.0.0.0/8"
	if c.Family == plan.IPv6 {
		loopback = "::1/128"
	}
	bit := fmt.Sprintf("%#x", uint32(1)<<c.MarkBit)
	canary := chainRules{c.canary(), []string{canaryRule}}
	switch table {
	case "nat":
		off := chainRules{name: c.chain("MARK-OFF-CLUSTER")}
		for _, in := range c.inside() {
			off.rules = append(off.rules, in+" -j RETURN")
		}
		off.rules = append(off.rules, "-j "+c.chain("MARK-MASQ"))
		return []chainRules{
			{c.chain("POSTROUTING"), []string{
				"-m mark ! --mark " + mark + " -j RETURN",
				// The mark must be clear when the packet is encapsulated or looped, or it would be masqueraded again.
				"-j MARK --set-xmark " + bit + "/0x0",
				"-j MASQUERADE --random-fully",
			}},
			{c.chain("MARK-MASQ"), []string{"-j MARK --set-xmark " + mark}},
			off,
			canary,
		}
	case "filter":
		firewall := chainRules{name: c.chain("FIREWALL")}
		if c.opensLoopback() {
			// route_localnet is on for node ports on 127.0.0.1; neighbours must not gain by it (CVE-2020-8558).
			firewall.rules = []string{"! -s " + loopback + " -d " + loopback + " -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP"}
		}
		return []chainRules{
			{c.chain("FORWARD"), []string{
				// A packet that conntrack disowns would leave with its untranslated address and kill the connection.
				"-m conntrack --ctstate INVALID -j DROP",
				"-m mark --mark " + mark + " -j ACCEPT",
				"-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
			}},
			firewall,
			canary,
		}
	default: // mangle
		// Plugins' images choose between iptables-nft and iptables-legacy by where this chain is.
		guard := chainRules{name: c.chain("FIREWALL")}
		if c.opensLoopback() {
			guard.rules = []string{"-d " + loopback + " ! -i lo -j DROP", "-s " + loopback + " ! -i lo -j DROP"}
		}
		return []chainRules{{c.chain("IPTABLES-HINT"), nil}, guard, canary}
	}
}

// last are the lines that end a dispatch chain.
func (c Config) last(w where) []string {
	if w != natServices {
		return nil
	}
	to := "-m addrtype --dst-type LOCAL -j " + c.chain("NODEPORTS")
	var addresses []netip.Prefix
	for _, p := range c.Facts.NodePortAddresses {
		if plan.FamilyOf(p.Addr()) == c.Family {
			addresses = append(addresses, p)
		}
	}
	switch {
	case len(c.Facts.NodePortAddresses) > 0:
		var out []string
		for _, p := range addresses {
			out = append(out, "-d "+p.Masked().String()+" "+to)
		}
		return out
	case c.Family == plan.IPv6:
		return []string{"! -d ::1/128 " + to}
	case c.Facts.LocalhostNodePorts:
		return []string{to}
	default:
		return []string{"! -d 127.0.0.0/8 " + to}
	}
}
