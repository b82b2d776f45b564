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
	// Established is a TCP connection that got an answer. Such ones are never stale.
	Established bool
}

// Index knows the destinations of changed Services and what may serve each.
type Index struct {
	allowed   map[frontend]map[netip.AddrPort]bool
	nodePorts map[frontend]map[netip.AddrPort]bool // with no address
	served    map[frontend]bool                    // node ports with no address
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
	was, is := portsOf(family, before, datagram), portsOf(family, after, datagram)
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

// AddServed notes that a Service's rules were missing for a while and are there again. What was first sent meanwhile, a TCP
// connection's beginning too, the kernel remembers untranslated, and sends all that follows after it: each repetition of a
// SYN, each further datagram.
func (x *Index) AddServed(family plan.Family, p *plan.Planned) {
	if x.served == nil {
		x.served = map[frontend]bool{}
	}
	for front, s := range portsOf(family, p, protocol) {
		if len(s.endpoints) > 0 {
			x.served[front] = true
		}
	}
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
	if f.Established {
		return false
	}
	if f.AnswersSource == f.Destination && (x.served[frontend{f.Protocol, f.Destination}] ||
		x.served[frontend{f.Protocol, netip.AddrPortFrom(netip.Addr{}, f.Destination.Port())}] && isLocal(f.Destination.Addr())) {
		return true
	}
	if allowed, ok := x.allowed[frontend{f.Protocol, f.Destination}]; ok {
		return !allowed[f.AnswersSource]
	}
	allowed, ok := x.nodePorts[frontend{f.Protocol, netip.AddrPortFrom(netip.Addr{}, f.Destination.Port())}]
	return ok && isLocal(f.Destination.Addr()) && !allowed[f.AnswersSource]
}

type served struct{ endpoints map[netip.AddrPort]bool }

func portsOf(family plan.Family, p *plan.Planned, number func(corev1.Protocol) (uint8, bool)) map[frontend]served {
	out := map[frontend]served{}
	if p == nil {
		return out
	}
	for i := range p.Ports {
		q := &p.Ports[i]
		protocol, ok := number(q.ID.Protocol)
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

// datagram numbers the protocols whose flows never end by themselves.
func datagram(p corev1.Protocol) (uint8, bool) {
	n, ok := protocol(p)
	return n, ok && n != unix.IPPROTO_TCP
}

func protocol(p corev1.Protocol) (uint8, bool) {
	switch p {
	case corev1.ProtocolTCP:
		return unix.IPPROTO_TCP, true
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
	if len(x.nodePorts)+len(x.served) > 0 {
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

// synSent is the kernel's TCP_CONNTRACK_SYN_SENT: nobody has answered yet.
const synSent = 1

type match func(Flow) bool

// MatchConntrackFlow adapts match to netlink's filter.
func (m match) MatchConntrackFlow(f *netlink.ConntrackFlow) bool {
	established := false
	switch f.Forward.Protocol {
	case unix.IPPROTO_UDP, unix.IPPROTO_SCTP:
	case unix.IPPROTO_TCP:
		tcp, ok := f.ProtoInfo.(*netlink.ProtoInfoTCP)
		established = !ok || tcp.State != synSent
	default:
		return false
	}
	dst, ok1 := netip.AddrFromSlice(f.Forward.DstIP)
	src, ok2 := netip.AddrFromSlice(f.Reverse.SrcIP)
	return ok1 && ok2 && m(Flow{
		Protocol:      f.Forward.Protocol,
		Destination:   netip.AddrPortFrom(dst.Unmap(), f.Forward.DstPort),
		AnswersSource: netip.AddrPortFrom(src.Unmap(), f.Reverse.SrcPort),
		Established:   established,
	})
}
