package volumes

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/reevehq/reeve/internal/testns"
)

// dying is a kernel that serves a number of calls and then none, as it looks to an agent that is killed between two.
type dying struct {
	mounter
	left atomic.Int64
}

var errDead = errors.New("the agent is dead")

func (d *dying) alive() bool { return d.left.Add(-1) >= 0 }

func (d *dying) Mount(source, target, fstype string, flags uintptr, data string) error {
	if !d.alive() {
		return errDead
	}
	return d.mounter.Mount(source, target, fstype, flags, data)
}

func (d *dying) Unmount(target string, lazy bool) error {
	if !d.alive() {
		return errDead
	}
	return d.mounter.Unmount(target, lazy)
}

func (d *dying) Below(root string) ([]string, error) {
	if !d.alive() {
		return nil, errDead
	}
	return d.mounter.Below(root)
}

func (d *dying) IsMountPoint(path string) (bool, error) {
	if !d.alive() {
		return false, errDead
	}
	return d.mounter.IsMountPoint(path)
}

// An agent that dies after any step of setting a pod's volumes up, or of taking them down, is followed by one that ends
// in the same place: all mounted once with the right content, or nothing left.
func TestCrashPoints(t *testing.T) {
	testns.Need(t)
	for k := range 16 {
		t.Run(fmt.Sprintf("after %d steps", k), func(t *testing.T) {
			objs := objectsForAll()
			m := newTestManager(t, func(c *Config) { c.Objects = objs })
			pod := allKinds()
			next := func(old *Manager, steps int64) *Manager {
				old.Close()
				cfg := old.cfg
				n, err := NewManager(cfg)
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(n.Close)
				if steps >= 0 {
					d := &dying{mounter: kernelMounter{}}
					d.left.Store(steps)
					n.m = d
				}
				return n
			}
			first := next(m, int64(k))
			first.SetPod(pod)
			tried := func(m *Manager) func() bool {
				return func() bool {
					m.mu.Lock()
					defer m.mu.Unlock()
					p := m.pods[pod.UID]
					return p == nil || p.ready || len(p.errs) > 0
				}
			}
			waitFor(t, "the first try to end", tried(first))
			second := next(first, -1)
			second.SetPod(pod)
			if err := second.WaitMounted(t.Context(), pod.UID); err != nil {
				t.Fatal(err)
			}
			mounts, err := kernelMounter{}.Below(second.PodDir(pod.UID))
			if err != nil || len(mounts) != 4 { // mem, secret, down, proj
				t.Errorf("mounted %d times, want 4: %v, %v", len(mounts), mounts, err)
			}
			vols, _, _ := second.Mounts(pod.UID)
			if d := cmp.Diff(map[string]string{"pw": "400 hush"}, seen(t, vols["secret"].HostPath)); d != "" {
				t.Errorf("secret (-want +got):\n%s", d)
			}

			third := next(second, int64(k))
			third.ReleasePod(pod.UID)
			waitFor(t, "the first try at tear-down to end", tried(third))
			fourth := next(third, -1)
			fourth.SetPods(nil)
			waitFor(t, "the folder to go", func() bool { _, err := os.Lstat(fourth.PodDir(pod.UID)); return errors.Is(err, os.ErrNotExist) })
			if left, err := (kernelMounter{}).Below(m.cfg.RootDir); err != nil || len(left) != 0 {
				t.Errorf("left mounted: %v, %v", left, err)
			}
		})
	}
}
