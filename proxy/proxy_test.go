package proxy

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"github.com/reevehq/reeve/internal/testns"
)

const clusterIP = "10.96.0.50"

func TestServiceSpreadsOverItsEndpointsAndHairpins(t *testing.T) {
	each(t, func(t *testing.T, flavor string) {
		w := newWorld(t, 4, flavor)
		w.service("web", clusterIP, nodePorts)
		w.endpoints("web", 0, 1, 2)
		w.run(nil)
		w.settled("default/web:dns node port")
		for _, from := range []testns.Host{w.node, w.pods[3], w.pods[0], w.outside} {
			for _, network := range []string{"tcp", "udp"} {
				target := map[string]string{"tcp": clusterIP + ":80", "udp": clusterIP + ":53"}[network]
				said := map[string]int{}
				for range 40 {
					answer, err := from.Answer(network, target)
					if err != nil {
						t.Fatalf("%s asked %s %s: %v", from, network, target, err)
					}
					said[strings.Fields(answer)[0]]++
				}
				if len(said) != 3 {
					t.Errorf("%s asked %s %s 40 times: answers of %v, want all three pods", from, network, target, said)
				}
			}
		}
		for _, from := range []testns.Host{w.node, w.pods[0], w.pods[3], w.outside} {
			for network, target := range map[string]string{"tcp": "192.0.2.1:30080", "udp": "192.0.2.1:30053"} {
				if answer, err := from.Answer(network, target); err != nil || !strings.HasPrefix(answer, "p") {
					t.Errorf("%s asked node port %s %s: %q, %v", from, network, target, answer, err)
				}
			}
		}
	})
}

func TestSourceAddressIsKeptInsideTheClusterAndMasqueradedOtherwise(t *testing.T) {
	each(t, func(t *testing.T, flavor string) {
		w := newWorld(t, 2, flavor)
		w.service("web", clusterIP, nodePorts)
		w.endpoints("web", 0)
		w.run(nil)
		w.settled("default/web:dns node port")
		w.pods[1].MustSay(t, "tcp", clusterIP+":80", "p0 "+w.ips[1].String())
		w.pods[0].MustSay(t, "tcp", clusterIP+":80", "p0 10.244.3.1") // hairpin
		w.outside.MustSay(t, "tcp", clusterIP+":80", "p0 10.244.3.1")
		w.outside.MustSay(t, "tcp", "192.0.2.1:30080", "p0 10.244.3.1")
		// Users' own marks are not ours to read or change.
		if rules := w.rules(); strings.Contains(rules, "--set-mark") || strings.Contains(rules, "--set-xmark 0x4000/0xffffffff") {
			t.Errorf("rules overwrite foreign mark bits:\n%s", rules)
		}
		if flavor == onNFTables {
			set := strings.Count(w.rules(), "mark set ")
			if bits := strings.Count(w.rules(), "mark set meta mark | 0x00004000") + strings.Count(w.rules(), "mark set meta mark ^ 0x00004000"); set == 0 || bits != set {
				t.Errorf("%d of %d changes of the mark are of our bit only:\n%s", bits, set, w.rules())
			}
		}
	})
}

func TestServiceWithoutEndpointsRejectsAtOnceAndUDPFlowMovesOn(t *testing.T) {
	each(t, func(t *testing.T, flavor string) {
		w := newWorld(t, 3, flavor)
		w.service("web", clusterIP, nodePorts)
		w.run(nil)
		w.settled("REJECT")
		for _, from := range []testns.Host{w.node, w.pods[2], w.outside} {
			for _, target := range []string{clusterIP + ":80", "192.0.2.1:30080"} {
				if from == w.outside && target == clusterIP+":80" {
					continue // no way that users have; the node's ICMP redirects use up its ICMP rate there
				}
				if _, err := from.Answer("tcp", target); err == nil || !strings.Contains(err.Error(), "refused") {
					t.Errorf("%s asked %s without endpoints: %v, want a refusal", from, target, err)
				}
			}
		}
		// One socket, one flow, for the whole life of the endpoints.
		c, err := w.pods[2].Dial("udp", clusterIP+":53")
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		say := func() string { s, _ := testns.Talk(c); return s }
		_ = say() // makes the conntrack entry that leads nowhere
		for _, pod := range []int{0, 1, 0} {
			w.endpoints("web", pod)
			want := fmt.Sprintf("p%d %s", pod, w.ips[2])
			testns.Eventually(t, "the UDP flow to reach p"+fmt.Sprint(pod), func() bool { return say() == want })
		}
		w.endpoints("web")
		testns.Eventually(t, "the UDP flow to be refused", func() bool { return say() == "" })
	})
}

