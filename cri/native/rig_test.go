package native

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/reevehq/reeve/internal/cgroup"
	"github.com/reevehq/reeve/internal/containerd"
	"github.com/reevehq/reeve/internal/podnet"
	"github.com/reevehq/reeve/internal/testenv"
	"github.com/reevehq/reeve/internal/testns"
)

func TestMain(m *testing.M) { testns.Main(m) }

// rig is a runtime on a containerd of the test's own.
type rig struct {
	*Runtime
	t    testing.TB
	dir  string
	inst *containerd.Instance
	net  *testNetwork
	cfg  Config
}

func newRig(t testing.TB, mods ...func(*Config)) *rig {
	t.Helper()
	testns.Need(t)
	return newRigIn(t, testenv.Dir(t), mods...)
}

func newRigIn(t testing.TB, dir string, mods ...func(*Config)) *rig {
	t.Helper()
	testenv.NeedFilesystem(t, "overlay")
	inst := testenv.Containerd(t, dir)
	parts := testenv.BuildParts(t)
	host, err := cgroup.Detect()
	if err != nil {
		t.Fatal(err)
	}
	n := &testNetwork{dir: filepath.Join(dir, "netns")}
	g := &rig{t: t, dir: dir, inst: inst, net: n, cfg: Config{
		Address: inst.Address(), StateDir: filepath.Join(dir, "cri"), LogpumpDir: filepath.Join(dir, "pump"), LogpumpBinary: parts.Logpump,
		Network: n, Images: [][]byte{parts.Pause, testenv.BusyboxArchive(t)}, RegistryDir: filepath.Join(dir, "certs.d"),
		DetachLogpump: func(pid int) error { return host.Join(testenv.CgroupOf(dir)+"/logpump", pid) },
		Logger:        testenv.Logger(t),
		// The virtual machine's tests (tests/vm) repeat those of this package with another OCI runtime and cgroup driver.
		Handlers: map[string]Handler{"crun": {Binary: "crun"}}, DefaultHandler: os.Getenv("REEVE_TEST_HANDLER"),
		CgroupDriver: os.Getenv("REEVE_TEST_CGROUP_DRIVER"),
	}}
	for _, mod := range mods {
		mod(&g.cfg)
	}
	g.start()
	t.Cleanup(func() { g.stop() })
	return g
}

func (g *rig) start() {
	g.t.Helper()
	r, err := New(g.t.Context(), g.cfg)
	if err != nil {
		g.t.Fatal(err)
	}
	g.Runtime = r
}

func (g *rig) stop() {
	if g.Runtime == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := g.Runtime.Close(ctx); err != nil {
		g.t.Errorf("close: %v", err)
	}
	g.Runtime = nil
}

// restart is what an agent's restart looks like to the runtime.
func (g *rig) restart() {
	g.t.Helper()
	g.stop()
	g.start()
}

// cgroupParent is where the pod of that name belongs, as an agent with the rig's cgroup driver says it.
func (g *rig) cgroupParent(name string) string {
	if g.cfg.CgroupDriver != "systemd" {
		return testenv.CgroupOf(g.dir) + "/pods/" + name
	}
	plain := strings.NewReplacer("-", "_", "/", "")
	return plain.Replace(testenv.CgroupOf(g.dir)) + "-" + plain.Replace(name) + ".slice"
}

func (g *rig) sandboxConfig(name string, mods ...func(*runtimeapi.PodSandboxConfig)) *runtimeapi.PodSandboxConfig {
	c := &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{Name: name, Namespace: "default", Uid: "uid-" + name},
		Hostname: name, LogDirectory: filepath.Join(g.dir, "logs", name), Labels: map[string]string{"app": name},
		DnsConfig: &runtimeapi.DNSConfig{Servers: []string{"10.96.0.10"}, Searches: []string{"default.svc.cluster.local"}, Options: []string{"ndots:5"}},
		Linux: &runtimeapi.LinuxPodSandboxConfig{
			CgroupParent: g.cgroupParent(name),
			SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
				NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER},
				Seccomp:          &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault},
			},
		},
	}
	for _, mod := range mods {
		mod(c)
	}
	return c
}

func containerConfig(name string, mod func(*runtimeapi.ContainerConfig), command ...string) *runtimeapi.ContainerConfig {
	c := &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: name}, Image: &runtimeapi.ImageSpec{Image: testenv.BusyboxRef},
		Command: command, LogPath: name + "/0.log",
		Linux: &runtimeapi.LinuxContainerConfig{
			Resources: &runtimeapi.LinuxContainerResources{CpuShares: 102, MemoryLimitInBytes: 64 << 20, OomScoreAdj: 900},
			SecurityContext: &runtimeapi.LinuxContainerSecurityContext{
				NamespaceOptions: &runtimeapi.NamespaceOption{Pid: runtimeapi.NamespaceMode_CONTAINER},
				Seccomp:          &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault},
				MaskedPaths:      []string{"/proc/kcore"}, ReadonlyPaths: []string{"/proc/sys"},
			},
		},
	}
	if mod != nil {
		mod(c)
	}
	return c
}

func (g *rig) sandbox(name string, mods ...func(*runtimeapi.PodSandboxConfig)) string {
	g.t.Helper()
	id, err := g.RunPodSandbox(g.t.Context(), g.sandboxConfig(name, mods...), "")
	if err != nil {
		g.t.Fatal(err)
	}
	return id
}

// pausePID waits until the sandbox's pause container runs.
func (g *rig) pausePID(sandbox string) (pid int) {
	g.t.Helper()
	s, err := g.store.sandbox(sandbox)
	if err != nil {
		g.t.Fatal(err)
	}
	waitFor(g.t, func() bool {
		g.store.mu.RLock()
		defer g.store.mu.RUnlock()
		pid = int(s.pid)
		return pid != 0
	})
	return pid
}

