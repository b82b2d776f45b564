package agent

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	imagev1 "github.com/google/go-containerregistry/pkg/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/reevehq/reeve/tests/node"
)

const mib = 1 << 20

// memoryCgroup makes the node's cgroup before the node does, and limits its memory.
func memoryCgroup(t testing.TB, n *node.Node, bytes int64) {
	t.Helper()
	for file, dir := range map[string]string{"memory.limit_in_bytes": "/sys/fs/cgroup/memory", "memory.max": "/sys/fs/cgroup"} {
		dir = filepath.Join(dir, node.CgroupRoot(filepath.Base(n.Dir)))
		if _, err := os.Stat(filepath.Join(filepath.Dir(dir), "cgroup.procs")); err != nil {
			continue
		}
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, file), []byte(strconv.FormatInt(bytes, 10)), 0); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Fatal("no memory cgroup is mounted on /sys/fs/cgroup")
}

// pressed is a node that is easily short of everything, and a namespace on it.
type pressed struct{ *space }

// TestEviction puts a real node under real pressure: a small file system for images and one for pods' files, a memory
// limit around all of it. What nobody uses goes first, then the pod whose fault it is, and the node heals.
func TestEviction(t *testing.T) {
	n := node.New(t,
		"--eviction-hard=memory.available<100Mi,nodefs.available<15%,nodefs.inodesFree<30%,imagefs.available<25%",
		"--eviction-soft=nodefs.available<50%", "--eviction-soft-grace-period=nodefs.available=2s", "--eviction-max-pod-grace-period=20",
		"--eviction-minimum-reclaim=imagefs.available=5Mi", "--eviction-pressure-transition-period=5s", "--image-gc-high-threshold=100", "--image-gc-low-threshold=99",
		"--pod-max-pids=60",
	)
	filesystem(t, filepath.Join(n.DataDir(), "containerd"), 400*mib, 8000)
	filesystem(t, filepath.Join(n.Dir, "kubelet"), 200*mib, 4000)
	if err := os.Chmod(n.DataDir(), 0o700); err != nil {
		t.Fatal(err)
	}
	memoryCgroup(t, n, 600*mib)
	n.Busybox()
	ballast := make([]byte, 50*mib)
	if _, err := rand.Read(ballast); err != nil {
		t.Fatal(err)
	}
	n.WriteImage("localhost/ballast:v1", imagev1.Config{Cmd: []string{"/x"}}, []node.Entry{{Name: "x", Mode: 0o755, Body: ballast}})
	n.Start()
	s := &pressed{openOn(t, n)}

	// Critical, so that it is never taken; and its image stays with it.
	s.pod("keeper", `{priorityClassName: system-node-critical, containers: [{name: c, command: [sleep, "3600"]}]}`)
	s.running("keeper")
	for _, part := range []struct {
		name string
		run  func(*pressed)
	}{
		{"capacity", (*pressed).capacity}, {"images before pods, then the right pod", (*pressed).imageFS}, {"soft threshold", (*pressed).soft},
		{"inodes", (*pressed).inodes}, {"memory", (*pressed).memory}, {"critical pod makes room", (*pressed).preemption},
		{"processes", (*pressed).processes}, {"full disk", (*pressed).fullDisk}, {"restart", (*pressed).restart},
	} {
		if !t.Run(part.name, func(t *testing.T) { part.run(s.on(t)) }) {
			t.Fatal("what comes after would only fail with it")
		}
	}
	s.on(t).unharmed("keeper")
}

// on is the same space with a subtest's failures.
func (s *pressed) on(t *testing.T) *pressed {
	s.t, s.Node.T = t, t
	return s
}

