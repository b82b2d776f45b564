package node

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/reevehq/reeve/internal/embedded"
	"github.com/reevehq/reeve/internal/testenv"
)

// Deadlines of these tests are for a slow machine with the race detector on: they bound hangs and measure nothing.
const (
	readyTimeout = 180 * time.Second
	WaitTimeout  = 180 * time.Second
	ExecTimeout  = 240 * time.Second
)

// RoomyDisk are flags with which a node does not care how full the host's disk is, which others fill: tests of eviction and
// image collection give thresholds of their own.
var RoomyDisk = []string{
	"--eviction-hard=memory.available<100Mi,nodefs.available<1%,nodefs.inodesFree<1%,imagefs.available<1%,imagefs.inodesFree<1%",
	"--image-gc-high-threshold=100", "--image-gc-low-threshold=99",
}

// Node is one `reeve server` with a data-dir of its own.
type Node struct {
	// T hears of failures. A subtest puts its own here while it runs.
	T testing.TB
	// Dir holds everything of the node; Bin is the reeve that runs it.
	Dir, Bin string
	args     []string
	// Plugin is the runtime of a node that New or NewOnPlugin put on containerd's own CRI plugin, else nil.
	Plugin *Plugin

	closed bool
	server *exec.Cmd
	exited chan error
	notify *net.UnixConn
}

// New prepares a data-dir; start runs the server. What the node made is removed at the end of the test by `reeve
// cleanup`, whose success is part of every test. A failed test keeps the log and says where. With
// REEVE_TEST_RUNTIME=plugin it is NewOnPlugin.
func New(t testing.TB, flags ...string) *Node {
	t.Helper()
	if os.Getenv("REEVE_TEST_RUNTIME") == "plugin" {
		return NewOnPlugin(t, flags...)
	}
	return newNode(t, flags...)
}

// NewOnPlugin is New with --container-runtime-endpoint on a containerd of the test's own, whose CRI plugin runs the pods
// on a conflist.
func NewOnPlugin(t testing.TB, flags ...string) *Node {
	t.Helper()
	dir := TempDir(t)
	t.Cleanup(func() {
		if !t.Failed() {
			os.RemoveAll(dir)
		}
	})
	p := StartPlugin(t, PluginConfig{Dir: dir, PauseImage: embedded.PauseRef})
	parts := testenv.BuildParts(t)
	p.Import(t, parts.Pause)
	p.Import(t, parts.Hello)
	n := newNode(t, append([]string{"--container-runtime-endpoint", p.Endpoint}, flags...)...)
	n.Plugin = p
	return n
}

func newNode(t testing.TB, flags ...string) *Node {
	t.Helper()
	dir := TempDir(t)
	n := &Node{T: t, Dir: dir, Bin: os.Getenv("REEVE_BIN")}
	n.args = slices.Concat([]string{
		"server", "--data-dir", n.DataDir(), "--root-dir", filepath.Join(dir, "kubelet"), "--pod-logs-dir", filepath.Join(dir, "pod-logs"),
		"--cgroup-root", CgroupRoot(filepath.Base(dir)), "--cgroup-driver=cgroupfs", "--node-name=node-a", "--resolv-conf", filepath.Join(dir, "resolv.conf"),
	}, RoomyDisk, flags)
	if err := os.WriteFile(filepath.Join(dir, "resolv.conf"), []byte("nameserver "+OutsideIP+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	n.listenNotify()
	t.Cleanup(n.Close)
	return n
}

func (n *Node) DataDir() string    { return filepath.Join(n.Dir, "data") }
func (n *Node) Kubeconfig() string { return filepath.Join(n.DataDir(), "admin.kubeconfig") }
func (n *Node) LogFile() string    { return filepath.Join(n.Dir, "server.log") }

// listenNotify stands in for systemd's notification socket (sd_notify(3)).
func (n *Node) listenNotify() {
	n.T.Helper()
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(n.Dir, "notify"), Net: "unixgram"})
	if err != nil {
		n.T.Fatal(err)
	}
	n.notify = c
}

// Start runs the server and waits until it told READY=1.
func (n *Node) Start() {
	n.T.Helper()
	n.launch()
	n.waitReady()
}

func (n *Node) launch() {
	n.T.Helper()
	log, err := os.OpenFile(n.LogFile(), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		n.T.Fatal(err)
	}
	defer log.Close()
	n.server = exec.Command(n.Bin, n.args...)
	n.server.Stdout, n.server.Stderr = log, log
	n.server.Env = append(os.Environ(), "NOTIFY_SOCKET="+filepath.Join(n.Dir, "notify"))
	n.server.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := n.server.Start(); err != nil {
		n.T.Fatal(err)
	}
	n.exited = make(chan error, 1)
	go func(cmd *exec.Cmd, exited chan<- error) { exited <- cmd.Wait() }(n.server, n.exited)
}

