package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/reevehq/reeve/internal/logpump"
)

func TestWritesBothStreamsAndFinishes(t *testing.T) {
	r := newRig(t)
	ctx := t.Context()
	log := filepath.Join(r.dir, "logs", "0.log")
	if err := r.Add(ctx, "a", log, true, true); err != nil {
		t.Fatal(err)
	}
	if err := r.Add(ctx, "a", log, true, true); err != nil {
		t.Fatalf("adding twice: %v", err)
	}
	p := logpump.PathsOf(r.dir, "a")
	out, closeOut := shim(t, p.Stdout)
	errw, closeErr := shim(t, p.Stderr)
	long := strings.Repeat("q", 3*maxLine+5)
	fmt.Fprintf(out, "one\ntwo\n%s\n", long)
	fmt.Fprint(errw, "oops\nno newline")
	if drained, err := r.Finish(ctx, "a", 0); err != nil || drained {
		t.Fatalf("finish while open: drained %t, %v", drained, err)
	}
	closeOut()
	closeErr()
	o, e := messages(t, log)
	if fmt.Sprint(o) != fmt.Sprint([]string{"one", "two", long}) || fmt.Sprint(e) != "[oops no newline]" {
		t.Fatalf("got %.300q and %q", o, e)
	}
	if _, err := os.Stat(p.Dir); !errors.Is(err, os.ErrNotExist) {
		t.Fatalf("state of a finished container is still there: %v", err)
	}
	if drained, err := r.Finish(ctx, "a", 0); err != nil || !drained {
		t.Fatalf("finish of an unknown container: %t, %v", drained, err)
	}
	if err := r.Reopen(ctx, "a"); !errors.Is(err, logpump.ErrUnknown) {
		t.Fatalf("reopen of an unknown container: %v", err)
	}
}

// TestKilledAgainAndAgain kills the pump at random moments while numbered lines come as fast as they are taken and the
// log is rotated: none may be missing, doubled or out of order.
func TestKilledAgainAndAgain(t *testing.T) {
	r := newRig(t)
	ctx := t.Context()
	log := filepath.Join(r.dir, "0.log")
	if err := r.Add(ctx, "a", log, false, true); err != nil {
		t.Fatal(err)
	}
	p := logpump.PathsOf(r.dir, "a")
	var writers sync.WaitGroup
	stop := make(chan struct{})
	var wrote [2]int
	for i, path := range []string{p.Stdout, p.Stderr} {
		w, closeBoth := shim(t, path)
		writers.Go(func() {
			defer closeBoth()
			bw := bufio.NewWriterSize(w, 1+rand.Intn(20000))
			for n := 0; ; n++ {
				select {
				case <-stop:
					bw.Flush()
					wrote[i] = n
					return
				default:
				}
				pad := ""
				if n%997 == 0 {
					pad = strings.Repeat(".", rand.Intn(2*maxLine))
				}
				fmt.Fprintf(bw, "%d%s\n", n, pad)
				if n%1000 == 0 {
					bw.Flush()
				}
			}
		})
	}
	files := []string{}
	kills := 60
	if testing.Short() {
		kills = 10
	}
	for k := range kills {
		time.Sleep(time.Duration(rand.Intn(6000)) * time.Microsecond) // the random moment is the point
		r.kill()
		r.start()
		if k%10 == 5 {
			old := fmt.Sprintf("%s.%d", log, k)
			if err := os.Rename(log, old); err != nil {
				t.Fatal(err)
			}
			if k%20 == 5 { // a kill between the rename and the reopening, too
				time.Sleep(time.Duration(rand.Intn(2000)) * time.Microsecond)
				r.kill()
				r.start()
			}
			if err := r.Reopen(ctx, "a"); err != nil {
				t.Fatal(err)
			}
			files = append(files, old)
		}
	}
	close(stop)
	writers.Wait()
	r.kill()
	r.start()
	if drained, err := r.Finish(ctx, "a", 10*time.Second); err != nil || !drained {
		t.Fatalf("finish: drained %t, %v", drained, err)
	}
	o, e := messages(t, append(files, log)...)
	for i, got := range [][]string{o, e} {
		if len(got) != wrote[i] {
			t.Errorf("%s: %d lines of %d", streamNames[i], len(got), wrote[i])
		}
		for n, line := range got {
			if strings.TrimRight(line, ".") != fmt.Sprint(n) {
				t.Fatalf("%s: line %d is %.40q", streamNames[i], n, line)
			}
		}
	}
	t.Logf("%d and %d lines through %d kills", wrote[0], wrote[1], kills)
}

