package vm

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/reevehq/reeve/internal/ociarchive"
)

// busybox is the image of what runs in the pods here.
const busybox = "localhost/busybox:v1"

// writeBusybox makes an archive of the image, as the agent imports it.
func writeBusybox(path string) error {
	program, err := findBusybox()
	if err != nil {
		return err
	}
	img := ociarchive.Image{Ref: busybox, Arch: "amd64", Fast: true, Files: []ociarchive.File{{Path: "bin/busybox", Data: program}, {Path: "tmp/", Mode: 0o777}}}
	for _, applet := range []string{"sh", "sleep", "tail", "dd", "cat", "touch"} {
		img.Files = append(img.Files, ociarchive.File{Path: "bin/" + applet, Link: "busybox"})
	}
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return ociarchive.Write(f, img)
}

func findBusybox() ([]byte, error) {
	for _, path := range []string{"/bin/busybox", "/usr/bin/busybox"} {
		if b, err := os.ReadFile(path); err == nil {
			return b, nil
		}
	}
	return nil, fmt.Errorf("needs the program busybox (package busybox-static)")
}

// host is the machine with reeve installed.
type host struct {
	t *testing.T
	m *Machine
}

// on is the same host with a subtest's failures.
func (h host) on(t *testing.T) host { return host{t, h.m} }

func (h host) sh(script string) string {
	h.t.Helper()
	return sh(h.t, h.m, script)
}

func (h host) kubectl(args string) string {
	h.t.Helper()
	r, err := h.m.Sh(h.t.Context(), "reeve kubectl "+args)
	if err != nil || r.Code != 0 {
		h.t.Fatalf("kubectl %s: exit code %d, %v: %s\n%s", args, r.Code, err, r.Output, journal(h.t, h.m))
	}
	return r.Output
}

// apply gives the cluster a manifest.
func (h host) apply(manifest string) {
	h.t.Helper()
	h.sh("cat > /root/manifest.yaml <<'EOF'\n" + manifest + "\nEOF\n")
	h.kubectl("apply -f /root/manifest.yaml")
}

// pod is a manifest of one pod of busybox; containers is YAML in one line.
func pod(name, more, containers string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {name: %s}\nspec: {terminationGracePeriodSeconds: 0, %scontainers: [%s]}\n---\n", name, more, containers)
}

func container(name, resources, command string) string {
	return fmt.Sprintf("{name: %s, image: %q, imagePullPolicy: Never, resources: %s, command: %s}", name, busybox, resources, command)
}

const sleeps = `[sleep, "3600"]`

// seen is as much of a pod as is looked at here.
type seen struct {
	Metadata struct{ Name, UID string }
	Status   struct {
		Phase, Reason, Message, QosClass string
		ContainerStatuses                []struct {
			Name, ContainerID string
			RestartCount      int
			State, LastState  struct {
				Running    *struct{ StartedAt string }
				Terminated *struct {
					Reason   string
					ExitCode int
				}
			}
		}
	}
}

func (h host) pod(name string) seen {
	h.t.Helper()
	var p seen
	if err := json.Unmarshal([]byte(h.kubectl("get pod "+name+" -o json")), &p); err != nil {
		h.t.Fatal(err)
	}
	return p
}

// until polls a pod.
func (h host) until(name, what string, ok func(seen) bool) seen {
	h.t.Helper()
	var p seen
	for deadline := time.Now().Add(vmPatience); time.Now().Before(deadline); time.Sleep(time.Second) {
		if p = h.pod(name); ok(p) {
			return p
		}
	}
	h.t.Fatalf("waited %v for %s to be %s: %+v\n%s", vmPatience, name, what, p, journal(h.t, h.m))
	return p
}

// vmPatience bounds a hang in a machine that is slow on a host that is busy.
const vmPatience = 5 * time.Minute

// slice is the cgroup of a pod below /sys/fs/cgroup, as the systemd driver names it.
func (p seen) slice() string {
	class := map[string]string{"Burstable": "burstable", "BestEffort": "besteffort"}[p.Status.QosClass]
	at, name := "kubepods.slice", "kubepods"
	if class != "" {
		name += "-" + class
		at = filepath.Join(at, name+".slice")
	}
	return filepath.Join(at, name+"-pod"+strings.ReplaceAll(p.Metadata.UID, "-", "_")+".slice")
}

// scope is the cgroup of a container.
func (p seen) scope(container string) string {
	for _, c := range p.Status.ContainerStatuses {
		if c.Name == container {
			_, id, _ := strings.Cut(c.ContainerID, "://")
			return filepath.Join(p.slice(), "*"+id+".scope")
		}
	}
	return "no such container"
}

