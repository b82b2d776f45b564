package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spf13/pflag"

	"github.com/reevehq/reeve/internal/datadir"
	"github.com/reevehq/reeve/systemd"
)

func TestServiceGetsTheFlagsThatWereGiven(t *testing.T) {
	t.Chdir(t.TempDir())
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	in := &installation{role: "agent"}
	cmd := installRoleCommand("agent", "", "")
	if err := cmd.ParseFlags([]string{"--server=https://192.0.2.1:6443", "--token", "R1secret", "--config", "reeve.yaml", "--wait=1m", "--node-labels=a=b,c=d", "--disable-dns"}); err != nil {
		t.Fatal(err)
	}
	in.flags = cmd.Flags()
	args, token, err := serviceArgs(in.flags)
	if err != nil {
		t.Fatal(err)
	}
	if token != "R1secret" || strings.Contains(strings.Join(args, " "), "R1secret") {
		t.Errorf("the token %q; arguments %q must not show it", token, args)
	}
	if want := "--config=" + filepath.Join(here, "reeve.yaml"); !slices.Contains(args, want) {
		t.Errorf("arguments %q lack %q: the service runs in another folder", args, want)
	}
	// What the service will parse is what was given.
	again := newRoleFlags("agent", pflag.NewFlagSet("", pflag.ContinueOnError))
	if err := again.flags.Parse(args); err != nil {
		t.Fatalf("the service would refuse %q: %v", args, err)
	}
	if o := again.agent; o.Server != "https://192.0.2.1:6443" || !o.NoDNS || o.Node.NodeLabels["a"] != "b" || o.Node.NodeLabels["c"] != "d" {
		t.Errorf("the service would run with %+v", o)
	}
}

func TestInstallRefusesWhatTheServiceWould(t *testing.T) {
	bad := filepath.Join(t.TempDir(), "bad.yaml")
	if err := os.WriteFile(bad, []byte("nonsense: 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	data := "--data-dir=" + t.TempDir()
	for name, tc := range map[string]struct {
		role string
		args []string
		says string
	}{
		"no cluster":       {"agent", []string{data}, "--kubeconfig"},
		"unknown mode":     {"server", []string{data, "--proxy-mode=fast"}, "--proxy-mode"},
		"unknown key":      {"server", []string{data, "--config=" + bad}, "nonsense"},
		"relative folder":  {"server", []string{"--data-dir=state"}, "--data-dir"},
		"install's own":    {"server", []string{data, "--wait=1m"}, "wait"},
		"token, malformed": {"agent", []string{data, "--server=https://192.0.2.1:6443", "--token=x"}, "--token"},
	} {
		if _, err := checkRole(tc.role, tc.args, "", false); err == nil || !strings.Contains(err.Error(), tc.says) {
			t.Errorf("%s: %v; want an error that names %q", name, err, tc.says)
		}
	}
	if _, err := checkRole("server", []string{data, "--node-ip=192.0.2.7"}, "", false); err != nil {
		t.Errorf("good flags: %v", err)
	}
}

func TestInstallKeepsOneServiceAndItsData(t *testing.T) {
	dataDir := t.TempDir()
	plan := func(in *installation, args ...string) error {
		cmd := installRoleCommand(in.role, "", "")
		if err := cmd.ParseFlags(append(args, "--node-ip=192.0.2.7")); err != nil {
			t.Fatal(err)
		}
		in.flags = cmd.Flags()
		_, _, err := in.plan(true)
		return err
	}
	in := &installation{role: "server", units: t.TempDir(), program: filepath.Join(t.TempDir(), "reeve"), out: &bytes.Buffer{}}
	if err := plan(in, "--data-dir="+dataDir); err != nil {
		t.Fatal(err)
	}
	dir, err := datadir.Open(dataDir)
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []bool{true, false} {
		if changed, err := in.write([]string{"--data-dir=" + dataDir}, dir); err != nil || changed != want {
			t.Errorf("writing, time %d: changed %v, %v; want %v", i+1, changed, err, want)
		}
	}
	if changed, err := in.write([]string{"--data-dir=" + dataDir, "--max-pods=5"}, dir); err != nil || !changed {
		t.Errorf("other flags: changed %v, %v", changed, err)
	}
	if got := installedDataDir(filepath.Join(in.units, unitName("server"))); got != dataDir {
		t.Errorf("the unit file names %q, want %q", got, dataDir)
	}
	if err := plan(in, "--data-dir="+t.TempDir()); err == nil || !strings.Contains(err.Error(), dataDir) {
		t.Errorf("another data-dir under the same service: %v", err)
	}
	other := &installation{role: "agent", units: in.units}
	if err := plan(other, "--server=https://192.0.2.1:6443", "--data-dir="+dataDir); err == nil || !strings.Contains(err.Error(), "reeve-server.service") {
		t.Errorf("an agent beside a server: %v", err)
	}
	// What uninstall finds.
	u := removal{units: in.units, dataDir: datadir.Default}
	u.find(false)
	if u.dataDir != dataDir || !slices.Equal(u.roles, []string{"server"}) {
		t.Errorf("uninstall finds %q and %v", u.dataDir, u.roles)
	}
	u = removal{units: in.units, dataDir: "/given"}
	if u.find(true); u.dataDir != "/given" {
		t.Errorf("uninstall takes %q, and was given another", u.dataDir)
	}
}

func TestWaitForTheService(t *testing.T) {
	starting := systemd.Service{Active: "activating", Sub: "start", Invocation: "2"}
	old := systemd.Service{Active: "active", Sub: "running", Invocation: "1"}
	ready := systemd.Service{Active: "active", Sub: "running", Invocation: "2"}
	const tooLong = "x.service is not ready after 20ms"
	for name, tc := range map[string]struct {
		old    string
		states []systemd.Service // the last one stays
		want   string            // of the error; "" for ready
		config bool
	}{
		"first start":      {"", []systemd.Service{{Active: "inactive"}, starting, ready}, "", false},
		"the old one runs": {"1", []systemd.Service{old, old, {Active: "deactivating", Invocation: "1"}, starting, ready}, "", false},
		"comes after a crash": {"", []systemd.Service{starting, {Active: "activating", Sub: "auto-restart", Invocation: "2", Exited: true, ExitCode: 1, Restarts: 1},
			{Active: "active", Invocation: "3"}}, "", false},
		"bad configuration": {"", []systemd.Service{starting, {Active: "activating", Sub: "auto-restart", Invocation: "2", Exited: true, ExitCode: exitConfig}},
			"as it is configured", true},
		"failed":          {"", []systemd.Service{starting, {Active: "failed", Sub: "failed", Invocation: "2"}}, "journalctl -u x.service", false},
		"stopped":         {"", []systemd.Service{starting, {Active: "inactive", Sub: "dead", Invocation: "2"}}, "stopped", false},
		"takes too long":  {"", []systemd.Service{{Active: "activating", Sub: "start", Invocation: "2", Status: "waiting for the node"}}, tooLong, false},
		"never restarted": {"1", []systemd.Service{old}, tooLong, false},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			asked := 0
			w := readyWait{unit: "x.service", old: tc.old, limit: time.Minute, soonest: time.Millisecond, latest: time.Millisecond, progress: time.Hour, out: &out,
				read: func(context.Context) (systemd.Service, error) {
					asked++
					return tc.states[min(asked, len(tc.states))-1], nil
				}}
			if tc.want == tooLong {
				w.limit = 20 * time.Millisecond
			}
			err := w.run(t.Context())
			if tc.want == "" {
				if err != nil || asked < len(tc.states) {
					t.Errorf("%v after %d of %d states", err, asked, len(tc.states))
				}
				return
			}
			if tc.config != errors.As(err, new(configError)) {
				t.Errorf("%v: a configuration error is %v", err, !tc.config)
			}
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v; want %q", err, tc.want)
			}
		})
	}
}

