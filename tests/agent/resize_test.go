package agent

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/reevehq/reeve/tests/node"
)

// resize asks for other resources of the pod's containers through the subresource, as `kubectl patch --subresource
// resize`.
func (s *space) resize(name string, containers ...v1.Container) {
	s.t.Helper()
	type patched struct {
		Name      string                  `json:"name"`
		Resources v1.ResourceRequirements `json:"resources"`
	}
	var list []patched
	for _, c := range containers {
		list = append(list, patched{c.Name, c.Resources})
	}
	body, err := json.Marshal(map[string]any{"spec": map[string]any{"containers": list}})
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := s.pods().Patch(s.ctx(), name, types.StrategicMergePatchType, body, metav1.PatchOptions{}, "resize"); err != nil {
		s.t.Fatalf("resize %s: %v", name, err)
	}
}

// wants is a container with these requests and limits, "" for none.
func wants(name, cpuRequest, cpuLimit, memoryRequest, memoryLimit string) v1.Container {
	c := v1.Container{Name: name, Resources: v1.ResourceRequirements{Requests: v1.ResourceList{}, Limits: v1.ResourceList{}}}
	put := func(l v1.ResourceList, n v1.ResourceName, q string) {
		if q != "" {
			l[n] = resource.MustParse(q)
		}
	}
	put(c.Resources.Requests, v1.ResourceCPU, cpuRequest)
	put(c.Resources.Limits, v1.ResourceCPU, cpuLimit)
	put(c.Resources.Requests, v1.ResourceMemory, memoryRequest)
	put(c.Resources.Limits, v1.ResourceMemory, memoryLimit)
	return c
}

// cgroup reads a file of a container's cgroup (id given) or of its pod's.
func (s *space) cgroup(p *v1.Pod, id, controller, file string) string {
	s.t.Helper()
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		controller = ""
	}
	below := "pod" + string(p.UID)
	if id != "" {
		below = filepath.Join(below, strings.TrimPrefix(id, "containerd://"))
	}
	found, err := filepath.Glob(filepath.Join("/sys/fs/cgroup", controller, node.CgroupRoot(filepath.Base(s.Dir)), "kubepods*", below, file))
	if err == nil && len(found) == 0 {
		found, err = filepath.Glob(filepath.Join("/sys/fs/cgroup", controller, node.CgroupRoot(filepath.Base(s.Dir)), "kubepods", "*", below, file))
	}
	if err != nil || len(found) != 1 {
		s.t.Fatalf("cgroup file %s of %s: %v, %v", file, below, found, err)
	}
	b, err := os.ReadFile(found[0])
	if err != nil {
		s.t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

// limited says why the cgroup of the container (or with id empty, of the pod) does not hold the figures: CPU shares,
// quota in microseconds, memory in bytes; -1 is no limit.
func (s *space) limited(p *v1.Pod, id string, shares, quota, memory int64) error {
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		return fmt.Errorf("this test reads cgroup v1")
	}
	return first(
		is("cpu.shares", s.cgroup(p, id, "cpu", "cpu.shares"), fmt.Sprint(shares)),
		is("cpu.cfs_quota_us", s.cgroup(p, id, "cpu", "cpu.cfs_quota_us"), fmt.Sprint(quota)),
		is("memory.limit_in_bytes", s.cgroup(p, id, "memory", "memory.limit_in_bytes"), fmt.Sprint(memory)),
	)
}

// first is the first error.
func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// settled says why a resize is not over, with these resources in the status.
func settled(p *v1.Pod, want v1.Container) error {
	for _, c := range p.Status.Conditions {
		if c.Type == v1.PodResizePending || c.Type == v1.PodResizeInProgress {
			return fmt.Errorf("condition %s %s %s", c.Type, c.Reason, c.Message)
		}
	}
	c := status(p, want.Name)
	if c.Resources == nil {
		return fmt.Errorf("no resources in the status")
	}
	for n, q := range want.Resources.Requests {
		got, allocated := c.Resources.Requests[n], c.AllocatedResources[n]
		if got.Cmp(q) != 0 || allocated.Cmp(q) != 0 {
			return fmt.Errorf("%s request is %v, allocated %v, want %v", n, got.String(), allocated.String(), q.String())
		}
	}
	for n, q := range want.Resources.Limits {
		if got := c.Resources.Limits[n]; got.Cmp(q) != 0 {
			return fmt.Errorf("%s limit is %v, want %v", n, got.String(), q.String())
		}
	}
	return is("observedGeneration", p.Status.ObservedGeneration, p.Generation)
}

const mi = 1 << 20

