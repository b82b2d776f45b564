package containerd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	versionapi "github.com/containerd/containerd/api/services/version/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/emptypb"
)

// DefaultAddress is where packages put the host's containerd.
const DefaultAddress = "/run/containerd/containerd.sock"

const (
	dialTimeout  = 2 * time.Second       // one question to a containerd that should be running
	startTimeout = 20 * time.Second      // a private one answers in about 0.2 s; slow disks take longer
	startPoll    = 5 * time.Millisecond  // between questions while it starts
	stopTimeout  = 10 * time.Second      // from SIGTERM to SIGKILL
	watchEvery   = 2 * time.Second       // how soon a dead or hung one is noticed when its pid cannot be waited for
	retryMin     = 50 * time.Millisecond // a dead one is replaced at once, a crashing one ever more slowly
	retryMax     = 10 * time.Second      //
	maxSocket    = 107                   // bytes that the kernel takes for a unix socket path
	logKeepBytes = 4 << 20               // containerd.log is cut at start beyond this
)

// Config says which containerd to use.
type Config struct {
	// Address of the user's containerd; "" lets Ensure look.
	Address string
	// HostAddress is where the host's would be; "" means DefaultAddress, "-" means never look.
	HostAddress string
	// Dir holds a private one: root/, state/, containerd.sock, config.toml, containerd.log. Required.
	Dir string
	// Binary and Runc are looked up in PATH when empty: "containerd" and "runc".
	Binary, Runc string
	// Detach, if set, is called with the pid of a freshly started private containerd before it has made any shim, to
	// move it out of the caller's cgroup. Its error is logged.
	Detach func(pid int) error
	Logger *slog.Logger
}

// Instance is a containerd that answers.
type Instance struct {
	cfg     Config
	address string
	private bool
}

// Address is its socket's path.
func (i *Instance) Address() string { return i.address }

// Private says that it is ours.
func (i *Instance) Private() bool { return i.private }

// Ensure finds or starts a containerd and returns once it answers.
func Ensure(ctx context.Context, cfg Config) (*Instance, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.Address != "" {
		cfg.Address = strings.TrimPrefix(cfg.Address, "unix://")
		if err := ask(ctx, cfg.Address); err != nil {
			return nil, fmt.Errorf("containerd at %q does not answer: %w (start it, or leave the address out to let reeve start its own)", cfg.Address, err)
		}
		return &Instance{cfg: cfg, address: cfg.Address}, nil
	}
	if cfg.Dir == "" {
		return nil, errors.New("containerd: a folder for a private instance is missing")
	}
	inst := &Instance{cfg: cfg, address: filepath.Join(cfg.Dir, "containerd.sock"), private: true}
	// A folder of ours says that an earlier run decided for a private one: pods live there, so that stands.
	if _, err := os.Stat(filepath.Join(cfg.Dir, "root")); errors.Is(err, fs.ErrNotExist) {
		host := cfg.HostAddress
		if host == "" {
			host = DefaultAddress
		}
		if host != "-" && ask(ctx, host) == nil {
			return &Instance{cfg: cfg, address: host}, nil
		}
	}
	return inst, inst.ensure(ctx)
}

// ask returns nil when a containerd answers at address.
func ask(ctx context.Context, address string) error {
	if _, err := os.Stat(address); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	conn, err := grpc.NewClient("passthrough:///"+address, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", address)
		}))
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = versionapi.NewVersionClient(conn).Version(ctx, &emptypb.Empty{})
	return err
}

func (i *Instance) ensure(ctx context.Context) error {
	if err := ask(ctx, i.address); err == nil {
		return nil
	}
	return i.start(ctx)
}

