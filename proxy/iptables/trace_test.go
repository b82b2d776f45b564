package iptables

import (
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"github.com/reevehq/reeve/internal/story"
	"github.com/reevehq/reeve/proxy/plan"
	"github.com/reevehq/reeve/proxy/plan/plantest"
)

// packet is the first one of a connection on its way through the rules.
type packet struct {
	proto    string
	src, dst netip.AddrPort
	in       string // interface; empty on the way out
	mark     uint32
	dnat     bool
	masq     bool
}

// left is a packet as it leaves a chain, with the verdict; none: it fell through.
type left struct {
	packet
	verdict string
}

// walk sends a packet through a chain, every way that chance may choose.
func (k *fakeKernel) walk(t *testing.T, table, chain string, p packet) []left {
	t.Helper()
	live := []packet{p}
	var out []left
	for _, rule := range k.tables[table][chain] {
		var next []packet
		for _, p := range live {
			matches, may, target, arg := k.match(t, rule, p)
			if !matches || may {
				next = append(next, p)
			}
			if !matches {
				continue
			}
			switch target {
			case "":
				next = append(next, p)
			case "ACCEPT", "DROP", "REJECT":
				out = append(out, left{p, target})
			case "RETURN":
				out = append(out, left{p, "RETURN"})
			case "MARK":
				value, mask, ok := strings.Cut(strings.TrimPrefix(arg, "--set-xmark "), "/")
				bits, err := strconv.ParseUint(value, 0, 32)
				clear, err2 := strconv.ParseUint(mask, 0, 32)
				if !ok || err != nil || err2 != nil || clear&^bits != 0 {
					t.Fatalf("rule %q changes more of the mark than one bit", rule)
				}
				p.mark = p.mark&^uint32(clear) ^ uint32(bits)
				next = append(next, p)
			case "MASQUERADE":
				p.masq = true
				out = append(out, left{p, "ACCEPT"})
			case "DNAT":
				p.dst, p.dnat = netip.MustParseAddrPort(strings.TrimPrefix(arg, "--to-destination ")), true
				out = append(out, left{p, "ACCEPT"})
			default:
				for _, l := range k.walk(t, table, target, p) {
					if l.verdict == "" {
						next = append(next, l.packet)
					} else {
						out = append(out, l)
					}
				}
			}
		}
		live = next
	}
	for _, p := range live {
		out = append(out, left{p, ""})
	}
	// A return from this chain goes on in the one above.
	for i := range out {
		if out[i].verdict == "RETURN" {
			out[i].verdict = ""
		}
	}
	return out
}

// match reads a rule as iptables does. may: it matches by chance.
func (k *fakeKernel) match(t *testing.T, rule string, p packet) (matches, may bool, target, arg string) {
	t.Helper()
	words := split(rule)
	matches = true
	not := false
	check := func(ok bool) {
		if ok == not {
			matches = false
		}
		not = false
	}
	for i := 0; i < len(words); i++ {
		value := ""
		if i+1 < len(words) {
			value = words[i+1]
		}
		switch words[i] {
		case "!":
			not = true
			continue
		case "-s":
			check(netip.MustParsePrefix(value).Contains(p.src.Addr()))
		case "-d":
			check(netip.MustParsePrefix(value).Contains(p.dst.Addr()))
		case "-p":
			check(p.proto == value)
		case "-i":
			prefix, isPrefix := strings.CutSuffix(value, "+")
			check(p.in == value || isPrefix && strings.HasPrefix(p.in, prefix))
		case "-m", "--comment", "--mode", "--name", "--seconds", "--mask":
		case "--dport":
			check(strconv.Itoa(int(p.dst.Port())) == value)
		case "--dst-type":
			check(story.IsLocal(p.dst.Addr()))
		case "--src-type":
			check(story.IsLocal(p.src.Addr()))
		case "--mark":
			v, m, _ := strings.Cut(value, "/")
			want, _ := strconv.ParseUint(v, 0, 32)
			mask, _ := strconv.ParseUint(m, 0, 32)
			check(p.mark&uint32(mask) == uint32(want))
		case "--ctstate":
			ok := false
			if words[i-1] == "!" { // --ctstate is negated before its name
				not = true
			}
			for s := range strings.SplitSeq(value, ",") {
				ok = ok || s == "NEW" || s == "DNAT" && p.dnat
			}
			check(ok)
		case "--probability":
			may = true
		case "--rcheck": // nobody is remembered
			matches = false
			i--
		case "--reap", "--rsource", "--set", "--random-fully":
			i--
		case "-j":
			return matches, may, value, strings.Join(words[min(i+2, len(words)):], " ")
		default:
			t.Fatalf("rule %q: what is %q?", rule, words[i])
		}
		i++
	}
	return matches, may, "", ""
}

// split takes a rule's words apart; quotes keep some together.
func split(rule string) []string {
	var out []string
	for i, part := range strings.Split(rule, `"`) {
		if i%2 == 1 {
			out = append(out, part)
			continue
		}
		out = append(out, strings.Fields(part)...)
	}
	return out
}

// through sends packets through a built-in chain; those that it ends are added to ends.
func (k *fakeKernel) through(t *testing.T, table, chain string, in []packet, ends map[story.Fate]bool) []packet {
	t.Helper()
	var out []packet
	for _, p := range in {
		for _, l := range k.walk(t, table, chain, p) {
			switch l.verdict {
			case "DROP":
				ends[story.Dropped] = true
			case "REJECT":
				ends[story.Rejected] = true
			default:
				out = append(out, l.packet)
			}
		}
	}
	return out
}

// trace answers what becomes of connections that begin so.
func (k *fakeKernel) trace(t *testing.T, s story.Packet) story.Outcome {
	t.Helper()
	src, err := story.Source(s.From, s.To.Addr().Is6())
	if err != nil {
		t.Fatal(err)
	}
	ends := map[story.Fate]bool{}
	all := []packet{{proto: s.Protocol, src: netip.AddrPortFrom(src, 40000), dst: s.To, in: story.Interface(s.From)}}
	first := "PREROUTING"
	if s.From == "node" {
		first = "OUTPUT"
	}
	all = k.through(t, "mangle", first, all, ends)
	all = k.through(t, "nat", first, all, ends)
	if s.From == "node" {
		all = k.through(t, "filter", first, all, ends)
	}
	var after []packet
	for _, p := range all {
		chain := "FORWARD"
		if story.IsLocal(p.dst.Addr()) {
			chain = "INPUT"
		}
		one := []packet{p}
		if s.From != "node" {
			one = k.through(t, "filter", chain, one, ends)
		}
		if chain == "FORWARD" {
			one = k.through(t, "nat", "POSTROUTING", one, ends)
		}
		after = append(after, one...)
	}
	var arrived []story.Arrival
	for _, p := range after {
		arrived = append(arrived, story.Arrival{To: p.dst, Mark: p.mark, Translated: p.dnat, Masqueraded: p.masq})
	}
	o, err := story.Collect(s, arrived, ends)
	if err != nil {
		t.Error(err)
	}
	return o
}

// Every packet of every story goes through the rules where it should.
func TestPacketsOfTheStories(t *testing.T) {
	plantest.FollowPackets(t, func(s *story.Story, family plan.Family) plantest.Node {
		k := newFakeKernel()
		return plantest.Node{Apply: New(storyConfig(s, family), k).Apply, Trace: k.trace}
	})
}