func (g *rig) create(sandbox string, c *runtimeapi.ContainerConfig) string {
	g.t.Helper()
	id, err := g.CreateContainer(g.t.Context(), sandbox, c, nil)
	if err != nil {
		g.t.Fatal(err)
	}
	return id
}

func (g *rig) run(sandbox string, c *runtimeapi.ContainerConfig) string {
	g.t.Helper()
	id := g.create(sandbox, c)
	if err := g.StartContainer(g.t.Context(), id); err != nil {
		g.t.Fatal(err)
	}
	return id
}

func (g *rig) status(id string) *runtimeapi.ContainerStatus {
	g.t.Helper()
	st, err := g.ContainerStatus(g.t.Context(), id, false)
	if err != nil {
		g.t.Fatal(err)
	}
	return st.Status
}

// wait waits for a container's end and returns its status.
func (g *rig) wait(id string) *runtimeapi.ContainerStatus {
	g.t.Helper()
	c, err := g.store.container(id)
	if err != nil {
		g.t.Fatal(err)
	}
	select {
	case <-c.exited:
	case <-time.After(60 * time.Second):
		g.t.Fatalf("container %s did not end", id)
	}
	return g.status(id)
}

// output runs a command in a container and returns what it printed.
func (g *rig) output(id string, cmd ...string) string {
	g.t.Helper()
	out, errOut, err := g.ExecSync(g.t.Context(), id, cmd, 20*time.Second)
	if err != nil {
		g.t.Fatalf("%q: %v: %s", cmd, err, errOut)
	}
	return string(out)
}

func (g *rig) log(id string) string {
	g.t.Helper()
	b, err := os.ReadFile(g.status(id).LogPath)
	if err != nil {
		g.t.Fatal(err)
	}
	return string(b)
}

// testNetwork gives each pod a namespace with loopback up; failures can be ordered.
type testNetwork struct {
	dir string

	mu      sync.Mutex
	n       byte
	added   map[string]bool
	failOn  string // "NewNamespace", "Add", "Del", "Status"
	alsoDel bool   // Del fails too
	slow    time.Duration
	kept    []string
	hung    map[string]chan struct{} // by pod: Add and Del wait for it
}

// hang makes Add and Del of these pods wait until release is called, or their context ends.
func (n *testNetwork) hang(pods ...string) (release func()) {
	ch := make(chan struct{})
	n.mu.Lock()
	defer n.mu.Unlock()
	n.hung = map[string]chan struct{}{}
	for _, p := range pods {
		n.hung[p] = ch
	}
	return sync.OnceFunc(func() { close(ch) })
}

func (n *testNetwork) stall(ctx context.Context, pod string) error {
	n.mu.Lock()
	ch := n.hung[pod]
	n.mu.Unlock()
	if ch == nil {
		return nil
	}
	select {
	case <-ch:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

var errOrdered = errors.New("ordered failure")

func (n *testNetwork) fail(op string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.failOn == op || op == "Del" && n.alsoDel {
		return errOrdered
	}
	return nil
}

func (n *testNetwork) order(op string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.failOn = op
}

func (n *testNetwork) NewNamespace(_ context.Context, id string) (string, error) {
	if err := n.fail("NewNamespace"); err != nil {
		return "", err
	}
	if err := os.MkdirAll(n.dir, 0o755); err != nil {
		return "", err
	}
	path := filepath.Join(n.dir, id[:12])
	if err := os.WriteFile(path, nil, 0o444); err != nil {
		return "", err
	}
	errs := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		errs <- func() error {
			home, err := unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer func() {
				if unix.Setns(home, unix.CLONE_NEWNET) == nil {
					runtime.UnlockOSThread()
				}
				unix.Close(home)
			}()
			if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
				return err
			}
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			ifr, err := unix.NewIfreq("lo")
			if err != nil {
				return err
			}
			ifr.SetUint16(unix.IFF_UP)
			if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr); err != nil {
				return err
			}
			return unix.Mount(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), path, "", unix.MS_BIND, "")
		}()
	}()
	return path, <-errs
}

func (n *testNetwork) RemoveNamespace(_ context.Context, path string) error {
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && err != unix.EINVAL && err != unix.ENOENT {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

func (n *testNetwork) Add(ctx context.Context, req podnet.Request) (podnet.Result, error) {
	time.Sleep(n.slow)
	if err := n.stall(ctx, req.PodName); err != nil {
		return podnet.Result{}, err
	}
	if err := n.fail("Add"); err != nil {
		return podnet.Result{}, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.added == nil {
		n.added = map[string]bool{}
	}
	n.added[req.SandboxID] = true
	n.n++
	return podnet.Result{IPs: []netip.Addr{netip.AddrFrom4([4]byte{10, 99, 0, n.n})}, Raw: []byte(`{"cniVersion":"1.0.0"}`)}, nil
}

func (n *testNetwork) Del(ctx context.Context, req podnet.Request) error {
	if err := n.stall(ctx, req.PodName); err != nil {
		return err
	}
	if err := n.fail("Del"); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.added, req.SandboxID)
	return nil
}

func (n *testNetwork) Check(_ context.Context, req podnet.Request, prev podnet.Result) error {
	if len(prev.IPs) == 0 || req.SandboxID == "" {
		return errors.New("CHECK without what ADD gave")
	}
	return n.fail("Check")
}

func (n *testNetwork) Status(context.Context) error { return n.fail("Status") }

func (n *testNetwork) GC(_ context.Context, keep []string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.kept = keep
	return nil
}

func (n *testNetwork) count() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return len(n.added)
}
