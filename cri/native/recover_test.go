package native

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/snapshots"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestRestartKeepsEverything(t *testing.T) {
	g := newRig(t)
	ctx := t.Context()
	sb := g.sandbox("web")
	run := g.run(sb, containerConfig("run", nil, "sleep", "1000"))
	done := g.run(sb, containerConfig("done", nil, "sh", "-c", "exit 3"))
	created := g.create(sb, containerConfig("created", nil, "true"))
	while := g.run(sb, containerConfig("while", nil, "sh", "-c", "trap 'echo bye; exit 5' TERM; echo set; while :; do sleep 0.01; done"))
	g.wait(done)
	before := map[string]*runtimeapi.ContainerStatus{}
	for _, id := range []string{run, done, created} {
		before[id] = g.status(id)
	}
	st, err := g.PodSandboxStatus(ctx, sb, false)
	if err != nil {
		t.Fatal(err)
	}
	c, _ := g.store.container(while)
	pid := int(c.pid)
	waitFor(t, func() bool { return strings.Contains(g.log(while), " F set\n") })
	g.stop()
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return syscall.Kill(pid, 0) == syscall.ESRCH })
	g.start()
	after, err := g.PodSandboxStatus(ctx, sb, false)
	if err != nil || after.Status.State != runtimeapi.PodSandboxState_SANDBOX_READY || after.Status.Network.Ip != st.Status.Network.Ip {
		t.Fatalf("sandbox after restart: %v, %v", after, err)
	}
	for id, want := range before {
		got := g.status(id)
		if got.State != want.State || got.ExitCode != want.ExitCode || got.Reason != want.Reason || got.StartedAt != want.StartedAt || got.FinishedAt != want.FinishedAt {
			t.Errorf("container %s:\n got %v\nwant %v", want.Metadata.Name, got, want)
		}
	}
	if got := g.wait(while); got.ExitCode != 5 {
		t.Errorf("exit while away: %v", got)
	}
	if log := g.log(while); !strings.Contains(log, " F bye\n") {
		t.Errorf("log of an exit while away: %q", log)
	}
	if err := g.StartContainer(ctx, created); err != nil {
		t.Errorf("start after restart: %v", err)
	}
	if out := g.output(run, "echo", "still here"); out != "still here\n" {
		t.Errorf("exec after restart: %q", out)
	}
	if _, err := g.RunPodSandbox(ctx, g.sandboxConfig("web"), ""); err == nil {
		t.Error("the name was not reserved after restart")
	}
	if err := g.RemovePodSandbox(ctx, sb); err != nil {
		t.Error(err)
	}
	g.empty()
}

func waitFor(t testing.TB, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !cond(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("condition did not come true within 30 s")
		}
	}
}

// empty checks that nothing of any pod is left: folders, snapshots, records, tasks, networks, mounts, FIFOs, cgroups.
func (g *rig) empty() {
	g.t.Helper()
	ctx := g.t.Context()
	for _, dir := range []string{g.net.dir, g.sandboxDir(""), g.containerDir(""), filepath.Join(g.cfg.LogpumpDir, "c"), filepath.Join(g.cfg.StateDir, "exec")} {
		if e, _ := os.ReadDir(dir); len(e) != 0 {
			g.t.Errorf("%s holds %v", dir, e)
		}
	}
	if n := g.net.count(); n != 0 {
		g.t.Errorf("%d networks are left", n)
	}
	recs, err := g.conts.List(ctx)
	if err != nil || len(recs) != 0 {
		g.t.Errorf("%d records are left, %v", len(recs), err)
	}
	tasks, err := g.listTasks(ctx)
	if err != nil || len(tasks) != 0 {
		g.t.Errorf("tasks are left: %v, %v", tasks, err)
	}
	g.snaps.Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		if info.Labels[labelSnapshot] != "" {
			g.t.Errorf("snapshot %s is left", info.Name)
		}
		return nil
	})
	b, _ := os.ReadFile("/proc/self/mountinfo")
	for _, line := range bytes.Split(b, []byte("\n")) {
		if bytes.Contains(line, []byte(g.dir)) && !bytes.Contains(line, []byte(" "+smallDiskName+" ")) {
			g.t.Errorf("mount is left: %s", line)
		}
	}
	g.store.mu.Lock()
	if len(g.store.names) != 0 {
		g.t.Errorf("names are left: %v", g.store.names)
	}
	g.store.mu.Unlock()
	shims := func() bool {
		return !slices.ContainsFunc(processes(), func(c string) bool { return strings.Contains(c, "shim") && strings.Contains(c, g.dir) })
	}
	for end := time.Now().Add(5 * time.Second); !shims(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			g.t.Error("a shim is left")
			break
		}
	}
}

