package ipvs

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/reevehq/reeve/internal/story"
	"github.com/reevehq/reeve/proxy/plan"
	"github.com/reevehq/reeve/proxy/plan/plantest"
)

// packet is the first one of a connection on its way through the kernel.
type packet struct {
	proto    string
	src, dst netip.AddrPort
	in       string // interface; empty on the way out
	mark     uint32
	dnat     bool
	label    int // of the connection
}

type tracer struct {
	t *testing.T
	k *fakeKernel

	label int // that connections to Services must bear
}

func (tr tracer) local(a netip.Addr) bool {
	_, placed := tr.k.routes[a]
	return placed || a.IsLoopback() || slices.Contains(story.NodeAddrs, a)
}

// walk sends a packet through a chain and answers the verdict: ACCEPT, DROP, REJECT, MASQUERADE, DNAT, or none.
func (tr tracer) walk(table, chain string, p *packet) string {
	tr.t.Helper()
	rules, ok := tr.k.tables[table][chain]
	if !ok && strings.Contains(chain, "IPVS") {
		tr.t.Fatalf("no chain %s in %s", chain, table)
	}
	for _, rule := range rules {
		target, args, hit := tr.rule(rule, p)
		if !hit {
			continue
		}
		switch target {
		case "RETURN":
			return ""
		case "-g":
			return tr.walk(table, args[0], p)
		case "MARK":
			v, mask, _ := strings.Cut(args[1], "/")
			set, err := strconv.ParseUint(v, 0, 32)
			bits, maskErr := strconv.ParseUint(mask, 0, 32)
			if args[0] != "--set-xmark" || err != nil || maskErr != nil {
				tr.t.Fatalf("mark in rule %q", rule)
			}
			p.mark = p.mark&^uint32(bits) ^ uint32(set)
		case "DNAT":
			p.dst, p.dnat = netip.MustParseAddrPort(args[1]), true
			return target
		case "ACCEPT", "DROP", "REJECT", "MASQUERADE":
			return target
		default:
			if v := tr.walk(table, target, p); v != "" {
				return v
			}
		}
	}
	return ""
}

func (tr tracer) rule(rule string, p *packet) (target string, args []string, hit bool) {
	tr.t.Helper()
	w := strings.Fields(rule)
	not := false
	next := func() string {
		x := w[0]
		w = w[1:]
		return x
	}
	must := func(yes bool) bool {
		yes = yes != not
		not = false
		return yes
	}
	for len(w) > 0 {
		ok := true
		switch word := next(); word {
		case "!":
			not = true
		case "-m":
			next()
			if len(w) > 0 && w[0] == "!" {
				not = true
				next()
			}
		case "-s":
			ok = must(netip.MustParsePrefix(next()).Contains(p.src.Addr()))
		case "-d":
			ok = must(netip.MustParsePrefix(next()).Contains(p.dst.Addr()))
		case "-i":
			name, isPrefix := strings.CutSuffix(next(), "+")
			ok = must(p.in == name || isPrefix && strings.HasPrefix(p.in, name))
		case "-o":
			ok = must(next() == "lo" && tr.local(p.dst.Addr()))
		case "-p":
			ok = must(p.proto == next())
		case "--dport":
			ok = must(strconv.Itoa(int(p.dst.Port())) == next())
		case "--src-type":
			next()
			ok = must(tr.local(p.src.Addr()))
		case "--ctstate":
			states := strings.Split(next(), ",")
			ok = must(slices.Contains(states, "NEW") || p.dnat && slices.Contains(states, "DNAT"))
		case "--mark":
			v, mask, _ := strings.Cut(next(), "/")
			want, _ := strconv.ParseUint(v, 0, 32)
			bits, _ := strconv.ParseUint(mask, 0, 32)
			ok = must(p.mark&uint32(bits) == uint32(want))
		case "--label":
			label, err := strconv.Atoi(strings.Trim(next(), `"`))
			if err != nil {
				tr.t.Fatalf("label in rule %q", rule)
			}
			if len(w) > 0 && w[0] == "--set" {
				next()
				p.label = label
			}
			ok = must(p.label == label)
		case "--match-set":
			ok = must(tr.inSet(next(), next(), p))
		case "-j":
			return next(), w, true
		case "-g":
			return "-g", w, true
		default:
			tr.t.Fatalf("%q in rule %q", word, rule)
		}
		if !ok {
			return "", nil, false
		}
	}
	return "", nil, false
}

func (tr tracer) inSet(name, directions string, p *packet) bool {
	s := tr.k.setNamed(name)
	if s < 0 {
		tr.t.Fatalf("no set %s", name)
	}
	protos := map[string]uint8{"tcp": 6, "udp": 17, "sctp": 132}
	for e := range tr.k.sets[setID(s)] {
		switch {
		case directions == "src":
			if e.addr == p.src.Addr() {
				return true
			}
		case e.addr != p.dst.Addr():
		case directions == "dst":
			return true
		case e.port != p.dst.Port() || e.proto != protos[p.proto]:
		case directions == "dst,dst":
			return true
		case e.other.Contains(p.src.Addr()):
			return true
		}
	}
	return false
}

