package testns

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

const childMark = "REEVE_TESTNS_CHILD"

// Main runs the tests of m in fresh network and mount namespaces: loopback up, nothing else, /run empty, so that an
// iptables lock held elsewhere on the machine does not matter; REEVE_KEEP_RUN=1 keeps it, for tests in a virtual machine
// that talk to its systemd. Without root the tests run where they are; Need skips
// those that cannot. Use it as `func TestMain(m *testing.M) { testns.Main(m) }`.
func Main(m *testing.M) {
	if os.Getenv(childMark) != "" {
		if err := prepare(); err != nil {
			fmt.Fprintln(os.Stderr, "prepare test namespaces:", err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	}
	if os.Geteuid() != 0 {
		os.Exit(m.Run())
	}
	runtime.LockOSThread() // Pdeathsig is sent when the thread that forked ends
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), childMark+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS,
		Pdeathsig:  syscall.SIGKILL,
	}
	// The interrupt reaches the child through the process group; this process waits for its report.
	signal.Ignore(os.Interrupt)
	err := cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil:
		os.Exit(0)
	case errors.As(err, &exit) && exit.ExitCode() >= 0:
		os.Exit(exit.ExitCode())
	default:
		fmt.Fprintln(os.Stderr, "run tests in namespaces of their own:", err)
		os.Exit(1)
	}
}

func prepare() error {
	if err := unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if os.Getenv("REEVE_KEEP_RUN") != "1" {
		if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, "mode=0755"); err != nil {
			return fmt.Errorf("mount /run: %w", err)
		}
	}
	return exec.Command("ip", "link", "set", "lo", "up").Run()
}

// Need skips t, naming the reason, where Main could not isolate the tests (no root). With REEVE_CI=1 it fails instead.
func Need(t testing.TB) {
	t.Helper()
	if os.Getenv(childMark) != "" {
		return
	}
	const reason = "needs root, to make network and mount namespaces of its own"
	if os.Getenv("REEVE_CI") == "1" {
		t.Fatal(reason)
	}
	t.Skip(reason)
}

// NeedBinary skips t when a command is not installed. With REEVE_CI=1 it fails instead.
func NeedBinary(t testing.TB, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err == nil {
		return path
	}
	if os.Getenv("REEVE_CI") == "1" {
		t.Fatalf("needs the command %s", name)
	}
	t.Skipf("needs the command %s", name)
	return ""
}
