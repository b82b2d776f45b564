package logread

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// sink collects output and says when some arrived.
type sink struct {
	mu      sync.Mutex
	b       bytes.Buffer
	flushed chan struct{}
}

func newSink() *sink { return &sink{flushed: make(chan struct{}, 1)} }

func (s *sink) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *sink) Flush() {
	select {
	case s.flushed <- struct{}{}:
	default:
	}
}

func (s *sink) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// await blocks until the output is want.
func (s *sink) await(t *testing.T, want string) {
	t.Helper()
	deadline := time.After(10 * time.Second)
	for s.String() != want {
		if got := s.String(); !strings.HasPrefix(want, got) {
			t.Fatalf("output %q is no beginning of %q", got, want)
		}
		select {
		case <-s.flushed:
		case <-deadline:
			t.Fatalf("output %q, want %q", s.String(), want)
		}
	}
}

var t0 = time.Date(2026, 11, 22, 15, 0, 0, 0, time.UTC)

// rec is a record of second n.
func rec(n int, stream, tag, msg string) string {
	return fmt.Sprintf("%s %s %s %s\n", t0.Add(time.Duration(n)*time.Second).Format(time.RFC3339Nano), stream, tag, msg)
}

func put(t *testing.T, path string, recs ...string) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteString(strings.Join(recs, "")); err != nil {
		t.Fatal(err)
	}
}

func zip(t *testing.T, path string, recs ...string) {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := z.Write([]byte(strings.Join(recs, ""))); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, b.Bytes(), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestRead(t *testing.T) {
	dir := t.TempDir()
	log := filepath.Join(dir, "0.log")
	zip(t, log+".20261122-150002.gz", rec(1, "stdout", "F", "one"), rec(2, "stderr", "F", "two"))
	put(t, log+".20261122-150004", rec(3, "stdout", "P", "thr"), rec(3, "stdout", "F", "ee"), rec(4, "stdout", "F", "four"))
	put(t, log, rec(5, "stdout", "F", "five"), "garbage\n", rec(6, "stderr", "P", "si"), rec(6, "stdout", "F", "between"), rec(6, "stderr", "F", "x"), rec(7, "stdout", "F", ""))
	put(t, log+".20261122-150009.tmp", "not ours\n")
	stamp := func(n int) string { return t0.Add(time.Duration(n) * time.Second).Format(time.RFC3339Nano) }
	for _, tc := range []struct {
		name string
		o    Options
		want string
	}{
		{"everything", Options{Tail: -1}, "one\ntwo\nthree\nfour\nfive\nsibetween\nx\n\n"},
		{"stdout only", Options{Tail: -1, Stream: Stdout}, "one\nthree\nfour\nfive\nbetween\n\n"},
		{"stderr only", Options{Tail: -1, Stream: Stderr}, "two\nsix\n"},
		{"tail 0", Options{Tail: 0}, ""},
		{"tail 1", Options{Tail: 1}, "\n"},
		{"tail 2", Options{Tail: 2}, "x\n\n"},
		{"tail reaches into rotated files", Options{Tail: 6}, "three\nfour\nfive\nsibetween\nx\n\n"},
		{"tail takes the partial records of its first line", Options{Tail: 7, Stream: Stdout}, "one\nthree\nfour\nfive\nbetween\n\n"},
		{"tail of more than there is", Options{Tail: 100}, "one\ntwo\nthree\nfour\nfive\nsibetween\nx\n\n"},
		{"since, across rotation", Options{Tail: -1, Since: t0.Add(2 * time.Second)}, "two\nthree\nfour\nfive\nsibetween\nx\n\n"},
		{"since and tail", Options{Tail: 100, Since: t0.Add(6 * time.Second)}, "sibetween\nx\n\n"},
		{"timestamps", Options{Tail: 2, Timestamps: true}, stamp(6) + " x\n" + stamp(7) + " \n"},
		{"a line has one time", Options{Tail: -1, Stream: Stderr, Timestamps: true}, stamp(2) + " two\n" + stamp(6) + " six\n"},
		{"limit", Options{Tail: -1, LimitBytes: 7}, "one\ntwo"},
		{"limit of exactly all", Options{Tail: 4, LimitBytes: 18}, "five\nsibetween\nx\n\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			out := newSink()
			if err := Read(t.Context(), log, tc.o, nil, out); err != nil {
				t.Fatal(err)
			}
			if out.String() != tc.want {
				t.Errorf("got  %q\nwant %q", out.String(), tc.want)
			}
		})
	}
	if err := Read(t.Context(), filepath.Join(dir, "none", "0.log"), Options{Tail: -1}, nil, newSink()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a log that does not exist: %v", err)
	}
}

