package native

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"
	"time"
)

// A pod's containers share one shim. It comes with the first task and leaves with the last, and a task made while it is
// leaving would be lost with it. Once pause runs there always is a task; until then the making and the deleting of tasks
// exclude each other, within the pod.

// holdShim returns when, before pause runs, no other task of the pod is being made or deleted.
func (r *Runtime) holdShim(ctx context.Context, id string) (release func(), err error) {
	r.store.mu.RLock()
	s := r.store.sandboxes[id]
	if c := r.store.containers[id]; c != nil {
		s = r.store.sandboxes[c.rec.SandboxID]
	}
	pending := s != nil && s.rec.Pinned && s.pid == 0
	r.store.mu.RUnlock()
	if !pending {
		return func() {}, nil
	}
	return r.lock(ctx, s.shim, "the shim of sandbox "+s.id)
}

// gate paces the start of tasks. A node's cores are busy with a few of them: each is a handful of programs and many
// mounts and cgroups, under locks of the kernel. A hundred at once would each take as long as all together; one after
// the other the first ones run at once, and all are done no later. Containers go before new pause containers, and within
// each kind the earliest goes first, so that pods are finished rather than begun.
//
// It only paces: who stays inside for longer than hold, because a shim hangs, no longer counts, so that others are
// delayed, never blocked.
type gate struct {
	hold time.Duration

	mu      sync.Mutex
	free    int
	waiting [2][]chan struct{} // by kind, earliest first
}

type gateKind int

const (
	gateContainer gateKind = iota
	gateSandbox
)

// gateHold is many times what a task takes to start on a busy node.
const gateHold = 2 * time.Second

// gateSlots keeps every core busy while some tasks wait for the kernel.
func gateSlots() int { return max(3, 2*runtime.NumCPU()) }

func newGate(slots int, hold time.Duration) *gate { return &gate{free: slots, hold: hold} }

// enter waits for a place, or until ctx ends.
func (g *gate) enter(ctx context.Context, kind gateKind) (leave func(), err error) {
	g.mu.Lock()
	if g.free > 0 {
		g.free--
		g.mu.Unlock()
	} else {
		ch := make(chan struct{})
		g.waiting[kind] = append(g.waiting[kind], ch)
		g.mu.Unlock()
		select {
		case <-ch:
		case <-ctx.Done():
			if !g.withdraw(kind, ch) {
				g.next() // the place came in the same moment
			}
			return nil, fmt.Errorf("wait for other tasks to start: %w", ctx.Err())
		}
	}
	once := sync.OnceFunc(g.next)
	t := time.AfterFunc(g.hold, once)
	return func() { t.Stop(); once() }, nil
}

// withdraw leaves the queue; false when ch has been given a place already.
func (g *gate) withdraw(kind gateKind, ch chan struct{}) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	i := slices.Index(g.waiting[kind], ch)
	if i >= 0 {
		g.waiting[kind] = slices.Delete(g.waiting[kind], i, i+1)
	}
	return i >= 0
}

// next gives a place to whoever waits.
func (g *gate) next() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for kind, list := range g.waiting {
		if len(list) > 0 {
			g.waiting[kind] = list[1:]
			close(list[0])
			return
		}
	}
	g.free++
}
