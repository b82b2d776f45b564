package story

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
)

// IsLocal tells the addresses of the node.
func IsLocal(a netip.Addr) bool { return a.IsLoopback() || slices.Contains(NodeAddrs, a) }

// Arrival is a packet that went through a node's rules to where it is sent on.
type Arrival struct {
	To          netip.AddrPort
	Mark        uint32 // that it leaves with
	Translated  bool
	Masqueraded bool
}

// Collect answers what became of a packet, from every way that chance may choose: where it arrived, and the fates of those
// that did not. It fails where the ways do not agree, and where a packet that was masqueraded keeps a mark.
func Collect(p Packet, arrived []Arrival, ends map[Fate]bool) (Outcome, error) {
	fates := slices.Collect(maps.Keys(ends))
	o := Outcome{Fate: Reaches, Sticky: p.Want.Sticky}
	var errs []error
	for _, a := range arrived {
		if a.Mark != 0 && a.Masqueraded {
			errs = append(errs, fmt.Errorf("%s leaves with mark %#x", p, a.Mark))
		}
		if !a.Translated {
			fates = append(fates, Untouched)
			continue
		}
		if !slices.Contains(o.Endpoints, a.To) {
			o.Endpoints = append(o.Endpoints, a.To)
		}
		o.Masqueraded = o.Masqueraded || a.Masqueraded
	}
	if p.From == "node" {
		o.Masqueraded = p.Want.Masqueraded
	}
	slices.SortFunc(o.Endpoints, netip.AddrPort.Compare)
	if len(fates) == 0 {
		return o, errors.Join(errs...)
	}
	slices.Sort(fates)
	if fates = slices.Compact(fates); len(fates) > 1 || len(o.Endpoints) > 0 {
		errs = append(errs, fmt.Errorf("%s: %v, and %v", p, fates, o.Endpoints))
	}
	return Outcome{Fate: fates[0]}, errors.Join(errs...)
}
