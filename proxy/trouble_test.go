package proxy

import (
	"bytes"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/reevehq/reeve/internal/testns"
)

// said is what the proxy logged, and for people reading the test's output too.
type said struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (s *said) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all.Write(p)
}

func (s *said) has(words ...string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for line := range strings.Lines(s.all.String()) {
		all := true
		for _, w := range words {
			all = all && strings.Contains(line, w)
		}
		if all {
			return true
		}
	}
	return false
}

// event waits for an Event that says all the words.
func (w *world) event(reason, object string, words ...string) {
	w.t.Helper()
	testns.Eventually(w.t, fmt.Sprintf("an Event %s of %s with %q", reason, object, words), func() bool {
		list, err := w.api.CoreV1().Events("").List(w.t.Context(), metav1.ListOptions{})
		if err != nil {
			w.t.Fatal(err)
		}
		for _, e := range list.Items {
			all := e.Reason == reason && e.InvolvedObject.Name == object
			for _, word := range words {
				all = all && strings.Contains(e.Message, word)
			}
			if all {
				return true
			}
		}
		return false
	})
}

// tells waits for an answer of both health endpoints.
func tells(t *testing.T, code int) {
	t.Helper()
	for _, path := range []string{"healthz", "livez"} {
		testns.Eventually(t, fmt.Sprintf("%d from /%s", code, path), func() bool {
			got, _ := get(t, "http://127.0.0.1:10256/"+path)
			return got == code
		})
	}
}

