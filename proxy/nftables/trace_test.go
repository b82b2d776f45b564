package nftables

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"

	"sigs.k8s.io/knftables"

	"github.com/reevehq/reeve/internal/story"
	"github.com/reevehq/reeve/proxy/plan"
	"github.com/reevehq/reeve/proxy/plan/plantest"
)

// packet is the first one of a connection on its way through the table.
type packet struct {
	proto         string
	src, dst, was netip.AddrPort // was: where it was sent to
	in            string         // interface; empty on the way out
	mark          uint32
	dnat, masq    bool
}

// left is a packet as it leaves a chain, with the verdict; none: it fell through.
type left struct {
	packet
	verdict string
}

// tracer reads the rules that this package writes, and no others.
type tracer struct {
	t     *testing.T
	table *knftables.FakeTable
}

func (tr tracer) walk(chain string, p packet) []left {
	tr.t.Helper()
	c := tr.table.Chains[chain]
	if c == nil {
		tr.t.Fatalf("no chain %q", chain)
	}
	live := []packet{p}
	var out []left
	for _, rule := range c.Rules {
		var next []packet
		for _, p := range live {
			for _, l := range tr.rule(rule.Rule, p) {
				switch kind, to, _ := strings.Cut(l.verdict, " "); kind {
				case "": // the next rule
					next = append(next, l.packet)
				case "jump", "goto":
					for _, r := range tr.walk(to, l.packet) {
						if r.verdict == "" && kind == "jump" {
							next = append(next, r.packet)
						} else {
							out = append(out, r)
						}
					}
				case "return":
					out = append(out, left{l.packet, ""})
				default:
					out = append(out, l)
				}
			}
		}
		live = next
	}
	for _, p := range live {
		out = append(out, left{p, ""})
	}
	return out
}

// rule answers what becomes of a packet: one outcome, or one for each that chance may choose.
func (tr tracer) rule(text string, p packet) []left {
	tr.t.Helper()
	w := strings.Fields(text)
	through := []left{{p, ""}}
	take := func(words ...string) bool {
		if len(w) >= len(words) && slices.Equal(w[:len(words)], words) {
			w = w[len(words):]
			return true
		}
		return false
	}
	for len(w) > 0 {
		switch {
		case take("ct", "state", "new"):
		case take("ct", "state", "invalid"):
			return through
		case take("ct", "status", "dnat"):
			if !p.dnat {
				return through
			}
		case take("fib", "daddr", "type", "local"):
			if !story.IsLocal(p.dst.Addr()) {
				return through
			}
		case take("fib", "saddr", "type", "local"):
			if !story.IsLocal(p.src.Addr()) {
				return through
			}
		case take("meta", "mark", "set", "meta", "mark", "or"):
			p.mark |= tr.number(w[0])
			w = w[1:]
		case take("meta", "mark", "set", "meta", "mark", "xor"):
			p.mark ^= tr.number(w[0])
			w = w[1:]
		case take("meta", "mark", "&"):
			bit := tr.number(w[0])
			if w[1] != "!=" || (p.mark&bit != tr.number(w[2])) != true {
				return through
			}
			w = w[3:]
		case take("iifname"):
			name := strings.Trim(w[1], `"`)
			prefix, isPrefix := strings.CutSuffix(name, "*")
			if is := p.in == name || isPrefix && strings.HasPrefix(p.in, prefix); is != (w[0] == "==") {
				return through
			}
			w = w[2:]
		case take("meta", "l4proto", "tcp"), take("meta", "l4proto", "udp"), take("meta", "l4proto", "sctp"):
			if f := strings.Fields(text); f[2] != p.proto {
				return through
			}
		case take("update"): // remembers the client
			return through
		case take("masquerade"):
			p.masq = true
			return []left{{p, "accept"}}
		case take("jump"), take("goto"):
			return []left{{p, strings.Join(strings.Fields(text)[len(strings.Fields(text))-2:], " ")}}
		case take("return"), take("drop"), take("reject"), take("accept"):
			return []left{{p, strings.Fields(text)[len(strings.Fields(text))-1]}}
		case take("dnat"):
			w = w[2:] // ip to
			return tr.translate(&w, p)
		default:
			key := tr.keys(&w, p)[0]
			if take("vmap") {
				verdict, ok := tr.find(strings.TrimPrefix(w[0], "@"), key)
				if !ok {
					return through
				}
				return []left{{p, verdict}}
			}
			if !tr.compare(&w, key) {
				return through
			}
		}
	}
	return []left{{p, ""}}
}