// limits compares files of a cgroup: "cpu.max=50000 100000" and so on.
func (h host) limits(what, cgroup string, want ...string) {
	h.t.Helper()
	var files []string
	for _, w := range want {
		file, _, _ := strings.Cut(w, "=")
		files = append(files, file)
	}
	got := h.sh("cd /sys/fs/cgroup/" + cgroup + " && for f in " + strings.Join(files, " ") + "; do echo $f=$(cat $f); done")
	if strings.TrimSpace(got) != strings.Join(want, "\n") {
		h.t.Errorf("%s has\n%s\nwant\n%s", what, got, strings.Join(want, "\n"))
	}
}

// qualityOfService finds each class's pods where the class's slice is, with the figures of their requests and limits on the
// pod and on its containers, and the node's own limits above; systemd's next look at the tree leaves them as they are.
func (h host) qualityOfService() {
	h.apply(pod("guaranteed", "", container("c", "{limits: {cpu: 200m, memory: 40Mi}}", sleeps)+","+container("d", "{limits: {cpu: 105m, memory: 24Mi}}", sleeps)) +
		pod("burstable", "", container("c", "{requests: {cpu: 500m, memory: 8Mi}, limits: {memory: 40Mi}}", sleeps)) +
		pod("besteffort", "", container("c", "{}", sleeps)))
	h.kubectl("wait --for=condition=Ready pod/guaranteed pod/burstable pod/besteffort --timeout=5m")
	var node struct {
		Status struct{ Capacity map[string]string }
	}
	if err := json.Unmarshal([]byte(h.kubectl("get node vm -o json")), &node); err != nil {
		h.t.Fatal(err)
	}
	var kib int64
	if _, err := fmt.Sscanf(node.Status.Capacity["memory"], "%dKi", &kib); err != nil {
		h.t.Fatalf("the node's memory is %q", node.Status.Capacity["memory"])
	}
	g, b, e := h.pod("guaranteed"), h.pod("burstable"), h.pod("besteffort")
	for range 2 {
		h.limits("all pods", "kubepods.slice", fmt.Sprintf("memory.max=%d", kib<<10))
		h.limits("the guaranteed pod", g.slice(), "cpu.max=31000 100000", "memory.max=67108864") // 305m in whole percents
		h.limits("its container", g.scope("c"), "cpu.max=20000 100000", "memory.max=41943040")
		h.limits("its other container", g.scope("d"), "memory.max=25165824")
		h.limits("the burstable pod", b.slice(), "cpu.max=max 100000", "cpu.weight=59", "memory.max=41943040")
		h.limits("its container", b.scope("c"), "memory.max=41943040")
		h.limits("the pod without requests", e.slice(), "cpu.max=max 100000", "cpu.weight=1", "memory.max=max")
		h.sh("systemctl daemon-reload")
	}
	if units := h.sh("systemctl list-units --no-legend --plain 'kubepods*.slice' 'cri-containerd-*.scope' | wc -l"); units == "0\n" {
		h.t.Error("systemd knows none of the pods' units")
	}
}

// resize changes a running container's limits through the subresource.
func (h host) resize() {
	before := h.pod("burstable")
	h.kubectl(`patch pod burstable --subresource resize --patch '{"spec":{"containers":[{"name":"c","resources":{"requests":{"cpu":"1","memory":"8Mi"},"limits":{"memory":"60Mi"}}}]}}'`)
	poll(h.t, h.m, "the resized limits", "cd /sys/fs/cgroup/"+before.slice()+" && test $(cat memory.max) = 62914560 && test $(cat *"+strings.TrimPrefix(filepath.Base(before.scope("c")), "*")+"/memory.max) = 62914560", vmPatience)
	h.limits("the resized pod", before.slice(), "cpu.weight=100", "memory.max=62914560")
	h.sh("systemctl daemon-reload")
	h.limits("the resized pod", before.slice(), "cpu.weight=100", "memory.max=62914560")
	after := h.pod("burstable")
	if a, b := after.Status.ContainerStatuses[0], before.Status.ContainerStatuses[0]; a.ContainerID != b.ContainerID || a.RestartCount != 0 {
		h.t.Errorf("the container was not resized in place: %+v, then %+v", b, a)
	}
}

