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
		return Flow{unix.IPPROTO_UDP, netip.MustParseAddrPort(to), netip.MustParseAddrPort(from)}
	}
	var (
		toOne      = udp("10.96.0.50:53", "10.244.0.1:53")
		toTwo      = udp("10.96.0.50:53", "10.244.0.2:53")
		nowhere    = udp("10.96.0.50:53", "10.96.0.50:53")
		nodeOne    = udp("192.0.2.1:30053", "10.244.0.1:53")
		external   = udp("198.51.100.7:53", "10.244.0.1:53")
		otherPort  = udp("10.96.0.50:54", "10.244.0.1:53")
		otherHost  = udp("203.0.113.1:30053", "203.0.113.1:30053")
		sctp       = Flow{unix.IPPROTO_SCTP, toOne.Destination, toOne.AnswersSource}
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
