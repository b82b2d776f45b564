package iptables

import (
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"math"
	"net/netip"
	"strconv"
	"strings"

	"github.com/reevehq/reeve/proxy/plan"
)

// Config shapes the rules.
type Config struct {
	Facts plan.Facts
	// Prefix of every chain's name.
	Prefix string
	// MarkBit (0–31) of the packet mark asks for masquerading; it is clear again when the packet leaves.
	MarkBit int
	Family  plan.Family
}

// chains of the nat and filter tables; the built-in chains jump to some of them.
func (c Config) chain(name string) string { return c.Prefix + "-" + name }

func (c Config) mark() string {
	return fmt.Sprintf("%#x/%#x", uint32(1)<<c.MarkBit, uint32(1)<<c.MarkBit)
}

// where is a dispatch chain: one that holds lines of many Services.
type where int

const (
	natServices where = iota
	natNodePorts
	filterServices
	filterExternal
	filterNodePorts
	filterFirewall
	dispatchChains // their number
)

func (w where) table() string {
	if w <= natNodePorts {
		return "nat"
	}
	return "filter"
}

func (c Config) dispatch(w where) string {
	return c.chain([dispatchChains]string{
		"SERVICES", "NODEPORTS", "SERVICES", "EXTERNAL-SERVICES", "NODEPORTS", "PROXY-FIREWALL",
	}[w])
}

// rendered are the rules of one Service: nat chains of its own, and its lines in the dispatch chains (without "-A CHAIN").
type rendered struct {
	chains []chainRules
	lines  [dispatchChains][]string
}

type chainRules struct {
	name  string
	rules []string
}

// id is the part of a chain's name that tells Services apart: 16 characters of a hash, as long as names may be.
func id(parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return base32.StdEncoding.EncodeToString(sum[:])[:16]
}

// render translates one Service. Pure.
func (c Config) render(p plan.Planned) rendered {
	var out rendered
	for i := range p.Ports {
		if q := &p.Ports[i]; q.ID.Family == c.Family {
			c.renderPort(q, &out)
		}
	}
	if h := p.Health; h != nil {
		out.add(filterNodePorts, "-p tcp -m comment --comment %q -m tcp --dport %d -j ACCEPT", h.Service.String()+" health check node port", h.NodePort)
	}
	return out
}

func (r *rendered) add(w where, format string, args ...any) {
	r.lines[w] = append(r.lines[w], fmt.Sprintf(format, args...))
}

// portRules renders one port; its methods share the names.
type portRules struct {
	Config
	p             *plan.Port
	out           *rendered
	proto         string
	comment       string
	hash          string
	svc, svl, ext string
}

func (c Config) renderPort(p *plan.Port, out *rendered) {
	proto := strings.ToLower(string(p.ID.Protocol))
	hash := id(p.ID.String(), proto)
	r := portRules{
		Config: c, p: p, out: out, proto: proto, hash: hash, comment: p.ID.String(),
		svc: c.chain("SVC-" + hash), svl: c.chain("SVL-" + hash), ext: c.chain("EXT-" + hash),
	}
	useCluster := len(p.Cluster) > 0 && (!p.InternalLocal || p.HasExternal())
	useLocal := len(p.Local) > 0 && (p.InternalLocal || (p.ExternalLocal && p.HasExternal()))

	r.internal()
	if p.HasExternal() {
		r.external(useCluster, useLocal)
	}
	if useCluster {
		r.pool(r.svc, p.Cluster, !p.InternalLocal)
	}
	if useLocal {
		r.pool(r.svl, p.Local, p.InternalLocal)
	}
	r.endpoints(useCluster, useLocal)
}

// match is what a packet to addr and the Service's port looks like.
func (r *portRules) match(kind string, addr netip.Addr) string {
	return fmt.Sprintf("-d %s -p %s -m comment --comment %q -m %s --dport %d", hostPrefix(addr), r.proto, r.comment+" "+kind, r.proto, r.p.Port)
}

func (r *portRules) internal() {
	match := r.match("cluster IP", r.p.ClusterIP)
	switch r.p.Internal {
	case plan.Forward:
		target := r.svc
		if r.p.InternalLocal {
			target = r.svl
		}
		r.out.add(natServices, "%s -j %s", match, target)
	default:
		r.out.add(filterServices, "%s %s", match, r.deny(r.p.Internal))
	}
}