func (n *Node) waitReady() {
	n.T.Helper()
	deadline := time.Now().Add(readyTimeout)
	buf := make([]byte, 4096)
	for time.Now().Before(deadline) {
		select {
		case err := <-n.exited:
			n.server = nil
			n.T.Fatalf("reeve server ended before it was ready: %v\n%s", err, n.tail())
		default:
		}
		n.notify.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		if k, err := n.notify.Read(buf); err == nil && bytes.Contains(buf[:k], []byte("READY=1")) {
			return
		}
	}
	n.T.Fatalf("reeve server was not ready after %s\n%s", readyTimeout, n.tail())
}

// Stop ends the server as systemd would: SIGTERM, then wait.
func (n *Node) Stop() {
	n.T.Helper()
	n.server.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-n.exited:
		if err != nil {
			n.T.Errorf("reeve server on SIGTERM: %v\n%s", err, n.tail())
		}
	case <-time.After(WaitTimeout):
		n.T.Fatalf("reeve server did not stop\n%s", n.tail())
	}
	n.server = nil
}

// KillServer is kill -9 of the supervisor.
func (n *Node) KillServer() {
	n.T.Helper()
	n.server.Process.Kill()
	<-n.exited
	n.server = nil
}

// Close ends whatever still runs and removes everything. New arranges for it; calling it earlier is fine.
func (n *Node) Close() {
	if n.closed {
		return
	}
	n.closed = true
	if n.server != nil {
		n.server.Process.Signal(syscall.SIGTERM)
		select {
		case <-n.exited:
		case <-time.After(60 * time.Second):
			n.server.Process.Kill()
			<-n.exited
		}
	}
	if n.T.Failed() {
		n.T.Logf("the log is kept: %s\n%s", n.LogFile(), n.tail())
	}
	ctx, cancel := context.WithTimeout(context.Background(), ExecTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, n.Bin, "cleanup", "--data-dir", n.DataDir(), "--yes").CombinedOutput()
	if err != nil {
		n.T.Errorf("reeve cleanup: %v\n%s", err, out)
	}
	n.notify.Close()
	if !n.T.Failed() {
		os.RemoveAll(n.Dir)
	}
}

// tail is the end of the server's log.
func (n *Node) tail() string {
	b, err := os.ReadFile(n.LogFile())
	if err != nil {
		return err.Error()
	}
	lines := strings.Split(string(b), "\n")
	return strings.Join(lines[max(0, len(lines)-60):], "\n")
}

// PIDOf is the process that holds a role, from the data-dir's record.
func (n *Node) PIDOf(role string) (int, error) {
	b, err := os.ReadFile(filepath.Join(n.DataDir(), role+".pid"))
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(b)))
}

// KubectlCommand is kubectl against this node's API server.
func (n *Node) KubectlCommand(ctx context.Context, args ...string) *exec.Cmd {
	program := filepath.Join(filepath.Dir(n.Bin), "kubectl")
	if _, err := os.Stat(program); err != nil {
		program, args = n.Bin, append([]string{"kubectl"}, args...)
	}
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(os.Environ(), "KUBECONFIG="+n.Kubeconfig(), "HOME="+n.Dir, "NO_PROXY=*")
	return cmd
}

// TryKubectl runs kubectl and returns what it printed on standard output; on failure, all of what it printed, in the
// error too.
func (n *Node) TryKubectl(stdin string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), ExecTimeout)
	defer cancel()
	cmd := n.KubectlCommand(ctx, args...)
	cmd.Stdin = strings.NewReader(stdin)
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		all := stdout.String() + stderr.String()
		return all, fmt.Errorf("kubectl %s: %w: %s", strings.Join(args, " "), err, all)
	}
	return stdout.String(), nil
}

// Kubectl runs kubectl, fails the test when it fails, and returns what it printed.
func (n *Node) Kubectl(args ...string) string {
	n.T.Helper()
	return n.KubectlIn("", args...)
}

// KubectlIn is Kubectl with an input.
func (n *Node) KubectlIn(stdin string, args ...string) string {
	n.T.Helper()
	out, err := n.TryKubectl(stdin, args...)
	if err != nil {
		n.T.Fatal(err)
	}
	return out
}

// Eventually asks again until f answers nil.
func Eventually(t testing.TB, what string, f func() error) {
	t.Helper()
	deadline := time.Now().Add(WaitTimeout)
	for {
		err := f()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: still not after %s: %v", what, WaitTimeout, err)
		}
		time.Sleep(100 * time.Millisecond)
	}
}
