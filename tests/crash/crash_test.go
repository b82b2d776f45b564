package crash

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/reevehq/reeve/internal/testenv"
)

// life is one pod's, operation by operation.
type life struct {
	w    *world
	name string
	sb   string
	c    string
}

var operations = []struct {
	name string
	do   func(ctx context.Context, l *life) error
}{
	{"RunPodSandbox", func(ctx context.Context, l *life) (err error) {
		l.sb, err = l.w.RunPodSandbox(ctx, l.w.sandboxConfig(l.name), l.w.handler())
		return err
	}},
	{"CreateContainer", func(ctx context.Context, l *life) (err error) {
		l.c, err = l.w.CreateContainer(ctx, l.sb, l.w.containerConfig("c", "sleep", "1000"), l.w.sandboxConfig(l.name))
		return err
	}},
	{"StartContainer", func(ctx context.Context, l *life) error { return l.w.StartContainer(ctx, l.c) }},
	{"StopContainer", func(ctx context.Context, l *life) error { return l.w.StopContainer(ctx, l.c, 0) }},
	{"RemoveContainer", func(ctx context.Context, l *life) error { return l.w.RemoveContainer(ctx, l.c) }},
	{"StopPodSandbox", func(ctx context.Context, l *life) error { return l.w.StopPodSandbox(ctx, l.sb) }},
	{"RemovePodSandbox", func(ctx context.Context, l *life) error { return l.w.RemovePodSandbox(ctx, l.sb) }},
}

// point is a moment in a pod's life.
type point struct {
	op     int    // the operation under way
	call   string // "Tasks/Create" at the proxy, or
	script string // "ptp-ADD-begin" in a program
	nth    int
	after  bool
}

func (p point) String() string {
	if p.script != "" {
		return operations[p.op].name + ": " + p.script
	}
	when := "before"
	if p.after {
		when = "after"
	}
	return fmt.Sprintf("%s: %s %s #%d", operations[p.op].name, when, p.call, p.nth)
}

// points lists every moment, found by living one life: before and after each call, and those in the programs.
func (w *world) points() []point {
	w.t.Helper()
	l := &life{w: w, name: "dry"}
	var out []point
	for i, op := range operations {
		w.reset()
		w.passed()
		if err := op.do(w.t.Context(), l); err != nil {
			w.t.Fatalf("%s: %v\n%s", op.name, err, w.tail())
		}
		if op.name == "StopContainer" { // what follows an exit is part of it
			w.eventually("the task is gone", func() error {
				inv, err := w.look()
				if err == nil && slices.Contains(inv["tasks"], l.c) {
					err = errors.New("the container's task is still there")
				}
				return err
			})
		}
		count := map[string]int{}
		for _, call := range w.reset() {
			count[call]++
			out = append(out, point{op: i, call: call, nth: count[call]}, point{op: i, call: call, nth: count[call], after: true})
		}
		for _, script := range w.passed() {
			if count[script]++; count[script] == 1 {
				out = append(out, point{op: i, script: script})
			}
		}
	}
	return out
}

// held is a life that stands at its point.
type held struct {
	point
	*life
	trap *trap
	done chan error
}