func (r *portRules) external(useCluster, useLocal bool) {
	p := r.p
	reachable := useCluster || useLocal
	each := func(kind string, addrs []netip.Addr, target string) {
		for _, a := range addrs {
			match := r.match(kind, a)
			if reachable {
				r.out.add(natServices, "%s -j %s", match, target)
			}
			if p.External != plan.Forward {
				r.out.add(filterExternal, "%s %s", match, r.deny(p.External))
			}
		}
	}
	each("external IP", p.ExternalIPs, r.ext)
	firewall := r.ext
	if p.SourceRanges != nil && len(p.LoadBalancerIPs) > 0 {
		firewall = r.chain("FW-" + r.hash)
		fw := chainRules{name: firewall}
		for _, s := range p.SourceRanges {
			fw.rules = append(fw.rules, fmt.Sprintf("-s %s -j %s", s, r.ext))
		}
		for _, a := range p.LoadBalancerIPs {
			// The node itself, where it has that address.
			fw.rules = append(fw.rules, fmt.Sprintf("-s %s -j %s", hostPrefix(a), r.ext))
			r.out.add(filterFirewall, "%s -j DROP", r.match("traffic that no source range of the load balancer allows", a))
		}
		if reachable {
			r.out.chains = append(r.out.chains, fw)
		}
	}
	each("load balancer IP", p.LoadBalancerIPs, firewall)
	if p.NodePort != 0 {
		match := fmt.Sprintf("-m comment --comment %q -m %s --dport %d", r.comment+" node port", r.proto, p.NodePort)
		if reachable {
			r.out.add(natNodePorts, "-p %s %s -j %s", r.proto, match, r.ext)
		}
		if p.External != plan.Forward {
			r.out.add(filterExternal, "-p %s -m addrtype --dst-type LOCAL %s %s", r.proto, match, r.deny(p.External))
		}
	}
	if !reachable {
		return
	}

	ext := chainRules{name: r.ext}
	add := func(format string, args ...any) { ext.rules = append(ext.rules, fmt.Sprintf(format, args...)) }
	if !p.ExternalLocal {
		add("-j %s", r.chain("MARK-MASQ"))
		add("-j %s", r.svc)
	} else {
		// The policy is about where traffic from outside goes; the node and its pods would gain nothing from a refusal.
		for _, in := range r.inside() {
			add("%s -j %s", in, r.svc)
		}
		add("-m addrtype --src-type LOCAL -j %s", r.chain("MARK-MASQ"))
		add("-m addrtype --src-type LOCAL -j %s", r.svc)
		if useLocal {
			add("-j %s", r.svl)
		}
	}
	r.out.chains = append(r.out.chains, ext)
}

func (r *portRules) deny(v plan.Verdict) string {
	if v == plan.Drop {
		return "-j DROP"
	}
	if r.Family == plan.IPv6 {
		return "-j REJECT --reject-with icmp6-port-unreachable"
	}
	return "-j REJECT --reject-with icmp-port-unreachable"
}

// pool spreads connections over endpoints: the first of n is taken with probability 1/n, the next with 1/(n-1), …
func (r *portRules) pool(name string, eps []netip.AddrPort, internal bool) {
	ch := chainRules{name: name}
	add := func(format string, args ...any) { ch.rules = append(ch.rules, fmt.Sprintf(format, args...)) }
	if internal {
		to := fmt.Sprintf("-d %s -p %s -m %s --dport %d", hostPrefix(r.p.ClusterIP), r.proto, r.proto, r.p.Port)
		switch in := r.inside(); {
		case r.Facts.MasqueradeAll:
			add("%s -j %s", to, r.chain("MARK-MASQ"))
		case len(in) == 1 && r.Facts.LocalInterface == "":
			add("! %s %s -j %s", in[0], to, r.chain("MARK-MASQ"))
		case len(in) > 0:
			add("%s -j %s", to, r.chain("MARK-OFF-CLUSTER"))
		}
	}
	if r.p.AffinitySeconds > 0 {
		for _, e := range eps {
			add("-m recent --rcheck --seconds %d --reap %s -j %s", r.p.AffinitySeconds, r.client(e), r.sep(e))
		}
	}
	for i, e := range eps {
		if n := len(eps) - i; n > 1 {
			add("-m statistic --mode random --probability %s -j %s", probability(n), r.sep(e))
		} else {
			add("-j %s", r.sep(e))
		}
	}
	r.out.chains = append(r.out.chains, ch)
}

// probability is that of one in n, in the kernel's steps of 1/2³¹ and as iptables-save prints it.
func probability(n int) string {
	const steps = 1 << 31
	return strconv.FormatFloat(math.Round(steps/float64(n))/steps, 'f', 11, 64)
}

// client is the part of a match that means who is remembered to have been sent to an endpoint.
func (r *portRules) client(e netip.AddrPort) string {
	mask := "255.255.255.255"
	if r.Family == plan.IPv6 {
		mask = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
	}
	return "--name " + r.sep(e) + " --mask " + mask + " --rsource"
}

func (r *portRules) sep(e netip.AddrPort) string {
	return r.chain("SEP-" + id(r.p.ID.String(), r.proto, e.String()))
}

// endpoints make one chain each: masquerade what comes from the endpoint itself (hairpin), remember the client, DNAT.
func (r *portRules) endpoints(useCluster, useLocal bool) {
	seen := map[netip.AddrPort]bool{}
	add := func(eps []netip.AddrPort) {
		for _, e := range eps {
			if seen[e] {
				continue
			}
			seen[e] = true
			name := r.sep(e)
			recent := ""
			if r.p.AffinitySeconds > 0 {
				recent = " -m recent --set " + r.client(e)
			}
			r.out.chains = append(r.out.chains, chainRules{name: name, rules: []string{
				fmt.Sprintf("-s %s -m comment --comment %q -j %s", hostPrefix(e.Addr()), r.comment, r.chain("MARK-MASQ")),
				fmt.Sprintf("-p %s%s -m %s -j DNAT --to-destination %s", r.proto, recent, r.proto, e),
			}})
		}
	}
	if useCluster {
		add(r.p.Cluster)
	}
	if useLocal {
		add(r.p.Local)
	}
}

// inside are matches, any of which tells a pod's packet; none: pods' are not told apart.
func (c Config) inside() []string {
	if in := c.Facts.LocalInterface; in != "" {
		if c.Facts.LocalInterfaceIsPrefix {
			in += "+"
		}
		return []string{"-i " + in}
	}
	var out []string
	for _, p := range c.Facts.ClusterCIDRs {
		if plan.FamilyOf(p.Addr()) == c.Family {
			out = append(out, "-s "+p.String())
		}
	}
	return out
}

func hostPrefix(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }
