package native

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/reevehq/reeve/cri"
)

func TestContainersThatCannotStart(t *testing.T) {
	g := newRig(t)
	ctx := t.Context()
	sb := g.sandbox("web")
	id := g.create(sb, containerConfig("nosuch", nil, "/no/such/program"))
	err := g.StartContainer(ctx, id)
	if err == nil || !strings.Contains(strings.ToLower(err.Error()), "no such file or directory") { // runc and crun differ
		t.Errorf("start: %v", err)
	}
	st := g.status(id)
	if st.State != runtimeapi.ContainerState_CONTAINER_EXITED || st.Reason != "StartError" || st.ExitCode != 128 || !strings.Contains(st.Message, "/no/such/program") {
		t.Errorf("status: %v", st)
	}
	if err := g.StartContainer(ctx, id); status.Code(err) != codes.FailedPrecondition {
		t.Errorf("second start: %v", err)
	}
	for name, tc := range map[string]struct {
		mod  func(*runtimeapi.ContainerConfig)
		code codes.Code
		want string
	}{
		"unknown image":   {func(c *runtimeapi.ContainerConfig) { c.Image.Image = "localhost/none:v1" }, codes.NotFound, "localhost/none:v1"},
		"bad image":       {func(c *runtimeapi.ContainerConfig) { c.Image.Image = "" }, codes.InvalidArgument, "image"},
		"unknown user":    {func(c *runtimeapi.ContainerConfig) { c.Linux.SecurityContext.RunAsUsername = "nobody-here" }, codes.InvalidArgument, "nobody-here"},
		"log path escape": {func(c *runtimeapi.ContainerConfig) { c.LogPath = "../../etc/x.log" }, codes.InvalidArgument, "leaves"},
		"bad capability": {func(c *runtimeapi.ContainerConfig) {
			c.Linux.SecurityContext.Capabilities = &runtimeapi.Capability{AddCapabilities: []string{"FLY"}}
		}, codes.InvalidArgument, "FLY"},
		"relative seccomp": {func(c *runtimeapi.ContainerConfig) {
			c.Linux.SecurityContext.Seccomp = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: "x.json"}
		}, codes.InvalidArgument, "absolute"},
		"relative mount": {func(c *runtimeapi.ContainerConfig) {
			c.Mounts = []*runtimeapi.Mount{{HostPath: "x", ContainerPath: "/x"}}
		}, codes.InvalidArgument, "absolute"},
		"no such device": {func(c *runtimeapi.ContainerConfig) {
			c.Devices = []*runtimeapi.Device{{HostPath: "/dev/none", ContainerPath: "/dev/x"}}
		}, codes.InvalidArgument, "/dev/none"},
		"no name": {func(c *runtimeapi.ContainerConfig) { c.Metadata.Name = "" }, codes.InvalidArgument, "name"},
	} {
		_, err := g.CreateContainer(ctx, sb, containerConfig("bad", tc.mod, "true"), nil)
		if status.Code(err) != tc.code || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: got %v, want %s naming %q", name, err, tc.code, tc.want)
		}
	}
	if _, err := g.RunPodSandbox(ctx, g.sandboxConfig("x"), "gvisor"); status.Code(err) != codes.InvalidArgument || !strings.Contains(err.Error(), "gvisor") {
		t.Errorf("unknown handler: %v", err)
	}
	// After all that, its neighbours are fine.
	ok := g.run(sb, containerConfig("ok", nil, "echo", "fine"))
	if st := g.wait(ok); st.ExitCode != 0 {
		t.Errorf("neighbour: %v", st)
	}
	if err := g.RemovePodSandbox(ctx, sb); err != nil {
		t.Error(err)
	}
	g.empty()
}

