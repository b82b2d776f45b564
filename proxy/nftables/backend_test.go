package nftables

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/reevehq/reeve/internal/testns"
	"github.com/reevehq/reeve/proxy/plan"
	"github.com/reevehq/reeve/proxy/plan/plantest"
	"sigs.k8s.io/knftables"
)

var update = flag.Bool("update", false, "rewrite the golden elements")

// The planner's stories as elements, golden.
func TestStoriesAsElements(t *testing.T) {
	for _, s := range plantest.Stories(t) {
		t.Run(s.Name, func(t *testing.T) {
			var got strings.Builder
			for _, family := range []plan.Family{plan.IPv4, plan.IPv6} {
				k := newFake(family)
				b := New(storyConfig(s, family), k)
				if err := b.Apply(t.Context(), nil, true); err != nil {
					t.Fatal(err)
				}
				empty := canonical(k)
				if err := b.Apply(t.Context(), plantest.Planned(s, 0), false); err != nil {
					t.Fatal(err)
				}
				full := newFake(family)
				if err := New(storyConfig(s, family), full).Apply(t.Context(), plantest.Planned(s, 0), true); err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(canonical(full), canonical(k)); diff != "" {
					t.Errorf("written at once and as a difference it is not the same:\n%s", diff)
				}
				fmt.Fprintf(&got, "# IPv%d\n", family)
				for _, line := range canonical(k) {
					if !slices.Contains(empty, line) {
						got.WriteString(strings.Replace(line, " "+storyConfig(s, family).ip()+" reeve-proxy", "", 1) + "\n")
					}
				}
			}
			if *update {
				if err := s.SetGolden("nftables.golden", got.String()); err != nil {
					t.Fatal(err)
				}
				return
			}
			want, _ := s.Golden("nftables.golden")
			if diff := cmp.Diff(want, got.String()); diff != "" {
				t.Errorf("the table differs (- golden, + now); run with -update and read the diff:\n%s", diff)
			}
		})
	}
}

// canonical is the table's content, sorted but for the rules within a chain.
func canonical(k fakeTable) []string {
	var out []string
	rules := map[string]int{}
	for line := range strings.Lines(k.Dump()) {
		line = strings.TrimSpace(line)
		if rest, is := strings.CutPrefix(line, "add rule "); is {
			chain := strings.Fields(rest)[2]
			rules[chain]++
			line = strings.Replace(line, chain, fmt.Sprintf("%s #%d", chain, rules[chain]), 1)
		}
		out = append(out, line)
	}
	slices.Sort(out)
	return out
}

// Any changes in steps end where the same state written at once does, every transaction is one that nft takes, and what
// other processes left is brought to the same.
func TestStepsEndWhereOneWriteDoes(t *testing.T) {
	for seed := range uint64(20) {
		steps(t, seed, newFake(plan.IPv4), nil)
	}
}

func steps(t *testing.T, seed uint64, k kernel, check func(state map[plan.Name]*plan.Planned)) {
	t.Helper()
	r := rand.New(rand.NewPCG(seed, 1))
	b := New(testConfig(plan.IPv4), k)
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
			if r.IntN(2) == 0 {
				b = New(testConfig(plan.IPv4), k) // another process
			}
		}
		if err := b.Apply(t.Context(), changes, full); err != nil {
			t.Fatalf("seed %d, step %d: %v", seed, step, err)
		}
		if ok, err := b.Intact(t.Context()); err != nil || !ok {
			t.Fatalf("seed %d, step %d: not intact: %v", seed, step, err)
		}
	}
	if err := b.dropIdle(t.Context()); err != nil {
		t.Fatal(err)
	}
	if check != nil {
		check(state)
		return
	}
	atOnce := newFake(plan.IPv4)
	fresh := New(testConfig(plan.IPv4), atOnce)
	if err := fresh.Apply(t.Context(), state, true); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(canonical(atOnce), canonical(k.(fakeTable))); diff != "" {
		t.Fatalf("seed %d: (- at once, + in steps)\n%s", seed, diff)
	}
	if diff := cmp.Diff(fresh.Rules(), b.Rules()); diff != "" {
		t.Fatalf("seed %d: counted (- at once, + in steps)\n%s", seed, diff)
	}
}

// The same against the kernel, which is stricter than any fake.
func TestStepsEndWhereOneWriteDoesInTheKernel(t *testing.T) {
	for seed := range uint64(2) {
		_, nft := open(t, plan.IPv4)
		steps(t, seed, nft, func(state map[plan.Name]*plan.Planned) {
			stepped := elementsOf(t, nft)
			testns.Sh(t, "nft delete table ip reeve-proxy")
			if err := New(testConfig(plan.IPv4), nft).Apply(t.Context(), state, true); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(elementsOf(t, nft), stepped); diff != "" {
				t.Fatalf("seed %d: (- at once, + in steps)\n%s", seed, diff)
			}
		})
	}
}