// TestProgressIsTold: each new state once, and a sign of life in between.
func TestProgressIsTold(t *testing.T) {
	var out bytes.Buffer
	asked := 0
	w := readyWait{unit: "x.service", limit: time.Minute, soonest: time.Millisecond, latest: time.Millisecond, progress: time.Hour, out: &out,
		read: func(context.Context) (systemd.Service, error) {
			asked++
			switch {
			case asked < 5:
				return systemd.Service{Active: "activating", Sub: "start", Invocation: "1"}, nil
			case asked < 9:
				return systemd.Service{}, errors.New("reloading")
			case asked < 12:
				return systemd.Service{Active: "activating", Invocation: "1", Status: "waiting for the node", Restarts: 2, Exited: true, ExitCode: 1}, nil
			}
			return systemd.Service{Active: "active", Invocation: "1"}, nil
		}}
	if err := w.run(t.Context()); err != nil {
		t.Fatal(err)
	}
	var said []string
	for line := range strings.Lines(out.String()) {
		said = append(said, strings.TrimSpace(line[7:]))
	}
	if want := []string{"activating (start)", "reloading", "waiting for the node; restarted 2 times, last exit code 1"}; !slices.Equal(said, want) {
		t.Errorf("said %q, want %q", said, want)
	}
}

func TestProgramIsReplacedOnlyByAnother(t *testing.T) {
	dir := t.TempDir()
	src, dst := filepath.Join(dir, "new"), filepath.Join(dir, "reeve")
	body := bytes.Repeat([]byte("x"), 3<<20+5)
	write := func(b []byte) {
		if err := os.WriteFile(src, b, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	inode := func() os.FileInfo {
		fi, err := os.Stat(dst)
		if err != nil {
			t.Fatal(err)
		}
		return fi
	}
	copied := func(want bool) {
		t.Helper()
		if got, err := copyProgram(src, dst); err != nil || got != want {
			t.Fatalf("copied %v, %v; want %v", got, err, want)
		}
		b, err := os.ReadFile(dst)
		if want, _ := os.ReadFile(src); err != nil || !bytes.Equal(b, want) {
			t.Fatalf("the copy differs: %v", err)
		}
	}
	write(body)
	copied(true)
	first := inode()
	copied(false)
	body[len(body)-1] = 'y' // of the same size
	write(body)
	copied(true)
	if os.SameFile(first, inode()) {
		t.Error("the file was written in place: a running program would break")
	}
	if got, err := copyProgram(dst, dst); got || err != nil {
		t.Errorf("onto itself: %v, %v", got, err)
	}
	if fi := inode(); fi.Mode().Perm() != 0o755 {
		t.Errorf("mode %v", fi.Mode())
	}
}
