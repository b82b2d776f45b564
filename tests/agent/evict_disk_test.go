package agent

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
)

// filesystem makes an ext4 file system of the size on a loop device and mounts it on dir. It goes with the mount.
func filesystem(t testing.TB, dir string, bytes int64, inodes int) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	file := dir + ".ext4"
	f, err := os.Create(file)
	if err == nil {
		err = errors.Join(f.Truncate(bytes), f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, cmd := range [][]string{
		{"mkfs.ext4", "-q", "-F", "-m", "0", "-N", strconv.Itoa(inodes), "-J", "size=4", file},
		{"mount", "-o", "loop", file, dir},
	} {
		if out, err := exec.Command(cmd[0], cmd[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s", cmd, err, out)
		}
	}
	_ = os.Remove(filepath.Join(dir, "lost+found"))
}

func (s *pressed) capacity() {
	n := s.node()
	if got := n.Status.Capacity.Memory().Value(); got != 600*mib {
		s.t.Errorf("memory capacity is %d, want the limit around the node, %d", got, 600*mib)
	}
	if got := n.Status.Allocatable.Memory().Value(); got != 500*mib {
		s.t.Errorf("allocatable memory is %d, want %d: less what must be left", got, 500*mib)
	}
	st := n.Status.Allocatable[v1.ResourceEphemeralStorage]
	whole := n.Status.Capacity[v1.ResourceEphemeralStorage]
	if got, want := st.Value(), whole.Value()-int64(float64(whole.Value())*0.15); got != want || whole.Value() > 200*mib {
		s.t.Errorf("allocatable storage is %d of %d, want %d", got, whole.Value(), want)
	}
}

func (s *pressed) imageFS() {
	writes := func(mb int, requests string) string {
		return fmt.Sprintf(`{restartPolicy: Never, containers: [{name: c, resources: {requests: {%s}},
			command: [sh, -c, "dd if=/dev/urandom of=/tmp/data bs=1M count=%d 2>/dev/null; sync; touch /story/$HOSTNAME; while [ ! -e /story/more-$HOSTNAME ]; do sleep 0.2; done; dd if=/dev/urandom of=/tmp/more bs=1M count=110; sleep 3600"]}]}`, requests, mb)
	}
	s.pod("small", writes(5, ""))
	s.pod("asked", writes(60, "ephemeral-storage: 70Mi"))
	s.running("small")
	s.running("asked")
	s.eventually("both to have written", func() error {
		_, a := os.Stat(s.path("small"))
		_, b := os.Stat(s.path("asked"))
		return errors.Join(a, b)
	})
	before := s.free(filepath.Join(s.DataDir(), "containerd"))
	s.t.Logf("image file system: %d MiB free of 400, images unused and all", before/mib)
	// So much that only the unused image's room is missing.
	s.pod("hog", writes(int(before/mib)-80, ""))
	s.pressure(v1.NodeDiskPressure, v1.TaintNodeDiskPressure, true)
	// While the condition lasts, nobody new comes in but critical pods.
	s.pod("late", `{nodeName: node-a, containers: [{name: c, command: [sleep, "3600"]}]}`)
	s.pod("vital", `{nodeName: node-a, priorityClassName: system-node-critical, containers: [{name: c, command: [sleep, "3600"]}]}`)
	rejected := s.ended("late", v1.PodFailed)
	if rejected.Status.Reason != "Evicted" || !strings.Contains(rejected.Status.Message, "The node had condition: [DiskPressure]") {
		s.t.Errorf("a pod under disk pressure: %s: %s", rejected.Status.Reason, rejected.Status.Message)
	}
	s.running("vital")
	s.nodeEvent("EvictionThresholdMet", "Attempting to reclaim ephemeral-storage")
	s.pressure(v1.NodeDiskPressure, v1.TaintNodeDiskPressure, false)
	s.pod("ballast", `{containers: [{name: c, image: "localhost/ballast:v1"}]}`)
	s.wait("ballast", "without its image", func(p *v1.Pod) error { return waiting(p, "c", "ErrImageNeverPull") })
	s.unharmed("small", "asked", "hog")

	// No image is left to go: now it is the pod furthest above what it asked for.
	if err := os.WriteFile(s.path("more-hog"), nil, 0o644); err != nil {
		s.t.Fatal(err)
	}
	s.evicted("hog", "The node was low on resource: ephemeral-storage. Threshold quantity:", "Container c was using", "request is 0")
	s.pressure(v1.NodeDiskPressure, v1.TaintNodeDiskPressure, false)
	s.unharmed("small", "asked", "vital")
	s.eventually("the hog's writable layer to be gone", func() error {
		if now := s.free(filepath.Join(s.DataDir(), "containerd")); now < before {
			return fmt.Errorf("%d MiB free, %d before", now/mib, before/mib)
		}
		return nil
	})
	s.clear("small", "asked", "hog", "late", "vital", "ballast")
}

func (s *pressed) soft() {
	// It writes to its emptyDir, ends in good order within the grace that the node leaves it, and has said so.
	s.pod("gentle", `{restartPolicy: Never, terminationGracePeriodSeconds: 60, containers: [{name: c, volumeMounts: [{name: v, mountPath: /v}],
		command: [sh, -c, "trap 'sleep 1; echo farewell >> /story/log; exit 0' TERM; dd if=/dev/zero of=/v/data bs=1M count=110 2>/dev/null; while :; do sleep 0.1; done"]}],
		volumes: [{name: v, emptyDir: {}}]}`)
	s.pod("frugal", `{containers: [{name: c, volumeMounts: [{name: v, mountPath: /v}], command: [sh, -c, "dd if=/dev/zero of=/v/data bs=1M count=5; exec sleep 3600"]}], volumes: [{name: v, emptyDir: {}}]}`)
	s.running("frugal")
	s.evicted("gentle", "The node was low on resource: ephemeral-storage.")
	if got := s.story(); len(got) != 1 || got[0] != "farewell" {
		s.t.Errorf("the pod's last words are %q: a soft threshold leaves it time", got)
	}
	s.pressure(v1.NodeDiskPressure, v1.TaintNodeDiskPressure, false)
	s.unharmed("frugal")
	s.clear("gentle", "frugal")
}

func (s *pressed) inodes() {
	s.pod("litter", `{restartPolicy: Never, containers: [{name: c, volumeMounts: [{name: v, mountPath: /v}],
		command: [sh, -c, "i=0; while [ $i -lt 3200 ]; do : > /v/$i; i=$((i+1)); done; exec sleep 3600"]}], volumes: [{name: v, emptyDir: {}}]}`)
	s.pod("tidy", `{containers: [{name: c, volumeMounts: [{name: v, mountPath: /v}], command: [sleep, "3600"]}], volumes: [{name: v, emptyDir: {}}]}`)
	s.running("tidy")
	s.evicted("litter", "The node was low on resource: inodes.")
	s.pressure(v1.NodeDiskPressure, v1.TaintNodeDiskPressure, false)
	s.unharmed("tidy")
	s.clear("litter", "tidy")
}

// fullDisk fills the file system of pods' files from outside: a new pod says what is wrong and waits, one that runs goes
// on, and all is well when there is room again.
func (s *pressed) fullDisk() {
	root := filepath.Join(s.Dir, "kubelet")
	s.configMap("settings", map[string]string{"big": strings.Repeat("x", 500_000)})
	full := filepath.Join(root, "full")
	defer os.Remove(full)
	_ = exec.Command("dd", "if=/dev/zero", "of="+full, "bs=64k").Run() // ends where the disk does
	s.pod("late", `{nodeName: node-a, priorityClassName: system-node-critical, containers: [{name: c, command: [sleep, "3600"], volumeMounts: [{name: v, mountPath: /v}]}],
		volumes: [{name: v, configMap: {name: settings}}]}`)
	s.event("late", "FailedMount", "no space left on device")
	s.wait("late", "waiting", func(p *v1.Pod) error {
		return errors.Join(is("phase", p.Status.Phase, v1.PodPending), waiting(p, "c", "ContainerCreating"))
	})
	s.pressure(v1.NodeDiskPressure, v1.TaintNodeDiskPressure, true)
	s.unharmed("keeper")
	s.says("keeper", "c", "echo well", "well")
	if err := os.Remove(full); err != nil {
		s.t.Fatal(err)
	}
	s.ready("late")
	s.says("late", "c", "wc -c < /v/big", "500000")
	s.pressure(v1.NodeDiskPressure, v1.TaintNodeDiskPressure, false)
	s.clear("late")
}

// mountsBelow lists the mount points below dir, with their device.
func mountsBelow(t testing.TB, dir string) string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], dir+"/") {
			out = append(out, f[2]+" "+strings.TrimPrefix(f[4], dir))
		}
	}
	return strings.Join(out, ", ")
}
