package native

import (
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

// capped keeps the first execOutputLimit bytes.
type capped struct{ buf []byte }

func (c *capped) Write(p []byte) (int, error) {
	if room := execOutputLimit - len(c.buf); room > 0 {
		c.buf = append(c.buf, p[:min(room, len(p))]...)
	}
	return len(p), nil
}

// execIO is the FIFOs of one exec. We hold the read ends from before the start, so that the shim's open does not wait.
type execIO struct {
	dir                   string
	stdin, stdout, stderr bool
	in                    *os.File
	out                   []*os.File
	once                  sync.Once
}

func newExecIO(dir string, q execRequest) (_ *execIO, err error) {
	// The shim wants both outputs or none, except of a terminal; what nobody asked for is read and dropped.
	f := &execIO{dir: dir, stdin: q.stdin != nil, stdout: true, stderr: !q.tty}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			f.remove()
		}
	}()
	for _, p := range []string{f.path(f.stdin, "stdin"), f.path(f.stdout, "stdout"), f.path(f.stderr, "stderr")} {
		if p == "" {
			continue
		}
		if err := syscall.Mkfifo(p, 0o600); err != nil {
			return nil, &os.PathError{Op: "mkfifo", Path: p, Err: err}
		}
		if filepath.Base(p) == "stdin" {
			if f.in, err = os.OpenFile(p, os.O_RDWR|syscall.O_NONBLOCK, 0); err != nil {
				return nil, err
			}
			continue
		}
		file, err := os.OpenFile(p, os.O_RDONLY|syscall.O_NONBLOCK, 0)
		if err != nil {
			return nil, err
		}
		f.out = append(f.out, file)
	}
	return f, nil
}

// path names a FIFO, or nothing if it is not wanted.
func (f *execIO) path(wanted bool, name string) string {
	if !wanted {
		return ""
	}
	return filepath.Join(f.dir, name)
}

// copy moves the output until its end; the channel closes then.
func (f *execIO) copy(q execRequest) <-chan struct{} {
	done := make(chan struct{})
	var wg sync.WaitGroup
	writers := []io.Writer{q.stdout, q.stderr}
	for i, file := range f.out {
		wg.Go(func() {
			w := writers[i]
			if w == nil {
				w = io.Discard
			}
			if _, err := io.Copy(w, file); err != nil {
				io.Copy(io.Discard, file) // the client left; the command must not stall
			}
		})
	}
	go func() { wg.Wait(); close(done) }()
	return done
}

// cancel ends copy.
func (f *execIO) cancel() {
	for _, file := range f.out {
		file.SetReadDeadline(time.Unix(1, 0))
	}
}

func (f *execIO) remove() {
	f.once.Do(func() {
		for _, file := range f.out {
			file.Close()
		}
		if f.in != nil {
			f.in.Close()
		}
		os.RemoveAll(f.dir)
	})
}
