package nfnl

import (
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

const (
	listenBuffer = 4 << 20 // of the socket: a foreign reload, or a large change, makes many messages at once
	// ReadBuffer takes whatever the kernel gives at once.
	ReadBuffer = 64 << 10
)

// Listen gives hear every message that tells of a change of nftables in this network namespace, until ctx ends, and then
// returns nil. When messages were lost it calls lost.
func Listen(ctx context.Context, hear func(Message), lost func()) error {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_NETFILTER)
	if err != nil {
		return fmt.Errorf("open a socket for nftables' events: %w", err)
	}
	socket := os.NewFile(uintptr(fd), "nftables events")
	defer socket.Close()
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, listenBuffer) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, listenBuffer)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("bind a socket for nftables' events: %w", err)
	}
	if err := unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_ADD_MEMBERSHIP, unix.NFNLGRP_NFTABLES); err != nil {
		return fmt.Errorf("subscribe to nftables' events: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { socket.Close() })
	defer stop()
	buf := make([]byte, ReadBuffer)
	for {
		n, err := socket.Read(buf)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, unix.ENOBUFS):
			lost()
		case err != nil:
			return fmt.Errorf("read nftables' events: %w", err)
		default:
			for m := range Messages(buf[:n]) {
				hear(m)
			}
		}
	}
}
