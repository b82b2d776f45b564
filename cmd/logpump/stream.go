package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"syscall"
	"time"
	"unsafe"
)

const (
	scratchBytes = 64 << 10 // a pipe's default capacity: one look sees all of it
	spliceNoWait = 2        // SPLICE_F_NONBLOCK
)

// batch is the memory that one look at a FIFO needs. There are few, whatever the number of containers.
type batch struct {
	r, w int // a pipe of our own that tee(2) copies into
	in   []byte
	out  []byte
}

var batches = make(chan *batch, 3)

func init() {
	for range cap(batches) {
		batches <- nil // made at first use
	}
}

func getBatch() (*batch, error) {
	b := <-batches
	if b != nil {
		return b, nil
	}
	var p [2]int
	if err := syscall.Pipe2(p[:], syscall.O_CLOEXEC|syscall.O_NONBLOCK); err != nil {
		batches <- nil
		return nil, fmt.Errorf("make a pipe: %w", err)
	}
	return &batch{r: p[0], w: p[1], in: make([]byte, scratchBytes)}, nil
}

// outKeep is the largest output buffer kept between batches; a batch of empty lines grows by the factor of a record's
// head.
const outKeep = 256 << 10

func putBatch(b *batch) {
	if cap(b.out) > outKeep {
		b.out = nil
	}
	batches <- b
}

// stream is one FIFO. Its goroutine runs until the last writer has closed it, or stop.
//
//	waiting for a writer ──data or writer seen──▶ flowing ──no writers left, everything taken──▶ done
type stream struct {
	c     *container
	index int
	path  string
	f     *os.File
	raw   syscall.RawConn
	done  chan struct{}
	once  sync.Once

	shown int // bytes at the FIFO's head that clients have had; only the goroutine touches it
}

func openStream(c *container, index int, path string) (*stream, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	raw, err := f.SyscallConn()
	if err != nil {
		f.Close()
		return nil, err
	}
	s := &stream{c: c, index: index, path: path, f: f, raw: raw, done: make(chan struct{})}
	if c.in.seen[index] == 1 {
		s.nudge()
	}
	return s, nil
}

// nudge opens and closes the write end. Polling reports a hang-up only when a writer has come and gone since our open;
// when the real ones went before it, this stands in for them.
func (s *stream) nudge() {
	if fd, err := syscall.Open(s.path, syscall.O_WRONLY|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0); err == nil {
		syscall.Close(fd)
	}
}

func (s *stream) control(f func(fd int) error) error {
	var inner error
	if err := s.raw.Control(func(fd uintptr) { inner = f(int(fd)) }); err != nil {
		return err
	}
	return inner
}

// run pumps until the end.
func (s *stream) run() {
	defer close(s.done)
	for {
		var ended bool
		err := s.raw.Read(func(fd uintptr) bool {
			var more bool
			more, ended = s.turn(int(fd))
			return ended || more
		})
		if err != nil || ended {
			return // closed or stopped, or over
		}
	}
}

// turn looks once. more asks to be called again at once; neither more nor ended asks to wait for the FIFO.
func (s *stream) turn(fd int) (more, ended bool) {
	b, err := getBatch()
	if err != nil {
		fmt.Fprintf(os.Stderr, "logpump: container %s: %v\n", s.c.id, err)
		time.Sleep(time.Second) // out of descriptors: the FIFO keeps the data meanwhile
		return true, false
	}
	defer putBatch(b)
	n, err := peek(fd, b)
	if err != nil && !errors.Is(err, syscall.EAGAIN) {
		fmt.Fprintf(os.Stderr, "logpump: container %s %s: look: %v\n", s.c.id, streamNames[s.index], err)
		return false, true
	}
	if errors.Is(err, syscall.EAGAIN) {
		s.c.in.seen[s.index] = 1 // empty, and somebody holds the other end
	}
	if n > s.shown {
		taken, err := s.c.write(s.index, fd, b.in[:n], s.shown, false, b)
		if err != nil {
			if !errors.Is(err, os.ErrClosed) {
				fmt.Fprintf(os.Stderr, "logpump: container %s %s: %v\n", s.c.id, streamNames[s.index], err)
			}
			return false, true
		}
		s.shown = n - taken
		return true, false
	}
	if !hungUp(fd) {
		return false, false
	}
	// Writers may have added something between the look and the poll.
	if n2, _ := peek(fd, b); n2 > n {
		return true, false
	}
	s.flushWith(fd, b, n)
	return false, true
}

// flush writes an unfinished last line. It is for after done.
func (s *stream) flush() {
	b, err := getBatch()
	if err != nil {
		return
	}
	defer putBatch(b)
	s.control(func(fd int) error {
		for {
			n, _ := peek(fd, b)
			if n == 0 {
				return nil
			}
			taken, err := s.c.write(s.index, fd, b.in[:n], min(s.shown, n), true, b)
			if err != nil || taken == 0 {
				return err
			}
			s.shown = 0
		}
	})
}

func (s *stream) flushWith(fd int, b *batch, n int) {
	if n > 0 {
		if _, err := s.c.write(s.index, fd, b.in[:n], s.shown, true, b); err != nil && !errors.Is(err, os.ErrClosed) {
			fmt.Fprintf(os.Stderr, "logpump: container %s %s: %v\n", s.c.id, streamNames[s.index], err)
		}
		s.shown = 0
	}
}

// stop makes run return; what lies in the FIFO stays there.
func (s *stream) stop() { s.once.Do(func() { s.f.SetReadDeadline(time.Unix(1, 0)) }) }

// peek copies what lies in the FIFO to b.in without taking it. EAGAIN means empty with writers, 0 empty without.
func peek(fd int, b *batch) (int, error) {
	var n int64
	var err error
	for {
		n, err = syscall.Tee(fd, b.w, scratchBytes, spliceNoWait)
		if err != syscall.EINTR {
			break
		}
	}
	if err != nil {
		return 0, err
	}
	got := 0
	for got < int(n) {
		k, err := syscall.Read(b.r, b.in[got:n])
		if err == syscall.EINTR {
			continue
		}
		if err != nil || k == 0 {
			return 0, &fs.PathError{Op: "read", Path: "own pipe", Err: errOr(err)}
		}
		got += k
	}
	return got, nil
}

// hungUp reports whether no writer holds the FIFO, and one has since we opened it.
func hungUp(fd int) bool {
	p := struct {
		fd      int32
		events  int16
		revents int16
	}{fd: int32(fd), events: 1 /* POLLIN */}
	var zero syscall.Timespec
	for {
		_, _, errno := syscall.Syscall6(syscall.SYS_PPOLL, uintptr(unsafe.Pointer(&p)), 1, uintptr(unsafe.Pointer(&zero)), 0, 0, 0)
		if errno != syscall.EINTR {
			return errno == 0 && p.revents&0x10 != 0 // POLLHUP
		}
	}
}
