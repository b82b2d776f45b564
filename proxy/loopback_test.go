package proxy

import (
	"strings"
	"testing"
	"time"

	"github.com/reevehq/reeve/internal/testns"
)

func TestNodePortsOnLoopbackOnlyWhenAskedAndNeverForNeighbours(t *testing.T) {
	eachOf(t, []string{"nft", onNFTables}, func(t *testing.T, flavor string) {
		w := newWorld(t, 1, flavor)
		w.service("web", clusterIP, nodePorts)
		w.endpoints("web", 0)
		w.run(nil)
		w.settled("default/web:dns node port")
		routes := func() bool {
			n, err := readSysctl(routeLocalnet)
			if err != nil {
				t.Fatal(err)
			}
			return n == 1
		}
		if said, err := w.node.Ask("tcp", "127.0.0.1:30080"); err == nil || routes() {
			t.Errorf("loopback answered %q by default, route_localnet %v", said, routes())
		}
		w.stop()
		w.run(func(c *Config) { c.LocalhostNodePorts = true })
		testns.Eventually(t, "an answer on loopback", func() bool { _, err := w.node.Ask("tcp", "127.0.0.1:30080"); return err == nil })
		w.node.MustSay(t, "tcp", "127.0.0.1:30080", "p0 10.244.3.1")
		w.node.MustSay(t, "udp", "127.0.0.1:30053", "p0 10.244.3.1")

		// A neighbour that routes loopback addresses to the node, and one that claims to be the node's loopback.
		w.node.Serve(t, "secret", "127.0.0.1:9000")
		w.node.Serve(t, "open", "192.0.2.1:9001")
		w.outside.MustSay(t, "tcp", "192.0.2.1:9001", "open 192.0.2.2")
		testns.Sh(t, `ip netns exec outside sh -c 'echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet; echo 0 > /proc/sys/net/ipv4/conf/all/rp_filter'
			ip -n outside addr del 127.0.0.1/8 dev lo; ip -n outside route add 127.0.0.1 via 192.0.2.1 src 192.0.2.2`)
		for _, target := range []string{"127.0.0.1:9000", "127.0.0.1:30080"} {
			for _, network := range []string{"tcp", "udp"} {
				if said, err := w.outside.Ask(network, target); err == nil {
					t.Errorf("a neighbour reached %s %s on the node's loopback: %q", network, target, said)
				}
			}
		}
		counter := w.on("iptables-"+flavor+" -t mangle -nvxL KUBE-FIREWALL", "nft list chain ip reeve-proxy filter-prerouting")
		testns.Sh(t, "%s >/dev/null", counter)
		testns.Sh(t, `nft add table ip spoofed; nft 'add chain ip spoofed in { type filter hook input priority 10; }'; nft add rule ip spoofed in iifname up0 ip saddr 127.0.0.0/8 counter`)
		t.Cleanup(func() { testns.Sh(t, "nft delete table ip spoofed") })
		testns.Sh(t, "ip -n outside route del 127.0.0.1; ip -n outside addr add 127.0.0.9/32 dev eth0; ip -n outside route add 192.0.2.1 dev eth0 src 127.0.0.9")
		if said, err := w.outside.Ask("udp", "192.0.2.1:9001"); err == nil {
			t.Errorf("a neighbour that claims to be 127.0.0.9 was answered %q", said)
		}
		if got := testns.Sh(t, "nft list table ip spoofed"); !strings.Contains(got, "counter packets 0 ") {
			t.Errorf("packets with a loopback source came in from a neighbour:\n%s", got)
		}

		// Switched off again, the parameter is closed before the rules that guarded it go.
		w.stop()
		if !routes() {
			t.Error("route_localnet went with the proxy")
		}
		w.run(nil)
		testns.Eventually(t, "route_localnet off", func() bool { return !routes() })
		w.stop()
		w.run(func(c *Config) { c.LocalhostNodePorts = true })
		testns.Eventually(t, "route_localnet on", routes)
		w.stop()
		w.cleanup()
		if routes() {
			t.Error("route_localnet was left on by cleanup")
		}
	})
}

// The loopback is not opened before the rules that guard it are in.
func TestLoopbackIsOpenedOnlyBehindItsGuard(t *testing.T) {
	w := newWorld(t, 0, "legacy")
	lock := holdXtablesLock(t)
	w.run(func(c *Config) { c.LocalhostNodePorts = true })
	code := func() int { c, _ := get(t, "http://127.0.0.1:10256/healthz"); return c }
	testns.Eventually(t, "the health endpoint", func() bool { return code() != 0 })
	for end := time.Now().Add(time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if n, err := readSysctl(routeLocalnet); err != nil || n != 0 {
			t.Fatalf("route_localnet %d, %v while no rule could be written", n, err)
		}
	}
	lock()
	testns.Eventually(t, "route_localnet on", func() bool { n, _ := readSysctl(routeLocalnet); return n == 1 })
	if rules := testns.Sh(t, "iptables-legacy-save -t mangle"); !strings.Contains(rules, "-A KUBE-FIREWALL -d 127.0.0.0/8 ! -i lo -j DROP") {
		t.Error(rules)
	}
}
