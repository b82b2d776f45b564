package systemd

import (
	"context"
	"errors"
	"fmt"
	"time"

	sddbus "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
)

// callTimeout bounds the calls for one unit: systemd answers in milliseconds unless it hangs or the host is very slow.
const callTimeout = 30 * time.Second

// ErrNoSystemd is returned where systemd is not the host's service manager.
var ErrNoSystemd = errors.New("systemd is not running on this host")

// connect reaches systemd over the system bus or, where the host has none, over systemd's own socket.
func connect(ctx context.Context) (*sddbus.Conn, error) {
	if !Running() {
		return nil, ErrNoSystemd
	}
	conn, err := sddbus.NewWithContext(ctx)
	if err != nil {
		return nil, fmt.Errorf("connect to systemd: %w", err)
	}
	return conn, nil
}

// is tells one of systemd's own errors, for example "NoSuchUnit".
func is(err error, name string) bool {
	var e dbus.Error
	return errors.As(err, &e) && e.Name == "org.freedesktop.systemd1."+name
}

// finish waits for a job's end. Anything but "done" is an error.
func finish(ctx context.Context, job <-chan string) error {
	select {
	case result := <-job:
		if result != "done" {
			return fmt.Errorf("systemd's job ended as %q", result)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("wait for systemd's job: %w", ctx.Err())
	}
}

// stopUnit stops a unit and waits until it is gone. One that is not there is no error.
func stopUnit(ctx context.Context, conn *sddbus.Conn, name string) error {
	job := make(chan string, 1)
	_, err := conn.StopUnitContext(ctx, name, "replace", job)
	if is(err, "NoSuchUnit") {
		return nil
	}
	if err != nil {
		return err
	}
	return finish(ctx, job)
}
