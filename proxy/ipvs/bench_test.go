package ipvs

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/moby/ipvs"
	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"

	"github.com/reevehq/reeve/internal/testns"
	"github.com/reevehq/reeve/internal/xtables"
	"github.com/reevehq/reeve/proxy/plan"
)

// synthetic is Service number i with endpoints, the last of which changes with version.
func synthetic(i, endpoints, version int) (plan.Name, *plan.Planned) {
	name := plan.Name{Namespace: "default", Name: fmt.Sprintf("svc-%d", i)}
	svc := plan.Service{
		Name: name, ClusterIPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 96 + byte(i>>16), byte(i >> 8), byte(i)})},
		Ports: []plan.ServicePort{{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80}},
	}
	sl := plan.Slice{Service: name, Ports: []plan.SlicePort{{Name: "http", Protocol: corev1.ProtocolTCP, Port: 8080}}}
	for e := range endpoints {
		n := uint32(i*100 + e) // in 100.64.0.0/10
		if e == endpoints-1 {
			n += uint32(version % 98)
		}
		sl.Endpoints = append(sl.Endpoints, plan.SliceEndpoint{
			Addr: netip.AddrFrom4([4]byte{100, 64 + byte(n>>16), byte(n >> 8), byte(n)}), Ready: true, Serving: true, NodeName: "here",
		})
	}
	p := plan.Plan(plan.Facts{NodeName: "here"}, svc, []plan.Slice{sl})
	return name, &p
}

func testConfig(family plan.Family) Config {
	return Config{
		Prefix: "KUBE", MarkBit: 14, Family: family,
		Facts: plan.Facts{NodeName: "here", ClusterCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:10:244::/48")}},
	}
}

// open opens this kernel's IPVS, which only the virtual machine's has.
func open(t testing.TB) (*Backend, *Kernel) {
	t.Helper()
	testns.Need(t)
	if os.Getenv("REEVE_VM") != "1" {
		t.Skip("runs in the virtual machine, by tests/vm")
	}
	xt, err := xtables.New(xtables.IPv4, "")
	if err != nil {
		t.Fatal(err)
	}
	k, err := Open(plan.IPv4, xt)
	if err != nil {
		t.Fatal(err)
	}
	c := testConfig(plan.IPv4)
	t.Cleanup(func() {
		k.Close()
		cleanup(t, c, xt)
	})
	return New(c, k), k
}

func cleanup(t testing.TB, c Config, xt *xtables.Handle) {
	t.Helper()
	if err := CleanupRules(context.Background(), c, xt); err != nil {
		t.Error(err)
	}
	if err := Cleanup(c); err != nil {
		t.Error(err)
	}
}

// bare makes in the kernel what a backend makes of plans, one object a call of the libraries: what the kernel itself
// costs.
func bare(t testing.TB, k *Kernel, all []*plan.Planned) {
	t.Helper()
	c := testConfig(plan.IPv4)
	must := func(err error) {
		if err != nil {
			t.Fatal(err)
		}
	}
	must(k.EnsureDevice())
	must(k.EnsureSets(c))
	must(k.Restore(t.Context(), c.rulesInput(nil, map[string]xtables.Saved{})))
	link, err := k.nl.LinkByName(Device)
	must(err)
	tcp, port := uint8(6), uint16(80)
	for _, p := range all {
		q := &p.Ports[0]
		ip := q.ClusterIP.AsSlice()
		for _, s := range []setID{setServices, setCluster} {
			must(k.nl.IpsetAdd(c.set(s), &netlink.IPSetEntry{IP: ip, Port: &port, Protocol: &tcp}))
		}
		must(k.nl.IpsetAdd(c.set(setAddresses), &netlink.IPSetEntry{IP: ip}))
		svc := &ipvs.Service{AddressFamily: 2, Address: ip, Port: 80, Protocol: 6, SchedName: "rr", Netmask: 0xffffffff}
		must(k.vs.NewService(svc))
		for _, e := range q.Cluster {
			to := e.Port()
			must(k.vs.NewDestination(svc, &ipvs.Destination{Address: e.Addr().AsSlice(), Port: to, AddressFamily: 2, Weight: 1}))
			must(k.nl.IpsetAdd(c.set(setHairpin), &netlink.IPSetEntry{IP: e.Addr().AsSlice(), Port: &to, Protocol: &tcp, IP2: e.Addr().AsSlice()}))
		}
		r, err := k.route(q.ClusterIP)
		must(err)
		r.LinkIndex = link.Attrs().Index
		must(k.nl.RouteAdd(r))
	}
}

// TestScale measures, beside bare netlink calls in the same run: everything from empty, one endpoint replaced. It is the
// bench of this mode, a test since it must build up and take down. REEVE_SCALE is the numbers of Services.
func TestScale(t *testing.T) {
	sizes := []int{30}
	if asked := os.Getenv("REEVE_SCALE"); asked != "" {
		sizes = nil
		for _, word := range strings.Split(asked, ",") {
			n, err := strconv.Atoi(word)
			if err != nil {
				t.Fatal(err)
			}
			sizes = append(sizes, n)
		}
	}
	for _, n := range sizes {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			b, k := open(t)
			all := map[plan.Name]*plan.Planned{}
			var list []*plan.Planned
			for i := range n {
				name, p := synthetic(i, 2, 0)
				all[name] = p
				list = append(list, p)
			}
			c := testConfig(plan.IPv4)
			var bareFull, ourFull []time.Duration
			rounds := 1 // minutes each at thousands
			if n >= 100 && n <= 1000 {
				rounds = 3
			}
			for range rounds {
				start := time.Now()
				bare(t, k, list)
				bareFull = append(bareFull, time.Since(start))
				cleanup(t, c, k.Handle)
				start = time.Now()
				if err := b.Apply(t.Context(), all, true); err != nil {
					t.Fatal(err)
				}
				ourFull = append(ourFull, time.Since(start))
				if got := b.Rules(); got["virtual"] != n || got["real"] != 2*n {
					t.Fatalf("%v", got)
				}
				cleanup(t, c, k.Handle)
			}
			if err := b.Apply(t.Context(), all, true); err != nil {
				t.Fatal(err)
			}
			start := time.Now()
			if err := b.Apply(t.Context(), all, true); err != nil {
				t.Fatal(err)
			}
			again := time.Since(start)
			var ourStep, bareStep []time.Duration
			for v := range 50 {
				name, p := synthetic(n/2, 2, v+1)
				start := time.Now()
				if err := b.Apply(t.Context(), map[plan.Name]*plan.Planned{name: p}, false); err != nil {
					t.Fatal(err)
				}
				ourStep = append(ourStep, time.Since(start))
				start = time.Now()
				bareReplace(t, k, n/3, v)
				bareStep = append(bareStep, time.Since(start))
			}
			t.Logf("%d Services: from empty %v, bare netlink %v, ratio %.2f; read again %v; one endpoint replaced %v, bare %v, ratio %.2f", n,
				median(ourFull), median(bareFull), float64(median(ourFull))/float64(median(bareFull)), again,
				median(ourStep), median(bareStep), float64(median(ourStep))/float64(median(bareStep)))
			if _, err := b.Tend(t.Context()); err != nil {
				t.Fatal(err)
			}
			if len(b.draining) != 0 {
				t.Errorf("%d frontends still drain without a connection", len(b.draining))
			}
		})
	}
}

