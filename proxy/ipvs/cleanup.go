package ipvs

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/reevehq/reeve/internal/xtables"
)

// Present reports that there may be anything of ours of the family, without changing anything. Chains stand only while the
// sets do that they look into.
func Present(c Config) (bool, error) {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE, unix.NETLINK_NETFILTER)
	if err != nil {
		return false, fmt.Errorf("open netlink: %w", err)
	}
	defer h.Close()
	if _, err := h.LinkByName(Device); err == nil {
		return true, nil
	}
	_, err = h.IpsetList(c.set(setServices))
	return err == nil, nil
}

// CleanupRules removes the chains and jumps of one kind of iptables. What is not there is no error.
func CleanupRules(ctx context.Context, c Config, xt *xtables.Handle) error {
	return cleanupRules(ctx, c, xt, tables)
}

// RetireRules is CleanupRules but for the table filter, which closes the other ports of addresses that are still needed.
func RetireRules(ctx context.Context, c Config, xt *xtables.Handle) error {
	return cleanupRules(ctx, c, xt, []string{"mangle", "nat"})
}

func cleanupRules(ctx context.Context, c Config, xt *xtables.Handle, tables []string) error {
	c.Label = 0 // all that there may be
	ours := map[string]bool{}
	for _, table := range tables {
		for _, ch := range c.fixed(table) {
			ours[ch.name] = true
		}
	}
	var errs []error
	for _, table := range tables {
		if !xt.Used(table) {
			continue
		}
		saved, err := xt.Save(ctx, table)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if !xtables.ParseSave(saved).Has(c.chain("")) {
			continue
		}
		for _, j := range append(c.jumps(), c.guard()) {
			if j.Table == table {
				errs = append(errs, xt.DeleteJump(j))
			}
		}
		errs = append(errs, xt.DeleteChains(ctx, table, func(chain string) bool { return ours[chain] }))
	}
	return errors.Join(errs...)
}

// Drain takes all our real servers of the family out of turn, removes those without a connection and what is only there
// for them, and answers whether any are left.
func Drain(c Config) (left bool, err error) {
	if !hasIPVS() {
		return false, nil
	}
	k, err := Open(c.Family, nil)
	if err != nil {
		return false, err
	}
	defer k.Close()
	if err := k.EnsureSets(c); err != nil {
		return false, err
	}
	return drain(c, k)
}

func drain(c Config, k kernel) (left bool, err error) {
	b := New(c, k)
	if err := b.observe(&writes{}); err != nil {
		return false, err
	}
	busy := map[netip.Addr]bool{}
	for at, known := range b.known {
		if !known.virtual {
			continue
		}
		for _, r := range known.reals {
			if !r.draining {
				if err := k.ChangeReal(at, realChange{r.at, realDrain}); err != nil {
					return false, fmt.Errorf("drain server %s of %s: %w", r.at, at, err)
				}
			}
		}
		idle, err := k.Idle(at)
		if err != nil {
			return false, fmt.Errorf("look at the servers of %s: %w", at, err)
		}
		if len(idle) < len(known.reals) {
			busy[at.addr] = true
			continue
		}
		if err := k.DeleteVirtual(at); err != nil {
			return false, fmt.Errorf("delete virtual service %s: %w", at, err)
		}
	}
	for a := range b.routes {
		if !busy[a] {
			if err := k.DeleteRoute(a); err != nil {
				return false, err
			}
		}
	}
	return len(busy) > 0, nil
}

// Cleanup removes what a backend of this configuration makes beside rules, connections included; CleanupRules comes first.
// What is not there, nor the modules for it, is no error. The device goes with the last family's addresses.
func Cleanup(c Config) error {
	h, err := netlink.NewHandle(unix.NETLINK_ROUTE, unix.NETLINK_NETFILTER)
	if err != nil {
		return fmt.Errorf("open netlink: %w", err)
	}
	defer h.Close()
	var errs []error
	link, err := h.LinkByName(Device)
	device := err == nil
	if device && hasIPVS() {
		errs = append(errs, cleanupVirtuals(c))
	}
	for s := setID(0); s < setCount; s++ {
		if err := h.IpsetDestroy(c.set(s)); err != nil && !absent(err) {
			errs = append(errs, fmt.Errorf("destroy ipset %s: %w", c.set(s), err))
		}
	}
	if device {
		if left, err := h.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{LinkIndex: link.Attrs().Index, Table: unix.RT_TABLE_LOCAL, Protocol: routeProtocol},
			netlink.RT_FILTER_OIF|netlink.RT_FILTER_TABLE|netlink.RT_FILTER_PROTOCOL); err == nil && len(left) == 0 {
			if err := h.LinkDel(link); err != nil {
				errs = append(errs, fmt.Errorf("delete device %s: %w", Device, err))
			}
		}
	}
	return errors.Join(errs...)
}

// absent knows the answers of a kernel without the set, or without any.
func absent(err error) bool {
	return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EPROTONOSUPPORT)
}

// cleanupVirtuals deletes what stands in the set of services or has an address on the device, and those addresses.
func cleanupVirtuals(c Config) error {
	k, err := Open(c.Family, nil)
	if err != nil {
		return err
	}
	defer k.Close()
	var errs []error
	b := New(c, k)
	if err := k.EnsureSets(c); err != nil {
		return err
	}
	if err := b.observe(&writes{}); err != nil {
		return err
	}
	for at, known := range b.known {
		if known.virtual {
			errs = append(errs, k.DeleteVirtual(at))
		}
	}
	for a := range b.routes {
		errs = append(errs, k.DeleteRoute(a))
	}
	return errors.Join(errs...)
}
