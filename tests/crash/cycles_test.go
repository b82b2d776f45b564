package crash

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/reevehq/reeve/internal/testenv"
)

// TestManyLivesLeakNothing: pods come and go, and afterwards the host has what it had, and the runtime, containerd and
// logpump have not grown. 12 lives, 500 with REEVE_LONG=1.
func TestManyLivesLeakNothing(t *testing.T) {
	w := newWorld(t)
	lives, warm := 12, 4
	if testenv.Long() {
		lives, warm = 500, 50 // pools and caches fill first
	}
	ctx := t.Context()
	live := func(i int) {
		w.pid = []runtimeapi.NamespaceMode{runtimeapi.NamespaceMode_POD, runtimeapi.NamespaceMode_CONTAINER}[i%2]
		l := &life{w: w, name: fmt.Sprintf("pod%d", i%7)}
		for _, op := range operations {
			if op.name == "StopContainer" {
				if _, _, err := w.ExecSync(ctx, l.c, []string{"true"}, patience); err != nil {
					t.Fatalf("life %d: exec: %v", i, err)
				}
			}
			if err := op.do(ctx, l); err != nil {
				t.Fatalf("life %d: %s: %v\n%s", i, op.name, err, w.tail())
			}
		}
	}
	for i := range warm {
		live(i)
	}
	before, held, routines := w.mustLook(), w.usage(), w.goroutines()
	began := time.Now()
	for i := range lives {
		live(i)
	}
	t.Logf("%d lives in %s", lives, time.Since(began).Round(time.Millisecond))
	w.leftNothing(before)
	w.eventually("no process holds more descriptors than before", func() error {
		now := w.usage()
		for name, u := range now {
			if was := held[name]; u.fds > was.fds+4 { // a connection that is idle by chance
				return fmt.Errorf("%s has %d descriptors, had %d", name, u.fds, was.fds)
			}
			if was := held[name]; u.threads > was.threads+16 {
				return fmt.Errorf("%s has %d threads, had %d", name, u.threads, was.threads)
			}
		}
		return nil
	})
	w.eventually("the runtime has no more goroutines than before", func() error {
		if n := w.goroutines(); n > routines+5 { // a connection more by chance
			return fmt.Errorf("%d, had %d", n, routines)
		}
		return nil
	})
	t.Logf("goroutines %d → %d", routines, w.goroutines())
	for name, u := range w.usage() {
		t.Logf("%-10s descriptors %d → %d, threads %d → %d, private memory %d → %d kB", name, held[name].fds, u.fds, held[name].threads, u.threads, held[name].anon, u.anon)
	}
	t.Logf("inventory before and after: %s", before)
}

// usage is what a process holds.
type usage struct{ fds, threads, anon int }

// usage measures the runtime, containerd and logpump.
func (w *world) usage() map[string]usage {
	w.t.Helper()
	out := map[string]usage{}
	add := func(name string, pid int) {
		proc := fmt.Sprintf("/proc/%d", pid)
		fds, _ := os.ReadDir(proc + "/fd")
		threads, _ := os.ReadDir(proc + "/task")
		u := usage{fds: len(fds), threads: len(threads)}
		b, _ := os.ReadFile(proc + "/status")
		for line := range strings.Lines(string(b)) {
			fmt.Sscanf(line, "RssAnon: %d", &u.anon)
		}
		out[name] = u
	}
	add("runtime", w.child.Process.Pid)
	add("containerd", w.inst.PID())
	for i, pid := range w.pumps() {
		add(fmt.Sprintf("logpump %d", i), pid)
	}
	return out
}

// pumps are the processes that serve the world's logs, in the order of their birth.
func (w *world) pumps() []int {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	var out []int
	for _, file := range files {
		b, _ := os.ReadFile(file)
		args := strings.Split(string(b), "\x00")
		var pid int
		if filepath.Base(args[0]) == "logpump" && strings.Contains(string(b), w.dir+"/pump") {
			fmt.Sscanf(file, "/proc/%d/", &pid)
			out = append(out, pid)
		}
	}
	return out
}

// goroutines is how many the runtime's process has; it writes them down all the time.
func (w *world) goroutines() int {
	w.t.Helper()
	b, err := os.ReadFile(filepath.Join(w.dir, "goroutines"))
	if err != nil {
		w.t.Fatal(err)
	}
	n, err := strconv.Atoi(string(b))
	if err != nil {
		w.t.Fatal(err)
	}
	return n
}
