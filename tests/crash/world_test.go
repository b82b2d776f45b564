package crash

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/reevehq/reeve/cri/remote"
	"github.com/reevehq/reeve/internal/containerd"
	"github.com/reevehq/reeve/internal/testenv"
	"github.com/reevehq/reeve/internal/testns"
)

// patience bounds every wait for something that must happen; it measures nothing.
const patience = 90 * time.Second

// world is a host with a containerd that is restarted whenever it dies, and a runtime that the test starts and kills.
type world struct {
	t    testing.TB
	dir  string
	inst *containerd.Instance
	*proxy
	scripts
	*remote.Runtime

	config childConfig
	pid    runtimeapi.NamespaceMode // of the sandboxes
	shims  bool                     // pods have the shim that stops and fails, and the plain OCI runtime
	child  *exec.Cmd
	stdin  io.Closer
}

const conflist = `{
	"cniVersion": "1.0.0", "name": "pods", "plugins": [
		{"type": "crash-ptp", "ipMasq": false, "ipam": {"type": "host-local", "subnet": "10.98.0.0/16", "dataDir": %q}},
		{"type": "crash-portmap", "capabilities": {"portMappings": true}}
	]
}`

func newWorld(t testing.TB) *world {
	t.Helper()
	testns.Need(t)
	testenv.NeedFilesystem(t, "overlay")
	testenv.NeedBinary(t, pluginDir+"/ptp")
	runc, shim := testenv.NeedBinary(t, "runc"), testenv.NeedBinary(t, "containerd-shim-runc-v2")
	dir := testenv.Dir(t)
	w := &world{t: t, dir: dir, pid: runtimeapi.NamespaceMode_CONTAINER}
	w.scripts = newScripts(t, dir, runc, shim)
	t.Setenv("PATH", os.Getenv("PATH")+":"+filepath.Join(dir, "bin")) // containerd looks for the shim there
	parts := testenv.BuildParts(t)
	w.config = childConfig{
		Address: filepath.Join(dir, "proxy.sock"), Dir: dir, Endpoint: "unix://" + filepath.Join(dir, "cri.sock"), Logpump: parts.Logpump,
		Images: []string{filepath.Join(dir, "pause.tar"), filepath.Join(dir, "busybox.tar")},
	}
	for i, b := range [][]byte{parts.Pause, testenv.BusyboxArchive(t)} {
		if err := os.WriteFile(w.config.Images[i], b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "net.d"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "net.d", "1.conflist"), fmt.Appendf(nil, conflist, filepath.Join(dir, "ipam")), 0o644); err != nil {
		t.Fatal(err)
	}
	w.inst = testenv.Containerd(t, dir)
	ctx, stop := context.WithCancel(context.Background())
	watched := make(chan struct{})
	go func() { defer close(watched); w.inst.Run(ctx) }()
	t.Cleanup(func() { stop(); <-watched })
	w.proxy = newProxy(t, w.inst.Address(), w.config.Address)
	w.launch()
	t.Cleanup(func() {
		if w.child != nil {
			w.killRuntime()
		}
		if t.Failed() {
			t.Logf("the runtime's log ends with:\n%s", lastLines(w.logFile(), 200))
			t.Logf("containerd's log ends with:\n%s", lastLines(filepath.Join(dir, "containerd", "containerd.log"), 50))
			pump, _ := os.ReadFile(filepath.Join(dir, "pump", "log"))
			t.Logf("logpump says:\n%s", pump)
			out, _ := exec.Command("sh", "-c", "ps axo pid,ppid,stat,etime,args | grep "+dir).CombinedOutput()
			t.Logf("processes:\n%s", out)
		}
	})
	return w
}

// lastLines reads the end of a file, "" when there is none.
func lastLines(path string, n int) string {
	b, _ := os.ReadFile(path)
	lines := strings.SplitAfter(string(b), "\n")
	return strings.Join(lines[max(0, len(lines)-1-n):], "")
}

// launch starts the runtime's process and waits until it serves.
func (w *world) launch() {
	w.t.Helper()
	began := time.Now()
	w.spawn()
	w.connect()
	w.t.Logf("the runtime serves after %s", time.Since(began).Round(time.Millisecond))
}

func (w *world) logFile() string { return filepath.Join(w.dir, "runtime.log") }

func (w *world) spawn() {
	w.t.Helper()
	log, err := os.OpenFile(w.logFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		w.t.Fatal(err)
	}
	defer log.Close()
	b, err := json.Marshal(w.config)
	if err != nil {
		w.t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), asRuntime+"="+string(b))
	cmd.Stdout, cmd.Stderr = log, log
	if w.stdin, err = cmd.StdinPipe(); err != nil {
		w.t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	w.child = cmd
}

