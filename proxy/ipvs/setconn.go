package ipvs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/reevehq/reeve/proxy/plan"
)

// setConn writes ipsets. The library makes, lists and tests them; elements go many in a message, which it cannot.
type setConn struct{ sock *nl.NetlinkSocket }

// EnsureSets implements kernel.
func (k *Kernel) EnsureSets(c Config) error {
	for s := setID(0); s < setCount; s++ {
		options := netlink.IpsetCreateOptions{Replace: true, MaxElements: maxElements, Family: uint8(k.af())}
		if err := k.nl.IpsetCreate(c.set(s), setTypes[s], options); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("create ipset %s of type %s: %w (ipvs mode needs the kernel module ip_set and that of the type)", c.set(s), setTypes[s], err)
		}
	}
	return nil
}

// ListSet implements kernel.
func (k *Kernel) ListSet(c Config, s setID) ([]entry, error) {
	list, err := k.nl.IpsetList(c.set(s))
	if err != nil {
		return nil, fmt.Errorf("list ipset %s: %w", c.set(s), err)
	}
	out := make([]entry, 0, len(list.Entries))
	for _, e := range list.Entries {
		n := entry{frontend: frontend{addr: toAddr(e.IP)}}
		if e.Port != nil && e.Protocol != nil {
			n.port, n.proto = *e.Port, *e.Protocol
		}
		if e.IP2 != nil {
			a := toAddr(e.IP2)
			bits := a.BitLen()
			if s == setAllow && e.CIDR2 != 0 {
				bits = int(e.CIDR2)
			} else if s == setAllow && e.CIDR != 0 {
				bits = int(e.CIDR)
			}
			n.other = netip.PrefixFrom(a, bits)
		}
		out = append(out, n)
	}
	return out, nil
}

// HasEntry implements kernel.
func (k *Kernel) HasEntry(c Config, s setID, e entry) (bool, error) {
	port, proto := e.port, e.proto
	ok, err := k.nl.IpsetTest(c.set(s), &netlink.IPSetEntry{IP: net.IP(e.addr.AsSlice()), Port: &port, Protocol: &proto, Replace: true})
	if errors.Is(err, unix.ENOENT) {
		return false, nil // the set itself is gone
	}
	return ok, err
}

// AddEntries implements kernel. An entry that is there is no error.
func (k *Kernel) AddEntries(c Config, s setID, entries []entry) error {
	return k.batch(nl.IPSET_CMD_ADD, c, s, entries)
}

// DeleteEntries implements kernel. An entry that is not there is no error.
func (k *Kernel) DeleteEntries(c Config, s setID, entries []entry) error {
	return k.batch(nl.IPSET_CMD_DEL, c, s, entries)
}

// batchSize is how many elements go into a message, whose attribute of them may have 64 KiB.
const batchSize = 500

func (k *Kernel) batch(cmd int, c Config, s setID, entries []entry) error {
	for len(entries) > 0 {
		n := min(len(entries), batchSize)
		if err := k.sets.send(cmd, c.set(s), s, entries[:n]); err != nil {
			verb := "add to"
			if cmd == nl.IPSET_CMD_DEL {
				verb = "delete from"
			}
			return fmt.Errorf("%s ipset %s: %w", verb, c.set(s), err)
		}
		entries = entries[n:]
	}
	return nil
}

// send is one message: IPSET_ATTR_ADT with an IPSET_ATTR_DATA for each element, as `ipset restore` sends.
func (x setConn) send(cmd int, name string, s setID, entries []entry) error {
	var adt []byte
	for i := range entries {
		adt = appendData(adt, s, &entries[i])
	}
	req := nl.NewNetlinkRequest(cmd|unix.NFNL_SUBSYS_IPSET<<8, unix.NLM_F_ACK)
	req.Sockets = map[int]*nl.SocketHandle{unix.NETLINK_NETFILTER: {Socket: x.sock}}
	req.AddData(&nl.Nfgenmsg{NfgenFamily: uint8(unix.AF_INET), Version: nl.NFNETLINK_V0})
	req.AddData(nl.NewRtAttr(nl.IPSET_ATTR_PROTOCOL, nl.Uint8Attr(nl.IPSET_PROTOCOL)))
	req.AddData(nl.NewRtAttr(nl.IPSET_ATTR_SETNAME, nl.ZeroTerminated(name)))
	req.AddData(nl.NewRtAttr(nl.IPSET_ATTR_LINENO, nl.Uint32Attr(0)))
	req.AddData(nl.NewRtAttr(nl.IPSET_ATTR_ADT|int(nl.NLA_F_NESTED), adt))
	_, err := req.Execute(unix.NETLINK_NETFILTER, 0)
	var errno unix.Errno
	if errors.As(err, &errno) && int(errno) >= nl.IPSET_ERR_PRIVATE {
		return nl.IPSetError(uintptr(errno))
	}
	return err
}

// appendData adds an element in the kernel's format.
func appendData(b []byte, s setID, e *entry) []byte {
	b, end := begin(b, nl.IPSET_ATTR_DATA|int(nl.NLA_F_NESTED))
	b = appendIP(b, nl.IPSET_ATTR_IP, e.addr)
	if s != setAddresses {
		b = appendAttr(b, nl.IPSET_ATTR_PROTO, []byte{e.proto})
		b = appendAttr(b, nl.IPSET_ATTR_PORT|int(nl.NLA_F_NET_BYTEORDER), binary.BigEndian.AppendUint16(nil, e.port))
	}
	if e.other.IsValid() {
		b = appendIP(b, nl.IPSET_ATTR_IP2, e.other.Addr())
		if s == setAllow {
			b = appendAttr(b, nl.IPSET_ATTR_CIDR2, []byte{byte(e.other.Bits())})
		}
	}
	return end(b)
}

func appendIP(b []byte, kind int, a netip.Addr) []byte {
	b, end := begin(b, kind|int(nl.NLA_F_NESTED))
	inner := nl.IPSET_ATTR_IPADDR_IPV4
	if plan.FamilyOf(a) == plan.IPv6 {
		inner = nl.IPSET_ATTR_IPADDR_IPV6
	}
	return end(appendAttr(b, inner|int(nl.NLA_F_NET_BYTEORDER), a.AsSlice()))
}

// begin opens an attribute, whose length is known when end is called.
func begin(b []byte, kind int) ([]byte, func([]byte) []byte) {
	start := len(b)
	b = binary.NativeEndian.AppendUint16(b, 0)
	b = binary.NativeEndian.AppendUint16(b, uint16(kind))
	return b, func(b []byte) []byte {
		binary.NativeEndian.PutUint16(b[start:], uint16(len(b)-start))
		for len(b)%4 != 0 {
			b = append(b, 0)
		}
		return b
	}
}

func appendAttr(b []byte, kind int, value []byte) []byte {
	b, end := begin(b, kind)
	return end(append(b, value...))
}
