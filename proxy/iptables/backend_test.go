package iptables

import (
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"github.com/reevehq/reeve/internal/story"
	"github.com/reevehq/reeve/internal/xtables"
	"github.com/reevehq/reeve/proxy/plan"
	"github.com/reevehq/reeve/proxy/plan/plantest"
)

var update = flag.Bool("update", false, "rewrite the golden rules")

// The planner's stories as rules, golden.
func TestStoriesAsRules(t *testing.T) {
	for _, s := range plantest.Stories(t) {
		t.Run(s.Name, func(t *testing.T) {
			var got strings.Builder
			for _, family := range []plan.Family{plan.IPv4, plan.IPv6} {
				k := newFakeKernel()
				b := New(storyConfig(s, family), k)
				if err := b.Apply(t.Context(), nil, true); err != nil {
					t.Fatal(err)
				}
				k.inputs = nil
				// The difference that the story makes over an empty cluster.
				if err := b.Apply(t.Context(), plantest.Planned(s, 0), false); err != nil {
					t.Fatal(err)
				}
				if len(k.inputs) == 0 {
					continue
				}
				full := newFakeKernel()
				if err := New(storyConfig(s, family), full).Apply(t.Context(), plantest.Planned(s, 0), true); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(full.dump(true), k.dump(true)); diff != "" {
					t.Errorf("written at once and as a difference it is not the same:\n%s", diff)
				}
				fmt.Fprintf(&got, "# IPv%d\n%s", family, rulesOnly(full))
			}
			if *update {
				if err := s.SetGolden("iptables.golden", got.String()); err != nil {
					t.Fatal(err)
				}
				return
			}
			want, _ := s.Golden("iptables.golden")
			if diff := cmp.Diff(want, got.String()); diff != "" {
				t.Errorf("rules differ (- golden, + now); run with -update and read the diff:\n%s", diff)
			}
		})
	}
}

var storyFacts = plan.Facts{NodeName: "here", Zone: "a"}

func storyConfig(s *story.Story, family plan.Family) Config {
	c := testConfig(family)
	c.Facts = plantest.Facts(s)
	return c
}

// rulesOnly prints the chains that hold something of a Service.
func rulesOnly(k *fakeKernel) string {
	fixed := map[string]bool{}
	for _, table := range tables {
		for _, c := range testConfig(plan.IPv4).fixed(table) {
			fixed[c.name] = true
		}
	}
	var out strings.Builder
	keep := false
	for line := range strings.Lines(k.dump(false)) {
		if !strings.HasPrefix(line, "\t") {
			_, chain, _ := strings.Cut(strings.TrimSpace(line), " ")
			keep = strings.HasPrefix(chain, "KUBE") && !fixed[chain]
		}
		if keep && strings.TrimSpace(line) != "" {
			out.WriteString(line)
		}
	}
	return out.String()
}

// randomService is a Service with everything that may vary, or none.
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
		sp := plan.ServicePort{Name: fmt.Sprint("p", p), Protocol: corev1.ProtocolTCP, Port: uint16(80 + p + r.IntN(2))}
		if r.IntN(2) == 0 {
			sp.Protocol = corev1.ProtocolUDP
		}
		if r.IntN(2) == 0 {
			sp.NodePort = uint16(30000 + 10*i + p)
		}
		svc.Ports = append(svc.Ports, sp)
	}
	if r.IntN(3) == 0 {
		svc.ExternalIPs = []netip.Addr{netip.AddrFrom4([4]byte{198, 51, 100, byte(i)})}
	}
	if r.IntN(3) == 0 {
		svc.LoadBalancerIPs = []netip.Addr{netip.AddrFrom4([4]byte{198, 51, 101, byte(i)})}
		if r.IntN(2) == 0 {
			svc.SourceRanges = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}
		}
	}
	if r.IntN(3) == 0 {
		svc.AffinitySeconds = 60
	}
	if r.IntN(3) == 0 {
		svc.HealthCheckNodePort = uint16(31000 + i)
	}
	sl := plan.Slice{Service: svc.Name}
	for _, p := range svc.Ports {
		sl.Ports = append(sl.Ports, plan.SlicePort{Name: p.Name, Protocol: p.Protocol, Port: 8080})
	}
	for e := range r.IntN(5) {
		sl.Endpoints = append(sl.Endpoints, plan.SliceEndpoint{
			Addr: netip.AddrFrom4([4]byte{10, 244, byte(i), byte(e + r.IntN(2))}), Ready: r.IntN(4) != 0,
			Serving: r.IntN(2) == 0, Terminating: r.IntN(2) == 0, NodeName: []string{"here", "there"}[r.IntN(2)],
		})
	}
	p := plan.Plan(storyFacts, svc, []plan.Slice{sl})
	return &p
}

