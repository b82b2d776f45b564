package nftables

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/reevehq/reeve/internal/nfnl"
	"github.com/reevehq/reeve/proxy/plan"
)

// field is one part of a key or value.
type field int

const (
	addrField field = iota
	protoField
	portField
	randomField // numgen's number, in the host's byte order
	rangeField  // an address or a prefix
)

// shape is what an element of a set or map is made of. Neither value nor verdict: a set.
type shape struct {
	key, value []field
	verdict    bool
}

// shapeOf a map or set of ours by its name.
func shapeOf(name string) shape {
	address := []field{addrField, protoField, portField}
	switch name {
	case serviceIPs, insideIPs, outsideIPs, deniedIPs, stickyIPs:
		return shape{key: address, verdict: true}
	case serviceNodePorts, insideNodePorts, outsideNodePorts, deniedNodePorts, stickyNodePorts:
		return shape{key: []field{protoField, portField}, verdict: true}
	case affinityMap:
		return shape{key: append(address, addrField), value: []field{addrField, portField}}
	case hairpinSet:
		return shape{key: []field{addrField, addrField}}
	case firewallIPs:
		return shape{key: address}
	case firewallAllow:
		return shape{key: append(address, rangeField)}
	}
	kind, _, n, _ := split(name)
	s := shape{key: []field{portField}, value: []field{addrField, portField}}
	if kind != nodePortsMap && kind != nodeLocalsMap {
		s.key = []field{addrField, portField}
	}
	if n > 1 {
		s.key = append(s.key, randomField)
	}
	return s
}

var protocolNumbers = map[string]byte{"tcp": unix.IPPROTO_TCP, "udp": unix.IPPROTO_UDP, "sctp": unix.IPPROTO_SCTP}

func (f field) size(family plan.Family) int {
	switch f {
	case addrField, rangeField:
		if family == plan.IPv6 {
			return 16
		}
		return 4
	case protoField:
		return 1
	case portField:
		return 2
	}
	return 4
}

// encode appends the bytes of parts joined by " . ". Each part of several fills whole 32-bit registers. With last, a range
// is its last address.
func encode(buf []byte, fields []field, joined string, last bool) ([]byte, error) {
	rest := joined
	for i, f := range fields {
		part, after, more := strings.Cut(rest, concat)
		if more != (i < len(fields)-1) {
			return nil, fmt.Errorf("%q has not %d parts", joined, len(fields))
		}
		rest = after
		var err error
		if buf, err = f.encode(buf, part, last); err != nil {
			return nil, fmt.Errorf("%q: %w", joined, err)
		}
		if len(fields) > 1 {
			buf = pad(buf)
		}
	}
	return buf, nil
}

func (f field) encode(buf []byte, part string, last bool) ([]byte, error) {
	switch f {
	case addrField, rangeField:
		address, bits, isRange := strings.Cut(part, "/")
		a, err := netip.ParseAddr(address)
		if err != nil {
			return nil, err
		}
		if isRange && last {
			n, err := strconv.Atoi(bits)
			if err != nil || n < 0 || n > a.BitLen() {
				return nil, fmt.Errorf("%q is no range", part)
			}
			return append(buf, lastOf(netip.PrefixFrom(a, n)).AsSlice()...), nil
		}
		return append(buf, a.AsSlice()...), nil
	case protoField:
		n, ok := protocolNumbers[part]
		if !ok {
			return nil, fmt.Errorf("%q is no protocol", part)
		}
		return append(buf, n), nil
	case portField:
		n, err := strconv.ParseUint(part, 10, 16)
		return binary.BigEndian.AppendUint16(buf, uint16(n)), err
	default:
		n, err := strconv.ParseUint(part, 10, 32)
		return binary.NativeEndian.AppendUint32(buf, uint32(n)), err
	}
}

// lastOf is the last address of a prefix.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Masked().Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 1 << (7 - i%8)
	}
	a, _ := netip.AddrFromSlice(b)
	return a
}

// rangeOf is the prefix from first to last, or false when they are none.
func rangeOf(first, last netip.Addr) (netip.Prefix, bool) {
	for bits := first.BitLen(); bits >= 0; bits-- {
		p := netip.PrefixFrom(first, bits)
		if p.Masked().Addr() == first && lastOf(p) == last {
			return p, true
		}
	}
	return netip.Prefix{}, false
}

var errShort = errors.New("an element is shorter than its type")

// decode is encode's reverse. end is the last key of a range, or nil.
func decode(fields []field, family plan.Family, b, end []byte) (string, error) {
	var out strings.Builder
	for i, f := range fields {
		size := f.size(family)
		if len(b) < size || (end != nil && len(end) < size) {
			return "", errShort
		}
		if i > 0 {
			out.WriteString(concat)
		}
		switch f {
		case addrField, rangeField:
			a, _ := netip.AddrFromSlice(b[:size])
			switch {
			case f == rangeField && end != nil:
				last, _ := netip.AddrFromSlice(end[:size])
				if p, ok := rangeOf(a, last); ok {
					out.WriteString(prefix(p))
				} else {
					fmt.Fprintf(&out, "%s-%s", a, last)
				}
			default:
				out.WriteString(a.String())
			}
		case protoField:
			name := ""
			for p, n := range protocolNumbers {
				if n == b[0] {
					name = p
				}
			}
			if name == "" {
				name = strconv.Itoa(int(b[0]))
			}
			out.WriteString(name)
		case portField:
			out.WriteString(strconv.Itoa(int(binary.BigEndian.Uint16(b))))
		default:
			out.WriteString(strconv.FormatUint(uint64(binary.NativeEndian.Uint32(b)), 10))
		}
		if step := (size + 3) &^ 3; len(fields) > 1 && i < len(fields)-1 {
			if len(b) < step {
				return "", errShort
			}
			b = b[step:]
			if end != nil {
				end = end[min(step, len(end)):]
			}
		}
	}
	return out.String(), nil
}

