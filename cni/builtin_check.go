package cni

import (
	"context"
	"fmt"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/reevehq/reeve/internal/podnet"
)

// Check reports the first thing that differs from what Add made: record, links, addresses, routes.
func (b *Builtin) Check(_ context.Context, req podnet.Request, _ podnet.Result) error {
	b.mu.Lock()
	rec := b.records[req.SandboxID]
	b.mu.Unlock()
	if rec == nil {
		return fmt.Errorf("check network of sandbox %q: it has none", req.SandboxID)
	}
	if err := checkRecord(rec); err != nil {
		return fmt.Errorf("check network of sandbox %q: %w", req.SandboxID, err)
	}
	return nil
}

func checkRecord(rec *record) error {
	hostEnd, err := netlink.LinkByName(rec.HostLink)
	if err != nil {
		return fmt.Errorf("find link %s: %w", rec.HostLink, err)
	}
	if hostEnd.Attrs().OperState != netlink.OperUp {
		return fmt.Errorf("link %s is %s, not up", rec.HostLink, hostEnd.Attrs().OperState)
	}
	nsfd, err := unix.Open(rec.NetNS, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open network namespace %q: %w", rec.NetNS, err)
	}
	defer unix.Close(nsfd)
	pod, err := netlink.NewHandleAt(netns.NsHandle(nsfd), unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open netlink in %q: %w", rec.NetNS, err)
	}
	defer pod.Close()
	podEnd, err := pod.LinkByName(podInterface)
	if err != nil {
		return fmt.Errorf("find %s in %q: %w", podInterface, rec.NetNS, err)
	}
	for _, ip := range rec.IPs {
		family := netlink.FAMILY_V4
		if ip.Is6() {
			family = netlink.FAMILY_V6
		}
		addrs, err := pod.AddrList(podEnd, family)
		if err != nil {
			return fmt.Errorf("list addresses of %s: %w", podInterface, err)
		}
		found := false
		for _, a := range addrs {
			found = found || a.IP.Equal(ip.AsSlice())
		}
		if !found {
			return fmt.Errorf("%s has lost its address %s", podInterface, ip)
		}
		routes, err := netlink.RouteListFiltered(family, &netlink.Route{LinkIndex: hostEnd.Attrs().Index, Dst: hostNet(ip)},
			netlink.RT_FILTER_OIF|netlink.RT_FILTER_DST)
		if err != nil {
			return fmt.Errorf("list routes to %s: %w", ip, err)
		}
		if len(routes) == 0 {
			return fmt.Errorf("the route to %s through %s is gone", ip, rec.HostLink)
		}
	}
	return nil
}
