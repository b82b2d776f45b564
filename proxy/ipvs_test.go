package proxy

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/reevehq/reeve/internal/testns"
	"github.com/reevehq/reeve/proxy/ipvs"
)

// onIPVS is the flavor of worlds in ipvs mode.
const onIPVS = "ipvs"

// inVM reports that these tests run in the virtual machine of tests/vm.
func inVM() bool { return os.Getenv("REEVE_VM") == "1" }

// needVM leaves a test to tests/vm, which runs this package's tests in the virtual machine.
func needVM(t *testing.T) {
	if !inVM() {
		t.Skip("runs in the virtual machine, by tests/vm")
	}
}

// ipvsRules is the saved state of IPVS, ipsets and iptables. Virtual services bear the names of the Service ports that
// they are of, once the Service's address is on the device, which is the last thing to come; what drains is left
// out; one without servers bears REJECT.
func (w *world) ipvsRules() string {
	services, err := w.api.CoreV1().Services("").List(context.Background(), metav1.ListOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	state := testns.Sh(w.t, `ip route show table local dev reeve-ipvs0 2>/dev/null; ip -6 route show table local dev reeve-ipvs0 2>/dev/null
		echo ---; ipvsadm -Sn; echo ---; ipset save; iptables-save -t nat; iptables-save -t filter; ip -o link show reeve-ipvs0 2>/dev/null; true`)
	parts := strings.SplitN(state, "---\n", 3)
	named := map[string]string{}
	for _, s := range services.Items {
		if !strings.Contains(parts[0], "local "+s.Spec.ClusterIP+" ") {
			continue
		}
		for _, p := range s.Spec.Ports {
			flag := map[corev1.Protocol]string{corev1.ProtocolTCP: "-t", corev1.ProtocolUDP: "-u", corev1.ProtocolSCTP: "--sctp-service"}[p.Protocol]
			name := " # " + s.Namespace + "/" + s.Name + ":" + p.Name + " "
			named[fmt.Sprintf("%s %s:%d", flag, s.Spec.ClusterIP, p.Port)] = name + "cluster IP"
			for _, ip := range s.Spec.ExternalIPs {
				named[fmt.Sprintf("%s %s:%d", flag, ip, p.Port)] = name + "external IP"
			}
			for _, in := range s.Status.LoadBalancer.Ingress {
				named[fmt.Sprintf("%s %s:%d", flag, in.IP, p.Port)] = name + "load balancer IP"
			}
			if p.NodePort != 0 {
				named[fmt.Sprintf("%s 192.0.2.1:%d", flag, p.NodePort)] = name + "node port"
			}
		}
	}
	// An address is the last to come of its Services.
	placed := func(at string) bool {
		host, _, err := net.SplitHostPort(at)
		a, parseErr := netip.ParseAddr(host)
		service := netip.MustParsePrefix("10.96.0.0/16").Contains(a) || netip.MustParsePrefix("fd00:10:96::/112").Contains(a)
		return err == nil && parseErr == nil && (strings.Contains(parts[0], "local "+a.String()+" ") || !service)
	}
	var out strings.Builder
	lines := strings.Split(parts[1], "\n")
	for i, line := range lines {
		words := strings.Fields(line)
		switch {
		case len(words) < 3 || strings.HasSuffix(line, "-w 0") || !placed(words[2]):
		case words[0] == "-A":
			live, name := false, named[words[1]+" "+words[2]]
			for _, next := range lines[i+1:] {
				if !strings.HasPrefix(next, "-a ") {
					break
				}
				live = live || !strings.HasSuffix(next, "-w 0")
			}
			switch {
			case live && name == "" && strings.HasPrefix(words[2], "192.0.2.1:3"):
				name = " # somebody's node port"
			case !live && name == "":
				continue // drains
			case !live:
				name += " REJECT"
			}
			out.WriteString(line + name + "\n")
		default:
			out.WriteString(line + "\n")
		}
	}
	return out.String() + parts[2]
}

// A kernel without IPVS, as that of development hosts: the error says what is missing, and cleaning up is no error.
func TestHostWithoutIPVSIsNamed(t *testing.T) {
	testns.Need(t)
	if ipvs.Supported() == nil {
		t.Skip("this kernel has IPVS")
	}
	w := newWorld(t, 0, onNFTables)
	cfg := w.config()
	cfg.Mode = ModeIPVS
	err := Run(t.Context(), cfg)
	if err == nil || !strings.Contains(err.Error(), "ip_vs") || !strings.Contains(err.Error(), "--proxy-mode=nftables") {
		t.Errorf("%v does not say what is missing and what to do", err)
	}
	// Load balancers are told nothing that could be taken for health, and nothing is left.
	if code, body := get(t, "http://127.0.0.1:10256/healthz"); code != 0 {
		t.Errorf("/healthz answers %d %s", code, body)
	}
	if left := testns.Sh(t, "iptables-save; nft list tables; ip -o link show reeve-ipvs0 2>/dev/null; true"); strings.Contains(left, "KUBE") || strings.Contains(left, "reeve") {
		t.Errorf("left by a proxy that could not start:\n%s", left)
	}
	if err := Cleanup(t.Context(), CleanupConfig{}); err != nil {
		t.Error(err)
	}
}

func TestIPVSConfigurationIsChecked(t *testing.T) {
	err := Run(t.Context(), Config{Mode: ModeIPVS, LocalhostNodePorts: true, IPVS: IPVSConfig{Scheduler: "fair", UDPTimeout: time.Millisecond}})
	if err == nil {
		t.Fatal("accepted")
	}
	for _, field := range []string{`"fair"`, "UDPTimeout", "LocalhostNodePorts"} {
		if !strings.Contains(err.Error(), field) {
			t.Errorf("%v does not name %s", err, field)
		}
	}
}

// A program that listens on every address of the node is not reachable on the addresses of Services, neither for pods nor
// for neighbours nor for the node.
func TestOtherPortsOfServiceAddressesAreClosed(t *testing.T) {
	needVM(t)
	w := newWorld(t, 2, onIPVS)
	w.node.Serve(t, "secret", "0.0.0.0:9000")
	s := w.service("web", clusterIP, func(s *corev1.ServiceSpec) {
		nodePorts(s)
		s.Type = corev1.ServiceTypeLoadBalancer
		s.ExternalIPs = []string{"198.51.100.7", "192.0.2.1"}
	})
	s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "198.51.100.8"}}
	if _, err := w.api.CoreV1().Services("default").Update(context.Background(), s, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	w.endpoints("web", 0)
	w.run(nil)
	w.settled("default/web:dns node port")
	for _, from := range []testns.Host{w.outside, w.pods[1], w.node} {
		for _, address := range []string{clusterIP, "198.51.100.7", "198.51.100.8"} {
			for _, network := range []string{"tcp", "udp"} {
				if said, err := from.Ask(network, address+":9000"); err == nil {
					t.Errorf("%s reached %s %s:9000: %q", from, network, address, said)
				}
			}
			if said, err := from.Ask("tcp", address+":80"); err != nil || !strings.HasPrefix(said, "p0 ") {
				t.Errorf("%s asked %s:80: %q, %v", from, address, said, err)
			}
		}
		// The node's own address, though it is an external IP, keeps its own ports.
		if said, err := from.Ask("tcp", "192.0.2.1:9000"); err != nil || !strings.HasPrefix(said, "secret") {
			t.Errorf("%s asked the node's own port: %q, %v", from, said, err)
		}
		if said, err := from.Ask("tcp", "192.0.2.1:80"); err != nil || !strings.HasPrefix(said, "p0 ") {
			t.Errorf("%s asked the external IP that is the node's: %q, %v", from, said, err)
		}
	}
}

