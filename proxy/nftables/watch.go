package nftables

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

const (
	watchBuffer = 4 << 20 // of the socket: a foreign reload, or a large change of ours, makes many messages at once
	readBuffer  = 64 << 10
)

// Watch calls changed whenever a rule, chain or map of the table, or the table itself, was removed by anybody, this process
// included, when others changed elements, and when messages were lost: then Heal. It returns nil when ctx ends.
func (b *Backend) Watch(ctx context.Context, changed func()) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		return fmt.Errorf("open a socket for nftables' events: %w", err)
	}
	socket := os.NewFile(uintptr(fd), "nftables events")
	defer socket.Close()
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, watchBuffer) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, watchBuffer)
	}
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
			b.damage.note("", false, true)
			changed()
		case err != nil:
			return fmt.Errorf("read nftables' events: %w", err)
		case b.damage.hear(buf[:n], b.cfg, b.nft.PortID()):
			changed()
		}
	}
}

// hear notes what netlink messages tell of the table, but for the elements that mine, this process's own connection,
// changed. It reports whether there was anything. A message's first attribute is the table's name.
func (d *damage) hear(buf []byte, cfg Config, mine uint32) bool {
	heard := false
	for m := range messages(buf) {
		if len(m.body) < nfgenSize || m.body[0] != netfilterFamily(cfg.Family) {
			continue
		}
		list := m.body[nfgenSize:]
		switch m.kind {
		case messageType(unix.NFT_MSG_DELTABLE), messageType(unix.NFT_MSG_DELCHAIN), messageType(unix.NFT_MSG_DELRULE), messageType(unix.NFT_MSG_DELSET):
			if cString(inner(list, unix.NFTA_RULE_TABLE)) == cfg.Table {
				d.note("", true, false)
				heard = true
			}
		case messageType(unix.NFT_MSG_DELSETELEM), messageType(unix.NFT_MSG_NEWSETELEM):
			set := cString(inner(list, unix.NFTA_SET_ELEM_LIST_SET))
			if m.port == mine || set == affinityMap || cString(inner(list, unix.NFTA_SET_ELEM_LIST_TABLE)) != cfg.Table {
				continue
			}
			d.note(set, false, false)
			heard = true
		}
	}
	return heard
}
