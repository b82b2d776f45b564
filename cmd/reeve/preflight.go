package main

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/reevehq/reeve/internal/datadir"
	"github.com/reevehq/reeve/internal/version"
)

// needRoot refuses to start a role that changes the host without the right to.
func needRoot(what string) error {
	if os.Geteuid() != 0 {
		return badConfig(fmt.Errorf("%s needs root: it makes namespaces, mounts, cgroups and packet rules; run it with sudo", what))
	}
	return nil
}

// needPort refuses a TCP address that cannot be listened on, before anything is made.
func needPort(flag, address string) error {
	l, err := net.Listen("tcp", address)
	if err == nil {
		return l.Close()
	}
	if errors.Is(err, syscall.EADDRINUSE) {
		return badConfig(fmt.Errorf("%s: %s is in use by another program; stop it or give another port", flag, address))
	}
	return badConfig(fmt.Errorf("%s: cannot listen on %s: %w", flag, address, err))
}

// needCommands names every command that is missing, with the Debian package that brings it.
func needCommands(packages map[string]string) error {
	var missing, install []string
	for _, command := range slices.Sorted(maps.Keys(packages)) {
		if _, err := exec.LookPath(command); err != nil {
			missing, install = append(missing, command), append(install, packages[command])
		}
	}
	if len(missing) == 0 {
		return nil
	}
	slices.Sort(install)
	install = slices.Compact(install)
	return badConfig(fmt.Errorf("not found in PATH: %s; install it (Debian, Ubuntu: apt-get install %s)", strings.Join(missing, ", "), strings.Join(install, " ")))
}

// needClock refuses a clock that is before this program was built: certificates made with it would be valid for nobody.
func needClock(now time.Time) error {
	built, err := time.Parse(time.RFC3339, version.BuildDate())
	if err != nil {
		return nil // a development build without a date
	}
	if now.Before(built.Add(-24 * time.Hour)) {
		return badConfig(fmt.Errorf("the clock says %s, before this program was built (%s); set the time (timedatectl set-ntp true) and start again",
			now.UTC().Format(time.RFC3339), version.BuildDate()))
	}
	return nil
}

// takeNode makes this process the one that runs this host's pods with the data-dir, and records its build there; release
// gives the role back. Whatever runs pods takes the same role: two would fight over the same ones. preflight, which may be
// nil, then looks at the host, before anything is written.
func takeNode(dir datadir.Dir, preflight func() error) (release func(), err error) {
	held, err := dir.Hold("agent")
	if err != nil {
		return nil, badConfig(err)
	}
	defer func() {
		if err != nil {
			held()
		}
	}()
	if preflight != nil {
		if err := preflight(); err != nil {
			return nil, err
		}
	}
	if _, err := dir.CheckStamp(); err != nil {
		return nil, badConfig(err)
	}
	return held, dir.WriteStamp()
}

func hostPort(host string, port int) string { return net.JoinHostPort(host, strconv.Itoa(port)) }
