package systemd

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/coreos/go-systemd/v22/util"
)

// Running reports that systemd is this host's service manager (PID 1), whether or not it started this process.
func Running() bool { return util.IsRunningSystemd() }

// Notifier tells the service manager about this process. Without NOTIFY_SOCKET every call does nothing and is no error:
// the process was not started by one.
type Notifier struct {
	log *slog.Logger
}

// NewNotifier reports failures to log, since a deaf service manager must not stop a daemon.
func NewNotifier(log *slog.Logger) *Notifier {
	if log == nil {
		log = slog.Default()
	}
	return &Notifier{log: log}
}

// Enabled reports that a service manager listens.
func (n *Notifier) Enabled() bool { return os.Getenv("NOTIFY_SOCKET") != "" }

// Ready says that start-up is complete (READY=1), with a status for `systemctl status`.
func (n *Notifier) Ready(status string) {
	n.send(daemon.SdNotifyReady, statusLine(status))
}

// Stopping says that the process is shutting down (STOPPING=1).
func (n *Notifier) Stopping(status string) {
	n.send(daemon.SdNotifyStopping, statusLine(status))
}

// Status replaces the line that `systemctl status` shows.
func (n *Notifier) Status(status string) { n.send(statusLine(status)) }

// MainPID tells that another process is now the service's main one.
func (n *Notifier) MainPID(pid int) { n.send(fmt.Sprintf("MAINPID=%d", pid)) }

func (n *Notifier) send(lines ...string) {
	if !n.Enabled() {
		return
	}
	if _, err := daemon.SdNotify(false, strings.Join(lines, "\n")); err != nil {
		n.log.Warn("Failed to notify the service manager", "err", err)
	}
}

// statusLine keeps a status on its one line: a line break would begin another assignment.
func statusLine(status string) string {
	return "STATUS=" + strings.Join(strings.FieldsFunc(status, func(r rune) bool { return r == '\n' || r == '\r' }), " ")
}

// Watchdog pings the service manager at half the interval that the unit's WatchdogSec asks for, as long as healthy
// answers nil: a process that is alive but stuck is restarted. It blocks until ctx ends, and returns at once where no
// watchdog is wanted.
func (n *Notifier) Watchdog(ctx context.Context, healthy func(context.Context) error) {
	interval, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		n.log.Warn("Failed to read the watchdog's interval, running without", "err", err)
		return
	}
	if interval <= 0 {
		return
	}
	tick := time.NewTicker(interval / 2)
	defer tick.Stop()
	for {
		check, cancel := context.WithTimeout(ctx, interval/2)
		err := healthy(check)
		cancel()
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			n.send(daemon.SdNotifyWatchdog)
		} else {
			n.log.Error("Kept a watchdog ping back", "err", err)
			n.Status("unhealthy: " + err.Error())
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}
