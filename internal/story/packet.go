package story

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Packet is the first one of a connection, and what must become of it.
type Packet struct {
	// From is who sends: node, pod (one that serves nothing), outside, other (the outside, by another address), or the address
	// of a pod.
	From     string
	Protocol string // tcp, udp or sctp
	To       netip.AddrPort
	Want     Outcome
	line     string
}

func (p Packet) String() string { return p.line }

// Fate is what becomes of a packet.
type Fate string

// The fates. Untouched goes where it was sent to.
const (
	Reaches   Fate = "reaches"
	Rejected  Fate = "rejected"
	Dropped   Fate = "dropped"
	Untouched Fate = "untouched"
)

// Outcome is what becomes of connections.
type Outcome struct {
	Fate Fate
	// Endpoints are all that are reached, sorted; each connection reaches one.
	Endpoints []netip.AddrPort
	// Sticky: a client reaches only one of them.
	Sticky bool
	// Masqueraded: the endpoint sees the node's address. Of what the node itself sends nothing is said.
	Masqueraded bool
}

func (o Outcome) String() string {
	if o.Fate != Reaches {
		return string(o.Fate)
	}
	var parts []string
	if o.Sticky {
		parts = append(parts, "one of")
	}
	for _, e := range o.Endpoints {
		parts = append(parts, e.String())
	}
	if o.Masqueraded {
		parts = append(parts, "masqueraded")
	}
	return strings.Join(parts, " ")
}

// parsePackets reads lines of the form "FROM PROTOCOL TO -> OUTCOME". An outcome is "rejected", "dropped", "untouched", or
// endpoints, with "one of" before and "masqueraded" behind them.
func parsePackets(text string) ([]Packet, error) {
	var out []Packet
	for line := range strings.Lines(text) {
		if line = strings.TrimSpace(line); line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		sent, outcome, ok := strings.Cut(line, " -> ")
		f := strings.Fields(sent)
		if !ok || len(f) != 3 {
			return nil, fmt.Errorf("%q is not FROM PROTOCOL TO -> OUTCOME", line)
		}
		p := Packet{From: strings.Trim(f[0], "[]"), Protocol: f[1], line: line}
		var err error
		if p.To, err = netip.ParseAddrPort(f[2]); err != nil {
			return nil, fmt.Errorf("%q: %w", line, err)
		}
		if _, err := Source(p.From, p.To.Addr().Is6()); err != nil {
			return nil, fmt.Errorf("%q: %w", line, err)
		}
		if p.Want, err = parseOutcome(outcome); err != nil {
			return nil, fmt.Errorf("%q: %w", line, err)
		}
		out = append(out, p)
	}
	return out, nil
}

func parseOutcome(text string) (Outcome, error) {
	switch f := Fate(text); f {
	case Rejected, Dropped, Untouched:
		return Outcome{Fate: f}, nil
	}
	o := Outcome{Fate: Reaches}
	text, o.Sticky = strings.CutPrefix(text, "one of ")
	text, o.Masqueraded = strings.CutSuffix(text, " masqueraded")
	for _, f := range strings.Fields(text) {
		e, err := netip.ParseAddrPort(f)
		if err != nil {
			return Outcome{}, err
		}
		o.Endpoints = append(o.Endpoints, e)
	}
	if len(o.Endpoints) == 0 {
		return Outcome{}, fmt.Errorf("no endpoint")
	}
	slices.SortFunc(o.Endpoints, netip.AddrPort.Compare)
	return o, nil
}
