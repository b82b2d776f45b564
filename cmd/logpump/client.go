package main

import (
	"encoding/binary"
	"net"
	"sync"

	"github.com/reevehq/reeve/internal/logpump"
)

// clientBacklog is how much output one attached client may be behind before it loses some.
const clientBacklog = 1 << 20

// client is one attachment. offer never blocks; run writes to the connection.
type client struct {
	want [2]bool

	mu     sync.Mutex
	cond   *sync.Cond
	buf    []byte
	closed bool
}

func newClient(stdout, stderr bool) *client {
	cl := &client{want: [2]bool{stdout, stderr}}
	cl.cond = sync.NewCond(&cl.mu)
	return cl
}

// offer queues data for the client, or drops it when the client is too far behind.
func (cl *client) offer(stream int, data []byte) {
	if !cl.want[stream] {
		return
	}
	cl.mu.Lock()
	defer cl.mu.Unlock()
	if cl.closed || len(cl.buf)+len(data)+logpump.FrameHeader > clientBacklog {
		return
	}
	var head [logpump.FrameHeader]byte
	head[0] = byte(stream + logpump.FrameStdout)
	binary.BigEndian.PutUint32(head[1:], uint32(len(data)))
	cl.buf = append(append(cl.buf, head[:]...), data...)
	cl.cond.Signal()
}

// end lets run finish once the queue is empty.
func (cl *client) end() {
	cl.mu.Lock()
	defer cl.mu.Unlock()
	cl.closed = true
	cl.cond.Signal()
}

// run writes the queue to conn until end, or until the client goes away.
func (cl *client) run(conn net.Conn) {
	gone := make(chan struct{})
	go func() { // notices a client that leaves while nothing is written
		defer close(gone)
		var b [1]byte
		conn.Read(b[:])
		cl.end()
	}()
	var out []byte
	for {
		cl.mu.Lock()
		for len(cl.buf) == 0 && !cl.closed {
			cl.cond.Wait()
		}
		if len(cl.buf) == 0 {
			cl.mu.Unlock()
			break
		}
		out, cl.buf = cl.buf, out[:0]
		cl.mu.Unlock()
		if _, err := conn.Write(out); err != nil {
			break
		}
	}
	conn.Close()
	<-gone
}
