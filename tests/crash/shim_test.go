package crash

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/reevehq/reeve/internal/testenv"
)

// shimPoints makes the world's pods use the shim that stops and fails, and lists the moments in its program, of which each
// task's start runs one.
func (w *world) shimPoints() []point {
	w.t.Helper()
	w.shims = true
	points := slices.DeleteFunc(w.points(), func(p point) bool { return !strings.HasPrefix(p.script, "shim-") })
	if len(points) < 4 { // two for pause and two for the container
		w.t.Fatalf("the shim's program has the points %v", points)
	}
	return points
}

// TestKilledWhileAShimStarts: kill -9 of the runtime, of containerd and of both (the short form has that alone) while
// shims' programs stand before and after they have started one.
func TestKilledWhileAShimStarts(t *testing.T) {
	for victim, kill := range victims {
		if !testenv.Long() && victim != "both" {
			continue
		}
		t.Run(victim, func(t *testing.T) {
			w := newWorld(t)
			w.shimPoints() // whatever is made once is made
			before := w.mustLook()
			w.killAt(before, w.shimPoints(), kill)
		})
	}
}

// TestSlowShimBlocksItsPodOnly: a shim's program that never ends keeps one pod from starting; others start, before and
// after a restart of the runtime. One that is slow makes its pod late (with REEVE_LONG=1).
func TestSlowShimBlocksItsPodOnly(t *testing.T) {
	w := newWorld(t)
	w.shimPoints()
	before := w.mustLook()
	w.holdsItsPodOnly("shim-start-begin")
	w.leftNothing(before)

	if !testenv.Long() {
		return
	}
	const late = 2 * time.Second
	for _, point := range []string{"shim-start-begin", "shim-start-end"} {
		w.arm(point, fmt.Sprintf("slow %d", late/time.Second))
		if took := w.lifeTime("slow"); took < late {
			t.Errorf("a pod whose shim is late at %s lived for %s", point, took)
		}
	}
	w.leftNothing(before)
}

// TestDeadShim: a pod's shim is killed, and the program that cleans up after it fails, or hangs while somebody else is
// killed: the pod is seen to be dead, and nothing of it is left once it is removed.
func TestDeadShim(t *testing.T) {
	w := newWorld(t)
	w.shimPoints()
	before := w.mustLook()
	type fate struct{ point, action, victim string }
	fates := []fate{{"shim-delete-begin", "fail", ""}, {"shim-delete-begin", "block", "runtime"}}
	if testenv.Long() {
		for _, point := range []string{"shim-delete-begin", "shim-delete-end"} {
			fates = append(fates, fate{point, "slow 1", ""}, fate{point, "fail", ""})
			for victim := range victims {
				fates = append(fates, fate{point, "block", victim})
			}
		}
	}
	for i, f := range fates {
		what := strings.TrimSpace(f.point + " " + f.action + " " + f.victim)
		w.pid = []runtimeapi.NamespaceMode{runtimeapi.NamespaceMode_CONTAINER, runtimeapi.NamespaceMode_POD}[i%2]
		l := &life{w: w, name: fmt.Sprintf("dead%d", i)}
		for _, op := range operations[:3] {
			if err := op.do(t.Context(), l); err != nil {
				t.Fatalf("%s: %s: %v", what, op.name, err)
			}
		}
		w.arm(f.point, f.action)
		if err := syscall.Kill(w.shimOf(l.sb), syscall.SIGKILL); err != nil {
			t.Fatal(err)
		}
		w.eventually(what+" is passed", func() error {
			if !w.hit(f.point) {
				return errors.New("not yet")
			}
			return nil
		})
		free := func() { w.free(f.point) }
		if f.victim != "" {
			victims[f.victim](w, free)
		}
		w.eventually(what+": the pod is seen to be dead", func() error {
			st, err := w.PodSandboxStatus(t.Context(), l.sb, false)
			if err == nil && st.Status.State == runtimeapi.PodSandboxState_SANDBOX_READY {
				err = errors.New("its sandbox is ready")
			}
			return err
		})
		free()
		w.eventually(what+": everything can be removed", w.removeAll)
		w.leftNothing(before)
	}
}
