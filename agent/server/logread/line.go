package logread

import (
	"bytes"
	"errors"
	"time"
)

// Stream selects what of a container's output is wanted.
type Stream string

const (
	All    Stream = ""
	Stdout Stream = "stdout"
	Stderr Stream = "stderr"
)

// line is one record of a log file: "<RFC3339Nano> <stream> <tag>[:…] <msg>\n" (CRI log format).
type line struct {
	stamp   []byte // the time as it stands in the file
	stream  Stream
	partial bool   // tag P: the message goes on in the next record
	msg     []byte // without the newline
}

var errMalformed = errors.New("not a record of a CRI log")

// parseLine reads one record, with or without its newline. What it answers shares raw's memory.
func parseLine(raw []byte) (line, error) {
	raw = bytes.TrimSuffix(raw, []byte("\n"))
	stamp, rest, ok := bytes.Cut(raw, []byte(" "))
	if !ok || len(stamp) < len("2006-01-02T15:04:05Z") {
		return line{}, errMalformed
	}
	stream, rest, ok := bytes.Cut(rest, []byte(" "))
	if !ok {
		return line{}, errMalformed
	}
	l := line{stamp: stamp, stream: Stream(stream)}
	if l.stream != Stdout && l.stream != Stderr {
		return line{}, errMalformed
	}
	tag, msg, _ := bytes.Cut(rest, []byte(" "))
	tag, _, _ = bytes.Cut(tag, []byte(":")) // more tags may follow; only the first is defined
	switch string(tag) {
	case "P":
		l.partial = true
	case "F":
	default:
		return line{}, errMalformed
	}
	l.msg = msg
	return l, nil
}

// time parses the record's time; the zero time when it is none.
func (l line) time() time.Time {
	t, err := time.Parse(time.RFC3339Nano, string(l.stamp))
	if err != nil {
		return time.Time{}
	}
	return t
}
