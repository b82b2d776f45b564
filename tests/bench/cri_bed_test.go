package bench

import (
	"bytes"
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

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/platforms"
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
	dir, address string
	cgroups      string
	containerd   int // pid
	parts        testenv.Parts
}

// criConfig turns the plugin on as a node would have it, with our pause image for both sides; the OOM score is
// restricted because the hosts of these benches may not lower it.
const criConfig = `version = 2
root = %[1]q
state = %[2]q
[grpc]
  address = %[3]q
[ttrpc]
  address = %[4]q
[debug]
  level = "warn"
[plugins."io.containerd.gc.v1.scheduler"]
  schedule_delay = "2s"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = %[5]q
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = %[6]q
    conf_dir = %[7]q
`

const criConflist = `{"cniVersion":"1.0.0","name":"bench","plugins":[
{"type":"ptp","ipMasq":false,"ipam":{"type":"host-local","dataDir":%q,"ranges":[[{"subnet":"10.202.0.0/16"}]],"routes":[{"dst":"0.0.0.0/0"}]}},
{"type":"portmap","capabilities":{"portMappings":true}}]}`

// cniBin is where Debian puts the plugins.
const cniBin = "/usr/lib/cni"

func newCRIBed(b *testing.B) *criBed {
	b.Helper()
	dir, err := os.MkdirTemp("/tmp", "reeve-e2e-")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { os.RemoveAll(dir) })
	d := &criBed{dir: dir, address: filepath.Join(dir, "c.sock"), cgroups: node.CgroupRoot(filepath.Base(dir)), parts: testenv.BuildParts(b)}
	files := map[string]string{
		"config.toml":             fmt.Sprintf(criConfig, dir+"/root", dir+"/state", d.address, d.address+".ttrpc", embedded.PauseRef, cniBin, dir+"/net.d"),
		"net.d/10-bench.conflist": fmt.Sprintf(criConflist, dir+"/ipam"),
	}
	for name, text := range files {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			b.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			b.Fatal(err)
		}
	}
	log, err := os.Create(filepath.Join(dir, "containerd.log"))
	if err != nil {
		b.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command("containerd", "--config", filepath.Join(dir, "config.toml"))
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	d.containerd = cmd.Process.Pid
	host, err := cgroup.Detect()
	if err != nil {
		b.Fatal(err)
	}
	if err := host.Join(d.cgroups+"/containerd", cmd.Process.Pid); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
	})
	client, err := containerd.New(d.address, containerd.WithTimeout(20*time.Second))
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { client.Close() })
	// The plugin's namespace is k8s.io; the native runtime imports into its own.
	ctx := namespaces.WithNamespace(context.Background(), "k8s.io")
	for _, archive := range [][]byte{d.parts.Pause, d.parts.Hello} {
		list, err := client.Import(ctx, bytes.NewReader(archive), containerd.WithImportPlatform(platforms.Default()))
		if err != nil {
			b.Fatal(err)
		}
		for _, img := range list {
			if err := containerd.NewImage(client, img).Unpack(ctx, "overlayfs"); err != nil {
				b.Fatal(err)
			}
		}
	}
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
	node.Eventually(b, "the CRI of "+name, func() error {
		rt, err := remote.New(context.Background(), socket)
		if err != nil {
			return err
		}
		st, err := rt.Status(context.Background(), false)
		if err != nil {
			return err
		}
		for _, c := range st.Status.Conditions {
			if !c.Status {
				return fmt.Errorf("%s: %s", c.Type, c.Message)
			}
		}
		s.rt = rt
		return nil
	})
	b.Cleanup(func() { s.rt.Close(context.Background()) })
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		b.Fatal(err)
	}
	return s
}

// plugin is containerd's own CRI.
func (d *criBed) plugin(b *testing.B) *side { return d.side(b, "plugin", d.address) }

// native serves a native runtime on a socket, in this process.
func (d *criBed) native(b *testing.B, name string, network native.Network) *side {
	b.Helper()
	dir := filepath.Join(d.dir, name)
	host, err := cgroup.Detect()
	if err != nil {
		b.Fatal(err)
	}
	rt, err := native.New(context.Background(), native.Config{
		Address: d.address, Namespace: "reeve-" + name, StateDir: dir + "/cri", LogpumpDir: dir + "/pump", LogpumpBinary: d.parts.Logpump,
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
	return d.side(b, name, socket)
}

// conflist is the network of the plugin's own conflist.
func (d *criBed) conflist(b *testing.B) native.Network {
	b.Helper()
	n, err := cni.NewConflist(cni.ConflistConfig{
		ConfDir: d.dir + "/net.d", BinDirs: []string{cniBin}, CacheDir: d.dir + "/cni-cache", NetNSDir: d.dir + "/netns-conflist",
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
	cmd := exec.Command(os.Getenv("REEVE_BIN"), "cri", "--data-dir", dir, "--listen", "unix://"+socket, "--containerd-address", d.address,
		"--network=cni", "--cni-conf-dir", d.dir+"/net.d", "--cni-bin-dir", cniBin, "--cgroup-root", d.cgroups, "--cgroup-driver=cgroupfs")
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
		endLogpump(dir)
	})
	return d.side(b, "native", socket)
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