// An endpoint that goes keeps its open connections and gets no new ones, whatever happens to the proxy and the Service;
// when the last has ended, it is removed, and with it what was only there for it.
func TestServersDrain(t *testing.T) {
	needVM(t)
	w := newWorld(t, 3, onIPVS)
	w.service("web", clusterIP, nodePorts)
	w.service("idle", "10.96.0.51", nil)
	w.endpoints("web", 0)
	w.endpoints("idle", 0)
	w.run(nil)
	w.settled("default/web:dns node port")
	w.settled("default/idle:dns cluster IP")
	var conns []net.Conn
	var alive []func() error
	for _, target := range []string{clusterIP + ":80", "192.0.2.1:30080"} {
		c, err := w.pods[2].Dial("tcp", target)
		if err != nil {
			t.Fatal(err)
		}
		in := bufio.NewScanner(c)
		in.Scan() // the greeting
		conns = append(conns, c)
		alive = append(alive, func() error {
			_ = c.SetDeadline(time.Now().Add(5 * time.Second))
			if _, err := fmt.Fprintln(c, "alive"); err != nil || !in.Scan() || in.Text() != "alive" {
				return fmt.Errorf("the connection to %s died: %v %v", target, err, in.Err())
			}
			return nil
		})
	}
	live := func(when string) {
		t.Helper()
		for _, say := range alive {
			if err := say(); err != nil {
				t.Fatalf("%s: %v", when, err)
			}
		}
	}
	live("at first")
	w.endpoints("web", 1)
	w.unsettled("-t 10.96.0.50:80 -r 10.244.3.10:8080")
	live("after its endpoint went")
	for range 4 {
		w.pods[2].MustSay(t, "tcp", clusterIP+":80", "p1 "+w.ips[2].String())
	}
	w.stop()
	w.run(nil)
	live("after a restart of the proxy")
	for _, name := range []string{"web", "idle"} {
		if err := w.api.CoreV1().Services("default").Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	w.unsettled("10.244.3.11:8080")
	live("after the Service went")
	if s, err := w.pods[2].Ask("tcp", clusterIP+":80"); err == nil {
		t.Errorf("a deleted Service answered %q", s)
	}
	left := func() string {
		return testns.Sh(t, "ipvsadm -Sn; ipset save | grep ^add; ip route show table local dev reeve-ipvs0; true")
	}
	testns.Eventually(t, "all of the idle Service to go", func() bool { return !strings.Contains(left(), "10.96.0.51") })
	// A reset ends a connection for IPVS within 10 s; one that was closed by both sides is kept for two minutes.
	for _, c := range conns {
		_ = c.(*net.TCPConn).SetLinger(0)
		_ = c.Close()
	}
	testns.Eventually(t, "the drained server to go", func() bool { return !strings.Contains(left(), "10.244.3.10:8080") })
	if os.Getenv("REEVE_LONG") == "1" {
		for end := time.Now().Add(3 * time.Minute); left() != "" && time.Now().Before(end); {
			time.Sleep(time.Second)
		}
		if l := left(); l != "" {
			t.Errorf("left when the last connection had ended:\n%s", l)
		}
	}
}

// The node's addresses come and go: node ports follow without a restart.
func TestNodePortsFollowTheNodesAddresses(t *testing.T) {
	needVM(t)
	w := newWorld(t, 1, onIPVS)
	w.service("web", clusterIP, nodePorts)
	w.endpoints("web", 0)
	w.run(func(c *Config) { c.CanaryPeriod = time.Hour })
	w.settled("default/web:dns node port")
	testns.Sh(t, "ip addr add 192.0.2.77/24 dev up0")
	testns.Eventually(t, "an answer on the new address", func() bool { s, _ := w.outside.Ask("udp", "192.0.2.77:30053"); return s == "p0 10.244.3.1" })
	testns.Sh(t, "ip addr del 192.0.2.77/24 dev up0")
	testns.Eventually(t, "the old address's services to go", func() bool { return !strings.Contains(testns.Sh(t, "ipvsadm -Sn"), "192.0.2.77") })
	w.outside.MustSay(t, "tcp", "192.0.2.1:30080", "p0 10.244.3.1")
}

// Both policies Local: inside clients of the node port still reach any endpoint.
func TestBothPoliciesLocal(t *testing.T) {
	needVM(t)
	w := newWorld(t, 3, onIPVS)
	w.service("web", clusterIP, func(s *corev1.ServiceSpec) {
		nodePorts(s)
		s.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
		s.InternalTrafficPolicy = ptr.To(corev1.ServiceInternalTrafficPolicyLocal)
	})
	w.endpoints("web", 0, -2)
	w.run(nil)
	w.settled("default/web:dns node port")
	said := map[string]bool{}
	for range 10 {
		w.outside.MustSay(t, "tcp", "192.0.2.1:30080", "p0 192.0.2.2")
		w.pods[2].MustSay(t, "tcp", clusterIP+":80", "p0 "+w.ips[2].String())
		s, err := w.pods[2].Ask("tcp", "192.0.2.1:30080")
		if err != nil {
			t.Error(err)
		}
		said[s] = true
	}
	if len(said) != 2 {
		t.Errorf("a pod reached %v through the node port, want both", said)
	}
	if s, err := w.outside.Ask("tcp", clusterIP+":65535"); err == nil {
		t.Errorf("the port that only detours lead to answered %q", s)
	}
}

// Foreign virtual services are not touched, by name of their address.
func TestForeignVirtualServicesStay(t *testing.T) {
	needVM(t)
	w := newWorld(t, 1, onIPVS)
	testns.Sh(t, "ipvsadm -A -t 203.0.113.1:80 -s wrr; ipvsadm -a -t 203.0.113.1:80 -r 10.244.3.10:8080 -m; ipset create mine hash:ip; ipset add mine 203.0.113.1")
	w.service("web", clusterIP, nil)
	w.endpoints("web", 0)
	w.run(func(c *Config) { c.IPVS.Scheduler = "sh" })
	w.settled("default/web:dns cluster IP")
	if got := testns.Sh(t, "ipvsadm -Sn"); !strings.Contains(got, "10.96.0.50:80 -s sh -b sh-fallback") {
		t.Errorf("not the scheduler asked for:\n%s", got)
	}
	w.stop()
	w.cleanup()
	if got := testns.Sh(t, "ipvsadm -Sn; ipset save; ipset destroy mine; ipvsadm -C"); !strings.Contains(got, "-a -t 203.0.113.1:80 -r 10.244.3.10:8080") || !strings.Contains(got, "add mine") || strings.Contains(got, "reeve") || strings.Contains(got, "10.96") {
		t.Errorf("after cleanup:\n%s", got)
	}
}

// Changing to IPVS and away from it: open connections live on, new ones take the new mode's way, and when those that IPVS
// carried have ended, nothing of it is left.
func TestSwitchToAndFromIPVSKeepsConnections(t *testing.T) {
	needVM(t)
	w := newWorld(t, 3, onIPVS)
	const ip = "10.96.0.78" // of which IPVS remembers no test's connections, for whose end it would wait
	w.service("web", ip, nil)
	w.endpoints("web", 0)
	nft := func(c *Config) { c.Mode = ModeNFTables }
	tables := func() string { return testns.Sh(t, "nft list tables; true") }
	var alive []func() error
	var conns []net.Conn
	dial := func() {
		t.Helper()
		c, err := w.pods[2].Dial("tcp", ip+":80")
		if err != nil {
			t.Fatal(err)
		}
		in := bufio.NewScanner(c)
		in.Scan() // the greeting
		conns = append(conns, c)
		alive = append(alive, func() error {
			_ = c.SetDeadline(time.Now().Add(5 * time.Second))
			if _, err := fmt.Fprintln(c, "alive"); err != nil || !in.Scan() || in.Text() != "alive" {
				return fmt.Errorf("%v %v", err, in.Err())
			}
			return nil
		})
	}
	live := func(when string) {
		t.Helper()
		for i, say := range alive {
			if err := say(); err != nil {
				t.Fatalf("%s: connection %d died: %v", when, i, err)
			}
		}
	}
	w.run(nft)
	testns.Eventually(t, "nftables mode", func() bool { s, _ := w.pods[2].Ask("tcp", ip+":80"); return strings.HasPrefix(s, "p0 ") })
	dial()
	w.stop()
	w.run(nil)
	w.settled("default/web:dns cluster IP")
	testns.Eventually(t, "nftables' table to go", func() bool { return !strings.Contains(tables(), "reeve-proxy") })
	live("after the switch to ipvs")
	dial()
	w.stop()
	w.run(nft)
	testns.Eventually(t, "nftables' table and servers out of turn", func() bool {
		vs := testns.Sh(t, "ipvsadm -Sn")
		return strings.Contains(tables(), "reeve-proxy") && !strings.Contains(vs, "-w 1") && strings.Contains(vs, "-w 0")
	})
	live("after the switch away from ipvs")
	w.pods[2].MustSay(t, "tcp", ip+":80", "p0 "+w.ips[2].String())
	for _, c := range conns {
		_ = c.(*net.TCPConn).SetLinger(0)
		_ = c.Close()
	}
	var left string
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("of ipvs mode there is\n%s", left+testns.Sh(t, "ipvsadm -Lnc"))
		}
	})
	testns.Eventually(t, "all of ipvs mode to go", func() bool {
		left = testns.Sh(t, "ipvsadm -Sn; ipset list -n; ip -o link show reeve-ipvs0 2>/dev/null; iptables-save 2>/dev/null | grep IPVS; true")
		return left == ""
	})
}
