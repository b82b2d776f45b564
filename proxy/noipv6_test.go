package proxy

import (
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/reevehq/reeve/internal/testns"
)

// lines are those that hold one of the words.
func (s *said) lines(words ...string) (out []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for line := range strings.Lines(s.all.String()) {
		for _, w := range words {
			if strings.Contains(line, w) {
				out = append(out, line)
				break
			}
		}
	}
	return out
}

// A kernel started with ipv6.disable=1, which has no IPv6 sockets: dual-stack Services are served in IPv4 in every mode,
// with their changes, node ports and health checks; what is not served is said once, and where the node has no IPv6
// address nothing is said at all. tests/vm has such a kernel.
func TestKernelWithoutIPv6(t *testing.T) {
	if os.Getenv("REEVE_NO_IPV6") != "1" {
		t.Skip("runs in a virtual machine whose kernel has no IPv6, by tests/vm")
	}
	if _, err := os.Stat("/proc/net/if_inet6"); err == nil {
		t.Fatal("this kernel has IPv6")
	}
	for _, flavor := range []string{onNFTables, "nft", "legacy", onIPVS} {
		for _, address := range []string{"2001:db8::1", ""} {
			name := flavor + " with an address"
			if address == "" {
				name = flavor + " without"
			}
			t.Run(name, func(t *testing.T) { withoutIPv6(t, flavor, address) })
		}
	}
}

func withoutIPv6(t *testing.T, flavor, address string) {
	w := newWorld(t, 3, flavor)
	w.service("web", clusterIP, func(s *corev1.ServiceSpec) {
		nodePorts(s)
		s.ClusterIPs = []string{clusterIP, "fd00:10:96::50"}
		s.IPFamilies = []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}
	})
	w.service("local", "10.96.0.51", func(s *corev1.ServiceSpec) {
		s.Type, s.ExternalTrafficPolicy, s.HealthCheckNodePort = corev1.ServiceTypeLoadBalancer, corev1.ServiceExternalTrafficPolicyLocal, 32000
	})
	w.endpoints("web", 0)
	w.endpoints("local", 1)
	var log said
	w.run(func(c *Config) {
		if address != "" {
			c.NodeIPs = append(c.NodeIPs, netip.MustParseAddr(address))
		}
		c.Logger = slog.New(slog.NewTextHandler(&log, nil))
	})
	w.settled("default/web:dns cluster IP")
	w.settled("default/local:dns cluster IP")
	tells(t, 200)
	testns.Eventually(t, "the health check node port", func() bool {
		code, _ := get(t, "http://192.0.2.1:32000/healthz")
		return code == 200
	})
	for _, network := range []string{"tcp", "udp"} {
		port, nodePort := ":80", ":30080"
		if network == "udp" {
			port, nodePort = ":53", ":30053"
		}
		w.pods[2].MustSay(t, network, clusterIP+port, "p0 "+w.ips[2].String())
		w.outside.MustSay(t, network, "192.0.2.1"+nodePort, "p0 10.244.3.1")
		w.pods[2].MustSay(t, network, "10.96.0.51"+port, "p1 "+w.ips[2].String())
	}
	w.endpoints("web", 1)
	for network, port := range map[string]string{"tcp": ":80", "udp": ":53"} { // IPVS's come one by one
		testns.Eventually(t, "the change for "+network, func() bool {
			answer, _ := w.pods[2].Ask(network, clusterIP+port)
			return strings.HasPrefix(answer, "p1 ")
		})
	}
	w.endpoints("local")
	testns.Eventually(t, "the health check node port to tell", func() bool {
		code, _ := get(t, "http://192.0.2.1:32000/healthz")
		return code == 503
	})
	tells(t, 200)
	named := 0
	if address != "" {
		w.event("IPFamilyNotProxied", "here", "no IPv6", "ipv6.disable=0")
		named = 1
	}
	if troubles := log.lines("level=WARN", "level=ERROR", "ailed"); len(troubles) != named {
		t.Errorf("%d warnings, want %d:\n%s", len(troubles), named, strings.Join(troubles, ""))
	}
}
