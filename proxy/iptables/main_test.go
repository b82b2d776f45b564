package iptables

import (
	"fmt"
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/reevehq/reeve/internal/testenv"
	"github.com/reevehq/reeve/internal/testns"
	"github.com/reevehq/reeve/internal/xtables"
	"github.com/reevehq/reeve/proxy/plan"
)

func TestMain(m *testing.M) { testns.Main(m) }

func testConfig(family plan.Family) Config {
	return Config{
		Prefix: "KUBE", MarkBit: 14, Family: family,
		Facts: plan.Facts{NodeName: "here", ClusterCIDRs: []netip.Prefix{
			netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:10:244::/48"),
		}},
	}
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
			Addr: netip.AddrFrom4([4]byte{10, 244, byte(i), last}), Ready: true, Serving: true, NodeName: "here",
		})
	}
	p := plan.Plan(plan.Facts{NodeName: "here"}, svc, []plan.Slice{sl})
	return name, &p
}

func open(t testing.TB, flavor xtables.Flavor, family plan.Family) (*Backend, *xtables.Handle) {
	t.Helper()
	testns.Need(t)
	xt, err := xtables.New(xtables.Family(family), flavor)
	if err != nil {
		testenv.Skip(t, err.Error())
	}
	cfg := testConfig(family)
	t.Cleanup(func() {
		if err := Cleanup(t.Context(), cfg, xt); err != nil && t.Context().Err() == nil {
			t.Error(err)
		}
	})
	return New(cfg, xt), xt
}
