package main

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

var testTime = time.Date(2026, 1, 2, 3, 4, 5, 60, time.FixedZone("x", 3600))

func TestRecords(t *testing.T) {
	long := strings.Repeat("x", maxLine)
	const head = "2026-01-02T02:04:05.00000006Z stdout "
	for name, tc := range map[string]struct {
		in   string
		eof  bool
		want string
		left string
	}{
		"one line":                   {in: "a\n", want: head + "F a\n"},
		"unfinished line stays":      {in: "a\nbc", want: head + "F a\n", left: "bc"},
		"unfinished line at the end": {in: "bc", eof: true, want: head + "P bc\n"},
		"empty line":                 {in: "\n\n", want: head + "F \n" + head + "F \n"},
		"exactly the longest":        {in: long + "\n", want: head + "F " + long + "\n"},
		"longest waits for more":     {in: long, left: long},
		"longer is split":            {in: long + "y\n", want: head + "P " + long + "\n" + head + "F y\n"},
		"much longer":                {in: long + long + "y", want: head + "P " + long + "\n" + head + "P " + long + "\n", left: "y"},
		"carriage returns are kept":  {in: "a\r\n", want: head + "F a\r\n"},
		"nothing":                    {},
	} {
		out, used := records(nil, []byte(tc.in), "stdout", testTime, tc.eof)
		if string(out) != tc.want || tc.in[used:] != tc.left {
			t.Errorf("%s: got %q with %q left, want %q with %q left", name, out, tc.in[used:], tc.want, tc.left)
		}
	}
}

func FuzzRecordsKeepEveryByte(f *testing.F) {
	f.Add([]byte("a\nb"), true)
	f.Add([]byte(strings.Repeat("z", maxLine+2)+"\n"), false)
	f.Fuzz(func(t *testing.T, in []byte, eof bool) {
		out, used := records(nil, in, "stderr", testTime, eof)
		if eof && used != len(in) {
			t.Fatalf("left %d bytes at the end", len(in)-used)
		}
		var back []byte
		for _, line := range bytes.SplitAfter(out, []byte("\n")) {
			if len(line) == 0 {
				continue
			}
			_, rest, ok := bytes.Cut(line, []byte(" stderr "))
			if !ok || len(rest) < 3 || len(rest) > maxLine+3 {
				t.Fatalf("bad record %q", line)
			}
			msg := rest[2:]
			if rest[0] == 'P' {
				msg = msg[:len(msg)-1]
			}
			back = append(back, msg...)
		}
		if !bytes.HasSuffix(in[:used], []byte("\n")) && used > 0 && eof {
			back = bytes.TrimSuffix(back, []byte("\n"))
		}
		if !bytes.Equal(back, in[:used]) {
			t.Fatalf("records of %q give back %q", in[:used], back)
		}
	})
}