// TestNobodyElseHolds: a container ends right after the pump was killed, with no agent, whoever of the two processes was
// killed before: the other one holds what lies in the FIFO.
func TestNobodyElseHolds(t *testing.T) {
	r := newRig(t)
	ctx := t.Context()
	for i := range 20 {
		id := fmt.Sprintf("c%d", i)
		log := filepath.Join(r.dir, id+".log")
		if err := r.Add(ctx, id, log, false, false); err != nil {
			t.Fatal(err)
		}
		w, closeBoth := shim(t, logpump.PathsOf(r.dir, id).Stdout)
		if i%2 == 1 { // another keeper first
			_, keeper, err := r.PIDs(ctx)
			if err != nil || keeper == 0 {
				t.Fatalf("keeper %d, %v", keeper, err)
			}
			if err := syscall.Kill(keeper, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			waitFor(t, func() bool { _, now, err := r.PIDs(ctx); return err == nil && now != 0 && now != keeper })
		}
		r.kill()
		fmt.Fprintf(w, "first %d\nlast %d\n", i, i)
		closeBoth()
		waitFor(t, func() bool { _, _, err := r.Ping(ctx); return err == nil }) // the keeper's doing, not ours
		if drained, err := r.Finish(ctx, id, 10*time.Second); err != nil || !drained {
			t.Fatalf("finish: %t, %v", drained, err)
		}
		if o, _ := messages(t, log); fmt.Sprint(o) != fmt.Sprintf("[first %d last %[1]d]", i) {
			t.Fatalf("container %d: got %q", i, o)
		}
	}
	_, keeper, err := r.PIDs(ctx)
	if err != nil {
		t.Fatal(err)
	}
	waitFor(t, func() bool { // nothing is held for those that are finished
		fds, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", keeper))
		return !slices.ContainsFunc(fds, func(fd string) bool {
			to, _ := os.Readlink(fd)
			return strings.Contains(to, "/stdout")
		})
	})
}

// TestWriterThatLeftBeforeRestart covers an end that no new pump can see by polling.
func TestWriterThatLeftBeforeRestart(t *testing.T) {
	r := newRig(t)
	ctx := t.Context()
	log := filepath.Join(r.dir, "0.log")
	if err := r.Add(ctx, "a", log, false, false); err != nil {
		t.Fatal(err)
	}
	p := logpump.PathsOf(r.dir, "a")
	w, closeBoth := shim(t, p.Stdout)
	fmt.Fprintln(w, "first")
	waitFor(t, func() bool { b, _ := os.ReadFile(log); return bytes.Contains(b, []byte("first")) })
	r.kill()
	fmt.Fprint(w, "second\nthird")
	closeBoth()
	r.start()
	at, err := r.Attach(ctx, "a", true, true)
	if err != nil {
		t.Fatal(err)
	}
	defer at.Close()
	if err := at.Copy(io.Discard, io.Discard); err != nil { // ends by itself: the pump knows that the output is over
		t.Fatal(err)
	}
	if drained, err := r.Finish(ctx, "a", 10*time.Second); err != nil || !drained {
		t.Fatalf("finish: %t, %v", drained, err)
	}
	if o, _ := messages(t, log); fmt.Sprint(o) != "[first second third]" {
		t.Fatalf("got %q", o)
	}
}

func TestAttachNeverBlocksTheWriter(t *testing.T) {
	r := newRig(t)
	ctx := t.Context()
	if err := r.Add(ctx, "a", "", false, true); err != nil {
		t.Fatal(err)
	}
	p := logpump.PathsOf(r.dir, "a")
	w, closeOut := shim(t, p.Stdout)
	_, closeErr := shim(t, p.Stderr)
	stuck, err := r.Attach(ctx, "a", true, true) // never reads
	if err != nil {
		t.Fatal(err)
	}
	defer stuck.Close()
	good, err := r.Attach(ctx, "a", true, false)
	if err != nil {
		t.Fatal(err)
	}
	pr, pw := io.Pipe()
	go func() { pw.CloseWithError(good.Copy(pw, nil)) }()
	fmt.Fprint(w, "prompt> ") // no newline: shown at once all the same
	buf := make([]byte, 8)
	if _, err := io.ReadFull(pr, buf); err != nil || string(buf) != "prompt> " {
		t.Fatalf("%q, %v", buf, err)
	}
	go io.Copy(io.Discard, pr)
	chunk := bytes.Repeat([]byte("0123456789abcde\n"), 4096)
	for range 100 { // 6.5 MB, more than socket and backlog hold
		if _, err := w.Write(chunk); err != nil {
			t.Fatal(err)
		}
	}
	closeOut()
	closeErr()
	if drained, err := r.Finish(ctx, "a", 10*time.Second); err != nil || !drained {
		t.Fatalf("finish: %t, %v", drained, err)
	}
}

func TestStdinStaysOpenUntilAsked(t *testing.T) {
	r := newRig(t)
	ctx := t.Context()
	if err := r.Add(ctx, "a", "", true, false); err != nil {
		t.Fatal(err)
	}
	in, err := os.OpenFile(logpump.PathsOf(r.dir, "a").Stdin, os.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	w, err := os.OpenFile(logpump.PathsOf(r.dir, "a").Stdin, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(w, "hi")
	w.Close()
	buf := make([]byte, 2)
	if _, err := io.ReadFull(in, buf); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { _, err := in.Read(buf); ended <- err }()
	select {
	case err := <-ended:
		t.Fatalf("stdin ended with the first writer: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	if err := r.CloseStdin(ctx, "a"); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != io.EOF {
		t.Fatalf("got %v, want the end", err)
	}
}

func TestRefusesBadRequests(t *testing.T) {
	r := newRig(t)
	ctx := t.Context()
	for _, id := range []string{"", "..", "a/b"} {
		if err := r.Add(ctx, id, "", false, false); err == nil || !strings.Contains(err.Error(), "invalid container id") {
			t.Errorf("add %q: %v", id, err)
		}
	}
	if err := r.Add(ctx, "a", "relative.log", false, false); err == nil || !strings.Contains(err.Error(), "not absolute") {
		t.Errorf("relative log path: %v", err)
	}
	if err := r.Add(ctx, "b", "", false, false); err != nil {
		t.Fatal(err)
	}
	if err := r.Exit(ctx, false); err == nil || !strings.Contains(err.Error(), "still known") {
		t.Errorf("exit with containers: %v", err)
	}
	if ids, err := r.List(ctx); err != nil || fmt.Sprint(ids) != "[b]" {
		t.Errorf("list: %q, %v", ids, err)
	}
	if err := r.Remove(ctx, "b"); err != nil {
		t.Error(err)
	}
}

func TestRestartedBySupervisor(t *testing.T) {
	r := newRig(t)
	ctx, cancel := context.WithCancel(t.Context())
	again := make(chan struct{}, 8)
	done := make(chan struct{})
	go func() { defer close(done); r.sup.Run(ctx, func() { again <- struct{}{} }) }()
	for range 3 {
		r.kill()
		<-again
	}
	cancel()
	<-done
	if _, _, err := r.Ping(t.Context()); err != nil {
		t.Fatalf("logpump did not survive its supervisor: %v", err)
	}
}
