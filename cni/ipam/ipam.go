package ipam

import (
	"fmt"
	"net/netip"
)

// Range is a pod CIDR with its free and taken addresses. The first address is the network's, the second the gateway's,
// and in IPv4 the last is the broadcast address: none of these is handed out.
type Range struct {
	prefix  netip.Prefix
	gateway netip.Addr
	last    netip.Addr // highest address to hand out
	cursor  netip.Addr // where the search goes on, so that an address rests before it is used again
	owners  map[netip.Addr]string
}

// minFreeBits is the smallest range with an address for a pod: network, gateway, pod, broadcast.
const minFreeBits = 2

// New makes a range with nothing taken.
func New(prefix netip.Prefix) (*Range, error) {
	if !prefix.IsValid() {
		return nil, fmt.Errorf("use pod CIDR %q: it is not a CIDR", prefix)
	}
	prefix = prefix.Masked()
	if free := prefix.Addr().BitLen() - prefix.Bits(); free < minFreeBits {
		return nil, fmt.Errorf("use pod CIDR %q: it has no address for a pod; give at least a /%d", prefix, prefix.Addr().BitLen()-minFreeBits)
	}
	r := &Range{prefix: prefix, gateway: prefix.Addr().Next(), owners: map[netip.Addr]string{}}
	r.last = lastAddr(prefix)
	if prefix.Addr().Is4() {
		r.last = r.last.Prev()
	}
	r.cursor = r.gateway
	return r, nil
}

// Prefix of the range.
func (r *Range) Prefix() netip.Prefix { return r.prefix }

// Gateway is the range's second address.
func (r *Range) Gateway() netip.Addr { return r.gateway }

// Allocate gives owner the next free address after the last one given. It fails when all are taken.
func (r *Range) Allocate(owner string) (netip.Addr, error) {
	a := r.cursor
	for {
		if a = a.Next(); !a.IsValid() || a.Compare(r.last) > 0 {
			a = r.gateway.Next()
		}
		if _, taken := r.owners[a]; !taken {
			r.owners[a] = owner
			r.cursor = a
			return a, nil
		}
		if a == r.cursor || (r.cursor == r.gateway && a == r.last) {
			return netip.Addr{}, fmt.Errorf("allocate a pod address: all %d of %s are taken", len(r.owners), r.prefix)
		}
	}
}

// Reserve marks addr as owner's: what an earlier process gave. Addresses outside the range are ignored; false means that
// another owner has it.
func (r *Range) Reserve(addr netip.Addr, owner string) bool {
	if !r.prefix.Contains(addr) {
		return true
	}
	if has, taken := r.owners[addr]; taken {
		return has == owner
	}
	r.owners[addr] = owner
	if addr.Compare(r.cursor) > 0 && addr.Compare(r.last) <= 0 {
		r.cursor = addr
	}
	return true
}

// Release frees what owner has.
func (r *Range) Release(addr netip.Addr, owner string) {
	if r.owners[addr] == owner {
		delete(r.owners, addr)
	}
}

// Taken counts the addresses given.
func (r *Range) Taken() int { return len(r.owners) }

func lastAddr(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}
