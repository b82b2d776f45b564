package crash

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/reevehq/reeve/internal/logpump"
	"github.com/reevehq/reeve/internal/testenv"
)

// report is what tests/crash/writer keeps.
type report struct {
	Lines   int64
	Longest time.Duration
	Done    bool
}

// TestNoLineIsLost: a container writes numbered lines as fast as it can while its log is rotated and the runtime, logpump,
// its keeper and containerd are killed, and while there is no runtime at all. It ends with the runtime and logpump dead.
// Every line is in the log once, and the writer went on all the time. 4 MB/s, 3 rotations and one kill each; with REEVE_LONG=1,
// 10, 3 each and a minute without a runtime, as fast as it can (at each rotation and kill for the first GB, and all of that
// minute), if the disk has 25 GB.
func TestNoLineIsLost(t *testing.T) {
	w := newWorld(t)
	ctx := t.Context()
	rotations, kills, absence, burst := 3, 1, 2*time.Second, 0 // so that the disks of a busy machine keep up
	if testenv.Long() {
		rotations, kills, absence, burst = 10, 3, time.Minute, 1<<30
		if free := freeBytes(t, w.dir); free < 25<<30 {
			testenv.Skip(t, fmt.Sprintf("needs 25 GB in %s, there are %d", w.dir, free>>30))
		}
	}
	bin := filepath.Join(w.dir, "writer")
	build := exec.Command("go", "build", "-o", bin, "./writer")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the writer: %v\n%s", err, out)
	}
	dir := filepath.Join(w.dir, "writing")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	sb, err := w.RunPodSandbox(ctx, w.sandboxConfig("writer"), "")
	if err != nil {
		t.Fatal(err)
	}
	config := w.containerConfig("c", "/writer", "-dir", "/writing", "-rate", strconv.Itoa(4<<20), "-burst", strconv.Itoa(burst))
	config.Mounts = []*runtimeapi.Mount{{HostPath: bin, ContainerPath: "/writer", Readonly: true}, {HostPath: dir, ContainerPath: "/writing"}}
	id, err := w.CreateContainer(ctx, sb, config, w.sandboxConfig("writer"))
	if err != nil {
		t.Fatal(err)
	}
	if err := w.StartContainer(ctx, id); err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(w.dir, "logs", "writer", "c.log")
	check := newChecker(t)
	pump := logpump.Client{Dir: filepath.Join(w.dir, "pump")}
	kill := func(pid int, err error) {
		t.Helper()
		if err != nil || pid == 0 {
			t.Fatalf("find the process to kill: %d, %v", pid, err)
		}
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
	}
	killPump := func() {
		pid, _, err := pump.PIDs(ctx)
		kill(pid, err)
	}
	calamities := []struct {
		name string
		do   func()
	}{
		{"runtime", func() { w.killRuntime(); w.launch() }},
		{"logpump", killPump},
		{"keeper", func() {
			_, pid, err := pump.PIDs(ctx)
			kill(pid, err)
		}},
		{"containerd", func() { w.killContainerd(func() {}) }},
	}
	w.flows(dir, 3)
	for r := range max(rotations, kills*len(calamities)) {
		w.tell(dir, "burst")
		if r < kills*len(calamities) {
			c := calamities[r%len(calamities)]
			c.do()
			// Its two processes and the runtime restart each other; what only all three together could cost, this is not about.
			w.eventually("logpump is back", func() error {
				_, keeper, err := pump.PIDs(ctx)
				if err == nil && keeper == 0 {
					err = errors.New("it has no keeper")
				}
				return err
			})
			w.flows(dir, 3)
		}
		if r < rotations {
			old := fmt.Sprintf("%s.%d", log, r)
			if err := os.Rename(log, old); err != nil {
				t.Fatal(err)
			}
			if r%2 == 1 { // between the rename and the reopening, too
				killPump()
			}
			w.eventually("the log is reopened", func() error { return w.ReopenContainerLog(ctx, id) })
			w.flows(dir, 1)
			wake := w.rest(dir) // it writes faster than a busy machine reads
			check.file(old)     // complete: nothing goes to it any more
			os.Remove(old)
			wake()
		}
	}

	// Nobody is there, and logpump dies in between: its keeper sees to it.
	earlier := w.report(dir).Longest
	w.killRuntime()
	w.tell(dir, "forget")
	before := w.report(dir)
	began := time.Now()
	for i := 0; time.Since(began) < absence; i++ {
		if freeBytes(t, w.dir) > 12<<30 {
			w.tell(dir, "burst")
		}
		w.flows(dir, 3)
		if i == 1 {
			killPump()
		}
	}
	during := w.report(dir)
	t.Logf("without a runtime: %.0f lines/s for %s; the longest write took %s, %s with a runtime", float64(during.Lines-before.Lines)/time.Since(began).Seconds(),
		time.Since(began).Round(time.Millisecond), during.Longest, earlier)

	// The end, with everybody dead who could care.
	if err := os.WriteFile(filepath.Join(dir, "stop"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	killPump()
	w.eventually("the writer ends", func() error {
		if !w.report(dir).Done {
			return errors.New("it still writes")
		}
		return nil
	})
	w.launch()
	w.eventually("the container has exited", func() error {
		st, err := w.ContainerStatus(ctx, id, false)
		if err == nil && st.Status.State != runtimeapi.ContainerState_CONTAINER_EXITED {
			err = fmt.Errorf("it is %s", st.Status.State)
		}
		if err == nil && st.Status.ExitCode != 0 {
			t.Fatalf("the writer: %v", st.Status)
		}
		return err
	})
	check.file(log)
	end := w.report(dir)
	if check.next != end.Lines || check.part != nil {
		t.Errorf("the log has %d lines and %d bytes of another, the writer wrote %d", check.next, len(check.part), end.Lines)
	}
	t.Logf("%d lines, %d records, %d MB in all", end.Lines, check.records, check.bytes>>20)
	if err := w.RemovePodSandbox(ctx, sb); err != nil {
		t.Error(err)
	}
}

// flows waits until the writer has got rid of more lines, several times.
func (w *world) flows(dir string, times int) {
	w.t.Helper()
	for range times {
		last := w.report(dir).Lines
		w.eventually("the writer goes on", func() error {
			if w.report(dir).Lines == last {
				return fmt.Errorf("it stands at line %d", last)
			}
			return nil
		})
	}
}

// rest keeps the writer from writing until wake is called.
func (w *world) rest(dir string) (wake func()) {
	w.t.Helper()
	name := filepath.Join(dir, "rest")
	if err := os.WriteFile(name, nil, 0o644); err != nil {
		w.t.Fatal(err)
	}
	return func() {
		if err := os.Remove(name); err != nil {
			w.t.Error(err)
		}
	}
}

// tell makes a file that the writer takes away when it has seen it.
func (w *world) tell(dir, word string) {
	w.t.Helper()
	name := filepath.Join(dir, word)
	if err := os.WriteFile(name, nil, 0o644); err != nil {
		w.t.Fatal(err)
	}
	w.eventually("the writer sees "+word, func() error {
		if _, err := os.Stat(name); err == nil {
			return errors.New("the file is there")
		}
		return nil
	})
}

func freeBytes(t testing.TB, dir string) uint64 {
	t.Helper()
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	return st.Bavail * uint64(st.Bsize)
}

func (w *world) report(dir string) (r report) {
	w.t.Helper()
	w.eventually("the writer reports", func() error {
		b, err := os.ReadFile(filepath.Join(dir, "report"))
		if err == nil {
			err = json.Unmarshal(b, &r)
		}
		return err
	})
	return r
}

// checker reads log files in order and fails at the first line that is not the next one.
type checker struct {
	t       testing.TB
	next    int64
	part    []byte // of a line that goes on in the next record
	last    time.Time
	records int
	bytes   int64
}

func newChecker(t testing.TB) *checker { return &checker{t: t} }

func (c *checker) file(name string) {
	c.t.Helper()
	f, err := os.Open(name)
	if err != nil {
		c.t.Fatal(err)
	}
	defer f.Close()
	in := bufio.NewReaderSize(f, 1<<20)
	for {
		line, err := in.ReadSlice('\n')
		if errors.Is(err, io.EOF) {
			if len(line) > 0 {
				c.t.Fatalf("%s ends in the middle of a record: %.100q", name, line)
			}
			return
		}
		if err != nil {
			c.t.Fatal(err)
		}
		c.record(name, line[:len(line)-1])
	}
}

func (c *checker) record(name string, rec []byte) {
	c.t.Helper()
	c.records++
	c.bytes += int64(len(rec)) + 1
	f := bytes.SplitN(rec, []byte(" "), 4)
	if len(f) != 4 || string(f[1]) != "stdout" || string(f[2]) != "P" && string(f[2]) != "F" {
		c.t.Fatalf("%s, before line %d: bad record %.100q", name, c.next, rec)
	}
	if c.records%1000 == 0 {
		at, err := time.Parse(time.RFC3339Nano, string(f[0]))
		if err != nil || at.Before(c.last) {
			c.t.Fatalf("%s, before line %d: time %q after %s: %v", name, c.next, f[0], c.last, err)
		}
		c.last = at
	}
	c.part = append(c.part, f[3]...)
	if string(f[2]) == "P" {
		return
	}
	number, pad, _ := bytes.Cut(c.part, []byte(" "))
	n, err := strconv.ParseInt(string(number), 10, 64)
	if err != nil || n != c.next {
		c.t.Fatalf("%s: line %d is %.60q", name, c.next, c.part)
	}
	want := int(n % 80)
	if n%997 == 0 {
		want = 20000
	}
	if len(pad) != want {
		c.t.Fatalf("%s: line %d has %d bytes after its number, want %d", name, n, len(pad), want)
	}
	c.next++
	c.part = nil
}
