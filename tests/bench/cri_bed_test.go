package bench

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/reevehq/reeve/cni"
	"github.com/reevehq/reeve/cri"
	"github.com/reevehq/reeve/cri/native"
	"github.com/reevehq/reeve/cri/remote"
	"github.com/reevehq/reeve/cri/server"
	"github.com/reevehq/reeve/internal/cgroup"
	"github.com/reevehq/reeve/internal/embedded"
	"github.com/reevehq/reeve/internal/testenv"
	"github.com/reevehq/reeve/tests/node"
)

// criBed is one containerd whose CRI plugin is on, with the demo and pause images, and one conflist.
type criBed struct {
	dir     string
	plugged *node.Plugin
	cgroups string
	parts   testenv.Parts
}

func newCRIBed(b *testing.B) *criBed {
	b.Helper()
	dir := node.TempDir(b)
	b.Cleanup(func() { os.RemoveAll(dir) })
	d := &criBed{dir: dir, cgroups: node.CgroupRoot(filepath.Base(dir)), parts: testenv.BuildParts(b)}
	d.plugged = node.StartPlugin(b, node.PluginConfig{
		Dir: dir, PauseImage: embedded.PauseRef, Network: node.Conflist("bench", "10.202.0.0/16", filepath.Join(dir, "ipam"), false), LogLevel: "warn",
		More: `[plugins."io.containerd.gc.v1.scheduler"]
  schedule_delay = "2s"`,
	})
	// The plugin's namespace is k8s.io; the native runtime imports into its own.
	d.plugged.Import(b, d.parts.Pause)
	d.plugged.Import(b, d.parts.Hello)
	return d
}

// side is one of the runtimes that are compared, driven through its CRI socket.
type side struct {
	name    string
	rt      cri.Runtime
	dir     string
	cgroups string
	n       int
	run     []time.Duration // RunPodSandbox
	start   []time.Duration // CreateContainer and StartContainer
	started []time.Duration // the three together
	gone    []time.Duration // StopPodSandbox and RemovePodSandbox
	cpu     []time.Duration // of everything, from RunPodSandbox to the removal's end
	each    []time.Duration // the three together, of many at once
	burst   []time.Duration // all of many at once started
	settled []time.Duration // all of many at once started, their pause containers too
	cleared []time.Duration // all of many at once removed
}

func (d *criBed) side(b *testing.B, name, socket string) *side {
	b.Helper()
	s := &side{name: name, dir: filepath.Join(d.dir, "pods-"+name), cgroups: d.cgroups + "/" + name}
	node.WaitCRI(b, socket)
	var err error
	if s.rt, err = remote.New(context.Background(), socket); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { s.rt.Close(context.Background()) })
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		b.Fatal(err)
	}
	return s
}

// plugin is containerd's own CRI.
func (d *criBed) plugin(b *testing.B) *side { return d.side(b, "plugin", d.plugged.Endpoint) }

// native serves a native runtime on a socket, in this process.
func (d *criBed) native(b *testing.B, name string, network native.Network) *side {
	b.Helper()
	dir := filepath.Join(d.dir, name)
	host, err := cgroup.Detect()
	if err != nil {
		b.Fatal(err)
	}
	rt, err := native.New(context.Background(), native.Config{
		Address: d.plugged.Address, Namespace: "reeve-" + name, StateDir: dir + "/cri", LogpumpDir: dir + "/pump", LogpumpBinary: d.parts.Logpump,
		DetachLogpump: func(pid int) error { return host.Join(d.cgroups+"/"+name+"-logpump", pid) },
		Network:       network, Images: [][]byte{d.parts.Pause, d.parts.Hello}, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		b.Fatal(err)
	}
	socket := filepath.Join(dir, "cri.sock")
	l, err := server.Listen(socket)
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- server.ServeListener(ctx, l, rt, slog.New(slog.DiscardHandler)) }()
	b.Cleanup(func() {
		cancel()
		<-done
		rt.Close(context.Background())
		endLogpump(dir)
	})
	return d.side(b, name, "unix://"+socket)
}