// TestResizeInPlace grows and shrinks a running container: the cgroups of container and pod change, the container stays.
func TestResizeInPlace(t *testing.T) {
	s := open(t)
	s.pod("p", `
restartPolicy: Never
containers:
- {name: c, command: [sleep, "1000"], resources: {requests: {cpu: 20m, memory: 20Mi}, limits: {cpu: 40m, memory: 40Mi}}}
- {name: d, command: [sleep, "1000"], resources: {requests: {cpu: 10m, memory: 10Mi}, limits: {cpu: 10m, memory: 10Mi}}}
`)
	p := s.running("p")
	id := status(p, "c").ContainerID
	if err := first(s.limited(p, id, 20, 4000, 40*mi), s.limited(p, "", 30, 5000, 50*mi)); err != nil {
		t.Fatalf("before: %v", err)
	}
	for _, c := range []struct {
		what                           string
		want                           v1.Container
		shares, quota, memory          int64
		podShares, podQuota, podMemory int64
	}{
		{"more of everything", wants("c", "30m", "60m", "30Mi", "60Mi"), 30, 6000, 60 * mi, 40, 7000, 70 * mi},
		{"less of everything", wants("c", "15m", "30m", "15Mi", "30Mi"), 15, 3000, 30 * mi, 25, 4000, 40 * mi},
		{"only requests", wants("c", "25m", "30m", "25Mi", "30Mi"), 25, 3000, 30 * mi, 35, 4000, 40 * mi},
	} {
		s.resize("p", c.want)
		p = s.wait("p", "resized: "+c.what, func(p *v1.Pod) error { return settled(p, c.want) })
		if err := first(s.limited(p, id, c.shares, c.quota, c.memory), s.limited(p, "", c.podShares, c.podQuota, c.podMemory),
			is("containerID", status(p, "c").ContainerID, id), is("restartCount", status(p, "c").RestartCount, 0)); err != nil {
			t.Errorf("%s: %v", c.what, err)
		}
	}
	s.event("p", "ResizeStarted", "")
	s.event("p", "ResizeCompleted", "")
}

// TestResizeByRestart: a container that takes in memory only at its start is restarted, for CPU it is not.
func TestResizeByRestart(t *testing.T) {
	s := open(t)
	s.pod("p", `
containers:
- name: c
  command: [sh, -c, "trap 'exit 0' TERM; sleep 1000 & wait"]
  resources: {requests: {cpu: 20m, memory: 20Mi}, limits: {cpu: 40m, memory: 40Mi}}
  resizePolicy: [{resourceName: memory, restartPolicy: RestartContainer}, {resourceName: cpu, restartPolicy: NotRequired}]
- {name: other, command: [sleep, "1000"], resources: {requests: {cpu: 10m}}}
`)
	p := s.running("p")
	id, other := status(p, "c").ContainerID, status(p, "other").ContainerID
	cpu := wants("c", "30m", "60m", "20Mi", "40Mi")
	s.resize("p", cpu)
	p = s.wait("p", "resized in place", func(p *v1.Pod) error { return settled(p, cpu) })
	if err := first(is("containerID", status(p, "c").ContainerID, id), s.limited(p, id, 30, 6000, 40*mi)); err != nil {
		t.Error(err)
	}
	// Three in a row: a restart to resize is no crash, and there is no back-off.
	for i, m := range []string{"50Mi", "60Mi", "45Mi"} {
		want := wants("c", "30m", "60m", "20Mi", m)
		s.resize("p", want)
		p = s.wait("p", "restarted with "+m, func(p *v1.Pod) error {
			return first(settled(p, want), is("restartCount", status(p, "c").RestartCount, int32(i+1)), condition(p, v1.PodReady, v1.ConditionTrue, ""))
		})
	}
	if err := first(s.limited(p, status(p, "c").ContainerID, 30, 6000, 45*mi), is("the neighbour", status(p, "other").ContainerID, other)); err != nil {
		t.Error(err)
	}
	for _, p := range s.past(p.UID) {
		if w := status(p, "c").State.Waiting; w != nil && w.Reason == "CrashLoopBackOff" {
			t.Errorf("a restart to resize was backed off: %s", w.Message)
		}
	}
}

// TestResizeOfSidecar resizes a restartable init container.
func TestResizeOfSidecar(t *testing.T) {
	s := open(t)
	s.pod("p", `
initContainers:
- {name: s, restartPolicy: Always, command: [sleep, "1000"], resources: {requests: {cpu: 20m}, limits: {memory: 40Mi}}}
containers:
- {name: c, command: [sleep, "1000"]}
`)
	p := s.ready("p")
	body := `{"spec":{"initContainers":[{"name":"s","resources":{"requests":{"cpu":"35m"},"limits":{"memory":"50Mi"}}}]}}`
	if _, err := s.pods().Patch(s.ctx(), "p", types.StrategicMergePatchType, []byte(body), metav1.PatchOptions{}, "resize"); err != nil {
		t.Fatal(err)
	}
	want := wants("s", "35m", "", "", "50Mi")
	p = s.wait("p", "resized", func(p *v1.Pod) error { return settled(p, want) })
	if err := first(s.limited(p, status(p, "s").ContainerID, 35, -1, 50*mi), is("restartCount", status(p, "s").RestartCount, 0)); err != nil {
		t.Error(err)
	}
}

