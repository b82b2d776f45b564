package native

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	utilexec "k8s.io/utils/exec"
)

// ociRuntimes are the handlers that this host can run, with the file that tells in the runtime's own folder who made a
// container. crun refuses hosts that have both cgroup versions; it runs in the virtual machine of tests/vm.
func ociRuntimes(t *testing.T, g *rig) map[string]string {
	t.Helper()
	out := map[string]string{"runc": "state.json"}
	if _, err := exec.LookPath("crun"); err == nil && g.cgroups.Unified {
		out["crun"] = "status"
	} else if os.Getenv("REEVE_VM") == "1" {
		t.Fatalf("no crun: %v, cgroups %+v", err, g.cgroups)
	}
	return out
}

// What a pod is told holds under every OCI runtime: it runs, is limited, executes, logs, is killed for its memory, stops
// in its grace, and leaves nothing.
func TestOCIRuntimes(t *testing.T) {
	g := newRig(t)
	ctx := t.Context()
	for handler, witness := range ociRuntimes(t, g) {
		t.Run(handler, func(t *testing.T) {
			g := &rig{Runtime: g.Runtime, t: t, dir: g.dir, inst: g.inst, net: g.net, cfg: g.cfg}
			sb, err := g.RunPodSandbox(ctx, g.sandboxConfig("limits-"+handler), handler)
			if err != nil {
				t.Fatal(err)
			}
			main := g.run(sb, containerConfig("main", func(c *runtimeapi.ContainerConfig) {
				c.Linux.Resources = &runtimeapi.LinuxContainerResources{
					CpuPeriod: 100000, CpuQuota: 50000, CpuShares: 512, MemoryLimitInBytes: 64 << 20, CpusetCpus: "0", OomScoreAdj: 500,
				}
				if g.cgroups.Unified {
					c.Linux.Resources.Unified = map[string]string{"memory.high": "50331648"}
				}
			}, "sh", "-c", "trap 'echo bye; exit 3' TERM; echo hello; echo oops >&2; while :; do sleep 0.1; done"))
			g.pausePID(sb)
			for _, id := range []string{sb, main} {
				if state := filepath.Join("/run/containerd/runc", g.Runtime.cfg.Namespace, id); !exists(filepath.Join(state, witness)) {
					entries, _ := filepath.Glob(state + "/*")
					t.Errorf("%s was not made by %s: %v", id, handler, entries)
				}
			}
			c, err := g.store.container(main)
			if err != nil {
				t.Fatal(err)
			}
			cg := g.cgroupPath(c.rec.Cgroup)
			g.wantLimits(cg, map[string]string{
				"cpu.max": "50000 100000", "cpu.weight": "20", "memory.max": "67108864", "memory.high": "50331648", "memory.swap.max": "0", "cpuset.cpus": "0",
			})
			if u := g.cgroups.Read(cg); u.MemoryLimit == nil || *u.MemoryLimit != 64<<20 || u.CPUNanoseconds == nil || u.Processes == nil || *u.Processes == 0 {
				t.Errorf("cgroup %s: %+v", cg, u)
			}
			if g.cgroups.Unified {
				// The container sees its own cgroup as the root.
				if out := g.output(main, "sh", "-c", "cat /proc/self/cgroup /sys/fs/cgroup/memory.max"); out != "0::/\n67108864\n" {
					t.Errorf("cgroup inside: %q", out)
				}
			}
			// Of the container's own process: crun 1.8 does not apply it to exec's.
			if out := g.output(main, "cat", "/proc/1/oom_score_adj"); out != "500\n" {
				t.Errorf("oom_score_adj: %q", out)
			}
			var exit utilexec.CodeExitError
			if _, stderr, err := g.ExecSync(ctx, main, []string{"sh", "-c", "echo why >&2; exit 7"}, time.Minute); !errors.As(err, &exit) || exit.Code != 7 || string(stderr) != "why\n" {
				t.Errorf("exec: %q, %v", stderr, err)
			}
			res := &runtimeapi.ContainerResources{Linux: &runtimeapi.LinuxContainerResources{CpuPeriod: 100000, CpuQuota: 25000, CpuShares: 1024, MemoryLimitInBytes: 96 << 20}}
			if err := g.UpdateContainerResources(ctx, main, res); err != nil {
				t.Errorf("update: %v", err)
			}
			g.wantLimits(cg, map[string]string{"cpu.max": "25000 100000", "cpu.weight": "39", "memory.max": "100663296"})

			hog := g.run(sb, containerConfig("hog", func(c *runtimeapi.ContainerConfig) { c.Linux.Resources.MemoryLimitInBytes = 16 << 20 },
				"sh", "-c", "x=a; while :; do x=$x$x; done"))
			if st := g.wait(hog); st.Reason != "OOMKilled" || st.ExitCode != 137 {
				t.Errorf("out of memory: %v", st)
			}
			bad := g.create(sb, containerConfig("bad", nil, "/no/such/program"))
			if err := g.StartContainer(ctx, bad); err == nil || !strings.Contains(err.Error(), "/no/such/program") {
				t.Errorf("a program that is not there: %v", err)
			}
			if st := g.status(bad); st.Reason != "StartError" || st.ExitCode != 128 {
				t.Errorf("a program that is not there: %v", st)
			}
			if err := g.StopContainer(ctx, main, 30); err != nil {
				t.Fatal(err)
			}
			if st := g.status(main); st.ExitCode != 3 || st.Reason != "Error" {
				t.Errorf("stopped: %v", st)
			}
			if log := g.log(main); !strings.Contains(log, " stdout F hello\n") || !strings.Contains(log, " stderr F oops\n") || !strings.Contains(log, " stdout F bye\n") {
				t.Errorf("log: %q", log)
			}
			if err := g.StopPodSandbox(ctx, sb); err != nil {
				t.Fatal(err)
			}
			if err := g.RemovePodSandbox(ctx, sb); err != nil {
				t.Fatal(err)
			}
			g.empty()
			for _, path := range []string{g.cgroups.Dir("memory", cg), filepath.Join("/run/containerd/runc", g.Runtime.cfg.Namespace, sb), filepath.Join("/run/containerd/runc", g.Runtime.cfg.Namespace, main)} {
				if exists(path) {
					t.Errorf("%s is left", path)
				}
			}
		})
	}
}