// conflist is the network of the plugin's own conflist.
func (d *criBed) conflist(b *testing.B) native.Network {
	b.Helper()
	n, err := cni.NewConflist(cni.ConflistConfig{
		ConfDir: d.plugged.ConfDir, BinDirs: []string{node.CNIBinDir}, CacheDir: d.dir + "/cni-cache", NetNSDir: d.dir + "/netns-conflist",
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { n.Close() })
	return n
}

// builtin is the in-process network.
func (d *criBed) builtin(b *testing.B) native.Network {
	b.Helper()
	n, err := cni.NewBuiltin(cni.BuiltinConfig{
		StateDir: d.dir + "/builtin", NetNSDir: d.dir + "/netns-builtin", PodCIDRs: []netip.Prefix{netip.MustParsePrefix("10.203.0.0/16")},
		Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { n.Cleanup(context.Background()) })
	return n
}

// pod is what one pod's calls carry: what a kubelet sends for a pod with one container, two mounts and no settings.
func (s *side) pod() (*runtimeapi.PodSandboxConfig, *runtimeapi.ContainerConfig) {
	s.n++
	name := fmt.Sprintf("%s-%d", s.name, s.n)
	own := &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER}
	sandbox := &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{Name: name, Namespace: "default", Uid: "uid-" + name}, Hostname: name,
		LogDirectory: filepath.Join(s.dir, name), DnsConfig: &runtimeapi.DNSConfig{Servers: []string{"10.96.0.10"}},
		Labels: map[string]string{"io.kubernetes.pod.name": name, "io.kubernetes.pod.namespace": "default", "io.kubernetes.pod.uid": "uid-" + name},
		Linux: &runtimeapi.LinuxPodSandboxConfig{
			CgroupParent: s.cgroups + "/" + name,
			SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
				NamespaceOptions: own, Seccomp: &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault},
			},
		},
	}
	shared := filepath.Join(s.dir, "shared")
	container := &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: "c"}, Image: &runtimeapi.ImageSpec{Image: embedded.HelloRef}, LogPath: "c/0.log",
		Mounts: []*runtimeapi.Mount{{HostPath: shared, ContainerPath: "/var/run/secrets", Readonly: true}, {HostPath: shared, ContainerPath: "/data"}},
		Linux: &runtimeapi.LinuxContainerConfig{
			Resources: &runtimeapi.LinuxContainerResources{CpuShares: 2, OomScoreAdj: 1000},
			SecurityContext: &runtimeapi.LinuxContainerSecurityContext{
				NamespaceOptions: own, Seccomp: &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined},
				MaskedPaths:   []string{"/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware"},
				ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
			},
		},
	}
	return sandbox, container
}

// up makes one pod and returns its sandbox and how long each half took.
func (s *side) up(sandbox *runtimeapi.PodSandboxConfig, container *runtimeapi.ContainerConfig) (id string, run, start time.Duration, err error) {
	ctx := context.Background()
	// The log directory and cgroup are the kubelet's to make, before.
	if err = os.MkdirAll(filepath.Join(sandbox.LogDirectory, "c"), 0o755); err != nil {
		return "", 0, 0, err
	}
	began := time.Now()
	if id, err = s.rt.RunPodSandbox(ctx, sandbox, ""); err != nil {
		return "", 0, 0, err
	}
	run = time.Since(began)
	began = time.Now()
	c, err := s.rt.CreateContainer(ctx, id, container, sandbox)
	if err == nil {
		err = s.rt.StartContainer(ctx, c)
	}
	return id, run, time.Since(began), err
}

// cpu is the processor time that the bed has used: containerd, shims, logpump and containers by their cgroups, and this
// process, with the native runtime and the plugins that it ran.
func (d *criBed) cpu(b *testing.B) time.Duration {
	b.Helper()
	host, err := cgroup.Detect()
	if err != nil {
		b.Fatal(err)
	}
	var total time.Duration
	if n := host.Read(d.cgroups).CPUNanoseconds; n != nil {
		total = time.Duration(*n)
	}
	for _, who := range []int{syscall.RUSAGE_SELF, syscall.RUSAGE_CHILDREN} {
		var u syscall.Rusage
		if err := syscall.Getrusage(who, &u); err != nil {
			b.Fatal(err)
		}
		total += time.Duration(u.Utime.Nano() + u.Stime.Nano())
	}
	return total
}

// settle waits until the sandbox's pause container runs.
func (s *side) settle(b *testing.B, id string) {
	b.Helper()
	for deadline := time.Now().Add(node.WaitTimeout); time.Now().Before(deadline); time.Sleep(2 * time.Millisecond) {
		st, err := s.rt.PodSandboxStatus(context.Background(), id, true)
		if err != nil {
			b.Fatal(err)
		}
		var info struct{ PID int }
		if err := json.Unmarshal([]byte(st.Info["info"]), &info); err != nil {
			b.Fatal(err)
		}
		if info.PID != 0 {
			return
		}
	}
	b.Fatalf("%s: the pause container of %s does not start", s.name, id)
}

func (s *side) down(id string) (took time.Duration, err error) {
	ctx := context.Background()
	began := time.Now()
	if err := s.rt.StopPodSandbox(ctx, id); err != nil {
		return 0, err
	}
	err = s.rt.RemovePodSandbox(ctx, id)
	return time.Since(began), err
}

// process runs `reeve cri` as a program of its own, on the conflist.
func (d *criBed) process(b *testing.B) *side {
	b.Helper()
	dir := filepath.Join(d.dir, "process")
	socket := filepath.Join(d.dir, "cri.sock")
	log, err := os.Create(filepath.Join(d.dir, "cri.log"))
	if err != nil {
		b.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(os.Getenv("REEVE_BIN"), "cri", "--data-dir", dir, "--listen", "unix://"+socket, "--containerd-address", d.plugged.Address,
		"--network=cni", "--cni-conf-dir", d.plugged.ConfDir, "--cni-bin-dir", node.CNIBinDir, "--cgroup-root", d.cgroups, "--cgroup-driver=cgroupfs")
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
		endLogpump(dir)
	})
	return d.side(b, "native", "unix://"+socket)
}

// endLogpump kills logpump's two processes, each of which starts the other again, until both are gone.
func endLogpump(dir string) {
	for pids := node.Processes("logpump", dir); len(pids) > 0; pids = node.Processes("logpump", dir) {
		for _, pid := range pids {
			syscall.Kill(pid, syscall.SIGKILL)
		}
		time.Sleep(time.Millisecond)
	}
}
