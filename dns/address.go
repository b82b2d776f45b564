package dns

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// addAddress puts a cluster DNS address on the loopback device, with scope host: so it is never chosen as the source of
// other traffic, as MASQUERADE and the kernel's route lookup would with a global one. An address that is there stays.
func addAddress(a netip.Addr) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("put DNS address %s on the loopback device: %w", a, err)
	}
	if err := netlink.AddrAdd(lo, loopbackAddr(a)); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("put DNS address %s on the loopback device: %w", a, err)
	}
	return nil
}

func removeAddress(a netip.Addr) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("take DNS address %s from the loopback device: %w", a, err)
	}
	if err := netlink.AddrDel(lo, loopbackAddr(a)); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
		return fmt.Errorf("take DNS address %s from the loopback device: %w", a, err)
	}
	return nil
}

func loopbackAddr(a netip.Addr) *netlink.Addr {
	addr := &netlink.Addr{
		IPNet: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}, Scope: unix.RT_SCOPE_HOST,
	}
	if a.Is6() {
		addr.Flags = unix.IFA_F_NODAD
	}
	return addr
}

// Cleanup takes the addresses from the loopback device, and with the first of each family the rule that accepts questions
// (of the default ChainPrefix). What is not there is no error.
func Cleanup(addrs []netip.Addr) error { return cleanup(addrs, defaultChainPrefix, "") }

func cleanup(addrs []netip.Addr, prefix, flavor string) error {
	ctx, cancel := context.WithTimeout(context.Background(), cleanupTimeout)
	defer cancel()
	errs := []error{closeFirewall(ctx, prefix, flavor, addrs)}
	for _, a := range addrs {
		errs = append(errs, removeAddress(a))
	}
	return errors.Join(errs...)
}

// cleanupTimeout bounds the removal; a held xtables lock is waited for 5 s a command.
const cleanupTimeout = 30 * time.Second
