package ipvs

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/moby/ipvs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/reevehq/reeve/internal/xtables"
	"github.com/reevehq/reeve/proxy/plan"
)

// Kernel is one family's IPVS, routes, ipsets and iptables, in the network namespace of the thread that opened it. Not
// safe for concurrent use.
type Kernel struct {
	*xtables.Handle
	family plan.Family
	vs     *ipvs.Handle
	nl     *netlink.Handle
	sets   setConn
	device int // Device's index as it was last seen; 0: not there
}

// Close frees its sockets.
func (k *Kernel) Close() {
	k.vs.Close()
	k.sets.sock.Close()
	k.nl.Close()
}

// SetTimeouts ends connections that are idle for so long; 0 leaves the kernel's value. They are the same for both families.
func (k *Kernel) SetTimeouts(tcp, tcpFin, udp time.Duration) error {
	if tcp == 0 && tcpFin == 0 && udp == 0 {
		return nil
	}
	if err := k.vs.SetConfig(&ipvs.Config{TimeoutTCP: tcp, TimeoutTCPFin: tcpFin, TimeoutUDP: udp}); err != nil {
		return fmt.Errorf("set IPVS's timeouts: %w", err)
	}
	return nil
}

func (k *Kernel) af() int {
	if k.family == plan.IPv6 {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

func toAddr(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}

// Host implements kernel.
func (k *Kernel) Host() ([]netip.Addr, error) {
	ours := -1
	if l, err := k.nl.LinkByName(Device); err == nil {
		ours = l.Attrs().Index
	}
	addrs, err := k.nl.AddrList(nil, k.af())
	if err != nil {
		return nil, fmt.Errorf("list the node's addresses: %w", err)
	}
	var out []netip.Addr
	for _, a := range addrs {
		if a.LinkIndex != ours && a.IPNet != nil {
			out = append(out, toAddr(a.IP))
		}
	}
	slices.SortFunc(out, netip.Addr.Compare)
	return slices.Compact(out), nil
}

// HasDevice implements kernel.
func (k *Kernel) HasDevice() (bool, error) {
	l, err := k.nl.LinkByName(Device)
	var missing netlink.LinkNotFoundError
	k.device = 0
	if errors.As(err, &missing) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for device %s: %w", Device, err)
	}
	k.device = l.Attrs().Index
	return l.Attrs().Flags&net.FlagUp != 0, nil
}

// EnsureDevice implements kernel.
func (k *Kernel) EnsureDevice() error {
	up, err := k.HasDevice()
	if err != nil {
		return err
	}
	if !up {
		link := &netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Name: Device}}
		if err := k.nl.LinkAdd(link); err != nil && !errors.Is(err, unix.EEXIST) {
			if errors.Is(err, unix.EOPNOTSUPP) {
				return fmt.Errorf("create device %s: %w: this kernel has no module dummy, which ipvs mode needs", Device, err)
			}
			return fmt.Errorf("create device %s: %w", Device, err)
		}
		if err := k.nl.LinkSetUp(link); err != nil {
			return fmt.Errorf("set device %s up: %w", Device, err)
		}
		k.device = 0
	}
	if k.family == plan.IPv6 {
		return takeIPv6()
	}
	return nil
}

// takeIPv6 lets the device take routes on a host that has IPv6 switched off (sysctl disable_ipv6): they lead to nobody
// there, and a Service with addresses of both families is programmed as everywhere. It gets no address by that.
func takeIPv6() error {
	conf := "/proc/sys/net/ipv6/conf/" + Device + "/"
	off, err := os.ReadFile(conf + "disable_ipv6")
	if err == nil && strings.TrimSpace(string(off)) == "1" {
		const none = "1" // IN6_ADDR_GEN_MODE_NONE
		if err = os.WriteFile(conf+"addr_gen_mode", []byte(none), 0); err == nil {
			err = os.WriteFile(conf+"disable_ipv6", []byte("0"), 0)
		}
	}
	if err != nil {
		return fmt.Errorf("let device %s take IPv6 routes: %w", Device, err)
	}
	return nil
}

// index is Device's. One that is another's by now refuses routes, and all is written anew.
func (k *Kernel) index() (int, error) {
	if k.device == 0 {
		l, err := k.nl.LinkByName(Device)
		if err != nil {
			return 0, fmt.Errorf("look for device %s: %w", Device, err)
		}
		k.device = l.Attrs().Index
	}
	return k.device, nil
}

// Routes implements kernel.
func (k *Kernel) Routes() (map[netip.Addr]struct{}, error) {
	index, err := k.index()
	if err != nil {
		return nil, err
	}
	routes, err := k.nl.RouteListFiltered(k.af(), &netlink.Route{LinkIndex: index, Table: unix.RT_TABLE_LOCAL, Protocol: routeProtocol},
		netlink.RT_FILTER_OIF|netlink.RT_FILTER_TABLE|netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		return nil, fmt.Errorf("list the addresses on %s: %w", Device, err)
	}
	out := make(map[netip.Addr]struct{}, len(routes))
	for _, r := range routes {
		if r.Type == unix.RTN_LOCAL && r.Dst != nil {
			out[toAddr(r.Dst.IP)] = struct{}{}
		}
	}
	return out, nil
}

// routeProtocol marks our routes (an unassigned number of rtnetlink(7)'s).
const routeProtocol = 0x52

