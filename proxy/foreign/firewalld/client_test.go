package firewalld

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/reevehq/reeve/internal/testns"
)

// fake answers as firewalld does, on a bus of its own, and can do what a real one does rarely. With a real one, package
// proxy tests.
type fake struct {
	mu      sync.Mutex
	sources map[string]string
	rules   map[string][]string
	strict  string
	refuse  bool
	hang    chan struct{} // nil: answers at once
}

func failure(text string) *dbus.Error {
	return dbus.NewError(name+".Exception", []any{text})
}

func (f *fake) GetDefaultZone() (string, *dbus.Error) {
	f.mu.Lock()
	hang := f.hang
	f.mu.Unlock()
	if hang != nil {
		<-hang
	}
	return "public", nil
}

type fakeZone struct{ *fake }

func (f fakeZone) GetZones() ([]string, *dbus.Error) { return []string{"public", "trusted"}, nil }

func (f fakeZone) GetActiveZones() (map[string]map[string][]string, *dbus.Error) {
	return map[string]map[string][]string{"public": {"interfaces": {"eth0"}}}, nil
}

func (f fakeZone) GetRichRules(zone string) ([]string, *dbus.Error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string{}, f.rules[zone]...), nil
}

func (f fakeZone) GetZoneOfSource(source string) (string, *dbus.Error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.sources[source], nil
}

func (f fakeZone) AddSource(zone, source string) (string, *dbus.Error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.refuse {
		return "", dbus.NewError(name+".NotAuthorizedException", []any{"not authorized"})
	}
	if in := f.sources[source]; in != "" {
		return "", failure("ZONE_CONFLICT: '" + source + "' already bound to '" + in + "'")
	}
	f.sources[source] = zone
	return zone, nil
}

func (f fakeZone) RemoveSource(zone, source string) (string, *dbus.Error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.sources[source] != zone {
		return "", failure("UNKNOWN_SOURCE: '" + source + "' is not in any zone")
	}
	delete(f.sources, source)
	return zone, nil
}

func (f fakeZone) AddRichRule(zone, rule string, _ int32) (string, *dbus.Error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if slices.Contains(f.rules[zone], rule) {
		return "", failure("ALREADY_ENABLED: " + rule)
	}
	f.rules[zone] = append(f.rules[zone], rule)
	return zone, nil
}

func (f fakeZone) RemoveRichRule(zone, rule string) (string, *dbus.Error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rules[zone] = slices.DeleteFunc(f.rules[zone], func(r string) bool { return r == rule })
	return zone, nil
}

type fakeProperties struct{ *fake }

func (f fakeProperties) Get(_, property string) (dbus.Variant, *dbus.Error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if property != "StrictForwardPorts" || f.strict == "" {
		return dbus.Variant{}, dbus.MakeFailedError(errors.New("no such property"))
	}
	return dbus.MakeVariant(f.strict), nil
}

// newBus makes a system bus for the test.
func newBus(t *testing.T) {
	t.Helper()
	daemon := testns.NeedBinary(t, "dbus-daemon")
	dir := t.TempDir()
	bus := dir + "/bus"
	const all = `<allow user="*"/><allow own="*"/><allow send_destination="*"/><allow receive_sender="*"/>`
	conf := `<busconfig><type>system</type><listen>unix:path=` + bus + `</listen><auth>EXTERNAL</auth><policy context="default">` + all + `</policy></busconfig>`
	if err := os.WriteFile(dir+"/conf", []byte(conf), 0o644); err != nil {
		t.Fatal(err)
	}
	// Its standard input ends with the test binary, and it with that.
	cmd := exec.Command("sh", "-c", `"$0" --config-file="$1" --nofork --nopidfile & read -r _; kill -9 $!; wait`, daemon, dir+"/conf")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = in.Close(), cmd.Wait() })
	testns.Eventually(t, "a bus", func() bool {
		c, err := net.Dial("unix", bus)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	})
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path="+bus)
}

