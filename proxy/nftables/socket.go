package nftables

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/reevehq/reeve/internal/nfnl"
)

// socket is a netlink socket to nftables that lives as long as its table's owner: closing one makes its owner wait for the
// kernel to free what its transactions deleted (an RCU grace period, 10 ms and more), which is most of what the nft command
// takes for one element. Safe for concurrent use; one request at a time.
type socket struct {
	mu   sync.Mutex
	fd   int
	open bool
	seq  uint32
	port uint32
}

const (
	// answerTimeout bounds the wait for the kernel's answer, which it gives while it takes the request.
	answerTimeout = 30 * time.Second
	// receiveBuffer is the socket's: a dump of a set comes in pieces that the reader takes one by one.
	receiveBuffer = 4 << 20
	headerSize    = unix.SizeofNlMsghdr
	nfgenSize     = nfnl.GenSize
)

// dial opens the socket on first use. Needs the lock.
func (s *socket) dial() error {
	if s.open {
		return nil
	}
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return fmt.Errorf("open a socket to nftables: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		unix.Close(fd)
		return fmt.Errorf("bind a socket to nftables: %w", err)
	}
	name, err := unix.Getsockname(fd)
	if err != nil {
		unix.Close(fd)
		return fmt.Errorf("name a socket to nftables: %w", err)
	}
	timeout := unix.NsecToTimeval(int64(answerTimeout))
	_ = unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &timeout)
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer)
	}
	if nl, ok := name.(*unix.SockaddrNetlink); ok {
		s.port = nl.Pid
	}
	s.fd, s.open = fd, true
	return nil
}

// portID is the kernel's name for the socket; it stands in the events of what the socket changed. 0 before first use.
func (s *socket) portID() uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.port
}

func (s *socket) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.open {
		unix.Close(s.fd)
		s.open = false
	}
}

// message appends a netlink message and answers where it begins; end closes it.
func message(buf []byte, kind, flags uint16, family uint8, resource uint16) ([]byte, int) {
	at := len(buf)
	buf = append(buf, make([]byte, headerSize+nfgenSize)...)
	binary.NativeEndian.PutUint16(buf[at+4:], kind)
	binary.NativeEndian.PutUint16(buf[at+6:], flags)
	buf[at+headerSize] = family
	binary.BigEndian.PutUint16(buf[at+headerSize+2:], resource)
	return buf, at
}

// end writes the length of the message or attribute (with netlink's 32-bit or 16-bit length) that begins at at.
func endMessage(buf []byte, at int) []byte {
	binary.NativeEndian.PutUint32(buf[at:], uint32(len(buf)-at))
	return buf
}

// attribute appends one with its padding.
func attribute(buf []byte, kind uint16, data ...byte) []byte {
	buf = binary.NativeEndian.AppendUint16(buf, uint16(4+len(data)))
	buf = binary.NativeEndian.AppendUint16(buf, kind)
	buf = append(buf, data...)
	return pad(buf)
}

func text(buf []byte, kind uint16, s string) []byte {
	buf = binary.NativeEndian.AppendUint16(buf, uint16(4+len(s)+1))
	buf = binary.NativeEndian.AppendUint16(buf, kind)
	buf = append(append(buf, s...), 0)
	return pad(buf)
}

func pad(buf []byte) []byte {
	for len(buf)%4 != 0 {
		buf = append(buf, 0)
	}
	return buf
}

// nest opens an attribute that holds others; endNest closes it.
func nest(buf []byte, kind uint16) ([]byte, int) {
	at := len(buf)
	buf = binary.NativeEndian.AppendUint16(buf, 0)
	return binary.NativeEndian.AppendUint16(buf, kind|unix.NLA_F_NESTED), at
}

func endNest(buf []byte, at int) []byte {
	binary.NativeEndian.PutUint16(buf[at:], uint16(len(buf)-at))
	return buf
}

