package cni

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// pair is what plug made, as the CNI result names it.
type pair struct {
	hostMAC, podMAC string
}

// plug makes the veth pair of a record with addresses and routes on both ends. Like the ptp plugin it puts the gateway's
// address on every host end: the node answers ARP there even with arp_ignore set (IPVS, MetalLB), and MASQUERADE towards
// the pod takes that address.
func plug(rec *record, gateways []netip.Addr, mtu int, localhost bool) (pair, error) {
	nsfd, err := unix.Open(rec.NetNS, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return pair{}, fmt.Errorf("open network namespace %q: %w", rec.NetNS, err)
	}
	defer unix.Close(nsfd)
	host, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return pair{}, fmt.Errorf("open netlink: %w", err)
	}
	defer host.Close()
	pod, err := netlink.NewHandleAt(netns.NsHandle(nsfd), unix.NETLINK_ROUTE)
	if err != nil {
		return pair{}, fmt.Errorf("open netlink in %q: %w", rec.NetNS, err)
	}
	defer pod.Close()

	veth := netlink.NewVeth(netlink.LinkAttrs{Name: rec.HostLink, MTU: mtu})
	veth.PeerName = podInterface
	veth.PeerNamespace = netlink.NsFd(nsfd)
	veth.PeerMTU = uint32(mtu)
	err = host.LinkAdd(veth)
	if errors.Is(err, unix.EEXIST) {
		// The sandbox had a network before; its old link may still wait for its namespace's end.
		if err = unplug(rec.HostLink); err == nil {
			err = host.LinkAdd(veth)
		}
	}
	if err != nil {
		return pair{}, fmt.Errorf("make veth %s with %s in %q: %w", rec.HostLink, podInterface, rec.NetNS, err)
	}
	hostEnd, err := host.LinkByName(rec.HostLink)
	if err != nil {
		return pair{}, fmt.Errorf("find veth %s: %w", rec.HostLink, err)
	}
	podEnd, err := pod.LinkByName(podInterface)
	if err != nil {
		return pair{}, fmt.Errorf("find %s in %q: %w", podInterface, rec.NetNS, err)
	}
	if localhost {
		// What a local process sends to 127.0.0.1:hostPort leaves here with a loopback source until POSTROUTING.
		if err := writeSysctl("net/ipv4/conf/"+rec.HostLink+"/route_localnet", "1"); err != nil {
			return pair{}, err
		}
	}
	if rec.IPs[len(rec.IPs)-1].Is6() {
		// Without a link-local address that has passed duplicate address detection the node cannot ask for its neighbour,
		// and the pod would be unreachable for its first seconds.
		if err := writeSysctl("net/ipv6/conf/"+rec.HostLink+"/accept_dad", "0"); err != nil {
			return pair{}, err
		}
	}
	for i, ip := range rec.IPs {
		if err := addAddr(pod, podEnd, ip); err != nil {
			return pair{}, fmt.Errorf("give %s the address %s: %w", podInterface, ip, err)
		}
		if err := addAddr(host, hostEnd, gateways[i]); err != nil {
			return pair{}, fmt.Errorf("give %s the address %s: %w", rec.HostLink, gateways[i], err)
		}
	}
	// What the pod receives leaves the node's end; what it sends leaves its own.
	if err := errors.Join(shape(host, hostEnd, rec.Bandwidth.Ingress), shape(pod, podEnd, rec.Bandwidth.Egress)); err != nil {
		return pair{}, err
	}
	if err := host.LinkSetUp(hostEnd); err != nil {
		return pair{}, fmt.Errorf("set %s up: %w", rec.HostLink, err)
	}
	if err := pod.LinkSetUp(podEnd); err != nil {
		return pair{}, fmt.Errorf("set %s up: %w", podInterface, err)
	}
	for i, ip := range rec.IPs {
		if err := pod.RouteAdd(&netlink.Route{
			LinkIndex: podEnd.Attrs().Index, Dst: defaultNet(ip), Gw: gateways[i].AsSlice(), Flags: int(netlink.FLAG_ONLINK),
		}); err != nil {
			return pair{}, fmt.Errorf("add the pod's default route: %w", err)
		}
		// Replace: an address that changed hands after a crash must lead to its new pod.
		if err := host.RouteReplace(&netlink.Route{
			LinkIndex: hostEnd.Attrs().Index, Dst: hostNet(ip), Scope: netlink.SCOPE_LINK,
		}); err != nil {
			return pair{}, fmt.Errorf("add the route to %s: %w", ip, err)
		}
	}
	return pair{hostMAC: hostEnd.Attrs().HardwareAddr.String(), podMAC: podEnd.Attrs().HardwareAddr.String()}, nil
}