// Parts of netlink's nftables that golang.org/x/sys does not name.
const (
	setElementKeyEnd = 10 // NFTA_SET_ELEM_KEY_END
	verdictGoto      = -4 // NFT_GOTO
	verdictDrop      = 0  // NF_DROP
	commentUserdata  = 0  // NFTNL_UDATA_SET_ELEM_COMMENT
	// commentMax is what nft takes; longer ones are cut.
	commentMax = 127
)

// appendElement appends one element as the attribute of a list. A key is enough to delete it.
func appendElement(buf []byte, at slot, c content, family plan.Family) ([]byte, error) {
	s := shapeOf(at.in)
	buf, item := nest(buf, unix.NFTA_LIST_ELEM)
	value := func(kind uint16, fields []field, joined string, last bool) error {
		var outer, inner int
		var err error
		buf, outer = nest(buf, kind)
		inner = len(buf)
		buf = binary.NativeEndian.AppendUint16(buf, 0)
		buf = binary.NativeEndian.AppendUint16(buf, unix.NFTA_DATA_VALUE)
		if buf, err = encode(buf, fields, joined, last); err != nil {
			return err
		}
		binary.NativeEndian.PutUint16(buf[inner:], uint16(len(buf)-inner))
		buf = endNest(pad(buf), outer)
		return nil
	}
	if err := value(unix.NFTA_SET_ELEM_KEY, s.key, at.key, false); err != nil {
		return nil, err
	}
	if at.in == firewallAllow { // a set of ranges, of which each element has two ends
		if err := value(setElementKeyEnd, s.key, at.key, true); err != nil {
			return nil, err
		}
	}
	switch {
	case c.value == "":
	case s.verdict:
		code, target := int32(verdictDrop), ""
		if to, is := strings.CutPrefix(c.value, "goto "); is {
			code, target = verdictGoto, to
		} else if c.value != "drop" {
			return nil, fmt.Errorf("%q is no verdict", c.value)
		}
		var data, verdict int
		buf, data = nest(buf, unix.NFTA_SET_ELEM_DATA)
		buf, verdict = nest(buf, unix.NFTA_DATA_VERDICT)
		buf = attribute(buf, unix.NFTA_VERDICT_CODE, binary.BigEndian.AppendUint32(nil, uint32(code))...)
		if target != "" {
			buf = text(buf, unix.NFTA_VERDICT_CHAIN, target)
		}
		buf = endNest(endNest(buf, verdict), data)
	default:
		if err := value(unix.NFTA_SET_ELEM_DATA, s.value, c.value, false); err != nil {
			return nil, err
		}
	}
	if c.comment != "" {
		data := append([]byte{commentUserdata, byte(len(c.comment) + 1)}, c.comment...)
		buf = attribute(buf, unix.NFTA_SET_ELEM_USERDATA, append(data, 0)...)
	}
	return endNest(buf, item), nil
}

// readElement is appendElement's reverse, of what a dump holds.
func readElement(in string, family plan.Family, item []byte) (string, content, error) {
	s := shapeOf(in)
	var key, end []byte
	var c content
	var err error
	for kind, data := range nfnl.Attributes(item) {
		switch kind {
		case unix.NFTA_SET_ELEM_KEY:
			key = nfnl.Find(data, unix.NFTA_DATA_VALUE)
		case setElementKeyEnd:
			end = nfnl.Find(data, unix.NFTA_DATA_VALUE)
		case unix.NFTA_SET_ELEM_DATA:
			if !s.verdict {
				c.value, err = decode(s.value, family, nfnl.Find(data, unix.NFTA_DATA_VALUE), nil)
				break
			}
			verdict := nfnl.Find(data, unix.NFTA_DATA_VERDICT)
			code := nfnl.Find(verdict, unix.NFTA_VERDICT_CODE)
			if len(code) < 4 {
				err = errShort
				break
			}
			switch int32(binary.BigEndian.Uint32(code)) {
			case verdictGoto:
				c.value = "goto " + nfnl.String(nfnl.Find(verdict, unix.NFTA_VERDICT_CHAIN))
			case verdictDrop:
				c.value = "drop"
			default:
				c.value = fmt.Sprintf("verdict %d", int32(binary.BigEndian.Uint32(code)))
			}
		case unix.NFTA_SET_ELEM_USERDATA:
			for len(data) >= 2 && len(data) >= 2+int(data[1]) {
				if data[0] == commentUserdata {
					c.comment = nfnl.String(data[2 : 2+int(data[1])])
				}
				data = data[2+int(data[1]):]
			}
		}
		if err != nil {
			return "", content{}, err
		}
	}
	text, err := decode(s.key, family, key, end)
	return text, c, err
}
