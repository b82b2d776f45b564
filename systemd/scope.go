package systemd

import (
	"context"
	"errors"
	"fmt"
	"time"

	sddbus "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
)

// scopeTimeout bounds the calls for one unit: systemd answers in milliseconds unless it hangs.
const scopeTimeout = 10 * time.Second

// ErrNoSystemd is returned where systemd is not the host's service manager.
var ErrNoSystemd = errors.New("systemd is not running on this host")

// Scope asks systemd for a transient scope: a cgroup of its own, outside this service's, for processes that must outlive
// it.
type Scope struct {
	// Name ends with ".scope", for example "reeve-containerd.scope".
	Name string
	// Description for `systemctl status`.
	Description string
	// Slice to put it in. Default: system.slice.
	Slice string
	// PIDs are moved into the new scope. At least one; a scope without processes ends.
	PIDs []uint32
	// Delegate leaves the cgroup's subtree to the processes. systemd then never touches what is under it.
	Delegate bool
}

// StartScope makes the scope and waits until its processes are in it. A scope of that name that still runs gets the
// processes added instead. ErrNoSystemd where there is no systemd.
func StartScope(ctx context.Context, s Scope) error {
	if !Running() {
		return fmt.Errorf("start scope %q: %w", s.Name, ErrNoSystemd)
	}
	if len(s.PIDs) == 0 {
		return fmt.Errorf("start scope %q: no processes given", s.Name)
	}
	ctx, cancel := context.WithTimeout(ctx, scopeTimeout)
	defer cancel()
	conn, err := sddbus.NewSystemConnectionContext(ctx)
	if err != nil {
		return fmt.Errorf("start scope %q: connect to systemd: %w", s.Name, err)
	}
	defer conn.Close()
	done := make(chan string, 1)
	_, err = conn.StartTransientUnitContext(ctx, s.Name, "fail", s.properties(), done)
	var busErr dbus.Error
	if errors.As(err, &busErr) && busErr.Name == "org.freedesktop.systemd1.UnitExists" {
		if err := conn.AttachProcessesToUnit(ctx, s.Name, "", s.PIDs); err != nil {
			return fmt.Errorf("add processes to scope %q: %w", s.Name, err)
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("start scope %q: %w", s.Name, err)
	}
	select {
	case result := <-done:
		if result != "done" {
			return fmt.Errorf("start scope %q: systemd's job ended as %q", s.Name, result)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("start scope %q: wait for systemd's job: %w", s.Name, ctx.Err())
	}
}

func (s Scope) properties() []sddbus.Property {
	slice := s.Slice
	if slice == "" {
		slice = "system.slice"
	}
	return []sddbus.Property{
		sddbus.PropDescription(s.Description),
		sddbus.PropSlice(slice),
		sddbus.PropPids(s.PIDs...),
		{Name: "Delegate", Value: dbus.MakeVariant(s.Delegate)},
		// The scope must not be stopped with the shutdown of user sessions, nor pull anything down with it.
		{Name: "DefaultDependencies", Value: dbus.MakeVariant(false)},
		{Name: "CollectMode", Value: dbus.MakeVariant("inactive-or-failed")},
	}
}

// StopScope ends a scope's processes (SIGTERM, then SIGKILL) and removes it. A scope that is not there is no error.
func StopScope(ctx context.Context, name string) error {
	if !Running() {
		return fmt.Errorf("stop scope %q: %w", name, ErrNoSystemd)
	}
	ctx, cancel := context.WithTimeout(ctx, scopeTimeout)
	defer cancel()
	conn, err := sddbus.NewSystemConnectionContext(ctx)
	if err != nil {
		return fmt.Errorf("stop scope %q: connect to systemd: %w", name, err)
	}
	defer conn.Close()
	done := make(chan string, 1)
	_, err = conn.StopUnitContext(ctx, name, "replace", done)
	var busErr dbus.Error
	if errors.As(err, &busErr) && busErr.Name == "org.freedesktop.systemd1.NoSuchUnit" {
		return nil
	}
	if err != nil {
		return fmt.Errorf("stop scope %q: %w", name, err)
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("stop scope %q: wait for systemd's job: %w", name, ctx.Err())
	}
}
