package nodeipam

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
)

// errFull says that no range is left.
var errFull = errors.New("no pod range is left")

// maxShares bounds the bitmap of a pool: more nodes than any cluster has.
const maxShares = 1 << 20

// Pool hands out equal shares of one range. Not safe for concurrent use.
type Pool struct {
	whole netip.Prefix
	mask  int
	n     int
	used  map[int]bool
	next  int // where the last search ended: ranges of deleted nodes rest before they are used again
}

// NewPool divides whole into shares with the prefix length mask, which must not be shorter than whole's.
func NewPool(whole netip.Prefix, mask int) (*Pool, error) {
	if mask < whole.Bits() || mask > whole.Addr().BitLen() {
		return nil, fmt.Errorf("divide %s into /%d: the share must lie between /%d and /%d", whole, mask, whole.Bits(), whole.Addr().BitLen())
	}
	n := maxShares
	if d := mask - whole.Bits(); d < 20 {
		n = 1 << d
	}
	return &Pool{whole: whole.Masked(), mask: mask, n: n, used: map[int]bool{}}, nil
}

// Next takes a free share.
func (p *Pool) Next() (netip.Prefix, error) {
	for i := range p.n {
		k := (p.next + i) % p.n
		if !p.used[k] {
			p.used[k], p.next = true, k+1
			return p.share(k), nil
		}
	}
	return netip.Prefix{}, fmt.Errorf("take a /%d of %s: %w", p.mask, p.whole, errFull)
}

// Occupy marks every share that the prefix touches; prefixes outside the pool are no concern of it.
func (p *Pool) Occupy(q netip.Prefix) { p.mark(q, true) }

// Release frees every share that the prefix touches.
func (p *Pool) Release(q netip.Prefix) { p.mark(q, false) }

func (p *Pool) mark(q netip.Prefix, used bool) {
	if !p.whole.Overlaps(q) {
		return
	}
	first, last := 0, p.n-1
	if q.Bits() > p.whole.Bits() {
		first = p.index(q.Addr())
		last = first
		if q.Bits() < p.mask {
			last = first + 1<<(p.mask-q.Bits()) - 1
		}
	}
	for k := first; k <= min(last, p.n-1); k++ {
		if used {
			p.used[k] = true
		} else {
			delete(p.used, k)
		}
	}
}

// share is the k-th share: k shifted to the bits between the whole's and the share's prefix.
func (p *Pool) share(k int) netip.Prefix {
	if p.whole.Addr().Is4() {
		b := p.whole.Addr().As4()
		binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(b[:])|uint32(k)<<(32-p.mask))
		return netip.PrefixFrom(netip.AddrFrom4(b), p.mask)
	}
	b := p.whole.Addr().As16()
	hi, lo := binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])
	if p.mask <= 64 {
		hi |= uint64(k) << (64 - p.mask)
	} else {
		s := 128 - p.mask
		lo |= uint64(k) << s
		if s > 0 {
			hi |= uint64(k) >> (64 - s)
		}
	}
	binary.BigEndian.PutUint64(b[:8], hi)
	binary.BigEndian.PutUint64(b[8:], lo)
	return netip.PrefixFrom(netip.AddrFrom16(b), p.mask)
}

func (p *Pool) index(a netip.Addr) int {
	if a.Is4() {
		b, w := a.As4(), p.whole.Addr().As4()
		return int((binary.BigEndian.Uint32(b[:]) - binary.BigEndian.Uint32(w[:])) >> (32 - p.mask))
	}
	b, w := a.As16(), p.whole.Addr().As16()
	hi := binary.BigEndian.Uint64(b[:8]) - binary.BigEndian.Uint64(w[:8])
	if p.mask <= 64 {
		return int(hi >> (64 - p.mask))
	}
	s := 128 - p.mask
	lo := binary.BigEndian.Uint64(b[8:]) - binary.BigEndian.Uint64(w[8:])
	return int(hi<<(64-s) | lo>>s)
}
