package agent

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/reevehq/reeve/tests/node"
)

// TestQOSCgroups finds each class's pods where the class's cgroup is, with the figures of their requests and limits, on
// the pod and on its containers, and with their oom_score_adj.
func TestQOSCgroups(t *testing.T) {
	s := open(t)
	s.pod("guaranteed", `{containers: [{name: c, command: [sleep, "3600"], resources: {limits: {cpu: 200m, memory: 40Mi}}}, {name: d, command: [sleep, "3600"], resources: {limits: {cpu: 100m, memory: 24Mi}}}]}`)
	s.pod("burstable", `{containers: [{name: c, command: [sleep, "3600"], resources: {requests: {cpu: 100m, memory: 8Mi}, limits: {memory: 40Mi}}}, {name: d, command: [sleep, "3600"]}]}`)
	s.pod("whole", `{resources: {requests: {cpu: 100m, memory: 32Mi}, limits: {cpu: 200m, memory: 64Mi}}, containers: [{name: c, command: [sleep, "3600"]}]}`)
	s.pod("besteffort", `{containers: [{name: c, command: [sleep, "3600"]}]}`)
	n, err := s.client.CoreV1().Nodes().Get(s.ctx(), "node-a", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	burstable := func(request int64) int64 { return min(1000-1000*request/n.Status.Capacity.Memory().Value(), 999) }
	for name, want := range map[string]struct {
		class     v1.PodQOSClass
		folder    string
		pod, c, d [3]int64 // shares, quota, memory
		oom       int64
	}{
		"guaranteed": {v1.PodQOSGuaranteed, "kubepods/pod", [3]int64{307, 30000, 64 * mib}, [3]int64{204, 20000, 40 * mib}, [3]int64{102, 10000, 24 * mib}, -997},
		"burstable":  {v1.PodQOSBurstable, "kubepods/burstable/pod", [3]int64{102, -1, unlimited}, [3]int64{102, -1, 40 * mib}, [3]int64{2, -1, unlimited}, burstable(8 * mib)},
		"whole":      {v1.PodQOSBurstable, "kubepods/burstable/pod", [3]int64{102, 20000, 64 * mib}, [3]int64{2, -1, unlimited}, [3]int64{}, burstable(32 * mib)},
		"besteffort": {v1.PodQOSBestEffort, "kubepods/besteffort/pod", [3]int64{2, -1, unlimited}, [3]int64{2, -1, unlimited}, [3]int64{}, 1000},
	} {
		p := s.running(name)
		errs := []error{is("qosClass", p.Status.QOSClass, want.class), oomScore(p, "c", want.oom), s.limited(p, "", want.pod[0], want.pod[1], want.pod[2])}
		errs = append(errs, s.limited(p, status(p, "c").ContainerID, want.c[0], want.c[1], want.c[2]))
		if want.d != [3]int64{} {
			errs = append(errs, s.limited(p, status(p, "d").ContainerID, want.d[0], want.d[1], want.d[2]))
		}
		for _, controller := range []string{"cpu", "memory", "pids"} {
			dir := filepath.Join("/sys/fs/cgroup", controller, node.CgroupRoot(filepath.Base(s.Dir)), want.folder+string(p.UID))
			if _, err := os.Stat(dir); err != nil {
				errs = append(errs, err)
			}
		}
		if err := errors.Join(errs...); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		s.delete(name)
		s.gone(name)
		s.eventually("its cgroups to be gone", func() error {
			left, err := filepath.Glob(filepath.Join("/sys/fs/cgroup/*", node.CgroupRoot(filepath.Base(s.Dir)), want.folder+string(p.UID)))
			if err == nil && len(left) > 0 {
				err = fmt.Errorf("left: %v", left)
			}
			return err
		})
	}
}

// oomScore says why the container's processes do not have the oom_score_adj, or the nearest to it that this process may set:
// lowering it below one's own takes CAP_SYS_RESOURCE.
func oomScore(p *v1.Pod, name string, want int64) error {
	read := func(pid string) (int64, error) {
		b, err := os.ReadFile(filepath.Join("/proc", pid, "oom_score_adj"))
		if err != nil {
			return 0, err
		}
		return strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	}
	own, err := read("self")
	if err != nil {
		return err
	}
	pids := processes(p, status(p, name).ContainerID)
	if len(pids) == 0 {
		return errors.New("the container has no process")
	}
	got, err := read(strconv.Itoa(pids[0]))
	if err == nil && got != want && !(want < own && got >= want && got <= max(own, 0)) {
		err = fmt.Errorf("oom_score_adj is %d, want %d (the test's own is %d)", got, want, own)
	}
	return err
}

// unlimited is what cgroup v1 shows of no memory limit.
const unlimited = 9223372036854771712

// TestAllocatableIsEnforced finds the limit of all pods together on their common cgroup.
func TestAllocatableIsEnforced(t *testing.T) {
	s := open(t)
	n, err := s.client.CoreV1().Nodes().Get(s.ctx(), "node-a", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	read := func(controller, file string) int64 {
		b, err := os.ReadFile(filepath.Join("/sys/fs/cgroup", controller, node.CgroupRoot(filepath.Base(s.Dir)), "kubepods", file))
		if err != nil {
			t.Fatal(err)
		}
		v, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	// Nothing is reserved on this node, so it is all of its capacity; what must be left for eviction comes on top.
	if got, want := read("memory", "memory.limit_in_bytes"), n.Status.Capacity.Memory().Value(); got > want || got < want-4096 {
		t.Errorf("memory limit of all pods is %d, want the capacity, %d", got, want)
	}
	if got, want := n.Status.Capacity.Memory().Value()-n.Status.Allocatable.Memory().Value(), int64(100*mib); got != want {
		t.Errorf("allocatable memory is %d less than capacity, want the eviction threshold, %d", got, want)
	}
	if got, want := read("cpu", "cpu.shares"), n.Status.Capacity.Cpu().MilliValue()*1024/1000; got != want {
		t.Errorf("CPU shares of all pods are %d, want %d", got, want)
	}
}

// TestOOMKilled has a container take more than its limit: it is killed, told as OOMKilled, and started again; its
// neighbour in the pod is not touched.
func TestOOMKilled(t *testing.T) {
	s := open(t)
	s.pod("p", `{containers: [
		{name: c, resources: {limits: {memory: 20Mi}}, command: [sh, -c, "if [ -e /story/again ]; then exec sleep 3600; fi; touch /story/again; exec tail /dev/zero"]},
		{name: d, resources: {limits: {memory: 20Mi}}, command: [sleep, "3600"]}]}`)
	p := s.wait("p", "restarted after an OOM kill", func(p *v1.Pod) error {
		last := status(p, "c").LastTerminationState.Terminated
		if last == nil || status(p, "c").State.Running == nil {
			return fmt.Errorf("state is %s", state(status(p, "c")))
		}
		return errors.Join(is("reason", last.Reason, "OOMKilled"), is("exit code", last.ExitCode, 137))
	})
	if got := status(p, "d"); got.RestartCount != 0 || got.State.Running == nil {
		t.Errorf("its neighbour is %s with %d restarts", state(got), got.RestartCount)
	}
	// What the container sees of its own limits is what was asked.
	s.says("p", "d", "cat /sys/fs/cgroup/memory/memory.limit_in_bytes", strconv.Itoa(20*mib))
}

// TestOverhead adds what the RuntimeClass says a pod costs to the pod's cgroup.
func TestOverhead(t *testing.T) {
	s := open(t)
	class := &nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: s.ns}, Handler: "runc",
		Overhead: &nodev1.Overhead{PodFixed: v1.ResourceList{v1.ResourceCPU: resource.MustParse("100m"), v1.ResourceMemory: resource.MustParse("16Mi")}}}
	if _, err := s.client.NodeV1().RuntimeClasses().Create(s.ctx(), class, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.client.NodeV1().RuntimeClasses().Delete(s.ctx(), s.ns, metav1.DeleteOptions{}) })
	text := `{runtimeClassName: ` + s.ns + `, containers: [{name: c, command: [sleep, "3600"], resources: {limits: {cpu: 100m, memory: 16Mi}}}]}`
	s.eventually("the class to be known", func() error {
		_, err := s.try("p", text)
		return err
	})
	p := s.running("p")
	if got := p.Spec.Overhead.Cpu().MilliValue(); got != 100 {
		t.Errorf("overhead of the pod is %v", p.Spec.Overhead)
	}
	if err := errors.Join(s.limited(p, "", 204, 20000, 32*mib), s.limited(p, status(p, "c").ContainerID, 102, 10000, 16*mib)); err != nil {
		t.Error(err)
	}
}

// TestHugePagesNotThere refuses what the node does not have, and says so.
func TestHugePagesNotThere(t *testing.T) {
	s := open(t)
	s.pod("p", `{nodeName: node-a, containers: [{name: c, command: [sleep, "3600"], resources: {limits: {hugepages-2Mi: 64Gi, memory: 16Mi, cpu: 10m}}}]}`)
	p := s.ended("p", v1.PodFailed)
	if p.Status.Reason != "OutOfhugepages-2Mi" {
		t.Errorf("%s: %s", p.Status.Reason, p.Status.Message)
	}
}
