package proxy

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/reevehq/reeve/internal/testns"
)

// host is a firewall of somebody else that drops what it does not know.
type host struct {
	name     string
	up, down string
	// open makes it drop by default no more.
	open string
	// flush takes our accept rules out, as its owner does when it reloads.
	flush string
	input bool // it guards incoming packets too
}

var droppingHosts = []host{
	{
		name: "iptables FORWARD DROP",
		up:   "iptables-nft -P FORWARD DROP", open: "iptables-nft -P FORWARD ACCEPT",
		flush: "iptables-nft -F FORWARD", down: "iptables-nft -P FORWARD ACCEPT; nft delete table ip filter",
	},
	{
		name: "iptables-legacy FORWARD and INPUT",
		up:   "iptables-legacy -P FORWARD DROP; iptables-legacy -A INPUT -i lo -j ACCEPT; iptables-legacy -A INPUT -j REJECT",
		open: "iptables-legacy -P FORWARD ACCEPT; iptables-legacy -F INPUT", flush: "iptables-legacy -F FORWARD",
		down: "iptables-legacy -P FORWARD ACCEPT; iptables-legacy -F INPUT", input: true,
	},
	{
		name: "Docker",
		up: "iptables-nft -N DOCKER-USER; iptables-nft -A DOCKER-USER -j RETURN; iptables-nft -A FORWARD -j DOCKER-USER; iptables-nft -N DOCKER; " +
			"iptables-nft -A FORWARD -j DOCKER; iptables-nft -A DOCKER -i up0 -j DROP; iptables-nft -P FORWARD DROP",
		open: "iptables-nft -P FORWARD ACCEPT; iptables-nft -F DOCKER", flush: "iptables-nft -F DOCKER-USER",
		down: "iptables-nft -P FORWARD ACCEPT; iptables-nft -F FORWARD; iptables-nft -F DOCKER-USER; iptables-nft -X DOCKER-USER; iptables-nft -F DOCKER; iptables-nft -X DOCKER",
	},
	{
		name: "an inet table with policy drop",
		up: `nft -f - <<'EOF'
table inet host {
	chain in { type filter hook input priority 0; policy drop; iif lo accept; ct state established accept; }
	chain ways { type filter hook forward priority 0; policy drop; tcp dport 9999 drop; }
}
EOF`,
		open:  "nft 'add chain inet host ways { policy accept; }'; nft 'add chain inet host in { policy accept; }'",
		flush: "nft flush chain inet host ways", down: "nft delete table inet host", input: true,
	},
	{
		name: "an ip table that rejects at its end",
		up: `nft -f - <<'EOF'
table ip host {
	chain in { type filter hook input priority 10; iif lo accept; ct state established accept; counter reject with icmp host-prohibited; }
	chain ways { type filter hook forward priority 10; counter log reject with icmp host-prohibited; }
}
EOF`,
		open:  "nft flush chain ip host ways; nft flush chain ip host in",
		flush: "nft flush chain ip host reeve-proxy-forward", down: "nft delete table ip host", input: true,
	},
}