// TestResizeRefused asks for more than the node will ever have, for more than it has now, and for less memory than is in
// use.
func TestResizeRefused(t *testing.T) {
	s := open(t)
	s.pod("p", `containers: [{name: c, command: [sleep, "1000"], resources: {requests: {cpu: 20m, memory: 20Mi}, limits: {memory: 60Mi}}}]`)
	p := s.running("p")
	id := status(p, "c").ContainerID
	s.resize("p", wants("c", "4000", "", "20Mi", "60Mi"))
	p = s.wait("p", "refused", func(p *v1.Pod) error {
		return condition(p, v1.PodResizePending, v1.ConditionTrue, v1.PodReasonInfeasible)
	})
	if q := status(p, "c").AllocatedResources[v1.ResourceCPU]; q.MilliValue() != 20 {
		t.Errorf("allocated %v of CPU though nothing was granted", q.String())
	}
	s.event("p", "ResizeInfeasible", "capacity: cpu, requested: 4000000")
	small := wants("c", "25m", "", "20Mi", "60Mi")
	s.resize("p", small)
	s.wait("p", "resized once it asked for less", func(p *v1.Pod) error { return settled(p, small) })

	// Memory in use: a file in tmpfs is charged to the container and cannot be reclaimed.
	if out, err := s.exec("p", "c", "sh", "-c", "mount -t tmpfs none /tmp 2>/dev/null; dd if=/dev/zero of=/dev/shm/f bs=1M count=30 2>&1"); err != nil {
		t.Fatalf("use memory: %v %s", err, out)
	}
	s.resize("p", wants("c", "25m", "", "10Mi", "16Mi"))
	s.wait("p", "told that the memory is in use", func(p *v1.Pod) error {
		return condition(p, v1.PodResizeInProgress, v1.ConditionTrue, v1.PodReasonError)
	})
	if _, err := s.exec("p", "c", "rm", "/dev/shm/f"); err != nil {
		t.Fatal(err)
	}
	freed := wants("c", "25m", "", "10Mi", "16Mi")
	p = s.wait("p", "resized once the memory was free", func(p *v1.Pod) error { return settled(p, freed) })
	if err := first(s.limited(p, id, 25, -1, 16*mi), is("containerID", status(p, "c").ContainerID, id)); err != nil {
		t.Error(err)
	}
}

// resizesWait fills a node and lets two resizes wait. What it returns holds after a restart of the agent: nothing has been
// allocated; when a pod leaves, the more important resize happens, then the other.
func resizesWait(s *space) func() {
	t := s.t
	if _, err := s.client.SchedulingV1().PriorityClasses().Create(s.ctx(), priorityClass("high", 100), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	free := s.freeMilliCPU()
	for _, p := range []struct {
		name, class string
		cpu         int64
	}{{"filler", "", free - 300}, {"low", "", 100}, {"high", "high", 100}} {
		s.pod(p.name, fmt.Sprintf(`{priorityClassName: "%s", containers: [{name: c, command: [sleep, "1000"], resources: {requests: {cpu: %dm}}}]}`, p.class, p.cpu))
	}
	highID := status(s.running("high"), "c").ContainerID
	s.running("low")
	s.running("filler")
	low := wants("c", fmt.Sprintf("%dm", free-350), "", "", "")
	high := wants("c", fmt.Sprintf("%dm", free-300), "", "", "")
	s.resize("low", low)
	s.wait("low", "deferred", func(p *v1.Pod) error {
		return condition(p, v1.PodResizePending, v1.ConditionTrue, v1.PodReasonDeferred)
	})
	s.event("low", "ResizeDeferred", "resource: cpu")
	s.resize("high", high)
	s.wait("high", "deferred", func(p *v1.Pod) error {
		return condition(p, v1.PodResizePending, v1.ConditionTrue, v1.PodReasonDeferred)
	})
	return func() {
		for _, n := range []string{"low", "high"} {
			p := s.now(n)
			if q := status(p, "c").AllocatedResources[v1.ResourceCPU]; q.MilliValue() != 100 {
				t.Errorf("%s: allocated %v after a restart of the agent", n, q.String())
			}
		}
		s.delete("filler", 1)
		p := s.wait("high", "resized", func(p *v1.Pod) error { return settled(p, high) })
		if err := first(is("containerID", status(p, "c").ContainerID, highID), s.limited(p, highID, (free-300)*1024/1000, -1, 9223372036854771712)); err != nil {
			t.Error(err)
		}
		if err := condition(s.now("low"), v1.PodResizePending, v1.ConditionTrue, v1.PodReasonDeferred); err != nil {
			t.Errorf("the less important pod: %v", err)
		}
		s.delete("high", 1)
		s.wait("low", "resized", func(p *v1.Pod) error { return settled(p, low) })
	}
}

// freeMilliCPU is what the node can still give.
func (s *space) freeMilliCPU() int64 {
	n, err := s.client.CoreV1().Nodes().Get(s.ctx(), "node-a", metav1.GetOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	q := n.Status.Allocatable[v1.ResourceCPU]
	return q.MilliValue()
}
