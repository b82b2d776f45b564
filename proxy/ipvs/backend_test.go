package ipvs

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"github.com/reevehq/reeve/internal/story"
	"github.com/reevehq/reeve/proxy/plan"
)

// random is some Service of few names, addresses and ports, so that they get in each other's way.
func random(r *rand.Rand) (plan.Name, *plan.Planned) {
	name := plan.Name{Namespace: "default", Name: string(rune('a' + r.IntN(5)))}
	if r.IntN(4) == 0 {
		return name, nil
	}
	svc := plan.Service{
		Name: name, ClusterIPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 96, 0, byte(r.IntN(4))})},
		AffinitySeconds: r.IntN(2) * 100, InternalLocal: r.IntN(3) == 0, ExternalLocal: r.IntN(2) == 0,
	}
	protocols := []corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP}
	sl := plan.Slice{Service: name}
	for i := range 1 + r.IntN(2) {
		port := plan.ServicePort{Name: string(rune('p' + i)), Protocol: protocols[r.IntN(2)], Port: uint16(80 + i), NodePort: uint16(r.IntN(3) * 30000)}
		svc.Ports = append(svc.Ports, port)
		sl.Ports = append(sl.Ports, plan.SlicePort{Name: port.Name, Protocol: port.Protocol, Port: 8080})
	}
	addr := func(list ...string) []netip.Addr {
		var out []netip.Addr
		for _, s := range list {
			if r.IntN(2) == 0 {
				out = append(out, netip.MustParseAddr(s))
			}
		}
		return out
	}
	svc.ExternalIPs = addr("198.51.100.1", "192.0.2.1")
	svc.LoadBalancerIPs = addr("198.51.100.2", "198.51.100.3")
	if r.IntN(2) == 0 {
		svc.SourceRanges = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/25")}
	}
	for e := range r.IntN(4) {
		node := []string{"here", "there"}[r.IntN(2)]
		sl.Endpoints = append(sl.Endpoints, plan.SliceEndpoint{Addr: netip.AddrFrom4([4]byte{10, 244, 3, byte(10 + e + r.IntN(2))}), Ready: true, Serving: true, NodeName: node})
	}
	p := plan.Plan(plan.Facts{NodeName: "here"}, svc, []plan.Slice{sl})
	if svc.ExternalLocal && r.IntN(2) == 0 {
		p.Health = &plan.Health{Service: name, NodePort: 31000, LocalEndpoints: 1}
	}
	return name, &p
}

// Any sequence of changes, in steps, with servers that drain late and restarts in between, ends where the same ends that is
// applied at once to an empty kernel.
func TestStepsEndWhereOneStepEnds(t *testing.T) {
	for seed := range uint64(150) {
		r := rand.New(rand.NewPCG(seed, 1))
		c := testConfig(plan.IPv4)
		k := newFake(plan.IPv4, story.NodeAddrs...)
		b := New(c, k)
		if err := b.Apply(t.Context(), nil, true); err != nil {
			t.Fatal(err)
		}
		all := map[plan.Name]*plan.Planned{}
		for range 30 {
			changes := map[plan.Name]*plan.Planned{}
			for range 1 + r.IntN(3) {
				name, p := random(r)
				changes[name] = p
				if all[name] = p; p == nil {
					delete(all, name)
				}
			}
			clear(k.busy)
			for range 3 {
				k.busy[netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 244, 3, byte(10 + r.IntN(5))}), 8080)] = true
			}
			err := b.Apply(t.Context(), changes, false)
			if r.IntN(8) == 0 {
				b = New(c, k) // a restart
				err = b.Apply(t.Context(), all, true)
			}
			if err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
			if r.IntN(3) == 0 {
				if _, err := b.Tend(t.Context()); err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
			}
		}
		clear(k.busy)
		if again, err := b.Tend(t.Context()); err != nil || again != 0 {
			t.Fatalf("seed %d: tend again after %v, %v", seed, again, err)
		}
		fresh := newFake(plan.IPv4, story.NodeAddrs...)
		if err := New(c, fresh).Apply(t.Context(), all, true); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(fresh.String(), k.String()); diff != "" {
			t.Fatalf("seed %d: at once (-), in steps (+):\n%s", seed, diff)
		}
	}
}

