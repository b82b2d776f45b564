package cni

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/reevehq/reeve/cni/netns"
	"github.com/reevehq/reeve/internal/podnet"
	"github.com/reevehq/reeve/internal/testns"
	"github.com/reevehq/reeve/internal/xtables"
)

// outside makes a neighbour machine: a namespace reached over a veth, 192.0.2.1 on the node and 192.0.2.2 there, which
// knows no route to the pods.
func outside(t testing.TB) string {
	t.Helper()
	path, err := netns.Create(t.TempDir(), "outside")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = netns.Remove(path) })
	sh(t, fmt.Sprintf(`ip link add up0 type veth peer name eth0 && ip link set eth0 netns %[1]s && ip addr add 192.0.2.1/24 dev up0 &&
		ip link set up0 up && nsenter --net=%[1]s sh -c 'ip addr add 192.0.2.2/24 dev eth0 && ip link set eth0 up'`, path))
	t.Cleanup(func() { sh(t, "ip link del up0") })
	return path
}

func TestBuiltinPodsReachEachOtherTheNodeAndOutside(t *testing.T) {
	b := newBuiltin(t, t.TempDir(), "10.244.3.0/24", "fd00:10:244:3::/64")
	out := outside(t)
	one, two := addPod(t, b, "one"), addPod(t, b, "two")
	serve(t, one.req.NetNS, "one", ":8080")
	serve(t, "", "node", "192.0.2.1:8080")
	serve(t, out, "outside", ":8080")

	mustSay(t, "two", two.req.NetNS, one.ip.String()+":8080", "one "+two.ip.String())
	mustSay(t, "two over IPv6", two.req.NetNS, "["+one.res.IPs[1].String()+"]:8080", "one "+two.res.IPs[1].String())
	mustSay(t, "the node over IPv6", "", "["+one.res.IPs[1].String()+"]:8080", "one fd00:10:244:3::1")
	mustSay(t, "the node", "", one.ip.String()+":8080", "one 10.244.3.1")
	mustSay(t, "the pod itself", one.req.NetNS, one.ip.String()+":8080", "one "+one.ip.String())
	mustSay(t, "two", two.req.NetNS, "192.0.2.1:8080", "node "+two.ip.String())
	mustSay(t, "two", two.req.NetNS, "192.0.2.2:8080", "outside 192.0.2.1")
	if err := b.Check(t.Context(), one.req, one.res); err != nil {
		t.Error(err)
	}
}

func TestBuiltinResultIsCNI100(t *testing.T) {
	b := newBuiltin(t, t.TempDir(), "10.244.3.0/24", "fd00:10:244:3::/64")
	p := addPod(t, b, "p")
	var res struct {
		CNIVersion string
		Interfaces []struct{ Name, Mac, Sandbox string }
		IPs        []struct {
			Interface        int
			Address, Gateway string
		}
		Routes []struct{ Dst, GW string }
	}
	if err := json.Unmarshal(p.res.Raw, &res); err != nil {
		t.Fatal(err)
	}
	if res.CNIVersion != "1.0.0" || len(res.Interfaces) != 2 || res.Interfaces[1].Sandbox != p.req.NetNS || res.Interfaces[1].Mac == "" {
		t.Errorf("interfaces: %s", p.res.Raw)
	}
	if len(res.IPs) != 2 || res.IPs[0].Address != p.ip.String()+"/32" || res.IPs[0].Gateway != "10.244.3.1" || res.IPs[0].Interface != 1 ||
		res.IPs[1].Address != "fd00:10:244:3::2/128" || len(res.Routes) != 2 || res.Routes[0].Dst != "0.0.0.0/0" {
		t.Errorf("addresses: %s", p.res.Raw)
	}
}

