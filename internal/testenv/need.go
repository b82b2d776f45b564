package testenv

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// Skip skips the test for a reason, or fails it in CI (REEVE_CI=1).
func Skip(t testing.TB, reason string) {
	t.Helper()
	if os.Getenv("REEVE_CI") == "1" {
		t.Fatalf("cannot run in CI: %s", reason)
	}
	t.Skip(reason)
}

// Long says whether the long forms of tests were asked for (REEVE_LONG=1).
func Long() bool { return os.Getenv("REEVE_LONG") == "1" }

// NeedLong skips a test that takes minutes and that CI is not meant to run, unless the long forms were asked for.
func NeedLong(t testing.TB) {
	t.Helper()
	if !Long() {
		t.Skip("takes minutes: REEVE_LONG=1 runs it")
	}
}

// NeedRoot skips without root.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		Skip(t, "needs root")
	}
}

// NeedBinary skips when a program is not in PATH, and returns its path.
func NeedBinary(t testing.TB, name string) string {
	t.Helper()
	p, err := exec.LookPath(name)
	if err != nil {
		Skip(t, "needs the program "+name)
	}
	return p
}

// NeedFilesystem skips when the kernel does not know a filesystem ("overlay").
func NeedFilesystem(t testing.TB, name string) {
	t.Helper()
	b, err := os.ReadFile("/proc/filesystems")
	if err != nil || !strings.Contains(string(b), "\t"+name+"\n") {
		Skip(t, "needs the filesystem "+name)
	}
}
