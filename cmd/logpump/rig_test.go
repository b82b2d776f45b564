package main

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/reevehq/reeve/internal/logpump"
)

// asPump, set in the environment, makes the test binary be the program itself.
const asPump = "REEVE_TEST_AS_LOGPUMP"

// parentPID names the test's process to the programs that it started and those that they start.
const parentPID = "REEVE_TEST_LOGPUMP_PARENT"

func TestMain(m *testing.M) {
	if dir := os.Getenv(asPump); dir != "" {
		// A test binary that is killed must not leave its logpump behind, which by design outlives whoever started it.
		parent, _ := strconv.Atoi(os.Getenv(parentPID))
		go func() {
			for range time.Tick(100 * time.Millisecond) {
				if syscall.Kill(parent, 0) != nil {
					os.Exit(1)
				}
			}
		}()
		role := run
		if slices.Contains(os.Args, "--keep") {
			role = runKeeper
		}
		if err := role(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// rig is one logpump process that the test may kill.
type rig struct {
	t   *testing.T
	dir string
	logpump.Client
	sup *logpump.Supervisor
}

func newRig(t *testing.T) *rig {
	t.Helper()
	dir, err := os.MkdirTemp("", "pump")
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{t: t, dir: dir, Client: logpump.Client{Dir: dir}}
	r.sup = &logpump.Supervisor{Dir: dir, Binary: os.Args[0], Logger: slog.New(slog.DiscardHandler),
		Wrap: func(string, ...string) *exec.Cmd {
			// env(1) sets what Ensure's own environment leaves out.
			return exec.Command("env", asPump+"="+dir, fmt.Sprintf("%s=%d", parentPID, os.Getpid()), os.Args[0])
		}}
	r.start()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := r.sup.Stop(ctx); err != nil {
			t.Error(err)
		}
		os.RemoveAll(dir)
	})
	return r
}

func (r *rig) start() {
	r.t.Helper()
	if err := r.sup.Ensure(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) kill() {
	r.t.Helper()
	pid, _, err := r.Ping(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		r.t.Fatal(err)
	}
}

// shim opens a FIFO as containerd's shim does: both ends.
func shim(t *testing.T, path string) (w *os.File, closeBoth func()) {
	t.Helper()
	w, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := syscall.Open(path, syscall.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	return w, func() { w.Close(); syscall.Close(fd) }
}

func messages(t *testing.T, files ...string) (out, err []string) {
	t.Helper()
	part := map[string]string{}
	for _, name := range files {
		b, rerr := os.ReadFile(name)
		if rerr != nil {
			t.Fatal(rerr)
		}
		if len(b) > 0 && b[len(b)-1] != '\n' {
			t.Fatalf("%s ends in the middle of a record: %q", name, b[max(0, len(b)-100):])
		}
		for _, rec := range bytes.Split(bytes.TrimSuffix(b, []byte("\n")), []byte("\n")) {
			if len(rec) == 0 {
				continue
			}
			f := strings.SplitN(string(rec), " ", 4)
			if len(f) != 4 {
				t.Fatalf("bad record %q", rec)
			}
			if _, terr := time.Parse(time.RFC3339Nano, f[0]); terr != nil {
				t.Fatal(terr)
			}
			part[f[1]] += f[3]
			if f[2] == "P" {
				continue
			}
			if f[1] == "stdout" {
				out = append(out, part[f[1]])
			} else {
				err = append(err, part[f[1]])
			}
			part[f[1]] = ""
		}
	}
	// What never ended with a newline is a P record, the stream's last.
	if p := part["stdout"]; p != "" {
		out = append(out, p)
	}
	if p := part["stderr"]; p != "" {
		err = append(err, p)
	}
	return out, err
}

func waitFor(t *testing.T, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("condition did not come true within 10 s")
		}
	}
}
