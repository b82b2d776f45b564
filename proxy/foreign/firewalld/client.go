package firewalld

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/godbus/dbus/v5"
)

const (
	name = "org.fedoraproject.FirewallD1"
	path = dbus.ObjectPath("/org/fedoraproject/FirewallD1")

	// callTimeout bounds one call: firewalld answers one after the other, and a reload takes seconds.
	callTimeout = 10 * time.Second
	// signalRoom holds what firewalld tells while nobody listens; each says no more than "look again".
	signalRoom = 64
)

// Result of a look.
type Result struct {
	// Running is false where no firewalld is on the bus, or it is another network namespace's: nothing was done then.
	Running bool
	Changed []string
	// ToPods tells that a policy of firewalld lets everybody send to pods.
	ToPods bool
	// Strict tells that firewalld lets pass only what it translated itself (StrictForwardPorts): no Service's traffic.
	Strict bool
	// Taken are pod ranges that somebody put in another zone, which stay there.
	Taken map[string]string
}

// Client keeps our part of firewalld's running configuration. It connects when it must. Only Keep and Close may be called,
// not at once.
type Client struct {
	changed func()

	conn  *dbus.Conn
	heard sync.WaitGroup
	// stale is set by every signal: what firewalld has may differ from last.
	stale *atomic.Bool
	asked Wants
	last  Result
	known bool // last is of asked
}

// New client, that calls changed when firewalld came, went, was reloaded or reconfigured; from then on Keep has to look.
func New(changed func()) *Client { return &Client{changed: changed} }

// Close ends the connection and leaves firewalld as it is.
func (c *Client) Close() {
	if c.conn != nil {
		_ = c.conn.Close()
		c.conn = nil
	}
	c.heard.Wait()
	c.known = false
}

// Keep makes firewalld let pass what is wanted, and what was wanted before no more. A look without need costs nothing. No
// system bus and no firewalld are no error. An error means that firewalld may let nothing of it pass.
func (c *Client) Keep(ctx context.Context, w Wants) (Result, error) {
	if err := c.connect(ctx); err != nil || c.conn == nil {
		return Result{}, err
	}
	if !c.stale.Swap(false) && c.known && w.equal(c.asked) {
		r := c.last
		r.Changed = nil
		return r, nil
	}
	c.known = false
	r, err := c.keep(ctx, w)
	if err != nil {
		return r, err
	}
	c.asked, c.last, c.known = w, r, true
	return r, nil
}

func (c *Client) keep(ctx context.Context, w Wants) (Result, error) {
	here, err := c.here(ctx)
	if err != nil || !here {
		return Result{}, err
	}
	r := Result{Running: true}
	o, err := c.observe(ctx, w)
	if err != nil {
		return r, err
	}
	changes, taken := plan(w, o)
	r.Taken = taken
	var errs []error
	for _, ch := range changes {
		if err := c.do(ctx, ch); err != nil {
			errs = append(errs, err)
			continue
		}
		r.Changed = append(r.Changed, ch.String())
	}
	r.ToPods, err = c.toPods(ctx)
	r.Strict = c.strict(ctx)
	return r, errors.Join(append(errs, err)...)
}

// connect to the system bus, unless that is so. A host without one is no error.
func (c *Client) connect(ctx context.Context) error {
	if c.conn != nil && c.conn.Connected() {
		return nil
	}
	c.Close()
	// The connection's context ends it. It lives longer than this call, but connecting is part of it.
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	giveUp := context.AfterFunc(ctx, end)
	late := time.AfterFunc(callTimeout, end)
	conn, err := dbus.ConnectSystemBus(dbus.WithContext(life))
	if err != nil {
		end()
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED) {
			return nil
		}
		return fmt.Errorf("connect to the system bus: %w", err)
	}
	signals, stale := make(chan *dbus.Signal, signalRoom), &atomic.Bool{}
	conn.Signal(signals)
	stale.Store(true)
	for _, m := range [][]dbus.MatchOption{
		{dbus.WithMatchSender(name)},
		{dbus.WithMatchSender("org.freedesktop.DBus"), dbus.WithMatchMember("NameOwnerChanged"), dbus.WithMatchArg(0, name)},
	} {
		if err := conn.AddMatchSignalContext(life, m...); err != nil {
			_ = conn.Close()
			end()
			return fmt.Errorf("listen to firewalld's signals: %w", err)
		}
	}
	if !giveUp() || !late.Stop() {
		_ = conn.Close()
		return fmt.Errorf("connect to the system bus: %w", context.DeadlineExceeded)
	}
	c.conn, c.stale = conn, stale
	c.heard.Go(func() {
		for range signals { // closed with the connection
			stale.Store(true)
			c.changed()
		}
		end()
		c.changed()
	})
	return nil
}

