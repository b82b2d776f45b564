package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"github.com/reevehq/reeve/internal/datadir"
	"github.com/reevehq/reeve/systemd"
)

const (
	// systemctlTimeout bounds a call to systemctl that waits for no service: seconds on a slow board.
	systemctlTimeout = 2 * time.Minute
	// stopSeconds is how long the service may take to stop: its two children stop one after the other.
	stopSeconds = 60
	// disableTimeout bounds stopping the service for good.
	disableTimeout = systemctlTimeout + stopSeconds*time.Second
	// dataDirKey is where the unit file keeps the service's data-dir. systemd skips what begins with X-.
	dataDirKey = "DataDir"
)

// installation is one run of install.
type installation struct {
	role           string
	flags          *pflag.FlagSet
	program, units string // where they go
	wait           time.Duration
	out            io.Writer
}

func (in *installation) say(format string, args ...any) { fmt.Fprintf(in.out, format+"\n", args...) }

func (in *installation) run(ctx context.Context) error {
	if err := needRoot("reeve install"); err != nil {
		return err
	}
	if !systemd.Running() {
		return badConfig(errors.New("systemd does not run on this host; start `reeve " + in.role + "` from the service manager that does"))
	}
	unit := unitName(in.role)
	var services systemd.Services
	before, err := services.Read(ctx, unit)
	services.Close()
	if err != nil {
		return err
	}
	runs := slices.Contains([]string{"active", "activating", "reloading", "deactivating"}, before.Active)
	args, dir, err := in.plan(runs)
	if err != nil {
		return badConfig(err)
	}
	changed, err := in.write(args, dir)
	if err != nil {
		return err
	}
	if err := systemctl(ctx, "daemon-reload"); err != nil {
		return err
	}
	if err := systemctl(ctx, "enable", "--quiet", unit); err != nil {
		return err
	}
	old := before.Invocation
	switch {
	case runs && !changed:
		in.say("%s is installed with these flags already; nothing was changed.", unit)
		old = ""
	case runs:
		in.say("Restarting %s; pods keep running.", unit)
	default:
		in.say("Starting %s.", unit)
	}
	if !runs || changed {
		// Its start may take longer than any bound of systemctl's; what is waited for is below.
		if err := systemctl(ctx, "restart", "--no-block", unit); err != nil {
			return err
		}
	}
	if in.wait <= 0 {
		return nil
	}
	return in.await(ctx, unit, old, dir)
}

// plan checks everything, and answers the service's arguments and its data-dir. Only the data-dir's folder is made.
func (in *installation) plan(runs bool) ([]string, datadir.Dir, error) {
	args, token, err := serviceArgs(in.flags)
	if err != nil {
		return nil, datadir.Dir{}, err
	}
	for _, role := range installRoles {
		if role != in.role && exists(filepath.Join(in.units, unitName(role))) {
			return nil, datadir.Dir{}, fmt.Errorf("%s is installed here, which runs a node too; take it away with reeve uninstall first", unitName(role))
		}
	}
	dir, err := checkRole(in.role, args, token, !runs)
	if err != nil {
		return nil, dir, err
	}
	if was := installedDataDir(filepath.Join(in.units, unitName(in.role))); was != "" && was != dir.Root() {
		return nil, dir, fmt.Errorf("%s runs with --data-dir %q, not %q; give that, or take it away with reeve uninstall first", unitName(in.role), was, dir.Root())
	}
	for _, role := range installRoles {
		if pid, held := dir.Holder(role); held && !runs {
			return nil, dir, fmt.Errorf("process %d runs reeve %s with --data-dir %q already; stop it first (its pods keep running)", pid, role, dir.Root())
		}
	}
	if token != "" {
		path := filepath.Join(dir.Agent(), "join-token")
		if err := os.MkdirAll(dir.Agent(), 0o700); err != nil {
			return nil, dir, fmt.Errorf("keep the token: %w", err)
		}
		if err := datadir.WriteFile(path, []byte(token+"\n"), 0o600); err != nil {
			return nil, dir, fmt.Errorf("keep the token: %w", err)
		}
		args = append(args, "--token-file="+path)
	}
	return args, dir, nil
}

