package systemd

import (
	"context"
	"errors"
	"flag"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the golden unit files")

func TestUnitFiles(t *testing.T) {
	for name, u := range map[string]Unit{
		"server": {
			Description: "reeve: Kubernetes control plane and node", Exec: []string{"/usr/local/bin/reeve", "server", "--data-dir", "/var/lib/reeve"},
			Wants: []string{"network-online.target"}, After: []string{"network-online.target", "containerd.service"}, WatchdogSec: 30,
			EnvironmentFile: "/etc/default/reeve", Notes: map[string]string{"DataDir": "/var/lib/reeve"},
		},
		"odd": {
			Description: "100 % odd", Exec: []string{"/opt/my reeve/reeve", "agent", "--label", `a="$b"`, "100%", "", `back\slash`},
			Environment: []string{"HTTPS_PROXY=http://proxy:3128", "NO_PROXY=10.0.0.0/8, $x"}, StopSec: 90,
		},
	} {
		got, err := u.Render()
		if err != nil {
			t.Fatal(err)
		}
		golden := filepath.Join("testdata", name+".service")
		if *update {
			if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), got); diff != "" {
			t.Errorf("%s (- golden, + now):\n%s", golden, diff)
		}
		if note := ReadNote(got, "DataDir"); note != u.Notes["DataDir"] {
			t.Errorf("%s: the note reads %q, want %q", name, note, u.Notes["DataDir"])
		}
	}
}

func TestUnitFileThatWouldSayMoreIsRefused(t *testing.T) {
	for _, u := range []Unit{
		{Description: "x\nExecStartPre=/bin/evil", Exec: []string{"/reeve"}},
		{Description: "x", Exec: []string{"reeve"}},
		{Description: "x"},
		{Description: "x", Exec: []string{"/reeve", "a\nb"}},
		{Description: "x", Exec: []string{"/reeve"}, Environment: []string{"novalue"}},
		{Description: "x", Exec: []string{"/reeve"}, After: []string{"a\nb"}},
		{Description: "x", Exec: []string{"/reeve"}, Notes: map[string]string{"DataDir": "/a\n[Service]"}},
		{Description: "x", Exec: []string{"/reeve"}, EnvironmentFile: "/a\nb"},
	} {
		if text, err := u.Render(); err == nil {
			t.Errorf("accepted %+v:\n%s", u, text)
		}
	}
}

// manager listens as a service manager does.
func manager(t *testing.T) *net.UnixConn {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	c, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	return c
}

func receive(t *testing.T, c *net.UnixConn) string {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	buf := make([]byte, 1000)
	n, err := c.Read(buf)
	if err != nil {
		t.Fatal(err)
	}
	return string(buf[:n])
}

func TestNotify(t *testing.T) {
	c := manager(t)
	n := NewNotifier(nil)
	n.Ready("12 pods")
	if got := receive(t, c); got != "READY=1\nSTATUS=12 pods" {
		t.Errorf("ready: %q", got)
	}
	n.Status("two\nMAINPID=1")
	if got := receive(t, c); strings.Contains(got, "\n") {
		t.Errorf("a status became a second assignment: %q", got)
	}
	n.Stopping("bye")
	if got := receive(t, c); got != "STOPPING=1\nSTATUS=bye" {
		t.Errorf("stopping: %q", got)
	}
	n.MainPID(42)
	if got := receive(t, c); got != "MAINPID=42" {
		t.Errorf("main PID: %q", got)
	}
}

func TestWatchdogPingsOnlyWhileHealthy(t *testing.T) {
	c := manager(t)
	t.Setenv("WATCHDOG_USEC", "20000")
	ctx, cancel := context.WithCancel(t.Context())
	var sick atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		NewNotifier(nil).Watchdog(ctx, func(context.Context) error {
			if sick.Load() {
				return errors.New("loop is stuck")
			}
			return nil
		})
	}()
	if got := receive(t, c); got != "WATCHDOG=1" {
		t.Errorf("got %q", got)
	}
	sick.Store(true)
	for got := receive(t, c); !strings.Contains(got, "loop is stuck"); got = receive(t, c) {
		if got != "WATCHDOG=1" {
			t.Fatalf("got %q", got)
		}
	}
	if got := receive(t, c); got == "WATCHDOG=1" {
		t.Error("a sick process pinged")
	}
	cancel()
	<-done
}

func TestWithoutServiceManagerEverythingIsSilent(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	n := NewNotifier(nil)
	if n.Enabled() {
		t.Error("enabled without a socket")
	}
	n.Ready("x")
	n.Watchdog(t.Context(), func(context.Context) error { t.Error("asked for health without a watchdog"); return nil })
	if Running() {
		t.Skip("systemd runs here: scopes are tested in a virtual machine")
	}
	if err := StartScope(t.Context(), Scope{Name: "x.scope", PIDs: []uint32{1}}); !errors.Is(err, ErrNoSystemd) {
		t.Errorf("scope without systemd: %v", err)
	}
	if err := StopScope(t.Context(), "x.scope"); !errors.Is(err, ErrNoSystemd) {
		t.Errorf("scope without systemd: %v", err)
	}
	var s Slices
	defer s.Close()
	if err := errors.Join(s.Set(t.Context(), Slice{Name: "x.slice"}), s.Stop(t.Context(), "x.slice")); !errors.Is(err, ErrNoSystemd) {
		t.Errorf("slices without systemd: %v", err)
	}
	var r Services
	defer r.Close()
	if _, err := r.Read(t.Context(), "x.service"); !errors.Is(err, ErrNoSystemd) {
		t.Errorf("a service without systemd: %v", err)
	}
}
