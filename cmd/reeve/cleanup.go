package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/reevehq/reeve/internal/datadir"
)

// cleanupTimeout bounds removing everything; a pod with a long grace period gets none.
const cleanupTimeout = 5 * time.Minute

func cleanupCommand() *cobra.Command {
	var dataDir string
	var yes bool
	var what cleaning
	cmd := &cobra.Command{
		Use:   "cleanup",
		Short: "Stop reeve here and remove everything that it made on this host",
		Long: "Stop the processes of --data-dir, remove its pods, the private containerd, log writer, mounts, network namespaces,\n" +
			"links, packet rules and cgroups, and then the data. What others made is not touched. It may be repeated, and works\n" +
			"after a crash.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			ctx, cancel := context.WithTimeout(ctx, cleanupTimeout)
			defer cancel()
			if err := needRoot("reeve cleanup"); err != nil {
				return err
			}
			if _, err := os.Stat(dataDir); errors.Is(err, fs.ErrNotExist) {
				return nil // nothing was ever made, or all of it is gone
			}
			if err := refuseUnderService(ctx, unitFolder, dataDir); err != nil {
				return err
			}
			if err := what.check(dataDir); err != nil {
				return err
			}
			if !yes {
				if err := confirm(cmd.InOrStdin(), cmd.OutOrStdout(), fmt.Sprintf("Remove all pods of reeve in %s, and its data?", dataDir)); err != nil {
					return err
				}
			}
			log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
			return cleanup(ctx, log, dataDir, what)
		},
	}
	cmd.Flags().StringVar(&dataDir, "data-dir", datadir.Default, "folder of all state")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	what.addFlags(cmd.Flags())
	return cmd
}

// cleaning is what a user may choose of a clean-up.
type cleaning struct {
	keepData     bool
	serviceRules string // see ownsServiceRules
}

func (c *cleaning) addFlags(f *pflag.FlagSet) {
	f.BoolVar(&c.keepData, "keep-data", false, "keep the data-dir: the control plane's state and the images")
	f.StringVar(&c.serviceRules, "service-rules", "", "remove or keep the host's Service rules (default: remove them where a proxy of reeve's has run)")
}

// check refuses, before anything is changed, what only the user can decide.
func (c *cleaning) check(dataDir string) error {
	dir, err := datadir.OpenExisting(dataDir)
	if err != nil {
		return badConfig(err)
	}
	inst, ran, err := readInstance(dir)
	if err != nil || !ran {
		return err
	}
	if _, err := inst.ownsServiceRules(c.serviceRules); err != nil {
		return badConfig(err)
	}
	return nil
}

// confirm asks for a yes.
func confirm(in io.Reader, out io.Writer, question string) error {
	fmt.Fprint(out, question+" [y/N] ")
	line, err := bufio.NewReader(in).ReadString('\n')
	if answer := strings.ToLower(strings.TrimSpace(line)); answer == "y" || answer == "yes" {
		return nil
	}
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	return errors.New("nothing was changed; answer y, or give --yes")
}

// cleanup takes everything away, in the order in which it hangs together. A step that fails does not keep later ones
// from running; all errors are reported, and the data then stays, so that another try knows what to remove.
func cleanup(ctx context.Context, log *slog.Logger, dataDir string, what cleaning) error {
	dir, err := datadir.OpenExisting(dataDir)
	if err != nil {
		return badConfig(err)
	}
	if err := stopRoles(ctx, dir); err != nil {
		return err
	}
	inst, ran, err := readInstance(dir)
	if err != nil {
		return err
	}
	if ran {
		if err := removeNode(ctx, log, dir, inst, what); err != nil {
			return err
		}
	}
	if err := killProgramsBelow(ctx, dir.Root()); err != nil {
		return err
	}
	if what.keepData {
		return nil
	}
	return dir.Remove()
}

// killProgramsBelow ends the processes whose program lies below the folder: what an agent that was killed in the middle
// of starting a helper left, and no record tells.
func killProgramsBelow(ctx context.Context, folder string) error {
	for {
		pids, err := programsBelow(folder)
		if err != nil || len(pids) == 0 {
			return err
		}
		for _, pid := range pids {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("end process %d, whose program lies in %q: %w", pid, folder, err)
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for processes %v, whose programs lie in %q, to end: %w", pids, folder, ctx.Err())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func programsBelow(folder string) ([]int, error) {
	links, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, link := range links {
		// Kernel threads and zombies have no program, and processes end while we look.
		if exe, err := os.Readlink(link); err == nil && strings.HasPrefix(exe, folder+"/") {
			if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(link))); err == nil {
				pids = append(pids, pid)
			}
		}
	}
	return pids, nil
}

// stopRoles ends the processes that hold the data-dir's roles: the supervisor first, which ends its children.
func stopRoles(ctx context.Context, dir datadir.Dir) error {
	for _, role := range []string{"server", "agent", "controlplane"} {
		if pid, held := dir.Holder(role); held {
			if err := syscall.Kill(pid, syscall.SIGTERM); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("stop the %s (process %d): %w", role, pid, err)
			}
		}
	}
	return waitGone(ctx, dir, "server", "agent", "controlplane")
}

// unmountBelow unmounts everything at or below the folders, the newest first, until nothing is left.
func unmountBelow(folders ...string) error {
	for range 10 { // mounts can lie on one another
		targets, err := mountsBelow(folders...)
		if err != nil || len(targets) == 0 {
			return err
		}
		var all error
		for i := len(targets) - 1; i >= 0; i-- {
			if err := syscall.Unmount(targets[i], syscall.MNT_DETACH); err != nil && !errors.Is(err, syscall.EINVAL) && !errors.Is(err, syscall.ENOENT) {
				all = errors.Join(all, fmt.Errorf("unmount %q: %w", targets[i], err))
			}
		}
		if all != nil {
			return all
		}
	}
	return fmt.Errorf("mounts below %v come back as fast as they are removed; is another reeve using them?", folders)
}

// mountsBelow lists this namespace's mounts at or below the folders, in the order in which they were made.
func mountsBelow(folders ...string) ([]string, error) {
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("read the mount table: %w", err)
	}
	var out []string
	for line := range strings.Lines(string(table)) {
		f := strings.Fields(line)
		if len(f) < 5 {
			continue
		}
		// Blanks and backslashes are octal (proc(5)).
		target := strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(f[4])
		for _, folder := range folders {
			if folder = filepath.Clean(folder); folder != "/" && (target == folder || strings.HasPrefix(target, folder+"/")) {
				out = append(out, target)
				break
			}
		}
	}
	return out, nil
}