// Going back from the end works whatever the blocks cut.
func TestTailOverBlocks(t *testing.T) {
	log := filepath.Join(t.TempDir(), "0.log")
	var recs, msgs []string
	for i := range 3000 {
		m := fmt.Sprintf("line %d %s", i, strings.Repeat("x", i%211))
		recs = append(recs, rec(i, "stdout", "F", m))
		msgs = append(msgs, m+"\n")
	}
	put(t, log, recs...)
	for _, n := range []int{1, 2, 500, 501, 1499, 2999, 3000, 3001} {
		out := newSink()
		if err := Read(t.Context(), log, Options{Tail: int64(n)}, nil, out); err != nil {
			t.Fatal(err)
		}
		if want := strings.Join(msgs[max(len(msgs)-n, 0):], ""); out.String() != want {
			t.Errorf("tail %d: %d bytes, want %d", n, len(out.String()), len(want))
		}
	}
}

// follow runs Read in the background and gives what ends it.
func follow(t *testing.T, log string, o Options) (out *sink, exit func(), wait func() error, cancel context.CancelFunc) {
	t.Helper()
	o.Follow = true
	ctx, cancel := context.WithCancel(t.Context())
	out = newSink()
	exited := make(chan struct{})
	done := make(chan error, 1)
	go func() { done <- Read(ctx, log, o, exited, out) }()
	t.Cleanup(cancel)
	return out, func() { close(exited) }, func() error {
		select {
		case err := <-done:
			return err
		case <-time.After(10 * time.Second):
			return errors.New("the follower did not end")
		}
	}, cancel
}

