package nftables

import (
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"sigs.k8s.io/knftables"

	"github.com/reevehq/reeve/proxy/plan"
)

// Config shapes the table.
type Config struct {
	Facts plan.Facts
	// Table is its name.
	Table string
	// MarkBit (0–31) of the packet mark asks for masquerading; it is clear again when the packet leaves.
	MarkBit int
	Family  plan.Family
}

// Maps and sets that are always there.
const (
	serviceIPs       = "service-ips"
	serviceNodePorts = "service-nodeports"
	insideIPs        = "inside-ips"
	insideNodePorts  = "inside-nodeports"
	outsideIPs       = "outside-ips"
	outsideNodePorts = "outside-nodeports"
	deniedIPs        = "denied-ips"
	deniedNodePorts  = "denied-nodeports"
	stickyIPs        = "sticky-ips"
	stickyNodePorts  = "sticky-nodeports"
	affinityMap      = "affinity"
	hairpinSet       = "hairpin"
	firewallIPs      = "firewall-ips"
	firewallAllow    = "firewall-allow"
)

// Maps that there is one of for each protocol and number of endpoints in use.
const (
	endpointsMap  = "endpoints"
	localsMap     = "locals"
	nodePortsMap  = "nodeport-endpoints"
	nodeLocalsMap = "nodeport-locals"
)

// Chains that there is one of for each protocol and number of endpoints in use, and rememberFor: number of seconds.
const (
	toCluster       = "cluster"
	toExternal      = "external"
	toPod           = "pod"
	toLocal         = "local"
	toNodePort      = "nodeport"
	toNodePortPod   = "nodeport-pod"
	toNodePortLocal = "nodeport-local"
	rememberFor     = "remember"
)

// Chains that are always there.
const (
	servicesChain      = "services"
	externalLocalChain = "external-local"
	nodeLocalChain     = "nodeports-local"
	rejectChain        = "reject-new"
	denyChain          = "deny"
	rememberChain      = "remember-client"
	firewallChain      = "firewall"
	postroutingChain   = "nat-postrouting"
)

// affinityMax bounds the remembered clients; beyond it new clients are served without affinity.
const affinityMax = 1 << 18

// names by what a frontend is.
type names struct {
	services, inside, outside, denied string
	external, pod, local              string
	endpoints, locals                 string
	externalLocal                     string
}

var (
	addressNames = names{
		serviceIPs, insideIPs, outsideIPs, deniedIPs, toExternal, toPod, toLocal, endpointsMap, localsMap, externalLocalChain,
	}
	nodePortNames = names{
		serviceNodePorts, insideNodePorts, outsideNodePorts, deniedNodePorts,
		toNodePort, toNodePortPod, toNodePortLocal, nodePortsMap, nodeLocalsMap, nodeLocalChain,
	}
)

func (c Config) ip() string {
	if c.Family == plan.IPv6 {
		return "ip6"
	}
	return "ip"
}

func (c Config) addressType() string {
	if c.Family == plan.IPv6 {
		return "ipv6_addr"
	}
	return "ipv4_addr"
}

const portKey = "meta l4proto . th dport"

func (c Config) addressKey() string { return c.ip() + " daddr . " + portKey }

// fixedMaps and fixedSets by name: their types, and whether they are special.
func (c Config) fixedMaps() []*knftables.Map {
	var out []*knftables.Map
	for _, name := range []string{serviceIPs, insideIPs, outsideIPs, deniedIPs, stickyIPs} {
		out = append(out, &knftables.Map{Name: name, TypeOf: c.addressKey() + " : verdict"})
	}
	for _, name := range []string{serviceNodePorts, insideNodePorts, outsideNodePorts, deniedNodePorts, stickyNodePorts} {
		out = append(out, &knftables.Map{Name: name, TypeOf: portKey + " : verdict"})
	}
	return append(out, &knftables.Map{
		Name: affinityMap, Type: fmt.Sprintf("%[1]s . inet_proto . inet_service . %[1]s : %[1]s . inet_service", c.addressType()),
		Flags: []knftables.SetFlag{knftables.DynamicFlag, knftables.TimeoutFlag}, Size: knftables.PtrTo(uint64(affinityMax)),
	})
}

func (c Config) fixedSets() []*knftables.Set {
	return []*knftables.Set{
		{Name: hairpinSet, TypeOf: fmt.Sprintf("%[1]s saddr . %[1]s daddr", c.ip())},
		{Name: firewallIPs, TypeOf: c.addressKey()},
		{Name: firewallAllow, TypeOf: c.addressKey() + " . " + c.ip() + " saddr", Flags: []knftables.SetFlag{knftables.IntervalFlag}},
	}
}

// afterDispatch reports that packets look a map or set up only after serviceIPs or serviceNodePorts, and that what is in it
// hinders nobody whom those send elsewhere.
func afterDispatch(name string) bool {
	switch name {
	case insideIPs, outsideIPs, deniedIPs, insideNodePorts, outsideNodePorts, deniedNodePorts, hairpinSet:
		return true
	}
	_, _, _, is := split(name)
	return is
}