// transact sends a batch, whose messages have no sequence numbers yet, and answers when the kernel has taken all of it or
// nothing.
func (s *socket) transact(batch []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.dial(); err != nil {
		return err
	}
	first := s.seq + 1
	last := s.number(batch, true)
	// A batch must fit the send buffer as a whole.
	if unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_SNDBUFFORCE, len(batch)+64<<10) != nil {
		_ = unix.SetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_SNDBUF, len(batch)+64<<10)
	}
	if err := unix.Sendto(s.fd, batch, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		s.drop()
		return fmt.Errorf("send to nftables: %w", err)
	}
	var failure error
	acknowledged := false
	for !acknowledged {
		// The kernel answered while it was sent: an error, if there is any, comes before the acknowledgement.
		err := s.receive(func(kind uint16, seq uint32, body []byte) bool {
			if seq < first || kind != unix.NLMSG_ERROR || len(body) < 4 {
				return true
			}
			if code := int32(binary.NativeEndian.Uint32(body)); code != 0 {
				if failure == nil {
					failure = unix.Errno(-code)
				}
				// A batch that failed as a whole names its first message and acknowledges nothing.
				acknowledged = acknowledged || seq == first || seq == last
			} else if seq == last {
				acknowledged = true
			}
			return true
		}, failure != nil)
		if err != nil {
			if failure != nil && errors.Is(err, unix.EAGAIN) {
				break
			}
			s.drop()
			return fmt.Errorf("receive nftables' answer: %w", errors.Join(failure, err))
		}
	}
	return failure
}

// number gives the messages sequence numbers, and asks for the last but one, the last that changes something, to be
// acknowledged. It answers that one's number.
func (s *socket) number(batch []byte, acknowledge bool) uint32 {
	var before, at []byte
	for rest := batch; len(rest) >= headerSize; {
		size := (int(binary.NativeEndian.Uint32(rest)) + 3) &^ 3
		s.seq++
		binary.NativeEndian.PutUint32(rest[8:], s.seq)
		before, at = at, rest
		rest = rest[min(size, len(rest)):]
	}
	_ = at
	if !acknowledge || before == nil {
		return s.seq
	}
	binary.NativeEndian.PutUint16(before[6:], binary.NativeEndian.Uint16(before[6:])|unix.NLM_F_ACK)
	return binary.NativeEndian.Uint32(before[8:])
}

// drop closes a socket whose state is unknown; the next use opens another. Needs the lock.
func (s *socket) drop() {
	unix.Close(s.fd)
	s.open = false
}

// dump sends one request and gives fn each message that answers it, after netfilter's own header.
func (s *socket) dump(request []byte, fn func(body []byte) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.dial(); err != nil {
		return err
	}
	mine := s.number(request, false)
	if err := unix.Sendto(s.fd, request, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		s.drop()
		return fmt.Errorf("send to nftables: %w", err)
	}
	var failure, interrupted error
	for done := false; !done; {
		err := s.receive(func(kind uint16, seq uint32, body []byte) bool {
			if seq != mine {
				return true
			}
			switch kind {
			case unix.NLMSG_DONE:
				done = true
			case unix.NLMSG_ERROR:
				done = true
				if len(body) >= 4 {
					if code := int32(binary.NativeEndian.Uint32(body)); code != 0 {
						failure = unix.Errno(-code)
					}
				}
			default:
				if failure == nil && len(body) >= nfgenSize {
					failure = fn(body[nfgenSize:])
				}
			}
			return !done
		}, false)
		if errors.Is(err, errInterrupted) {
			interrupted = err
		} else if err != nil {
			s.drop()
			return fmt.Errorf("receive from nftables: %w", err)
		}
	}
	return errors.Join(failure, interrupted)
}

// errInterrupted: the dump met a change of the ruleset, and may hold things twice or not at all.
var errInterrupted = errors.New("the ruleset changed while it was listed")

// receive reads once and gives fn the messages. With now it does not wait.
func (s *socket) receive(fn func(kind uint16, seq uint32, body []byte) bool, now bool) error {
	flags := 0
	if now {
		flags = unix.MSG_DONTWAIT
	}
	buf := make([]byte, nfnl.ReadBuffer)
	n, _, err := unix.Recvfrom(s.fd, buf, flags)
	for errors.Is(err, unix.EINTR) {
		n, _, err = unix.Recvfrom(s.fd, buf, flags)
	}
	if err != nil {
		return err
	}
	interrupted := false
	for m := range nfnl.Messages(buf[:n]) {
		interrupted = interrupted || m.Flags&unix.NLM_F_DUMP_INTR != 0
		if !fn(m.Kind, m.Seq, m.Body) {
			break
		}
	}
	if interrupted {
		return errInterrupted
	}
	return nil
}
