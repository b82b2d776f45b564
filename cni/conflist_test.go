package cni

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/reevehq/reeve/internal/podnet"
	"github.com/reevehq/reeve/internal/testns"
)

const ptpConflist = `{
  "cniVersion": "0.4.0", "name": "pods",
  "plugins": [
    {"type": "ptp", "ipMasq": true, "ipam": {"type": "host-local", "dataDir": %q, "subnet": "10.88.0.0/24", "routes": [{"dst": "0.0.0.0/0"}]}},
    {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true}
  ]}`

// pluginDir finds the real plugins of the host.
func pluginDir(t testing.TB) string {
	t.Helper()
	testns.Need(t)
	for _, dir := range []string{"/usr/lib/cni", "/opt/cni/bin"} {
		if exists(dir+"/ptp") && exists(dir+"/host-local") && exists(dir+"/portmap") {
			return dir
		}
	}
	testns.NeedBinary(t, "the CNI plugins ptp, host-local and portmap in /usr/lib/cni or /opt/cni/bin")
	return ""
}

func newConflist(t testing.TB, dir string, bins ...string) *Conflist {
	t.Helper()
	c, err := NewConflist(ConflistConfig{
		ConfDir: filepath.Join(dir, "net.d"), BinDirs: bins, CacheDir: filepath.Join(dir, "cache"),
		NetNSDir: filepath.Join(dir, "netns"), Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func writeConf(t testing.TB, dir, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(dir, "net.d"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "net.d", name), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func writePlugin(t testing.TB, dir, name, script string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
}

// libcni's first call made its executor without a lock: pods that started together raced, as critest's first ones do.
func TestConflistConnectsItsFirstPodsTogether(t *testing.T) {
	testns.Need(t)
	dir := t.TempDir()
	writePlugin(t, dir+"/bin", "still", "#!/bin/sh\ncat >/dev/null\necho '{\"cniVersion\":\"1.0.0\",\"ips\":[{\"address\":\"10.88.0.2/24\"}]}'\n")
	writeConf(t, dir, "10-pods.conflist", `{"cniVersion": "1.0.0", "name": "pods", "plugins": [{"type": "still"}]}`)
	c := newConflist(t, dir, dir+"/bin")
	var all sync.WaitGroup
	for i := range 4 {
		all.Go(func() {
			id := fmt.Sprint("pod", i)
			path, err := c.NewNamespace(t.Context(), id)
			if err == nil {
				_, err = c.Add(t.Context(), podnet.Request{SandboxID: id, NetNS: path})
			}
			if err != nil {
				t.Errorf("%s: %v", id, err)
			}
			if err := c.RemoveNamespace(t.Context(), path); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
}

func TestConflistWithRealPlugins(t *testing.T) {
	bins := pluginDir(t)
	leaks(t)
	dir := t.TempDir()
	writeConf(t, dir, "10-pods.conflist", fmt.Sprintf(ptpConflist, dir+"/ipam"))
	c := newConflist(t, dir, bins)
	if err := c.Status(t.Context()); err != nil {
		t.Fatal(err)
	}
	out := outside(t)
	one := addPod(t, c, "one", podnet.PortMapping{HostPort: 8081, ContainerPort: 8080, Protocol: "TCP"})
	two := addPod(t, c, "two")
	serve(t, one.req.NetNS, "one", ":8080")
	mustSay(t, "two", two.req.NetNS, one.ip.String()+":8080", "one "+two.ip.String())
	if said, err := ask(t, out, "192.0.2.1:8081"); err != nil || !strings.HasPrefix(said, "one ") {
		t.Errorf("host port: %q, %v", said, err)
	}
	// Debian 12's portmap fails CHECK for IPv4-only host ports, so the pod without any is checked.
	if err := c.Check(t.Context(), two.req, two.res); err != nil {
		t.Error(err)
	}
	sh(t, "nsenter --net="+two.req.NetNS+" ip link del eth0")
	if err := c.Check(t.Context(), two.req, two.res); err == nil {
		t.Error("CHECK passed for a pod whose interface is gone")
	}
	for range 2 {
		for _, p := range []pod{one, two} {
			if err := c.Del(t.Context(), p.req); err != nil {
				t.Fatal(err)
			}
			if err := c.RemoveNamespace(t.Context(), p.req.NetNS); err != nil {
				t.Fatal(err)
			}
		}
	}
	assertNothingLeft(t, dir)
}

// assertNothingLeft looks for addresses, cached results, links and DNAT rules.
func assertNothingLeft(t *testing.T, dir string) {
	t.Helper()
	left := sh(t, fmt.Sprintf("ls %s/ipam/pods | grep -v -e last_reserved -e lock; ls %[1]s/cache/results; ls %[1]s/netns; ip -o link show type veth | grep -v up0; iptables-save -t nat 2>/dev/null | grep -e --to-destination; true", dir))
	if strings.TrimSpace(left) != "" {
		t.Errorf("left: %s", left)
	}
}

func TestConflistCollectsLeaksAfterKill(t *testing.T) {
	bins := pluginDir(t)
	dir := t.TempDir()
	writeConf(t, dir, "10-pods.conflist", fmt.Sprintf(ptpConflist, dir+"/ipam"))
	before := newConflist(t, dir, bins)
	kept, leaked := addPod(t, before, "kept"), addPod(t, before, "leaked", podnet.PortMapping{HostPort: 8082, ContainerPort: 8080, Protocol: "TCP"})
	if err := before.GC(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if rules := sh(t, "iptables-save -t nat 2>/dev/null"); !strings.Contains(rules, "8082") || !exists(leaked.req.NetNS) {
		t.Errorf("GC took a fresh sandbox:\n%s", rules)
	}
	after := newConflist(t, dir, bins)
	if err := after.GC(t.Context(), []string{"kept"}); err != nil {
		t.Fatal(err)
	}
	if err := after.Check(t.Context(), kept.req, kept.res); err != nil {
		t.Errorf("GC took what it should keep: %v", err)
	}
	if rules := sh(t, "iptables-save -t nat 2>/dev/null"); strings.Contains(rules, "8082") || exists(leaked.req.NetNS) {
		t.Errorf("the leaked sandbox is still there:\n%s", rules)
	}
	if err := after.GC(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	assertNothingLeft(t, dir)
}

func TestConflistIsNotReadyUntilOneLoadsAndFollowsChanges(t *testing.T) {
	testns.Need(t)
	dir := t.TempDir()
	bins := filepath.Join(dir, "bin")
	c := newConflist(t, dir, "/nowhere", bins)
	status := func() string {
		if err := c.Status(t.Context()); err != nil {
			return err.Error()
		}
		return ""
	}
	if !strings.Contains(status(), "net.d") {
		t.Errorf("status without a folder: %q", status())
	}
	if _, err := c.Add(t.Context(), podnet.Request{SandboxID: "p", NetNS: "/proc/self/ns/net"}); err == nil {
		t.Error("ADD without a configuration")
	}
	if err := c.Del(t.Context(), podnet.Request{SandboxID: "p"}); err != nil {
		t.Errorf("DEL of nothing without a configuration: %v", err)
	}
	if err := os.Mkdir(filepath.Join(dir, "net.d"), 0o755); err != nil {
		t.Fatal(err)
	}
	c.reload() // the folder itself is found by the slow look
	writeConf(t, dir, "10-broken.conflist", `{"name": "x"`)
	writeConf(t, dir, "11-empty.conflist", `{"cniVersion": "1.0.0", "name": "x", "plugins": []}`)
	c.reload()
	if s := status(); !strings.Contains(s, "10-broken.conflist") || !strings.Contains(s, "11-empty.conflist") {
		t.Errorf("status does not name the broken files: %q", s)
	}
	writeConf(t, dir, "20-good.conf", `{"cniVersion": "1.0.0", "name": "single", "type": "ptp"}`)
	c.reload()
	if s := status(); !strings.Contains(s, `"ptp"`) || !strings.Contains(s, bins) {
		t.Errorf("status does not name the missing plugin and its folders: %q", s)
	}
	writePlugin(t, bins, "ptp", "#!/bin/sh\nexit 0\n")
	if s := status(); s != "" {
		t.Errorf("a usable file after broken ones: %q", s)
	}
	if err := os.Remove(filepath.Join(dir, "net.d/20-good.conf")); err != nil {
		t.Fatal(err)
	}
	c.reload()
	if status() == "" {
		t.Error("ready after the configuration was removed")
	}
}

func TestConflistFolderIsWatched(t *testing.T) {
	testns.Need(t)
	dir := t.TempDir()
	writeConf(t, dir, "README", "nothing yet")
	writePlugin(t, dir, "ptp", "#!/bin/sh\nexit 0\n")
	changed := make(chan struct{}, 10)
	c, err := NewConflist(ConflistConfig{
		ConfDir: filepath.Join(dir, "net.d"), BinDirs: []string{dir}, CacheDir: filepath.Join(dir, "cache"), NetNSDir: filepath.Join(dir, "netns"),
		Changed: func() { changed <- struct{}{} }, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	writeConf(t, dir, "10-good.conf", `{"cniVersion": "1.0.0", "name": "single", "type": "ptp"}`)
	select {
	case <-changed:
	case <-time.After(10 * time.Second):
		t.Fatal("not told of the change")
	}
	testns.Eventually(t, "the new configuration", func() bool { return c.Status(t.Context()) == nil })
}

// A plugin of the test records what it was given.
func TestConflistHandsOverArgumentsAndUndoesAFailedAdd(t *testing.T) {
	testns.Need(t)
	dir := t.TempDir()
	plugin := `#!/bin/sh
echo "$CNI_COMMAND $CNI_CONTAINERID $CNI_ARGS" >> ` + dir + `/calls
cat >> ` + dir + `/stdin
[ "$CNI_COMMAND" = ADD ] || exit 0
[ -e ` + dir + `/fail ] && { echo '{"cniVersion":"1.0.0","code":11,"msg":"try again later"}'; exit 1; }
echo '{"cniVersion":"1.0.0","interfaces":[{"name":"eth0","sandbox":"'$CNI_NETNS'"}],"ips":[{"interface":0,"address":"10.1.2.3/24"},{"interface":0,"address":"fd00::3/64"},{"interface":0,"address":"10.1.2.4/24"}]}'
`
	writePlugin(t, dir, "spy", plugin)
	writeConf(t, dir, "10-spy.conflist", `{"cniVersion": "1.0.0", "name": "spy", "plugins": [{"type": "spy", "capabilities":
		{"portMappings": true, "dns": true, "bandwidth": true, "cgroupPath": true, "io.kubernetes.cri.pod-annotations": true}}]}`)
	c := newConflist(t, dir, dir)
	req := podnet.Request{
		SandboxID: "p", NetNS: "/proc/self/ns/net", PodNamespace: "ns", PodName: "name", PodUID: "uid", CgroupParent: "/kubepods/pod1",
		Ports:       []podnet.PortMapping{{HostPort: 8081, ContainerPort: 80, Protocol: "UDP"}, {ContainerPort: 81}},
		DNSServers:  []string{"10.96.0.10"},
		Annotations: map[string]string{ingressBandwidth: "1M"},
	}
	res, err := c.Add(t.Context(), req)
	if err != nil {
		t.Fatal(err)
	}
	if fmt.Sprint(res.IPs) != "[10.1.2.3 fd00::3]" {
		t.Errorf("addresses %v", res.IPs)
	}
	calls, _ := os.ReadFile(filepath.Join(dir, "calls"))
	stdin, _ := os.ReadFile(filepath.Join(dir, "stdin"))
	for _, want := range []string{"IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=name;K8S_POD_INFRA_CONTAINER_ID=p;K8S_POD_UID=uid"} {
		if !strings.Contains(string(calls), want) {
			t.Errorf("calls %s lack %s", calls, want)
		}
	}
	for _, want := range []string{
		`"portMappings":[{"containerPort":80,"hostPort":8081,"protocol":"udp"}]`, `"servers":["10.96.0.10"]`, `"ingressRate":1000000`,
		`"cgroupPath":"/kubepods/pod1"`,
	} {
		if !strings.Contains(string(stdin), want) {
			t.Errorf("configuration %s lacks %s", stdin, want)
		}
	}

	if err := os.WriteFile(filepath.Join(dir, "fail"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	req.SandboxID = "q"
	if _, err := c.Add(t.Context(), req); err == nil || !strings.Contains(err.Error(), "try again later") {
		t.Errorf("the plugin's message is lost: %v", err)
	}
	calls, _ = os.ReadFile(filepath.Join(dir, "calls"))
	if !strings.Contains(string(calls), "DEL q") {
		t.Errorf("a failed ADD was not undone: %s", calls)
	}
	req.Annotations = map[string]string{ingressBandwidth: "fast"}
	if _, err := c.Add(t.Context(), req); err == nil || !strings.Contains(err.Error(), ingressBandwidth) {
		t.Errorf("a bad bandwidth annotation: %v", err)
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	req.Annotations = nil
	if _, err := c.Add(canceled, req); err == nil {
		t.Error("ADD with a canceled context")
	}
}