func TestSecurityContext(t *testing.T) {
	g := newRig(t)
	sb := g.sandbox("sec")
	n := 0
	run := func(mod func(*runtimeapi.ContainerConfig), script string) string {
		t.Helper()
		n++
		id := g.run(sb, containerConfig(fmt.Sprintf("c%d", n), mod, "sh", "-c", script))
		g.wait(id)
		var out []string
		for l := range strings.Lines(g.log(id)) {
			out = append(out, strings.SplitN(strings.TrimSpace(l), " ", 4)[3])
		}
		return strings.Join(out, "|")
	}
	sec := func(f func(*runtimeapi.LinuxContainerSecurityContext)) func(*runtimeapi.ContainerConfig) {
		return func(c *runtimeapi.ContainerConfig) { f(c.Linux.SecurityContext) }
	}
	for _, tc := range []struct {
		name   string
		mod    func(*runtimeapi.ContainerConfig)
		script string
		want   string
	}{
		{"by number", sec(func(s *runtimeapi.LinuxContainerSecurityContext) { s.RunAsUser = &runtimeapi.Int64Value{Value: 4321} }), "id -u; id -g; id -G", "4321|0|0"},
		{"by name, with its groups", sec(func(s *runtimeapi.LinuxContainerSecurityContext) { s.RunAsUsername = "app" }), "id -u; id -G", "1000|1000 2000"},
		{"known number, with its groups", sec(func(s *runtimeapi.LinuxContainerSecurityContext) {
			s.RunAsUser = &runtimeapi.Int64Value{Value: 1000}
			s.SupplementalGroups = []int64{77}
		}), "id -G", "1000 77 2000"},
		{"strict groups", sec(func(s *runtimeapi.LinuxContainerSecurityContext) {
			s.RunAsUser = &runtimeapi.Int64Value{Value: 1000}
			s.SupplementalGroups, s.SupplementalGroupsPolicy = []int64{77}, runtimeapi.SupplementalGroupsPolicy_Strict
		}), "id -G", "1000 77"},
		{"group", sec(func(s *runtimeapi.LinuxContainerSecurityContext) {
			s.RunAsUser, s.RunAsGroup = &runtimeapi.Int64Value{Value: 5}, &runtimeapi.Int64Value{Value: 6}
		}), "id -g", "6"},
		{"seccomp and defaults", nil, "grep -E 'Seccomp:|NoNewPrivs' /proc/self/status | tr '\\t' ' '", "NoNewPrivs: 0|Seccomp: 2"},
		{"unconfined", sec(func(s *runtimeapi.LinuxContainerSecurityContext) {
			s.Seccomp, s.NoNewPrivs = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}, true
		}), "grep -E 'Seccomp:|NoNewPrivs' /proc/self/status | tr '\\t' ' '", "NoNewPrivs: 1|Seccomp: 0"},
		{"drop all, add one", sec(func(s *runtimeapi.LinuxContainerSecurityContext) {
			s.Capabilities = &runtimeapi.Capability{DropCapabilities: []string{"ALL"}, AddCapabilities: []string{"NET_ADMIN"}}
		}), "grep CapEff /proc/self/status | tr '\\t' ' '", "CapEff: 0000000000001000"},
		{"read-only root", sec(func(s *runtimeapi.LinuxContainerSecurityContext) { s.ReadonlyRootfs = true }), "touch /x 2>/dev/null || echo ro", "ro"},
		{"masked and read-only paths", nil, "head -c1 /proc/kcore 2>/dev/null | wc -c; (echo 1 > /proc/sys/kernel/sysrq) 2>/dev/null || echo ro", "0|ro"},
		{"privileged", sec(func(s *runtimeapi.LinuxContainerSecurityContext) {
			s.Privileged = true
			s.MaskedPaths, s.ReadonlyPaths = nil, nil
		}), "test -e /dev/kmsg && test -w /sys && echo yes", "yes"},
		{"tty", func(c *runtimeapi.ContainerConfig) { c.Tty = true }, "test -t 1 && echo tty $TERM", "tty xterm\r"},
		{"working dir and env", func(c *runtimeapi.ContainerConfig) {
			c.WorkingDir = "/home/app"
			c.Envs = []*runtimeapi.KeyValue{{Key: "FROM_IMAGE", Value: []byte("no")}, {Key: "A", Value: []byte("b=c")}}
		}, "pwd; echo $FROM_IMAGE $A", "/home/app|no b=c"},
		{"own PID namespace", nil, "echo $$", "1"},
		{"OOM score", nil, "cat /proc/self/oom_score_adj", "900"},
	} {
		if strings.TrimSuffix(tc.want, "\r") == "tty xterm" {
			tc.want = "tty xterm"
		}
		if got := run(tc.mod, tc.script); got != tc.want {
			t.Errorf("%s: got %q, want %q", tc.name, got, tc.want)
		}
	}
}

