package nftables

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/reevehq/reeve/proxy/plan"
)

// frontend is where clients send to: an address and port, or with no address a node port.
type frontend struct {
	addr  netip.Addr
	proto string
	port  uint16
}

func (f frontend) isNodePort() bool { return !f.addr.IsValid() }

func (f frontend) key() string {
	if f.isNodePort() {
		return f.proto + " . " + strconv.Itoa(int(f.port))
	}
	return f.addr.String() + " . " + f.proto + " . " + strconv.Itoa(int(f.port))
}

// place is the key without the protocol.
func (f frontend) place() string {
	if f.isNodePort() {
		return strconv.Itoa(int(f.port))
	}
	return f.addr.String() + concat + strconv.Itoa(int(f.port))
}

// element of a map or set; value is empty in a set.
type element struct {
	in, key, value string
	comment        string
}

// group is everything that makes one frontend work.
type group struct {
	front     frontend
	elements  []element
	endpoints []netip.AddrPort // of both pools, sorted
	sticky    bool
}

func (g *group) add(in, key, value, comment string) {
	if len(comment) > commentMax {
		comment = comment[:commentMax]
	}
	g.elements = append(g.elements, element{in, key, value, comment})
}

// render translates one Service. Pure. A frontend that the Service names twice is rendered once.
func (c Config) render(p *plan.Planned) []group {
	if p == nil {
		return nil
	}
	var out []group
	add := func(g group) {
		if !slices.ContainsFunc(out, func(o group) bool { return o.front == g.front }) {
			out = append(out, g)
		}
	}
	for i := range p.Ports {
		q := &p.Ports[i]
		if q.ID.Family != c.Family {
			continue
		}
		proto := strings.ToLower(string(q.ID.Protocol))
		add(c.internal(q, frontend{q.ClusterIP, proto, q.Port}))
		for _, a := range q.ExternalIPs {
			add(c.external(q, frontend{a, proto, q.Port}, "external IP"))
		}
		for _, a := range q.LoadBalancerIPs {
			g := c.external(q, frontend{a, proto, q.Port}, "load balancer IP")
			c.firewall(q, &g)
			add(g)
		}
		if q.NodePort != 0 {
			add(c.external(q, frontend{netip.Addr{}, proto, q.NodePort}, "node port"))
		}
	}
	return out
}

func (c Config) internal(p *plan.Port, f frontend) group {
	g := group{front: f}
	comment := p.ID.String() + " cluster IP"
	if p.Internal != plan.Forward {
		g.add(deniedIPs, f.key(), deny(p.Internal), comment)
		return g
	}
	pool := p.InternalPool()
	g.add(serviceIPs, f.key(), "goto "+numbered(toCluster, f.proto, len(pool)), comment)
	g.pool(endpointsMap, pool)
	g.remember(p)
	return g
}

func (c Config) external(p *plan.Port, f frontend, kind string) group {
	g := group{front: f}
	comment := p.ID.String() + " " + kind
	to := addressNames
	if f.isNodePort() {
		to = nodePortNames
	}
	if p.External != plan.Forward {
		g.add(to.denied, f.key(), deny(p.External), comment)
	}
	switch {
	case len(p.Cluster) == 0:
	case !p.ExternalLocal:
		g.add(to.services, f.key(), "goto "+numbered(to.external, f.proto, len(p.Cluster)), comment)
		g.pool(to.endpoints, p.Cluster)
	default:
		// The policy is about where traffic from outside goes; the node and its pods would gain nothing from a refusal.
		g.add(to.services, f.key(), "goto "+to.externalLocal, comment)
		g.add(to.inside, f.key(), "goto "+numbered(to.pod, f.proto, len(p.Cluster)), "")
		g.pool(to.endpoints, p.Cluster)
		if len(p.Local) > 0 {
			g.add(to.outside, f.key(), "goto "+numbered(to.local, f.proto, len(p.Local)), "")
			g.pool(to.locals, p.Local)
		}
	}
	g.remember(p)
	return g
}

func deny(v plan.Verdict) string {
	if v == plan.Drop {
		return "drop"
	}
	return "goto " + rejectChain
}

// pool adds the elements that answer a random number with an endpoint.
func (g *group) pool(in string, eps []netip.AddrPort) {
	in, key := numbered(in, g.front.proto, len(eps)), g.front.place()
	for i, e := range eps {
		k := key
		if len(eps) > 1 {
			k += " . " + strconv.Itoa(i)
		}
		g.add(in, k, e.Addr().String()+" . "+strconv.Itoa(int(e.Port())), "")
		if at, found := slices.BinarySearchFunc(g.endpoints, e, netip.AddrPort.Compare); !found {
			g.endpoints = slices.Insert(g.endpoints, at, e)
		}
	}
}

func (g *group) remember(p *plan.Port) {
	if p.AffinitySeconds == 0 || len(g.endpoints) == 0 {
		return
	}
	g.sticky = true
	in := stickyIPs
	if g.front.isNodePort() {
		in = stickyNodePorts
	}
	g.add(in, g.front.key(), "goto "+fmt.Sprintf("%s-%d", rememberFor, p.AffinitySeconds), "")
}

// firewall limits who may use a load balancer's address, and lets the node itself where it has that address.
func (c Config) firewall(p *plan.Port, g *group) {
	if p.SourceRanges == nil {
		return
	}
	g.add(firewallIPs, g.front.key(), "", p.ID.String()+" source ranges")
	for _, r := range outermost(append(slices.Clone(p.SourceRanges), netip.PrefixFrom(g.front.addr, g.front.addr.BitLen()))) {
		g.add(firewallAllow, g.front.key()+" . "+prefix(r), "", "")
	}
}

// prefix prints as nft lists it: a single address without its length.
func prefix(p netip.Prefix) string {
	if p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}

// outermost leaves out the ranges inside others: the kernel's set takes no overlap.
func outermost(in []netip.Prefix) []netip.Prefix {
	slices.SortFunc(in, func(a, b netip.Prefix) int {
		if c := a.Bits() - b.Bits(); c != 0 {
			return c
		}
		return a.Addr().Compare(b.Addr())
	})
	var out []netip.Prefix
	for _, p := range in {
		if !slices.ContainsFunc(out, func(o netip.Prefix) bool { return o.Overlaps(p) }) {
			out = append(out, p)
		}
	}
	return out
}

func numbered(kind, proto string, n int) string { return fmt.Sprintf("%s-%s-%d", kind, proto, n) }
