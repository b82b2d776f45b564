package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/reevehq/reeve/internal/logpump"
)

// config is what a successor needs to open a container again.
type config struct {
	Version int    `json:"version"`
	LogPath string `json:"logPath"`
	Stdin   bool   `json:"stdin"`
	Stderr  bool   `json:"stderr"`
}

var streamNames = [2]string{"stdout", "stderr"}

// fullDiskPatience is how long a batch waits for a log that cannot be written, usually a full disk, before output is
// dropped: a stalled container is worse than a gap that the log will name.
const fullDiskPatience = 10 * time.Second

// container is one container's streams, log file and clients.
type container struct {
	id    string
	cfg   config
	paths logpump.Paths

	mu      sync.Mutex
	in      *intent
	log     *os.File // nil without a log path, or while it cannot be opened
	dropped int64    // bytes dropped since the last successful write
	clients map[*client]bool
	closed  bool

	streams []*stream
	stdin   *os.File
}

// openContainer makes or reopens the FIFOs and settles what a predecessor left half done.
func openContainer(dir, id string, cfg config) (_ *container, err error) {
	c := &container{id: id, cfg: cfg, paths: logpump.PathsOf(dir, id), clients: map[*client]bool{}}
	if err := os.MkdirAll(c.paths.Dir, 0o700); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			c.release()
		}
	}()
	if c.in, _, err = openIntent(filepath.Join(c.paths.Dir, "state")); err != nil {
		return nil, err
	}
	fifos := []string{c.paths.Stdout}
	if cfg.Stderr {
		fifos = append(fifos, c.paths.Stderr)
	}
	for i, path := range fifos {
		if err := mkfifo(path); err != nil {
			return nil, err
		}
		s, err := openStream(c, i, path)
		if err != nil {
			return nil, err
		}
		c.streams = append(c.streams, s)
	}
	if cfg.Stdin {
		if err := mkfifo(c.paths.Stdin); err != nil {
			return nil, err
		}
		// Read and write, so that the open never waits and the shim never sees the end while we live.
		if c.stdin, err = os.OpenFile(c.paths.Stdin, os.O_RDWR|syscall.O_NONBLOCK, 0); err != nil {
			return nil, err
		}
	}
	if err := c.settle(); err != nil {
		return nil, err
	}
	if err := c.openLog(); err != nil && c.cfg.LogPath != "" {
		return nil, err
	}
	b, err := json.Marshal(cfg)
	if err != nil {
		return nil, err
	}
	tmp := filepath.Join(c.paths.Dir, "config.json.new")
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return nil, err
	}
	return c, os.Rename(tmp, filepath.Join(c.paths.Dir, "config.json"))
}

func mkfifo(path string) error {
	if err := syscall.Mkfifo(path, 0o600); err != nil && !errors.Is(err, syscall.EEXIST) {
		return &fs.PathError{Op: "mkfifo", Path: path, Err: err}
	}
	return nil
}

// openLog opens the log path for appending, creating file and folder.
func (c *container) openLog() error {
	if c.cfg.LogPath == "" {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(c.cfg.LogPath), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(c.cfg.LogPath, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o640)
	if err != nil {
		return err
	}
	if c.log != nil {
		c.log.Close()
	}
	c.log = f
	return nil
}

// settle finishes or undoes the batch that a killed predecessor noted. The log file is found by its inode, because it
// may have been rotated in between.
func (c *container) settle() error {
	if c.in.phase.Load() != phaseWriting {
		return nil
	}
	defer c.in.end()
	if int(c.in.stream) >= len(c.streams) {
		return nil
	}
	if c.in.marker == c.in.last {
		return nil // taken, hence written
	}
	written := false
	if c.in.outLen > 0 {
		path, size, ok := findInode(c.cfg.LogPath, c.in.dev, c.in.ino)
		switch {
		case ok && size >= c.in.logSize+c.in.outLen:
			written = true
		case ok && size > c.in.logSize:
			if err := os.Truncate(path, c.in.logSize); err != nil {
				return fmt.Errorf("undo half a write: %w", err)
			}
		}
	}
	if !written {
		return nil
	}
	s := c.streams[c.in.stream]
	// An empty FIFO here means that every holder closed it, and the bytes went with it; they are in the log.
	if err := s.control(func(fd int) error { return c.in.take(fd, make([]byte, scratchBytes)) }); err != nil {
		fmt.Fprintf(os.Stderr, "logpump: container %s: settle: %v\n", c.id, err)
	}
	return nil
}

func findInode(path string, dev, ino uint64) (string, int64, bool) {
	match := func(p string) (int64, bool) {
		var st syscall.Stat_t
		if syscall.Lstat(p, &st) != nil || uint64(st.Dev) != dev || st.Ino != ino {
			return 0, false
		}
		return st.Size, true
	}
	if size, ok := match(path); ok {
		return path, size, true
	}
	entries, _ := os.ReadDir(filepath.Dir(path))
	for _, e := range entries {
		p := filepath.Join(filepath.Dir(path), e.Name())
		if size, ok := match(p); ok {
			return p, size, true
		}
	}
	return "", 0, false
}

// reopen closes the log file and opens its path anew, between two batches.
func (c *container) reopen() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return errors.New("container is finished")
	}
	return c.openLog()
}