func (i *Instance) start(ctx context.Context) error {
	dir := i.cfg.Dir
	if len(i.address)+len(".ttrpc") > maxSocket {
		return fmt.Errorf("containerd socket %q: the kernel takes %d bytes with %q: choose a shorter data directory", i.address, maxSocket, ".ttrpc")
	}
	bin, err := lookPath(i.cfg.Binary, "containerd")
	if err != nil {
		return err
	}
	if _, err := lookPath(i.cfg.Runc, "runc"); err != nil {
		return err
	}
	for _, d := range []string{dir, filepath.Join(dir, "root"), filepath.Join(dir, "state")} {
		if err := os.MkdirAll(d, 0o711); err != nil {
			return fmt.Errorf("make containerd folder: %w", err)
		}
	}
	conf := filepath.Join(dir, "config.toml")
	if err := writeFile(conf, render(dir)); err != nil {
		return fmt.Errorf("write containerd config: %w", err)
	}
	// One that still runs holds the database lock; a new one would wait for it for ever. It may only be starting.
	for end := time.Now().Add(startTimeout); i.runningPID() != 0 && time.Now().Before(end) && ctx.Err() == nil; time.Sleep(startPoll) {
		if ask(ctx, i.address) == nil {
			return nil
		}
	}
	if pid := i.runningPID(); pid != 0 {
		i.cfg.Logger.Warn("Ended a containerd that did not answer", "pid", pid)
		if err := endProcess(ctx, pid); err != nil {
			return err
		}
	}
	logPath := filepath.Join(dir, "containerd.log")
	logFile, err := os.OpenFile(logPath, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("open containerd's log: %w", err)
	}
	defer logFile.Close()
	if st, err := logFile.Stat(); err == nil && st.Size() > logKeepBytes {
		logFile.Truncate(0)
	}
	cmd := exec.Command(bin, "--config", conf)
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = logFile, logFile
	cmd.Env = environment()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", bin, err)
	}
	pid := cmd.Process.Pid
	if i.cfg.Detach != nil {
		if err := i.cfg.Detach(pid); err != nil {
			i.cfg.Logger.Warn("Could not move containerd to its own cgroup", "pid", pid, "err", err)
		}
	}
	if err := writeFile(filepath.Join(dir, "containerd.pid"), []byte(strconv.Itoa(pid))); err != nil {
		i.cfg.Logger.Warn("Could not write containerd's pid file", "err", err)
	}
	exited := make(chan error, 1)
	go func() { exited <- cmd.Wait() }() // reaps; containerd outlives this call, and us
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		if ask(ctx, i.address) == nil {
			i.cfg.Logger.Info("Started containerd", "pid", pid, "path", dir)
			return nil
		}
		select {
		case err := <-exited:
			return fmt.Errorf("containerd ended at start: %v: %s", err, lastLine(logPath))
		case <-ctx.Done():
			return fmt.Errorf("containerd did not answer within %s, see %s: %w", startTimeout, logPath, ctx.Err())
		case <-time.After(startPoll):
		}
	}
}

func lookPath(given, name string) (string, error) {
	if given != "" {
		name = given
	}
	if p, err := exec.LookPath(name); err == nil {
		return filepath.Abs(p)
	}
	for _, dir := range []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"} {
		if p := filepath.Join(dir, name); !filepath.IsAbs(name) && isExecutable(p) {
			return p, nil
		}
	}
	return "", fmt.Errorf("no containerd answers and none can be started: program %q was not found in PATH (install the packages containerd and runc)", name)
}

func isExecutable(p string) bool {
	st, err := os.Stat(p)
	return err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0
}

// environment is a service's, not the caller's: nothing of a user's shell may reach containers' shims. PATH keeps the
// caller's entries after the standard ones, because runc may lie there.
func environment() []string {
	path := "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
	if p := os.Getenv("PATH"); p != "" {
		path += ":" + p
	}
	env := []string{"PATH=" + path}
	for _, k := range []string{"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"} {
		if v := os.Getenv(k); v != "" {
			env = append(env, k+"="+v)
		}
	}
	return env
}