func TestBuiltinHostPorts(t *testing.T) {
	for _, flavor := range []string{"nft", "legacy"} {
		t.Run(flavor, func(t *testing.T) {
			dir := t.TempDir()
			b := newBuiltin(t, dir)
			b.rules.init("REEVE", xtables.Flavor(flavor))
			if err := b.SetPodCIDRs([]netip.Prefix{netip.MustParsePrefix("10.244.3.0/24")}); err != nil {
				t.Fatal(err)
			}
			out := outside(t)
			p := addPod(t, b, "p",
				podnet.PortMapping{HostPort: 8081, ContainerPort: 8080, Protocol: "TCP"},
				podnet.PortMapping{HostIP: netip.MustParseAddr("127.0.0.1"), HostPort: 8082, ContainerPort: 8080, Protocol: "TCP"})
			other := addPod(t, b, "other")
			serve(t, p.req.NetNS, "p", ":8080")
			serve(t, "", "secret", "127.0.0.1:9000")

			mustSay(t, "outside", out, "192.0.2.1:8081", "p 192.0.2.2")
			mustSay(t, "the node", "", "192.0.2.1:8081", "p 192.0.2.1")
			mustSay(t, "the node on loopback", "", "127.0.0.1:8081", "p 10.244.3.1")
			mustSay(t, "the node on the loopback port", "", "127.0.0.1:8082", "p 10.244.3.1")
			mustSay(t, "another pod", other.req.NetNS, "192.0.2.1:8081", "p "+other.ip.String())
			mustSay(t, "the pod itself (hairpin)", p.req.NetNS, "192.0.2.1:8081", "p 10.244.3.1")
			if said, err := ask(t, out, "192.0.2.1:8082"); err == nil {
				t.Errorf("outside reached the port of 127.0.0.1: %q", said)
			}
			// route_localnet is on for the pod's link: its neighbour must still not reach the node's loopback.
			sh(t, "nsenter --net="+p.req.NetNS+" sh -c 'ip addr del 127.0.0.1/8 dev lo; ip route add 127.0.0.1 via 10.244.3.1 dev eth0 onlink; echo 1 > /proc/sys/net/ipv4/conf/eth0/route_localnet'")
			if said, err := ask(t, p.req.NetNS, "127.0.0.1:9000"); err == nil {
				t.Errorf("the pod reached the node's loopback: %q", said)
			}

			if err := b.Del(t.Context(), p.req); err != nil {
				t.Fatal(err)
			}
			if said, err := ask(t, out, "192.0.2.1:8081"); err == nil {
				t.Errorf("the host port answers after DEL: %q", said)
			}
		})
	}
}

func TestBuiltinUDPHostPortFlowFollowsItsPod(t *testing.T) {
	b := newBuiltin(t, t.TempDir(), "10.244.3.0/24")
	out := testns.Host{Name: "outside", Path: outside(t)}
	c, err := out.Dial("udp", "192.0.2.1:8083") // one socket for the test's whole life
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	say := func() string { s, _ := testns.Talk(c); return s }
	if s := say(); s != "" {
		t.Fatalf("%q before there is a pod", s)
	}
	port := podnet.PortMapping{HostPort: 8083, ContainerPort: 8080, Protocol: "UDP"}
	for _, name := range []string{"one", "two"} {
		p := addPod(t, b, name, port)
		testns.Host{Path: p.req.NetNS}.Serve(t, name, ":8080")
		if got := say(); got != name+" 192.0.2.2" {
			t.Errorf("the flow got %q, want %s's answer", got, name)
		}
		if err := b.Del(t.Context(), p.req); err != nil {
			t.Fatal(err)
		}
	}
	if s := say(); s != "" {
		t.Errorf("%q after the last pod went", s)
	}
}

func TestBuiltinDelIsIdempotentAndFreesTheAddress(t *testing.T) {
	b := newBuiltin(t, t.TempDir(), "10.244.3.0/30") // one address
	p := addPod(t, b, "p")
	for range 2 {
		if err := b.Del(t.Context(), p.req); err != nil {
			t.Fatal(err)
		}
		if err := b.RemoveNamespace(t.Context(), p.req.NetNS); err != nil {
			t.Fatal(err)
		}
	}
	if err := b.Del(t.Context(), podnet.Request{SandboxID: "never-was"}); err != nil {
		t.Error(err)
	}
	if again := addPod(t, b, "q"); again.ip != p.ip {
		t.Errorf("the only address is %s, got %s", p.ip, again.ip)
	}
	if err := b.Check(t.Context(), p.req, p.res); err == nil {
		t.Error("CHECK passed after DEL")
	}
}

func TestBuiltinAddThatFailsLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	b := newBuiltin(t, dir, "10.244.3.0/30")
	_, err := b.Add(t.Context(), podnet.Request{SandboxID: "p", NetNS: filepath.Join(dir, "netns", "missing")})
	if err == nil || !strings.Contains(err.Error(), "missing") {
		t.Fatalf("error %v does not name the namespace", err)
	}
	addPod(t, b, "q") // the range's only address must be free
	if links := sh(t, "ip -o link show type veth"); strings.Count(links, "\n") != 1 {
		t.Errorf("links left: %s", links)
	}
}

