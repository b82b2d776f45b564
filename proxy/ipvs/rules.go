package ipvs

import (
	"bytes"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/reevehq/reeve/internal/xtables"
	"github.com/reevehq/reeve/proxy/plan"
)

// tables that the backend writes, in order.
var tables = []string{"mangle", "nat", "filter"}

// jumps into our chains. They go before everybody else's rules.
func (c Config) jumps() []xtables.Jump {
	out := []xtables.Jump{
		c.jump("nat", "PREROUTING", "SERVICES"),
		c.jump("nat", "OUTPUT", "SERVICES"),
		c.jump("nat", "POSTROUTING", "POSTROUTING"),
		c.jump("filter", "INPUT", "INPUT"),
	}
	if c.Label == 0 {
		out = append(out, c.jump("filter", "FORWARD", "FORWARD"))
	}
	return out
}

func (c Config) jump(table, from, to string) xtables.Jump {
	return xtables.Jump{Table: table, Chain: from, Rule: "-j " + c.chain(to), First: true}
}

// guard is the jump that keeps local clients out of frontends with source ranges. It is there while any frontend has some:
// every packet that leaves the node would pass its hook. IPVS takes local clients' packets between nat's and filter's OUTPUT,
// and others' after filter's INPUT. What it has sent on passes OUTPUT too, and leaves by another device.
func (c Config) guard() xtables.Jump {
	j := c.jump("mangle", "OUTPUT", "FIREWALL")
	j.Rule = "-o lo " + j.Rule
	return j
}

// guardInput is the restore input that puts the guard in its place, or takes it away.
func (c Config) guardInput(there bool) []byte {
	j, verb := c.guard(), "-D %s %s"
	if there {
		verb = "-I %s 1 %s"
	}
	return fmt.Appendf(nil, "*%s\n"+verb+"\nCOMMIT\n", j.Table, j.Chain, j.Rule)
}

type chainRules struct {
	name  string
	rules []string
}

// A line is a rule of a Service's, and the chain that it stands in.
type line struct{ table, chain, rule string }

// detourLine sends clients from inside, of a frontend that only they are sent here for, to another.
func (c Config) detourLine(at frontend, to netip.AddrPort) line {
	proto := protocolName(at.proto)
	return line{"nat", c.chain("DETOURS"), fmt.Sprintf("-d %s -p %s -m %s --dport %d -j DNAT --to-destination %s", hostPrefix(at.addr), proto, proto, at.port, to)}
}

func (c Config) healthLine(port uint16) line {
	return line{"filter", c.chain("HEALTH-PORTS"), fmt.Sprintf("-p tcp -m tcp --dport %d -j ACCEPT", port)}
}

// fixed are the chains of a table with their rules that no Service changes; lines of Services follow them.
func (c Config) fixed(table string) []chainRules {
	bit := fmt.Sprintf("%#x", uint32(1)<<c.MarkBit)
	mark := bit + "/" + bit
	in := func(s setID, directions string) string { return "-m set --match-set " + c.set(s) + " " + directions }
	const isNew = "-m conntrack --ctstate NEW "
	// refused is what comes from outside a frontend's source ranges.
	refused := in(setFirewall, "dst,dst") + " -m set ! --match-set " + c.set(setAllow) + " dst,dst,src"
	var label []string
	if c.Label != 0 {
		label = []string{c.label()}
	}
	switch table {
	case "mangle":
		return []chainRules{{c.chain("FIREWALL"), []string{isNew + refused + " -j DROP"}}}
	case "nat":
		// Seen by the first packet of a connection only. Most go to ClusterIPs: these are told apart first, by one look.
		toMark := c.chain("MARK")
		inside := c.inside()
		cluster := chainRules{name: c.chain("CLUSTER-IPS")}
		if !c.Facts.MasqueradeAll {
			for _, from := range inside {
				match := strings.Join(append([]string{from}, label...), " ")
				cluster.rules = append(cluster.rules, match+" -j RETURN")
			}
		}
		cluster.rules = append(cluster.rules, label...)
		if c.Facts.MasqueradeAll || len(inside) > 0 {
			cluster.rules = append(cluster.rules, "-j "+toMark)
		} else {
			// The node itself sends from the address that it sends to, which is every node's own.
			cluster.rules = append(cluster.rules, in(setAddresses, "src")+" -j "+toMark)
		}
		local := chainRules{name: c.chain("LOCAL")}
		for _, from := range append(inside, "-m addrtype --src-type LOCAL") {
			local.rules = append(local.rules, from+" "+in(setLocal, "dst,dst")+" -j "+c.chain("DETOURS"))
		}
		external := chainRules{c.chain("EXTERNAL"), slices.Concat([]string{refused + " -j RETURN"}, label,
			[]string{"-j " + local.name, in(setMasq, "dst,dst") + " -j " + toMark})}
		return []chainRules{
			{c.chain("MARK"), []string{"-j MARK --set-xmark " + mark}},
			cluster, local, external,
			{c.chain("SERVICES"), []string{
				in(setCluster, "dst,dst") + " -g " + cluster.name,
				in(setServices, "dst,dst") + " -g " + external.name,
				in(setDrop, "dst,dst") + " -g " + local.name,
			}},
			{c.chain("DETOURS"), []string{"-m addrtype --src-type LOCAL -j " + toMark}},
			{c.chain("POSTROUTING"), []string{
				in(setHairpin, "dst,dst,src") + " -j " + toMark,
				"-m mark ! --mark " + mark + " -j RETURN",
				// The mark must be clear when the packet is encapsulated or looped, or it would be masqueraded again.
				"-j MARK --set-xmark " + bit + "/0x0",
				"-j MASQUERADE --random-fully",
			}},
		}
	default: // filter
		reject := "icmp-port-unreachable"
		if c.Family == plan.IPv6 {
			reject = "icmp6-port-unreachable"
		}
		var labelled []string
		if c.Label != 0 {
			labelled = []string{fmt.Sprintf(`-m connlabel --label "%d" -j ACCEPT`, c.Label)} // a bit, where sets are looked up
		}
		out := []chainRules{
			{c.chain("INPUT"), append(labelled,
				isNew+refused+" -j DROP",
				isNew+in(setDrop, "dst,dst")+" -j DROP",
				in(setServices, "dst,dst")+" -j ACCEPT",
				in(setAddresses, "dst")+" -m conntrack --ctstate RELATED,ESTABLISHED,DNAT -j ACCEPT",
				"-j "+c.chain("HEALTH-PORTS"),
				in(setAddresses, "dst")+" -j REJECT --reject-with "+reject,
			)},
			{c.chain("HEALTH-PORTS"), nil},
		}
		// What servers answer is forwarded. Where that would be dropped, package foreign accepts it by the label; a hook of
		// our own, which every forwarded packet passes, is for kernels without labels.
		if c.Label == 0 {
			out = append(out, chainRules{c.chain("FORWARD"), []string{"-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT", "-m mark --mark " + mark + " -j ACCEPT"}})
		}
		return out
	}
}