func TestNamespacesAndMounts(t *testing.T) {
	g := newRig(t)
	ctx := t.Context()
	share := func(c *runtimeapi.ContainerConfig) {
		c.Linux.SecurityContext.NamespaceOptions.Pid = runtimeapi.NamespaceMode_POD
	}
	sb := g.sandbox("shared", func(c *runtimeapi.PodSandboxConfig) {
		c.Linux.SecurityContext.NamespaceOptions.Pid = runtimeapi.NamespaceMode_POD
		c.Linux.Sysctls = map[string]string{"kernel.shm_rmid_forced": "1", "net.ipv4.ip_local_port_range": "1024 65000"}
	})
	host := filepath.Join(g.dir, "vol")
	a := g.run(sb, containerConfig("a", func(c *runtimeapi.ContainerConfig) {
		share(c)
		c.Mounts = []*runtimeapi.Mount{{HostPath: host, ContainerPath: "/vol"}, {HostPath: host, ContainerPath: "/vol/ro", Readonly: true}}
	}, "sh", "-c", "echo 1 > /dev/shm/x; echo hi > /vol/f; touch /vol/ro/no 2>/dev/null; sleep 1000"))
	b := g.run(sb, containerConfig("b", share, "sleep", "1001"))
	waitFor(t, func() bool { _, err := os.Stat(filepath.Join(host, "f")); return err == nil })
	if _, err := os.Stat(filepath.Join(host, "no")); err == nil {
		t.Error("a read-only mount was written to")
	}
	if out := g.output(b, "sh", "-c", "cat /dev/shm/x; ps"); !strings.HasPrefix(out, "1\n") || !strings.Contains(out, "sleep 1000") || !strings.Contains(out, "/pause") {
		t.Errorf("shared: %q", out)
	}
	if out := g.output(b, "cat", "/proc/sys/kernel/shm_rmid_forced", "/proc/sys/net/ipv4/ip_local_port_range", "/proc/sys/net/ipv4/ip_unprivileged_port_start"); out != "1\n1024\t65000\n0\n" {
		t.Errorf("sysctls: %q", out)
	}
	// An orphan of a's is reaped by pause.
	g.output(a, "sh", "-c", "(sleep 0.05 &) ; exit 0")
	waitFor(t, func() bool { return !strings.Contains(g.output(b, "ps", "-o", "stat,args"), "Z") })
	// Killing a container of a shared PID namespace takes what it started along.
	multi := g.run(sb, containerConfig("multi", share, "sh", "-c", "sleep 1005 & exec sleep 1006"))
	waitFor(t, func() bool {
		out := g.output(b, "ps")
		return strings.Contains(out, "sleep 1005") && strings.Contains(out, "sleep 1006")
	})
	if err := g.StopContainer(ctx, multi, 0); err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { return !strings.Contains(g.output(b, "ps"), "sleep 1005") })
	target := g.run(sb, containerConfig("debug", func(c *runtimeapi.ContainerConfig) {
		c.Linux.SecurityContext.NamespaceOptions = &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_TARGET, TargetId: a}
	}, "sleep", "1002"))
	if out := g.output(target, "ps"); !strings.Contains(out, "sleep 1000") {
		t.Errorf("target: %q", out)
	}

	hostNS := g.sandbox("host", func(c *runtimeapi.PodSandboxConfig) {
		c.Linux.SecurityContext.NamespaceOptions = &runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_NODE, Pid: runtimeapi.NamespaceMode_NODE, Ipc: runtimeapi.NamespaceMode_NODE}
	})
	h := g.run(hostNS, containerConfig("h", func(c *runtimeapi.ContainerConfig) {
		c.Linux.SecurityContext.NamespaceOptions = &runtimeapi.NamespaceOption{Network: runtimeapi.NamespaceMode_NODE, Pid: runtimeapi.NamespaceMode_NODE, Ipc: runtimeapi.NamespaceMode_NODE}
	}, "sleep", "1003"))
	out := g.output(h, "sh", "-c", "for n in net pid ipc; do readlink /proc/self/ns/$n; done")
	var want string
	for _, n := range []string{"net", "pid", "ipc"} {
		l, err := os.Readlink("/proc/self/ns/" + n)
		if err != nil {
			t.Fatal(err)
		}
		want += l + "\n"
	}
	if out != want {
		t.Errorf("host namespaces: %q, want %q", out, want)
	}
	for _, s := range []string{sb, hostNS} {
		if err := g.RemovePodSandbox(ctx, s); err != nil {
			t.Error(err)
		}
	}
	g.empty()
}

