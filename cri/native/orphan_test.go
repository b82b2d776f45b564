package native

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/reevehq/reeve/internal/testenv"
)

// TestForgottenShims: shims that containerd does not know are ended, with their sockets, whatever has become of their
// bundles: containerd renames one before it removes it. A pod's own shim stays.
func TestForgottenShims(t *testing.T) {
	testenv.NeedBinary(t, "containerd-shim-runc-v2")
	g := newRig(t)
	ctx := t.Context()
	kept := g.sandbox("kept")
	g.pausePID(kept)
	rename := func(b string) error { return os.Rename(b, hiddenBundle(b)) }
	fates := map[string]func(bundle string) error{
		"there": func(string) error { return nil }, "removed": os.RemoveAll, "renamed": rename,
		"renamed and removed": func(b string) error { return errors.Join(rename(b), os.RemoveAll(hiddenBundle(b))) },
	}
	var shims []strayShim
	for name, fate := range fates {
		s := g.startShim()
		if err := fate(s.bundle); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		shims = append(shims, s)
	}
	g.kickGC()
	waitFor(t, func() bool {
		for _, f := range shims {
			if processAlive(uint32(f.pid)) || exists(f.socket) || exists(f.bundle) || exists(hiddenBundle(f.bundle)) {
				return false
			}
		}
		return true
	})
	if st, err := g.PodSandboxStatus(ctx, kept, false); err != nil || st.Status.State != runtimeapi.PodSandboxState_SANDBOX_READY {
		t.Errorf("the pod whose shim should have stayed: %v, %v", st, err)
	}
	if task, err := g.getTask(ctx, kept); err != nil || !alive(task) {
		t.Errorf("its pause: %v, %v", task, err)
	}
	if err := g.RemovePodSandbox(ctx, kept); err != nil {
		t.Error(err)
	}
	g.empty()
}

// hiddenBundle is where containerd moves a bundle before it removes it.
func hiddenBundle(bundle string) string {
	return filepath.Join(filepath.Dir(bundle), hidden+filepath.Base(bundle))
}

type strayShim struct {
	pid            int
	bundle, socket string
}

// startShim starts a shim as containerd does, which knows nothing of it. It answers when the shim serves and needs its
// bundle no more.
func (g *rig) startShim() (stray strayShim) {
	g.t.Helper()
	id, namespace := newID(), g.Runtime.cfg.Namespace
	if err := g.store.reserve("a stray shim/"+id, id); err != nil { // the collector leaves it alone until it runs
		g.t.Fatal(err)
	}
	defer g.store.release("a stray shim/"+id, id)
	bundle := filepath.Join(g.dir, "containerd", "state", "io.containerd.runtime.v2.task", namespace, id)
	if err := os.MkdirAll(bundle, 0o711); err != nil {
		g.t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), []byte("{}"), 0o600); err != nil {
		g.t.Fatal(err)
	}
	log := filepath.Join(bundle, "log") // which containerd reads
	if err := syscall.Mkfifo(log, 0o600); err != nil {
		g.t.Fatal(err)
	}
	f, err := os.OpenFile(log, os.O_RDWR, 0)
	if err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { f.Close() })
	cmd := exec.Command("containerd-shim-runc-v2", "-namespace", namespace, "-address", g.inst.Address(), "-publish-binary", "/bin/false", "-id", id, "start")
	cmd.Dir = bundle
	cmd.Env = append(os.Environ(), "TTRPC_ADDRESS="+g.inst.Address()+".ttrpc")
	out, err := cmd.CombinedOutput()
	if err != nil {
		g.t.Fatalf("start a shim: %v: %s", err, out)
	}
	socket := strings.TrimPrefix(strings.TrimSpace(string(out)), "unix://")
	waitFor(g.t, func() bool {
		for _, s := range shimProcesses() {
			if s.id == id {
				stderr, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/2", s.pid))
				stray = strayShim{s.pid, bundle, socket}
				return stderr == log && slices.Contains(listening(s.pid), socket)
			}
		}
		return false
	})
	return stray
}
