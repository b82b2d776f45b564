package allocator

import (
	"errors"
	"fmt"
	"math/big"
	"math/rand/v2"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
)

// Errors of both allocators, worded as upstream.
var (
	errTaken = errors.New("provided IP is already allocated")
	errFull  = errors.New("range is full")
)

// span is a range of allocatable addresses and its bands.
type span struct {
	prefix netip.Prefix
	// first is the lowest allocatable address; size counts from it. The network address and IPv4's broadcast address are
	// left out.
	first netip.Addr
	size  uint64
	// lower is how many of them, from first on, are left to explicit requests until the rest is used up.
	lower uint64
}

// maxSpan bounds the part of a large IPv6 range that is used: 2^60 addresses will do.
const maxSpan = uint64(1) << 60

// The lower band is a 16th of the range, between 16 and 256 addresses; small ranges have none (upstream's figures).
const (
	lowerMin, lowerMax, lowerPart = 16, 256, 16
)

func newSpan(p netip.Prefix) (span, error) {
	if !p.IsValid() || p.Masked() != p {
		return span{}, fmt.Errorf("service CIDR %s is not a network address: use %s", p, p.Masked())
	}
	bits := p.Addr().BitLen() - p.Bits()
	total := maxSpan
	if bits < 60 {
		total = uint64(1) << bits
	}
	s := span{prefix: p, first: p.Addr().Next(), size: total - 1}
	if p.Addr().Is4() && s.size > 0 {
		s.size-- // broadcast
	}
	if s.size == 0 {
		return span{}, fmt.Errorf("service CIDR %s has no usable address: use a larger one", p)
	}
	if total > lowerMin {
		s.lower = min(max(total/lowerPart, lowerMin), lowerMax) - 1 // counted from the network address
	}
	return s, nil
}

func (s span) family() corev1.IPFamily { return familyOf(s.prefix.Addr()) }

func familyOf(a netip.Addr) corev1.IPFamily {
	if a.Is4() {
		return corev1.IPv4Protocol
	}
	return corev1.IPv6Protocol
}

// holds says whether a may be allocated from s.
func (s span) holds(a netip.Addr) bool {
	if !s.prefix.Contains(a) || a.Less(s.first) {
		return false
	}
	return !(a.Is4() && s.size > 0 && s.at(s.size-1).Less(a))
}

// at is the i-th allocatable address.
func (s span) at(i uint64) netip.Addr {
	n := new(big.Int).SetBytes(s.first.AsSlice())
	n.Add(n, new(big.Int).SetUint64(i))
	b := n.FillBytes(make([]byte, s.first.BitLen()/8))
	a, _ := netip.AddrFromSlice(b)
	return a
}

// randomUpper is an address of the upper band.
func (s span) randomUpper(r *rand.Rand) netip.Addr {
	return s.at(s.lower + r.Uint64N(s.size-s.lower))
}

// free finds an address that used does not hold: from a random place of the upper band on, round it, then in the lower
// band. It looks at no more addresses than are used, plus one.
func (s span) free(r *rand.Rand, used func(netip.Addr) bool) (netip.Addr, bool) {
	upper := s.size - s.lower
	start := r.Uint64N(upper)
	for i := range upper {
		if a := s.at(s.lower + (start+i)%upper); !used(a) {
			return a, true
		}
	}
	for i := range s.lower {
		if a := s.at(i); !used(a) {
			return a, true
		}
	}
	return netip.Addr{}, false
}
