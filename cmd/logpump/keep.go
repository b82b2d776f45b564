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
	return k.send(req, files)
}

// only makes the keeper let go of what ids does not name. ids is called when nothing else is being asked: whatever is
// added or removed after that tells the keeper after this.
func (k *keep) only(ids func() []string) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.send(keepRequest{Op: "only", IDs: ids()}, nil)
}

// send wants the lock held.
func (k *keep) send(req keepRequest, files []*os.File) error {
	if k.conn == nil {
		return errNoKeeper
	}
	b, err := json.Marshal(req)
	if err != nil {
		return err
	}
	if err := withDescriptors(files, func(fds []int) error { return k.write(b, fds) }); err != nil {
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

func (k *keep) write(b []byte, fds []int) error {
	var oob []byte
	if len(fds) > 0 {
		oob = syscall.UnixRights(fds...)
	}
	k.conn.SetWriteDeadline(time.Now().Add(keepTimeout))
	_, _, err := k.conn.WriteMsgUnix(b, oob, nil)
	if err != nil {
		k.conn.Close()
	}
	return err
}

// withDescriptors calls do with the files' descriptors, none of which can be closed, and its number given to another
// file, before do returns. One that is closed already is os.ErrClosed.
func withDescriptors(files []*os.File, do func(fds []int) error) error {
	var fds []int
	var next func() error
	next = func() error {
		if len(fds) == len(files) {
			return do(fds)
		}
		raw, err := files[len(fds)].SyscallConn()
		if err != nil {
			return err
		}
		var deeper error
		if err := raw.Control(func(fd uintptr) {
			fds = append(fds, int(fd))
			deeper = next()
		}); err != nil { // package os does not say ErrClosed here
			return fmt.Errorf("%w: %w", os.ErrClosed, err)
		}
		return deeper
	}
	return next()
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
	for _, c := range list {
		if err := p.keep.hold(c); err != nil && !errors.Is(err, os.ErrClosed) {
			return err
		}
	}
	return p.keep.only(p.ids)
}

// ids are the containers that are known.
func (p *pump) ids() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	ids := make([]string, 0, len(p.containers))
	for id := range p.containers {
		ids = append(ids, id)
	}
	return ids
}
