package testenv

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sort"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/moby/sys/mountinfo"

	"github.com/reevehq/reeve/internal/cgroup"
	"github.com/reevehq/reeve/internal/containerd"
)

// mark begins the name of every folder that tests make; the number after it is the test's process.
const mark = "reeve-te-"

// Dir returns a short folder (unix sockets lie in it) that is swept with the test: its processes are killed, its mounts
// undone, its cgroup removed. A failed test says where it was. Folders of tests that were killed are swept first.
func Dir(t testing.TB) string {
	t.Helper()
	sweepDead()
	dir, err := os.MkdirTemp("/tmp", mark+strconv.Itoa(os.Getpid())+"-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() && os.Getenv("REEVE_KEEP") != "" {
			t.Logf("kept %s (REEVE_KEEP)", dir)
			return
		}
		if err := Sweep(dir); err != nil {
			t.Errorf("clean up: %v", err)
		}
	})
	return dir
}

// CgroupOf returns the cgroup path that goes with a folder of Dir, under which its containers and helpers belong.
func CgroupOf(dir string) string { return "/" + filepath.Base(dir) }

func sweepDead() {
	old, _ := filepath.Glob("/tmp/" + mark + "*")
	for _, dir := range old {
		pid, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), mark), "-")
		n, err := strconv.Atoi(pid)
		if err == nil && n > 1 && syscall.Kill(n, 0) == syscall.ESRCH {
			Sweep(dir)
		}
	}
}

// Sweep removes a folder of Dir with everything that belongs to it: processes in its cgroup or with the folder in their
// command line, mounts under it, its cgroup, its files.
func Sweep(dir string) error {
	if !strings.HasPrefix(dir, "/tmp/"+mark) {
		return fmt.Errorf("refusing to sweep %q: not a test's folder", dir)
	}
	host, _ := cgroup.Detect()
	deadline := time.Now().Add(10 * time.Second)
	for {
		pids := append(pidsByCommand(dir), pidsByCgroup(host, CgroupOf(dir))...)
		if len(pids) == 0 {
			break
		}
		for _, pid := range pids {
			syscall.Kill(pid, syscall.SIGKILL)
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("processes %v of %s do not end", pids, dir)
		}
		time.Sleep(5 * time.Millisecond)
	}
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		return err
	}
	sort.Slice(mounts, func(i, j int) bool { return len(mounts[i].Mountpoint) > len(mounts[j].Mountpoint) })
	for _, m := range mounts {
		syscall.Unmount(m.Mountpoint, syscall.MNT_DETACH)
	}
	if host != nil {
		if err := host.Remove(CgroupOf(dir)); err != nil {
			return err
		}
	}
	return os.RemoveAll(dir)
}

func pidsByCommand(dir string) []int {
	var out []int
	for _, pid := range allPIDs() {
		b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if pid != os.Getpid() && strings.Contains(string(b), dir+"/") {
			out = append(out, pid)
		}
	}
	return out
}

func pidsByCgroup(host *cgroup.Host, path string) []int {
	if host == nil {
		return nil
	}
	var out []int
	for _, controller := range []string{"memory", "pids", "cpu"} {
		root := host.Dir(controller, path)
		if root == "" {
			continue
		}
		filepath.WalkDir(root, func(p string, d os.DirEntry, err error) error {
			if err == nil && d.Name() == "cgroup.procs" {
				b, _ := os.ReadFile(p)
				for _, f := range strings.Fields(string(b)) {
					if pid, err := strconv.Atoi(f); err == nil && pid > 1 && pid != os.Getpid() {
						out = append(out, pid)
					}
				}
			}
			return nil
		})
	}
	return out
}

func allPIDs() []int {
	entries, _ := os.ReadDir("/proc")
	var out []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil && pid > 1 {
			out = append(out, pid)
		}
	}
	return out
}

// Containerd starts a private containerd under dir, a folder of Dir, and ends it with the test.
func Containerd(t testing.TB, dir string) *containerd.Instance {
	t.Helper()
	NeedRoot(t)
	NeedBinary(t, "containerd")
	NeedBinary(t, "runc")
	host, err := cgroup.Detect()
	if err != nil {
		Skip(t, err.Error())
	}
	inst, err := containerd.Ensure(t.Context(), containerd.Config{
		HostAddress: "-", Dir: filepath.Join(dir, "containerd"), Logger: slog.New(slog.DiscardHandler),
		Detach: func(pid int) error { return host.Join(CgroupOf(dir)+"/containerd", pid) },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		inst.Stop(ctx)
	})
	return inst
}

// Logger logs to the test's output.
func Logger(t testing.TB) *slog.Logger {
	return slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

type testWriter struct{ t testing.TB }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Logf("%s", strings.TrimSuffix(string(b), "\n"))
	return len(b), nil
}