// here tells whether firewalld is on the bus and of this network namespace.
func (c *Client) here(ctx context.Context) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	bus := c.conn.BusObject()
	var owned bool
	if err := bus.CallWithContext(ctx, "org.freedesktop.DBus.NameHasOwner", 0, name).Store(&owned); err != nil {
		return false, fmt.Errorf("ask for firewalld on the system bus: %w", err)
	}
	if !owned {
		return false, nil
	}
	var pid uint32
	if err := bus.CallWithContext(ctx, "org.freedesktop.DBus.GetConnectionUnixProcessID", 0, name).Store(&pid); err != nil {
		return false, fmt.Errorf("ask for firewalld's process: %w", err)
	}
	its, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid))
	if errors.Is(err, os.ErrNotExist) { // it ended, or has its number in another PID namespace
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look at firewalld's network namespace: %w", err)
	}
	ours, err := os.Readlink("/proc/thread-self/ns/net")
	if err != nil {
		return false, fmt.Errorf("look at the network namespace: %w", err)
	}
	return its == ours, nil
}

// call a method of an interface below firewalld's name ("" for the main one). It starts no firewalld.
func (c *Client) call(ctx context.Context, answer any, below, method string, args ...any) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	call := c.conn.Object(name, path).CallWithContext(ctx, name+below+"."+method, dbus.FlagNoAutoStart, args...)
	err := call.Err
	if err == nil && answer != nil {
		err = call.Store(answer)
	}
	if err != nil {
		return fmt.Errorf("ask firewalld for %s: %w", method, err)
	}
	return nil
}

// says tells one of firewalld's own errors, for example "NOT_ENABLED".
func says(err error, code string) bool {
	var e dbus.Error
	return errors.As(err, &e) && strings.HasPrefix(e.Error(), code)
}

func (c *Client) observe(ctx context.Context, w Wants) (observed, error) {
	o := observed{zoneOf: map[string]string{}, rules: map[string][]string{}}
	var def string
	var active map[string]map[string][]string
	var all []string
	if err := errors.Join(
		c.call(ctx, &def, "", "getDefaultZone"),
		c.call(ctx, &active, ".zone", "getActiveZones"),
		c.call(ctx, &all, ".zone", "getZones"),
	); err != nil {
		return o, err
	}
	active[def] = nil
	o.zones = slices.Sorted(maps.Keys(active))
	var sources []string
	for _, p := range w.Pods {
		sources = append(sources, p.Masked().String())
	}
	for _, zone := range all {
		var rules []string
		if err := c.call(ctx, &rules, ".zone", "getRichRules", zone); err != nil {
			return o, err
		}
		for _, r := range rules {
			if strings.HasPrefix(r, mark) {
				o.rules[zone] = append(o.rules[zone], r)
				sources = append(sources, markedSource(r))
			}
		}
	}
	for _, s := range sources {
		if s == "" {
			continue
		}
		var zone string
		if err := c.call(ctx, &zone, ".zone", "getZoneOfSource", s); err != nil {
			return o, err
		}
		if zone != "" {
			o.zoneOf[s] = zone
		}
	}
	return o, nil
}

func (c *Client) do(ctx context.Context, ch change) (err error) {
	switch {
	case ch.remove && ch.rule != "":
		err = c.call(ctx, nil, ".zone", "removeRichRule", ch.zone, ch.rule)
	case ch.remove:
		err = c.call(ctx, nil, ".zone", "removeSource", ch.zone, ch.source)
	case ch.rule != "":
		err = c.call(ctx, nil, ".zone", "addRichRule", ch.zone, ch.rule, int32(0)) // 0: no time limit
	default:
		err = c.call(ctx, nil, ".zone", "addSource", ch.zone, ch.source)
	}
	if says(err, "ALREADY_ENABLED") || says(err, "NOT_ENABLED") || ch.remove && says(err, "UNKNOWN_SOURCE") {
		return nil
	}
	return err
}

// toPods tells whether a policy accepts what goes from everywhere to the zone of the pods. Before firewalld 0.9 there are none.
func (c *Client) toPods(ctx context.Context) (bool, error) {
	var active map[string]map[string][]string
	if err := c.call(ctx, &active, ".policy", "getActivePolicies"); err != nil {
		var e dbus.Error
		if errors.As(err, &e) && (e.Name == "org.freedesktop.DBus.Error.UnknownMethod" || e.Name == "org.freedesktop.DBus.Error.UnknownInterface") {
			return false, nil
		}
		return false, err
	}
	for policy, zones := range active {
		to := zones["egress_zones"]
		if !slices.Contains(zones["ingress_zones"], "ANY") || !slices.Contains(to, trusted) && !slices.Contains(to, "ANY") {
			continue
		}
		var settings map[string]dbus.Variant
		if err := c.call(ctx, &settings, ".policy", "getPolicySettings", policy); err != nil {
			return false, err
		}
		if target, _ := settings["target"].Value().(string); target == "ACCEPT" {
			return true, nil
		}
	}
	return false, nil
}

// strict reads firewalld's configuration. Before firewalld 2.3 nothing of this name is there.
func (c *Client) strict(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var v dbus.Variant
	call := c.conn.Object(name, path+"/config").CallWithContext(ctx, "org.freedesktop.DBus.Properties.Get", dbus.FlagNoAutoStart, name+".config", "StrictForwardPorts")
	if call.Store(&v) != nil {
		return false
	}
	set, _ := v.Value().(string)
	return set == "yes" || set == "true"
}

// Cleanup removes all that is ours, and answers whether there was anything.
func Cleanup(ctx context.Context) (bool, error) {
	c := New(func() {})
	defer c.Close()
	r, err := c.Keep(ctx, Wants{})
	return len(r.Changed) > 0, err
}
