package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/reevehq/reeve/internal/datadir"
	"github.com/reevehq/reeve/systemd"
)

func uninstallCommand() *cobra.Command {
	u := removal{program: installedProgram, units: unitFolder}
	var yes bool
	cmd := &cobra.Command{
		Use:   "uninstall",
		Short: "Take away what install did, and everything that reeve made on this host",
		Long: "Stop the service and take it away with its pods, mounts, network namespaces, links, packet rules, cgroups, the\n" +
			"private containerd, the data and the program. What others made is not touched: not the host's containerd, nor\n" +
			environmentFile + ". It may be repeated, and works after a crash.",
		Example: "  reeve uninstall\n  reeve uninstall --yes --keep-data    keep the cluster's state for a later install",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			if err := needRoot("reeve uninstall"); err != nil {
				return err
			}
			u.out = cmd.OutOrStdout()
			u.find(cmd.Flags().Changed("data-dir"))
			if len(u.roles) == 0 && !exists(u.dataDir) && !exists(u.program) {
				u.say("Nothing of reeve's is here: no service, no %s, no %s.", u.dataDir, u.program)
				return nil
			}
			if exists(u.dataDir) {
				if err := u.what.check(u.dataDir); err != nil {
					return err
				}
			}
			if !yes {
				question := "Stop reeve here, remove its pods, its data in " + u.dataDir + " and the program?"
				if u.what.keepData {
					question = "Stop reeve here, remove its pods and the program, and keep the data in " + u.dataDir + "?"
				}
				if err := confirm(cmd.InOrStdin(), cmd.OutOrStdout(), question); err != nil {
					return err
				}
			}
			return u.run(ctx)
		},
	}
	cmd.Flags().StringVar(&u.dataDir, "data-dir", datadir.Default, "folder of all state (default: that of the installed service, else "+datadir.Default+")")
	cmd.Flags().Lookup("data-dir").DefValue = ""
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	u.what.addFlags(cmd.Flags())
	return cmd
}

// removal is one run of uninstall.
type removal struct {
	program, units string
	dataDir        string
	roles          []string // that are installed
	what           cleaning
	out            io.Writer
}

func (u *removal) say(format string, args ...any) { fmt.Fprintf(u.out, format+"\n", args...) }

// find looks for the installed services, and takes the data-dir from theirs unless the user gave one.
func (u *removal) find(given bool) {
	for _, role := range installRoles {
		path := filepath.Join(u.units, unitName(role))
		if !exists(path) {
			continue
		}
		u.roles = append(u.roles, role)
		if dir := installedDataDir(path); dir != "" && !given {
			u.dataDir = dir
		}
	}
}

// run goes so far back that a repetition finds what is left: the unit file, which names the data-dir, goes after the data.
func (u *removal) run(ctx context.Context) error {
	for _, role := range u.roles {
		if !systemd.Running() {
			break
		}
		u.say("Stopping %s.", unitName(role))
		if err := systemctlWithin(ctx, disableTimeout, "disable", "--quiet", "--now", unitName(role)); err != nil {
			return err
		}
	}
	if _, err := os.Stat(u.dataDir); err == nil {
		u.say("Removing pods, network, rules and cgroups.")
		log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
		cleanupCtx, cancel := context.WithTimeout(ctx, cleanupTimeout)
		defer cancel()
		if err := cleanup(cleanupCtx, log, u.dataDir, u.what); err != nil {
			return err
		}
		if exists(u.dataDir) {
			u.say("Kept %s.", u.dataDir)
		} else {
			u.say("Removed %s.", u.dataDir)
		}
	}
	if err := u.removeUnits(ctx); err != nil {
		return err
	}
	if err := os.Remove(u.program); err == nil {
		u.say("Removed %s.", u.program)
	} else if !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the program: %w", err)
	}
	return nil
}

func (u *removal) removeUnits(ctx context.Context) error {
	for _, role := range u.roles {
		path := filepath.Join(u.units, unitName(role))
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove the unit: %w", err)
		}
		u.say("Removed %s.", path)
	}
	if len(u.roles) == 0 || !systemd.Running() {
		return nil
	}
	if err := systemctl(ctx, "daemon-reload"); err != nil {
		return err
	}
	for _, role := range u.roles {
		// Else a service that had failed would go on being listed. It is an error where it is not.
		_ = systemctl(ctx, "reset-failed", unitName(role))
	}
	return nil
}