// elementsOf lists every object and element of the table.
func elementsOf(t *testing.T, nft knftables.Interface) []string {
	t.Helper()
	all, err := nft.ListAll(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for kind, names := range all {
		if kind == "rule" {
			continue
		}
		for _, name := range names {
			out = append(out, kind+" "+name)
			if kind != "map" && kind != "set" {
				continue
			}
			elements, err := nft.ListElements(t.Context(), kind, name)
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range elements {
				out = append(out, fmt.Sprint(name, e.Key, e.Value))
			}
		}
	}
	slices.Sort(out)
	return out
}

// counting counts what transactions hold.
type counting struct {
	fakeTable
	transactions, lines int
}

func (c *counting) Run(ctx context.Context, tx *knftables.Transaction) error {
	c.transactions++
	return c.fakeTable.Run(ctx, tx)
}

func (c *counting) WriteElements(ctx context.Context, remove, add map[slot]content) error {
	c.transactions++
	c.lines = len(remove) + len(add)
	return c.fakeTable.WriteElements(ctx, remove, add)
}

func TestUnchangedServiceWritesNothing(t *testing.T) {
	k := &counting{fakeTable: newFake(plan.IPv4)}
	b := New(testConfig(plan.IPv4), k)
	name, p := synthetic(1, 3, 0)
	for i := range 3 {
		if err := b.Apply(t.Context(), map[plan.Name]*plan.Planned{name: p}, i == 0); err != nil {
			t.Fatal(err)
		}
	}
	if k.transactions != 2 {
		t.Errorf("%d transactions, want the first only, of objects and elements", k.transactions)
	}
}

// What one change writes does not grow with the other Services, and rules do not grow with Services at all.
func TestOneChangeIsSmallAmongMany(t *testing.T) {
	k := &counting{fakeTable: newFake(plan.IPv4)}
	b := New(testConfig(plan.IPv4), k)
	all := map[plan.Name]*plan.Planned{}
	for i := range 500 {
		name, p := synthetic(i, 2, 0)
		all[name] = p
	}
	if err := b.Apply(t.Context(), all, true); err != nil {
		t.Fatal(err)
	}
	rules := b.Rules()["rules"]
	for what, change := range map[string]func() (plan.Name, *plan.Planned){
		"endpoint": func() (plan.Name, *plan.Planned) { return synthetic(7, 2, 1) },
		"added":    func() (plan.Name, *plan.Planned) { return synthetic(501, 2, 0) },
		"removed":  func() (plan.Name, *plan.Planned) { name, _ := synthetic(8, 2, 0); return name, nil },
	} {
		name, p := change()
		if err := b.Apply(t.Context(), map[plan.Name]*plan.Planned{name: p}, false); err != nil {
			t.Fatal(err)
		}
		if k.lines > 8 {
			t.Errorf("%s: %d operations", what, k.lines)
		}
	}
	if got := b.Rules()["rules"]; got != rules {
		t.Errorf("%d rules with 500 Services, %d after changes", rules, got)
	}
}

// Two Services with one node port: the first by name has it, and the second when the first is gone.
func TestContestedFrontendBelongsToTheFirstByName(t *testing.T) {
	k := newFake(plan.IPv4)
	b := New(testConfig(plan.IPv4), k)
	a, pa := synthetic(1, 2, 0)
	c, pc := synthetic(2, 3, 0)
	pa.Ports[0].NodePort, pc.Ports[0].NodePort = 30000, 30000
	pa.Ports[0].External, pc.Ports[0].External = plan.Forward, plan.Forward
	owner := func() string {
		if e := k.Table.Maps[serviceNodePorts].FindElement("tcp", "30000"); e != nil {
			return e.Value[0]
		}
		return "nobody"
	}
	apply := func(full bool, changes map[plan.Name]*plan.Planned) {
		t.Helper()
		if err := b.Apply(t.Context(), changes, full); err != nil {
			t.Fatal(err)
		}
	}
	apply(true, map[plan.Name]*plan.Planned{c: pc})
	for i, step := range []struct {
		changes map[plan.Name]*plan.Planned
		want    string
	}{
		{map[plan.Name]*plan.Planned{}, "goto nodeport-tcp-3"},
		{map[plan.Name]*plan.Planned{a: pa}, "goto nodeport-tcp-2"},
		{map[plan.Name]*plan.Planned{c: nil}, "goto nodeport-tcp-2"},
		{map[plan.Name]*plan.Planned{c: pc}, "goto nodeport-tcp-2"},
		{map[plan.Name]*plan.Planned{a: nil}, "goto nodeport-tcp-3"},
		{map[plan.Name]*plan.Planned{a: pa, c: nil}, "goto nodeport-tcp-2"},
		{map[plan.Name]*plan.Planned{a: nil}, "nobody"},
	} {
		if apply(false, step.changes); owner() != step.want {
			t.Errorf("step %d: %s, want %s", i, owner(), step.want)
		}
	}
}

func TestOutermostRanges(t *testing.T) {
	var in []netip.Prefix
	for _, s := range []string{"10.1.0.0/16", "192.0.2.7/32", "10.0.0.0/8", "192.0.2.7/32", "10.1.2.3/32"} {
		in = append(in, netip.MustParsePrefix(s))
	}
	if got := fmt.Sprint(outermost(in)); got != "[10.0.0.0/8 192.0.2.7/32]" {
		t.Error(got)
	}
}

func TestOldKernelsAreRefusedByName(t *testing.T) {
	for release, ok := range map[string]bool{
		"5.13.0": true, "5.13-rc1": true, "6.18.44-fc-v669": true, "10.0": true, "5.12.19": false, "4.19.0-26-amd64": false, "nonsense": false,
	} {
		if err := releaseWorks(release); (err == nil) != ok {
			t.Errorf("%s: %v", release, err)
		} else if err != nil && !strings.Contains(err.Error(), release) {
			t.Errorf("%v does not name %s", err, release)
		}
	}
}

// A table of another shape under our name is replaced; other tables are not touched.
func TestTableOfAnotherShapeIsReplaced(t *testing.T) {
	b, _ := open(t, plan.IPv4)
	testns.Sh(t, `nft add table ip reeve-proxy; nft 'add map ip reeve-proxy service-ips { type ipv4_addr : verdict; }'; nft add chain ip reeve-proxy old
		nft 'add chain ip reeve-proxy nat-prerouting { type filter hook prerouting priority 7; }'; nft add table ip other; nft add chain ip other mine; nft add rule ip other mine counter`)
	name, p := synthetic(1, 2, 0)
	if err := b.Apply(t.Context(), map[plan.Name]*plan.Planned{name: p}, true); err != nil {
		t.Fatal(err)
	}
	if ok, err := b.Intact(t.Context()); !ok || err != nil {
		t.Errorf("intact: %v, %v", ok, err)
	}
	if got := testns.Sh(t, "nft list table ip reeve-proxy"); strings.Contains(got, "chain old") || !strings.Contains(got, "default/svc-1:http cluster IP") {
		t.Error(got)
	}
	if got := testns.Sh(t, "nft list table ip other; nft delete table ip other"); !strings.Contains(got, "counter") {
		t.Error("another's table was changed:", got)
	}
}

func TestForeignFlushIsSeen(t *testing.T) {
	b, nft := open(t, plan.IPv4)
	name, p := synthetic(1, 2, 0)
	for _, flush := range []string{"true", "nft flush ruleset", "nft delete table ip reeve-proxy", "nft flush table ip reeve-proxy", "nft flush chain ip reeve-proxy cluster-tcp-2"} {
		if err := b.Apply(t.Context(), map[plan.Name]*plan.Planned{name: p}, true); err != nil {
			t.Fatal(err)
		}
		testns.Sh(t, "%s", flush)
		if ok, err := b.Intact(t.Context()); err != nil || ok != (flush == "true") {
			t.Errorf("after %s: intact %v, %v", flush, ok, err)
		}
	}
	for range 2 {
		if err := Cleanup(t.Context(), testConfig(plan.IPv4), nft); err != nil {
			t.Error(err)
		}
	}
	if got := testns.Sh(t, "nft list tables"); strings.Contains(got, "reeve") {
		t.Error("left after cleanup:", got)
	}
}

// Every story goes into the real nft, in both families.
func TestRealNFTTakesTheStories(t *testing.T) {
	stories := plantest.Stories(t)
	for _, family := range []plan.Family{plan.IPv4, plan.IPv6} {
		b, _ := open(t, family)
		b.cfg.Facts.LocalhostNodePorts = true
		if err := b.Apply(t.Context(), nil, true); err != nil {
			t.Fatal(err)
		}
		for _, s := range stories {
			if err := b.Apply(t.Context(), plantest.Planned(s, 0), false); err != nil {
				t.Errorf("%s: %v", s.Name, err)
			}
		}
		if ok, err := b.Intact(t.Context()); !ok || err != nil {
			t.Errorf("intact: %v %v", ok, err)
		}
	}
}
