package conntrack

import (
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/reevehq/reeve/proxy/plan"
)

func planned(protocol corev1.Protocol, endpoints ...string) *plan.Planned {
	p := plan.Port{
		ID:        plan.PortID{Service: plan.Name{Namespace: "default", Name: "s"}, Protocol: protocol, Family: plan.IPv4},
		ClusterIP: netip.MustParseAddr("10.96.0.50"), Port: 53, NodePort: 30053,
		ExternalIPs: []netip.Addr{netip.MustParseAddr("198.51.100.7")},
	}
	for _, e := range endpoints {
		p.Cluster = append(p.Cluster, netip.MustParseAddrPort(e))
	}
	return &plan.Planned{Ports: []plan.Port{p}}
}

func TestStaleFlows(t *testing.T) {
	udp := func(to, from string) Flow {
		return Flow{Protocol: unix.IPPROTO_UDP, Destination: netip.MustParseAddrPort(to), AnswersSource: netip.MustParseAddrPort(from)}
	}
	var (
		toOne      = udp("10.96.0.50:53", "10.244.0.1:53")
		toTwo      = udp("10.96.0.50:53", "10.244.0.2:53")
		nowhere    = udp("10.96.0.50:53", "10.96.0.50:53")
		nodeOne    = udp("192.0.2.1:30053", "10.244.0.1:53")
		external   = udp("198.51.100.7:53", "10.244.0.1:53")
		otherPort  = udp("10.96.0.50:54", "10.244.0.1:53")
		otherHost  = udp("203.0.113.1:30053", "203.0.113.1:30053")
		sctp       = Flow{Protocol: unix.IPPROTO_SCTP, Destination: toOne.Destination, AnswersSource: toOne.AnswersSource}
		everything = []Flow{toOne, toTwo, nowhere, nodeOne, external, otherPort, otherHost, sctp}
	)
	const one, two = "10.244.0.1:53", "10.244.0.2:53"
	for _, c := range []struct {
		name          string
		before, after *plan.Planned
		stale         []Flow
	}{
		{"an endpoint goes", planned("UDP", one, two), planned("UDP", two), []Flow{toOne, nowhere, nodeOne, external}},
		{"the last endpoint goes", planned("UDP", one), planned("UDP"), []Flow{toOne, toTwo, nowhere, nodeOne, external}},
		{"the first endpoint comes", planned("UDP"), planned("UDP", two), []Flow{toOne, nowhere, nodeOne, external}},
		{"the Service comes", nil, planned("UDP", two), []Flow{toOne, nowhere, nodeOne, external}},
		{"the Service goes", planned("UDP", one), nil, []Flow{toOne, toTwo, nowhere, nodeOne, external}},
		{"one more endpoint comes", planned("UDP", one), planned("UDP", one, two), nil},
		{"nothing changes", planned("UDP", one), planned("UDP", one), nil},
		{"a TCP Service loses an endpoint", planned("TCP", one, two), planned("TCP", two), nil},
		{"a Service without endpoints comes", nil, planned("UDP"), nil},
		{"an SCTP Service goes", planned("SCTP", one), nil, []Flow{sctp}},
	} {
		var x Index
		if got := x.Add(plan.IPv4, c.before, c.after); got != (len(c.stale) > 0) {
			t.Errorf("%s: flows can be stale: %v", c.name, got)
		}
		want := map[Flow]bool{}
		for _, f := range c.stale {
			want[f] = true
		}
		for _, f := range everything {
			isLocal := func(a netip.Addr) bool { return a.String() == "192.0.2.1" }
			if got := x.Stale(f, isLocal); got != want[f] {
				t.Errorf("%s: %v is stale: %v", c.name, f, got)
			}
		}
		var six Index
		if six.Add(plan.IPv6, c.before, c.after) {
			t.Errorf("%s: changes IPv6", c.name)
		}
	}
}

// What was first sent while rules were missing is forgotten when they are back, unless somebody answered or nothing serves.
func TestFlowsThatMetNoRules(t *testing.T) {
	var x Index
	x.AddServed(plan.IPv4, planned("TCP", "10.244.0.1:53"))
	x.AddServed(plan.IPv4, planned("UDP"))
	for _, c := range []struct {
		to, from    string
		protocol    uint8
		established bool
		stale       bool
	}{
		{"10.96.0.50:53", "10.96.0.50:53", unix.IPPROTO_TCP, false, true},
		{"198.51.100.7:53", "198.51.100.7:53", unix.IPPROTO_TCP, false, true},
		{"192.0.2.1:30053", "192.0.2.1:30053", unix.IPPROTO_TCP, false, true},
		{"203.0.113.1:30053", "203.0.113.1:30053", unix.IPPROTO_TCP, false, false}, // another host's
		{"10.96.0.50:53", "10.96.0.50:53", unix.IPPROTO_TCP, true, false},
		{"10.96.0.50:53", "10.244.0.9:53", unix.IPPROTO_TCP, false, false}, // on its way to a pod
		{"10.96.0.50:53", "10.96.0.50:53", unix.IPPROTO_UDP, false, false}, // nothing serves
		{"10.96.0.50:54", "10.96.0.50:54", unix.IPPROTO_TCP, false, false},
	} {
		f := Flow{Protocol: c.protocol, Destination: netip.MustParseAddrPort(c.to), AnswersSource: netip.MustParseAddrPort(c.from), Established: c.established}
		if got := x.Stale(f, func(a netip.Addr) bool { return a.String() == "192.0.2.1" }); got != c.stale {
			t.Errorf("%v is stale: %v", f, got)
		}
	}
	x.AddServed(plan.IPv4, planned("UDP", "10.244.0.1:53"))
	nowhere := netip.MustParseAddrPort("10.96.0.50:53")
	if !x.Stale(Flow{Protocol: unix.IPPROTO_UDP, Destination: nowhere, AnswersSource: nowhere}, func(netip.Addr) bool { return false }) {
		t.Error("a datagram that met no rules is kept")
	}
}