// What one change writes does not grow with the other Services.
func TestOneChangeIsSmallAmongMany(t *testing.T) {
	k := newFake(plan.IPv4, story.NodeAddrs...)
	b := New(testConfig(plan.IPv4), k)
	all := map[plan.Name]*plan.Planned{}
	for i := range 500 {
		name, p := synthetic(i, 2, 0)
		all[name] = p
	}
	if err := b.Apply(t.Context(), all, true); err != nil {
		t.Fatal(err)
	}
	rules := len(k.tables["nat"][b.cfg.chain("SERVICES")])
	for what, change := range map[string]func() (plan.Name, *plan.Planned){
		"endpoint": func() (plan.Name, *plan.Planned) { return synthetic(7, 2, 1) },
		"added":    func() (plan.Name, *plan.Planned) { return synthetic(501, 2, 0) },
		"removed":  func() (plan.Name, *plan.Planned) { name, _ := synthetic(8, 2, 0); return name, nil },
	} {
		name, p := change()
		before := k.calls
		if err := b.Apply(t.Context(), map[plan.Name]*plan.Planned{name: p}, false); err != nil {
			t.Fatal(err)
		}
		if n := k.calls - before; n > 10 {
			t.Errorf("%s: %d operations", what, n)
		}
	}
	if got := len(k.tables["nat"][b.cfg.chain("SERVICES")]); got != rules {
		t.Errorf("%d rules with 500 Services, %d after changes", rules, got)
	}
}