// A follower sees every line once: half-written ones when they are whole, across renames with and without a gap, with
// late writes to the old file, and the last ones after the container's end.
func TestFollow(t *testing.T) {
	log := filepath.Join(t.TempDir(), "0.log")
	out, exit, wait, _ := follow(t, log, Options{Tail: -1})
	want := ""
	put(t, log, rec(1, "stdout", "F", "a")) // it did not exist when following began
	want += "a\n"
	out.await(t, want)
	half := rec(2, "stdout", "F", "bbb")
	put(t, log, half[:len(half)-2])
	put(t, log, half[len(half)-2:])
	want += "bbb\n"
	out.await(t, want)

	old, err := os.OpenFile(log, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(log, log+".20261122-150010"); err != nil {
		t.Fatal(err)
	}
	if _, err := old.WriteString(rec(3, "stdout", "F", "late")); err != nil { // before the writer reopened
		t.Fatal(err)
	}
	old.Close()
	put(t, log, rec(4, "stdout", "F", "new"))
	want += "late\nnew\n"
	out.await(t, want)

	// Two rotations while nobody looks cannot be staged with a live follower; written at once they come close.
	if err := os.Rename(log, log+".20261122-150011"); err != nil {
		t.Fatal(err)
	}
	put(t, log, rec(5, "stdout", "F", "x"))
	if err := os.Rename(log, log+".20261122-150012"); err != nil {
		t.Fatal(err)
	}
	put(t, log, rec(6, "stdout", "F", "y"))
	want += "x\ny\n"
	out.await(t, want)
	put(t, log, rec(7, "stdout", "F", "last"))
	exit()
	if err := wait(); err != nil {
		t.Fatal(err)
	}
	if got := out.String(); got != want+"last\n" {
		t.Errorf("got %q, want %q", got, want+"last\n")
	}
}

func TestFollowEndsWithItsContext(t *testing.T) {
	log := filepath.Join(t.TempDir(), "0.log")
	put(t, log, rec(1, "stdout", "F", "a"))
	out, _, wait, cancel := follow(t, log, Options{Tail: 1})
	out.await(t, "a\n")
	cancel()
	if err := wait(); err != nil {
		t.Fatal(err)
	}
}

// Rotation under a writer at full speed: every line arrives once and in order.
func TestFollowUnderLoad(t *testing.T) {
	log := filepath.Join(t.TempDir(), "0.log")
	put(t, log)
	out, exit, wait, _ := follow(t, log, Options{Tail: -1})
	var want strings.Builder
	f, err := os.OpenFile(log, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	const lines, every = 6000, 700
	for i := range lines {
		if _, err := f.WriteString(rec(i, "stdout", "F", fmt.Sprint(i))); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(&want, i)
		if i%every == every-1 {
			// As the log writer does: renamed first, reopened a little later.
			if err := os.Rename(log, fmt.Sprintf("%s.20261122-15%04d", log, i)); err != nil {
				t.Fatal(err)
			}
			if _, err := f.WriteString(rec(i, "stdout", "F", "after")); err != nil {
				t.Fatal(err)
			}
			fmt.Fprintln(&want, "after")
			f.Close()
			if f, err = os.OpenFile(log, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	f.Close()
	exit()
	if err := wait(); err != nil {
		t.Fatal(err)
	}
	if out.String() != want.String() {
		t.Errorf("got %d bytes, want %d", len(out.String()), want.Len())
	}
}

// Rotation between listing the files and reading them loses nothing and repeats nothing.
func TestRotatedWhileReading(t *testing.T) {
	log := filepath.Join(t.TempDir(), "0.log")
	put(t, log+".20261122-150001", rec(1, "stdout", "F", "one"))
	put(t, log, rec(2, "stdout", "F", "skipped"), rec(3, "stdout", "F", "three"))
	for name, o := range map[string]Options{"all": {Tail: -1}, "tail": {Tail: 1}} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.CopyFS(dir, os.DirFS(filepath.Dir(log))); err != nil {
				t.Fatal(err)
			}
			log := filepath.Join(dir, "0.log")
			out := newSink()
			r := &reader{path: log, o: o, out: out, left: -1}
			defer r.close()
			if err := r.begin(); err != nil {
				t.Fatal(err)
			}
			if err := os.Rename(log, log+".20261122-150009"); err != nil {
				t.Fatal(err)
			}
			put(t, log, rec(4, "stdout", "F", "four"))
			if err := os.Rename(log, log+".20261122-150010"); err != nil {
				t.Fatal(err)
			}
			put(t, log, rec(5, "stdout", "F", "five"))
			if _, err := r.drain(); err != nil {
				t.Fatal(err)
			}
			want := "three\nfour\nfive\n"
			if name == "all" {
				want = "one\nskipped\n" + want
			}
			if out.String() != want {
				t.Errorf("got %q, want %q", out.String(), want)
			}
		})
	}
}

func FuzzParseLine(f *testing.F) {
	f.Add([]byte("2026-11-22T15:04:05.123456789Z stdout F hello\n"))
	f.Add([]byte("2026-11-22T15:04:05.123456789+01:00 stderr P:x half"))
	f.Add([]byte("2026-11-22T15:04:05Z stdout F \n"))
	f.Add([]byte("2026-11-22T15:04:05Z stdout F"))
	f.Add([]byte("  \n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		l, err := parseLine(raw)
		if err != nil {
			return
		}
		if l.stream != Stdout && l.stream != Stderr {
			t.Errorf("stream %q", l.stream)
		}
		if bytes.HasSuffix(l.msg, []byte("\n")) && !bytes.HasSuffix(raw, []byte("\n\n")) {
			t.Errorf("message %q keeps its newline", l.msg)
		}
		tag := "F"
		if l.partial {
			tag = "P"
		}
		again, err := parseLine([]byte(string(l.stamp) + " " + string(l.stream) + " " + tag + " " + string(l.msg) + "\n"))
		if err != nil || !bytes.Equal(again.msg, l.msg) || again.partial != l.partial {
			t.Errorf("%q does not survive a round trip: %+v, %v", raw, again, err)
		}
	})
}