// holdAt lives a pod up to the point, where it stands. It answers nil when the life went past without meeting it.
func (w *world) holdAt(p point, name string) *held {
	w.t.Helper()
	h := &held{point: p, life: &life{w: w, name: name}, done: make(chan error, 1)}
	for _, op := range operations[:p.op] {
		if err := op.do(w.t.Context(), h.life); err != nil {
			w.t.Fatalf("%s: %s: %v\n%s", p, op.name, err, w.tail())
		}
	}
	hit := make(chan struct{})
	if p.script != "" {
		w.arm(p.script, "block")
	} else {
		h.trap = w.set(p.call, p.nth, p.after)
		hit = h.trap.hit
	}
	go func() { h.done <- operations[p.op].do(context.Background(), h.life) }()
	var ended <-chan error = h.done
	wait := patience
	for began := time.Now(); time.Since(began) < wait; {
		select {
		case <-hit:
			return h
		case err := <-ended: // what follows in the background may still meet it
			ended, wait = nil, afterLife
			h.done <- err
			if err != nil {
				w.t.Fatalf("%s: %v\n%s", p, err, w.tail())
			}
		case <-time.After(5 * time.Millisecond):
			if p.script != "" && w.hit(p.script) {
				return h
			}
		}
	}
	// What is done beside the caller need not be done in the same operation every time.
	w.t.Logf("%s: this life did not pass it", p)
	w.clear()
	if p.script != "" {
		w.disarm(p.script)
	}
	return nil
}

// afterLife is how long something that follows a call in the background may take to be met.
const afterLife = 5 * time.Second

// let frees what still stands at the point.
func (h *held) let() {
	if h.trap != nil {
		close(h.trap.release)
	} else {
		h.w.free(h.script)
	}
}

// converges: the name can be had again, everything can be removed, and then nothing is left.
func (w *world) converges(before inventory, lives []*held) {
	w.t.Helper()
	ctx := w.t.Context()
	w.together(lives, func(h *held) error {
		list, err := w.ListPodSandbox(ctx, nil)
		if err != nil {
			return err
		}
		for _, s := range list {
			if s.Metadata.Name == h.name && s.State == runtimeapi.PodSandboxState_SANDBOX_READY {
				return nil // finished, or only begun to be removed
			}
		}
		// As an agent would: dead sandboxes of the pod go, with everything in them, then the next attempt starts.
		for _, s := range list {
			if s.Metadata.Name == h.name {
				if err := w.RemovePodSandbox(ctx, s.Id); err != nil {
					return err
				}
			}
		}
		_, err = w.RunPodSandbox(ctx, w.sandboxConfig(h.name), w.handler())
		return err
	})
	w.eventually("every pod can be removed", w.removeAll)
	if cs, err := w.ListContainers(ctx, nil); err != nil || len(cs) != 0 {
		w.t.Errorf("containers are left: %v, %v", cs, err)
	}
	w.leftNothing(before)
}