// write puts program and unit file in their places, and says whether either is new.
func (in *installation) write(args []string, dir datadir.Dir) (changed bool, err error) {
	text, err := systemd.Unit{
		Description: "reeve " + in.role + ", a Kubernetes node agent on containerd", Exec: append([]string{in.program, in.role}, args...),
		After: []string{"network-online.target", "containerd.service"}, Wants: []string{"network-online.target"},
		EnvironmentFile: environmentFile, StopSec: stopSeconds, Notes: map[string]string{dataDirKey: dir.Root()},
	}.Render()
	if err != nil {
		return false, err
	}
	self, err := os.Executable()
	if err != nil {
		return false, fmt.Errorf("find this program: %w", err)
	}
	changed, err = copyProgram(self, in.program)
	if err != nil {
		return false, err
	}
	if changed {
		in.say("Wrote %s.", in.program)
	}
	path := filepath.Join(in.units, unitName(in.role))
	if old, err := os.ReadFile(path); err == nil && string(old) == text {
		return changed, nil
	}
	if err := datadir.WriteFile(path, []byte(text), 0o644); err != nil {
		return false, err
	}
	in.say("Wrote %s.", path)
	return true, nil
}

// installedDataDir is the data-dir that a unit file of ours names, "" where there is none.
func installedDataDir(unitFile string) string {
	text, err := os.ReadFile(unitFile)
	if err != nil {
		return ""
	}
	return systemd.ReadNote(string(text), dataDirKey)
}

// copyProgram replaces dst atomically, so that a running one keeps its file, unless dst is the same already.
func copyProgram(src, dst string) (changed bool, err error) {
	in, err := os.Open(src)
	if err != nil {
		return false, fmt.Errorf("install the program: %w", err)
	}
	defer in.Close()
	if same, err := sameFile(in, dst); same || err != nil {
		return false, err
	}
	out, err := os.CreateTemp(filepath.Dir(dst), ".reeve-")
	if err != nil {
		return false, fmt.Errorf("install the program: %w", err)
	}
	defer os.Remove(out.Name())
	_, err = io.Copy(out, in)
	if err = errors.Join(err, out.Chmod(0o755), out.Sync(), out.Close()); err == nil {
		err = os.Rename(out.Name(), dst)
	}
	if err != nil {
		return false, fmt.Errorf("install the program as %q: %w", dst, err)
	}
	return true, nil
}

// sameFile compares a file with one at a path, and leaves the first at its beginning.
func sameFile(f *os.File, path string) (bool, error) {
	other, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read the installed program: %w", err)
	}
	defer other.Close()
	a, err := f.Stat()
	if err != nil {
		return false, err
	}
	b, err := other.Stat()
	if err != nil {
		return false, err
	}
	if os.SameFile(a, b) {
		return true, nil
	}
	if a.Size() != b.Size() || b.Mode().Perm() != 0o755 {
		return false, nil
	}
	x, y := make([]byte, 1<<20), make([]byte, 1<<20)
	for same := true; same; {
		n, errA := io.ReadFull(f, x)
		m, errB := io.ReadFull(other, y)
		same = n == m && string(x[:n]) == string(y[:m])
		if errA != nil || errB != nil {
			if !ended(errA) || !ended(errB) {
				return false, fmt.Errorf("compare the installed program: %w", errors.Join(errA, errB))
			}
			if same {
				return true, nil
			}
		}
	}
	_, err = f.Seek(0, io.SeekStart)
	return false, err
}

func ended(err error) bool { return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) }

func systemctl(ctx context.Context, args ...string) error {
	return systemctlWithin(ctx, systemctlTimeout, args...)
}

func systemctlWithin(ctx context.Context, limit time.Duration, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	out, err := exec.CommandContext(ctx, "systemctl", args...).CombinedOutput()
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	if err != nil {
		return fmt.Errorf("systemctl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