// newFake puts a fake firewalld on the bus.
func newFake(t *testing.T, f *fake) *dbus.Conn {
	t.Helper()
	f.sources, f.rules = map[string]string{}, map[string][]string{}
	conn, err := dbus.ConnectSystemBus()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	lower := func(names ...string) map[string]string {
		out := map[string]string{}
		for _, n := range names {
			out[n] = strings.ToLower(n[:1]) + n[1:]
		}
		return out
	}
	if err := errors.Join(
		conn.ExportWithMap(f, lower("GetDefaultZone"), path, name),
		conn.ExportWithMap(fakeZone{f}, lower("GetZones", "GetActiveZones", "GetRichRules", "GetZoneOfSource", "AddSource", "RemoveSource", "AddRichRule", "RemoveRichRule"), path, name+".zone"),
		conn.Export(fakeProperties{f}, path+"/config", "org.freedesktop.DBus.Properties"),
	); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.RequestName(name, dbus.NameFlagDoNotQueue); err != nil {
		t.Fatal(err)
	}
	return conn
}

var pods = Wants{Pods: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")}, Ports: []uint16{31000}}

// Without a bus and without a firewalld on it there is nothing to do; one that comes is told of, asked, and told of again when
// it was reloaded.
func TestFirewalldComesAndReloads(t *testing.T) {
	t.Setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path="+t.TempDir()+"/none")
	told := make(chan struct{}, 100)
	c := New(func() { told <- struct{}{} })
	defer c.Close()
	if r, err := c.Keep(t.Context(), pods); err != nil || r.Running {
		t.Fatalf("without a bus: %+v, %v", r, err)
	}
	newBus(t)
	if r, err := c.Keep(t.Context(), pods); err != nil || r.Running {
		t.Fatalf("without firewalld: %+v, %v", r, err)
	}
	f := &fake{}
	conn := newFake(t, f)
	<-told
	keep := func() (r Result) {
		testns.Eventually(t, "firewalld to be asked", func() bool {
			var err error
			if r, err = c.Keep(t.Context(), pods); err != nil {
				t.Fatal(err)
			}
			return r.Running
		})
		return r
	}
	if r := keep(); len(r.Changed) != 3 || r.ToPods || r.Strict {
		t.Errorf("the first look: %+v", r)
	}
	if r := keep(); len(r.Changed) != 0 {
		t.Errorf("a second look: %+v", r)
	}
	f.mu.Lock()
	f.sources, f.rules, f.strict = map[string]string{}, map[string][]string{}, "yes"
	f.mu.Unlock()
	if err := conn.Emit(path, name+".Reloaded"); err != nil {
		t.Fatal(err)
	}
	testns.Eventually(t, "what a reload forgot", func() bool { r := keep(); return r.Strict && len(r.Changed) == 3 })
	removed, err := Cleanup(t.Context())
	f.mu.Lock()
	if !removed || err != nil || len(f.sources)+len(f.rules["public"])+len(f.rules[trusted]) > 0 {
		t.Errorf("cleanup: %v, %v; %v %v", removed, err, f.sources, f.rules)
	}
	f.mu.Unlock()
	if removed, err := Cleanup(t.Context()); removed || err != nil {
		t.Errorf("cleanup again: %v, %v", removed, err)
	}
}

// One that refuses is an error, as often as it is asked; one that hangs costs no more than the context allows.
func TestFirewalldRefusesAndHangs(t *testing.T) {
	newBus(t)
	f := &fake{refuse: true}
	newFake(t, f)
	c := New(func() {})
	defer c.Close()
	for range 2 {
		if r, err := c.Keep(t.Context(), pods); !r.Running || err == nil || !strings.Contains(err.Error(), "not authorized") {
			t.Fatalf("%+v, %v", r, err)
		}
	}
	hang := make(chan struct{})
	f.mu.Lock()
	f.refuse, f.hang = false, hang
	f.mu.Unlock()
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := c.Keep(ctx, pods); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("a firewalld that hangs: %v", err)
	}
	close(hang)
	if r, err := c.Keep(t.Context(), pods); err != nil || len(r.Changed) == 0 {
		t.Errorf("and answers again: %+v, %v", r, err)
	}
}