// keys reads a concatenation, and answers its value; one for each number that chance may choose.
func (tr tracer) keys(w *[]string, p packet) []string {
	tr.t.Helper()
	fields := []struct {
		words []string
		value func() string
	}{
		{[]string{"ct", "original", "ip", "daddr"}, func() string { return p.was.Addr().String() }},
		{[]string{"ct", "original", "ip6", "daddr"}, func() string { return p.was.Addr().String() }},
		{[]string{"ct", "original", "proto-dst"}, func() string { return strconv.Itoa(int(p.was.Port())) }},
		{[]string{"ip", "daddr"}, func() string { return p.dst.Addr().String() }},
		{[]string{"ip6", "daddr"}, func() string { return p.dst.Addr().String() }},
		{[]string{"ip", "saddr"}, func() string { return p.src.Addr().String() }},
		{[]string{"ip6", "saddr"}, func() string { return p.src.Addr().String() }},
		{[]string{"meta", "l4proto"}, func() string { return p.proto }},
		{[]string{"th", "dport"}, func() string { return strconv.Itoa(int(p.dst.Port())) }},
		{[]string{p.proto, "dport"}, func() string { return strconv.Itoa(int(p.dst.Port())) }},
	}
	out := []string{""}
	for {
		var values []string
		if len(*w) > 3 && slices.Equal((*w)[:3], []string{"numgen", "random", "mod"}) {
			n, _ := strconv.Atoi((*w)[3])
			for i := range n {
				values = append(values, strconv.Itoa(i))
			}
			*w = (*w)[4:]
		} else {
			i := slices.IndexFunc(fields, func(f struct {
				words []string
				value func() string
			}) bool {
				return len(*w) >= len(f.words) && slices.Equal((*w)[:len(f.words)], f.words)
			})
			if i < 0 {
				tr.t.Fatalf("what is %q?", strings.Join(*w, " "))
			}
			values = []string{fields[i].value()}
			*w = (*w)[len(fields[i].words):]
		}
		var longer []string
		for _, o := range out {
			for _, v := range values {
				longer = append(longer, strings.TrimPrefix(o+concat+v, concat))
			}
		}
		out = longer
		if len(*w) == 0 || (*w)[0] != "." {
			return out
		}
		*w = (*w)[1:]
	}
}

// compare reads what a key must be: a prefix, a list of them, or in a set.
func (tr tracer) compare(w *[]string, key string) bool {
	not := false
	if (*w)[0] == "!=" {
		not, *w = true, (*w)[1:]
	} else if (*w)[0] == "==" {
		*w = (*w)[1:]
	}
	is := false
	switch word := (*w)[0]; {
	case word == "{":
		end := slices.Index(*w, "}")
		for _, v := range (*w)[1:end] {
			is = is || within(key, strings.Trim(v, ","))
		}
		*w = (*w)[end+1:]
	case strings.HasPrefix(word, "@"):
		for _, e := range tr.table.Sets[word[1:]].Elements {
			have, want := strings.Split(key, concat), e.Key
			all := len(have) == len(want)
			for i := range want {
				all = all && (have[i] == want[i] || within(have[i], want[i]))
			}
			is = is || all
		}
		*w = (*w)[1:]
	default:
		is = within(key, word)
		*w = (*w)[1:]
	}
	return is != not
}

func within(addr, prefix string) bool {
	a, err := netip.ParseAddr(addr)
	if err != nil {
		return false
	}
	if p, err := netip.ParsePrefix(prefix); err == nil {
		return p.Contains(a)
	}
	return addr == prefix
}