func TestStopSignalsAndGrace(t *testing.T) {
	g := newRig(t)
	ctx := t.Context()
	sb := g.sandbox("stop")
	ready := func(id string) { waitFor(t, func() bool { return strings.Contains(g.log(id), "ready") }) }
	soft := g.run(sb, containerConfig("soft", func(c *runtimeapi.ContainerConfig) { c.StopSignal = runtimeapi.Signal_SIGUSR1 },
		"sh", "-c", "trap 'echo usr1; exit 9' USR1; echo ready; while :; do sleep 0.01; done"))
	hard := g.run(sb, containerConfig("hard", nil, "sh", "-c", "trap : TERM; echo ready; while :; do sleep 0.01; done"))
	ready(soft)
	ready(hard)
	if err := g.StopContainer(ctx, soft, 30); err != nil {
		t.Fatal(err)
	}
	if st := g.status(soft); st.ExitCode != 9 || !strings.Contains(g.log(soft), "usr1") {
		t.Errorf("stop signal: %v", st)
	}
	// A kill does not wait for a stop with a long grace period.
	done := make(chan error, 1)
	go func() { done <- g.StopContainer(ctx, hard, 3600) }()
	time.Sleep(30 * time.Millisecond)
	if err := g.StopContainer(ctx, hard, 0); err != nil {
		t.Fatal(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if st := g.status(hard); st.ExitCode != 137 {
		t.Errorf("kill: %v", st)
	}
	cctx, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	stubborn := g.run(sb, containerConfig("stubborn", nil, "sh", "-c", "trap : TERM; echo ready; while :; do sleep 0.01; done"))
	ready(stubborn)
	if err := g.StopContainer(cctx, stubborn, 3600); status.Code(err) != codes.DeadlineExceeded {
		t.Errorf("stop with a caller that gave up: %v", err)
	}
}

func TestOOMAndUpdate(t *testing.T) {
	g := newRig(t)
	ctx := t.Context()
	sb := g.sandbox("mem")
	id := g.run(sb, containerConfig("hog", func(c *runtimeapi.ContainerConfig) { c.Linux.Resources.MemoryLimitInBytes = 16 << 20 },
		"sh", "-c", "x=a; while :; do x=$x$x; done"))
	if st := g.wait(id); st.Reason != "OOMKilled" || st.ExitCode != 137 {
		t.Errorf("OOM: %v", st)
	}
	id = g.run(sb, containerConfig("up", nil, "sleep", "1000"))
	res := &runtimeapi.ContainerResources{Linux: &runtimeapi.LinuxContainerResources{MemoryLimitInBytes: 96 << 20, CpuShares: 512}}
	if err := g.UpdateContainerResources(ctx, id, res); err != nil {
		t.Fatal(err)
	}
	c, _ := g.store.container(id)
	if u := g.cgroups.Read(g.cgroupPath(c.rec.Cgroup)); u.MemoryLimit == nil || *u.MemoryLimit != 96<<20 {
		t.Errorf("limit in the cgroup: %v", u.MemoryLimit)
	}
	g.restart()
	if got := g.status(id).Resources.Linux; got.MemoryLimitInBytes != 96<<20 || got.CpuShares != 512 || got.OomScoreAdj != 900 {
		t.Errorf("resources in the status: %v", got)
	}
}

// A command that is given up while it is being started, by its caller or because its time is short, is killed all the same,
// with what it started.
func TestExecGivenUpWhileStarting(t *testing.T) {
	g := newRig(t)
	id := g.run(g.sandbox("late"), containerConfig("main", nil, "sleep", "1000"))
	for ms := 1; ms <= 150; ms += 1 + ms/3 {
		cmd, short := []string{"sh", "-c", "sleep 4343 & sleep 4343"}, time.Duration(ms)*time.Millisecond
		if _, _, err := g.ExecSync(t.Context(), id, cmd, short); !errors.Is(err, cri.ErrExecTimedOut) {
			t.Errorf("exec within %d ms: %v", ms, err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), short)
		_, _, err := g.ExecSync(ctx, id, cmd, time.Minute)
		cancel()
		if err == nil || errors.Is(err, cri.ErrExecTimedOut) {
			t.Errorf("exec by a caller who waits for %d ms: %v", ms, err)
		}
		if out := g.output(id, "ps"); strings.Contains(out, "4343") {
			t.Errorf("a command given up after %d ms left processes:\n%s", ms, out)
		}
	}
}

func TestEvents(t *testing.T) {
	g := newRig(t)
	ctx, cancel := context.WithCancel(t.Context())
	ch := make(chan *runtimeapi.ContainerEventResponse, 100)
	ready, done := make(chan struct{}), make(chan error, 1)
	go func() {
		done <- g.GetContainerEvents(ctx, ch, func(runtimeapi.RuntimeService_GetContainerEventsClient) { close(ready) })
	}()
	<-ready
	sb := g.sandbox("ev")
	id := g.run(sb, containerConfig("c", nil, "sh", "-c", "exit 4"))
	g.wait(id)
	if err := g.RemovePodSandbox(ctx, sb); err != nil {
		t.Fatal(err)
	}
	var got []string
	for last := ""; last != "sandbox 3"; last = got[len(got)-1] {
		var ev *runtimeapi.ContainerEventResponse
		select {
		case ev = <-ch:
		case <-time.After(30 * time.Second):
			t.Fatalf("only %v came", got)
		}
		who := "sandbox"
		if ev.ContainerId == id {
			who = "container"
		}
		got = append(got, fmt.Sprintf("%s %d", who, ev.ContainerEventType))
		if ev.ContainerEventType == runtimeapi.ContainerEventType_CONTAINER_STOPPED_EVENT && who == "container" {
			if len(ev.ContainersStatuses) != 1 || ev.ContainersStatuses[0].ExitCode != 4 || ev.PodSandboxStatus == nil {
				t.Errorf("event without its pod: %v", ev)
			}
		}
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if want := "sandbox 0,sandbox 1,container 0,container 1,container 2,sandbox 2,container 3,sandbox 3"; strings.Join(got, ",") != want {
		t.Errorf("got %v", got)
	}
}

func TestManyAtOnceLeakNothing(t *testing.T) {
	g := newRig(t)
	ctx := t.Context()
	pods, rounds := 8, 3
	if testing.Short() {
		pods, rounds = 3, 1
	}
	for round := range rounds {
		var wg sync.WaitGroup
		began := time.Now()
		for i := range pods {
			wg.Go(func() {
				name := fmt.Sprintf("p%d-%d", round, i)
				sb, err := g.RunPodSandbox(ctx, g.sandboxConfig(name), "")
				if err != nil {
					t.Error(err)
					return
				}
				id, err := g.CreateContainer(ctx, sb, containerConfig("c", nil, "sh", "-c", "echo hi; sleep 1000"), nil)
				if err == nil {
					err = g.StartContainer(ctx, id)
				}
				if err == nil && i%2 == 0 {
					_, _, err = g.ExecSync(ctx, id, []string{"true"}, time.Minute)
				}
				if err == nil && i%3 != 0 {
					err = g.StopPodSandbox(ctx, sb)
				}
				if err := errors.Join(err, g.RemovePodSandbox(ctx, sb)); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		t.Logf("%d pods made and removed at once in %s", pods, time.Since(began).Round(time.Millisecond))
	}
	g.empty()
}
