package foreign

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/reevehq/reeve/internal/xtables"
	"github.com/reevehq/reeve/proxy/plan"
)

// Config says whose traffic passes and how our chains are named.
type Config struct {
	Facts plan.Facts
	// Table is our own nftables table, which is left alone; its name begins our chains' in others' tables.
	Table string
	// Prefix begins the names of our iptables chains.
	Prefix  string
	MarkBit int
	// PodAddresses are this node's addresses that pods must reach.
	PodAddresses []netip.Addr
	// ServiceLabel is the connection label of connections to Services, where those come in to the node itself (IPVS). 0: none.
	ServiceLabel int
	// IPTables chooses nft or legacy; empty: both are looked at.
	IPTables xtables.Flavor
}

// hook is a way of packets that a firewall may stand on.
type hook string

const (
	forward hook = "forward"
	input   hook = "input"
)

var hooks = []hook{forward, input}

// chain is our chain's name in an nftables table, and xtChain in iptables' filter table.
func (c Config) chain(h hook) string   { return c.Table + "-" + string(h) }
func (c Config) xtChain(h hook) string { return c.Prefix + "-PROXY-" + strings.ToUpper(string(h)) }

func (c Config) bit() string { return fmt.Sprintf("%#x", uint32(1)<<c.MarkBit) }

// ranges are the pods' of a family, printed.
func (c Config) ranges(f plan.Family) []string {
	var out []string
	for _, p := range c.Facts.ClusterCIDRs {
		if plan.FamilyOf(p.Addr()) == f {
			out = append(out, p.Masked().String())
		}
	}
	return out
}

func (c Config) podAddresses(f plan.Family) []string {
	var out []string
	for _, a := range c.PodAddresses {
		if plan.FamilyOf(a) == f {
			out = append(out, a.String())
		}
	}
	return out
}

// toldApart reports that pods' traffic can be told from other traffic.
func (c Config) toldApart() bool {
	return len(c.Facts.ClusterCIDRs) > 0 || c.Facts.LocalInterface != ""
}

// nftRules are the rules of our chain in a table of some families. ports are health check node ports.
func (c Config) nftRules(h hook, families []plan.Family, ports []uint16) []string {
	ip := map[plan.Family]string{plan.IPv4: "ip", plan.IPv6: "ip6"}
	out := []string{"meta mark & " + c.bit() + " == " + c.bit() + " accept"}
	if h == input {
		out[0] = "ct status dnat accept"
	}
	if c.ServiceLabel != 0 {
		out = append(out, fmt.Sprintf("ct label %d accept", c.ServiceLabel))
	}
	if h == forward {
		// Both directions of what a Service translated; where pods cannot be told, first packets too.
		out = append(out, c.dnat("ct status dnat", "ct state established,related "))
		if in := c.Facts.LocalInterface; in != "" {
			if c.Facts.LocalInterfaceIsPrefix {
				in += "*"
			}
			out = append(out, fmt.Sprintf("iifname %q accept", in), fmt.Sprintf("oifname %q accept", in))
		}
		for _, f := range families {
			if r := c.ranges(f); len(r) > 0 {
				set := "{ " + strings.Join(r, ", ") + " }"
				out = append(out, ip[f]+" saddr "+set+" accept", ip[f]+" daddr "+set+" accept")
			}
		}
		return out
	}
	for _, f := range families {
		from := ""
		if r := c.ranges(f); len(r) > 0 {
			from = ip[f] + " saddr { " + strings.Join(r, ", ") + " } "
			out = append(out, from+"ct state established,related accept")
		}
		if a := c.podAddresses(f); len(a) > 0 && (from != "" || !c.toldApart()) {
			out = append(out, from+ip[f]+" daddr { "+strings.Join(a, ", ")+" } accept")
		}
	}
	if len(ports) > 0 {
		out = append(out, "tcp dport { "+join(ports)+" } accept")
	}
	return out
}

// dnat matches Services' traffic: all of it where pods' cannot be told, else only what is under way, since its first
// packets match by the pod.
func (c Config) dnat(status, underWay string) string {
	if c.toldApart() {
		return underWay + status + " accept"
	}
	return status + " accept"
}

// xtRules are the same for iptables.
func (c Config) xtRules(h hook, f plan.Family, ports []uint16) []string {
	const dnat = "-m conntrack --ctstate DNAT"
	out := []string{"-m mark --mark " + c.bit() + "/" + c.bit() + " -j ACCEPT"}
	if h == input {
		out[0] = dnat + " -j ACCEPT"
	}
	if c.ServiceLabel != 0 {
		out = append(out, fmt.Sprintf("-m connlabel --label %d -j ACCEPT", c.ServiceLabel))
	}
	if h == forward {
		if c.toldApart() {
			out = append(out, "-m conntrack --ctstate RELATED,ESTABLISHED "+dnat+" -j ACCEPT")
		} else {
			out = append(out, dnat+" -j ACCEPT")
		}
		if in := c.Facts.LocalInterface; in != "" {
			if c.Facts.LocalInterfaceIsPrefix {
				in += "+"
			}
			out = append(out, "-i "+in+" -j ACCEPT", "-o "+in+" -j ACCEPT")
		}
		for _, r := range c.ranges(f) {
			out = append(out, "-s "+r+" -j ACCEPT", "-d "+r+" -j ACCEPT")
		}
		return out
	}
	froms := c.ranges(f)
	for _, r := range froms {
		out = append(out, "-s "+r+" -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT")
	}
	if len(froms) == 0 && !c.toldApart() {
		froms = []string{""}
	}
	for _, r := range froms {
		for _, a := range c.podAddresses(f) {
			rule := "-d " + a + " -j ACCEPT"
			if r != "" {
				rule = "-s " + r + " " + rule
			}
			out = append(out, rule)
		}
	}
	for _, p := range ports {
		out = append(out, fmt.Sprintf("-p tcp -m tcp --dport %d -j ACCEPT", p))
	}
	return out
}

func join(ports []uint16) string {
	ports = slices.Clone(ports)
	slices.Sort(ports)
	var out []string
	for _, p := range slices.Compact(ports) {
		out = append(out, strconv.Itoa(int(p)))
	}
	return strings.Join(out, ", ")
}