func TestBuiltinCleanupLeavesNoMark(t *testing.T) {
	dir := t.TempDir()
	b := newBuiltin(t, dir, "10.244.3.0/24")
	addPod(t, b, "p", podnet.PortMapping{HostPort: 8081, ContainerPort: 8080, Protocol: "TCP"})
	for range 2 {
		if err := b.Cleanup(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if left := sh(t, "ip -o link show type veth; iptables-save 2>/dev/null | grep REEVE; ls "+dir+"/netns "+dir+"/state | grep -v :"); strings.TrimSpace(left) != "" {
		t.Errorf("left: %s", left)
	}
}

func TestBuiltinNotReadyWithoutPodCIDR(t *testing.T) {
	b := newBuiltin(t, t.TempDir())
	if err := b.Status(t.Context()); err == nil {
		t.Error("ready without a pod CIDR")
	}
	if _, err := b.Add(t.Context(), podnet.Request{SandboxID: "p", NetNS: "/proc/self/ns/net"}); err == nil {
		t.Error("ADD without a pod CIDR")
	}
	for _, bad := range [][]string{{"10.0.0.0/31"}, {"10.0.0.0/24", "10.0.1.0/24"}, {}} {
		var cidrs []netip.Prefix
		for _, c := range bad {
			cidrs = append(cidrs, netip.MustParsePrefix(c))
		}
		if err := b.SetPodCIDRs(cidrs); err == nil {
			t.Errorf("pod CIDRs %v were accepted", bad)
		}
	}
	if err := b.SetPodCIDRs([]netip.Prefix{netip.MustParsePrefix("10.244.3.0/24")}); err != nil {
		t.Fatal(err)
	}
	if err := b.Status(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestBuiltinIsReadyAfterARestartBeforeItIsTold(t *testing.T) {
	dir := t.TempDir()
	p := addPod(t, newBuiltin(t, dir, "10.244.3.0/24"), "p")
	again := newBuiltin(t, dir)
	if err := again.Status(t.Context()); err != nil {
		t.Fatal(err)
	}
	if q := addPod(t, again, "q"); q.ip == p.ip || !netip.MustParsePrefix("10.244.3.0/24").Contains(q.ip) {
		t.Errorf("the second pod got %s, the first has %s", q.ip, p.ip)
	}
	if err := again.SetPodCIDRs([]netip.Prefix{netip.MustParsePrefix("10.244.7.0/24")}); err != nil {
		t.Fatal(err)
	}
	r := addPod(t, again, "r")
	if r.ip.String() != "10.244.7.2" {
		t.Errorf("after a change of ranges the pod got %s", r.ip)
	}
	serve(t, p.req.NetNS, "p", ":8080")
	mustSay(t, "a pod of the new range", r.req.NetNS, p.ip.String()+":8080", "p "+r.ip.String())

	if err := os.WriteFile(filepath.Join(dir, "state", "ranges"), []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := newBuiltin(t, dir).Status(t.Context()); err == nil {
		t.Error("ready with a broken ranges file")
	}
}

func TestBuiltinParallelAdds(t *testing.T) {
	b := newBuiltin(t, t.TempDir(), "10.244.3.0/24")
	type outcome struct {
		ip  netip.Addr
		err error
	}
	results := make(chan outcome)
	const n = 30
	start := time.Now()
	for i := range n {
		go func() {
			id := fmt.Sprintf("pod%d", i)
			path, err := b.NewNamespace(context.Background(), id)
			if err != nil {
				results <- outcome{err: err}
				return
			}
			res, err := b.Add(context.Background(), podnet.Request{SandboxID: id, NetNS: path})
			if err != nil {
				results <- outcome{err: err}
				return
			}
			results <- outcome{ip: res.IPs[0]}
		}()
	}
	seen := map[netip.Addr]bool{}
	for range n {
		r := <-results
		if r.err != nil {
			t.Fatal(r.err)
		}
		if seen[r.ip] {
			t.Errorf("%s was given twice", r.ip)
		}
		seen[r.ip] = true
	}
	t.Logf("%d pods in %v", n, time.Since(start))
}

func BenchmarkBuiltinAddDel(b *testing.B) {
	n := newBuiltin(b, b.TempDir(), "10.244.3.0/24")
	var ns, add, del, rm time.Duration
	for i := range b.N {
		id := fmt.Sprint("pod", i)
		t0 := time.Now()
		path, err := n.NewNamespace(b.Context(), id)
		if err != nil {
			b.Fatal(err)
		}
		t1 := time.Now()
		req := podnet.Request{SandboxID: id, NetNS: path}
		if _, err := n.Add(b.Context(), req); err != nil {
			b.Fatal(err)
		}
		t2 := time.Now()
		if err := n.Del(b.Context(), req); err != nil {
			b.Fatal(err)
		}
		t3 := time.Now()
		if err := n.RemoveNamespace(b.Context(), path); err != nil {
			b.Fatal(err)
		}
		t4 := time.Now()
		ns, add, del, rm = ns+t1.Sub(t0), add+t2.Sub(t1), del+t3.Sub(t2), rm+t4.Sub(t3)
	}
	for name, d := range map[string]time.Duration{"netns": ns, "add": add, "del": del, "rmns": rm} {
		b.ReportMetric(float64(d.Microseconds())/float64(b.N)/1000, name+"-ms")
	}
}