// route makes an address local to the node. It is what adding the address to the device does, without the list of a
// device's addresses, which the kernel searches from its start each time.
func (k *Kernel) route(a netip.Addr) (*netlink.Route, error) {
	index, err := k.index()
	return &netlink.Route{
		LinkIndex: index, Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL, Protocol: routeProtocol, Scope: netlink.SCOPE_HOST,
		Dst: &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())},
	}, err
}

// AddRoute implements kernel.
func (k *Kernel) AddRoute(a netip.Addr) error {
	r, err := k.route(a)
	if err == nil {
		err = k.nl.RouteReplace(r)
	}
	if err != nil {
		return fmt.Errorf("put address %s on %s: %w", a, Device, err)
	}
	return nil
}

// DeleteRoute implements kernel.
func (k *Kernel) DeleteRoute(a netip.Addr) error {
	r, err := k.route(a)
	if err == nil {
		err = k.nl.RouteDel(r)
	}
	if err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("take address %s from %s: %w", a, Device, err)
	}
	return nil
}

func (k *Kernel) service(at frontend) *ipvs.Service {
	s := &ipvs.Service{AddressFamily: uint16(k.af()), Address: at.addr.AsSlice(), Port: at.port, Protocol: uint16(at.proto), Netmask: 0xffffffff}
	if k.family == plan.IPv6 {
		s.Netmask = 128
	}
	return s
}

func (k *Kernel) configured(at frontend, want *known) *ipvs.Service {
	s := k.service(at)
	s.SchedName, s.Flags, s.Timeout = want.scheduler, want.flags, want.affinity
	return s
}

// Virtuals implements kernel. It answers everybody's.
func (k *Kernel) Virtuals() (map[frontend]*known, error) {
	all, err := k.vs.GetServices()
	if err != nil {
		return nil, fmt.Errorf("list virtual services: %w", err)
	}
	out := make(map[frontend]*known, len(all))
	for _, s := range all {
		if int(s.AddressFamily) != k.af() || s.FWMark != 0 {
			continue
		}
		at := frontend{toAddr(s.Address), s.Port, uint8(s.Protocol)}
		v := &known{virtual: true, scheduler: s.SchedName, flags: s.Flags & flagsOurs}
		if v.flags&flagPersistent != 0 {
			v.affinity = s.Timeout
		}
		dests, err := k.vs.GetDestinations(s)
		if err != nil {
			return nil, fmt.Errorf("list the servers of virtual service %s: %w", at, err)
		}
		for _, d := range dests {
			v.reals = append(v.reals, real{netip.AddrPortFrom(toAddr(d.Address), d.Port), d.Weight == 0})
		}
		slices.SortFunc(v.reals, func(a, b real) int { return a.at.Compare(b.at) })
		out[at] = v
	}
	return out, nil
}

// HasVirtual implements kernel.
func (k *Kernel) HasVirtual(at frontend) bool { return k.vs.IsServicePresent(k.service(at)) }

// NewVirtual implements kernel.
func (k *Kernel) NewVirtual(at frontend, want *known) error {
	err := k.vs.NewService(k.configured(at, want))
	if errors.Is(err, unix.EEXIST) {
		return k.SetVirtual(at, want)
	}
	return k.explain(err, want)
}

// SetVirtual implements kernel.
func (k *Kernel) SetVirtual(at frontend, want *known) error {
	return k.explain(k.vs.UpdateService(k.configured(at, want)), want)
}

func (k *Kernel) explain(err error, want *known) error {
	if errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("%w: this kernel has no module ip_vs_%s, the scheduler", err, want.scheduler)
	}
	return err
}

// DeleteVirtual implements kernel.
func (k *Kernel) DeleteVirtual(at frontend) error {
	if err := k.vs.DelService(k.service(at)); err != nil && !errors.Is(err, unix.ESRCH) {
		return err
	}
	return nil
}

// ChangeReal implements kernel.
func (k *Kernel) ChangeReal(at frontend, c realChange) error {
	s := k.service(at)
	d := &ipvs.Destination{Address: c.at.Addr().AsSlice(), Port: c.at.Port(), AddressFamily: uint16(k.af()), Weight: 1, ConnectionFlags: ipvs.ConnFwdMasq}
	switch c.what {
	case realNew:
		err := k.vs.NewDestination(s, d)
		if errors.Is(err, unix.EEXIST) {
			return k.vs.UpdateDestination(s, d)
		}
		return err
	case realServe:
		return k.vs.UpdateDestination(s, d)
	case realDrain:
		d.Weight = 0
		if err := k.vs.UpdateDestination(s, d); err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
		return nil
	default:
		if err := k.vs.DelDestination(s, d); err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
		return nil
	}
}

// Idle implements kernel.
func (k *Kernel) Idle(at frontend) ([]netip.AddrPort, error) {
	dests, err := k.vs.GetDestinations(k.service(at))
	if err != nil {
		return nil, err
	}
	var out []netip.AddrPort
	for _, d := range dests {
		if d.Weight == 0 && d.ActiveConnections+d.InactiveConnections == 0 {
			out = append(out, netip.AddrPortFrom(toAddr(d.Address), d.Port))
		}
	}
	return out, nil
}

var _ kernel = (*Kernel)(nil)
