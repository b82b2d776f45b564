package nfnl

import (
	"encoding/binary"
	"iter"

	"golang.org/x/sys/unix"
)

// GenSize is the length of netfilter's own header, which every body begins with: family, version, resource.
const GenSize = 4

// Message is one netlink message.
type Message struct {
	Kind, Flags uint16
	Seq         uint32
	Port        uint32 // of the socket that caused it
	Body        []byte // after the netlink header
}

// Type is the netlink type of an nftables message (unix.NFT_MSG_…).
func Type(kind uint16) uint16 { return unix.NFNL_SUBSYS_NFTABLES<<8 | kind }

// Family that the message is of (unix.NFPROTO_…); false when it is too short to have one.
func (m Message) Family() (uint8, bool) {
	if len(m.Body) < GenSize {
		return 0, false
	}
	return m.Body[0], true
}

// Find answers the first attribute of a kind, or nil.
func (m Message) Find(kind uint16) []byte {
	if len(m.Body) < GenSize {
		return nil
	}
	return Find(m.Body[GenSize:], kind)
}

// Messages takes apart what a netlink socket gave; what is cut off ends it.
func Messages(buf []byte) iter.Seq[Message] {
	return func(yield func(Message) bool) {
		for len(buf) >= unix.SizeofNlMsghdr {
			size := int(binary.NativeEndian.Uint32(buf))
			if size < unix.SizeofNlMsghdr || size > len(buf) {
				return
			}
			m := Message{
				Kind: binary.NativeEndian.Uint16(buf[4:]), Flags: binary.NativeEndian.Uint16(buf[6:]),
				Seq: binary.NativeEndian.Uint32(buf[8:]), Port: binary.NativeEndian.Uint32(buf[12:]),
				Body: buf[unix.SizeofNlMsghdr:size],
			}
			if !yield(m) {
				return
			}
			buf = buf[min(len(buf), (size+3)&^3):]
		}
	}
}

// Attributes takes apart a list of attributes; what is cut off ends it.
func Attributes(buf []byte) iter.Seq2[uint16, []byte] {
	return func(yield func(uint16, []byte) bool) {
		for len(buf) >= 4 {
			size := int(binary.NativeEndian.Uint16(buf))
			if size < 4 || size > len(buf) {
				return
			}
			if !yield(binary.NativeEndian.Uint16(buf[2:])&^(unix.NLA_F_NESTED|unix.NLA_F_NET_BYTEORDER), buf[4:size]) {
				return
			}
			buf = buf[min(len(buf), (size+3)&^3):]
		}
	}
}

// Find answers the first attribute of a kind in a list, or nil.
func Find(list []byte, want uint16) []byte {
	for kind, data := range Attributes(list) {
		if kind == want {
			return data
		}
	}
	return nil
}

// String of an attribute that ends with a zero byte.
func String(b []byte) string { return unix.ByteSliceToString(b) }
