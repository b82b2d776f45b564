package systemd

import (
	"context"
	"encoding/hex"
	"fmt"

	sddbus "github.com/coreos/go-systemd/v22/dbus"
)

// Service is where a service is, as `systemctl status` shows it.
type Service struct {
	// Active and Sub are the unit's states: "activating" and "start", "active" and "running", "activating" and
	// "auto-restart", "failed", "inactive".
	Active, Sub string
	// Invocation is different after each start; "" for a unit that never ran.
	Invocation string
	// Status is the line that the service gave last.
	Status string
	// Restarts counts those by Restart= since it was started.
	Restarts int
	// Exited says that the last main process ended by itself, with ExitCode; it is false while one runs.
	Exited   bool
	ExitCode int
}

// exited is CLD_EXITED of waitid(2).
const exited = 1

// Services reads the states of services over one connection. The zero value works; it is not for concurrent use. Close lets
// go of the connection.
type Services struct {
	conn *sddbus.Conn
}

// Read asks systemd for a service's state. A unit that does not exist is "inactive". It asks for few properties: all of
// them would cost a slow board a tenth of a second.
func (r *Services) Read(ctx context.Context, name string) (Service, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	s, err := r.read(ctx, name)
	if err != nil {
		r.Close()
		return Service{}, fmt.Errorf("read the state of %s: %w", name, err)
	}
	return s, nil
}

func (r *Services) read(ctx context.Context, name string) (s Service, err error) {
	if r.conn == nil {
		// The connection lives as long as the context that it was opened with: not this call's.
		if r.conn, err = connect(context.WithoutCancel(ctx)); err != nil {
			return s, err
		}
	}
	get := func(kind, property string, into any) {
		var p *sddbus.Property
		if err != nil {
			return
		}
		if kind == "" {
			p, err = r.conn.GetUnitPropertyContext(ctx, name, property)
		} else {
			p, err = r.conn.GetUnitTypePropertyContext(ctx, name, kind, property)
		}
		if err == nil {
			err = p.Value.Store(into)
		}
	}
	var invocation []byte
	var restarts uint32
	var code, status int32
	get("", "ActiveState", &s.Active)
	get("", "SubState", &s.Sub)
	get("", "InvocationID", &invocation)
	get("Service", "StatusText", &s.Status)
	get("Service", "NRestarts", &restarts)
	get("Service", "ExecMainCode", &code)
	get("Service", "ExecMainStatus", &status)
	s.Invocation, s.Restarts, s.Exited, s.ExitCode = hex.EncodeToString(invocation), int(restarts), code == exited, int(status)
	return s, err
}

// Close may be repeated; a call after it opens the connection again.
func (r *Services) Close() {
	if r.conn != nil {
		r.conn.Close()
		r.conn = nil
	}
}