// Services and pods work on hosts that drop by default, whoever drops, and our rules there are healed and go again.
func TestServicesWorkOnHostsThatDropByDefault(t *testing.T) {
	eachOf(t, []string{"nft", onNFTables}, func(t *testing.T, flavor string) {
		hosts := droppingHosts
		if flavor != onNFTables && !long() {
			hosts = hosts[3:] // the same accept rules, whatever the mode
		}
		for _, h := range hosts {
			t.Run(strings.ReplaceAll(h.name, " ", "-"), func(t *testing.T) {
				w := newWorld(t, 2, flavor)
				testns.Sh(t, "%s", h.up)
				t.Cleanup(func() { testns.Sh(t, "%s", h.down) })
				s := w.service("web", clusterIP, func(s *corev1.ServiceSpec) {
					nodePorts(s)
					s.Type, s.HealthCheckNodePort = corev1.ServiceTypeLoadBalancer, 31000
					s.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
				})
				w.endpoints("web", 0)
				w.run(func(c *Config) { c.IPTables, c.CanaryPeriod = "", 300*time.Millisecond }) // legacy tables tell nothing by themselves
				works := func() error {
					for _, ask := range []struct {
						from        testns.Host
						network, to string
					}{
						{w.pods[1], "tcp", clusterIP + ":80"}, {w.pods[1], "udp", clusterIP + ":53"}, {w.pods[0], "tcp", clusterIP + ":80"},
						{w.outside, "tcp", "192.0.2.1:30080"}, {w.node, "tcp", clusterIP + ":80"}, {w.pods[1], "tcp", w.ips[0].String() + ":8080"},
					} {
						if said, err := ask.from.Ask(ask.network, ask.to); err != nil || !strings.HasPrefix(said, "p0") {
							return fmt.Errorf("%s asked %s %s: %q, %w", ask.from, ask.network, ask.to, said, err)
						}
					}
					c, err := w.outside.Dial("tcp", "192.0.2.1:31000")
					if err != nil {
						return fmt.Errorf("the outside asked the health check node port: %w", err)
					}
					return c.Close()
				}
				eventually(t, "everything to work", works)
				// What goes without a Service and to no pod stays the host's to drop.
				if said, err := w.outside.Ask("udp", "198.51.100.99:5000"); err == nil {
					t.Errorf("the outside reached elsewhere: %q", said)
				}
				testns.Sh(t, "%s", h.flush)
				eventually(t, "everything to work after a flush", works)

				everything := func() string {
					return testns.Sh(t, "nft list ruleset 2>/dev/null; iptables-legacy-save; true")
				}
				ours := []string{"reeve-proxy-forward", "reeve-proxy-input", "KUBE-PROXY-FORWARD", "KUBE-PROXY-INPUT"}
				testns.Sh(t, "%s", h.open)
				testns.Eventually(t, "no rule of ours in a firewall that drops no more", func() bool {
					all := everything()
					for _, name := range ours {
						if strings.Contains(all, name) {
							return false
						}
					}
					return true
				})
				testns.Sh(t, "%s; %s", h.down, h.up)
				eventually(t, "everything to work when it drops again", works)
				w.stop()
				if err := Cleanup(context.Background(), CleanupConfig{}); err != nil {
					t.Error(err)
				}
				all := everything()
				for _, name := range append(ours, "KUBE-", "reeve") {
					if strings.Contains(all, name) {
						t.Errorf("%s was left by cleanup:\n%s", name, all)
					}
				}
				_ = s
			})
		}
	})
}

// A firewall that cannot be changed is named in an Event.
func TestAFirewallThatCannotBeMendedIsNamed(t *testing.T) {
	w := newWorld(t, 1, onNFTables)
	testns.Sh(t, "nft add table inet mine; nft 'add chain inet mine ways { type filter hook forward priority 0; policy drop; }'; "+
		"nft add chain inet mine reeve-proxy-forward; nft add map inet mine verdicts '{ type ipv4_addr : verdict; }'")
	// nft refuses a base chain of our chain's name to be jumped to.
	testns.Sh(t, "nft delete chain inet mine reeve-proxy-forward; nft 'add chain inet mine reeve-proxy-forward { type filter hook output priority 0; }'")
	t.Cleanup(func() { testns.Sh(t, "nft delete table inet mine") })
	w.service("web", clusterIP, nil)
	w.endpoints("web", 0)
	w.run(nil)
	testns.Eventually(t, "an Event that names the table", func() bool {
		list, err := w.api.CoreV1().Events("").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range list.Items {
			if e.Reason == "FirewallDropsServices" && strings.Contains(e.Message, "inet mine ways") && e.InvolvedObject.Name == "here" {
				return true
			}
		}
		return false
	})
}

func eventually(t testing.TB, what string, try func() error) {
	t.Helper()
	var err error
	for range 30 {
		if err = try(); err == nil {
			return
		}
	}
	t.Fatalf("waited for %s: %v", what, err)
}
