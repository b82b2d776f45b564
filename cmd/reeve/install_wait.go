package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/reevehq/reeve/internal/datadir"
	"github.com/reevehq/reeve/systemd"
)

const (
	// stateEvery is how often the service's state is asked for: each time later, since a slow host has better to do.
	stateSoonest = 200 * time.Millisecond
	stateLatest  = 3 * time.Second
	// progressEvery is how often install says that nothing has changed.
	progressEvery = 15 * time.Second
	// journalTimeout bounds reading the service's last messages.
	journalTimeout = 20 * time.Second
	journalLines   = "15"
)

// await waits until the service has told systemd that it is ready, which it does once its Node has been reported Ready.
func (in *installation) await(ctx context.Context, unit, old string, dir datadir.Dir) error {
	began := time.Now()
	var services systemd.Services
	defer services.Close()
	w := readyWait{
		unit: unit, old: old, limit: in.wait, soonest: stateSoonest, latest: stateLatest, progress: progressEvery, out: in.out,
		read: func(ctx context.Context) (systemd.Service, error) { return services.Read(ctx, unit) },
	}
	if err := w.run(ctx); err != nil {
		if ctx.Err() == nil {
			fmt.Fprint(in.out, lastMessages(ctx, unit))
		}
		return err
	}
	in.say("%s is ready after %v, and starts with the host.", unit, time.Since(began).Round(time.Second))
	if in.role == "server" {
		in.say("  reeve kubectl get nodes    with %s", dir.AdminKubeconfig())
		in.say("  reeve token                the token with which other hosts join")
	}
	return nil
}

// lastMessages are the end of the service's journal, or nothing.
func lastMessages(ctx context.Context, unit string) string {
	ctx, cancel := context.WithTimeout(ctx, journalTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, "journalctl", "--unit", unit, "--lines", journalLines, "--output", "cat", "--no-pager", "--quiet").Output()
	if err != nil || len(out) == 0 {
		return ""
	}
	return "The last messages of " + unit + ":\n  " + strings.ReplaceAll(strings.TrimSpace(string(out)), "\n", "\n  ") + "\n"
}

// readyWait waits for a service that was asked to start.
type readyWait struct {
	unit            string
	old             string // the invocation that is being replaced, "" for none
	limit           time.Duration
	soonest, latest time.Duration // between two looks
	progress        time.Duration
	read            func(context.Context) (systemd.Service, error)
	out             io.Writer
}

func (w *readyWait) run(ctx context.Context) error {
	outer := ctx
	ctx, cancel := context.WithTimeout(ctx, w.limit)
	defer cancel()
	began, pause := time.Now(), w.soonest
	said, saidAt, last := "", time.Time{}, ""
	for {
		s, err := w.read(ctx)
		if err == nil {
			done, err := w.judge(s)
			if done || err != nil {
				return err
			}
			last = describe(s)
		} else if ctx.Err() == nil {
			last = err.Error() // systemd may be reloading
		}
		if last != said || time.Since(saidAt) >= w.progress {
			fmt.Fprintf(w.out, "%6v  %s\n", time.Since(began).Round(time.Second), last)
			said, saidAt = last, time.Now()
		}
		select {
		case <-time.After(pause):
			pause = min(pause*5/4, w.latest)
		case <-ctx.Done():
			if outer.Err() != nil {
				return fmt.Errorf("stopped waiting for %s, which goes on starting (%s): see systemctl status %s", w.unit, last, w.unit)
			}
			return fmt.Errorf("%s is not ready after %v (%s) and goes on trying; journalctl -u %s tells why; --wait gives it longer", w.unit, w.limit, last, w.unit)
		}
	}
}

// judge says whether the service is ready, or cannot become so by waiting.
func (w *readyWait) judge(s systemd.Service) (ready bool, err error) {
	if w.old != "" && s.Invocation == w.old {
		return false, nil // the one from before, still stopping
	}
	switch {
	case s.Active == "active":
		return true, nil
	case s.Active == "failed":
		return false, fmt.Errorf("%s has failed; journalctl -u %s tells why", w.unit, w.unit)
	case s.Exited && s.ExitCode == exitConfig:
		return false, badConfig(fmt.Errorf("%s cannot start as it is configured (its last message says why); mend that and run install again, or take it away with reeve uninstall", w.unit))
	case s.Active == "inactive" && s.Invocation != "":
		return false, fmt.Errorf("%s was stopped by someone else", w.unit)
	}
	return false, nil
}

// describe is a line for people.
func describe(s systemd.Service) string {
	text := s.Status
	if text == "" {
		text = s.Active + " (" + s.Sub + ")"
	}
	if s.Restarts > 0 {
		text += fmt.Sprintf("; restarted %d times", s.Restarts)
		if s.Exited && s.ExitCode != 0 {
			text += fmt.Sprintf(", last exit code %d", s.ExitCode)
		}
	}
	return text
}

// refuseUnderService tells of a service that would start again what is being removed.
func refuseUnderService(ctx context.Context, units, dataDir string) error {
	if !systemd.Running() {
		return nil
	}
	var services systemd.Services
	defer services.Close()
	for _, role := range installRoles {
		if was := installedDataDir(filepath.Join(units, unitName(role))); was == "" || was != filepath.Clean(dataDir) {
			continue
		}
		s, err := services.Read(ctx, unitName(role))
		if err != nil {
			return err
		}
		if s.Active != "inactive" && s.Active != "failed" {
			return badConfig(errors.New(unitName(role) + " runs with this data-dir and would start again; use reeve uninstall, or stop it first (systemctl stop " + unitName(role) + ")"))
		}
	}
	return nil
}