func (tr tracer) find(in, key string) (string, bool) {
	m := tr.table.Maps[in]
	if m == nil {
		tr.t.Fatalf("no map %q", in)
	}
	if e := m.FindElement(strings.Split(key, concat)...); e != nil {
		return strings.Join(e.Value, concat), true
	}
	return "", false
}

// translate reads what follows dnat.
func (tr tracer) translate(w *[]string, p packet) []left {
	tr.t.Helper()
	keys := tr.keys(w, p)
	var out []left
	for _, key := range keys {
		to, ok := tr.find(strings.TrimPrefix((*w)[1], "@"), key)
		if !ok {
			out = append(out, left{p, ""})
			continue
		}
		addr, port, _ := strings.Cut(to, concat)
		q := p
		q.dnat, q.dst = true, netip.MustParseAddrPort(netip.AddrPortFrom(netip.MustParseAddr(addr), uint16(tr.number(port))).String())
		out = append(out, left{q, "accept"})
	}
	return out
}

func (tr tracer) number(s string) uint32 {
	n, err := strconv.ParseUint(s, 0, 32)
	if err != nil {
		tr.t.Fatal(err)
	}
	return uint32(n)
}

// hook sends packets through the base chains of a hook, in their order; those that one ends are added to ends.
func (tr tracer) hook(hook knftables.BaseChainHook, all []packet, ends map[story.Fate]bool) []packet {
	tr.t.Helper()
	var chains []*knftables.FakeChain
	for _, c := range tr.table.Chains {
		if c.Hook != nil && *c.Hook == hook {
			chains = append(chains, c)
		}
	}
	slices.SortFunc(chains, func(a, b *knftables.FakeChain) int { return priority(a) - priority(b) })
	for _, c := range chains {
		var next []packet
		for _, p := range all {
			for _, l := range tr.walk(c.Name, p) {
				switch l.verdict {
				case "drop":
					ends[story.Dropped] = true
				case "reject":
					ends[story.Rejected] = true
				default:
					next = append(next, l.packet)
				}
			}
		}
		all = next
	}
	return all
}

func priority(c *knftables.FakeChain) int {
	n, _ := strconv.Atoi(string(*c.Priority))
	return n
}

// trace answers what becomes of connections that begin so.
func (tr tracer) trace(s story.Packet) story.Outcome {
	tr.t.Helper()
	src, err := story.Source(s.From, s.To.Addr().Is6())
	if err != nil {
		tr.t.Fatal(err)
	}
	ends := map[story.Fate]bool{}
	all := []packet{{proto: s.Protocol, src: netip.AddrPortFrom(src, 40000), dst: s.To, was: s.To, in: story.Interface(s.From)}}
	if s.From == "node" {
		all = tr.hook(knftables.OutputHook, all, ends)
	} else {
		all = tr.hook(knftables.PreroutingHook, all, ends)
	}
	var arrived []story.Arrival
	for _, p := range all {
		one := []packet{p}
		switch {
		case story.IsLocal(p.dst.Addr()) && s.From != "node":
			one = tr.hook(knftables.InputHook, one, ends)
		case !story.IsLocal(p.dst.Addr()):
			if s.From != "node" {
				one = tr.hook(knftables.ForwardHook, one, ends)
			}
			one = tr.hook(knftables.PostroutingHook, one, ends)
		}
		for _, p := range one {
			arrived = append(arrived, story.Arrival{To: p.dst, Mark: p.mark, Translated: p.dnat, Masqueraded: p.masq})
		}
	}
	o, err := story.Collect(s, arrived, ends)
	if err != nil {
		tr.t.Error(err)
	}
	return o
}

// Every packet of every story goes through the table where it should.
func TestPacketsOfTheStories(t *testing.T) {
	plantest.FollowPackets(t, func(s *story.Story, family plan.Family) plantest.Node {
		k := newFake(family)
		return plantest.Node{
			Apply: New(storyConfig(s, family), k).Apply,
			Trace: func(t *testing.T, p story.Packet) story.Outcome { return (tracer{t, k.Table}).trace(p) },
		}
	})
}
