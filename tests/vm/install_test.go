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

// A host as users have it: systemd, cgroup v2, AppArmor. `reeve install` leaves a node that is Ready, runs pods in slices of
// systemd's with their limits, serves them through the Service proxy that was asked for, outlives kill -9 and reeve's
// restart; `reeve uninstall` leaves nothing. It takes minutes in the slow machine: REEVE_LONG=1.
func TestInstallOnASystemdHost(t *testing.T) {
	if os.Getenv("REEVE_LONG") != "1" {
		t.Skip("takes minutes: REEVE_LONG=1 runs it")
	}
	if os.Getenv("REEVE_BIN") == "" {
		testenv.Skip(t, "needs a built reeve in REEVE_BIN")
	}
	m := machine(t)
	// The machine has no network card; a node needs an address to be known by.
	sh(t, m, `ip link add uplink type dummy; ip addr add 192.0.2.10/24 dev uplink; ip link set uplink up; ip route add default via 192.0.2.1 dev uplink`)
	before := leftovers(t, m)
	start := time.Now()
	r, err := m.Run(t.Context(), Command{Args: []string{"/payload/reeve", "install", "server", "--proxy-mode=ipvs"}, Timeout: 20 * time.Minute})
	if err != nil || r.Code != 0 {
		t.Fatalf("install: exit code %d, %v: %s\n%s", r.Code, err, r.Output, journal(t, m))
	}
	t.Logf("Installed and ready after %v", time.Since(start).Round(time.Second))
	kubectl := func(args string) string {
		t.Helper()
		r, err := m.Sh(t.Context(), "export KUBECONFIG=/var/lib/reeve/admin.kubeconfig; reeve kubectl "+args)
		if err != nil || r.Code != 0 {
			t.Fatalf("kubectl %s: exit code %d, %v: %s\n%s", args, r.Code, err, r.Output, journal(t, m))
		}
		return r.Output
	}
	kubectl("wait --for=condition=Ready node --all --timeout=10m")
	if r, err := m.Run(t.Context(), Command{Args: []string{"sh", "-c", "cat > /root/app.yaml <<'EOF'\n" + app + "\nEOF\n"}}); err != nil || r.Code != 0 {
		t.Fatal(r, err)
	}
	kubectl("apply -f /root/app.yaml")
	kubectl("rollout status deployment/hello --timeout=10m")
	kubectl("wait --for=condition=Ready pod/by-crun --timeout=5m")

	// Limits in the pods' own cgroups, below systemd's slices.
	cgroups := sh(t, m, `cd /sys/fs/cgroup && for d in $(find . -path '*kubepods*' -name '*pod*.slice'); do echo "$d cpu.max=$(cat $d/cpu.max) memory.max=$(cat $d/memory.max) cpu.weight=$(cat $d/cpu.weight)"; done; find . -path '*kubepods*' -name '*.scope'`)
	if n := strings.Count(cgroups, "cpu.max=50000 100000 memory.max=67108864"); n != 2 {
		t.Errorf("%d pods' slices with 500m and 64Mi, want 2:\n%s", n, cgroups)
	}
	if !strings.Contains(cgroups, "kubepods-burstable.slice/") || !strings.Contains(cgroups, ".scope") {
		t.Errorf("no slices and scopes as the systemd driver makes them:\n%s", cgroups)
	}
	if got := sh(t, m, `for p in $(pgrep -f crun); do tr '\0' ' ' < /proc/$p/cmdline; echo; done; ctr -a /var/lib/reeve/containerd/containerd.sock -n k8s.io c ls | grep hello; true`); !strings.Contains(got, "runc.v2") {
		t.Logf("containers:\n%s", got)
	}
	fetch := `ip=$(KUBECONFIG=/var/lib/reeve/admin.kubeconfig reeve kubectl get service hello -o jsonpath='{.spec.clusterIP}')
		for i in 1 2 3 4 5 6; do busybox wget -q -T 10 -O - http://$ip/; done; busybox wget -q -T 10 -O - http://192.0.2.10:30080/`
	if pages := sh(t, m, fetch); strings.Count(pages, "\n") < 7 {
		t.Errorf("pages through the Service:\n%s", pages)
	}
	if vs := sh(t, m, "ipvsadm -Sn; cat /proc/pressure/memory"); !strings.Contains(vs, "192.0.2.10:30080 -s rr") || !strings.Contains(vs, "some avg10") {
		t.Errorf("no virtual services, or no pressure information:\n%s", vs)
	}

	// kill -9 of everything of reeve's, then a restart by systemd: the pods are the same.
	pods := kubectl("get pods -o jsonpath='{.items[*].status.containerStatuses[*].containerID}'")
	sh(t, m, `systemctl kill -s KILL reeve-server; sleep 3; systemctl is-active reeve-server || systemctl status reeve-server --no-pager`)
	poll(t, m, "the API after kill -9", "KUBECONFIG=/var/lib/reeve/admin.kubeconfig reeve kubectl get --raw /readyz", 10*time.Minute)
	if again := kubectl("get pods -o jsonpath='{.items[*].status.containerStatuses[*].containerID}'"); again != pods {
		t.Errorf("containers before kill -9 %s, after %s", pods, again)
	}
	sh(t, m, fetch)

	r, err = m.Run(t.Context(), Command{Args: []string{"/usr/local/bin/reeve", "uninstall", "--yes"}, Timeout: 10 * time.Minute})
	if err != nil || r.Code != 0 {
		t.Fatalf("uninstall: exit code %d, %v: %s\n%s", r.Code, err, r.Output, journal(t, m))
	}
	if after := leftovers(t, m); after != before {
		t.Errorf("before\n%s\nafter uninstall\n%s", before, after)
	}
}

// leftovers is what reeve may leave on a host.
func leftovers(t *testing.T, m *Machine) string {
	t.Helper()
	return sh(t, m, `pgrep -fa 'reeve|containerd|pause|logpump' | grep -v guest | grep -v pgrep; ls -d /var/lib/reeve /var/lib/kubelet /usr/local/bin/reeve /etc/systemd/system/reeve-* /var/log/pods 2>/dev/null
		ip -br link | awk '{print $1}'; iptables-save | grep -v '^[#:*]\|COMMIT'; nft list tables; ipset list -n; ipvsadm -Sn; ip netns; mount | grep -i 'reeve\|kubelet\|overlay'
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
