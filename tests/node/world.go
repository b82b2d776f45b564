package node

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

const (
	// stage tells the three processes of a run apart: the one that `go test` started, the init of the new namespaces,
	// and the one that runs the tests.
	stage = "REEVE_E2E_STAGE"
	// mark begins the name of every cgroup and folder that these tests make; the process that owns the run follows.
	mark  = "reeve-node-"
	owner = "REEVE_E2E_OWNER"
	// The node's address, and a host outside of it in a namespace of its own, over a veth pair.
	IP        = "10.100.0.1"
	OutsideIP = "10.100.0.2"
	OutsideNS = "outside"
)

// Main runs the tests of m, a *testing.M, in namespaces of their own. Without root or a built binary they say so and skip,
// or fail in CI.
func Main(m interface{ Run() int }) {
	if why := cannotRun(); why != "" {
		if os.Getenv("REEVE_CI") == "1" {
			fmt.Fprintln(os.Stderr, "tests of a whole node:", why)
			os.Exit(1)
		}
		fmt.Fprintln(os.Stderr, "SKIP tests of a whole node:", why)
		os.Exit(0)
	}
	switch os.Getenv(stage) {
	case "init":
		if err := prepare(); err != nil {
			fmt.Fprintln(os.Stderr, "prepare namespaces:", err)
			os.Exit(1)
		}
		os.Exit(beInit())
	case "tests":
		os.Exit(m.Run())
	}
	sweep(0)
	runtime.LockOSThread() // Pdeathsig is sent when the thread that forked ends
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), stage+"=init", owner+"="+strconv.Itoa(os.Getpid()))
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWIPC,
		Pdeathsig:  syscall.SIGKILL,
	}
	signal.Ignore(os.Interrupt)
	err := cmd.Run()
	sweep(os.Getpid())
	var exit *exec.ExitError
	switch {
	case err == nil:
		os.Exit(0)
	case errors.As(err, &exit) && exit.ExitCode() >= 0:
		os.Exit(exit.ExitCode())
	}
	fmt.Fprintln(os.Stderr, "run tests in namespaces of their own:", err)
	os.Exit(1)
}

func cannotRun() string {
	if os.Geteuid() != 0 {
		return "they need root"
	}
	bin := os.Getenv("REEVE_BIN")
	if bin == "" {
		return "REEVE_BIN does not name a built reeve; use make test"
	}
	if _, err := os.Stat(bin); err != nil {
		return "REEVE_BIN: " + err.Error()
	}
	return ""
}

// beInit runs the tests as a child and does an init's work meanwhile: shims and containers that lose their parent become
// this process's children, and would stay zombies.
func beInit() int {
	os.Setenv(stage, "tests")
	child, err := os.StartProcess("/proc/self/exe", os.Args, &os.ProcAttr{
		Env:   os.Environ(),
		Files: []*os.File{os.Stdin, os.Stdout, os.Stderr},
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, "run the tests:", err)
		return 1
	}
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, "wait for the tests:", err)
			return 1
		}
		if pid == child.Pid {
			if status.Exited() {
				return status.ExitStatus()
			}
			return 1
		}
	}
}

// prepare makes the namespaces a small world: a node's uplink with a default route, and a host behind it.
func prepare() error {
	if err := unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	for _, m := range []struct{ source, target, kind, data string }{
		{"proc", "/proc", "proc", ""},
		{"tmpfs", "/run", "tmpfs", "mode=0755"},
	} {
		if err := unix.Mount(m.source, m.target, m.kind, 0, m.data); err != nil {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	// Pods' mounts must reach containers that are started later: shared, as systemd makes a host's root.
	if err := unix.Mount("none", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("share mounts: %w", err)
	}
	for _, line := range []string{
		"ip link set lo up",
		"ip netns add " + OutsideNS,
		"ip link add up0 type veth peer name out0 netns " + OutsideNS,
		"ip addr add " + IP + "/24 dev up0",
		"ip link set up0 up",
		"ip -n " + OutsideNS + " link set lo up",
		"ip -n " + OutsideNS + " addr add " + OutsideIP + "/24 dev out0",
		"ip -n " + OutsideNS + " link set out0 up",
		"ip route add default via " + OutsideIP,
		"ip -n " + OutsideNS + " route add default via " + IP,
	} {
		f := strings.Fields(line)
		if out, err := exec.Command(f[0], f[1:]...).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", line, err, out)
		}
	}
	return nil
}

// TempDir makes a short-named folder that bears the mark: what a run leaves, killed or not, the next one removes.
func TempDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", mark+os.Getenv(owner)+"-")
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// CgroupRoot is where a node of these tests makes its pods' cgroups; name is the base name of a TempDir, or another.
func CgroupRoot(name string) string {
	return "/" + mark + os.Getenv(owner) + "-" + strings.TrimPrefix(name, mark+os.Getenv(owner)+"-")
}

// sweep removes what runs that have ended, killed or not, have left: whatever bears the mark, in every hierarchy.
// Runs that go on beside this one keep theirs; mine is this run's own process when it has ended.
func sweep(mine int) {
	tops, _ := filepath.Glob("/sys/fs/cgroup/*/" + mark + "*")
	more, _ := filepath.Glob("/sys/fs/cgroup/" + mark + "*")
	for _, top := range append(tops, more...) {
		if owned(top, mine) {
			continue
		}
		var dirs []string
		filepath.WalkDir(top, func(p string, d os.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, p)
			}
			return nil
		})
		for i := len(dirs) - 1; i >= 0; i-- {
			os.Remove(dirs[i])
		}
	}
	if mine != 0 {
		return // a test that failed keeps its folder until the next run
	}
	folders, _ := filepath.Glob("/tmp/" + mark + "*")
	for _, f := range folders {
		if !owned(f, 0) {
			os.RemoveAll(f)
		}
	}
}

// owned tells whether what path names belongs to another run that goes on: to a process that is a test binary.
func owned(path string, mine int) bool {
	name, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(path), mark), "-")
	pid, err := strconv.Atoi(name)
	if err != nil || pid == mine {
		return false
	}
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	program, _, _ := strings.Cut(string(line), "\x00")
	return err == nil && strings.HasSuffix(program, ".test")
}