// Any changes in steps end where the same state written at once does, and every transaction is one that iptables takes.
func TestStepsEndWhereOneWriteDoes(t *testing.T) {
	for seed := range uint64(25) {
		r := rand.New(rand.NewPCG(seed, 1))
		steps, atOnce := newFakeKernel(), newFakeKernel()
		b := New(testConfig(plan.IPv4), steps)
		state := map[plan.Name]*plan.Planned{}
		for step := range 30 {
			changes := map[plan.Name]*plan.Planned{}
			for range 1 + r.IntN(4) {
				i := r.IntN(12)
				name := plan.Name{Namespace: "default", Name: fmt.Sprint("s", i)}
				p := randomService(r, i)
				changes[name] = p
				if delete(state, name); p != nil {
					state[name] = p
				}
			}
			full := step == 0 || r.IntN(10) == 0
			if full {
				changes = state
			}
			if err := b.Apply(t.Context(), changes, full); err != nil {
				t.Fatalf("seed %d, step %d: %v", seed, step, err)
			}
			if ok, err := b.Intact(t.Context()); err != nil || !ok {
				t.Fatalf("seed %d, step %d: the canary is gone: %v", seed, step, err)
			}
		}
		if err := New(testConfig(plan.IPv4), atOnce).Apply(t.Context(), state, true); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(atOnce.dump(true), steps.dump(true)); diff != "" {
			t.Fatalf("seed %d: (- at once, + in steps)\n%s", seed, diff)
		}
	}
}

// Whatever others did to the rules, a full write mends it, and touches nothing else.
func TestFullWriteMendsWhatItFinds(t *testing.T) {
	all := map[plan.Name]*plan.Planned{}
	for i := range 20 {
		name, p := synthetic(i, 3, 0)
		all[name] = p
	}
	want := newFakeKernel()
	if err := New(testConfig(plan.IPv4), want).Apply(t.Context(), all, true); err != nil {
		t.Fatal(err)
	}
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 2))
		k := newFakeKernel()
		if err := New(testConfig(plan.IPv4), k).Apply(t.Context(), all, true); err != nil {
			t.Fatal(err)
		}
		table := tables[r.IntN(len(tables))]
		chains := slices.Sorted(maps.Keys(k.tables[table]))
		chain := chains[r.IntN(len(chains))]
		rules := slices.Clone(k.tables[table][chain])
		switch damage := r.IntN(4); {
		case damage == 0 && strings.HasPrefix(chain, "KUBE"):
			rules = append(rules, "-s 192.0.2.66/32 -j DROP")
		case damage == 1 && len(rules) > 0:
			rules = slices.Delete(rules, 0, 1)
		case damage == 2 && len(rules) > 1:
			rules[0], rules[len(rules)-1] = rules[len(rules)-1], rules[0]
		default:
			rules = nil
		}
		k.tables[table][chain] = rules
		b := New(testConfig(plan.IPv4), k)
		if err := b.Apply(t.Context(), all, true); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want.dump(true), k.dump(true)); diff != "" && strings.HasPrefix(chain, "KUBE") {
			t.Fatalf("seed %d, %s %s: (- wanted, + left)\n%s", seed, table, chain, diff)
		}
		if n := b.Written()["nat"] + b.Written()["filter"] + b.Written()["mangle"]; n > 30 {
			t.Errorf("seed %d, %s %s: it wrote %d rules", seed, table, chain, n)
		}
	}
}

func TestUnchangedServiceWritesNothing(t *testing.T) {
	k := newFakeKernel()
	b := New(testConfig(plan.IPv4), k)
	name, p := synthetic(1, 3, 0)
	for i := range 3 {
		if err := b.Apply(t.Context(), map[plan.Name]*plan.Planned{name: p}, i == 0); err != nil {
			t.Fatal(err)
		}
	}
	if len(k.inputs) != 1 {
		t.Errorf("%d transactions, want the first only", len(k.inputs))
	}
}

