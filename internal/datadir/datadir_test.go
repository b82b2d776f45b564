package datadir

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/reevehq/reeve/internal/version"
)

func TestMain(m *testing.M) {
	if path := os.Getenv("DATADIR_HOLD"); path != "" {
		d, err := Open(path)
		if err == nil {
			_, err = d.Hold("agent")
		}
		if err != nil {
			os.Stderr.WriteString(err.Error())
			os.Exit(1)
		}
		os.Stdout.WriteString("held\n")
		os.Stdin.Read(make([]byte, 1))
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestOpenRefusesWhatCannotWork(t *testing.T) {
	blocked := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(blocked, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ path, want string }{
		{"relative/path", "not absolute"},
		{"/" + strings.Repeat("x", 100), "too long"},
		{filepath.Join(blocked, "below"), "make --data-dir"},
	} {
		if _, err := Open(c.path); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("Open(%q) = %v, want an error with %q", c.path, err, c.want)
		}
	}
}

func TestRoleIsHeldByOneLiveProcess(t *testing.T) {
	d, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if pid, ok := d.Holder("agent"); ok {
		t.Fatalf("a new data-dir is held by %d", pid)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), "DATADIR_HOLD="+d.Root())
	in, _ := cmd.StdinPipe()
	out, _ := cmd.StdoutPipe()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := out.Read(make([]byte, 8)); err != nil {
		t.Fatal(err)
	}
	if pid, ok := d.Holder("agent"); !ok || pid != cmd.Process.Pid {
		t.Errorf("Holder = %d, %v, want %d", pid, ok, cmd.Process.Pid)
	}
	if _, err := d.Hold("agent"); !errors.Is(err, ErrHeld) || !strings.Contains(err.Error(), "process") {
		t.Errorf("Hold beside a holder = %v, want ErrHeld that names the process", err)
	}
	cmd.Process.Kill()
	in.Close()
	cmd.Wait()
	release, err := d.Hold("agent")
	if err != nil {
		t.Fatalf("Hold after the holder was killed: %v", err)
	}
	release()
}

func TestNewerDataIsRefusedAndOlderIsAnUpgrade(t *testing.T) {
	d, err := Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if up, err := d.CheckStamp(); up || err != nil {
		t.Errorf("an unused data-dir: %v, %v", up, err)
	}
	if err := d.WriteStamp(); err != nil {
		t.Fatal(err)
	}
	if up, err := d.CheckStamp(); up || err != nil {
		t.Errorf("own data-dir: %v, %v", up, err)
	}
	write := func(s string) {
		t.Helper()
		if err := WriteFile(d.stampFile(), []byte(s), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(`{"version":"v1.30.0+reeve.1","formats":{"agent":1}}`)
	if up, err := d.CheckStamp(); !up || err != nil {
		t.Errorf("an older data-dir: %v, %v, want an upgrade", up, err)
	}
	write(`{"version":"v1.99.0+reeve.1","formats":{"agent":99}}`)
	if _, err := d.CheckStamp(); err == nil || !strings.Contains(err.Error(), "v1.99.0+reeve.1") || !strings.Contains(err.Error(), version.Git()) {
		t.Errorf("a newer data-dir: %v, want an error that names both versions", err)
	}
	write(`{"version`)
	if _, err := d.CheckStamp(); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("a damaged stamp: %v", err)
	}
}