// write appends one batch of stream i to the log, takes it from the FIFO and passes it on to clients. data is what lies
// in the FIFO, of which the clients have had the first shown bytes. It returns how much was taken.
func (c *container) write(i int, fd int, data []byte, shown int, eof bool, b *batch) (taken int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return 0, os.ErrClosed
	}
	if shown < len(data) {
		for cl := range c.clients {
			cl.offer(i, data[shown:])
		}
	}
	c.in.seen[i] = 1
	b.out, taken = records(b.out[:0], data, streamNames[i], time.Now(), eof)
	if taken == 0 {
		return 0, nil
	}
	out := b.out
	if c.cfg.LogPath == "" {
		out = nil
	}
	began := time.Now()
	for {
		err := c.append(i, fd, out, taken, data[taken-1], b)
		if err == nil {
			return taken, nil
		}
		var lost lostError
		if errors.As(err, &lost) {
			return taken, err
		}
		if time.Since(began) > fullDiskPatience || c.dropped > 0 {
			c.dropped += int64(taken)
			if c.dropped == int64(taken) {
				fmt.Fprintf(os.Stderr, "logpump: container %s: dropping output: %v\n", c.id, err)
			}
			out = nil
			continue
		}
		time.Sleep(200 * time.Millisecond)
	}
}

// lostError is a failure to take bytes that are already in the log; there is no way back from it.
type lostError struct{ error }

func (c *container) append(i, fd int, out []byte, taken int, last byte, b *batch) error {
	var st syscall.Stat_t
	if out != nil {
		if c.log == nil {
			if err := c.openLog(); err != nil {
				return err
			}
		}
		if c.dropped > 0 {
			note := fmt.Sprintf("[logpump: %d bytes of output were dropped because the log could not be written]\n", c.dropped)
			rec, _ := records(nil, []byte(note), "stderr", time.Now(), true)
			out = append(rec, out...)
		}
		if err := syscall.Fstat(int(c.log.Fd()), &st); err != nil {
			return err
		}
	}
	c.in.begin(i, st.Size, int64(len(out)), int64(taken), uint64(st.Dev), st.Ino, last)
	if out != nil {
		if _, err := c.log.Write(out); err != nil {
			c.log.Truncate(st.Size)
			c.in.end()
			return err
		}
		c.dropped = 0
	}
	err := c.in.take(fd, b.in)
	c.in.end()
	if err != nil {
		return lostError{err}
	}
	return nil
}

// finish waits until every stream has ended, at most timeout, and then writes what is left and closes. drained is false
// when a stream was still open.
func (c *container) finish(timeout time.Duration) (drained bool) {
	t := time.NewTimer(timeout)
	defer t.Stop()
	drained = true
	for _, s := range c.streams {
		s.nudge()
	}
	for _, s := range c.streams {
		if drained {
			select {
			case <-s.done:
				continue
			case <-t.C:
				drained = false
			}
		}
		s.stop()
	}
	for _, s := range c.streams {
		<-s.done
		s.flush()
	}
	c.shut()
	return drained
}

// shut closes everything. The FIFOs and state stay on disk.
func (c *container) shut() {
	for _, s := range c.streams {
		s.stop()
		<-s.done
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return
	}
	c.closed = true
	for cl := range c.clients {
		cl.end()
	}
	clear(c.clients)
	c.release()
}

func (c *container) release() {
	for _, s := range c.streams {
		s.f.Close()
	}
	if c.stdin != nil {
		c.stdin.Close()
		c.stdin = nil
	}
	if c.log != nil {
		c.log.Close()
		c.log = nil
	}
	if c.in != nil {
		c.in.close()
		c.in = nil
	}
}

func (c *container) closeStdin() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stdin != nil {
		c.stdin.Close()
		c.stdin = nil
	}
}

// ended reports whether no stream can bring more.
func (c *container) ended() bool {
	for _, s := range c.streams {
		select {
		case <-s.done:
		default:
			return false
		}
	}
	return true
}
