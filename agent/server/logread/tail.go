package logread

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"os"
)

// tailBlock is how much is read at a time on the way back from a file's end.
const tailBlock = 64 << 10

// tailOffset finds where the last n lines of a segment begin, and how many of them it has (n at most). A line is a full
// record with the partial ones before it, or what the file ends with; records of an unwanted stream do not count.
func tailOffset(s segment, n int64, o Options) (offset, found int64, err error) {
	if s.gz {
		return tailOffsetForward(s, n, o)
	}
	f, err := os.Open(s.path)
	if err != nil {
		return 0, 0, err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, 0, err
	}
	if n == 0 {
		return size, 0, nil
	}
	// Records are looked at from the last to the first. The n+1st full one ends what is not wanted.
	end := size      // of what was not yet looked at
	var later []byte // the text between end and the record boundary after it
	offset = size
	last := true // no wanted record was looked at yet
	for end > 0 {
		start := max(end-tailBlock, 0)
		buf := make([]byte, end-start, end-start+int64(len(later)))
		if _, err := f.ReadAt(buf, start); err != nil && !errors.Is(err, io.EOF) {
			return 0, 0, err
		}
		buf = append(buf, later...)
		// Take records off the end while their beginning lies in buf.
		for {
			body := bytes.TrimSuffix(buf, []byte("\n"))
			if len(body) == 0 {
				break
			}
			i := bytes.LastIndexByte(body, '\n')
			if i < 0 && start > 0 {
				break
			}
			rec := buf[i+1:]
			wanted, full := counts(rec, o)
			if wanted && (full || last) {
				if found == n {
					return offset, found, nil
				}
				found++
			}
			last = last && !wanted
			buf = buf[:i+1]
			offset = start + int64(i+1)
		}
		later = append([]byte(nil), buf...)
		end = start
	}
	return 0, found, nil
}

// counts says whether a record is wanted, and whether it ends its line.
func counts(rec []byte, o Options) (wanted, full bool) {
	l, err := parseLine(rec)
	return err == nil && (o.Stream == All || l.stream == o.Stream), !l.partial
}

// tailOffsetForward is tailOffset for what can be read forwards only: the beginnings of the last n+1 lines go round.
func tailOffsetForward(s segment, n int64, o Options) (offset, found int64, err error) {
	f, src, err := s.open()
	if err != nil {
		return 0, 0, err
	}
	defer f.Close()
	var starts []int64
	br := bufio.NewReaderSize(src, readBuffer)
	pos, begin := int64(0), int64(0)
	for {
		raw, err := br.ReadBytes('\n')
		if len(raw) > 0 {
			pos += int64(len(raw))
			if wanted, full := counts(raw, o); wanted && full {
				starts = append(starts, begin)
				begin = pos
				if int64(len(starts)) > n {
					starts = starts[1:]
				}
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return 0, 0, err
		}
	}
	if len(starts) == 0 {
		return pos, 0, nil
	}
	return starts[0], int64(len(starts)), nil
}