// addAddr adds ip as /32 or /128, in IPv6 without duplicate address detection, which would hold it back for a second.
func addAddr(h *netlink.Handle, link netlink.Link, ip netip.Addr) error {
	addr := &netlink.Addr{IPNet: hostNet(ip)}
	if ip.Is6() {
		addr.Flags = unix.IFA_F_NODAD
	}
	return h.AddrAdd(link, addr)
}

func hostNet(ip netip.Addr) *net.IPNet {
	return &net.IPNet{IP: ip.AsSlice(), Mask: net.CIDRMask(ip.BitLen(), ip.BitLen())}
}

func defaultNet(ip netip.Addr) *net.IPNet {
	return &net.IPNet{IP: make(net.IP, ip.BitLen()/8), Mask: net.CIDRMask(0, ip.BitLen())}
}

// detach takes the node's routes to a record's addresses away. The link itself goes with the namespace, which the kernel
// does behind the caller's back, many at once: deleting it here would hold the kernel's link lock for some 30 ms a pod.
func detach(rec *record) error {
	link, err := netlink.LinkByName(rec.HostLink)
	var gone netlink.LinkNotFoundError
	if errors.As(err, &gone) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("find link %s: %w", rec.HostLink, err)
	}
	for _, ip := range rec.IPs {
		err := netlink.RouteDel(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: hostNet(ip), Scope: netlink.SCOPE_LINK})
		if err != nil && !errors.Is(err, unix.ESRCH) && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("delete the route to %s: %w", ip, err)
		}
	}
	return nil
}

// unplug deletes a host end; its peer, addresses and routes go with it. A missing link is no error.
func unplug(name string) error {
	link, err := netlink.LinkByName(name)
	if err == nil {
		err = netlink.LinkDel(link)
	}
	var gone netlink.LinkNotFoundError
	if err == nil || errors.As(err, &gone) || errors.Is(err, unix.ENODEV) {
		return nil
	}
	return fmt.Errorf("delete link %s: %w", name, err)
}

func vethNames() ([]string, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	var names []string
	for _, l := range links {
		if l.Type() == "veth" {
			names = append(names, l.Attrs().Name)
		}
	}
	return names, nil
}

// uplinkMTU is the MTU of the device of the node's default route, the most that a pod's packet may have to fit.
func uplinkMTU() int {
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		routes, err := netlink.RouteListFiltered(family, &netlink.Route{Dst: nil}, netlink.RT_FILTER_DST)
		if err != nil {
			continue
		}
		for _, r := range routes {
			if link, err := netlink.LinkByIndex(r.LinkIndex); err == nil {
				return link.Attrs().MTU
			}
		}
	}
	return defaultMTU
}

// enableForwarding makes the node a router for its pods.
func enableForwarding(v4, v6 bool) error {
	if v4 {
		if err := writeSysctl("net/ipv4/ip_forward", "1"); err != nil {
			return err
		}
	}
	if !v6 {
		return nil
	}
	// A forwarding host stops listening to router advertisements (and so loses its own default route) where accept_ra is 1.
	if entries, err := os.ReadDir("/proc/sys/net/ipv6/conf"); err == nil {
		for _, e := range entries {
			path := "net/ipv6/conf/" + e.Name() + "/accept_ra"
			if value, err := os.ReadFile("/proc/sys/" + path); err == nil && strings.TrimSpace(string(value)) == "1" {
				if err := writeSysctl(path, "2"); err != nil {
					return err
				}
			}
		}
	}
	return writeSysctl("net/ipv6/conf/all/forwarding", "1")
}

// writeSysctl sets a kernel parameter (path with slashes) unless it has that value: /proc/sys may be read-only where it
// was set for us.
func writeSysctl(path, value string) error {
	file := "/proc/sys/" + path
	if old, err := os.ReadFile(file); err == nil && strings.TrimSpace(string(old)) == value {
		return nil
	}
	if err := os.WriteFile(file, []byte(value), 0); err != nil {
		return fmt.Errorf("set %s to %s: %w", strings.ReplaceAll(path, "/", "."), value, err)
	}
	return nil
}
