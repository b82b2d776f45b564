package conntrack

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/reevehq/reeve/proxy/plan"
)

// Flow is one conntrack entry: where the client sent to, and where the answer comes from, which is where it was sent on.
type Flow struct {
	Protocol      uint8
	Destination   netip.AddrPort
	AnswersSource netip.AddrPort
}

// Index knows the destinations of changed Services and what may serve each.
type Index struct {
	allowed   map[frontend]map[netip.AddrPort]bool
	nodePorts map[frontend]map[netip.AddrPort]bool // with no address
}

type frontend struct {
	protocol uint8
	at       netip.AddrPort
}

// Add notes a Service's change from before to after; either may be nil. It reports whether a flow can have become stale:
// an endpoint or address went, or the first endpoint came (what was sent before it was not translated).
func (x *Index) Add(family plan.Family, before, after *plan.Planned) bool {
	if x.allowed == nil {
		x.allowed, x.nodePorts = map[frontend]map[netip.AddrPort]bool{}, map[frontend]map[netip.AddrPort]bool{}
	}
	was, is := portsOf(family, before), portsOf(family, after)
	stale := false
	for front, b := range was {
		a, still := is[front]
		gone := !still
		for e := range b.endpoints {
			gone = gone || !a.endpoints[e]
		}
		if gone || (len(b.endpoints) == 0 && len(a.endpoints) > 0) {
			stale = true
			x.put(front, a.endpoints)
		}
	}
	for front, a := range is {
		if _, had := was[front]; !had && len(a.endpoints) > 0 {
			stale = true
			x.put(front, a.endpoints)
		}
	}
	return stale
}

func (x *Index) put(f frontend, endpoints map[netip.AddrPort]bool) {
	in := x.allowed
	if !f.at.Addr().IsValid() {
		in = x.nodePorts
	}
	if in[f] == nil {
		in[f] = map[netip.AddrPort]bool{}
	}
	for e := range endpoints {
		in[f][e] = true
	}
}

// Stale reports that a flow goes where nothing serves it any more. isLocal tells the node's own addresses.
func (x *Index) Stale(f Flow, isLocal func(netip.Addr) bool) bool {
	if allowed, ok := x.allowed[frontend{f.Protocol, f.Destination}]; ok {
		return !allowed[f.AnswersSource]
	}
	allowed, ok := x.nodePorts[frontend{f.Protocol, netip.AddrPortFrom(netip.Addr{}, f.Destination.Port())}]
	return ok && isLocal(f.Destination.Addr()) && !allowed[f.AnswersSource]
}

type served struct{ endpoints map[netip.AddrPort]bool }

func portsOf(family plan.Family, p *plan.Planned) map[frontend]served {
	out := map[frontend]served{}
	if p == nil {
		return out
	}
	for i := range p.Ports {
		q := &p.Ports[i]
		protocol, ok := datagram(q.ID.Protocol)
		if !ok || q.ID.Family != family {
			continue
		}
		s := served{map[netip.AddrPort]bool{}}
		for _, pool := range [][]netip.AddrPort{q.Cluster, q.Local} {
			for _, e := range pool {
				s.endpoints[e] = true
			}
		}
		for _, a := range append(append([]netip.Addr{q.ClusterIP}, q.ExternalIPs...), q.LoadBalancerIPs...) {
			out[frontend{protocol, netip.AddrPortFrom(a, q.Port)}] = s
		}
		if q.NodePort != 0 {
			out[frontend{protocol, netip.AddrPortFrom(netip.Addr{}, q.NodePort)}] = s
		}
	}
	return out
}

func datagram(p corev1.Protocol) (uint8, bool) {
	switch p {
	case corev1.ProtocolUDP:
		return unix.IPPROTO_UDP, true
	case corev1.ProtocolSCTP:
		return unix.IPPROTO_SCTP, true
	}
	return 0, false
}

// Clean deletes the stale flows of one family and answers how many.
func (x *Index) Clean(family plan.Family) (int, error) {
	local := map[netip.Addr]bool{}
	if len(x.nodePorts) > 0 {
		addrs, err := net.InterfaceAddrs()
		if err != nil {
			return 0, fmt.Errorf("list the node's addresses: %w", err)
		}
		for _, a := range addrs {
			if n, ok := a.(*net.IPNet); ok {
				if ip, ok := netip.AddrFromSlice(n.IP); ok {
					local[ip.Unmap()] = true
				}
			}
		}
	}
	af := netlink.InetFamily(unix.AF_INET)
	if family == plan.IPv6 {
		af = unix.AF_INET6
	}
	n, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, af, match(func(f Flow) bool {
		return x.Stale(f, func(a netip.Addr) bool { return local[a] })
	}))
	if err != nil {
		return int(n), fmt.Errorf("delete stale conntrack entries: %w", err)
	}
	return int(n), nil
}

type match func(Flow) bool

// MatchConntrackFlow adapts match to netlink's filter.
func (m match) MatchConntrackFlow(f *netlink.ConntrackFlow) bool {
	if f.Forward.Protocol != unix.IPPROTO_UDP && f.Forward.Protocol != unix.IPPROTO_SCTP {
		return false
	}
	dst, ok1 := netip.AddrFromSlice(f.Forward.DstIP)
	src, ok2 := netip.AddrFromSlice(f.Reverse.SrcIP)
	return ok1 && ok2 && m(Flow{
		Protocol:      f.Forward.Protocol,
		Destination:   netip.AddrPortFrom(dst.Unmap(), f.Forward.DstPort),
		AnswersSource: netip.AddrPortFrom(src.Unmap(), f.Reverse.SrcPort),
	})
}