func isSet(name string) bool {
	return name == hairpinSet || name == firewallIPs || name == firewallAllow
}

// split takes a name with a number apart: kind, protocol (none for rememberFor) and number; false for a name that is
// always there.
func split(name string) (kind, proto string, n int, ok bool) {
	i := strings.LastIndexByte(name, '-')
	if i < 0 {
		return "", "", 0, false
	}
	n, err := strconv.Atoi(name[i+1:])
	kind = name[:i]
	if i = strings.LastIndexByte(kind, '-'); i >= 0 {
		kind, proto = kind[:i], kind[i+1:]
	}
	return kind, proto, n, err == nil
}

// pick is the expression that a pool's map has as its key. There is a map a protocol, since nft 1.0.6 cannot use one of the
// type "… : ip daddr . th dport" in a later transaction ("conflicting protocols specified: ip vs. th"), and limits the
// rules with one of "… : ip daddr . tcp dport" to TCP.
func (c Config) pick(mapKind, proto string, n int) string {
	key := proto + " dport"
	if mapKind != nodePortsMap && mapKind != nodeLocalsMap {
		key = c.ip() + " daddr . " + key
	}
	if n > 1 {
		key += fmt.Sprintf(" . numgen random mod %d", n)
	}
	return key
}

func (c Config) numberedMap(name string) *knftables.Map {
	kind, proto, n, _ := split(name)
	return &knftables.Map{Name: name, TypeOf: fmt.Sprintf("%s : %s daddr . %s dport", c.pick(kind, proto, n), c.ip(), proto)}
}

// chain is a chain with its rules.
type chain struct {
	knftables.Chain
	rules []string
}

func (c Config) bit() string { return fmt.Sprintf("%#x", uint32(1)<<c.MarkBit) }

func (c Config) markRule() string { return "meta mark set meta mark or " + c.bit() }

// numberedChain is a chain that exists for a number.
func (c Config) numberedChain(name string) chain {
	kind, proto, n, _ := split(name)
	out := chain{Chain: knftables.Chain{Name: name}}
	if kind == rememberFor {
		// The port that the client sent to has a type only where the protocol is known.
		for _, proto := range protocols {
			out.rules = append(out.rules, fmt.Sprintf(
				"meta l4proto %s update @%s { ct original %[3]s daddr . meta l4proto . ct original proto-dst . %[3]s saddr timeout %[4]ds : %[3]s daddr . th dport }",
				proto, affinityMap, c.ip(), n))
		}
		return out
	}
	var from string
	switch kind {
	case toCluster:
		from = endpointsMap
		if off := c.offCluster(); off != "" {
			out.rules = append(out.rules, off)
		}
	case toExternal:
		from = endpointsMap
		out.rules = append(out.rules, c.markRule())
	case toPod:
		from = endpointsMap
	case toLocal:
		from = localsMap
	case toNodePort:
		from = nodePortsMap
		out.rules = append(out.rules, c.markRule())
	case toNodePortPod:
		from = nodePortsMap
	case toNodePortLocal:
		from = nodeLocalsMap
	}
	dnat := fmt.Sprintf("dnat %s to ", c.ip())
	if n > 1 {
		out.rules = append(out.rules, fmt.Sprintf("%s%s . %s saddr map @%s", dnat, c.addressKey(), c.ip(), affinityMap))
	}
	out.rules = append(out.rules, fmt.Sprintf("%s%s map @%s", dnat, c.pick(from, proto, n), numbered(from, proto, n)))
	return out
}

// offCluster marks traffic to a ClusterIP that must be masqueraded, or is empty.
func (c Config) offCluster() string {
	if c.Facts.MasqueradeAll {
		return c.markRule()
	}
	if out := c.inside("!="); out != "" {
		return out + " " + c.markRule()
	}
	return ""
}

// inside matches a pod's packet (==) or everybody else's (!=); empty: pods' are not told apart.
func (c Config) inside(op string) string {
	if in := c.Facts.LocalInterface; in != "" {
		if c.Facts.LocalInterfaceIsPrefix {
			in += "*"
		}
		return fmt.Sprintf("iifname %s %q", op, in)
	}
	if in := c.list(c.Facts.ClusterCIDRs); in != "" {
		return fmt.Sprintf("%s saddr %s { %s }", c.ip(), op, in)
	}
	return ""
}

// list prints the family's prefixes.
func (c Config) list(all []netip.Prefix) string {
	var in []netip.Prefix
	for _, p := range all {
		if plan.FamilyOf(p.Addr()) == c.Family {
			in = append(in, p.Masked())
		}
	}
	var out []string
	for _, p := range outermost(in) {
		out = append(out, prefix(p))
	}
	return strings.Join(out, ", ")
}

var protocols = []string{"tcp", "udp", "sctp"}

func (c Config) loopback() string {
	if c.Family == plan.IPv6 {
		return "::1"
	}
	return "127.0.0.0/8"
}

