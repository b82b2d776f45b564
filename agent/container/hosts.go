package container

import (
	"fmt"
	"net/netip"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// Hosts renders the pod's /etc/hosts. With the host's network it is the node's file (nodeHosts) plus the aliases.
func Hosts(pod *v1.Pod, podIPs []netip.Addr, hostname, hostDomain string, nodeHosts []byte) []byte {
	var b strings.Builder
	if pod.Spec.HostNetwork {
		b.WriteString("# Kubernetes-managed hosts file (host network).\n")
		b.Write(nodeHosts)
	} else {
		b.WriteString("# Kubernetes-managed hosts file.\n" +
			"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n" +
			"fe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\nfe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n")
		short := hostname
		if hostDomain != "" {
			short = strings.TrimSuffix(hostname, "."+hostDomain)
		}
		for _, ip := range podIPs {
			if hostDomain != "" {
				fmt.Fprintf(&b, "%s\t%s.%s\t%s\n", ip, short, hostDomain, short)
			} else {
				fmt.Fprintf(&b, "%s\t%s\n", ip, hostname)
			}
		}
	}
	if len(pod.Spec.HostAliases) > 0 {
		b.WriteString("\n# Entries added by HostAliases.\n")
		for _, a := range pod.Spec.HostAliases {
			fmt.Fprintf(&b, "%s\t%s\n", a.IP, strings.Join(a.Hostnames, "\t"))
		}
	}
	return []byte(b.String())
}
