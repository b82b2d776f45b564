package crash

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// shimOf finds the shim of a sandbox: the parent of a container's process.
func (w *world) shimOf(sandbox string) int {
	w.t.Helper()
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, file := range files {
		b, _ := os.ReadFile(file)
		if strings.Contains(string(b), "containerd-shim") && strings.Contains(string(b), sandbox) {
			var pid int
			fmt.Sscanf(file, "/proc/%d/", &pid)
			return pid
		}
	}
	w.t.Fatalf("no shim of sandbox %s", sandbox)
	return 0
}

// lifeTime lives one pod and says how long that took.
func (w *world) lifeTime(name string) time.Duration {
	w.t.Helper()
	began := time.Now()
	l := &life{w: w, name: name}
	for _, op := range operations {
		ctx, cancel := context.WithTimeout(w.t.Context(), patience)
		err := op.do(ctx, l)
		cancel()
		if err != nil {
			w.t.Fatalf("%s of another pod: %v", op.name, err)
		}
	}
	return time.Since(began)
}

// TestHungShimBlocksItsPodOnly: with one pod's shim stopped, calls for that pod end with their deadlines and name it,
// other pods live as fast as before, a restarted runtime still serves and takes the pod for what it was, and when the shim
// goes on so does the pod.
func TestHungShimBlocksItsPodOnly(t *testing.T) {
	w := newWorld(t)
	w.pid = runtimeapi.NamespaceMode_POD // the shim bears the sandbox's ID
	w.points()
	before := w.mustLook()
	ctx := t.Context()
	victim := &life{w: w, name: "victim"}
	for _, op := range operations[:3] {
		if err := op.do(ctx, victim); err != nil {
			t.Fatal(err)
		}
	}
	shim := w.shimOf(victim.sb)
	pause := func(sig syscall.Signal) {
		t.Helper()
		if err := syscall.Kill(shim, sig); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { syscall.Kill(shim, syscall.SIGCONT) })

	// With and without a stopped shim, in turns, so that whatever else the machine does weighs on both.
	var with, without []time.Duration
	for i := range 5 {
		without = append(without, w.lifeTime(fmt.Sprintf("without%d", i)))
		pause(syscall.SIGSTOP)
		with = append(with, w.lifeTime(fmt.Sprintf("with%d", i)))
		pause(syscall.SIGCONT)
	}
	slices.Sort(with)
	slices.Sort(without)
	t.Logf("another pod's life, median: %s, with a stopped shim %s", without[2], with[2])
	if with[2] > 4*without[2] {
		t.Errorf("other pods are slower with a stopped shim: %v, without %v", with, without)
	}

	pause(syscall.SIGSTOP)
	// Calls for the victim end with the caller's patience.
	ectx, cancel := context.WithTimeout(ctx, 3*time.Second)
	_, _, err := w.ExecSync(ectx, victim.c, []string{"true"}, 2*time.Second)
	cancel()
	if err == nil {
		t.Error("exec beside a stopped shim succeeded")
	}
	t.Logf("exec: %v", err)
	w.running(victim)

	// A runtime that starts now serves at once, and what it cannot ask is what it was.
	w.killRuntime()
	w.launch()
	w.running(victim)
	w.lifeTime("after-restart")
	w.running(victim)

	// The trouble is told where a client can see it, and goes with its cause.
	w.eventually("the victim's trouble is told", func() error {
		st, err := w.PodSandboxStatus(ctx, victim.sb, true)
		if err == nil && !strings.Contains(st.Info["trouble"], fmt.Sprint(shim)) {
			err = fmt.Errorf("it says %q", st.Info["trouble"])
		}
		return err
	})
	pause(syscall.SIGCONT)
	w.eventually("the trouble has gone", func() error {
		st, err := w.PodSandboxStatus(ctx, victim.sb, true)
		if err == nil && st.Info["trouble"] != "" {
			err = fmt.Errorf("it says %q", st.Info["trouble"])
		}
		return err
	})
	w.running(victim)
	if out, _, err := w.ExecSync(ctx, victim.c, []string{"echo", "healed"}, patience); err != nil || string(out) != "healed\n" {
		t.Errorf("exec after SIGCONT: %q, %v", out, err)
	}

	// A removal that meets a stopped shim is finished when it goes on.
	pause(syscall.SIGSTOP)
	rctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	err = w.StopPodSandbox(rctx, victim.sb)
	cancel()
	t.Logf("stop: %v", err)
	if err == nil {
		t.Error("a pod was stopped without its shim's help")
	}
	pause(syscall.SIGCONT)
	w.eventually("every pod can be removed", w.removeAll)
	w.leftNothing(before)
}

func (w *world) running(l *life) {
	w.t.Helper()
	sb, err := w.PodSandboxStatus(w.t.Context(), l.sb, false)
	if err != nil || sb.Status.State != runtimeapi.PodSandboxState_SANDBOX_READY {
		w.t.Errorf("the victim's sandbox: %v, %v", sb, err)
	}
	c, err := w.ContainerStatus(w.t.Context(), l.c, false)
	if err != nil || c.Status.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		w.t.Errorf("the victim's container: %v, %v", c, err)
	}
}

// TestHungPluginBlocksItsPodOnly: a CNI plugin that never ends keeps one pod from starting, and from being removed, with a
// deadline each; others start, before and after a restart of the runtime.
func TestHungPluginBlocksItsPodOnly(t *testing.T) {
	w := newWorld(t)
	w.points()
	before := w.mustLook()
	w.holdsItsPodOnly("ptp-ADD-begin")
	w.leftNothing(before)
}

// holdsItsPodOnly arms a program that a pod's start runs to stand at that point for ever: the start meets its caller's
// deadline; other pods live, before and after a restart of the runtime, which then takes the half-made one down; and once the
// program goes on, every pod can be removed.
func (w *world) holdsItsPodOnly(at string) {
	w.t.Helper()
	w.arm(at, "block")
	ctx, cancel := context.WithTimeout(w.t.Context(), 2*time.Second)
	_, err := w.RunPodSandbox(ctx, w.sandboxConfig("victim"), w.handler())
	cancel()
	if err == nil {
		w.t.Errorf("a pod was made past %s", at)
	}
	w.t.Logf("run: %v", err)
	w.lifeTime("another")
	w.killRuntime()
	w.launch()
	w.lifeTime("another") // while the half-made one is taken down, which waits
	w.free(at)
	w.eventually("every pod can be removed", w.removeAll)
}