// What others made is not touched, and what is ours of an earlier start goes.
func TestOnlyOursIsRemoved(t *testing.T) {
	k := newFake(plan.IPv4, story.NodeAddrs...)
	c := testConfig(plan.IPv4)
	c.Exclude = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")}
	theirs := frontend{netip.MustParseAddr("203.0.113.9"), 80, 6}
	k.virtuals[theirs] = &known{virtual: true, scheduler: "wlc", reals: []real{{at: netip.MustParseAddrPort("10.9.9.9:80")}}}
	b := New(c, k)
	name, p := synthetic(1, 2, 0)
	if err := b.Apply(t.Context(), map[plan.Name]*plan.Planned{name: p}, true); err != nil {
		t.Fatal(err)
	}
	b = New(c, k)
	if err := b.Apply(t.Context(), nil, true); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Tend(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(k.virtuals) != 1 || k.virtuals[theirs] == nil || len(k.routes) != 0 || len(k.sets[setServices]) != 0 {
		t.Errorf("left:\n%s", k)
	}
}

func TestForeignChangesAreSeen(t *testing.T) {
	for what, change := range map[string]func(*fakeKernel){
		"nothing":          func(*fakeKernel) {},
		"device deleted":   func(k *fakeKernel) { k.device = false },
		"services flushed": func(k *fakeKernel) { clear(k.virtuals) },
		"set flushed":      func(k *fakeKernel) { clear(k.sets[setServices]) },
		"nat flushed":      func(k *fakeKernel) { clear(k.tables["nat"]) },
		"filter flushed":   func(k *fakeKernel) { clear(k.tables["filter"]) },
		"another address":  func(k *fakeKernel) { k.addrs = append(k.addrs, netip.MustParseAddr("203.0.113.77")) },
	} {
		k := newFake(plan.IPv4, story.NodeAddrs...)
		b := New(testConfig(plan.IPv4), k)
		name, p := synthetic(1, 2, 0)
		if err := b.Apply(t.Context(), map[plan.Name]*plan.Planned{name: p}, true); err != nil {
			t.Fatal(err)
		}
		change(k)
		if ok, err := b.Intact(t.Context()); err != nil || ok != (what == "nothing") {
			t.Errorf("%s: intact %v, %v", what, ok, err)
		}
	}
}

// A change of mode: servers with connections stay, out of turn, and all the rest goes; when they have ended, those go too.
func TestDrainKeepsOnlyWhatConnectionsNeed(t *testing.T) {
	k := newFake(plan.IPv4, story.NodeAddrs...)
	c := testConfig(plan.IPv4)
	all := map[plan.Name]*plan.Planned{}
	for i := range 3 {
		name, p := synthetic(i, 2, 0)
		all[name] = p
	}
	if err := New(c, k).Apply(t.Context(), all, true); err != nil {
		t.Fatal(err)
	}
	_, p := synthetic(1, 2, 0)
	q := p.Ports[0]
	k.busy[q.Cluster[0]] = true
	for range 2 {
		left, err := drain(c, k)
		if err != nil || !left {
			t.Fatal(left, err)
		}
		v := k.virtuals[frontend{q.ClusterIP, 80, 6}]
		if len(k.virtuals) != 1 || len(k.routes) != 1 || v == nil || !v.reals[0].draining {
			t.Errorf("left:\n%s", k)
		}
	}
	clear(k.busy)
	if left, err := drain(c, k); err != nil || left || len(k.virtuals)+len(k.routes) != 0 {
		t.Errorf("%v, %v:\n%s", left, err, k)
	}
}

// ranged is a Service with a load balancer's address that only one source range may use.
func ranged() (plan.Name, *plan.Planned) {
	name := plan.Name{Namespace: "default", Name: "ranged"}
	p := plan.Plan(plan.Facts{NodeName: "here"}, plan.Service{
		Name: name, ClusterIPs: []netip.Addr{netip.MustParseAddr("10.96.5.5")},
		LoadBalancerIPs: []netip.Addr{netip.MustParseAddr("192.0.2.77")}, SourceRanges: []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24")},
		Ports: []plan.ServicePort{{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80}},
	}, []plan.Slice{{
		Service: name, Ports: []plan.SlicePort{{Name: "http", Protocol: corev1.ProtocolTCP, Port: 8080}},
		Endpoints: []plan.SliceEndpoint{{Addr: netip.MustParseAddr("10.244.0.9"), Ready: true, Serving: true, NodeName: "here"}},
	}})
	return name, &p
}

// Table mangle, which every packet that leaves would pass, has a jump while a Service has source ranges.
func TestGuardIsThereWhileNeeded(t *testing.T) {
	k := newFake(plan.IPv4, story.NodeAddrs...)
	c := testConfig(plan.IPv4)
	b := New(c, k)
	there := func(when string, want bool) {
		t.Helper()
		if got := slices.Contains(k.tables["mangle"]["OUTPUT"], c.guard().Rule); got != want {
			t.Errorf("%s: the guard is there: %v", when, got)
		}
		if ok, err := b.Intact(t.Context()); err != nil || !ok {
			t.Errorf("%s: intact %v, %v", when, ok, err)
		}
	}
	apply := func(full bool, changes map[plan.Name]*plan.Planned) {
		t.Helper()
		if err := b.Apply(t.Context(), changes, full); err != nil {
			t.Fatal(err)
		}
	}
	plain, p := synthetic(1, 2, 0)
	name, r := ranged()
	apply(true, map[plan.Name]*plan.Planned{plain: p})
	there("none has ranges", false)
	apply(false, map[plan.Name]*plan.Planned{name: r})
	there("one has ranges", true)
	apply(false, map[plan.Name]*plan.Planned{plain: nil})
	there("another went", true)
	b = New(c, k)
	apply(true, map[plan.Name]*plan.Planned{name: r})
	there("after a restart", true)
	if n := len(k.tables["mangle"]["OUTPUT"]); n != 1 {
		t.Errorf("%d jumps after a restart", n)
	}
	clear(k.tables["mangle"])
	if ok, err := b.Intact(t.Context()); err != nil || ok {
		t.Errorf("mangle flushed: intact %v, %v", ok, err)
	}
	apply(true, map[plan.Name]*plan.Planned{name: r})
	there("flushed", true)
	apply(false, map[plan.Name]*plan.Planned{name: nil})
	if _, err := b.Tend(t.Context()); err != nil {
		t.Fatal(err)
	}
	there("the last with ranges went", false)
	apply(false, map[plan.Name]*plan.Planned{name: r})
	b = New(c, k)
	apply(true, map[plan.Name]*plan.Planned{plain: p})
	there("it went while nobody looked", false)
}
