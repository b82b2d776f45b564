package vm

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/reevehq/reeve/internal/testenv"
)

// app is a Deployment and its Service, with limits to look for in the cgroups, and a pod of crun.
const app = `
apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata: {name: crun}
handler: crun
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: hello}
spec:
  replicas: 2
  selector: {matchLabels: {app: hello}}
  template:
    metadata: {labels: {app: hello}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: hello
        image: localhost/reeve-hello:v1
        imagePullPolicy: Never
        ports: [{name: http, containerPort: 8080}]
        resources: {requests: {cpu: 50m, memory: 32Mi}, limits: {cpu: 500m, memory: 64Mi}}
---
apiVersion: v1
kind: Service
metadata: {name: hello}
spec: {type: NodePort, selector: {app: hello}, ports: [{name: http, port: 80, nodePort: 30080, targetPort: http}]}
---
apiVersion: v1
kind: Pod
metadata: {name: by-crun, labels: {app: by-crun}}
spec:
  runtimeClassName: crun
  terminationGracePeriodSeconds: 1
  containers: [{name: hello, image: "localhost/reeve-hello:v1", imagePullPolicy: Never}]
`

// evictBelow is how much memory the node must keep. The machine has 3 GiB.
const evictBelow = "1Gi"

// A host as users have it: systemd, cgroup v2, AppArmor. `reeve install` leaves a node that is Ready, whose pods have their
// limits in slices of systemd's and are measured, resized, killed and evicted by them, and are served through the Service
// proxy that was asked for; a repeated install changes nothing, an upgrade and kill -9 leave the pods; `reeve uninstall`
// leaves nothing. It takes minutes in the slow machine: REEVE_LONG=1.
func TestInstallOnASystemdHost(t *testing.T) {
	testenv.NeedLong(t)
	if os.Getenv("REEVE_BIN") == "" {
		testenv.Skip(t, "needs a built reeve in REEVE_BIN")
	}
	m := machine(t)
	h := host{t, m}
	// The machine has no network card; a node needs an address to be known by.
	h.sh(`ip link add uplink type dummy; ip addr add 192.0.2.10/24 dev uplink; ip link set uplink up; ip route add default via 192.0.2.1 dev uplink`)
	before := leftovers(t, m)
	h.sh("umask 077; mkdir -p /var/lib/reeve/agent/images; cp /payload/busybox.tar /var/lib/reeve/agent/images/")
	h.install("/payload/reeve")

	for _, part := range []struct {
		name string
		run  func(host)
	}{
		{"again", host.again}, {"services", host.services}, {"quality of service", host.qualityOfService}, {"resize", host.resize},
		{"stats", host.stats}, {"out of memory", host.outOfMemory}, {"eviction", host.eviction}, {"upgrade", host.upgrade}, {"kill -9", host.killed},
	} {
		began := time.Now()
		t.Run(part.name, func(t *testing.T) { part.run(h.on(t)) })
		t.Logf("%s took %v", part.name, time.Since(began).Round(time.Second))
	}

	// While the service runs, cleanup would work against it.
	if r, err := m.Run(t.Context(), Command{Args: []string{"/usr/local/bin/reeve", "cleanup", "--yes"}}); err != nil || r.Code != 78 || !strings.Contains(r.Output, "reeve uninstall") {
		t.Errorf("cleanup under a running service: exit code %d, %v: %s", r.Code, err, r.Output)
	}
	r, err := m.Run(t.Context(), Command{Args: []string{"/usr/local/bin/reeve", "uninstall", "--yes"}, Timeout: 10 * time.Minute})
	if err != nil || r.Code != 0 {
		t.Fatalf("uninstall: exit code %d, %v: %s\n%s", r.Code, err, r.Output, journal(t, m))
	}
	t.Logf("uninstall:\n%s", r.Output)
	if after := leftovers(t, m); after != before {
		t.Errorf("before\n%s\nafter uninstall\n%s", before, after)
	}
}

// install installs, or upgrades, by the program at this path.
func (h host) install(program string) string {
	h.t.Helper()
	began := time.Now()
	r, err := h.m.Run(h.t.Context(), Command{
		Args:    []string{program, "install", "server", "--proxy-mode=ipvs", "--eviction-hard=memory.available<" + evictBelow, "--eviction-pressure-transition-period=5s", "--wait=25m"},
		Timeout: 30 * time.Minute,
	})
	if err != nil || r.Code != 0 || !strings.Contains(r.Output, "reeve-server.service is ready after") {
		h.t.Fatalf("install: exit code %d, %v: %s\n%s", r.Code, err, r.Output, journal(h.t, h.m))
	}
	h.t.Logf("install took %v:\n%s", time.Since(began).Round(time.Second), r.Output)
	return r.Output
}

// again installs what is installed.
func (h host) again() {
	const invocation = "systemctl show -P InvocationID reeve-server"
	was := h.sh(invocation)
	if out := h.install("/payload/reeve"); !strings.Contains(out, "nothing was changed") {
		h.t.Error("it does not say that nothing was changed")
	}
	if now := h.sh(invocation); now != was {
		h.t.Error("the service was restarted")
	}
	if out := h.kubectl("get nodes"); !strings.Contains(out, " Ready ") {
		h.t.Errorf("after install the node is not Ready:\n%s", out)
	}
	// Another service of ours on this host, other data under the same service: refused, and nothing is changed.
	for _, tc := range []struct{ args, says string }{
		{"agent --server=https://192.0.2.10:6443 --token-file=/x", "reeve-server.service is installed here"},
		{"server --data-dir=/var/lib/other", "/var/lib/reeve"},
		{"server --proxy-mode=fast", "--proxy-mode"},
	} {
		if r, err := h.m.Sh(h.t.Context(), "reeve install "+tc.args); err != nil || r.Code != 78 || !strings.Contains(r.Output, tc.says) {
			h.t.Errorf("install %s: exit code %d, %v: %s", tc.args, r.Code, err, r.Output)
		}
	}
	h.sh("rm -rf /var/lib/other; test ! -e /etc/systemd/system/reeve-agent.service")
}

