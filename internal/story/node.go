package story

import (
	"fmt"
	"net/netip"
	"strings"

	"sigs.k8s.io/yaml"
)

// The scene of every story. The node is called "here" and lies in zone "a".
//
//	outside 192.0.2.2, other 192.0.2.130 ── up0 192.0.2.1 node 203.0.113.1 (on lo) ── vp0… pods 10.244.3.10 to .12, pod 10.244.3.20
//	                                              └── vthere ── another node 192.0.2.9 with pods 10.244.4.10 and .11
//
// In IPv6 2001:db8::1, ::2 and ::130, and fd00:10:244:3::10 to ::12 and ::20, fd00:10:244:4::10 and ::11. All pods serve on
// port 8080.
var (
	NodeAddrs  = addrs("192.0.2.1 203.0.113.1 127.0.0.1 10.244.3.1 2001:db8::1 ::1 fd00:10:244:3::1")
	LocalPods  = addrs("10.244.3.10 10.244.3.11 10.244.3.12 fd00:10:244:3::10 fd00:10:244:3::11 fd00:10:244:3::12")
	RemotePods = addrs("10.244.4.10 10.244.4.11 192.0.2.9 fd00:10:244:4::10 fd00:10:244:4::11")
)

// UplinkInterface and PodInterface are where packets come in on the node: from outside, and from a pod (its beginning).
const (
	UplinkInterface = "up0"
	PodInterface    = "vp"
)

func addrs(list string) []netip.Addr {
	var out []netip.Addr
	for _, s := range strings.Fields(list) {
		out = append(out, netip.MustParseAddr(s))
	}
	return out
}

// Source is the address that a sender has in a family.
func Source(from string, six bool) (netip.Addr, error) {
	names := map[string][2]string{
		"node": {"192.0.2.1", "2001:db8::1"}, "pod": {"10.244.3.20", "fd00:10:244:3::20"},
		"outside": {"192.0.2.2", "2001:db8::2"}, "other": {"192.0.2.130", "2001:db8::130"},
	}
	if a, ok := names[from]; ok {
		if six {
			return netip.MustParseAddr(a[1]), nil
		}
		return netip.MustParseAddr(a[0]), nil
	}
	a, err := netip.ParseAddr(from)
	if err != nil {
		return a, fmt.Errorf("nobody is called %q", from)
	}
	return a, nil
}

// Interface is where a sender's packets come in on the node; empty for its own.
func Interface(from string) string {
	switch from {
	case "node":
		return ""
	case "outside", "other":
		return UplinkInterface
	}
	return PodInterface + "0"
}

// Node is what the operator chose for the node. ClusterCIDRs default to the pods' ranges.
type Node struct {
	ClusterCIDRs           []netip.Prefix `json:"clusterCIDRs"`
	NodePortAddresses      []netip.Prefix `json:"nodePortAddresses"`
	LocalhostNodePorts     bool           `json:"localhostNodePorts"`
	MasqueradeAll          bool           `json:"masqueradeAll"`
	LocalInterface         string         `json:"localInterface"`
	LocalInterfaceIsPrefix bool           `json:"localInterfaceIsPrefix"`

	saidCIDRs bool
}

func (n *Node) read(data []byte) error {
	n.saidCIDRs = strings.Contains(string(data), "clusterCIDRs")
	return yaml.UnmarshalStrict(data, n)
}

// CIDRs are the pods' ranges that the proxy is told.
func (n Node) CIDRs() []netip.Prefix {
	if n.saidCIDRs {
		return n.ClusterCIDRs
	}
	return []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16"), netip.MustParsePrefix("fd00:10:244::/48")}
}
