package systemd

import (
	"context"
	"fmt"

	sddbus "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
)

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
	if len(s.PIDs) == 0 {
		return fmt.Errorf("start scope %q: no processes given", s.Name)
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	conn, err := connect(ctx)
	if err != nil {
		return fmt.Errorf("start scope %q: %w", s.Name, err)
	}
	defer conn.Close()
	job := make(chan string, 1)
	_, err = conn.StartTransientUnitContext(ctx, s.Name, "fail", s.properties(), job)
	if is(err, "UnitExists") {
		if err := conn.AttachProcessesToUnit(ctx, s.Name, "", s.PIDs); err != nil {
			return fmt.Errorf("add processes to scope %q: %w", s.Name, err)
		}
		return nil
	}
	if err == nil {
		err = finish(ctx, job)
	}
	if err != nil {
		return fmt.Errorf("start scope %q: %w", s.Name, err)
	}
	return nil
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
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	conn, err := connect(ctx)
	if err != nil {
		return fmt.Errorf("stop scope %q: %w", name, err)
	}
	defer conn.Close()
	if err := stopUnit(ctx, conn, name); err != nil {
		return fmt.Errorf("stop scope %q: %w", name, err)
	}
	return nil
}