// fetch gets pages through the Service. busybox-static's wget dies of a segmentation fault here.
const fetch = `ip=$(reeve kubectl get service hello -o jsonpath='{.spec.clusterIP}')
	for i in 1 2 3 4 5 6; do /payload/fetch http://$ip/ || exit; done; /payload/fetch http://192.0.2.10:30080/`

// services runs an app with limits behind a Service, and a pod of crun beside it.
func (h host) services() {
	h.apply(app)
	h.kubectl("rollout status deployment/hello --timeout=10m")
	h.kubectl("wait --for=condition=Ready pod/by-crun --timeout=5m")
	// Limits in the pods' own cgroups, below systemd's slices.
	cgroups := h.sh(`cd /sys/fs/cgroup && for d in $(find . -path '*kubepods*' -name '*pod*.slice'); do echo "$d cpu.max=$(cat $d/cpu.max) memory.max=$(cat $d/memory.max) cpu.weight=$(cat $d/cpu.weight)"; done; find . -path '*kubepods*' -name '*.scope'`)
	if n := strings.Count(cgroups, "cpu.max=50000 100000 memory.max=67108864"); n != 2 {
		h.t.Errorf("%d pods' slices with 500m and 64Mi, want 2:\n%s", n, cgroups)
	}
	if !strings.Contains(cgroups, "kubepods-burstable.slice/") || !strings.Contains(cgroups, ".scope") {
		h.t.Errorf("no slices and scopes as the systemd driver makes them:\n%s", cgroups)
	}
	if pages := h.sh(fetch); strings.Count(pages, "\n") < 7 {
		h.t.Errorf("pages through the Service:\n%s", pages)
	}
	if vs := h.sh("ipvsadm -Sn; cat /proc/pressure/memory"); !strings.Contains(vs, "192.0.2.10:30080 -s rr") || !strings.Contains(vs, "some avg10") {
		h.t.Errorf("no virtual services, or no pressure information:\n%s", vs)
	}
}

// samePods does something and finds the same containers after it, serving.
func (h host) samePods(what string, do func()) {
	h.t.Helper()
	const containers = "get pods -o jsonpath='{.items[*].status.containerStatuses[*].containerID}'"
	before := h.kubectl(containers)
	do()
	poll(h.t, h.m, "the API after "+what, "reeve kubectl get --raw /readyz", 10*time.Minute)
	if after := h.kubectl(containers); after != before {
		h.t.Errorf("containers before %s %s, after %s", what, before, after)
	}
	h.sh(fetch)
}

// upgrade installs another program over the one that runs.
func (h host) upgrade() {
	h.sh("cp /payload/reeve /root/reeve && echo >> /root/reeve")
	h.samePods("the upgrade", func() {
		if out := h.install("/root/reeve"); !strings.Contains(out, "Wrote /usr/local/bin/reeve.") || !strings.Contains(out, "Restarting") {
			h.t.Error("it says nothing of a restart")
		}
	})
	h.sh("cmp /root/reeve /usr/local/bin/reeve && rm /root/reeve")
}

// killed ends everything of reeve's at once; systemd starts it again.
func (h host) killed() {
	h.samePods("kill -9", func() {
		h.sh("systemctl kill -s KILL reeve-server")
	})
}

// leftovers is what reeve may leave on a host. The tables ip mangle, nat and filter, empty, are iptables' own: it makes
// them when it is first used and has no command that removes them.
func leftovers(t *testing.T, m *Machine) string {
	t.Helper()
	return sh(t, m, `pgrep -fa 'reeve|containerd|pause|logpump' | grep -v guest | grep -v pgrep; ls -d /var/lib/reeve /var/lib/kubelet /usr/local/bin/reeve /etc/systemd/system/reeve-* /var/log/pods 2>/dev/null
		ip -br link | awk '{print $1}'; iptables-save | grep -v '^[#:*]\|COMMIT'; nft list tables | grep -vE '^table ip6? (mangle|nat|filter)$'; ipset list -n; ipvsadm -Sn; ip netns; mount | grep -i 'reeve\|kubelet\|overlay'
		find /sys/fs/cgroup -maxdepth 3 -name '*kubepods*' -o -maxdepth 3 -name '*reeve*' | grep -v guest; systemctl list-units --all --no-legend '*reeve*' '*kubepods*' | grep -v guest; true`)
}

func journal(t *testing.T, m *Machine) string {
	r, _ := m.Sh(t.Context(), "systemctl status reeve-server --no-pager | head -30; journalctl -u reeve-server --no-pager -o cat | grep -v etcd: | tail -60")
	return fmt.Sprintf("\n%s", r.Output)
}

// poll runs a script until it succeeds.
func poll(t *testing.T, m *Machine, what, script string, limit time.Duration) {
	t.Helper()
	var r Result
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(time.Second) {
		var err error
		if r, err = m.Sh(t.Context(), script); err != nil {
			t.Fatal(err)
		}
		if r.Code == 0 {
			return
		}
	}
	t.Fatalf("waited %v for %s: %s", limit, what, r.Output)
}