func (s *pressed) node() *v1.Node {
	s.t.Helper()
	n, err := s.client.CoreV1().Nodes().Get(s.ctx(), "node-a", metav1.GetOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	return n
}

// pressure waits until the node has the condition or, healed, neither it nor its taint.
func (s *pressed) pressure(kind v1.NodeConditionType, taint string, want bool) {
	s.t.Helper()
	s.eventually(fmt.Sprintf("%s to be %v", kind, want), func() error {
		n := s.node()
		has, tainted := false, false
		for _, c := range n.Status.Conditions {
			has = has || c.Type == kind && c.Status == v1.ConditionTrue
		}
		for _, x := range n.Spec.Taints {
			tainted = tainted || x.Key == taint
		}
		if has != want || tainted != want {
			return fmt.Errorf("condition %v, taint %v", has, tainted)
		}
		return nil
	})
}

// evicted waits for the pod's eviction and checks how it is told.
func (s *pressed) evicted(name string, words ...string) *v1.Pod {
	s.t.Helper()
	p := s.ended(name, v1.PodFailed)
	errs := []error{is("reason", p.Status.Reason, "Evicted")}
	for _, w := range words {
		if !strings.Contains(p.Status.Message, w) {
			errs = append(errs, fmt.Errorf("message %q lacks %q", p.Status.Message, w))
		}
	}
	if err := errors.Join(append(errs, condition(p, v1.DisruptionTarget, v1.ConditionTrue, v1.PodReasonTerminationByKubelet))...); err != nil {
		s.t.Errorf("pod %s: %v", name, err)
	}
	s.event(name, "Evicted", words[0])
	return p
}

// unharmed checks that the pods run as they did.
func (s *pressed) unharmed(names ...string) {
	s.t.Helper()
	for _, name := range names {
		p := s.now(name)
		if err := errors.Join(is("phase", p.Status.Phase, v1.PodRunning), is("restartCount", status(p, "c").RestartCount, 0)); err != nil {
			s.t.Errorf("pod %s came to harm: %v", name, err)
		}
	}
}

func (s *pressed) clear(names ...string) {
	s.t.Helper()
	for _, name := range names {
		s.delete(name, 0)
	}
	for _, name := range names {
		s.gone(name)
	}
}

func (s *pressed) memory() {
	// Memory that grows by 5 MiB at a time in a tmpfs, and stays.
	takes := func(mb int, requests, priority string) string {
		return fmt.Sprintf(`{restartPolicy: Never, %s containers: [{name: c, resources: {requests: {%s}}, volumeMounts: [{name: v, mountPath: /v}],
			command: [sh, -c, "i=0; while [ $i -lt %d ]; do dd if=/dev/zero of=/v/$i bs=1M count=5 2>/dev/null; i=$((i+5)); sleep 0.1; done; touch /story/took-$HOSTNAME; exec sleep 3600"]}],
			volumes: [{name: v, emptyDir: {medium: Memory}}]}`, priority, requests, mb)
	}
	s.pod("modest", takes(90, "memory: 120Mi", ""))
	s.pod("crucial", takes(60, "memory: 1Mi", "priorityClassName: system-cluster-critical,"))
	s.eventually("both to have their memory", func() error {
		_, a := os.Stat(s.path("took-modest"))
		_, b := os.Stat(s.path("took-crucial"))
		return errors.Join(a, b)
	})
	s.pod("greedy", takes(500, "memory: 10Mi", ""))
	p := s.evicted("greedy", "The node was low on resource: memory. Threshold quantity: 100Mi, available:", "Container c was using", "request is 10Mi, has larger consumption of memory")
	if c := status(p, "c"); c.State.Terminated != nil && c.State.Terminated.Reason == "OOMKilled" {
		s.t.Errorf("the kernel was there before eviction")
	}
	s.pressure(v1.NodeMemoryPressure, v1.TaintNodeMemoryPressure, true)
	// BestEffort pods are not let in under memory pressure; others are.
	s.pod("beggar", `{nodeName: node-a, containers: [{name: c, command: [sleep, "3600"]}]}`)
	s.pod("payer", `{nodeName: node-a, containers: [{name: c, resources: {requests: {memory: 1Mi}}, command: [sleep, "3600"]}]}`)
	if r := s.ended("beggar", v1.PodFailed); r.Status.Reason != "Evicted" || !strings.Contains(r.Status.Message, "[MemoryPressure]") {
		s.t.Errorf("a BestEffort pod under memory pressure: %s: %s", r.Status.Reason, r.Status.Message)
	}
	s.running("payer")
	s.pressure(v1.NodeMemoryPressure, v1.TaintNodeMemoryPressure, false)
	s.unharmed("modest", "crucial", "payer")
	s.clear("modest", "crucial", "greedy", "beggar", "payer")
}

func (s *pressed) preemption() {
	sized := func(cpu, more string) string {
		return fmt.Sprintf(`{nodeName: node-a, %s containers: [{name: c, resources: {requests: {cpu: %s}}, command: [sleep, "3600"]}]}`, more, cpu)
	}
	milli := s.node().Status.Allocatable.Cpu().MilliValue()
	s.pod("big", sized(fmt.Sprintf("%dm", milli*6/10), ""))
	s.pod("little", sized(fmt.Sprintf("%dm", milli*2/10), ""))
	s.running("big")
	s.running("little")
	// No room for one that is not critical …
	s.pod("plain", sized(fmt.Sprintf("%dm", milli/2), ""))
	if r := s.ended("plain", v1.PodFailed); r.Status.Reason != "OutOfcpu" {
		s.t.Errorf("a pod without room: %s: %s", r.Status.Reason, r.Status.Message)
	}
	// … and the one pod that makes enough of it goes for one that is.
	s.pod("vital", sized(fmt.Sprintf("%dm", milli/2), "priorityClassName: system-node-critical,"))
	s.running("vital")
	p := s.ended("big", v1.PodFailed)
	if err := errors.Join(is("reason", p.Status.Reason, "Preempting"), condition(p, v1.DisruptionTarget, v1.ConditionTrue, v1.PodReasonTerminationByKubelet)); err != nil {
		s.t.Errorf("the pod that went: %v", err)
	}
	s.event("big", "Preempting", "Preempted in order to admit critical pod")
	s.unharmed("little", "vital")
	s.clear("big", "little", "plain", "vital")
}

// processes keeps a pod that forks to its share, and its neighbour from noticing.
func (s *pressed) processes() {
	s.pod("forker", `{containers: [{name: c, command: [sh, -c, "i=0; while [ $i -lt 100 ]; do sleep 3600 & i=$((i+1)); done; wait"]}]}`)
	s.eventually("fork to fail at the limit", func() error {
		p := s.now("forker")
		if p.Status.StartTime == nil || status(p, "c").ContainerID == "" {
			return errors.New("it has not started")
		}
		if got := s.cgroup(p, "", "pids", "pids.max"); got != "60" {
			return fmt.Errorf("pids.max of the pod is %s", got)
		}
		for _, line := range strings.Split(s.cgroup(p, "", "pids", "pids.events"), "\n") {
			if n, ok := strings.CutPrefix(line, "max "); ok && n != "0" {
				return nil
			}
		}
		b, _ := s.pods().GetLogs("forker", &v1.PodLogOptions{Previous: status(p, "c").RestartCount > 0}).DoRaw(s.ctx())
		if strings.Contains(string(b), "fork") {
			return nil
		}
		return fmt.Errorf("%s processes, log %q", s.cgroup(p, "", "pids", "pids.current"), b)
	})
	s.unharmed("keeper")
	s.clear("forker")
}

// restart kills the agent under pods with volumes of several kinds: they stay mounted with what is in them, follow their
// objects again, and go with their pods, also where the pod went while nobody looked.
func (s *pressed) restart() {
	s.configMap("follows", map[string]string{"key": "before"})
	text := `{terminationGracePeriodSeconds: 1, containers: [{name: c, command: [sh, -c, "echo kept > /m/f; echo kept > /e/f; exec sleep 3600"], volumeMounts: [{name: m, mountPath: /m}, {name: e, mountPath: /e}, {name: cm, mountPath: /cm}, {name: e, mountPath: /sub, subPath: a/b}]}],
		volumes: [{name: m, emptyDir: {medium: Memory}}, {name: e, emptyDir: {}}, {name: cm, configMap: {name: follows}}]}`
	s.pod("stays", text)
	s.pod("goes", text)
	stays, goes := s.running("stays"), s.running("goes")
	s.says("goes", "c", "cat /m/f", "kept")
	before := mountsBelow(s.t, s.podDir(stays))
	s.Stop()
	s.Start()
	s.says("stays", "c", "cat /m/f /e/f /cm/key; ls -A /sub", "kept kept before")
	if after := mountsBelow(s.t, s.podDir(stays)); after != before {
		s.t.Errorf("mounts before the restart %s, after %s", before, after)
	}
	cm, err := s.client.CoreV1().ConfigMaps(s.ns).Get(s.ctx(), "follows", metav1.GetOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	cm.Data["key"] = "after"
	if _, err := s.client.CoreV1().ConfigMaps(s.ns).Update(s.ctx(), cm, metav1.UpdateOptions{}); err != nil {
		s.t.Fatal(err)
	}
	s.eventually("the ConfigMap's file to follow", func() error {
		out, err := s.exec("stays", "c", "cat", "/cm/key")
		return errors.Join(err, is("file", out, "after"))
	})
	s.unharmed("stays", "goes")
	s.clear("goes", "stays")
	for _, p := range []*v1.Pod{stays, goes} {
		s.eventually("the folder of "+p.Name+" to be gone", func() error {
			if _, err := os.Lstat(s.podDir(p)); !os.IsNotExist(err) {
				return fmt.Errorf("it is there (%v)", err)
			}
			return nil
		})
		if left := mountsBelow(s.t, s.podDir(p)); left != "" {
			s.t.Errorf("left mounted of %s: %s", p.Name, left)
		}
	}
}

// free is how many bytes are left of a file system.
func (s *pressed) free(dir string) int64 {
	s.t.Helper()
	out, err := exec.Command("stat", "-f", "-c", "%a %S", dir).Output()
	var blocks, size int64
	if err == nil {
		_, err = fmt.Sscan(string(out), &blocks, &size)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return blocks * size
}

// nodeEvent waits for an Event about the node.
func (s *pressed) nodeEvent(reason, text string) {
	s.t.Helper()
	s.eventually("Event "+reason+" of the node", func() error {
		list, err := s.client.CoreV1().Events("default").List(s.ctx(), metav1.ListOptions{FieldSelector: "involvedObject.kind=Node"})
		if err != nil {
			return err
		}
		for _, e := range list.Items {
			if e.Reason == reason && strings.Contains(e.Message, text) {
				return nil
			}
		}
		return errors.New("there is none")
	})
}
