package proxy

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/reevehq/reeve/internal/testns"
)

// child is a program that ends with the test binary, however that ends. stop asks it to end, and waits.
type child struct{ stop func() }

// start runs a program; its output goes to a file.
func start(t *testing.T, log string, command ...string) child {
	t.Helper()
	cmd := exec.Command("sh", append([]string{"-c", `"$@" >>"$0" 2>&1 & echo started; read -r s; kill -${s:-KILL} $!; wait`, log}, command...)...)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatalf("start %q: %v", command, err)
	}
	ended := false
	end := func(signal string) {
		if !ended {
			ended = true
			_, _ = io.WriteString(in, signal)
			_ = in.Close()
			_ = cmd.Wait()
		}
	}
	t.Cleanup(func() { end("") })
	return child{stop: func() { end("TERM\n") }}
}

// realFirewalld is firewalld on a system bus of the test's own, with folders of its own: every interface is in the zone
// public, which rejects what it does not know.
type realFirewalld struct {
	t           *testing.T
	root, etc   string
	process     child
	dir, python string
}

func newFirewalld(t *testing.T, backend string) *realFirewalld {
	t.Helper()
	testns.Need(t)
	testns.NeedBinary(t, "dbus-daemon")
	root, err := filepath.Abs("../bin/firewalld") // tests/tools/firewalld.sh
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(root + "/usr/sbin/firewalld"); err != nil {
		if os.Getenv("REEVE_CI") == "1" {
			t.Fatal(err)
		}
		t.Skip("needs firewalld, which `make deps-test` unpacks: ", err)
	}
	f := &realFirewalld{t: t, root: root, dir: t.TempDir()}
	f.etc = f.dir + "/etc"
	t.Setenv("PYTHONPATH", root+"/usr/lib/python3/dist-packages")
	t.Setenv("PYTHONPYCACHEPREFIX", f.dir+"/compiled")
	bus := "/run/test-bus"
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path="+bus)
	testns.Sh(t, "rm -f %s; mkdir %s; sed 's/^FirewallBackend=.*/FirewallBackend=%s/' %s/etc/firewalld/firewalld.conf >%[2]s/firewalld.conf", bus, f.etc, backend, root)
	const all = `<allow user="*"/><allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/>`
	conf := `<busconfig><type>system</type><listen>unix:path=` + bus + `</listen><auth>EXTERNAL</auth><policy context="default">` + all + `</policy></busconfig>`
	if err := os.WriteFile(f.dir+"/bus.conf", []byte(conf), 0o644); err != nil {
		t.Fatal(err)
	}
	start(t, f.dir+"/bus.log", "dbus-daemon", "--config-file="+f.dir+"/bus.conf", "--nofork", "--nopidfile")
	testns.Eventually(t, "a system bus", func() bool {
		c, err := net.Dial("unix", bus)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
	t.Cleanup(func() {
		testns.Sh(t, "for t in 'inet firewalld' 'ip filter' 'ip nat' 'ip mangle' 'ip raw' 'ip security' 'ip6 filter' 'ip6 nat' 'ip6 mangle' 'ip6 raw' 'ip6 security'; do nft delete table $t; done 2>/dev/null; true")
		if t.Failed() {
			log, _ := os.ReadFile(f.dir + "/firewalld.log")
			t.Logf("firewalld:\n%s", log)
		}
	})
	f.start()
	return f
}

func (f *realFirewalld) start() {
	f.t.Helper()
	f.process = start(f.t, f.dir+"/firewalld.log", "/usr/bin/python3", f.root+"/usr/sbin/firewalld", "--nofork", "--nopid",
		"--system-config", f.etc, "--default-config", f.root+"/usr/lib/firewalld", "--log-target", "console")
	testns.Eventually(f.t, "firewalld to run", func() bool {
		return exec.Command("/usr/bin/python3", f.root+"/usr/bin/firewall-cmd", "--state").Run() == nil
	})
}

// cmd runs firewall-cmd.
func (f *realFirewalld) cmd(args string) string {
	f.t.Helper()
	return strings.TrimSpace(testns.Sh(f.t, "/usr/bin/python3 %s/usr/bin/firewall-cmd %s", f.root, args))
}

// rules is what of firewalld's own rules tells of pods and of us.
func rulesOf(t *testing.T, chain string) string {
	return testns.Sh(t, "PATH=$PATH:/usr/sbin nft list chain inet firewalld %s", chain)
}

func firewalldTrusts(t *testing.T) bool {
	return strings.Contains(rulesOf(t, "filter_FORWARD_ZONES"), "ip saddr 10.244.0.0/16 goto filter_FWD_trusted")
}

// firewalldWorld has a Service with everything that a firewall could close.
func firewalldWorld(t *testing.T, flavor string) (w *world, works func() error) {
	t.Helper()
	w = newWorld(t, 2, flavor)
	testns.Sh(t, "ip -n outside route add 10.244.0.0/16 via 192.0.2.1")
	w.service("web", clusterIP, func(s *corev1.ServiceSpec) {
		nodePorts(s)
		s.Type, s.HealthCheckNodePort = corev1.ServiceTypeLoadBalancer, 31000
		s.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	})
	w.endpoints("web", 0)
	testns.Host{}.Serve(t, "node", ":9999") // of the node's own, which the zone public does not know
	return w, func() error {
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
		_ = c.Close()
		return nil
	}
}

// outsideToPod tells whether who is no pod reaches one without a Service.
func outsideToPod(w *world) error {
	_, err := w.outside.Ask("tcp", w.ips[0].String()+":8080")
	return err
}

// closed fails the test where more is open than has to be.
func closed(t *testing.T, w *world) {
	t.Helper()
	if said, err := w.outside.Ask("tcp", "192.0.2.1:9999"); err == nil {
		t.Errorf("the outside reached the node's own port: %q", said)
	}
	if said, err := w.outside.Ask("tcp", "198.51.100.99:5000"); err == nil {
		t.Errorf("the outside reached elsewhere: %q", said)
	}
}

// A real firewalld, asked over D-Bus alone: its table cannot be written, as where it keeps that locked. Pods and Services
// work through reloads and restarts; who may send to pods takes a policy, which an Event says; and with Cleanup all of it goes.
func TestFirewalldIsAsked(t *testing.T) {
	if inVM() {
		t.Skip("firewalld runs where the tests run")
	}
	f := newFirewalld(t, "nftables")
	w, works := firewalldWorld(t, "nft")
	if err := works(); err == nil {
		t.Fatal("firewalld lets everything pass by itself")
	}
	dir := t.TempDir() // no nft
	testns.Sh(t, "for c in iptables-nft iptables-nft-save iptables-nft-restore ip6tables-nft ip6tables-nft-save ip6tables-nft-restore conntrack sh ip mkdir cp rm; do ln -s $(command -v $c) %s/; done", dir)
	t.Setenv("PATH", dir)
	w.run(func(c *Config) { c.CanaryPeriod = 300 * time.Millisecond })
	eventually(t, "everything to work", works)
	closed(t, w)
	if err := outsideToPod(w); err == nil {
		t.Error("the outside reaches pods though nobody can have let it")
	}
	w.event("FirewallDropsServices", "here", "inet firewalld filter_FORWARD", "what others send to a pod itself is dropped", "policy")
	if got := f.cmd("--zone=trusted --list-sources"); got != "10.244.0.0/16" {
		t.Errorf("sources of the zone trusted: %q", got)
	}

	// What only the permanent configuration can hold, by its owner's hand; the reload forgets what was asked for.
	policy := `<policy target="ACCEPT"><ingress-zone name="ANY"/><egress-zone name="trusted"/></policy>`
	testns.Sh(t, "mkdir %s/policies; echo '%s' >%[1]s/policies/pods.xml", f.etc, policy)
	f.cmd("--reload")
	eventually(t, "everything to work after a reload", works)
	eventually(t, "the outside to reach pods by the policy", func() error { return outsideToPod(w) })
	closed(t, w)

	f.process.stop()
	f.start()
	testns.Eventually(t, "pods to be trusted by a new firewalld", func() bool { return firewalldTrusts(t) })
	eventually(t, "everything to work after a restart", works)

	// Somebody puts the pods in another zone: it stays there, until he takes it out.
	f.cmd("--zone=work --change-source=10.244.0.0/16")
	w.event("FirewallDropsServices", "here", "firewalld", "10.244.0.0/16", "zone work")
	if got := f.cmd("--get-zone-of-source=10.244.0.0/16"); got != "work" {
		t.Errorf("the zone of the pods' range that its owner set is %q", got)
	}
	f.cmd("--zone=work --remove-source=10.244.0.0/16")
	testns.Eventually(t, "pods to be trusted again", func() bool { return firewalldTrusts(t) })
	eventually(t, "everything to work again", works)

	w.stop()
	if err := Cleanup(context.Background(), CleanupConfig{IPTables: "nft"}); err != nil {
		t.Error(err)
	}
	if got := f.cmd("--list-all-zones"); strings.Contains(got, "10.244.") || strings.Contains(got, "31000") {
		t.Errorf("cleanup left:\n%s", got)
	}
}

// The same with rules in its table, which open what cannot be asked for, in the chain that its zones pass last.
func TestFirewalldsTableIsOpened(t *testing.T) {
	if inVM() {
		t.Skip("firewalld runs where the tests run")
	}
	backends := []string{"nftables"}
	if long() {
		backends = append(backends, "iptables")
	}
	for _, backend := range backends {
		t.Run(backend, func(t *testing.T) {
			f := newFirewalld(t, backend)
			w, works := firewalldWorld(t, onNFTables)
			w.run(nil)
			eventually(t, "everything to work", works)
			eventually(t, "the outside to reach pods", func() error { return outsideToPod(w) })
			closed(t, w)
			f.cmd("--reload")
			testns.Eventually(t, "pods to be trusted after a reload", func() bool { return f.cmd("--zone=trusted --list-sources") == "10.244.0.0/16" })
			eventually(t, "the outside to reach pods after a reload", func() error { return outsideToPod(w) })
			eventually(t, "everything to work after a reload", works)
			closed(t, w)
			// What somebody trusts himself is not ours to take away.
			f.cmd("--zone=trusted --add-source=10.99.0.0/16")
			w.stop()
			if err := Cleanup(context.Background(), CleanupConfig{}); err != nil {
				t.Error(err)
			}
			if got := f.cmd("--zone=trusted --list-sources"); got != "10.99.0.0/16" {
				t.Errorf("after cleanup the zone trusted has the sources %q", got)
			}
			got := testns.Sh(t, "nft list ruleset; iptables-legacy-save; true")
			for _, ours := range []string{"reeve", "KUBE-", "10.244.", "31000"} {
				if strings.Contains(got, ours) {
					t.Errorf("cleanup left %s:\n%s", ours, got)
				}
			}
		})
	}
}
