package proxy

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/reevehq/reeve/internal/logkey"
	"github.com/reevehq/reeve/internal/xtables"
	"github.com/reevehq/reeve/proxy/iptables"
	"github.com/reevehq/reeve/proxy/plan"
)

// backend is what the loop needs of a set of rules in one family.
type backend interface {
	Family() plan.Family
	SetFacts(plan.Facts)
	Apply(ctx context.Context, changes map[plan.Name]*plan.Planned, full bool) error
	Intact(ctx context.Context) (bool, error)
	Rejected() map[plan.Name]error
	Stats() iptables.Stats
}

// Run programs Services until ctx ends, and returns when everything that it started has stopped. The rules stay. It fails
// at once when the configuration is wrong, the host has no iptables or a port is taken.
func Run(ctx context.Context, cfg Config) error {
	cfg, err := cfg.complete()
	if err != nil {
		return err
	}
	backends, err := openBackends(cfg)
	if err != nil {
		return err
	}
	if err := prepareHost(cfg); err != nil {
		return err
	}
	metrics, err := newMetrics(cfg.Registry)
	if err != nil {
		return err
	}
	track := newTracker(cfg.NodeName)
	health := newHealth(metrics, track.nodeDraining)
	stopServers, err := serve(cfg, metrics, health)
	if err != nil {
		return err
	}
	checks := newHealthChecks(cfg.Logger, health)

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() { watchAll(ctx, cfg.Client, track) })
	l := &loop{cfg: cfg, track: track, backends: backends, metrics: metrics, health: health, checks: checks}
	l.run(ctx)
	cancel()
	wg.Wait()
	return errors.Join(stopServers(), checks.close())
}

// openBackends makes one for each family of the node's addresses. IPv4 must work; IPv6 is left out, with a warning, where
// the host has none.
func openBackends(cfg Config) ([]backend, error) {
	families := map[plan.Family]bool{}
	for _, ip := range cfg.NodeIPs {
		families[plan.FamilyOf(ip)] = true
	}
	var out []backend
	var errs []error
	for _, family := range []plan.Family{plan.IPv4, plan.IPv6} {
		if !families[family] {
			continue
		}
		xt, err := xtables.New(xtables.Family(family), xtables.Flavor(cfg.IPTables))
		if err != nil {
			errs = append(errs, err)
			continue
		}
		out = append(out, iptables.New(backendConfig(cfg, family), xt))
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("open the proxy's backend: %w", errors.Join(errs...))
	}
	if err := errors.Join(errs...); err != nil {
		cfg.Logger.Warn("Proxied one IP family only", logkey.Err, err)
	}
	return out, nil
}

func backendConfig(cfg Config, family plan.Family) iptables.Config {
	return iptables.Config{Facts: factsOf(cfg, ""), Prefix: cfg.ChainPrefix, MarkBit: *cfg.MasqueradeBit, Family: family}
}

func factsOf(cfg Config, zone string) plan.Facts {
	return plan.Facts{
		NodeName: cfg.NodeName, Zone: zone, ClusterCIDRs: cfg.ClusterCIDRs, MasqueradeAll: cfg.MasqueradeAll,
		NodePortAddresses: cfg.NodePortAddresses, LocalhostNodePorts: cfg.LocalhostNodePorts,
	}
}

// CleanupConfig names what Cleanup removes. Zero values mean what they mean in Config.
type CleanupConfig struct {
	ChainPrefix   string
	MasqueradeBit *int
	IPTables      string
}

// Cleanup removes the proxy's rules of both families. What is not there is no error; a host without ip6tables is none.
func Cleanup(ctx context.Context, c CleanupConfig) error {
	cfg := Config{ChainPrefix: c.ChainPrefix, MasqueradeBit: c.MasqueradeBit, IPTables: c.IPTables}
	if cfg.ChainPrefix == "" {
		cfg.ChainPrefix = defaultChainPrefix
	}
	if cfg.MasqueradeBit == nil {
		bit := defaultMasqueradeBit
		cfg.MasqueradeBit = &bit
	}
	var errs []error
	for _, family := range []plan.Family{plan.IPv4, plan.IPv6} {
		xt, err := xtables.New(xtables.Family(family), xtables.Flavor(cfg.IPTables))
		if err != nil {
			if family == plan.IPv4 {
				errs = append(errs, err)
			}
			continue
		}
		errs = append(errs, iptables.Cleanup(ctx, backendConfig(cfg, family), xt))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("clean up the proxy's rules: %w", err)
	}
	return nil
}