func TestRestartKeepsConnectionsAndRulesAndRemovesWhatIsGone(t *testing.T) {
	each(t, func(t *testing.T, flavor string) {
		w := newWorld(t, 3, flavor)
		w.service("web", clusterIP, nodePorts)
		w.service("old", "10.96.0.51", nil)
		w.endpoints("web", 0)
		w.endpoints("old", 1)
		w.run(nil)
		w.settled("default/old:dns cluster IP")
		w.settled("default/web:dns node port")
		c, err := w.pods[2].DialFor("tcp", clusterIP+":80", testns.Patience)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		lines := bufio.NewScanner(c)
		lines.Scan() // the greeting
		echo := func() {
			t.Helper()
			_ = c.SetDeadline(time.Now().Add(testns.Patience))
			if _, err := fmt.Fprintln(c, "alive"); err != nil || !lines.Scan() || lines.Text() != "alive" {
				t.Fatalf("the connection died: %v %v", err, lines.Err())
			}
		}
		echo()
		w.stop()
		before := w.rules()
		if !strings.Contains(before, "default/web") {
			t.Fatal("the rules went with the proxy")
		}
		w.pods[2].MustSay(t, "tcp", clusterIP+":80", "p0 "+w.ips[2].String())
		echo()
		if err := w.api.CoreV1().Services("default").Delete(t.Context(), "old", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		w.run(nil)
		w.unsettled("default/old")
		echo()
		after := w.rules()
		once := []string{"-A PREROUTING -j KUBE-SERVICES", "-A POSTROUTING -j KUBE-POSTROUTING", "-A FORWARD -j KUBE-FORWARD"}
		if flavor == onNFTables {
			once = []string{"vmap @service-ips", "vmap @service-nodeports", "masquerade", "ct state invalid drop"}
		}
		if flavor == onIPVS {
			once = []string{"-A PREROUTING -j KUBE_IPVS-SERVICES", "-A POSTROUTING -j KUBE_IPVS-POSTROUTING", "-A INPUT -j KUBE_IPVS-INPUT", "-A -t 10.96.0.50:80 "}
		}
		for _, jump := range once {
			if strings.Count(after, jump) != 1 {
				t.Errorf("%d times %q after a restart", strings.Count(after, jump), jump)
			}
		}
		w.stop()
		w.cleanup()
		if left := w.rules() + testns.Sh(t, "%s", w.on("iptables-"+flavor+"-save -t mangle", "nft list tables", "iptables-save -t mangle")); strings.Contains(left, "KUBE") || strings.Contains(left, "reeve") {
			t.Errorf("left after cleanup:\n%s", left)
		}
	})
}

func TestForeignFlushIsHealed(t *testing.T) {
	each(t, func(t *testing.T, flavor string) {
		w := newWorld(t, 2, flavor)
		w.service("web", clusterIP, nil)
		w.endpoints("web", 0)
		flushes := []string{"iptables-%s -w 5 -t nat -F", "iptables-%s -w 5 -F", "iptables-%s -w 5 -t nat -D PREROUTING -j KUBE-SERVICES", "iptables-%s -w 5 -F FORWARD"}
		parts := []string{"-A PREROUTING -j KUBE-SERVICES", "-A FORWARD -j KUBE-FORWARD", "DNAT"}
		canary := 50 * time.Millisecond
		if flavor == onNFTables {
			flushes = []string{"nft flush map ip reeve-proxy endpoints-tcp-1 #%s", "nft delete element ip reeve-proxy service-ips { 10.96.0.50 . tcp . 80 } #%s",
				"nft add element ip reeve-proxy denied-ips { 10.96.0.50 . tcp . 80 : drop } #%s", "nft flush ruleset #%s", "nft delete table ip reeve-proxy #%s", "nft flush table ip reeve-proxy #%s", "nft flush chain ip reeve-proxy services #%s"}
			parts = []string{"10.96.0.50 . tcp . 80 comment", "10.96.0.50:80 : 10.244.3.10:8080", "vmap @service-ips", "jump services", "goto cluster-tcp-1", "dnat ip to"}
			canary = time.Hour // the kernel tells
		}
		if flavor == onIPVS {
			flushes = []string{"iptables -w 5 -t nat -F #%s", "iptables -w 5 -F #%s", "ipvsadm -C #%s", "ip link del reeve-ipvs0 #%s", "ipset flush reeve-services #%s"}
			parts = []string{"-A PREROUTING -j KUBE_IPVS-SERVICES", "-A INPUT -j KUBE_IPVS-INPUT", "-r 10.244.3.10:8080", "default/web:dns cluster IP", "add reeve-services 10.96.0.50,tcp:80"}
		}
		w.run(func(c *Config) { c.CanaryPeriod = canary })
		w.settled("default/web:dns cluster IP")
		for _, flush := range flushes {
			testns.Sh(t, flush, flavor)
			testns.Eventually(t, "the rules after "+flush, func() bool {
				r := w.rules()
				return !slices.ContainsFunc(parts, func(p string) bool { return !strings.Contains(r, p) }) && !strings.Contains(r, ": drop")
			})
			w.pods[1].MustSay(t, "tcp", clusterIP+":80", "p0 "+w.ips[1].String())
		}
	})
}

// holdXtablesLock takes the lock as a firewall manager does while it reloads; the answered function lets it go.
func holdXtablesLock(t *testing.T) func() {
	t.Helper()
	f, err := os.OpenFile("/run/xtables.lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	release := sync.OnceFunc(func() { f.Close() })
	t.Cleanup(release)
	return release
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	r, err := http.Get(url)
	if err != nil {
		return 0, err.Error()
	}
	defer r.Body.Close()
	body, _ := io.ReadAll(r.Body)
	return r.StatusCode, string(body)
}

// Marks that users put on packets pass a Service unchanged, masqueraded or not, but for our one bit.
func TestUsersMarksSurvive(t *testing.T) {
	eachOf(t, []string{"nft", "legacy", onNFTables}, func(t *testing.T, flavor string) {
		w := newWorld(t, 2, flavor)
		w.service("web", clusterIP, nodePorts)
		w.endpoints("web", 0)
		w.run(nil)
		w.settled("default/web:dns node port")
		// Everything but our bit, before our rules and checked after them.
		testns.Sh(t, `nft -f - <<'EOF'
table ip user {
	chain in { type filter hook prerouting priority -200; meta mark set 0xffffbfff; }
	chain local { type filter hook output priority -200; meta mark set meta mark or 0xffffbfff; }
	chain out { type filter hook postrouting priority 300; oifname "vp*" jump check; }
	chain check { meta mark 0xffffbfff counter return; counter comment "changed"; }
}
EOF`)
		t.Cleanup(func() { testns.Sh(t, "nft delete table ip user") })
		w.pods[1].MustSay(t, "tcp", clusterIP+":80", "p0 "+w.ips[1].String())
		w.pods[0].MustSay(t, "tcp", clusterIP+":80", "p0 10.244.3.1")
		w.outside.MustSay(t, "udp", "192.0.2.1:30053", "p0 10.244.3.1")
		w.node.MustSay(t, "tcp", clusterIP+":80", "p0 10.244.3.1")
		got := testns.Sh(t, "nft list chain ip user check")
		if strings.Contains(got, "0xffffbfff counter packets 0 ") || !strings.Contains(got, `counter packets 0 bytes 0 comment "changed"`) {
			t.Errorf("users' marks were changed:\n%s", got)
		}
	})
}

func TestHealthAndMetrics(t *testing.T) {
	eachOf(t, []string{"nft", onNFTables}, func(t *testing.T, flavor string) {
		w := newWorld(t, 1, flavor)
		w.service("web", clusterIP, func(s *corev1.ServiceSpec) {
			nodePorts(s)
			s.Type, s.HealthCheckNodePort = corev1.ServiceTypeLoadBalancer, 31000
			s.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
		})
		w.endpoints("web", 0)
		w.run(func(c *Config) { c.Profiling = true })
		w.settled("default/web:dns node port")
		for _, c := range []struct {
			url  string
			code int
			body string
		}{
			{"http://127.0.0.1:10249/proxyMode", 200, w.on("iptables", "nftables", "ipvs")},
			{"http://127.0.0.1:10249/healthz", 200, "ok"},
			{"http://127.0.0.1:10249/metrics", 200, "kubeproxy_sync_proxy_rules_duration_seconds_count"},
			{"http://127.0.0.1:10249/debug/pprof/", 200, "goroutine"},
			{"http://127.0.0.1:10256/healthz", 200, `"nodeEligible":true`},
			{"http://127.0.0.1:10256/livez", 200, "lastUpdated"},
			{"http://127.0.0.1:31000/", 200, `"localEndpoints":1`},
		} {
			// The rules are there a moment before they are counted.
			testns.Eventually(t, fmt.Sprintf("%s to answer %d with %q", c.url, c.code, c.body), func() bool {
				code, body := get(t, c.url)
				return code == c.code && strings.Contains(body, c.body)
			})
		}
		w.endpoints("web")
		testns.Eventually(t, "the health check port to fail", func() bool { code, _ := get(t, "http://127.0.0.1:31000/"); return code == 503 })
		node, _ := w.api.CoreV1().Nodes().Get(t.Context(), "here", metav1.GetOptions{})
		node.Spec.Taints = []corev1.Taint{{Key: toBeDeletedTaint, Effect: corev1.TaintEffectNoSchedule}}
		if _, err := w.api.CoreV1().Nodes().Update(t.Context(), node, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		testns.Eventually(t, "/healthz to fail on a node that goes", func() bool { code, _ := get(t, "http://127.0.0.1:10256/healthz"); return code == 503 })
		if code, _ := get(t, "http://127.0.0.1:10256/livez"); code != 200 {
			t.Errorf("/livez: %d", code)
		}
	})
}

func TestRunStopsEverythingItStarted(t *testing.T) {
	eachOf(t, []string{"nft", onNFTables}, func(t *testing.T, flavor string) {
		ignore := goleak.IgnoreCurrent()
		w := newWorld(t, 0, flavor)
		w.run(nil)
		w.settled(w.on("KUBE-SERVICES", "chain services", "-A INPUT -j KUBE_IPVS-INPUT"))
		w.stop()
		w.cleanup()
		goleak.VerifyNone(t, ignore, goleak.IgnoreAnyFunction("k8s.io/apimachinery/pkg/watch.(*Broadcaster).loop"))
	})
}

func TestWrongConfigurationNamesEveryField(t *testing.T) {
	bit := 40
	err := Run(t.Context(), Config{
		Mode: "userspace", MasqueradeBit: &bit, ChainPrefix: "lower", HealthzAddress: "10256",
		ClusterCIDRs: make([]netip.Prefix, 1), NodePortAddresses: make([]netip.Prefix, 2),
	})
	if err == nil {
		t.Fatal("accepted")
	}
	for _, field := range []string{"Client", "NodeName", "Mode", "MasqueradeBit", "ChainPrefix", "HealthzAddress", "ClusterCIDRs[0]", "NodePortAddresses[1]", "10.244.0.0/16"} {
		if !strings.Contains(err.Error(), field) {
			t.Errorf("%v does not name %s", err, field)
		}
	}
}

// Changing modes: the rules of the mode before go once the new ones are in, and open connections live on.
func TestModeSwitchKeepsConnectionsAndRemovesTheOtherModesRules(t *testing.T) {
	eachOf(t, []string{"nft", "legacy"}, func(t *testing.T, flavor string) {
		w := newWorld(t, 3, flavor)
		w.service("web", clusterIP, nodePorts)
		w.endpoints("web", 0, 1)
		w.run(nil)
		w.settled("default/web:dns node port")
		c, err := w.pods[2].DialFor("tcp", clusterIP+":80", testns.Patience)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		lines := bufio.NewScanner(c)
		lines.Scan() // the greeting
		everything := func() string {
			return testns.Sh(t, "iptables-%s-save; nft list tables", flavor)
		}
		for _, step := range []struct {
			mode       Mode
			has, lacks string
		}{{ModeNFTables, "ip reeve-proxy", "-j KUBE-"}, {ModeIPTables, "KUBE-SERVICES", "reeve-proxy"}, {ModeNFTables, "ip reeve-proxy", "-j KUBE-"}} {
			w.stop()
			w.run(func(c *Config) { c.Mode = step.mode })
			testns.Eventually(t, "the rules of "+string(step.mode)+" only", func() bool {
				all := everything()
				return strings.Contains(all, step.has) && !strings.Contains(all, step.lacks)
			})
			_ = c.SetDeadline(time.Now().Add(testns.Patience))
			if _, err := fmt.Fprintln(c, "alive"); err != nil || !lines.Scan() || lines.Text() != "alive" {
				t.Fatalf("the connection died on the way to %s: %v %v", step.mode, err, lines.Err())
			}
			for _, from := range []testns.Host{w.pods[2], w.node} {
				if s, err := from.Answer("tcp", clusterIP+":80"); err != nil || !strings.HasPrefix(s, "p") {
					t.Errorf("%s in mode %s: %q, %v", from, step.mode, s, err)
				}
			}
			if s, err := w.outside.Answer("tcp", "192.0.2.1:30080"); err != nil || !strings.HasPrefix(s, "p") {
				t.Errorf("outside in mode %s: %q, %v", step.mode, s, err)
			}
		}
	})
}
