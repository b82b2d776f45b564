package ipvs

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/reevehq/reeve/proxy/plan"
)

// settle is how long addresses may still change before one looks: a pod's device comes with several events.
const settle = 200 * time.Millisecond

// Watch calls gone when the device was removed, or when the node's addresses are others than before, on which node ports
// must answer. It returns when ctx ends, or when the kernel's events cannot be had.
func (b *Backend) Watch(ctx context.Context, gone func()) error {
	k, ok := b.k.(*Kernel)
	if !ok {
		<-ctx.Done()
		return nil
	}
	done := make(chan struct{})
	defer close(done)
	addrs, links := make(chan netlink.AddrUpdate, 16), make(chan netlink.LinkUpdate, 16)
	if err := netlink.AddrSubscribe(addrs, done); err != nil {
		return fmt.Errorf("listen to changes of addresses: %w", err)
	}
	if err := netlink.LinkSubscribe(links, done); err != nil {
		return fmt.Errorf("listen to changes of devices: %w", err)
	}
	known, err := hostAddresses(k.family)
	if err != nil {
		return err
	}
	timer := time.NewTimer(time.Hour)
	timer.Stop()
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case _, ok := <-addrs:
			if !ok {
				return fmt.Errorf("listen to changes of addresses: the kernel ended it")
			}
			timer.Reset(settle)
		case l, ok := <-links:
			if !ok {
				return fmt.Errorf("listen to changes of devices: the kernel ended it")
			}
			if l.Header.Type == unix.RTM_DELLINK && l.Link.Attrs().Name == Device {
				gone()
			}
		case <-timer.C:
			now, err := hostAddresses(k.family)
			if err == nil && !slices.Equal(now, known) {
				known = now
				gone()
			}
		}
	}
}

// hostAddresses are Kernel.Host's, through a socket of its own: the loop uses the other.
func hostAddresses(family plan.Family) ([]netip.Addr, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("open netlink: %w", err)
	}
	defer h.Close()
	return (&Kernel{family: family, nl: h}).Host()
}
