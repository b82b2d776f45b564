package nftables

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

const (
	watchBuffer = 1 << 20 // of the socket: a foreign reload makes many messages at once
	readBuffer  = 64 << 10
)

// Watch calls gone whenever a rule or chain of the table, or the table itself, was removed by anybody, this process
// included, and when messages were lost: then look whether it is Intact. It returns nil when ctx ends.
func (b *Backend) Watch(ctx context.Context, gone func()) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		return fmt.Errorf("open a socket for nftables' events: %w", err)
	}
	socket := os.NewFile(uintptr(fd), "nftables events")
	defer socket.Close()
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, watchBuffer)
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("bind a socket for nftables' events: %w", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, unix.NFNLGRP_NFTABLES); err != nil {
		return fmt.Errorf("subscribe to nftables' events: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { socket.Close() })
	defer stop()
	buf := make([]byte, readBuffer)
	for {
		n, err := socket.Read(buf)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS):
			gone()
		case err != nil:
			return fmt.Errorf("read nftables' events: %w", err)
		case removes(buf[:n], b.cfg):
			gone()
		}
	}
}

// removes reports that one of the netlink messages is of the table, or a rule or chain of it, being removed. Their first
// attribute is the table's name.
func removes(messages []byte, cfg Config) bool {
	family := netfilterFamily(cfg.Family)
	const attribute = unix.SizeofNlMsghdr + 4 // after nfgenmsg
	for len(messages) >= unix.SizeofNlMsghdr {
		size := int(binary.NativeEndian.Uint32(messages))
		if size < unix.SizeofNlMsghdr || size > len(messages) {
			return false
		}
		m := messages[:size]
		messages = messages[min(len(messages), (size+3)&^3):]
		switch binary.NativeEndian.Uint16(m[4:]) {
		case unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_DELTABLE,
			unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_DELCHAIN,
			unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_DELRULE:
		default:
			continue
		}
		if len(m) < attribute+4 || m[unix.SizeofNlMsghdr] != family {
			continue
		}
		length := int(binary.NativeEndian.Uint16(m[attribute:]))
		if length < 4 || attribute+length > len(m) {
			continue
		}
		if name := bytes.TrimRight(m[attribute+4:attribute+length], "\x00"); string(name) == cfg.Table {
			return true
		}
	}
	return false
}