// One endpoint of one Service among many changed: what is written does not grow with the others.
func TestOneChangeIsSmallAmongMany(t *testing.T) {
	k := newFakeKernel()
	b := New(testConfig(plan.IPv4), k)
	all := map[plan.Name]*plan.Planned{}
	for i := range 500 {
		name, p := synthetic(i, 2, 0)
		all[name] = p
	}
	if err := b.Apply(t.Context(), all, true); err != nil {
		t.Fatal(err)
	}
	for what, change := range map[string]func() (plan.Name, *plan.Planned){
		"endpoint": func() (plan.Name, *plan.Planned) { return synthetic(7, 2, 1) },
		"added":    func() (plan.Name, *plan.Planned) { return synthetic(501, 2, 0) },
		"removed":  func() (plan.Name, *plan.Planned) { name, _ := synthetic(8, 2, 0); return name, nil },
	} {
		name, p := change()
		if err := b.Apply(t.Context(), map[plan.Name]*plan.Planned{name: p}, false); err != nil {
			t.Fatal(err)
		}
		if input := k.inputs[len(k.inputs)-1]; strings.Count(input, "\n") > 20 {
			t.Errorf("%s: %d lines:\n%s", what, strings.Count(input, "\n"), input)
		}
	}
}

// Every rule that the stories make is one that the real commands take, in both flavours and families.
func TestRealIPTablesTakeTheStories(t *testing.T) {
	stories := plantest.Stories(t)
	for _, flavor := range []xtables.Flavor{xtables.NFT, xtables.Legacy} {
		for _, family := range []plan.Family{plan.IPv4, plan.IPv6} {
			t.Run(fmt.Sprintf("%s/%d", flavor, family), func(t *testing.T) {
				b, xt := open(t, flavor, family)
				if err := b.Apply(t.Context(), nil, true); err != nil {
					t.Fatal(err)
				}
				all := map[plan.Name]*plan.Planned{}
				for _, s := range stories {
					step := plantest.Planned(s, 0)
					if err := b.Apply(t.Context(), step, false); err != nil {
						t.Errorf("%s: %v", s.Name, err)
					}
					maps.Copy(all, step)
				}
				// A new process over the old one's rules, with the same to serve, finds each as it would write it.
				again := New(testConfig(family), xt)
				if err := again.Apply(t.Context(), all, true); err != nil {
					t.Fatal(err)
				}
				for table, n := range again.Written() {
					if n != 0 {
						t.Errorf("started again it wrote %d rules in table %s", n, table)
					}
				}
				if ok, err := b.Intact(t.Context()); !ok || err != nil {
					t.Errorf("intact: %v %v", ok, err)
				}
				// A new process over the old one's rules, with nothing to serve: all of it goes in one write.
				if err := New(testConfig(family), xt).Apply(t.Context(), nil, true); err != nil {
					t.Fatal(err)
				}
				saved, err := xt.Save(t.Context(), "nat")
				if err != nil {
					t.Fatal(err)
				}
				for _, c := range xtables.ParseSave(saved).Chains {
					if testConfig(family).mine(c) {
						t.Errorf("chain %s was left", c)
					}
				}
			})
		}
	}
}

// A Service whose rules the kernel does not take is left out, and only it.
func TestServiceThatTheKernelRefusesHarmsNoOther(t *testing.T) {
	const n = 20
	all, good := map[plan.Name]*plan.Planned{}, map[plan.Name]*plan.Planned{}
	for i := range n {
		name, p := synthetic(i, 2, 0)
		all[name], good[name] = p, p
		if i == 3 || i == 17 {
			p.Ports[0].AffinitySeconds = 60
			p.Ports[0].NodePort = uint16(30000 + i)
			delete(good, name)
		}
	}
	k, want := newFakeKernel(), newFakeKernel()
	k.refuse = "--rcheck"
	b := New(testConfig(plan.IPv4), k)
	if err := b.Apply(t.Context(), all, true); err != nil {
		t.Fatal(err)
	}
	if len(b.Rejected()) != 2 || b.Rejected()[plan.Name{Namespace: "default", Name: "svc-17"}] == nil {
		t.Errorf("rejected: %v", b.Rejected())
	}
	if err := New(testConfig(plan.IPv4), want).Apply(t.Context(), good, true); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want.dump(true), k.dump(true)); diff != "" {
		t.Errorf("(- without the refused, + with)\n%s", diff)
	}
	name, p := synthetic(5, 2, 1)
	if err := b.Apply(t.Context(), map[plan.Name]*plan.Planned{name: p}, false); err != nil {
		t.Errorf("another Service cannot change any more: %v", err)
	}
	k.refuse = "-A"
	if err := b.Apply(t.Context(), all, true); err == nil {
		t.Error("nothing is taken, and no error")
	}
}
