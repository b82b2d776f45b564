package main

import (
	"bytes"
	"time"
)

// maxLine is the longest message of one record, 16 KiB as containerd's CRI and Docker have it; longer lines become
// several records with the tag P and a last one with F.
const maxLine = 16 << 10

// records turns raw output into log records "<RFC3339Nano> <stream> <P|F> <message>\n" (CRI log format) appended to
// dst, and returns how many bytes of data they cover. Without eof it stops before an unfinished line shorter than
// maxLine; with eof the rest becomes a P record, as containerd's CRI has it: its line never ended, and readers add no
// newline.
func records(dst []byte, data []byte, stream string, now time.Time, eof bool) (out []byte, used int) {
	var head [64]byte
	prefix := now.UTC().AppendFormat(head[:0], time.RFC3339Nano)
	prefix = append(prefix, ' ')
	prefix = append(prefix, stream...)
	for used < len(data) {
		rest := data[used:]
		window := rest[:min(len(rest), maxLine+1)]
		tag, msg, n := " F ", []byte(nil), 0
		if i := bytes.IndexByte(window, '\n'); i >= 0 {
			msg, n = window[:i], i+1
		} else if len(rest) > maxLine {
			tag, msg, n = " P ", rest[:maxLine], maxLine
		} else if eof {
			tag, msg, n = " P ", rest, len(rest)
		} else {
			break
		}
		dst = append(dst, prefix...)
		dst = append(dst, tag...)
		dst = append(dst, msg...)
		dst = append(dst, '\n')
		used += n
	}
	return dst, used
}