// localOnly matches the addresses on which node ports answer; false: none does.
func (c Config) localOnly() (string, bool) {
	const local = "fib daddr type local "
	switch {
	case len(c.Facts.NodePortAddresses) > 0:
		in := c.list(c.Facts.NodePortAddresses)
		return fmt.Sprintf("%s daddr { %s } %s", c.ip(), in, local), in != ""
	case c.Family == plan.IPv4 && c.Facts.LocalhostNodePorts:
		return local, true
	}
	return fmt.Sprintf("%s daddr != %s %s", c.ip(), c.loopback(), local), true
}

// base makes a base chain.
func base(name string, kind knftables.BaseChainType, hook knftables.BaseChainHook, priority string, rules ...string) chain {
	return chain{knftables.Chain{
		Name: name, Type: &kind, Hook: &hook, Priority: knftables.PtrTo(knftables.BaseChainPriority(priority)),
	}, rules}
}

// fixedChains are the chains with the same rules whatever the Services are, each after those that it jumps to.
func (c Config) fixedChains() []chain {
	plain := func(name string, rules ...string) chain { return chain{knftables.Chain{Name: name}, rules} }
	lookup := func(in string) string { return c.addressKey() + " vmap @" + in }

	external := plain(externalLocalChain)
	nodes := plain(nodeLocalChain)
	for _, x := range []struct {
		chain *chain
		key   string
		names names
	}{{&external, c.addressKey(), addressNames}, {&nodes, portKey, nodePortNames}} {
		if in := c.inside("=="); in != "" {
			x.chain.rules = append(x.chain.rules, fmt.Sprintf("%s %s vmap @%s", in, x.key, x.names.inside))
		}
		x.chain.rules = append(x.chain.rules,
			"fib saddr type local "+c.markRule(),
			fmt.Sprintf("fib saddr type local %s vmap @%s", x.key, x.names.inside),
			fmt.Sprintf("%s vmap @%s", x.key, x.names.outside))
	}
	services := plain(servicesChain, lookup(serviceIPs))
	deny := plain(denyChain, "ct status dnat return", lookup(deniedIPs))
	if local, any := c.localOnly(); any {
		services.rules = append(services.rules, local+portKey+" vmap @"+serviceNodePorts)
		deny.rules = append(deny.rules, local+portKey+" vmap @"+deniedNodePorts)
	}
	remember := plain(rememberChain)
	for _, proto := range protocols {
		port := "meta l4proto . ct original proto-dst vmap @"
		remember.rules = append(remember.rules,
			fmt.Sprintf("meta l4proto %s ct original %s daddr . %s%s", proto, c.ip(), port, stickyIPs),
			fmt.Sprintf("meta l4proto %s %s%s", proto, port, stickyNodePorts))
	}
	early := []string{"ct state new jump " + firewallChain}
	if c.Facts.LocalhostNodePorts && c.Family == plan.IPv4 {
		// route_localnet is on for node ports on 127.0.0.1; neighbours must not gain by it (CVE-2020-8558).
		early = append([]string{
			fmt.Sprintf("iifname != \"lo\" ip daddr %s drop", c.loopback()), fmt.Sprintf("iifname != \"lo\" ip saddr %s drop", c.loopback()),
		}, early...)
	}
	return []chain{
		plain(rejectChain, "reject"), external, nodes, services, deny, remember,
		plain(firewallChain, fmt.Sprintf("%s @%s %[1]s . %[3]s saddr != @%[4]s drop", c.addressKey(), firewallIPs, c.ip(), firewallAllow)),

		base("filter-prerouting", knftables.FilterType, knftables.PreroutingHook, "-110", early...),
		base("filter-output-early", knftables.FilterType, knftables.OutputHook, "-110", "ct state new jump "+firewallChain),
		base("nat-prerouting", knftables.NATType, knftables.PreroutingHook, "-100", "jump "+servicesChain),
		base("nat-output", knftables.NATType, knftables.OutputHook, "-100", "jump "+servicesChain),
		base("remember-prerouting", knftables.FilterType, knftables.PreroutingHook, "-90", "ct state new ct status dnat jump "+rememberChain),
		base("remember-output", knftables.FilterType, knftables.OutputHook, "-90", "ct state new ct status dnat jump "+rememberChain),
		base("filter-input", knftables.FilterType, knftables.InputHook, "0", "ct state new jump "+denyChain),
		base("filter-forward", knftables.FilterType, knftables.ForwardHook, "0",
			// A packet that conntrack disowns would leave with its untranslated address and kill the connection.
			"ct state invalid drop", "ct state new jump "+denyChain),
		base("filter-output", knftables.FilterType, knftables.OutputHook, "0", "ct state new jump "+denyChain),
		base(postroutingChain, knftables.NATType, knftables.PostroutingHook, "100",
			fmt.Sprintf("ct status dnat %[1]s saddr . %[1]s daddr @%[2]s %[3]s", c.ip(), hairpinSet, c.markRule()),
			fmt.Sprintf("meta mark & %[1]s != %[1]s return", c.bit()),
			// The mark must be clear when the packet is encapsulated or looped, or it would be masqueraded again.
			"meta mark set meta mark xor "+c.bit(),
			"masquerade fully-random"),
	}
}
