package logread

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"
)

// Options say what to read. Zero values: all that is kept of the log, rotated files first, both streams, plain. (Kubelet
// shows the current file only, so that a line can be gone from its answer a moment after it was written.)
type Options struct {
	Follow bool
	// Tail is how many of the last lines to begin with; below 0: all.
	Tail int64
	// Since leaves out what is older; files that were last written before it are not opened.
	Since time.Time
	// Timestamps puts each line's time before it.
	Timestamps bool
	// LimitBytes ends the output after so many bytes; 0: no limit.
	LimitBytes int64
	Stream     Stream
}

// Output takes the text. Flush is called whenever the reader has caught up.
type Output interface {
	io.Writer
	Flush()
}

const (
	// drainQuiet: after a container exited, its last lines may still be on their way from the pipe to the file. The end
	// has come when nothing was written for this long.
	drainQuiet = 50 * time.Millisecond
	// safetyLook looks again in case an inotify event was lost (queue overflow, or a filesystem without them).
	safetyLook = 30 * time.Second
	readBuffer = 32 << 10
)

// Read writes the log at path to out. With Follow it goes on, across rotations, until exited is closed and all was read,
// or ctx ends; a log that does not exist yet is waited for. Without Follow a log that does not exist is an error.
func Read(ctx context.Context, path string, o Options, exited <-chan struct{}, out Output) error {
	r := &reader{path: path, o: o, out: out, left: o.LimitBytes}
	if o.LimitBytes <= 0 {
		r.left = -1
	}
	var w *watcher
	if o.Follow {
		var err error
		if w, err = newWatcher(path); err != nil {
			return fmt.Errorf("follow log %q: %w", path, err)
		}
		defer w.close()
	}
	defer r.close()
	if err := r.begin(); err != nil && !(o.Follow && errors.Is(err, fs.ErrNotExist)) {
		return fmt.Errorf("open log %q: %w", path, err)
	}
	ended := false
	for {
		wrote, err := r.drain()
		if errors.Is(err, errLimit) {
			out.Flush()
			return nil
		}
		if err != nil {
			return fmt.Errorf("read log %q: %w", path, err)
		}
		out.Flush()
		if !o.Follow {
			return nil
		}
		if ended {
			// Once gone, a container's log ends with the first silence.
			if !wrote {
				return nil
			}
			if !pause(ctx, drainQuiet) {
				return nil
			}
			continue
		}
		timer := time.NewTimer(safetyLook)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-exited:
			ended = true
			timer.Stop()
			if !pause(ctx, drainQuiet) {
				return nil
			}
		case <-w.events:
			timer.Stop()
		case <-timer.C:
		}
	}
}

func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

var errLimit = errors.New("limit reached")

// reader walks through the files of one log, oldest first.
type reader struct {
	path string
	o    Options
	out  Output
	left int64 // bytes still to write, -1 for no limit

	queue []segment // files still to read before the current one is looked at
	f     *os.File  // the file being read, nil before the first
	src   io.Reader
	br    *bufio.Reader
	id    fileID
	gz    bool
	part  []byte // an unfinished record at the end of what was read
	last  time.Time
	// midLine says of a stream that its last record was partial: the next one is no new line.
	midLine map[Stream]bool
}

// begin chooses the file and place to start from.
func (r *reader) begin() error {
	r.midLine = map[Stream]bool{}
	segs, err := segments(r.path)
	if err != nil {
		return err
	}
	switch {
	case r.o.Tail >= 0:
		return r.beginTail(segs)
	case !r.o.Since.IsZero():
		for _, s := range segs {
			// A file that was last written before the time has nothing to show.
			if s.current || !s.modified.Before(r.o.Since) {
				r.queue = append(r.queue, s)
			}
		}
	default:
		r.queue = segs
	}
	if len(segs) == 0 && !r.o.Follow {
		return fs.ErrNotExist
	}
	return nil
}

// beginTail goes back from the newest file until enough lines were found.
func (r *reader) beginTail(segs []segment) error {
	need := r.o.Tail
	for i := len(segs) - 1; i >= 0; i-- {
		off, found, err := tailOffset(segs[i], need, r.o)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		segs[i].offset = off
		need -= found
		if need <= 0 || i == 0 {
			r.queue = segs[i:]
			return nil
		}
	}
	return nil
}

// drain reads everything that there is now. wrote says whether anything was new.
func (r *reader) drain() (wrote bool, err error) {
	for {
		if r.f == nil {
			ok, err := r.next()
			if err != nil || !ok {
				return wrote, err
			}
		}
		n, err := r.records()
		wrote = wrote || n
		if err != nil {
			return wrote, err
		}
		if len(r.queue) == 0 && !r.gz {
			replaced, err := r.replaced()
			if err != nil || !replaced {
				return wrote, err
			}
			// The writer opens the new file only after its last write to the old one: once more, then on.
			n, err := r.records()
			wrote = wrote || n
			if err != nil {
				return wrote, err
			}
			if r.queue, err = r.newer(); err != nil {
				return wrote, err
			}
		}
		if err := r.finish(); err != nil {
			return wrote, err
		}
	}
}

