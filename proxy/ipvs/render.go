package ipvs

import (
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
	detour   netip.AddrPort // where clients from inside go instead; zero: nowhere
	placed   bool           // its address is to be on the device
}

// hairpin is an endpoint that may be its own client.
type hairpin = frontend

// rendered is everything of one Service.
type rendered struct {
	fronts     map[frontend]*front
	hairpins   []hairpin
	healthPort uint16 // 0: none
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
		var detour netip.AddrPort
		if q.HasExternal() && q.ExternalLocal && len(q.Cluster) > 0 {
			// Policy Local does not concern clients from inside: they go to the ClusterIP, where that has the same endpoints.
			detour = netip.AddrPortFrom(q.ClusterIP, q.Port)
			if q.InternalLocal {
				for slices.ContainsFunc(p.Ports, func(o plan.Port) bool { return o.Port == shadow }) {
					shadow--
				}
				detour = netip.AddrPortFrom(q.ClusterIP, shadow)
				shadow--
				out.add(frontend{q.ClusterIP, detour.Port(), protocol(q.ID.Protocol)},
					&front{class: behindDetour, verdict: plan.Forward, pool: q.Cluster, affinity: uint32(q.AffinitySeconds)}, h)
			}
		}
		c.renderPort(q, detour, h, out)
	}
	if h := p.Health; h != nil {
		out.healthPort = h.NodePort
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

func (c Config) renderPort(q *plan.Port, detour netip.AddrPort, h host, out *rendered) {
	proto := protocol(q.ID.Protocol)
	affinity := uint32(q.AffinitySeconds)
	out.add(frontend{q.ClusterIP, q.Port, proto}, &front{
		class: inCluster, verdict: q.Internal, pool: poolOf(q.Internal, q.InternalPool()), affinity: affinity,
	}, h)
	external := front{class: masqueraded, verdict: q.External, pool: poolOf(q.External, q.ExternalPool()), affinity: affinity}
	if q.ExternalLocal {
		external.class, external.detour = kept, detour
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
	put(setCluster, f.verdict != plan.Drop && f.class == inCluster)
	put(setMasq, f.class == masqueraded)
	put(setLocal, f.detour.IsValid())
	put(setDrop, f.verdict == plan.Drop)
	put(setFirewall, f.sources != nil)
	return m
}
