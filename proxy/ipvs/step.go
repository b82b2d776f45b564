package ipvs

import (
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/reevehq/reeve/proxy/plan"
)

// known is what the kernel has of a frontend, as far as this process knows.
type known struct {
	virtual   bool
	affinity  uint32
	scheduler string
	flags     uint32
	reals     []real // sorted
	sets      setMask
	allow     []netip.Prefix
	detour    netip.AddrPort
}

// real is a real server. One with draining gets no new connections.
type real struct {
	at       netip.AddrPort
	draining bool
}

func (k *known) draining() bool {
	return slices.ContainsFunc(k.reals, func(r real) bool { return r.draining })
}

// hasRanges reports that clients outside some source ranges are kept out.
func (k *known) hasRanges() bool { return k != nil && k.sets.has(setFirewall) }

// realChange is one change of a virtual service's real servers.
type realChange struct {
	at   netip.AddrPort
	what realVerb
}

type realVerb uint8

const (
	realNew realVerb = iota
	realServe
	realDrain
	realDelete
)

// step leads a frontend from what the kernel has to what is wanted.
type step struct {
	setsAdd, setsDel   setMask
	allowAdd, allowDel []netip.Prefix
	virtual            virtualVerb
	reals              []realChange
	detourAdd          netip.AddrPort
	detourDel          netip.AddrPort
}

type virtualVerb uint8

const (
	virtualKeep virtualVerb = iota
	virtualNew
	virtualSet
	virtualDelete
)

// plan a frontend's step, and what the kernel has after it: nil for nothing. Pure.
func (c Config) step(at frontend, f *front, k *known) (step, *known) {
	var s step
	if k == nil {
		k = &known{}
	}
	next := &known{scheduler: k.scheduler, affinity: k.affinity, flags: k.flags}
	wanted := f != nil && f.verdict != plan.Drop
	var pool []netip.AddrPort
	if wanted {
		pool = f.pool
	}
	s.reals, next.reals = changeReals(k.reals, pool, at.proto == unix.IPPROTO_TCP)
	switch {
	case wanted:
		next.virtual, next.affinity, next.scheduler, next.flags = true, f.affinity, c.scheduler(), c.flags(f.affinity)
		if !k.virtual {
			s.virtual = virtualNew
		} else if k.scheduler != next.scheduler || k.flags != next.flags || (f.affinity > 0 && k.affinity != f.affinity) {
			s.virtual = virtualSet
		}
	case len(next.reals) > 0: // they drain
		next.virtual = true
	case k.virtual:
		s.virtual = virtualDelete
		s.reals = nil // go with it
	}
	next.sets = f.sets()
	if next.virtual && (f == nil || f.class != behindDetour) {
		next.sets |= 1 << setServices // ours, as long as it is there
	}
	if f != nil {
		next.allow, next.detour = f.sources, f.detour
	}
	if next.detour != k.detour {
		s.detourAdd, s.detourDel = next.detour, k.detour
	}
	s.setsAdd, s.setsDel = next.sets&^k.sets, k.sets&^next.sets
	s.allowAdd, s.allowDel = without(next.allow, k.allow), without(k.allow, next.allow)
	if !next.virtual && next.sets == 0 && len(next.allow) == 0 {
		next = nil
	}
	return s, next
}

func (s *step) empty() bool {
	return s.setsAdd|s.setsDel == 0 && s.virtual == virtualKeep && len(s.reals)+len(s.allowAdd)+len(s.allowDel) == 0 &&
		s.detourAdd == s.detourDel
}

// changeReals compares two sorted lists. What is not wanted drains where connections can be waited for.
func changeReals(have []real, pool []netip.AddrPort, drain bool) ([]realChange, []real) {
	var changes []realChange
	next := make([]real, 0, len(pool))
	i := 0
	leave := func(r real) {
		switch {
		case !drain:
			changes = append(changes, realChange{r.at, realDelete})
			return
		case !r.draining:
			changes = append(changes, realChange{r.at, realDrain})
		}
		next = append(next, real{r.at, true})
	}
	for _, at := range pool {
		for i < len(have) && have[i].at.Compare(at) < 0 {
			leave(have[i])
			i++
		}
		if i < len(have) && have[i].at == at {
			if have[i].draining {
				changes = append(changes, realChange{at, realServe})
			}
			i++
		} else {
			changes = append(changes, realChange{at, realNew})
		}
		next = append(next, real{at, false})
	}
	for ; i < len(have); i++ {
		leave(have[i])
	}
	// New servers first: an endpoint that is replaced leaves no moment without one.
	slices.SortStableFunc(changes, func(a, b realChange) int { return int(a.what) - int(b.what) })
	return changes, next
}

func without(a, b []netip.Prefix) []netip.Prefix {
	var out []netip.Prefix
	for _, p := range a {
		if !slices.Contains(b, p) {
			out = append(out, p)
		}
	}
	return out
}