// bareReplace makes the same change of Service i with bare calls: the new server and its hairpin, the old one's turn ended
// and its hairpin gone.
func bareReplace(t testing.TB, k *Kernel, i, v int) {
	t.Helper()
	c := testConfig(plan.IPv4)
	_, old := synthetic(i, 2, v)
	_, now := synthetic(i, 2, v+1)
	tcp := uint8(6)
	q := &old.Ports[0]
	svc := &ipvs.Service{AddressFamily: 2, Address: q.ClusterIP.AsSlice(), Port: 80, Protocol: 6, SchedName: "rr", Netmask: 0xffffffff}
	o, n := q.Cluster[len(q.Cluster)-1], now.Ports[0].Cluster[len(now.Ports[0].Cluster)-1]
	to := o.Port()
	for _, err := range []error{
		k.nl.IpsetAdd(c.set(setHairpin), &netlink.IPSetEntry{IP: n.Addr().AsSlice(), Port: &to, Protocol: &tcp, IP2: n.Addr().AsSlice()}),
		k.vs.NewDestination(svc, &ipvs.Destination{Address: n.Addr().AsSlice(), Port: to, AddressFamily: 2, Weight: 1}),
		k.vs.UpdateDestination(svc, &ipvs.Destination{Address: o.Addr().AsSlice(), Port: to, AddressFamily: 2}),
		k.nl.IpsetDel(c.set(setHairpin), &netlink.IPSetEntry{IP: o.Addr().AsSlice(), Port: &to, Protocol: &tcp, IP2: o.Addr().AsSlice()}),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	// Not timed apart: what Tend does later for a backend.
	if err := k.vs.DelDestination(svc, &ipvs.Destination{Address: o.Addr().AsSlice(), Port: to, AddressFamily: 2}); err != nil {
		t.Fatal(err)
	}
}

func median(d []time.Duration) time.Duration {
	s := append([]time.Duration(nil), d...)
	for i := range s {
		for j := i; j > 0 && s[j] < s[j-1]; j-- {
			s[j], s[j-1] = s[j-1], s[j]
		}
	}
	return s[len(s)/2]
}
