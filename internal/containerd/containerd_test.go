package containerd_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/reevehq/reeve/internal/containerd"
	"github.com/reevehq/reeve/internal/testenv"
	"github.com/reevehq/reeve/internal/testns"
)

func TestMain(m *testing.M) { testns.Main(m) }

func TestPrivateIsStartedAdoptedAndRestarted(t *testing.T) {
	dir := testenv.Dir(t)
	began := time.Now()
	a := testenv.Containerd(t, dir)
	t.Logf("started in %s", time.Since(began).Round(time.Millisecond))
	if !a.Private() || a.PID() == 0 {
		t.Fatalf("private %t, pid %d", a.Private(), a.PID())
	}
	b := testenv.Containerd(t, dir)
	if a.PID() != b.PID() {
		t.Fatalf("the second call started another one: %d, %d", a.PID(), b.PID())
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); a.Run(ctx) }()
	old := a.PID()
	if err := syscall.Kill(old, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(20 * time.Second); a.PID() == old || a.PID() == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("containerd was not restarted")
		}
	}
	// It may still be starting: asking again must wait for it, not start a third.
	if _, err := containerd.Ensure(t.Context(), containerd.Config{HostAddress: "-", Dir: filepath.Join(dir, "containerd")}); err != nil {
		t.Fatal(err)
	}
	cancel()
	<-done
	if a.PID() == 0 {
		t.Fatal("containerd ended with its watcher")
	}
}

func TestSaysWhatIsMissing(t *testing.T) {
	dir := t.TempDir()
	for name, tc := range map[string]struct {
		cfg  containerd.Config
		want string
	}{
		"given address": {containerd.Config{Address: "unix:///nowhere.sock"}, `containerd at "/nowhere.sock" does not answer`},
		"no program":    {containerd.Config{HostAddress: "-", Dir: dir, Binary: "no-such-containerd"}, `"no-such-containerd" was not found`},
		"no runc":       {containerd.Config{HostAddress: "-", Dir: dir, Binary: os.Args[0], Runc: "no-such-runc"}, `"no-such-runc" was not found`},
		"path too long": {containerd.Config{HostAddress: "-", Dir: filepath.Join(dir, strings.Repeat("x", 100))}, "choose a shorter data directory"},
		"no folder":     {containerd.Config{HostAddress: "-"}, "folder"},
	} {
		if _, err := containerd.Ensure(t.Context(), tc.cfg); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: got %v, want %q", name, err, tc.want)
		}
	}
}
