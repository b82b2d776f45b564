package cni

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/reevehq/reeve/internal/podnet"
)

// A kill after any step of an ADD: the same sandbox can be added again, and a collection removes what is there.
func TestBuiltinAddAfterAKillBetweenItsSteps(t *testing.T) {
	dir := t.TempDir()
	steps := map[string]func(b *Builtin, rec *record){
		"recorded": func(*Builtin, *record) {},
		"linked": func(_ *Builtin, rec *record) {
			sh(t, "ip link add "+rec.HostLink+" type veth peer name eth0 netns "+rec.NetNS)
		},
		"addressed": func(_ *Builtin, rec *record) {
			sh(t, "ip link add "+rec.HostLink+" type veth peer name eth0 netns "+rec.NetNS+" && ip addr add 10.244.3.1/32 dev "+rec.HostLink+" && nsenter --net="+rec.NetNS+" ip addr add "+rec.IPs[0].String()+"/32 dev eth0")
		},
		"routed": func(_ *Builtin, rec *record) {
			sh(t, "ip link add "+rec.HostLink+" type veth peer name eth0 netns "+rec.NetNS+" && ip link set "+rec.HostLink+" up && ip route add "+rec.IPs[0].String()+" dev "+rec.HostLink)
		},
	}
	for name, step := range steps {
		for _, then := range []string{"add", "collect"} {
			before := newBuiltin(t, dir, "10.244.3.0/24")
			id := name + "-" + then
			path, err := before.NewNamespace(t.Context(), id)
			if err != nil {
				t.Fatal(err)
			}
			req := podnet.Request{SandboxID: id, NetNS: path, Ports: []podnet.PortMapping{{HostPort: 8081, ContainerPort: 80}}}
			rec, _, err := before.reserve(req)
			if err != nil {
				t.Fatal(err)
			}
			step(before, rec)

			after := newBuiltin(t, dir, "10.244.3.0/24")
			if then == "add" {
				res, err := after.Add(t.Context(), req)
				if err != nil {
					t.Errorf("%s, then ADD: %v", name, err)
				} else if err := after.Check(t.Context(), req, res); err != nil {
					t.Errorf("%s, then ADD: %v", name, err)
				}
				after = newBuiltin(t, dir, "10.244.3.0/24")
			}
			if err := after.GC(t.Context(), nil); err != nil {
				t.Errorf("%s, then %s and GC: %v", name, then, err)
			}
			left := sh(t, "ip -o link show type veth; ls "+dir+"/netns; ls "+dir+"/state | grep -v ranges; iptables-save -t nat 2>/dev/null | grep 8081; ip route | grep 10.244.3; true")
			if strings.TrimSpace(left) != "" {
				t.Errorf("%s, then %s and GC, left: %s", name, then, left)
			}
		}
	}
}

func TestBuiltinAfterKillTakesOverAndCollectsLeaks(t *testing.T) {
	dir := t.TempDir()
	before := newBuiltin(t, dir, "10.244.3.0/24")
	kept := addPod(t, before, "kept", podnet.PortMapping{HostPort: 8081, ContainerPort: 8080, Protocol: "TCP"})
	leaked := addPod(t, before, "leaked", podnet.PortMapping{HostPort: 8082, ContainerPort: 8080, Protocol: "TCP"})
	// Crash points: a link without a record, a record without a link, a namespace without anything, half a record.
	addPod(t, before, "norecord")
	if err := before.store.remove("norecord"); err != nil {
		t.Fatal(err)
	}
	noLink := addPod(t, before, "nolink")
	if err := unplug(before.hostLink("nolink")); err != nil {
		t.Fatal(err)
	}
	if _, err := before.NewNamespace(t.Context(), "bare"); err != nil {
		t.Fatal(err)
	}
	for _, file := range []string{"state/.half.tmp", "netns/empty"} {
		if err := os.WriteFile(filepath.Join(dir, file), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}

	after := newBuiltin(t, dir, "10.244.3.0/24")
	fresh := addPod(t, after, "fresh")
	if fresh.ip == kept.ip || fresh.ip == leaked.ip || fresh.ip == noLink.ip {
		t.Errorf("%s was given twice", fresh.ip)
	}
	if err := after.GC(t.Context(), []string{"kept"}); err != nil {
		t.Fatal(err)
	}
	serve(t, kept.req.NetNS, "kept", ":8080")
	mustSay(t, "the fresh pod, which GC must spare", fresh.req.NetNS, kept.ip.String()+":8080", "kept "+fresh.ip.String())
	if err := after.Check(t.Context(), kept.req, kept.res); err != nil {
		t.Error(err)
	}
	rules := sh(t, "iptables-save -t nat")
	if !strings.Contains(rules, "--dport 8081") || strings.Contains(rules, "--dport 8082") {
		t.Errorf("host ports after GC:\n%s", rules)
	}
	if links := sh(t, "ip -o link show type veth"); strings.Count(links, "\n") != 2 {
		t.Errorf("links after GC, want those of kept and fresh:\n%s", links)
	}
	for folder, want := range map[string]string{"state": "fresh.json kept.json ranges", "netns": "fresh kept"} {
		if got := strings.Join(strings.Fields(sh(t, "ls "+filepath.Join(dir, folder))), " "); got != want {
			t.Errorf("files in %s after GC: %s, want %s", folder, got, want)
		}
	}
}

func TestBuiltinHealsFlushedRules(t *testing.T) {
	b := newBuiltin(t, t.TempDir(), "10.244.3.0/24")
	p := addPod(t, b, "p", podnet.PortMapping{HostPort: 8081, ContainerPort: 8080, Protocol: "TCP"})
	want := rulesOf(t)
	for _, flush := range []string{
		"iptables -t nat -F", "iptables -F", "iptables -t nat -F REEVE-MASQ",
		"iptables -t nat -F && iptables -t nat -X && iptables -F && iptables -X",
	} {
		sh(t, flush)
		if err := b.EnsureRules(t.Context()); err != nil {
			t.Fatal(err)
		}
		if got := rulesOf(t); got != want {
			t.Errorf("after %q:\n%s\nwant:\n%s", flush, got, want)
		}
	}
	serve(t, p.req.NetNS, "p", ":8080")
	outside(t)
	mustSay(t, "the node", "", "192.0.2.1:8081", "p 192.0.2.1")
}

// rulesOf is iptables-save of our tables without counters and comments.
func rulesOf(t testing.TB) string {
	var lines []string
	for _, line := range strings.Split(sh(t, "iptables-save -t nat; iptables-save -t filter"), "\n") {
		if !strings.HasPrefix(line, "#") && !strings.HasPrefix(line, ":") {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "\n")
}