// wantLimits compares files of a v2 cgroup; on v1 hosts spec's tests say what is asked for.
func (g *rig) wantLimits(cg string, want map[string]string) {
	g.t.Helper()
	if !g.cgroups.Unified {
		return
	}
	for file, want := range want {
		b, err := os.ReadFile(filepath.Join(g.cgroups.V2, cg, file))
		if err != nil && errors.Is(err, os.ErrNotExist) && file == "memory.swap.max" {
			continue // a kernel without swap
		}
		if got := strings.TrimSpace(string(b)); got != want {
			g.t.Errorf("%s of %s: %q, want %q (%v)", file, cg, got, want, err)
		}
	}
}

// What a pod takes under each OCI runtime, in turns, so that what else the host does meets both alike. REEVE_ROUNDS says
// how many; one in CI.
func TestOCIRuntimesInTurns(t *testing.T) {
	rounds := 1
	fmt.Sscan(os.Getenv("REEVE_ROUNDS"), &rounds)
	g := newRig(t, func(c *Config) { c.Logger = nil })
	ctx := t.Context()
	took := map[string]map[string][]time.Duration{}
	order := slices.Sorted(maps.Keys(ociRuntimes(t, g)))
	for round := range rounds + 1 {
		for _, handler := range order {
			at := time.Now()
			step := func(name string) {
				now := time.Now()
				if round > 0 { // the first warms caches
					if took[handler] == nil {
						took[handler] = map[string][]time.Duration{}
					}
					took[handler][name] = append(took[handler][name], now.Sub(at))
				}
				at = time.Now()
			}
			sb, err := g.RunPodSandbox(ctx, g.sandboxConfig(fmt.Sprintf("%s-%d", handler, round)), handler)
			if err != nil {
				t.Fatal(err)
			}
			step("sandbox")
			id := g.run(sb, containerConfig("c", nil, "sleep", "1000"))
			step("container")
			g.pausePID(sb) // not beside what is measured next
			at = time.Now()
			g.output(id, "true")
			step("exec")
			if err := g.RemovePodSandbox(ctx, sb); err != nil {
				t.Fatal(err)
			}
			step("removal")
		}
		slices.Reverse(order)
	}
	g.empty()
	for _, handler := range slices.Sorted(slices.Values(order)) {
		line := fmt.Sprintf("Times: %s, %d rounds, median and longest:", handler, rounds)
		for _, name := range []string{"sandbox", "container", "exec", "removal"} {
			d := slices.Sorted(slices.Values(took[handler][name]))
			line += fmt.Sprintf(" %s %d/%d ms", name, d[len(d)/2].Milliseconds(), d[len(d)-1].Milliseconds())
		}
		t.Log(line)
	}
}
