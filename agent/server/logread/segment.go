package logread

import (
	"bufio"
	"compress/gzip"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// segment is one file of a log: the current one, or one that rotation renamed to "<name>.<time>" and perhaps compressed
// to "<name>.<time>.gz". Their names sort by age.
type segment struct {
	path     string
	current  bool
	gz       bool
	modified time.Time
	id       fileID
	offset   int64 // where to begin, in bytes of text
}

// fileID tells files apart across renames.
type fileID struct{ dev, ino uint64 }

func idOfInfo(fi fs.FileInfo) fileID {
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return fileID{}
	}
	return fileID{uint64(st.Dev), st.Ino}
}

func idOf(f *os.File) (fileID, error) {
	fi, err := f.Stat()
	if err != nil {
		return fileID{}, err
	}
	return idOfInfo(fi), nil
}

// segments lists a log's files, oldest first, the current one (if it exists) last. A log without a folder has none.
func segments(path string) ([]segment, error) {
	dir, name := filepath.Split(path)
	ents, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []segment
	for _, e := range ents {
		n := e.Name()
		if n != name && !strings.HasPrefix(n, name+".") || strings.HasSuffix(n, ".tmp") {
			continue
		}
		fi, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		out = append(out, segment{path: filepath.Join(dir, n), current: n == name, gz: strings.HasSuffix(n, ".gz"), modified: fi.ModTime(), id: idOfInfo(fi)})
	}
	slices.SortFunc(out, func(a, b segment) int {
		switch {
		case a.current:
			return 1
		case b.current:
			return -1
		}
		return strings.Compare(strings.TrimSuffix(a.path, ".gz"), strings.TrimSuffix(b.path, ".gz"))
	})
	// A file and its compressed copy stand side by side for a moment: one of them is enough.
	out = slices.CompactFunc(out, func(a, b segment) bool {
		return strings.TrimSuffix(a.path, ".gz") == strings.TrimSuffix(b.path, ".gz") && a.gz != b.gz
	})
	return out, nil
}

// open opens the text at offset. The file under src is the one to close.
func (s segment) open() (*os.File, io.Reader, error) {
	f, err := os.Open(s.path)
	if err != nil {
		return nil, nil, err
	}
	if !s.gz {
		if _, err := f.Seek(s.offset, io.SeekStart); err != nil {
			f.Close()
			return nil, nil, err
		}
		return f, f, nil
	}
	z, err := gzip.NewReader(f)
	if err == nil && s.offset > 0 {
		_, err = io.CopyN(io.Discard, z, s.offset)
	}
	if err != nil {
		f.Close()
		return nil, nil, err
	}
	return f, z, nil
}

// firstTime is the time of the first record.
func (s segment) firstTime() (time.Time, error) {
	s.offset = 0
	f, src, err := s.open()
	if err != nil {
		return time.Time{}, err
	}
	defer f.Close()
	raw, err := bufio.NewReaderSize(src, 256).ReadSlice('\n')
	if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
		return time.Time{}, err
	}
	l, err := parseLine(raw)
	if err != nil {
		return time.Time{}, err
	}
	return l.time(), nil
}