func (w *world) connect() {
	w.t.Helper()
	w.eventually("the runtime serves", func() error {
		if w.child.ProcessState != nil || syscall.Kill(w.child.Process.Pid, 0) != nil {
			w.t.Fatalf("the runtime's process has ended:\n%s", w.tail())
		}
		rt, err := remote.New(w.t.Context(), w.config.Endpoint)
		if err != nil {
			return err
		}
		if _, err := rt.Version(w.t.Context(), ""); err != nil {
			rt.Close(w.t.Context())
			return err
		}
		w.Runtime = rt
		return nil
	})
}

// killRuntime is kill -9.
func (w *world) killRuntime() {
	w.t.Helper()
	w.child.Process.Kill()
	w.child.Wait()
	w.stdin.Close()
	w.child = nil
	if w.Runtime != nil {
		w.Runtime.Close(context.Background())
		w.Runtime = nil
	}
}

// killContainerd is kill -9; it returns when another one answers. then is called right after the kill.
func (w *world) killContainerd(then func()) {
	w.t.Helper()
	old := w.inst.PID()
	if err := syscall.Kill(old, syscall.SIGKILL); err != nil {
		w.t.Fatal(err)
	}
	then()
	w.eventually("containerd is back", func() error {
		if pid := w.inst.PID(); pid == old || pid == 0 {
			return fmt.Errorf("its process is %d, was %d", pid, old)
		}
		return nil
	})
}

func (w *world) tail() string {
	b, _ := os.ReadFile(w.logFile())
	return string(b[max(0, len(b)-1500):])
}

// eventually asks again until f answers nil.
func (w *world) eventually(what string, f func() error) {
	w.t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			w.t.Fatalf("%s: still not after %s: %v\n%s", what, patience, err, w.tail())
		}
	}
}

func (w *world) sandboxConfig(name string) *runtimeapi.PodSandboxConfig {
	return &runtimeapi.PodSandboxConfig{
		Metadata: &runtimeapi.PodSandboxMetadata{Name: name, Namespace: "default", Uid: "uid-" + name},
		Hostname: "h", LogDirectory: filepath.Join(w.dir, "logs", name),
		DnsConfig:    &runtimeapi.DNSConfig{Servers: []string{"10.96.0.10"}},
		PortMappings: []*runtimeapi.PortMapping{{ContainerPort: 80, HostPort: hostPort(name), Protocol: runtimeapi.Protocol_TCP}},
		Linux: &runtimeapi.LinuxPodSandboxConfig{
			CgroupParent: testenv.CgroupOf(w.dir) + "/pods/" + name,
			SecurityContext: &runtimeapi.LinuxSandboxSecurityContext{
				NamespaceOptions: &runtimeapi.NamespaceOption{Pid: w.pid},
			},
		},
	}
}

// hostPort gives each name its own.
func hostPort(name string) int32 {
	var h uint32
	for _, c := range name {
		h = h*31 + uint32(c)
	}
	return int32(20000 + h%30000)
}

func (w *world) containerConfig(name string, command ...string) *runtimeapi.ContainerConfig {
	return &runtimeapi.ContainerConfig{
		Metadata: &runtimeapi.ContainerMetadata{Name: name}, Image: &runtimeapi.ImageSpec{Image: testenv.BusyboxRef},
		Command: command, LogPath: name + ".log",
		Linux: &runtimeapi.LinuxContainerConfig{
			Resources: &runtimeapi.LinuxContainerResources{CpuShares: 102, MemoryLimitInBytes: 256 << 20, OomScoreAdj: 900},
			SecurityContext: &runtimeapi.LinuxContainerSecurityContext{
				NamespaceOptions: &runtimeapi.NamespaceOption{Pid: w.pid},
			},
		},
	}
}

// handler is the pods'.
func (w *world) handler() string {
	if w.shims {
		return "shim"
	}
	return ""
}

// removeAll removes every pod, as an agent that wants none does.
func (w *world) removeAll() error {
	list, err := w.ListPodSandbox(w.t.Context(), nil)
	if err != nil {
		return err
	}
	var wg sync.WaitGroup
	slots := make(chan struct{}, 6)
	errs := make([]error, len(list))
	for i, s := range list {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			if err := w.StopPodSandbox(w.t.Context(), s.Id); err != nil {
				errs[i] = fmt.Errorf("stop %s: %w", s.Metadata.Name, err)
			} else if err := w.RemovePodSandbox(w.t.Context(), s.Id); err != nil {
				errs[i] = fmt.Errorf("remove %s: %w", s.Metadata.Name, err)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}
