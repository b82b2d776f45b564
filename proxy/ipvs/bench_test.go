package ipvs

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
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

// syntheticAll are the first n of them with two endpoints each, by name and in their order.
func syntheticAll(n int) (all map[plan.Name]*plan.Planned, list []*plan.Planned) {
	all = map[plan.Name]*plan.Planned{}
	for i := range n {
		name, p := synthetic(i, 2, 0)
		all[name] = p
		list = append(list, p)
	}
	return all, list
}

func testConfig(family plan.Family) Config {
	return Config{
		Prefix: "KUBE", MarkBit: 14, Family: family, Label: firstLabel + 14,
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
func bare(k *Kernel, all []*plan.Planned) error {
	c := testConfig(plan.IPv4)
	if err := errors.Join(k.EnsureDevice(), k.EnsureSets(c), k.Restore(context.Background(), c.rulesInput(nil, nil))); err != nil {
		return err
	}
	link, err := k.nl.LinkByName(Device)
	if err != nil {
		return err
	}
	for _, p := range all {
		if err := bareService(k, c, link, &p.Ports[0]); err != nil {
			return err
		}
	}
	return nil
}

func bareService(k *Kernel, c Config, link netlink.Link, q *plan.Port) error {
	tcp, port, ip := uint8(6), uint16(80), q.ClusterIP.AsSlice()
	svc := &ipvs.Service{AddressFamily: 2, Address: ip, Port: 80, Protocol: 6, SchedName: "rr", Netmask: 0xffffffff}
	errs := []error{
		k.nl.IpsetAdd(c.set(setServices), &netlink.IPSetEntry{IP: ip, Port: &port, Protocol: &tcp}),
		k.nl.IpsetAdd(c.set(setCluster), &netlink.IPSetEntry{IP: ip, Port: &port, Protocol: &tcp}),
		k.nl.IpsetAdd(c.set(setAddresses), &netlink.IPSetEntry{IP: ip}),
		k.vs.NewService(svc),
	}
	for _, e := range q.Cluster {
		to, pod := e.Port(), e.Addr().AsSlice()
		errs = append(errs, k.vs.NewDestination(svc, &ipvs.Destination{Address: pod, Port: to, AddressFamily: 2, Weight: 1}),
			k.nl.IpsetAdd(c.set(setHairpin), &netlink.IPSetEntry{IP: pod, Port: &to, Protocol: &tcp, IP2: pod}))
	}
	r, err := k.route(q.ClusterIP)
	if err == nil {
		r.LinkIndex = link.Attrs().Index
		err = k.nl.RouteAdd(r)
	}
	return errors.Join(append(errs, err)...)
}

// TestScale shows that programming works at a size, as bare netlink calls do. With REEVE_SCALE, numbers of Services, it
// measures: it is the bench of this mode, a test since it must build up and take down.
func TestScale(t *testing.T) {
	asked := os.Getenv("REEVE_SCALE")
	if asked == "" {
		small(t, 30)
		return
	}
	for _, word := range strings.Split(asked, ",") {
		n, err := strconv.Atoi(word)
		if err != nil || n < 100 {
			t.Fatalf("REEVE_SCALE %q: give numbers of Services, 100 or more", asked)
		}
		t.Run(word, func(sub *testing.T) { scale(sub, n, t) })
	}
}

func small(t *testing.T, n int) {
	b, k := open(t)
	all, list := syntheticAll(n)
	if err := bare(k, list); err != nil {
		t.Fatal(err)
	}
	cleanup(t, testConfig(plan.IPv4), k.Handle)
	for range 2 { // from empty, and over what is there
		if err := b.Apply(t.Context(), all, true); err != nil {
			t.Fatal(err)
		}
		if got := b.Rules(); got["virtual"] != n || got["real"] != 2*n {
			t.Fatalf("%v", got)
		}
	}
	name, p := synthetic(n/2, 2, 1)
	if err := b.Apply(t.Context(), map[plan.Name]*plan.Planned{name: p}, false); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Tend(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(b.draining) != 0 {
		t.Errorf("%d frontends still drain without a connection", len(b.draining))
	}
}

// stepRounds is how often one endpoint is replaced.
const stepRounds = 200

// scale measures, beside bare netlink calls in the same run and in turns with them: everything from empty, one endpoint
// replaced, and connections through one Service of many beside those through one virtual service and no rules. whole is the
// test of all sizes.
func scale(t *testing.T, n int, whole *testing.T) {
	b, k := open(t)
	all, list := syntheticAll(n)
	c := testConfig(plan.IPv4)
	timed := func(to *[]time.Duration, fn func()) {
		start := time.Now()
		fn()
		*to = append(*to, time.Since(start))
	}
	apply := func(changes map[plan.Name]*plan.Planned, full bool) {
		if err := b.Apply(t.Context(), changes, full); err != nil {
			t.Fatal(err)
		}
	}
	var bareFull, ourFull, again, ourStep, bareStep []time.Duration
	rounds := 1 // of minutes each at tens of thousands
	if n <= 1000 {
		rounds = 5
	} else if n <= 10000 {
		rounds = 2
	}
	// Each is made in a network namespace of its own: the kernel keeps deleted real servers for a minute or two, and looks
	// through all of them for each new one.
	byBare := func() {
		bareFull = append(bareFull, elsewhere(t, whole, func(k *Kernel) error { return bare(k, list) }))
	}
	byUs := func() {
		ourFull = append(ourFull, elsewhere(t, whole, func(k *Kernel) error { return New(c, k).Apply(t.Context(), all, true) }))
	}
	for round := range rounds - 1 {
		turns := []func(){byUs, byBare}
		turns[round%2]()
		turns[(round+1)%2]()
	}
	byBare()
	timed(&ourFull, func() { apply(all, true) }) // this stays
	if got := b.Rules(); got["virtual"] != n || got["real"] != 2*n {
		t.Fatalf("%v", got)
	}
	timed(&again, func() { apply(all, true) })
	for v := range stepRounds {
		i := n/2 + v%(n/2)
		name, p := synthetic(i, 2, v/(n/2)+1)
		step := bareReplacement(i-n/2, v/(n/2))
		turns := []func(){
			func() { timed(&ourStep, func() { apply(map[plan.Name]*plan.Planned{name: p}, false) }) },
			func() { timed(&bareStep, func() { step.make(t, k) }) },
		}
		turns[v%2]()
		turns[(v+1)%2]()
		step.tidy(t, k)
	}
	t.Logf("%d Services: from empty %v, bare netlink %v, ratio %.2f (%s); read again %v", n, median(ourFull), median(bareFull),
		ratio(ourFull, bareFull), pairs(ourFull, bareFull), median(again))
	t.Logf("%d Services: one endpoint replaced p25 %v p50 %v p75 %v, bare p25 %v p50 %v p75 %v, ratio %.2f", n,
		quantile(ourStep, 1), median(ourStep), quantile(ourStep, 3), quantile(bareStep, 1), median(bareStep), quantile(bareStep, 3), ratio(ourStep, bareStep))
	for len(b.draining) > 0 { // nothing has a connection
		if again, err := b.Tend(t.Context()); err != nil || (again > 0 && len(b.draining) > 0) {
			t.Fatalf("%d frontends still drain without a connection: %v", len(b.draining), err)
		}
	}
	connects(t, b, n)
}

// elsewhere answers how long something takes to be made in a network namespace of its own. It is taken away again, but the
// namespace, whose end is work for the kernel, stays until the whole test ends.
func elsewhere(t, whole *testing.T, build func(*Kernel) error) (took time.Duration) {
	t.Helper()
	h := testns.NewHost(whole, fmt.Sprintf("built%d", builds.Add(1)))
	err := h.Do(func() error {
		xt, err := xtables.New(xtables.IPv4, "")
		if err != nil {
			return err
		}
		k, err := Open(plan.IPv4, xt)
		if err != nil {
			return err
		}
		defer k.Close()
		began := time.Now()
		if err := build(k); err != nil {
			return err
		}
		took = time.Since(began)
		c := testConfig(plan.IPv4)
		return errors.Join(CleanupRules(context.Background(), c, xt), Cleanup(c))
	})
	if err != nil {
		t.Fatal(err)
	}
	return took
}

var builds atomic.Int32

// replacement is one endpoint of a Service replaced with bare calls.
type replacement struct {
	svc      *ipvs.Service
	old, now netip.AddrPort
}

// bareReplacement is that of Service i, from one version to the next.
func bareReplacement(i, version int) replacement {
	_, old := synthetic(i, 2, version)
	_, now := synthetic(i, 2, version+1)
	last := func(p *plan.Planned) netip.AddrPort { q := p.Ports[0].Cluster; return q[len(q)-1] }
	return replacement{
		&ipvs.Service{AddressFamily: 2, Address: old.Ports[0].ClusterIP.AsSlice(), Port: 80, Protocol: 6, SchedName: "rr", Netmask: 0xffffffff},
		last(old), last(now),
	}
}

func (r replacement) server(at netip.AddrPort, weight int) *ipvs.Destination {
	return &ipvs.Destination{Address: at.Addr().AsSlice(), Port: at.Port(), AddressFamily: 2, Weight: weight}
}

func (r replacement) hairpin(at netip.AddrPort) *netlink.IPSetEntry {
	port, tcp := at.Port(), uint8(6)
	return &netlink.IPSetEntry{IP: at.Addr().AsSlice(), Port: &port, Protocol: &tcp, IP2: at.Addr().AsSlice()}
}

// make is what a backend's change makes: the new server and its hairpin, the old one's turn ended and its hairpin gone.
func (r replacement) make(t testing.TB, k *Kernel) {
	t.Helper()
	set := testConfig(plan.IPv4).set(setHairpin)
	for _, err := range []error{
		k.nl.IpsetAdd(set, r.hairpin(r.now)), k.vs.NewDestination(r.svc, r.server(r.now, 1)),
		k.vs.UpdateDestination(r.svc, r.server(r.old, 0)), k.nl.IpsetDel(set, r.hairpin(r.old)),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
}

// tidy is what Tend does later for a backend.
func (r replacement) tidy(t testing.TB, k *Kernel) {
	t.Helper()
	if err := k.vs.DelDestination(r.svc, r.server(r.old, 0)); err != nil {
		t.Fatal(err)
	}
}

func median(d []time.Duration) time.Duration { return quantile(d, 2) }

// quantile answers a quarter, the half or three quarters.
func quantile(d []time.Duration, quarters int) time.Duration {
	s := slices.Sorted(slices.Values(d))
	return s[min(len(s)*quarters/4, len(s)-1)]
}

func ratio(a, b []time.Duration) float64 { return float64(median(a)) / float64(median(b)) }

// pairs prints the ratio of each round.
func pairs(a, b []time.Duration) string {
	var out []string
	for i := range a {
		out = append(out, fmt.Sprintf("%.2f", float64(a[i])/float64(b[i])))
	}
	return strings.Join(out, ", ")
}
