package testns

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// SCTP here is the beginning of an association, by hand over raw sockets, since the kernels of test machines may lack SCTP
// while their conntrack has it: an INIT, and an INIT ACK that carries the server's line as a parameter (RFC 9260, 3.3).
const (
	sctpHeader   = 12
	sctpInit     = 1
	sctpInitAck  = 2
	sctpInitSize = 20
	sctpLine     = 0xC0DE // a parameter that whoever does not know it skips
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// sctpPacket is a packet with one INIT or INIT ACK chunk.
func sctpPacket(kind byte, from, to uint16, tag, ownTag uint32, line string) []byte {
	chunk := make([]byte, sctpInitSize, 128)
	chunk[0] = kind
	binary.BigEndian.PutUint32(chunk[4:], ownTag)
	binary.BigEndian.PutUint32(chunk[8:], 64<<10)
	binary.BigEndian.PutUint16(chunk[12:], 1)
	binary.BigEndian.PutUint16(chunk[14:], 1)
	if line != "" {
		chunk = binary.BigEndian.AppendUint16(chunk, sctpLine)
		chunk = binary.BigEndian.AppendUint16(chunk, uint16(4+len(line)))
		chunk = append(chunk, line...)
	}
	binary.BigEndian.PutUint16(chunk[2:], uint16(len(chunk)))
	for len(chunk)%4 != 0 {
		chunk = append(chunk, 0)
	}
	p := make([]byte, sctpHeader, sctpHeader+len(chunk))
	binary.BigEndian.PutUint16(p, from)
	binary.BigEndian.PutUint16(p[2:], to)
	binary.BigEndian.PutUint32(p[4:], tag)
	p = append(p, chunk...)
	binary.LittleEndian.PutUint32(p[8:], crc32.Checksum(p, castagnoli))
	return p
}

func rawSCTP(a netip.Addr) string {
	if a.Is6() {
		return "ip6:132"
	}
	return "ip4:132"
}

// ServeSCTP answers every INIT to an address and port with "name clientIP", until the test ends.
func (h Host) ServeSCTP(t testing.TB, name string, at netip.AddrPort) {
	t.Helper()
	var l net.PacketConn
	if err := h.Do(func() (err error) {
		l, err = net.ListenPacket(rawSCTP(at.Addr()), at.Addr().String())
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		buf := make([]byte, 2048)
		for {
			n, from, err := l.ReadFrom(buf)
			if err != nil {
				return
			}
			p := buf[:n]
			if n < sctpHeader+sctpInitSize || p[sctpHeader] != sctpInit || binary.BigEndian.Uint16(p[2:]) != at.Port() {
				continue
			}
			answer := sctpPacket(sctpInitAck, at.Port(), binary.BigEndian.Uint16(p), binary.BigEndian.Uint32(p[sctpHeader+4:]), rand.Uint32(), name+" "+from.String())
			_, _ = l.WriteTo(answer, from)
		}
	}()
}

// askSCTP sends an INIT and answers the line of its acknowledgement.
func (h Host) askSCTP(src netip.Addr, to netip.AddrPort, timeout time.Duration) (string, error) {
	var c *net.IPConn
	if err := h.Do(func() (err error) {
		var local *net.IPAddr
		if src.IsValid() {
			local = &net.IPAddr{IP: src.AsSlice()}
		}
		c, err = net.DialIP(rawSCTP(to.Addr()), local, &net.IPAddr{IP: to.Addr().AsSlice()})
		return err
	}); err != nil {
		return "", err
	}
	defer c.Close()
	port, tag := uint16(32768+rand.IntN(28000)), rand.Uint32()
	_ = c.SetDeadline(time.Now().Add(timeout))
	if _, err := c.Write(sctpPacket(sctpInit, port, to.Port(), 0, tag, "")); err != nil {
		return "", err
	}
	buf := make([]byte, 2048)
	for {
		n, _, err := c.ReadFromIP(buf) // without the IP header, which Read leaves
		if err != nil {
			return "", err
		}
		p := buf[:n]
		if n < sctpHeader+sctpInitSize+4 || p[sctpHeader] != sctpInitAck || binary.BigEndian.Uint16(p[2:]) != port || binary.BigEndian.Uint32(p[4:]) != tag {
			continue
		}
		parameter := p[sctpHeader+sctpInitSize:]
		size := int(binary.BigEndian.Uint16(parameter[2:]))
		if binary.BigEndian.Uint16(parameter) != sctpLine || size < 4 || size > len(parameter) {
			return "", errors.New("an INIT ACK of somebody else")
		}
		return string(parameter[4:size]), nil
	}
}

// AskFrom is Ask by an address of the host, or the invalid one for any, with a time limit, and for sctp too.
func (h Host) AskFrom(network string, src netip.Addr, to netip.AddrPort, timeout time.Duration) (string, error) {
	if network == "sctp" {
		return h.askSCTP(src, to, timeout)
	}
	var c net.Conn
	if err := h.Do(func() error {
		d := net.Dialer{Timeout: timeout}
		if src.IsValid() {
			if network == "tcp" {
				d.LocalAddr = &net.TCPAddr{IP: src.AsSlice()}
			} else {
				d.LocalAddr = &net.UDPAddr{IP: src.AsSlice()}
			}
		}
		var err error
		c, err = d.Dial(network, to.String())
		return err
	}); err != nil {
		return "", err
	}
	defer c.Close()
	return talk(c, timeout)
}

func talk(c net.Conn, timeout time.Duration) (string, error) {
	_ = c.SetDeadline(time.Now().Add(timeout))
	if c.RemoteAddr().Network() == "udp" {
		if _, err := c.Write([]byte("hello\n")); err != nil {
			return "", err
		}
	}
	buf := make([]byte, 128)
	n, err := c.Read(buf)
	if err != nil {
		return "", err
	}
	line, _, found := strings.Cut(string(buf[:n]), "\n")
	if !found {
		return "", fmt.Errorf("no line: %q", line)
	}
	return line, nil
}
