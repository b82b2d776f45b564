package main

import (
	"encoding/json"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// TestOnlyNamesWhatIsKnownWhenItIsSent: a container that becomes known while another request is under way is not let go
// of by an "only" that waits behind it, and one that is removed in that time is.
func TestOnlyNamesWhatIsKnownWhenItIsSent(t *testing.T) {
	addr := &net.UnixAddr{Name: filepath.Join(t.TempDir(), "keeper"), Net: "unixpacket"}
	l, err := net.ListenUnix("unixpacket", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	requests := make(chan keepRequest, 1)
	go func() {
		conn, err := l.AcceptUnix()
		if err != nil {
			return
		}
		defer conn.Close()
		b := make([]byte, keepPacket)
		n, err := conn.Read(b)
		var req keepRequest
		if err != nil || json.Unmarshal(b[:n], &req) != nil {
			return
		}
		requests <- req
		conn.Write([]byte(`{"pid":1}`))
		conn.Read(b)
	}()
	conn, err := net.DialUnix("unixpacket", nil, addr)
	if err != nil {
		t.Fatal(err)
	}
	p := &pump{containers: map[string]*container{"stays": {}, "goes": {}}}
	p.keep = &keep{lost: func() {}, conn: conn, resp: make(chan keepResponse, 1)}
	go p.keep.read(conn, p.keep.resp)

	p.keep.mu.Lock() // another request is under way
	done := make(chan error, 1)
	go func() { done <- p.keep.only(p.ids) }()
	p.mu.Lock()
	p.containers["comes"] = &container{}
	delete(p.containers, "goes")
	p.mu.Unlock()
	p.keep.mu.Unlock()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	got := (<-requests).IDs
	slices.Sort(got)
	if want := []string{"comes", "stays"}; !slices.Equal(got, want) {
		t.Errorf("the keeper may hold %v, want %v", got, want)
	}
}

// TestDescriptorsAreOfTheirFiles: a file cannot be closed while its descriptor's number is used, and a closed one is told.
func TestDescriptorsAreOfTheirFiles(t *testing.T) {
	var files []*os.File
	for range 3 {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		files = append(files, r)
	}
	raw, err := files[1].SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	closed := make(chan error, 1)
	err = withDescriptors(files, func(fds []int) error {
		go func() { closed <- files[1].Close() }()
		for raw.Control(func(uintptr) {}) == nil {
			time.Sleep(time.Millisecond) // until it is being closed
		}
		other, err := os.Open(os.DevNull) // would get the number
		if err != nil {
			return err
		}
		defer other.Close()
		if slices.Contains(fds, int(other.Fd())) {
			t.Error("another file has the number of one that was handed out")
		}
		return nil
	})
	if err := errors.Join(err, <-closed); err != nil {
		t.Fatal(err)
	}
	if err := withDescriptors(files, func([]int) error { t.Error("called"); return nil }); !errors.Is(err, os.ErrClosed) {
		t.Errorf("with a closed file: %v", err)
	}
}
