package cni

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/reevehq/reeve/internal/podnet"
)

// reachesLoopback reports that a local process may use the mapping through 127.0.0.1.
func reachesLoopback(p podnet.PortMapping) bool {
	return !p.HostIP.IsValid() || (p.HostIP.Is4() && (p.HostIP.IsUnspecified() || p.HostIP.IsLoopback()))
}

// mapsFamily reports whether the mapping exists in a family: that of its host address, or every one without.
func mapsFamily(p podnet.PortMapping, ip netip.Addr) bool {
	return !p.HostIP.IsValid() || p.HostIP.Is4() == ip.Is4()
}

// hostPortRules are the DNAT rules of one sandbox for one of its addresses.
func hostPortRules(rec *record, ip netip.Addr) []string {
	var rules []string
	for _, p := range rec.Ports {
		if !mapsFamily(p, ip) {
			continue
		}
		proto := strings.ToLower(string(p.Protocol))
		match := "-p " + proto
		if p.HostIP.IsValid() && !p.HostIP.IsUnspecified() {
			match = "-d " + p.HostIP.String() + " " + match
		} else if ip.Is6() {
			match = "! -d ::1 " + match // IPv6 has no route_localnet
		}
		rules = append(rules, fmt.Sprintf("%s --dport %d -m comment --comment %q -j DNAT --to-destination %s",
			match, p.HostPort, rec.PodNamespace+"/"+rec.PodName, netip.AddrPortFrom(ip, p.ContainerPort)))
	}
	return rules
}

// forgetHostPortFlows deletes the conntrack entries of UDP host ports: a sender that never stops would keep its old
// destination (or none) for as long as it sends.
func forgetHostPortFlows(ports []podnet.PortMapping) error {
	udp := map[uint16]bool{}
	for _, p := range ports {
		if p.Protocol == "UDP" {
			udp[p.HostPort] = true
		}
	}
	if len(udp) == 0 {
		return nil
	}
	for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
		if _, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, family, udpPorts(udp)); err != nil {
			return fmt.Errorf("delete conntrack entries of host ports: %w", err)
		}
	}
	return nil
}

type udpPorts map[uint16]bool

// MatchConntrackFlow matches flows whose original destination is one of the ports.
func (u udpPorts) MatchConntrackFlow(f *netlink.ConntrackFlow) bool {
	return f.Forward.Protocol == unix.IPPROTO_UDP && u[f.Forward.DstPort]
}

func lowerProtocol(p podnet.Protocol) string { return strings.ToLower(string(p)) }
