package proxy

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/reevehq/reeve/internal/logkey"
	"github.com/reevehq/reeve/proxy/foreign"
	"github.com/reevehq/reeve/proxy/plan"
)

// backend is what the loop needs of a set of rules in one family.
type backend interface {
	Family() plan.Family
	SetFacts(plan.Facts)
	Apply(ctx context.Context, changes map[plan.Name]*plan.Planned, full bool) error
	Intact(ctx context.Context) (bool, error)
	Rejected() map[plan.Name]error
	Rules() map[string]int
}

// watcher is a backend that hears of foreign changes at once.
type watcher interface {
	Watch(ctx context.Context, changed func()) error
}

// healer is a backend that can mend foreign changes without writing everything. It answers what it mended.
type healer interface {
	Heal(ctx context.Context) (string, error)
}

// labeller is a backend whose Services' connections come in to the node itself. It answers the label that they bear.
type labeller interface{ Label() int }

// counter is a backend that counts the rules that its last Apply added or removed, by table.
type counter interface{ Written() map[string]int }

// closer is a backend that holds something open.
type closer interface{ Close() }

// Run programs Services until ctx ends, and returns when everything that it started has stopped. The rules stay. It fails
// at once when the configuration is wrong, the host lacks what the mode needs or a port is taken. The rules of another mode
// are removed once this one's are in place.
func Run(ctx context.Context, cfg Config) error {
	cfg, err := cfg.complete()
	if err != nil {
		return err
	}
	mode, backends, without, err := openBackends(cfg)
	if err != nil {
		return err
	}
	cfg.Mode = mode
	for _, b := range backends {
		if l, ok := b.(labeller); ok {
			cfg.serviceLabel = max(cfg.serviceLabel, l.Label())
		}
	}
	if err := prepareHost(cfg); err != nil {
		return err
	}
	if !cfg.LocalhostNodePorts {
		// The rules about to be written do not guard it any more.
		if err := closeLoopback(ctx, cfg); err != nil {
			return err
		}
	}
	metrics, err := newMetrics(cfg.Registry, mode)
	if err != nil {
		return err
	}
	track := newTracker(cfg.NodeName)
	track.needCIDR = cfg.DetectLocal == LocalNodeCIDR
	health := newHealth(metrics, track.nodeDraining)
	stopServers, err := serve(cfg, metrics, health)
	if err != nil {
		return err
	}
	told := newEvents(cfg)
	if without != nil {
		cfg.Logger.Warn("Proxied one IP family only", logkey.Err, without)
		told.node("IPFamilyNotProxied", "Services of one IP family are not programmed on the node: "+without.Error())
	}
	checks := newHealthChecks(cfg.Logger, health, told)
	firewalls := newFirewalls(cfg, told)

	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() { watchAll(ctx, cfg.Client, track) })
	l := &loop{
		cfg: cfg, track: track, backends: backends, metrics: metrics, health: health, checks: checks,
		events: told, firewalls: firewalls,
		touched: make(chan struct{}, 1),
	}
	for _, b := range backends {
		if w, ok := b.(watcher); ok {
			wg.Go(func() { l.watch(ctx, b.Family(), w) })
		}
	}
	wg.Go(func() { firewalls.run(ctx) })
	l.run(ctx)
	cancel()
	wg.Wait()
	told.stop()
	for _, b := range backends {
		if c, ok := b.(closer); ok {
			c.Close()
		}
	}
	return errors.Join(stopServers(), checks.close())
}

func factsOf(cfg Config, node nodeFacts) plan.Facts {
	f := plan.Facts{
		NodeName: cfg.NodeName, Zone: node.zone, MasqueradeAll: cfg.MasqueradeAll,
		NodePortAddresses: cfg.NodePortAddresses, LocalhostNodePorts: cfg.LocalhostNodePorts,
	}
	switch cfg.DetectLocal {
	case LocalNodeCIDR:
		f.ClusterCIDRs = node.podCIDRs()
	case LocalBridge, LocalInterfacePrefix:
		f.LocalInterface, f.LocalInterfaceIsPrefix = cfg.LocalInterface, cfg.DetectLocal == LocalInterfacePrefix
	default:
		f.ClusterCIDRs = cfg.ClusterCIDRs
	}
	return f
}

// CleanupConfig names what Cleanup removes. Zero values mean what they mean in Config.
type CleanupConfig struct {
	ChainPrefix   string
	MasqueradeBit *int
	IPTables      string
}

// Cleanup removes the proxy's rules of both families and all modes, and what it added to others' rules. What is not there
// is no error, nor is a host without the commands of a mode, which cannot have used it.
func Cleanup(ctx context.Context, c CleanupConfig) error {
	cfg := Config{ChainPrefix: c.ChainPrefix, MasqueradeBit: c.MasqueradeBit, IPTables: c.IPTables}
	if cfg.ChainPrefix == "" {
		cfg.ChainPrefix = defaultChainPrefix
	}
	if cfg.MasqueradeBit == nil {
		bit := defaultMasqueradeBit
		cfg.MasqueradeBit = &bit
	}
	// Before the rules that guard it.
	errs := []error{closeLoopback(ctx, cfg)}
	for _, k := range modes {
		for _, family := range families {
			_, err := k.remove(ctx, cfg, family)
			errs = append(errs, err)
		}
	}
	_, err := foreign.Cleanup(ctx, foreignConfig(cfg, plan.Facts{}))
	if err := errors.Join(append(errs, err)...); err != nil {
		return fmt.Errorf("clean up the proxy's rules: %w", err)
	}
	return nil
}
