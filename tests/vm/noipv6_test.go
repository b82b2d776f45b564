package vm

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/reevehq/reeve/internal/testenv"
)

// dualStack is an app behind a Service that would rather have both families.
const dualStack = `
apiVersion: apps/v1
kind: Deployment
metadata: {name: hello}
spec:
  selector: {matchLabels: {app: hello}}
  template:
    metadata: {labels: {app: hello}}
    spec:
      terminationGracePeriodSeconds: 1
      containers: [{name: hello, image: "localhost/reeve-hello:v1", imagePullPolicy: Never, ports: [{name: http, containerPort: 8080}]}]
---
apiVersion: v1
kind: Service
metadata: {name: hello}
spec: {type: NodePort, ipFamilyPolicy: PreferDualStack, selector: {app: hello}, ports: [{name: http, port: 80, nodePort: 30080, targetPort: http}]}
`

// A kernel started with ipv6.disable=1, where nobody can open an IPv6 socket: the Service proxy serves IPv4 in every mode,
// and, where reeve was built, a node installs itself, is Ready and serves pages through a Service. It takes minutes in a
// machine of its own: REEVE_LONG=1.
func TestKernelWithoutIPv6(t *testing.T) {
	testenv.NeedLong(t)
	if err := Missing(); err != nil {
		testenv.Skip(t, err.Error())
	}
	dir, reeve := t.TempDir(), os.Getenv("REEVE_BIN")
	files := map[string]string{}
	for name, pkg := range map[string]string{"proxy.test": "proxy", "fetch": "tests/node/fetch"} {
		files[name] = filepath.Join(dir, name)
		if err := compile(t.Context(), files[name], pkg); err != nil {
			t.Fatal(err)
		}
	}
	if reeve != "" {
		files["reeve"] = reeve
	}
	m, err := Start(t.Context(), Options{Files: files, MemoryMiB: 3072, Kernel: []string{"ipv6.disable=1"}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.Close() })
	sh(t, m, "test ! -e /proc/net/if_inet6 && test ! -e /proc/sys/net/ipv6")
	t.Run("proxy", func(t *testing.T) {
		runTests(t, m, "/payload/proxy.test", []string{"-test.run", "^TestKernelWithoutIPv6$"}, "REEVE_NO_IPV6=1", "REEVE_LOG="+os.Getenv("REEVE_LOG"))
	})
	t.Run("node", func(t *testing.T) {
		if reeve == "" {
			testenv.Skip(t, "needs a built reeve in REEVE_BIN")
		}
		nodeWithoutIPv6(host{t, m})
	})
}

func nodeWithoutIPv6(h host) {
	h.sh(`ip link add uplink type dummy; ip addr add 192.0.2.10/24 dev uplink; ip link set uplink up; ip route add default via 192.0.2.1 dev uplink`)
	r, err := h.m.Run(h.t.Context(), Command{Args: []string{"/payload/reeve", "install", "server", "--wait=25m"}, Timeout: 30 * time.Minute})
	if err != nil || r.Code != 0 {
		h.t.Fatalf("install: exit code %d, %v: %s\n%s", r.Code, err, r.Output, journal(h.t, h.m))
	}
	h.apply(dualStack)
	h.kubectl("rollout status deployment/hello --timeout=10m")
	pages := h.sh(fetch)
	if strings.Count(pages, "\n") < 7 {
		h.t.Errorf("pages through the Service:\n%s", pages)
	}
	// Everything listens, in IPv4: API, kubelet, its health, the proxy's metrics and health, cluster DNS.
	listening := h.sh("ss -Hltn | awk '{print $4}'")
	for _, port := range []string{":6443", ":10250", ":10248", ":10249", ":10256", "10.96.0.10:53"} {
		if !strings.Contains(listening, port+"\n") {
			h.t.Errorf("nobody listens on %s:\n%s", port, listening)
		}
	}
	for _, url := range []string{"http://127.0.0.1:10256/healthz", "http://127.0.0.1:10248/healthz"} {
		h.sh("/payload/fetch " + url)
	}
	if events := h.kubectl("get events -A"); strings.Contains(events, "IPFamilyNotProxied") || strings.Contains(events, "FirewallDropsServices") {
		h.t.Errorf("Events of a family that nobody asked for:\n%s", events)
	}
	said := h.sh("journalctl -u reeve-server --no-pager -o cat")
	for line := range strings.Lines(said) {
		if strings.Contains(line, "address family not supported") || strings.Contains(line, "Address family not supported") {
			h.t.Errorf("it tried IPv6: %s", line)
		}
	}
	if r, err := h.m.Run(h.t.Context(), Command{Args: []string{"/usr/local/bin/reeve", "uninstall", "--yes"}, Timeout: 10 * time.Minute}); err != nil || r.Code != 0 {
		h.t.Errorf("uninstall: exit code %d, %v: %s", r.Code, err, r.Output)
	}
}