// render is the configuration of a private containerd. Its CRI plugin is off, because reeve is the CRI, and with it a
// third of its memory; likewise snapshotters that need preparation by hand. Version 2 is read by every containerd since 1.3.
func render(dir string) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "# Written by reeve at every start.\nversion = 2\nroot = %q\nstate = %q\n", filepath.Join(dir, "root"), filepath.Join(dir, "state"))
	b.WriteString(`disabled_plugins = [
  "io.containerd.grpc.v1.cri",
  "io.containerd.cri.v1.images",
  "io.containerd.cri.v1.runtime",
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
  "io.containerd.snapshotter.v1.blockfile",
  "io.containerd.snapshotter.v1.erofs",
  "io.containerd.tracing.processor.v1.otlp",
  "io.containerd.internal.v1.tracing",
  "io.containerd.nri.v1.nri",
]
`)
	fmt.Fprintf(&b, "[grpc]\n  address = %q\n[ttrpc]\n  address = %q\n", filepath.Join(dir, "containerd.sock"), filepath.Join(dir, "containerd.sock.ttrpc"))
	b.WriteString("[debug]\n  level = \"warn\"\n")
	// Deleting must not wait for a collection, and a collection may wait until many deletions are done.
	b.WriteString("[plugins.\"io.containerd.gc.v1.scheduler\"]\n  schedule_delay = \"2s\"\n  startup_delay = \"5s\"\n")
	return b.Bytes()
}

func writeFile(path string, data []byte) error {
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, data) {
		return nil
	}
	if err := os.WriteFile(path+".new", data, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}

func lastLine(path string) string {
	b, _ := os.ReadFile(path)
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return lines[len(lines)-1]
}

// runningPID returns the pid of the containerd that serves Dir, or 0: the pid file's, if that process was started with
// our configuration.
func (i *Instance) runningPID() int {
	b, err := os.ReadFile(filepath.Join(i.cfg.Dir, "containerd.pid"))
	if err != nil {
		return 0
	}
	pid, err := strconv.Atoi(string(b))
	if err != nil || pid <= 1 {
		return 0
	}
	cmdline, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
	if err != nil || !bytes.Contains(cmdline, []byte("\x00"+filepath.Join(i.cfg.Dir, "config.toml"))) {
		return 0
	}
	return pid
}

// PID returns the pid of a running private containerd, or 0.
func (i *Instance) PID() int {
	if !i.private {
		return 0
	}
	return i.runningPID()
}

// Run watches a private containerd and starts it again whenever it has died, until ctx ends; containers go on. For
// another's containerd it only waits for ctx.
func (i *Instance) Run(ctx context.Context) error {
	if !i.private {
		<-ctx.Done()
		return ctx.Err()
	}
	delay := retryMin
	for {
		i.waitDead(ctx)
		if ctx.Err() != nil {
			return ctx.Err()
		}
		i.cfg.Logger.Warn("Containerd has died, starting it again")
		began := time.Now()
		if err := i.ensure(ctx); err != nil && ctx.Err() == nil {
			i.cfg.Logger.Error("Could not start containerd", "err", err)
		}
		if time.Since(began) > retryMax {
			delay = retryMin
		}
		t := time.NewTimer(delay)
		select {
		case <-ctx.Done():
		case <-t.C:
		}
		t.Stop()
		delay = min(delay*2, retryMax)
	}
}

// waitDead returns when the private containerd's process ends, or ctx does.
func (i *Instance) waitDead(ctx context.Context) {
	pid := i.runningPID()
	if pid == 0 {
		return
	}
	waitPID(ctx, pid)
}

// Stop ends a private containerd: SIGTERM, and SIGKILL after a while. Shims and containers go on without it; whoever
// wants those gone ends them first. Not running is fine.
func (i *Instance) Stop(ctx context.Context) error {
	if !i.private {
		return nil
	}
	pid := i.runningPID()
	if pid == 0 {
		return nil
	}
	return endProcess(ctx, pid)
}

func endProcess(ctx context.Context, pid int) error {
	if err := syscall.Kill(pid, syscall.SIGTERM); err != nil {
		if errors.Is(err, syscall.ESRCH) {
			return nil
		}
		return fmt.Errorf("end containerd %d: %w", pid, err)
	}
	ctx, cancel := context.WithTimeout(ctx, 2*stopTimeout)
	defer cancel()
	soft, cancelSoft := context.WithTimeout(ctx, stopTimeout)
	defer cancelSoft()
	if waitPID(soft, pid) {
		return nil
	}
	syscall.Kill(pid, syscall.SIGKILL)
	if !waitPID(ctx, pid) {
		return fmt.Errorf("end containerd %d: still there after SIGKILL: %w", pid, ctx.Err())
	}
	return nil
}