// A lock that a firewall manager holds: the health endpoints tell, the log names it, and once it is free Services work.
func TestHeldLockIsToldAndOutlasted(t *testing.T) {
	w := newWorld(t, 2, "legacy")
	patience := healthTimeout
	healthTimeout = 500 * time.Millisecond
	t.Cleanup(func() { healthTimeout = patience })
	var log said
	w.service("web", clusterIP, nil)
	w.endpoints("web", 0)
	w.run(func(c *Config) { c.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
	w.settled("default/web:dns cluster IP")
	tells(t, 200)
	unlock := holdXtablesLock(t)
	w.endpoints("web", 1)
	tells(t, 503)
	if long() { // the commands wait for 5 s before they give up
		testns.Eventually(t, "the lock to be named", func() bool { return log.has("Failed to program Services", "lock") })
	}
	unlock()
	tells(t, 200)
	w.pods[0].MustSay(t, "tcp", clusterIP+":80", "p1 "+w.ips[0].String())
}

// An IPv6 address on a host without ip6tables: the node's Event names what is missing, and IPv4 is served all the same.
func TestIPv6WithoutItsCommandsIsNamed(t *testing.T) {
	w := newWorld(t, 2, "nft")
	dir := t.TempDir()
	testns.Sh(t, "for c in iptables-nft iptables-nft-save iptables-nft-restore nft conntrack; do ln -s $(command -v $c) %s/; done", dir)
	w.service("web", clusterIP, func(s *corev1.ServiceSpec) { s.ClusterIPs = []string{clusterIP, "fd00:10:96::50"} })
	w.endpoints("web", 0)
	path := testns.Sh(t, "printf %%s \"$PATH\"")
	t.Setenv("PATH", dir)
	w.run(func(c *Config) { c.NodeIPs = append(c.NodeIPs, netip.MustParseAddr("2001:db8::1")) })
	w.event("IPFamilyNotProxied", "here", "ip6tables-nft", "install")
	t.Setenv("PATH", path)
	w.settled("default/web:dns cluster IP")
	w.pods[1].MustSay(t, "tcp", clusterIP+":80", "p0 "+w.ips[1].String())
	tells(t, 200)
}

// IPv6 switched off in the node's namespace: a dual-stack Service is served in IPv4, and nothing fails.
func TestIPv6SwitchedOff(t *testing.T) {
	each(t, func(t *testing.T, flavor string) {
		w := newWorld(t, 2, flavor)
		testns.Sh(t, "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6")
		t.Cleanup(func() { testns.Sh(t, "echo 0 > /proc/sys/net/ipv6/conf/all/disable_ipv6") })
		w.service("web", clusterIP, func(s *corev1.ServiceSpec) { s.ClusterIPs = []string{clusterIP, "fd00:10:96::50"} })
		w.endpoints("web", 0)
		var log said
		w.run(func(c *Config) {
			c.NodeIPs = append(c.NodeIPs, netip.MustParseAddr("2001:db8::1"))
			c.Logger = slog.New(slog.NewTextHandler(&log, nil))
		})
		w.settled("default/web:dns cluster IP")
		testns.Eventually(t, "all families programmed", func() bool { return log.has("Programmed all Services", "ipFamily=6") })
		w.pods[1].MustSay(t, "tcp", clusterIP+":80", "p0 "+w.ips[1].String())
		tells(t, 200)
		if log.has("level=ERROR") {
			t.Error(log.all.String())
		}
	})
}

// What users get wrong in a Service, where no API server refused it, is named by an Event on the Service; the rest of it,
// and every other Service, works.
func TestWrongServicesAreNamed(t *testing.T) {
	eachOf(t, []string{onNFTables}, func(t *testing.T, flavor string) {
		w := newWorld(t, 3, flavor)
		w.service("first", clusterIP, nodePorts)
		w.endpoints("first", 0)
		w.service("second", "10.96.0.51", nodePorts) // the same node ports
		w.endpoints("second", 1)
		wrong := w.service("wrong", "10.96.0.52", func(s *corev1.ServiceSpec) {
			s.Type, s.AllocateLoadBalancerNodePorts = corev1.ServiceTypeLoadBalancer, ptr.To(false)
			s.ExternalIPs = []string{"198.51.100.300"}
			s.LoadBalancerSourceRanges = []string{"192.0.2.0/33"}
		})
		wrong.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "198.51.100.7"}}
		if _, err := w.api.CoreV1().Services("default").UpdateStatus(t.Context(), wrong, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		w.endpoints("wrong", 2)
		w.run(nil)
		w.event("FrontendTaken", "second", "default/first", "30080", "30053")
		w.event("InvalidField", "wrong", `spec.externalIPs "198.51.100.300" is no IP address`, `spec.loadBalancerSourceRanges[0] "192.0.2.0/33"`, "192.0.2.0/24")
		w.settled("default/wrong:dns cluster IP")
		w.node.MustSay(t, "tcp", "10.96.0.51:80", "p1 10.244.3.1")
		w.node.MustSay(t, "tcp", "10.96.0.52:80", "p2 10.244.3.1")
		if said, err := w.outside.Ask("tcp", "198.51.100.7:80"); err == nil {
			t.Errorf("a range that cannot be read let everybody in: %q", said)
		}
		w.outside.MustSay(t, "tcp", "192.0.2.1:30080", "p0 10.244.3.1")
		if err := w.api.CoreV1().Services("default").Delete(t.Context(), "first", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		testns.Eventually(t, "the node port to go over to the second", func() bool {
			said, _ := w.outside.Ask("tcp", "192.0.2.1:30080")
			return said == "p1 10.244.3.1"
		})
		tells(t, 200)
	})
}

// A client is remembered for as long as its Service says, and no longer.
func TestSessionAffinityExpires(t *testing.T) {
	each(t, func(t *testing.T, flavor string) {
		w := newWorld(t, 4, flavor)
		for name, seconds := range map[string]int32{"short": 1, "long": 3600} {
			w.service(name, map[string]string{"short": clusterIP, "long": "10.96.0.51"}[name], func(s *corev1.ServiceSpec) {
				s.SessionAffinity = corev1.ServiceAffinityClientIP
				s.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: &seconds}}
			})
			w.endpoints(name, 0, 1, 2)
		}
		w.run(nil)
		w.settled("default/short:dns cluster IP")
		w.settled("default/long:dns cluster IP")
		first, err := w.pods[3].Answer("tcp", "10.96.0.51:80")
		if err != nil {
			t.Fatal(err)
		}
		if flavor == onIPVS {
			// IPVS forgets a client no sooner than the last of its connections, two minutes after its end: each look would
			// put that off. That IPVS was told the seconds must do.
			rules := w.ipvsRules()
			for at, seconds := range map[string]string{clusterIP: "1", "10.96.0.51": "3600"} {
				if want := fmt.Sprintf("-A -t %s:80 -s rr -p %s ", at, seconds); !strings.Contains(rules, want) {
					t.Errorf("no %q in\n%s", want, rules)
				}
			}
			w.pods[3].MustSay(t, "tcp", "10.96.0.51:80", first)
			return
		}
		// Each look is later than the second for which the one before is remembered.
		reached := map[string]bool{}
		testns.Eventually(t, "a client that was forgotten to reach another pod", func() bool {
			said, err := w.pods[3].Answer("tcp", clusterIP+":80")
			if err != nil {
				t.Error(err)
			}
			reached[said] = true
			if len(reached) == 1 {
				time.Sleep(1100 * time.Millisecond)
			}
			return len(reached) > 1
		})
		w.pods[3].MustSay(t, "tcp", "10.96.0.51:80", first)
	})
}