func processes() []string {
	list, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	var out []string
	for _, p := range list {
		b, _ := os.ReadFile(p)
		out = append(out, string(b))
	}
	return out
}

func TestHalfMadeIsUndone(t *testing.T) {
	g := newRig(t)
	ctx := t.Context()
	for _, op := range []string{"NewNamespace", "Add"} {
		g.net.order(op)
		if _, err := g.RunPodSandbox(ctx, g.sandboxConfig("web"), ""); err == nil || !strings.Contains(err.Error(), errOrdered.Error()) {
			t.Fatalf("%s failed, but: %v", op, err)
		}
		g.net.order("")
		g.empty()
	}
	// When undoing fails too, the sandbox stays visible until it can be removed, and its name is free.
	g.net.order("Add")
	g.net.mu.Lock()
	g.net.alsoDel = true
	g.net.mu.Unlock()
	if _, err := g.RunPodSandbox(ctx, g.sandboxConfig("web"), ""); err == nil {
		t.Fatal("want an error")
	}
	list, err := g.ListPodSandbox(ctx, nil)
	if err != nil || len(list) != 1 || list[0].State != runtimeapi.PodSandboxState_SANDBOX_NOTREADY {
		t.Fatalf("list: %v, %v", list, err)
	}
	g.net.order("")
	g.net.mu.Lock()
	g.net.alsoDel = false
	g.net.mu.Unlock()
	sb := g.sandbox("web")
	for _, s := range list {
		if err := g.RemovePodSandbox(ctx, s.Id); err != nil {
			t.Error(err)
		}
	}
	if err := g.RemovePodSandbox(ctx, sb); err != nil {
		t.Error(err)
	}
	g.empty()
}

// TestKilledHalfway plays a kill -9 after each step: what New finds then it must finish or remove.
func TestKilledHalfway(t *testing.T) {
	g := newRig(t)
	ctx := t.Context()
	for name, breakIt := range map[string]func(sb, id string){
		"network not noted": func(sb, _ string) { os.Remove(filepath.Join(g.sandboxDir(sb), "network.json")) },
		"record gone, snapshot and folder there": func(_, id string) {
			if err := g.destroyTask(ctx, id); err != nil {
				t.Fatal(err)
			}
			if err := g.deleteRecord(ctx, id); err != nil {
				t.Fatal(err)
			}
		},
		"task gone without an exit": func(_, id string) {
			if err := g.destroyTask(ctx, id); err != nil {
				t.Fatal(err)
			}
		},
		"stopping, network down, not noted": func(sb, _ string) {
			s, _ := g.store.sandbox(sb)
			if err := g.net.Del(ctx, networkRequest(s)); err != nil {
				t.Fatal(err)
			}
			if err := g.destroyTask(ctx, sb); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			sb := g.sandbox("web")
			id := g.run(sb, containerConfig("c", nil, "sleep", "1000"))
			// Stop first: events after the break are what a dead agent would not have seen.
			g.cancel()
			g.stream.Close()
			g.wg.Wait()
			breakIt(sb, id)
			g.stop()
			g.start()
			list, err := g.ListPodSandbox(ctx, nil)
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range list {
				if err := g.RemovePodSandbox(ctx, s.Id); err != nil {
					t.Error(err)
				}
			}
			cs, _ := g.ListContainers(ctx, nil)
			for _, c := range cs {
				if err := g.RemoveContainer(ctx, c.Id); err != nil {
					t.Error(err)
				}
			}
			g.empty()
		})
	}
}