// label is the match that gives a connection our label.
func (c Config) label() string { return fmt.Sprintf(`-m connlabel --label "%d" --set`, c.Label) }

// inside are matches of what comes from pods.
func (c Config) inside() []string {
	if name := c.Facts.LocalInterface; name != "" {
		if c.Facts.LocalInterfaceIsPrefix {
			name += "+"
		}
		return []string{"-i " + name}
	}
	var out []string
	for _, p := range c.Facts.ClusterCIDRs {
		if plan.FamilyOf(p.Addr()) == c.Family {
			out = append(out, "-s "+p.Masked().String())
		}
	}
	return out
}

// rulesInput is the restore input that makes every chain what it is to be, with the lines of all Services, and puts the
// jumps, the guard not among them, in their places, where saved, each table in iptables-save's words, differs; nil where it
// does not. Rules are in those words too; where another version's differ, a chain is written once more than it must.
func (c Config) rulesInput(lines []line, saved map[string][]byte) []byte {
	var out bytes.Buffer
	for _, table := range tables {
		found := xtables.ParseSave(saved[table])
		have := map[string][]string{}
		for chain, rule := range xtables.SavedRules(saved[table]) {
			have[chain] = append(have[chain], rule)
		}
		of := map[string][]string{}
		for _, l := range lines {
			if l.table == table {
				of[l.chain] = append(of[l.chain], l.rule)
			}
		}
		var names, rules strings.Builder
		for _, ch := range c.fixed(table) {
			if slices.Contains(found.Chains, ch.name) && ch.same(have[ch.name], of[ch.name]) {
				continue
			}
			names.WriteString(":" + ch.name + " - [0:0]\n")
			for _, r := range slices.Concat(ch.rules, of[ch.name]) {
				rules.WriteString("-A " + ch.name + " " + r + "\n")
			}
		}
		for _, line := range xtables.MissingJumps(c.jumps(), table, found) {
			rules.WriteString(line + "\n")
		}
		rules.WriteString(c.withoutForward(table, found))
		if names.Len()+rules.Len() > 0 {
			out.WriteString("*" + table + "\n" + names.String() + rules.String() + "COMMIT\n")
		}
	}
	return out.Bytes()
}

// withoutForward removes the hook for kernels without labels where it is there and need not be.
func (c Config) withoutForward(table string, found xtables.Saved) string {
	j, name := c.jump("filter", "FORWARD", "FORWARD"), c.chain("FORWARD")
	if table != j.Table || c.Label == 0 || !slices.Contains(found.Chains, name) {
		return ""
	}
	return strings.Repeat("-D "+j.Chain+" "+j.Rule+"\n", found.Rules[j.Chain][j.Rule]) + "-F " + name + "\n-X " + name + "\n"
}

// same reports that a chain has its rules, and after them those lines in any order.
func (ch chainRules) same(have, lines []string) bool {
	n := len(ch.rules)
	if len(have) != n+len(lines) || !slices.Equal(have[:n], ch.rules) {
		return false
	}
	return slices.Equal(slices.Sorted(slices.Values(have[n:])), slices.Sorted(slices.Values(lines)))
}

// linesInput is the restore input for added and removed lines, nil for none.
func linesInput(added, removed []line) []byte {
	var out bytes.Buffer
	for _, table := range tables {
		begun := false
		write := func(verb string, lines []line) {
			for _, l := range lines {
				if l.table != table {
					continue
				}
				if !begun {
					out.WriteString("*" + table + "\n")
					begun = true
				}
				out.WriteString(verb + " " + l.chain + " " + l.rule + "\n")
			}
		}
		write("-D", removed)
		write("-A", added)
		if begun {
			out.WriteString("COMMIT\n")
		}
	}
	return out.Bytes()
}