// next opens the next file; ok is false when there is none (yet).
func (r *reader) next() (ok bool, err error) {
	if len(r.queue) == 0 {
		if r.id != (fileID{}) {
			return false, nil
		}
		segs, err := segments(r.path)
		if err != nil || len(segs) == 0 {
			return false, err
		}
		r.queue = segs // the log was made after following began: all of it is new
	}
	s := r.queue[0]
	r.queue = r.queue[1:]
	f, src, err := s.open()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	var id fileID
	if err == nil {
		if id, err = idOf(f); err != nil {
			f.Close()
			return false, err
		}
	}
	if id != s.id {
		// Rotation renamed it since it was listed: it has another name now, and the files after it others too.
		if f != nil {
			f.Close()
		}
		if r.queue, err = r.again(s); err != nil || len(r.queue) == 0 {
			return false, err
		}
		return r.next()
	}
	r.f, r.src, r.gz, r.id = f, src, s.gz, id
	r.br = bufio.NewReaderSize(r.src, readBuffer)
	return true, nil
}

// again lists the files from a segment on that is not where it was listed.
func (r *reader) again(lost segment) ([]segment, error) {
	segs, err := segments(r.path)
	if err != nil {
		return nil, err
	}
	for i, s := range segs {
		if s.id == lost.id {
			segs[i].offset = lost.offset
			return segs[i:], nil
		}
	}
	return r.newer()
}

// records writes every whole record up to the present end of the file.
func (r *reader) records() (wrote bool, err error) {
	for {
		raw, err := r.br.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			r.part = append(r.part, raw...)
			continue
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			// The writer is in the middle of a record: keep what came.
			r.part = append(r.part, raw...)
			return wrote, nil
		}
		if err != nil {
			return wrote, err
		}
		if len(r.part) > 0 {
			raw = append(r.part, raw...)
			r.part = r.part[:0]
		}
		wrote = true
		if err := r.emit(raw); err != nil {
			return wrote, err
		}
	}
}

// finish leaves the file. A record that its writer never finished is shown as far as it goes.
func (r *reader) finish() error {
	var err error
	if len(r.part) > 0 {
		err = r.emit(r.part)
		r.part = r.part[:0]
	}
	r.closeFile()
	return err
}

func (r *reader) emit(raw []byte) error {
	l, err := parseLine(raw)
	if err != nil {
		return nil // a torn or foreign line is left out, as kubelet does
	}
	if r.o.Stream != All && l.stream != r.o.Stream {
		return nil
	}
	if !r.o.Since.IsZero() {
		if t := l.time(); t.Before(r.o.Since) {
			return nil
		}
	}
	if r.o.Timestamps && !r.midLine[l.stream] {
		if err := r.write(l.stamp); err != nil {
			return err
		}
		if err := r.write([]byte(" ")); err != nil {
			return err
		}
	}
	r.midLine[l.stream] = l.partial
	r.last = l.time()
	if err := r.write(l.msg); err != nil {
		return err
	}
	if l.partial {
		return nil
	}
	return r.write([]byte("\n"))
}

func (r *reader) write(p []byte) error {
	if r.left >= 0 && int64(len(p)) >= r.left {
		if _, err := r.out.Write(p[:r.left]); err != nil {
			return err
		}
		r.left = 0
		return errLimit
	}
	n, err := r.out.Write(p)
	if r.left >= 0 {
		r.left -= int64(n)
	}
	return err
}

// replaced says whether the log's name leads to another file than the one being read.
func (r *reader) replaced() (bool, error) {
	fi, err := os.Stat(r.path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil // renamed, and not made anew yet
	}
	if err != nil {
		return false, err
	}
	return idOfInfo(fi) != r.id, nil
}

// newer are the files after the one that was read last: found by its identity; should rotation have compressed it since,
// by time.
func (r *reader) newer() ([]segment, error) {
	segs, err := segments(r.path)
	if err != nil {
		return nil, err
	}
	for i, s := range segs {
		if s.id == r.id {
			return segs[i+1:], nil
		}
	}
	for i, s := range segs {
		if t, err := s.firstTime(); s.current || err == nil && t.After(r.last) {
			return segs[i:], nil
		}
	}
	return nil, nil
}

func (r *reader) closeFile() {
	if r.f != nil {
		r.f.Close()
		r.f, r.src, r.br = nil, nil, nil
	}
}

func (r *reader) close() { r.closeFile() }