// TestContainerdKilled: containers go on, exits in between are seen, and calls work again.
func TestContainerdKilled(t *testing.T) {
	g := newRig(t)
	ctx := t.Context()
	rctx, stop := context.WithCancel(ctx)
	watched := make(chan struct{})
	go func() { defer close(watched); g.inst.Run(rctx) }()
	t.Cleanup(func() { stop(); <-watched })
	sb := g.sandbox("web")
	id := g.run(sb, containerConfig("count", nil, "sh", "-c", "i=0; while [ ! -e /stop ]; do echo $i; i=$((i+1)); done; echo end $i"))
	short := g.run(sb, containerConfig("short", nil, "sleep", "0.3"))
	for range 3 {
		old := g.inst.PID()
		if err := syscall.Kill(old, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		waitFor(t, func() bool { return g.inst.PID() != old && g.inst.PID() != 0 })
		pump, _, err := g.pump.c.Ping(ctx)
		if err == nil {
			syscall.Kill(pump, syscall.SIGKILL)
		}
		waitFor(t, func() bool { st, err := g.Status(ctx, false); return err == nil && st.Status.Conditions[0].Status })
		if err := os.Rename(g.status(id).LogPath, fmt.Sprintf("%s.%d", g.status(id).LogPath, old)); err != nil {
			t.Fatal(err)
		}
		if err := g.ReopenContainerLog(ctx, id); err != nil {
			t.Fatal(err)
		}
	}
	if st := g.wait(short); st.ExitCode != 0 || st.Reason != "Completed" {
		t.Errorf("exit around containerd's deaths: %v", st)
	}
	waitFor(t, func() bool {
		_, _, err := g.ExecSync(ctx, id, []string{"touch", "/stop"}, 10*time.Second)
		// The container may end, and take touch along, before touch does.
		return err == nil || g.status(id).State == runtimeapi.ContainerState_CONTAINER_EXITED
	})
	if st := g.wait(id); st.ExitCode != 0 {
		t.Fatalf("counter: %v", st)
	}
	logs, err := filepath.Glob(g.status(id).LogPath + "*")
	if err != nil || len(logs) != 4 {
		t.Fatalf("logs: %v, %v", logs, err)
	}
	type line struct{ at, msg string }
	var lines []line
	for _, f := range logs {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for l := range strings.Lines(string(b)) {
			p := strings.SplitN(strings.TrimSuffix(l, "\n"), " ", 4)
			lines = append(lines, line{p[0], p[3]})
		}
	}
	slices.SortStableFunc(lines, func(a, b line) int {
		x, _ := time.Parse(time.RFC3339Nano, a.at)
		y, _ := time.Parse(time.RFC3339Nano, b.at)
		return x.Compare(y)
	})
	for i, l := range lines[:len(lines)-1] {
		if l.msg != fmt.Sprint(i) {
			t.Fatalf("line %d is %q", i, l.msg)
		}
	}
	if last := lines[len(lines)-1].msg; last != fmt.Sprintf("end %d", len(lines)-1) {
		t.Errorf("last line %q of %d", last, len(lines))
	}
	t.Logf("%d lines", len(lines))
	if err := g.RemovePodSandbox(ctx, sb); err != nil {
		t.Error(err)
	}
	g.empty()
}

// TestPauseKilled: the sandbox becomes not ready, is told, and can be taken down.
func TestPauseKilled(t *testing.T) {
	g := newRig(t)
	ctx := t.Context()
	sb := g.sandbox("web")
	if err := syscall.Kill(g.pausePID(sb), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool {
		st, err := g.PodSandboxStatus(ctx, sb, false)
		return err == nil && st.Status.State == runtimeapi.PodSandboxState_SANDBOX_NOTREADY
	})
	if _, err := g.CreateContainer(ctx, sb, containerConfig("late", nil, "true"), nil); err == nil {
		t.Error("a container was created in a dead sandbox")
	}
	if err := g.RemovePodSandbox(ctx, sb); err != nil {
		t.Error(err)
	}
	g.empty()
}
