package cgroup

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"
)

// patience is for a loaded machine: it bounds a hang and measures nothing.
const patience = 60 * time.Second

// testCgroup makes a cgroup of the test's own on the host and removes it at the end.
func testCgroup(t *testing.T, h *Host) string {
	t.Helper()
	path := fmt.Sprintf("/reeve-watch-%d", os.Getpid())
	dir := h.Dir("memory", path)
	if dir == "" || os.Geteuid() != 0 {
		skip(t, "needs root and a memory cgroup hierarchy")
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := h.Remove(path); err != nil {
			t.Error(err)
		}
	})
	return path
}

// fill writes a file of the size in MiB to the page cache, by a process inside the cgroup, and returns its name.
func fill(t *testing.T, h *Host, path string, mib int) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "fill")
	cmd := exec.Command("sh", "-c", fmt.Sprintf("echo $$ > %s && exec dd if=/dev/zero of=%s bs=1M count=%d 2>/dev/null",
		filepath.Join(h.Dir("memory", path), "cgroup.procs"), file, mib))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return file
}

// skip is testenv.Skip, which this package cannot import: testenv needs it.
func skip(t *testing.T, reason string) {
	t.Helper()
	if os.Getenv("REEVE_CI") == "1" {
		t.Fatalf("cannot run in CI: %s", reason)
	}
	t.Skip(reason)
}

func TestMemoryThresholdWakes(t *testing.T) {
	h, err := Detect()
	if err != nil {
		skip(t, err.Error())
	}
	if h.Unified {
		t.Skip("cgroup v2 has no thresholds; pressure and events are tested beside this")
	}
	path := testCgroup(t, h)
	w, err := h.WatchMemory(path)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if !slices.Contains(w.Sources(), "threshold") {
		t.Fatalf("sources = %v", w.Sources())
	}
	for _, mib := range []uint64{1 << 12, 16} { // the later one replaces the earlier
		if err := w.Arm(mib << 20); err != nil {
			t.Fatal(err)
		}
	}
	fill(t, h, path, 4)
	select {
	case <-w.C:
		t.Fatal("woken below the threshold")
	default:
	}
	fill(t, h, path, 32)
	select {
	case <-w.C:
	case <-time.After(patience):
		t.Fatal("not woken above the threshold")
	}
}

// TestPressureAndEventsOfV2 uses a folder that looks like a cgroup for events; the trigger is the real kernel's.
func TestPressureAndEventsOfV2(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"p/memory.events": "low 0\nhigh 0\nmax 0\noom 0\noom_kill 0\n"})
	h := &Host{Unified: true, V2: dir}
	w, err := h.WatchMemory("/p")
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if got := w.Sources(); !slices.Equal(got, []string{"events"}) {
		t.Fatalf("sources = %v, want events alone", got)
	}
	if err := w.Arm(1); err != nil {
		t.Fatalf("arming where there is nothing to arm: %v", err)
	}
	for i := range 3 {
		write(t, dir, map[string]string{"p/memory.events": fmt.Sprintf("low 0\nhigh %d\nmax 0\n", i+1)})
		select {
		case <-w.C:
		case <-time.After(patience):
			t.Fatalf("change %d: not woken", i)
		}
	}
}

// TestPressureTriggerWakes has a process wait for memory: on v1 it reads a file that does not fit again and again, on v2 it
// has more than memory.high, above which the kernel makes it wait. tests/vm runs it in a machine that has v2.
func TestPressureTriggerWakes(t *testing.T) {
	if f, err := os.OpenFile(systemPressure, os.O_RDWR, 0); err != nil {
		skip(t, "the kernel has no pressure triggers: "+err.Error())
	} else {
		f.Close()
	}
	h, err := Detect()
	if err != nil || h.V1["memory"] == "" && !h.Unified {
		skip(t, "needs a memory cgroup")
	}
	path := testCgroup(t, h)
	dir := h.Dir("memory", path)
	var waits string
	if h.Unified {
		err = os.WriteFile(filepath.Join(dir, "memory.high"), []byte("8388608"), 0)
		waits = "while :; do dd if=/dev/zero of=/dev/null bs=64M count=1; done"
	} else {
		err = os.WriteFile(filepath.Join(dir, "memory.limit_in_bytes"), []byte("16777216"), 0)
		file := fill(t, h, path, 128) // by a process in the cgroup, so that the cache counts there
		waits = fmt.Sprintf("while :; do cat %s %s > /dev/null; done", file, file)
	}
	if err != nil {
		t.Fatal(err)
	}
	w, err := h.WatchMemory("/")
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if !slices.Contains(w.Sources(), "pressure") {
		t.Fatalf("sources = %v", w.Sources())
	}
	cmd := exec.Command("sh", "-c", fmt.Sprintf("echo $$ > %s; %s", filepath.Join(dir, "cgroup.procs"), waits))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // before the cgroup's removal
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		cmd.Wait()
	})
	select {
	case <-w.C:
	case <-time.After(patience):
		told, _ := os.ReadFile(systemPressure)
		t.Fatalf("not woken by tasks that wait for memory; the kernel tells\n%s", told)
	}
}

// TestLimitOfV2Wakes fills a real cgroup of v2 up to its limit. tests/vm runs it in a machine that has v2.
func TestLimitOfV2Wakes(t *testing.T) {
	h, err := Detect()
	if err != nil {
		skip(t, err.Error())
	}
	if !h.Unified {
		t.Skip("needs cgroup v2: it runs in a virtual machine")
	}
	path := testCgroup(t, h)
	if err := os.WriteFile(filepath.Join(h.V2, path, "memory.max"), []byte("16777216"), 0); err != nil {
		t.Fatal(err)
	}
	w, err := h.WatchMemory(path)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	if got := w.Sources(); !slices.Equal(got, []string{"pressure", "events"}) {
		t.Fatalf("sources = %v, want pressure and events", got)
	}
	fill(t, h, path, 4)
	select {
	case <-w.C:
		t.Fatal("woken below the limit")
	default:
	}
	fill(t, h, path, 64)
	select {
	case <-w.C:
	case <-time.After(patience):
		t.Fatal("not woken at the limit")
	}
	if hits := table(filepath.Join(h.V2, path), "memory.events")["max"]; hits == nil || *hits == 0 {
		t.Error("the kernel counts no hit of the limit")
	}
	u := h.Read(path)
	if u.MemoryLimit == nil || *u.MemoryLimit != 16<<20 || u.MemoryUsage == nil || *u.MemoryUsage > 16<<20 || u.MemoryPressure == nil || u.CPUNanoseconds == nil {
		t.Errorf("usage of the full cgroup: %+v", u)
	}
}

func TestCloseEndsTheWatch(t *testing.T) {
	w, err := (&Host{Unified: true, V2: t.TempDir()}).WatchMemory("/nothing")
	if err != nil {
		t.Fatal(err)
	}
	if got := w.Sources(); len(got) != 0 {
		t.Errorf("sources of nothing = %v", got)
	}
	w.Close()
	w.Close()
	if err := w.Arm(1); err != nil {
		t.Errorf("arming a closed watch: %v", err)
	}
}