// outOfMemory has a container take more than its limit. memory.events says so, the kubelet's API too.
func (h host) outOfMemory() {
	h.apply(pod("greedy", "restartPolicy: Never, ", container("c", "{limits: {memory: 20Mi}}", "[tail, /dev/zero]")+","+container("d", "{limits: {memory: 20Mi}}", sleeps)))
	p := h.until("greedy", "killed for its memory", func(p seen) bool {
		return len(p.Status.ContainerStatuses) == 2 && p.Status.ContainerStatuses[0].State.Terminated != nil
	})
	c, d := p.Status.ContainerStatuses[0], p.Status.ContainerStatuses[1]
	if c.State.Terminated.Reason != "OOMKilled" || c.State.Terminated.ExitCode != 137 || d.State.Running == nil {
		h.t.Errorf("it ended as %+v, its neighbour is %+v", *c.State.Terminated, d.State)
	}
	// The kernel ends a container as a whole (memory.oom.group), and counts the process that it chose once more then.
	if events := h.sh("cat /sys/fs/cgroup/" + p.slice() + "/memory.events"); strings.Contains(events, "oom_kill 0\n") || !strings.Contains(events, "oom_group_kill 1\n") {
		h.t.Errorf("the pod's slice tells\n%s", events)
	}
	h.kubectl("delete pod greedy --wait")
	poll(h.t, h.m, "its slice to be gone", "! systemctl list-units --all --no-legend '*"+strings.ReplaceAll(p.Metadata.UID, "-", "_")+"*' | grep . && ! test -e /sys/fs/cgroup/"+p.slice(), vmPatience)
}

// stats reads what the agent measures from cgroup v2, pressure included. A rate needs two readings.
func (h host) stats() {
	type usage struct {
		WorkingSetBytes, UsageNanoCores *int64
		Psi                             *struct{ Some struct{ Total int64 } }
	}
	type podStats struct {
		PodRef      struct{ Name string }
		CPU, Memory usage
		Containers  []struct{ Memory usage }
	}
	var text string
	complete := func(p podStats) bool {
		return p.CPU.UsageNanoCores != nil && p.Memory.WorkingSetBytes != nil && *p.Memory.WorkingSetBytes > 0 && p.Memory.Psi != nil &&
			len(p.Containers) == 1 && p.Containers[0].Memory.WorkingSetBytes != nil
	}
	for deadline := time.Now().Add(vmPatience); time.Now().Before(deadline); time.Sleep(time.Second) {
		var summary struct{ Pods []podStats }
		text = h.kubectl("get --raw /api/v1/nodes/vm/proxy/stats/summary")
		if err := json.Unmarshal([]byte(text), &summary); err != nil {
			h.t.Fatal(err)
		}
		for _, p := range summary.Pods {
			if p.PodRef.Name == "burstable" && complete(p) {
				return
			}
		}
	}
	h.t.Errorf("the summary lacks rate, working set or pressure of the pod:\n%s", text)
}

// eviction has a pod take what the node must keep: the kernel's pressure triggers and the clock see it, the pod goes and no
// other, the kernel kills nobody, and the node heals.
func (h host) eviction() {
	sources := h.sh("journalctl -u reeve-server -o cat | grep 'Watching memory'")
	if strings.Count(sources, "pressure") < 2 || !strings.Contains(sources, "events") {
		h.t.Errorf("memory is not watched by pressure and events:\n%s", sources)
	}
	h.apply("apiVersion: v1\nkind: Pod\nmetadata: {name: hoarder}\nspec:\n  terminationGracePeriodSeconds: 0\n  restartPolicy: Never\n  volumes: [{name: v, emptyDir: {medium: Memory}}]\n  containers:\n" +
		"  - {name: c, image: \"" + busybox + "\", imagePullPolicy: Never, resources: {requests: {memory: 10Mi}}, volumeMounts: [{name: v, mountPath: /v}],\n" +
		"     command: [sh, -c, \"i=0; while [ $i -lt 400 ]; do dd if=/dev/zero of=/v/$i bs=1M count=10 2>/dev/null; i=$((i+1)); sleep 0.1; done; exec sleep 3600\"]}\n")
	p := h.until("hoarder", "evicted", func(p seen) bool { return p.Status.Phase == "Failed" })
	if p.Status.Reason != "Evicted" || !strings.Contains(p.Status.Message, "The node was low on resource: memory. Threshold quantity: "+evictBelow) {
		h.t.Errorf("it ended as %s: %s", p.Status.Reason, p.Status.Message)
	}
	for _, c := range p.Status.ContainerStatuses {
		if c.State.Terminated != nil && c.State.Terminated.Reason == "OOMKilled" {
			h.t.Error("the kernel was there first")
		}
	}
	if taken := h.kubectl("get pods -o jsonpath='{.items[?(@.status.phase!=\"Running\")].metadata.name}'"); strings.TrimSpace(taken) != "hoarder" {
		h.t.Errorf("pods that do not run: %s", taken)
	}
	h.kubectl("wait --for=condition=MemoryPressure=false node/vm --timeout=10m")
	h.kubectl("delete pod hoarder --wait")
}
