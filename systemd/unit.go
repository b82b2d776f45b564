package systemd

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Unit is a service of reeve's, as `reeve install` writes it. Render turns it into text.
type Unit struct {
	// Description of the service, one line.
	Description string
	// Exec is the program with its arguments; the program's path is absolute.
	Exec []string
	// After and Wants name units to start behind, for example "network-online.target".
	After, Wants []string
	// Environment of the service, "NAME=value".
	Environment []string
	// EnvironmentFile holds further variables; it need not exist.
	EnvironmentFile string
	// Notes are kept in the file for ReadNote; systemd skips them. Names are letters.
	Notes map[string]string
	// WatchdogSec restarts a service that has not pinged for so long; 0 for no watchdog.
	WatchdogSec int
	// StopSec is how long the service may take to stop before it is killed. Default: 30.
	StopSec int
}

// Render writes the unit file. The choices: Type=notify, so that what comes after waits for real readiness; Delegate, so
// that systemd leaves the cgroups below alone; KillMode=mixed, so that only the main process is asked to stop and the pods'
// helpers, which have scopes of their own, never are; Restart=always, since a node without its agent is no node; and no
// limit on tasks and memory locks, which pods would inherit. No exit code keeps it from being restarted: what is wrong with
// the configuration at boot may mend itself (a clock that is set late, an address that DHCP gives later).
func (u Unit) Render() (string, error) {
	var errs []error
	if u.Description == "" || strings.ContainsAny(u.Description, "\r\n") {
		errs = append(errs, fmt.Errorf("Description %q: give one line", u.Description))
	}
	if len(u.Exec) == 0 || !strings.HasPrefix(u.Exec[0], "/") {
		errs = append(errs, errors.New("Exec: give a program with an absolute path"))
	}
	for _, e := range u.Environment {
		if name, _, ok := strings.Cut(e, "="); !ok || name == "" {
			errs = append(errs, fmt.Errorf("Environment %q: use NAME=value", e))
		}
	}
	for _, s := range append(append(append([]string{}, u.Exec...), u.Environment...), append(append(u.After, u.Wants...), append(slices.Collect(maps.Values(u.Notes)), u.EnvironmentFile)...)...) {
		if strings.ContainsAny(s, "\r\n\x00") {
			errs = append(errs, fmt.Errorf("%q: a unit file has one line a setting", s))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return "", fmt.Errorf("render systemd unit: %w", err)
	}
	if u.StopSec == 0 {
		u.StopSec = 30
	}

	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("[Unit]")
	line("Description=%s", escapePercent(u.Description))
	for _, w := range u.Wants {
		line("Wants=%s", w)
	}
	for _, a := range u.After {
		line("After=%s", a)
	}
	line("StartLimitIntervalSec=0")
	line("")
	line("[Service]")
	line("Type=notify")
	line("NotifyAccess=all")
	exec := make([]string, len(u.Exec))
	for i, a := range u.Exec {
		exec[i] = quote(a, true)
	}
	line("ExecStart=%s", strings.Join(exec, " "))
	for _, e := range u.Environment {
		line("Environment=%s", quote(e, false))
	}
	if u.EnvironmentFile != "" {
		line("EnvironmentFile=-%s", escapePercent(u.EnvironmentFile))
	}
	line("KillMode=mixed")
	line("Delegate=yes")
	line("Restart=always")
	line("RestartSec=1")
	line("TimeoutStartSec=0")
	line("TimeoutStopSec=%d", u.StopSec)
	if u.WatchdogSec > 0 {
		line("WatchdogSec=%d", u.WatchdogSec)
	}
	line("OOMScoreAdjust=-999")
	line("LimitNOFILE=1048576")
	line("LimitNPROC=infinity")
	line("LimitCORE=infinity")
	line("TasksMax=infinity")
	line("")
	line("[Install]")
	line("WantedBy=multi-user.target")
	if len(u.Notes) > 0 {
		line("")
		line(notesSection)
		for _, name := range slices.Sorted(maps.Keys(u.Notes)) {
			line("%s=%s", name, u.Notes[name])
		}
	}
	return b.String(), nil
}

// notesSection is one that systemd skips: its name begins with X-.
const notesSection = "[X-Reeve]"

// ReadNote finds a note in the text of a unit file, "" if it has none of that name.
func ReadNote(text, name string) string {
	_, notes, _ := strings.Cut(text, "\n"+notesSection+"\n")
	for line := range strings.Lines(notes) {
		if value, ok := strings.CutPrefix(strings.TrimRight(line, "\n"), name+"="); ok {
			return value
		}
	}
	return ""
}

// quote protects an argument from systemd's own parsing: white space, quotes, backslashes, specifiers (%) and, in command
// lines, variables ($).
func quote(s string, command bool) string {
	s = escapePercent(s)
	if command {
		s = strings.ReplaceAll(s, "$", "$$")
	}
	if s != "" && !strings.ContainsAny(s, " \t\"'\\;") {
		return s
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

func escapePercent(s string) string { return strings.ReplaceAll(s, "%", "%%") }