// together does f for each life, a few at a time, until it succeeds.
func (w *world) together(lives []*held, f func(*held) error) {
	w.t.Helper()
	var wg sync.WaitGroup
	slots := make(chan struct{}, 6)
	for _, h := range lives {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			for end := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
				err := f(h)
				if err == nil {
					return
				}
				if time.Now().After(end) {
					w.t.Errorf("%s: the pod cannot be made again: %v", h, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// victims are who is killed at the point. Programs that stand at one go on once somebody was killed, as orphans do: after
// the runtime's death only when the next one serves, which makes them later than its recovery.
var victims = map[string]func(w *world, let func()){
	"runtime": func(w *world, let func()) {
		w.killRuntime()
		w.launch()
		time.Sleep(orphanDelay)
		let()
	},
	"containerd": func(w *world, let func()) {
		w.killContainerd(let)
	},
	"both": func(w *world, let func()) {
		w.killRuntime()
		w.killContainerd(let)
		w.launch()
	},
}

// orphanDelay lets containerd give up on a shim before what the shim waits for goes on.
const orphanDelay = 3 * time.Second

// modes are the two kinds of sandbox: with a pause container that the pod needs from the start, because its containers
// share a PID namespace, and with one that follows later.
var modes = map[string]runtimeapi.NamespaceMode{"pid-pod": runtimeapi.NamespaceMode_POD, "pid-container": runtimeapi.NamespaceMode_CONTAINER}

// TestKilledAtEveryStep: kill -9 of the runtime, of containerd and of both, with a pod standing before and after each
// call to containerd and inside each program that a pod's life runs. The short form has pods at a quarter of the points
// at once; the long one takes each point alone.
func TestKilledAtEveryStep(t *testing.T) {
	for mode, pid := range modes {
		for victim, kill := range victims {
			if !testenv.Long() && mode+"/"+victim != "pid-pod/runtime" && mode+"/"+victim != "pid-container/both" {
				continue
			}
			t.Run(mode+"/"+victim, func(t *testing.T) {
				w := newWorld(t)
				w.pid = pid
				w.points() // whatever is made once is made
				before := w.mustLook()
				points := w.points()
				w.leftNothing(before)
				t.Logf("%d points; before: %s", len(points), before)
				if only := os.Getenv("REEVE_CRASH_POINTS"); only != "" { // a regular expression, to look into some
					points = slices.DeleteFunc(points, func(p point) bool { return !regexp.MustCompile(only).MatchString(p.String()) })
					w.killAt(before, points, kill)
					return
				}
				if !testenv.Long() { // each combination another quarter of them
					first := map[string]int{"runtime": 0, "both": 1}[victim]
					var some []point
					for i := first; i < len(points); i += 4 {
						some = append(some, points[i])
					}
					w.killAt(before, some, kill)
					return
				}
				for _, p := range points {
					t.Run(strings.ReplaceAll(p.String(), " ", "_"), func(t *testing.T) {
						w.t, w.scripts.t = t, t
						w.killAt(before, []point{p}, kill)
					})
				}
				w.t, w.scripts.t = t, t
			})
		}
	}
}

func (w *world) killAt(before inventory, points []point, kill func(*world, func())) {
	w.t.Helper()
	var lives []*held
	for i, p := range points {
		if h := w.holdAt(p, fmt.Sprintf("p%d", i)); h != nil {
			lives = append(lives, h)
		}
	}
	kill(w, func() {
		for _, h := range lives {
			h.let()
		}
	})
	for _, h := range lives {
		select {
		case err := <-h.done:
			if err != nil && !strings.Contains(err.Error(), "error reading from server") {
				w.t.Logf("%s: %v", h, err)
			}
		case <-time.After(patience):
			w.t.Errorf("%s: the call has not ended", h)
		}
	}
	w.converges(before, lives)
}

// TestFailuresAreUndone: each program fails where it can (each second time, all with REEVE_LONG=1); the call fails, and
// nothing is left of it but what the caller can remove.
func TestFailuresAreUndone(t *testing.T) {
	w := newWorld(t)
	w.pid = runtimeapi.NamespaceMode_POD
	points := w.points()
	before := w.mustLook()
	for i, p := range points {
		if p.script != "" && (testenv.Long() || i%2 == 0) {
			w.failAt(before, p)
		}
	}
	for i, p := range w.shimPoints() {
		if testenv.Long() || i%2 == 1 { // where the shim has been started, and its program fails nevertheless
			w.failAt(before, p)
		}
	}
}

// failAt lives a pod up to a point in a program, which fails there.
func (w *world) failAt(before inventory, p point) {
	w.t.Helper()
	ctx := w.t.Context()
	l := &life{w: w, name: "fails"}
	for _, op := range operations[:p.op] {
		if err := op.do(ctx, l); err != nil {
			w.t.Fatalf("%s: %s: %v", p, op.name, err)
		}
	}
	w.arm(p.script, "fail") // not before: an earlier operation passes the same point
	failed := operations[p.op].do(ctx, l)
	w.eventually(p.String()+" is passed", func() error {
		if !w.hit(p.script) {
			return errors.New("not yet")
		}
		return nil
	})
	w.t.Logf("%s: %v", p, failed)
	if failed != nil && status.Code(failed) == codes.OK {
		w.t.Errorf("%s: an error without a code: %v", p, failed)
	}
	if failed == nil && p.op < 3 {
		w.t.Errorf("%s: the call succeeded", p)
	}
	w.eventually(p.String()+": everything can be removed", w.removeAll)
	w.leftNothing(before)
}