// trace answers what becomes of a packet, in the order of the kernel's hooks.
func (tr tracer) trace(sent story.Packet) story.Outcome {
	tr.t.Helper()
	six := sent.To.Addr().Is6()
	src, err := story.Source(sent.From, six)
	if err != nil {
		tr.t.Fatal(err)
	}
	p := &packet{proto: sent.Protocol, src: netip.AddrPortFrom(src, 40000), dst: sent.To, in: story.Interface(sent.From)}
	first := "PREROUTING"
	if p.in == "" {
		first = "OUTPUT"
		if tr.local(p.dst.Addr()) { // which the kernel also takes for the source
			p.src = netip.AddrPortFrom(p.dst.Addr(), 40000)
		}
	}
	if v := tr.walk("mangle", first, p); v == "DROP" {
		return story.Outcome{Fate: story.Dropped}
	}
	tr.walk("nat", first, p)
	at := frontend{p.dst.Addr(), p.dst.Port(), map[string]uint8{"tcp": 6, "udp": 17, "sctp": 132}[p.proto]}
	virtual := tr.k.virtuals[at]
	if !tr.local(p.dst.Addr()) && (virtual == nil || p.in != "") {
		return story.Outcome{Fate: story.Untouched}
	}
	if p.in != "" || virtual == nil { // IPVS takes the node's own packets before filter sees them
		switch tr.walk("filter", "INPUT", p) {
		case "DROP":
			return story.Outcome{Fate: story.Dropped}
		case "REJECT":
			return story.Outcome{Fate: story.Rejected}
		}
	}
	if virtual == nil {
		return story.Outcome{Fate: story.Untouched}
	}
	if p.label != tr.label && !p.dnat && p.in != "" {
		tr.t.Errorf("%s bears no label, and others' firewalls drop it", sent)
	}
	out := story.Outcome{Fate: story.Reaches, Sticky: virtual.flags&flagPersistent != 0}
	for _, r := range virtual.reals {
		if r.draining {
			continue
		}
		out.Endpoints = append(out.Endpoints, r.at)
		q := *p
		q.dst = r.at
		masquerade := tr.walk("nat", "POSTROUTING", &q) == "MASQUERADE"
		out.Masqueraded = out.Masqueraded || masquerade
		if _, service := tr.k.routes[q.src.Addr()]; service && !masquerade {
			tr.t.Errorf("%s reaches its endpoint from a Service's address", sent)
		}
		if q.mark&(1<<14) != 0 {
			tr.t.Errorf("%s leaves with our mark", sent)
		}
	}
	if len(out.Endpoints) == 0 {
		return story.Outcome{Fate: story.Rejected}
	}
	out.Sticky = out.Sticky && len(out.Endpoints) > 1
	if sent.From == "node" {
		out.Masqueraded = sent.Want.Masqueraded
	}
	return out
}

// Every packet of every story, through the sets, rules and virtual services that it makes; with the changes from step to
// step written one by one, all at once, and over what is there already.
func TestTracesOfTheStories(t *testing.T) {
	for _, st := range plantest.Stories(t) {
		if st.Node.LocalhostNodePorts {
			continue // refused in this mode
		}
		t.Run(st.Name, func(t *testing.T) {
			for i, family := range []plan.Family{plan.IPv4, plan.IPv6, plan.IPv4} {
				k := newFake(family, story.NodeAddrs...)
				c := testConfig(family)
				c.Facts = plantest.Facts(st)
				if i == 2 {
					c.Label = 0 // a kernel without labels
				}
				b := New(c, k)
				if err := b.Apply(t.Context(), nil, true); err != nil {
					t.Fatal(err)
				}
				for n, step := range st.Steps {
					all := plantest.Planned(st, n)
					changes := map[plan.Name]*plan.Planned{}
					for name := range b.want.services {
						changes[name] = nil
					}
					for name, p := range all {
						changes[name] = p
					}
					if err := b.Apply(t.Context(), changes, false); err != nil {
						t.Fatal(err)
					}
					if _, err := b.Tend(t.Context()); err != nil {
						t.Fatal(err)
					}
					check := func(how string, k *fakeKernel) {
						for _, p := range step.Packets {
							if plan.FamilyOf(p.To.Addr()) != family {
								continue
							}
							got := (tracer{t, k, c.Label}).trace(p)
							if _, ours := k.routes[p.To.Addr()]; ours && p.Want.Fate == story.Untouched && got.Fate == story.Rejected {
								continue // where others leave a packet to the node, this mode has closed the port
							}
							if got.String() != p.Want.String() {
								t.Errorf("step %d, %s: %s: got %s", n+1, how, p, got)
							}
						}
					}
					check("step by step", k)
					fresh := newFake(family, story.NodeAddrs...)
					if err := New(c, fresh).Apply(t.Context(), all, true); err != nil {
						t.Fatal(err)
					}
					check("at once", fresh)
					if a, b := k.String(), fresh.String(); a != b {
						t.Errorf("step %d: step by step\n%s\nat once\n%s", n+1, a, b)
					}
					before, calls := fresh.String(), fresh.calls
					if err := New(c, fresh).Apply(t.Context(), all, true); err != nil {
						t.Fatal(err)
					}
					if fresh.String() != before || fresh.calls != calls {
						t.Errorf("step %d: a restart wrote %d things and left\n%s", n+1, fresh.calls-calls, fresh)
					}
				}
			}
		})
	}
}
