package proxy

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/reevehq/reeve/internal/logkey"
	"github.com/reevehq/reeve/internal/xtables"
	"github.com/reevehq/reeve/proxy/foreign"
	"github.com/reevehq/reeve/proxy/foreign/firewalld"
	"github.com/reevehq/reeve/proxy/plan"
)

// firewalls keeps our accept rules in other people's firewalls. One goroutine (run) looks, whenever the kernel tells of a
// change, the plans ask for other ports, or a legacy table, of which the kernel tells nothing, may have changed.
type firewalls struct {
	cfg    Config
	events *events
	wake   chan struct{} // holds one token: look again

	mu    sync.Mutex
	known bool // set was called: whose traffic passes is known
	facts plan.Facts
	ports []uint16
}

// firewallPause separates two looks: a firewall that reloads makes many changes.
const firewallPause = 200 * time.Millisecond

func newFirewalls(cfg Config, e *events) *firewalls {
	return &firewalls{cfg: cfg, events: e, wake: make(chan struct{}, 1)}
}

func foreignConfig(cfg Config, facts plan.Facts) foreign.Config {
	return foreign.Config{
		Facts: facts, Table: tableName(cfg.ChainPrefix), Prefix: cfg.ChainPrefix, MarkBit: *cfg.MasqueradeBit,
		PodAddresses: cfg.PodAddresses, ServiceLabel: cfg.serviceLabel, IPTables: xtables.Flavor(cfg.IPTables),
	}
}

// set says whose traffic passes, and the health check node ports that must be reachable.
func (f *firewalls) set(facts plan.Facts, ports []uint16) {
	slices.Sort(ports)
	f.mu.Lock()
	same := f.known && slices.Equal(ports, f.ports) && slices.Equal(facts.ClusterCIDRs, f.facts.ClusterCIDRs)
	f.known, f.facts, f.ports = true, facts, ports
	f.mu.Unlock()
	if !same {
		f.look()
	}
}

func (f *firewalls) look() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

func (f *firewalls) run(ctx context.Context) {
	keeper := foreign.NewKeeper(foreignConfig(f.cfg, plan.Facts{}))
	ask := firewalld.New(f.look)
	defer ask.Close()
	keeper.AskFirewalld(ask)
	var wg sync.WaitGroup
	defer wg.Wait()
	listened := foreign.NewKeeper(foreignConfig(f.cfg, plan.Facts{}))
	wg.Go(func() {
		if err := listened.Listen(ctx, f.look); err != nil {
			f.cfg.Logger.Warn("Lost the events of other firewalls, looking at them by the clock", logkey.Err, err)
		}
	})
	clock := time.NewTicker(f.cfg.CanaryPeriod)
	defer clock.Stop()
	told := map[string]bool{}
	for {
		select {
		case <-ctx.Done():
			return
		case <-f.wake:
		case <-clock.C:
		}
		f.mu.Lock()
		known, facts, ports := f.known, f.facts, f.ports
		f.mu.Unlock()
		if !known {
			continue
		}
		keeper.SetConfig(foreignConfig(f.cfg, facts))
		changed, troubles, err := keeper.Keep(ctx, ports)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			f.cfg.Logger.Warn("Failed to look at other firewalls", logkey.Err, err)
		}
		for _, c := range changed {
			f.cfg.Logger.Info("Let pods' and Services' traffic pass another firewall", "firewall", c)
		}
		still := map[string]bool{}
		for _, t := range troubles {
			still[t.String()] = true
			if !told[t.String()] {
				f.cfg.Logger.Warn("Another firewall drops pods' and Services' traffic", "firewall", t.Where, logkey.Err, t.Err)
				f.events.node("FirewallDropsServices", t.String())
			}
		}
		told = still
		if !sleep(ctx, firewallPause) {
			return
		}
	}
}
