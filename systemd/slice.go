package systemd

import (
	"context"
	"fmt"
	"math"
	"sync"
	"time"

	sddbus "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
)

// NoLimit takes a limit of a Slice away.
const NoLimit = -1

// Slice is a cgroup of systemd's for other units, with limits that hold for all of them together. Its name tells where it
// lies: a-b.slice is in a.slice. A limit of 0 is left as it is.
type Slice struct {
	Name        string
	Description string
	CPUWeight   int64         // 1 to 10000
	CPUQuota    time.Duration // of every second; NoLimit: all
	MemoryMax   int64         // bytes
	TasksMax    int64
}

// Slices makes, changes and ends slices over one connection, which it opens when it is first needed and again when it has
// broken. What systemd does not know of it may undo: the limits that files of a slice were given, and the slice itself
// with its last unit. The zero value works; it is safe for concurrent use. Close lets go of the connection, which has two
// goroutines of its library's.
type Slices struct {
	mu   sync.Mutex
	conn *sddbus.Conn
}

func (s *Slices) connection(ctx context.Context) (*sddbus.Conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != nil && s.conn.Connected() {
		return s.conn, nil
	}
	if s.conn != nil {
		s.conn.Close()
		s.conn = nil
	}
	// The connection lives as long as the context that it was opened with: not this call's.
	conn, err := connect(context.WithoutCancel(ctx))
	if err != nil {
		return nil, err
	}
	s.conn = conn
	return conn, nil
}

// Close may be repeated; a call after it opens the connection again.
func (s *Slices) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn != nil {
		s.conn.Close()
		s.conn = nil
	}
}

// Set makes the slice, and those that its name lies in, or brings the one that is there to these limits.
func (s *Slices) Set(ctx context.Context, slice Slice) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	conn, err := s.connection(ctx)
	if err != nil {
		return fmt.Errorf("make slice %q: %w", slice.Name, err)
	}
	job := make(chan string, 1)
	_, err = conn.StartTransientUnitContext(ctx, slice.Name, "replace", slice.properties(), job)
	if is(err, "UnitExists") {
		if err := conn.SetUnitPropertiesContext(ctx, slice.Name, true, slice.limits()...); err != nil {
			return fmt.Errorf("change slice %q: %w", slice.Name, err)
		}
		// One that another unit only named is loaded and not started.
		_, err = conn.StartUnitContext(ctx, slice.Name, "replace", job)
	}
	if err == nil {
		err = finish(ctx, job)
	}
	if err != nil {
		return fmt.Errorf("make slice %q: %w", slice.Name, err)
	}
	return nil
}

// Stop ends the slice with every unit in it, and waits until they are gone. One that is not there is no error.
func (s *Slices) Stop(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	conn, err := s.connection(ctx)
	if err != nil {
		return fmt.Errorf("stop slice %q: %w", name, err)
	}
	if err := stopUnit(ctx, conn, name); err != nil {
		return fmt.Errorf("stop slice %q: %w", name, err)
	}
	return nil
}

func (s Slice) properties() []sddbus.Property {
	return append([]sddbus.Property{
		sddbus.PropDescription(s.Description),
		// Accounting is what gives the units below their controllers.
		{Name: "CPUAccounting", Value: dbus.MakeVariant(true)},
		{Name: "MemoryAccounting", Value: dbus.MakeVariant(true)},
		{Name: "IOAccounting", Value: dbus.MakeVariant(true)},
		{Name: "TasksAccounting", Value: dbus.MakeVariant(true)},
		{Name: "DefaultDependencies", Value: dbus.MakeVariant(false)},
	}, s.limits()...)
}

// quotaStep is how finely systemd keeps a quota: whole percents of a CPU.
const quotaStep = 10 * time.Millisecond

func (s Slice) limits() []sddbus.Property {
	var out []sddbus.Property
	add := func(name string, v int64) {
		switch {
		case v == NoLimit:
			out = append(out, sddbus.Property{Name: name, Value: dbus.MakeVariant(uint64(math.MaxUint64))})
		case v > 0:
			out = append(out, sddbus.Property{Name: name, Value: dbus.MakeVariant(uint64(v))})
		}
	}
	quota := int64(s.CPUQuota)
	if quota > 0 {
		quota = (s.CPUQuota + quotaStep - 1).Truncate(quotaStep).Microseconds()
	}
	add("CPUWeight", s.CPUWeight)
	add("CPUQuotaPerSecUSec", quota)
	add("MemoryMax", s.MemoryMax)
	add("TasksMax", s.TasksMax)
	return out
}
