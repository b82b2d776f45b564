package nftables

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/knftables"

	"github.com/reevehq/reeve/internal/story"
	"github.com/reevehq/reeve/internal/testns"
	"github.com/reevehq/reeve/proxy/plan"
	"github.com/reevehq/reeve/proxy/plan/plantest"
)

func TestMain(m *testing.M) { testns.Main(m) }

var storyFacts = plan.Facts{NodeName: "here", Zone: "a", ClusterCIDRs: []netip.Prefix{
	netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:10:244::/48"),
}}

func testConfig(family plan.Family) Config {
	return Config{Table: "reeve-proxy", MarkBit: 14, Family: family, Facts: storyFacts}
}

// fakeTable is a table in memory, as strict about references as nft is.
type fakeTable struct{ *knftables.Fake }

func newFake(family plan.Family) fakeTable {
	if family == plan.IPv6 {
		return fakeTable{knftables.NewFake(knftables.IPv6Family, "reeve-proxy")}
	}
	return fakeTable{knftables.NewFake(knftables.IPv4Family, "reeve-proxy")}
}

func (f fakeTable) CountRules(context.Context) (map[string]int, error) {
	out := map[string]int{}
	if f.Table == nil {
		return out, nil
	}
	for name, c := range f.Table.Chains {
		out[name] = len(c.Rules)
	}
	return out, nil
}

func (f fakeTable) WriteElements(ctx context.Context, remove, add map[slot]content) error {
	tx := f.NewTransaction()
	for _, at := range slots(remove) {
		tx.Delete(toElement(at, remove[at]))
	}
	writeElements(tx, add)
	return f.Run(ctx, tx)
}

func (f fakeTable) ReadElements(ctx context.Context, name string) (map[string]content, error) {
	kind := "map"
	if isSet(name) {
		kind = "set"
	}
	elements, err := f.ListElements(ctx, kind, name)
	out := map[string]content{}
	for _, e := range elements {
		c := content{value: strings.Join(e.Value, concat)}
		if e.Comment != nil {
			c.comment = *e.Comment
		}
		out[strings.Join(e.Key, concat)] = c
	}
	return out, err
}

func (f fakeTable) ReadObjects(context.Context) (objects, error) {
	out := objects{map[string]bool{}, map[string]bool{}, map[string]bool{}}
	if f.Table == nil {
		return out, nil
	}
	for name := range f.Table.Chains {
		out.chains[name] = true
	}
	for name := range f.Table.Maps {
		out.maps[name] = true
	}
	for name := range f.Table.Sets {
		out.sets[name] = true
	}
	return out, nil
}

func (fakeTable) KeepTracking(context.Context) error { return nil }
func (fakeTable) StopTracking(context.Context) error { return nil }

func (fakeTable) PortID() uint32 { return 1 }
func (fakeTable) Close()         {}

func open(t testing.TB, family plan.Family) (*Backend, *Table) {
	t.Helper()
	testns.Need(t)
	testns.NeedBinary(t, "nft")
	nft, err := Open(testConfig(family))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nft.Close)
	t.Cleanup(func() {
		testns.Sh(t, "nft delete table %[1]s reeve-proxy 2>/dev/null; nft delete table %[1]s reeve-proxy-keep 2>/dev/null; true", testConfig(family).ip())
	})
	return New(testConfig(family), nft), nft
}

func storyConfig(s *story.Story, family plan.Family) Config {
	c := testConfig(family)
	c.Facts = plantest.Facts(s)
	return c
}

// synthetic is Service number i with endpoints, the last of which changes with version.
func synthetic(i, endpoints, version int) (plan.Name, *plan.Planned) {
	name := plan.Name{Namespace: "default", Name: fmt.Sprintf("svc-%d", i)}
	svc := plan.Service{
		Name: name, ClusterIPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 96, byte(i >> 8), byte(i)})},
		Ports: []plan.ServicePort{{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80}},
	}
	sl := plan.Slice{Service: name, Ports: []plan.SlicePort{{Name: "http", Protocol: corev1.ProtocolTCP, Port: 8080}}}
	for e := range endpoints {
		last := byte(e)
		if e == endpoints-1 {
			last += byte(version%100) * 2
		}
		sl.Endpoints = append(sl.Endpoints, plan.SliceEndpoint{
			Addr: netip.AddrFrom4([4]byte{10, byte(160 + i>>8), byte(i), last}), Ready: true, Serving: true, NodeName: "here",
		})
	}
	p := plan.Plan(plan.Facts{NodeName: "here"}, svc, []plan.Slice{sl})
	return name, &p
}

// randomService is a Service with everything that may vary, or none. Different ones may claim the same frontends.
func randomService(r *rand.Rand, i int) *plan.Planned {
	if r.IntN(5) == 0 {
		return nil
	}
	svc := plan.Service{
		Name:          plan.Name{Namespace: "default", Name: fmt.Sprint("s", i)},
		ClusterIPs:    []netip.Addr{netip.AddrFrom4([4]byte{10, 96, 0, byte(i)})},
		InternalLocal: r.IntN(4) == 0, ExternalLocal: r.IntN(3) == 0,
	}
	for p := range r.IntN(3) {
		sp := plan.ServicePort{Name: fmt.Sprint("p", p), Protocol: corev1.ProtocolTCP, Port: uint16(80 + p)}
		switch r.IntN(4) {
		case 0, 1:
			sp.Protocol = corev1.ProtocolUDP
		case 2:
			sp.Protocol = corev1.ProtocolSCTP
		}
		if r.IntN(2) == 0 {
			sp.NodePort = uint16(30000 + 10*(i%5) + p)
		}
		svc.Ports = append(svc.Ports, sp)
	}
	if r.IntN(3) == 0 {
		svc.ExternalIPs = []netip.Addr{netip.AddrFrom4([4]byte{198, 51, 100, byte(i % 4)})}
	}
	if r.IntN(3) == 0 {
		svc.LoadBalancerIPs = []netip.Addr{netip.AddrFrom4([4]byte{198, 51, 101, byte(i % 4)})}
		if r.IntN(2) == 0 {
			svc.SourceRanges = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("192.0.2.128/25")}
			if r.IntN(2) == 0 {
				svc.SourceRanges = []netip.Prefix{netip.MustParsePrefix("192.0.0.0/16"), netip.MustParsePrefix("203.0.113.9/32")}
			}
		}
	}
	if r.IntN(3) == 0 {
		svc.AffinitySeconds = 60 * (1 + r.IntN(2))
	}
	sl := plan.Slice{Service: svc.Name}
	for _, p := range svc.Ports {
		sl.Ports = append(sl.Ports, plan.SlicePort{Name: p.Name, Protocol: p.Protocol, Port: 8080})
	}
	for e := range r.IntN(5) {
		sl.Endpoints = append(sl.Endpoints, plan.SliceEndpoint{
			Addr: netip.AddrFrom4([4]byte{10, 244, byte(i % 3), byte(e + r.IntN(2))}), Ready: r.IntN(4) != 0,
			Serving: r.IntN(2) == 0, Terminating: r.IntN(2) == 0, NodeName: []string{"here", "there"}[r.IntN(2)],
		})
	}
	p := plan.Plan(storyFacts, svc, []plan.Slice{sl})
	return &p
}
