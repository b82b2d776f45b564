package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/reevehq/reeve/internal/datadir"
	"github.com/reevehq/reeve/systemd"
)

const (
	installedProgram = "/usr/local/bin/reeve"
	unitFolder       = "/etc/systemd/system"
	// systemctlTimeout bounds a call to systemctl; starting waits until the node is ready.
	systemctlTimeout = 5 * time.Minute
)

// unitName is the service of a role.
func unitName(role string) string { return "reeve-" + role + ".service" }

func installCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "install server|agent [flags of that command]",
		Short: "Install this program as a systemd service and start it",
		Long: "Copy this program to " + installedProgram + ", write " + unitFolder + "/reeve-<role>.service with the flags given,\n" +
			"and enable and start it. `reeve uninstall` takes all of it away again.",
		Example:            "  reeve install server --tls-san api.example.com\n  reeve install agent --server https://192.0.2.10:6443 --token-file /root/token",
		DisableFlagParsing: true, // the flags belong to the role; it checks them
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 || (args[0] != "server" && args[0] != "agent") {
				if len(args) > 0 && (args[0] == "-h" || args[0] == "--help") {
					return cmd.Help()
				}
				return badConfig(errors.New("say what to install: reeve install server [flags], or reeve install agent [flags]"))
			}
			if err := needRoot("reeve install"); err != nil {
				return err
			}
			if !systemd.Running() {
				return badConfig(errors.New("systemd does not run on this host; start `reeve " + args[0] + "` from the service manager that does"))
			}
			return install(cmd.Context(), args[0], args[1:])
		},
	}
}

// install refuses flags that the role would refuse, before anything is changed.
func install(ctx context.Context, role string, args []string) error {
	probe := serverCommand()
	if role == "agent" {
		probe = agentCommand()
	}
	if err := probe.ParseFlags(args); err != nil {
		return badConfig(fmt.Errorf("flags of reeve %s: %w", role, err))
	}
	if rest := probe.Flags().Args(); len(rest) > 0 {
		return badConfig(fmt.Errorf("flags of reeve %s: unexpected %q", role, rest))
	}
	text, err := systemd.Unit{
		Description: "reeve " + role + ", a Kubernetes node agent on containerd", Exec: append([]string{installedProgram, role}, args...),
		After: []string{"network-online.target", "containerd.service"}, Wants: []string{"network-online.target"},
	}.Render()
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("find this program: %w", err)
	}
	if err := copyProgram(self, installedProgram); err != nil {
		return err
	}
	if err := datadir.WriteFile(filepath.Join(unitFolder, unitName(role)), []byte(text), 0o644); err != nil {
		return err
	}
	return errors.Join(systemctl(ctx, "daemon-reload"), systemctl(ctx, "enable", "--now", unitName(role)))
}

// copyProgram replaces dst atomically, so that a running one keeps its file.
func copyProgram(src, dst string) error {
	if src == dst {
		return nil
	}
	in, err := os.Open(src)
	if err != nil {
		return fmt.Errorf("install the program: %w", err)
	}
	defer in.Close()
	out, err := os.CreateTemp(filepath.Dir(dst), ".reeve-")
	if err != nil {
		return fmt.Errorf("install the program: %w", err)
	}
	defer os.Remove(out.Name())
	_, err = io.Copy(out, in)
	if err = errors.Join(err, out.Chmod(0o755), out.Close()); err == nil {
		err = os.Rename(out.Name(), dst)
	}
	if err != nil {
		return fmt.Errorf("install the program as %q: %w", dst, err)
	}
	return nil
}

func systemctl(ctx context.Context, args ...string) error {
	ctx, cancel := context.WithTimeout(ctx, systemctlTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, "systemctl", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("systemctl %s: %w: %s; journalctl -u reeve-server -u reeve-agent may say why", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

func uninstallCommand() *cobra.Command {
	var dataDir string
	var yes, keepData bool
	cmd := &cobra.Command{
		Use:   "uninstall",
		Short: "Take away what install did, and everything that reeve made on this host",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := needRoot("reeve uninstall"); err != nil {
				return err
			}
			if !yes {
				if err := confirm(cmd.InOrStdin(), cmd.OutOrStdout(), "Stop reeve here, remove its pods, its data in "+dataDir+" and the program?"); err != nil {
					return err
				}
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), cleanupTimeout)
			defer cancel()
			return uninstall(ctx, dataDir, keepData)
		},
	}
	cmd.Flags().StringVar(&dataDir, "data-dir", datadir.Default, "folder of all state")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	cmd.Flags().BoolVar(&keepData, "keep-data", false, "keep the data-dir: the control plane's state and the images")
	return cmd
}

func uninstall(ctx context.Context, dataDir string, keepData bool) error {
	removed := false
	for _, role := range []string{"server", "agent"} {
		path := filepath.Join(unitFolder, unitName(role))
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err := systemctl(ctx, "disable", "--now", unitName(role)); err != nil {
			return err
		}
		if err := os.Remove(path); err != nil {
			return fmt.Errorf("remove the unit: %w", err)
		}
		removed = true
	}
	if removed {
		if err := systemctl(ctx, "daemon-reload"); err != nil {
			return err
		}
	}
	if _, err := os.Stat(dataDir); err == nil {
		log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
		if err := cleanup(ctx, log, dataDir, keepData); err != nil {
			return err
		}
	}
	if err := os.Remove(installedProgram); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the program: %w", err)
	}
	return nil
}
