package plan

import (
	"fmt"
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Family is an IP family, 4 or 6.
type Family int

// The families.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

// FamilyOf an address.
func FamilyOf(a netip.Addr) Family {
	if a.Is6() {
		return IPv6
	}
	return IPv4
}

// Facts are what the planner knows of this node and of the operator's wishes.
type Facts struct {
	NodeName string
	Zone     string // topology.kubernetes.io/zone; empty: unknown
	// ClusterCIDRs are the pods' ranges: from elsewhere, traffic to a ClusterIP is masqueraded. Empty: it is not.
	ClusterCIDRs []netip.Prefix
	// LocalInterface, where it is set, tells pods' traffic by the interface that it came in by instead of by ClusterCIDRs: one
	// of this name, or with LocalInterfaceIsPrefix those whose name begins so.
	LocalInterface         string
	LocalInterfaceIsPrefix bool
	// MasqueradeAll masquerades all traffic to ClusterIPs.
	MasqueradeAll bool
	// NodePortAddresses limit the local addresses of node ports. Empty: all but loopback.
	NodePortAddresses []netip.Prefix
	// LocalhostNodePorts answers node ports on 127.0.0.0/8 too.
	LocalhostNodePorts bool
}

// PortID names one port of a Service in one family.
type PortID struct {
	Service  Name
	Port     string // its name, often empty
	Protocol corev1.Protocol
	Family   Family
}

func (id PortID) String() string {
	s := id.Service.String()
	if id.Port != "" {
		s += ":" + id.Port
	}
	return s
}

// Verdict is what happens to new connections.
type Verdict string

// The verdicts. Reject answers at once (no endpoint anywhere), Drop is silent (endpoints, but none on this node, where
// policy wants one: a load balancer should look elsewhere).
const (
	Forward Verdict = "forward"
	Reject  Verdict = "reject"
	Drop    Verdict = "drop"
)

// Port is one port of a Service with every policy decided.
type Port struct {
	ID        PortID
	ClusterIP netip.Addr
	Port      uint16

	// Addresses and the node port on which traffic from outside arrives.
	ExternalIPs     []netip.Addr
	LoadBalancerIPs []netip.Addr
	SourceRanges    []netip.Prefix // who may use LoadBalancerIPs; nil: all
	NodePort        uint16

	AffinitySeconds int

	// Cluster are the endpoints for traffic that may go anywhere, Local those on this node.
	Cluster, Local []netip.AddrPort

	// Internal is for traffic to the ClusterIP, External for traffic to the other addresses. The pool is Local where
	// InternalLocal or ExternalLocal is set, else Cluster. With ExternalLocal, traffic that comes from this node or from a
	// pod still takes the Cluster pool, and the rest keeps its source address.
	Internal, External           Verdict
	InternalLocal, ExternalLocal bool
}

// HasExternal reports that the port is reachable on more than its ClusterIP.
func (p *Port) HasExternal() bool {
	return p.NodePort != 0 || len(p.ExternalIPs) > 0 || len(p.LoadBalancerIPs) > 0
}

// InternalPool are the endpoints of the ClusterIP.
func (p *Port) InternalPool() []netip.AddrPort {
	if p.InternalLocal {
		return p.Local
	}
	return p.Cluster
}

// ExternalPool are the endpoints of the other addresses.
func (p *Port) ExternalPool() []netip.AddrPort {
	if p.ExternalLocal {
		return p.Local
	}
	return p.Cluster
}

// Health is what the health check port of a Service with external traffic policy Local answers.
type Health struct {
	Service        Name
	NodePort       uint16
	LocalEndpoints int
}

// Planned is one Service, decided.
type Planned struct {
	Ports  []Port
	Health *Health // nil: none wanted
}

// String prints the plan of a Service, one line a port and one an address, for people and golden files.
func (p Planned) String() string {
	var b strings.Builder
	for i := range p.Ports {
		q := &p.Ports[i]
		fmt.Fprintf(&b, "%s %s/IPv%d\n", q.ID, q.ID.Protocol, q.ID.Family)
		fmt.Fprintf(&b, "\tcluster IP %s: %s", netip.AddrPortFrom(q.ClusterIP, q.Port), q.Internal)
		if q.InternalLocal {
			b.WriteString(" (local)")
		}
		b.WriteByte('\n')
		for _, a := range q.ExternalIPs {
			fmt.Fprintf(&b, "\texternal IP %s\n", netip.AddrPortFrom(a, q.Port))
		}
		for _, a := range q.LoadBalancerIPs {
			fmt.Fprintf(&b, "\tload balancer IP %s from %v\n", netip.AddrPortFrom(a, q.Port), orAll(q.SourceRanges))
		}
		if q.NodePort != 0 {
			fmt.Fprintf(&b, "\tnode port %d\n", q.NodePort)
		}
		if q.HasExternal() {
			fmt.Fprintf(&b, "\texternal: %s", q.External)
			if q.ExternalLocal {
				b.WriteString(" (local, source kept)")
			}
			b.WriteByte('\n')
		}
		if q.AffinitySeconds > 0 {
			fmt.Fprintf(&b, "\taffinity %d s\n", q.AffinitySeconds)
		}
		for _, e := range q.Cluster {
			fmt.Fprintf(&b, "\tendpoint %s\n", e)
		}
		for _, e := range q.Local {
			fmt.Fprintf(&b, "\tlocal endpoint %s\n", e)
		}
	}
	if p.Health != nil {
		fmt.Fprintf(&b, "health check on %d: %d local\n", p.Health.NodePort, p.Health.LocalEndpoints)
	}
	return b.String()
}

func orAll(p []netip.Prefix) any {
	if len(p) == 0 {
		return "all"
	}
	return p
}
