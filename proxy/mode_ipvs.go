package proxy

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/reevehq/reeve/internal/logkey"
	"github.com/reevehq/reeve/internal/xtables"
	"github.com/reevehq/reeve/proxy/ipvs"
	"github.com/reevehq/reeve/proxy/plan"
)

// IPVSConfig is what concerns ipvs mode only, by the names of KubeProxyIPVSConfiguration.
type IPVSConfig struct {
	// Scheduler spreads connections: rr, wrr, lc, wlc, sh, mh, … Default: rr.
	Scheduler string
	// ExcludeCIDRs are addresses whose virtual services the proxy never takes for its own.
	ExcludeCIDRs []netip.Prefix
	// StrictARP keeps other devices from answering ARP for the addresses of Services.
	StrictARP bool
	// TCPTimeout, TCPFinTimeout and UDPTimeout end idle connections. 0: the kernel's 15 min, 2 min and 5 min.
	TCPTimeout, TCPFinTimeout, UDPTimeout time.Duration
}

func (c IPVSConfig) check(cfg *Config) []error {
	var errs []error
	if c.Scheduler != "" {
		if err := ipvs.CheckScheduler(c.Scheduler); err != nil {
			errs = append(errs, err)
		}
	}
	for name, d := range map[string]time.Duration{"TCPTimeout": c.TCPTimeout, "TCPFinTimeout": c.TCPFinTimeout, "UDPTimeout": c.UDPTimeout} {
		if d < 0 || (d > 0 && d < time.Second) {
			errs = append(errs, fmt.Errorf("IPVS.%s %v: use at least 1s, or 0 for the kernel's", name, d))
		}
	}
	if cfg.Mode == ModeIPVS && cfg.LocalhostNodePorts {
		errs = append(errs, errors.New("LocalhostNodePorts cannot be had in mode ipvs, which sends nothing on that comes from loopback: use nftables or iptables"))
	}
	return errs
}

func ipvsConfig(cfg Config, family plan.Family) ipvs.Config {
	return ipvs.Config{
		Facts: factsOf(cfg, nodeFacts{}), Prefix: cfg.ChainPrefix, MarkBit: *cfg.MasqueradeBit, Family: family,
		Scheduler: cfg.IPVS.Scheduler, Exclude: cfg.IPVS.ExcludeCIDRs,
	}
}

func openIPVS(cfg Config, family plan.Family) (backend, error) {
	xt, err := xtables.New(xtables.Family(family), xtables.Flavor(cfg.IPTables))
	if err != nil {
		return nil, err
	}
	k, err := ipvs.Open(family, xt)
	if err != nil {
		return nil, err
	}
	if err := ipvs.Prepare(cfg.IPVS.StrictARP, setSysctl); err != nil {
		k.Close()
		return nil, err
	}
	if err := k.SetTimeouts(cfg.IPVS.TCPTimeout, cfg.IPVS.TCPFinTimeout, cfg.IPVS.UDPTimeout); err != nil {
		k.Close()
		return nil, err
	}
	c := ipvsConfig(cfg, family)
	if err := k.EnableLabels(&c); err != nil {
		cfg.Logger.Info("Firewalls of others that drop what comes in must let Services pass by themselves", logkey.IPFamily, int(family), logkey.Err, err)
	}
	return ipvs.New(c, k), nil
}

func removeIPVS(ctx context.Context, cfg Config, family plan.Family) (removed bool, err error) {
	c := ipvsConfig(cfg, family)
	if there, err := ipvs.Present(c); err != nil || !there {
		return false, err
	}
	for _, flavor := range flavors(cfg) {
		xt, err := xtables.Find(xtables.Family(family), flavor)
		if err != nil {
			continue
		}
		if err := ipvs.CleanupRules(ctx, c, xt); err != nil {
			return true, err
		}
	}
	return true, ipvs.Cleanup(c)
}

// drainIPVS lets connections end that IPVS carries; new ones take the other mode's way before they get there.
func drainIPVS(ctx context.Context, cfg Config, family plan.Family) (removed, left bool, err error) {
	c := ipvsConfig(cfg, family)
	if there, err := ipvs.Present(c); err != nil || !there {
		return false, false, err
	}
	for _, flavor := range flavors(cfg) {
		xt, err := xtables.Find(xtables.Family(family), flavor)
		if err != nil {
			continue
		}
		if err := ipvs.RetireRules(ctx, c, xt); err != nil {
			return false, true, err
		}
	}
	if left, err := ipvs.Drain(c); err != nil || left {
		return false, left, err
	}
	_, err = removeIPVS(ctx, cfg, family)
	return true, false, err
}

// tender is a backend with work that time brings: servers that drain.
type tender interface {
	// Tend answers when it wants to be called again; 0: not before the next Apply.
	Tend(ctx context.Context) (time.Duration, error)
}

// drainPeriod is how often connections of a mode before are looked at: they may live for hours.
const drainPeriod = 10 * time.Second

// tendSoon is how long after a programming its tenders are first called.
const tendSoon = time.Second

// tend calls every tender, and answers the time until the next call (0: none) and whether all went well. A backend that
// failed is to be written anew.
func (l *loop) tend(ctx context.Context) (again time.Duration, ok bool) {
	ok = true
	if l.leftover {
		if l.leftover = retire(ctx, l.cfg, true); l.leftover {
			again = drainPeriod
		}
	}
	for i, b := range l.backends {
		t, is := b.(tender)
		if !is || l.needFull[i] {
			continue
		}
		next, err := t.Tend(ctx)
		if err != nil {
			l.cfg.Logger.Warn("Failed to tend draining servers", logkey.IPFamily, int(b.Family()), logkey.Err, err)
			l.needFull[i] = true
			ok = false
		}
		if next > 0 && (again == 0 || next < again) {
			again = next
		}
	}
	return again, ok
}

func (l *loop) hasTender() bool {
	if l.leftover {
		return true
	}
	for _, b := range l.backends {
		if _, is := b.(tender); is {
			return true
		}
	}
	return false
}
