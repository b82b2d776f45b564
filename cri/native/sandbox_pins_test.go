package native

import (
	"context"
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	tasktypes "github.com/containerd/containerd/api/types/task"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestPauseFollows: without a shared PID namespace the first container does not wait for pause, finds hostname, sysctls
// and shared memory in place, and pause follows into the same namespaces.
func TestPauseFollows(t *testing.T) {
	g := newRig(t)
	ctx := t.Context()
	sb := g.sandbox("web", func(c *runtimeapi.PodSandboxConfig) {
		c.Linux.Sysctls = map[string]string{"kernel.shmmax": "123456", "net/ipv4/ip_local_port_range": "2000 3000", "fs.mqueue.msg_max": "42"}
	})
	id := g.run(sb, containerConfig("c", nil, "sleep", "1000"))
	if got := g.output(id, "sh", "-c", "hostname; cat /proc/sys/kernel/shmmax /proc/sys/net/ipv4/ip_local_port_range /proc/sys/fs/mqueue/msg_max /proc/sys/net/ipv4/ip_unprivileged_port_start"); got != "web\n123456\n2000\t3000\n42\n0\n" {
		t.Errorf("the container sees %q", got)
	}
	host, _ := os.Hostname()
	if host == "web" {
		t.Fatal("the node has the pod's hostname")
	}
	for range 20 { // and so has none of our threads
		if err := onThread(func() error {
			if h, _ := os.Hostname(); h != host {
				return errors.New("a thread was left in the pod's namespace")
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	pid := g.pausePID(sb)
	c, _ := g.store.container(id)
	for _, kind := range []string{"net", "uts", "ipc"} {
		if a, b := readlink(t, pid, kind), readlink(t, int(c.pid), kind); a != b {
			t.Errorf("%s namespace: pause has %s, the container %s", kind, a, b)
		}
	}
	// Restarted before and after pause is there, it is the same sandbox.
	g.restart()
	if got := g.pausePID(sb); got != pid {
		t.Errorf("pause is %d after a restart, was %d", got, pid)
	}
	if err := g.RemovePodSandbox(ctx, sb); err != nil {
		t.Error(err)
	}
	g.empty()
}

func readlink(t *testing.T, pid int, kind string) string {
	t.Helper()
	l, err := os.Readlink("/proc/" + strconv.Itoa(pid) + "/ns/" + kind)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// TestRestartBeforePause: the next runtime starts it, in place of one that was half made too.
func TestRestartBeforePause(t *testing.T) {
	g := newRig(t)
	ctx := t.Context()
	g.holdPauses()
	bare := g.sandbox("bare")
	half := g.sandbox("half")
	s, _ := g.store.sandbox(half)
	g.stopPausers(bare, half)
	parts, err := g.pauseParts(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.createTask(ctx, s.id, parts.shared, taskIO{}); err != nil { // killed after this
		t.Fatal(err)
	}
	g.restart()
	for _, id := range []string{bare, half} {
		if st, err := g.PodSandboxStatus(ctx, id, false); err != nil || st.Status.State != runtimeapi.PodSandboxState_SANDBOX_READY {
			t.Errorf("%s: %v, %v", id, st, err)
		}
		pid := g.pausePID(id)
		if task, err := g.getTask(ctx, id); err != nil || task == nil || task.Status != tasktypes.Status_RUNNING || int(task.Pid) != pid {
			t.Errorf("pause of %s: %v, %v", id, task, err)
		}
	}
	for _, id := range []string{bare, half} {
		if err := g.RemovePodSandbox(ctx, id); err != nil {
			t.Error(err)
		}
	}
	g.empty()
}

// holdPauses lets no pause container of this runtime start until free is called: the gate through which each must has no
// place left.
func (g *rig) holdPauses() (free func()) {
	g.gate = newGate(0, time.Hour)
	return func() {
		for range gateSlots() {
			g.gate.next()
		}
	}
}

// stopPausers ends the sandboxes' pausers, which holdPauses holds.
func (g *rig) stopPausers(ids ...string) {
	g.t.Helper()
	for _, id := range ids {
		s, err := g.store.sandbox(id)
		if err != nil {
			g.t.Fatal(err)
		}
		if err := g.stopPauser(g.t.Context(), s); err != nil {
			g.t.Fatal(err)
		}
		g.store.mu.RLock()
		pid, ready := s.pid, s.state == sandboxReady
		g.store.mu.RUnlock()
		if pid != 0 || !ready {
			g.t.Fatalf("sandbox %s has pause %d, ready: %t", id, pid, ready)
		}
	}
}

// TestPinsGone: namespaces of another boot, or gone ones, are no sandbox any more.
func TestPinsGone(t *testing.T) {
	g := newRig(t)
	ctx := t.Context()
	reboot, lost := g.sandbox("reboot"), g.sandbox("lost")
	g.pausePID(reboot)
	g.pausePID(lost)
	path := g.sandboxDir(reboot) + "/network.json"
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	g.stop()
	if err := os.WriteFile(path, []byte(strings.Replace(string(b), bootID(), "another", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unmount(g.cfg.StateDir + "/sandboxes/" + lost + "/ns/ipc"); err != nil {
		t.Fatal(err)
	}
	g.start()
	for _, id := range []string{reboot, lost} {
		if st, err := g.PodSandboxStatus(ctx, id, false); err != nil || st.Status.State != runtimeapi.PodSandboxState_SANDBOX_NOTREADY {
			t.Errorf("%v, %v", st, err)
		}
		if err := g.RemovePodSandbox(ctx, id); err != nil {
			t.Error(err)
		}
	}
	g.empty()
}

// TestStopBeforePause: a sandbox that ends at once leaves nothing, wherever its pause had got to.
func TestStopBeforePause(t *testing.T) {
	g := newRig(t)
	ctx := t.Context()
	for i, wait := range []time.Duration{0, pauseDelay, pauseDelay + 20*time.Millisecond, pauseDelay + 60*time.Millisecond} {
		sb := g.sandbox("p" + strconv.Itoa(i))
		time.Sleep(wait) // moments in the life of its pauser
		if err := g.StopPodSandbox(ctx, sb); err != nil {
			t.Error(err)
		}
		if err := g.RemovePodSandbox(ctx, sb); err != nil {
			t.Error(err)
		}
	}
	g.empty()
}

// TestContainersComeAndGoBeforePause: the shim leaves with the last task while the next one comes.
func TestContainersComeAndGoBeforePause(t *testing.T) {
	g := newRig(t)
	ctx := t.Context()
	free := g.holdPauses()
	sb := g.sandbox("web")
	g.stopPausers(sb)
	free()
	for i := range 10 {
		id := g.run(sb, containerConfig("c"+strconv.Itoa(i), nil, "true"))
		g.wait(id)
		if i%2 == 0 {
			if err := g.RemoveContainer(ctx, id); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := g.RemovePodSandbox(ctx, sb); err != nil {
		t.Error(err)
	}
	g.empty()
}

// TestSharingWhatTheSandboxHasNot is refused with the field's name.
func TestSharingWhatTheSandboxHasNot(t *testing.T) {
	g := newRig(t)
	sb := g.sandbox("own")
	_, err := g.CreateContainer(t.Context(), sb, containerConfig("c", func(c *runtimeapi.ContainerConfig) {
		c.Linux.SecurityContext.NamespaceOptions.Pid = runtimeapi.NamespaceMode_POD
	}, "true"), nil)
	if status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "pid namespace") {
		t.Errorf("got %v", err)
	}
}

func TestGate(t *testing.T) {
	ctx := t.Context()
	g := newGate(1, time.Minute)
	leave, err := g.enter(ctx, gateContainer)
	if err != nil {
		t.Fatal(err)
	}
	var order []string
	queue := func(name string, kind gateKind, n int) {
		go func() {
			leave, err := g.enter(ctx, kind)
			if err != nil {
				t.Error(err)
				return
			}
			order = append(order, name) // one at a time is inside
			leave()
		}()
		waitFor(t, func() bool {
			g.mu.Lock()
			defer g.mu.Unlock()
			return len(g.waiting[0])+len(g.waiting[1]) == n
		})
	}
	queue("pause 1", gateSandbox, 1)
	queue("container 1", gateContainer, 2)
	queue("pause 2", gateSandbox, 3)
	queue("container 2", gateContainer, 4)
	gone, cancel := context.WithCancel(ctx)
	cancel()
	if _, err := g.enter(gone, gateContainer); !errors.Is(err, context.Canceled) {
		t.Errorf("a caller that gave up: %v", err)
	}
	leave()
	waitFor(t, func() bool {
		g.mu.Lock()
		defer g.mu.Unlock()
		return g.free == 1
	})
	if want := []string{"container 1", "container 2", "pause 1", "pause 2"}; !slices.Equal(order, want) {
		t.Errorf("order %q", order)
	}
	leave() // twice is once
	if g.free != 1 {
		t.Errorf("%d places", g.free)
	}
	// Who hangs does not block the others.
	g = newGate(1, time.Millisecond)
	if _, err := g.enter(ctx, gateContainer); err != nil {
		t.Fatal(err)
	}
	if _, err := g.enter(ctx, gateSandbox); err != nil {
		t.Fatal(err)
	}
}
