package ipvs

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/reevehq/reeve/proxy/plan"
)

// class is how a frontend treats its clients' addresses.
type class uint8

const (
	inCluster    class = iota // a ClusterIP
	masqueraded               // external, policy Cluster
	kept                      // external, policy Local: clients keep their addresses
	behindDetour              // a ClusterIP's port that only detours lead to
)

// front is what a Service wants of a frontend.
type front struct {
	class    class
	verdict  plan.Verdict
	pool     []netip.AddrPort
	affinity uint32
	sources  []netip.Prefix // nil: everybody
	detour   bool           // clients from inside go elsewhere
	placed   bool           // its address is to be on the device
}

// hairpin is an endpoint that may be its own client.
type hairpin = frontend

// lineChain is a chain with lines of Services.
type lineChain uint8

const (
	detours lineChain = iota // nat
	healthPorts
	lineChains
)

// rendered is everything of one Service.
type rendered struct {
	fronts   map[frontend]*front
	hairpins []hairpin
	lines    [lineChains][]string
}

// host is what rendering needs to know of the node's addresses.
type host struct {
	nodePorts []netip.Addr        // where node ports answer
	own       map[netip.Addr]bool // on other devices than ours
}

// render translates one Service. Pure.
func (c Config) render(p plan.Planned, h host) *rendered {
	out := &rendered{fronts: map[frontend]*front{}}
	shadow := uint16(65535)
	for i := range p.Ports {
		q := &p.Ports[i]
		if q.ID.Family != c.Family {
			continue
		}
		c.renderPort(q, h, out)
		if q.HasExternal() && q.ExternalLocal && len(q.Cluster) > 0 {
			to := q.Port
			if q.InternalLocal {
				for slices.ContainsFunc(p.Ports, func(o plan.Port) bool { return o.Port == shadow }) {
					shadow--
				}
				to = shadow
				shadow--
				out.add(frontend{q.ClusterIP, to, protocol(q.ID.Protocol)},
					&front{class: behindDetour, verdict: plan.Forward, pool: q.Cluster, affinity: uint32(q.AffinitySeconds)}, h)
			}
			c.renderDetours(q, to, out)
		}
	}
	if h := p.Health; h != nil {
		out.lines[healthPorts] = append(out.lines[healthPorts], fmt.Sprintf("-p tcp -m tcp --dport %d -j ACCEPT", h.NodePort))
	}
	slices.SortFunc(out.hairpins, compareFrontends)
	out.hairpins = slices.Compact(out.hairpins)
	return out
}

func compareFrontends(a, b frontend) int {
	if n := netip.AddrPortFrom(a.addr, a.port).Compare(netip.AddrPortFrom(b.addr, b.port)); n != 0 {
		return n
	}
	return int(a.proto) - int(b.proto)
}

func (r *rendered) add(at frontend, f *front, h host) {
	f.placed = !h.own[at.addr]
	r.fronts[at] = f
}

func (c Config) renderPort(q *plan.Port, h host, out *rendered) {
	proto := protocol(q.ID.Protocol)
	affinity := uint32(q.AffinitySeconds)
	out.add(frontend{q.ClusterIP, q.Port, proto}, &front{
		class: inCluster, verdict: q.Internal, pool: poolOf(q.Internal, q.InternalPool()), affinity: affinity,
	}, h)
	external := front{class: masqueraded, verdict: q.External, pool: poolOf(q.External, q.ExternalPool()), affinity: affinity}
	if q.ExternalLocal {
		external.class, external.detour = kept, len(q.Cluster) > 0
	}
	for _, a := range q.ExternalIPs {
		f := external
		out.add(frontend{a, q.Port, proto}, &f, h)
	}
	for _, a := range q.LoadBalancerIPs {
		f := external
		if q.SourceRanges != nil {
			// The node itself is its own client there, with that address.
			f.sources = append(slices.Clone(q.SourceRanges), hostPrefix(a))
		}
		out.add(frontend{a, q.Port, proto}, &f, h)
	}
	if q.NodePort != 0 {
		for _, a := range h.nodePorts {
			f := external
			out.add(frontend{a, q.NodePort, proto}, &f, h)
		}
	}
	for _, pool := range [][]netip.AddrPort{q.Cluster, q.Local} {
		for _, e := range pool {
			out.hairpins = append(out.hairpins, hairpin{e.Addr(), e.Port(), proto})
		}
	}
}

func poolOf(v plan.Verdict, pool []netip.AddrPort) []netip.AddrPort {
	if v == plan.Forward {
		return pool
	}
	return nil
}

// renderDetours sends clients from inside, whom policy Local does not concern, to the ClusterIP.
func (c Config) renderDetours(q *plan.Port, to uint16, out *rendered) {
	proto := protocolName(protocol(q.ID.Protocol))
	target := netip.AddrPortFrom(q.ClusterIP, to)
	add := func(match string, port uint16) {
		out.lines[detours] = append(out.lines[detours], fmt.Sprintf("%s -p %s -m %s --dport %d -j DNAT --to-destination %s", match, proto, proto, port, target))
	}
	for _, addrs := range [][]netip.Addr{q.ExternalIPs, q.LoadBalancerIPs} {
		for _, a := range addrs {
			add("-d "+hostPrefix(a).String(), q.Port)
		}
	}
	if q.NodePort != 0 {
		add("-m set ! --match-set "+c.set(setAddresses)+" dst", q.NodePort)
	}
}

// sets are the sets that a frontend stands in.
func (f *front) sets() setMask {
	if f == nil {
		return 0
	}
	var m setMask
	put := func(s setID, yes bool) {
		if yes {
			m |= 1 << s
		}
	}
	put(setServices, f.verdict != plan.Drop && f.class != behindDetour)
	put(setCluster, f.class == inCluster)
	put(setMasq, f.class == masqueraded)
	put(setLocal, f.detour)
	put(setDrop, f.verdict == plan.Drop)
	put(setFirewall, f.sources != nil)
	return m
}
