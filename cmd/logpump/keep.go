package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/reevehq/reeve/internal/logpump"
)

const (
	keepTimeout   = 2 * time.Second        // for an answer of the keeper, which does no more than close descriptors
	keepDialEvery = 5 * time.Millisecond   // while it starts
	keepRetryMin  = 5 * time.Millisecond   // after a keeper that could not be had: most likely one that is dying
	keepRetryMax  = 500 * time.Millisecond //
)

var errNoKeeper = errors.New("no keeper")

// keep is the pump's side of the keeper. Without a keeper the pump works all the same.
type keep struct {
	dir  string
	lost func() // called from a goroutine when the keeper has died

	mu   sync.Mutex // one request at a time
	conn *net.UnixConn
	pid  int
	resp chan keepResponse
	left bool
}

// connect reaches the keeper, starting one if there is none.
func (k *keep) connect() error {
	addr := &net.UnixAddr{Name: logpump.KeeperSocketPath(k.dir), Net: "unixpacket"}
	conn, err := net.DialUnix("unixpacket", nil, addr)
	if err != nil {
		cmd, serr := spawn("--keep", "--dir", k.dir)
		if serr != nil {
			return fmt.Errorf("start the keeper: %w", serr)
		}
		go cmd.Wait()
		for end := time.Now().Add(keepGrace); ; time.Sleep(keepDialEvery) {
			if conn, err = net.DialUnix("unixpacket", nil, addr); err == nil {
				break
			}
			if time.Now().After(end) {
				return fmt.Errorf("reach the keeper: %w", err)
			}
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.left {
		conn.Close()
		return nil
	}
	k.conn, k.resp = conn, make(chan keepResponse, 1)
	go k.read(conn, k.resp)
	return nil
}

// read passes answers on until the keeper dies.
func (k *keep) read(conn *net.UnixConn, answers chan<- keepResponse) {
	buf := make([]byte, 256)
	for {
		n, err := conn.Read(buf)
		var r keepResponse
		if err != nil || n == 0 || json.Unmarshal(buf[:n], &r) != nil {
			break
		}
		select {
		case answers <- r:
		default: // of a request that was given up
		}
	}
	close(answers)
	conn.Close()
	k.mu.Lock()
	mine, left := k.conn == conn, k.left
	if mine {
		k.conn, k.pid = nil, 0
	}
	k.mu.Unlock()
	if mine && !left {
		k.lost()
	}
}

// ask sends one request and waits for its answer.
func (k *keep) ask(req keepRequest, files ...*os.File) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.conn == nil {
		return errNoKeeper
	}
	b, err := json.Marshal(req)
	if err != nil {
		return err
	}
	var fds []int
	for _, f := range files {
		// A duplicate in blocking or not blocking mode: the flag belongs to the open file, which nobody reads through it.
		raw, err := f.SyscallConn()
		if err != nil {
			return err
		}
		if err := raw.Control(func(fd uintptr) { fds = append(fds, int(fd)) }); err != nil {
			return err
		}
	}
	var oob []byte
	if len(fds) > 0 {
		oob = syscall.UnixRights(fds...)
	}
	k.conn.SetWriteDeadline(time.Now().Add(keepTimeout))
	if _, _, err := k.conn.WriteMsgUnix(b, oob, nil); err != nil {
		k.conn.Close()
		return err
	}
	t := time.NewTimer(keepTimeout)
	defer t.Stop()
	select {
	case r, ok := <-k.resp:
		if !ok {
			return errNoKeeper
		}
		k.pid = r.PID
		return nil
	case <-t.C:
		k.conn.Close() // it hangs: another one takes its place as soon as it is gone
		return errors.New("the keeper does not answer")
	}
}

// hold makes the keeper hold a container's output, too.
func (k *keep) hold(c *container) error {
	var files []*os.File
	for _, s := range c.streams {
		files = append(files, s.f)
	}
	return k.ask(keepRequest{Op: "hold", ID: c.id}, files...)
}

func (k *keep) drop(id string) { _ = k.ask(keepRequest{Op: "drop", ID: id}) } // one that is gone holds nothing

// leave ends the keeper.
func (k *keep) leave() {
	k.mu.Lock()
	k.left = true
	k.mu.Unlock()
	_ = k.ask(keepRequest{Op: "leave"})
}

// keeperPID is 0 without one.
func (k *keep) keeperPID() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.pid
}

// rekeep finds or starts a keeper and gives it everything, again and again until that works.
func (p *pump) rekeep() {
	p.keeping.Lock()
	defer p.keeping.Unlock()
	for wait := keepRetryMin; ; wait = min(2*wait, keepRetryMax) {
		if p.keep.keeperPID() != 0 {
			return // the loop before this one has found it
		}
		err := p.tryKeep()
		if err == nil {
			return
		}
		fmt.Fprintln(os.Stderr, "logpump: nobody else holds the containers' output:", err)
		select {
		case <-p.exit:
			return
		case <-time.After(wait):
		}
	}
}

func (p *pump) tryKeep() error {
	if err := p.keep.connect(); err != nil {
		return err
	}
	p.mu.Lock()
	list := make([]*container, 0, len(p.containers))
	for _, c := range p.containers {
		list = append(list, c)
	}
	p.mu.Unlock()
	ids := []string{}
	for _, c := range list {
		if err := p.keep.hold(c); err != nil && !errors.Is(err, os.ErrClosed) {
			return err
		}
		ids = append(ids, c.id)
	}
	// What was added meanwhile was held by its own request, which may have come before: name it, too.
	p.mu.Lock()
	for id := range p.containers {
		ids = append(ids, id)
	}
	p.mu.Unlock()
	return p.keep.ask(keepRequest{Op: "only", IDs: ids})
}
