package proxy

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/reevehq/reeve/internal/logkey"
	"github.com/reevehq/reeve/internal/xtables"
	"github.com/reevehq/reeve/proxy/iptables"
	"github.com/reevehq/reeve/proxy/nftables"
	"github.com/reevehq/reeve/proxy/plan"
)

// retireTimeout bounds the removal of the other modes' rules: some 40 runs of iptables on a busy host.
const retireTimeout = 30 * time.Second

var families = []plan.Family{plan.IPv4, plan.IPv6}

// kind is one mode: how its backend of a family is made, and how what it left is found and removed.
type kind struct {
	mode Mode
	// open makes one family's backend, or says why this host cannot have it.
	open func(Config, plan.Family) (backend, error)
	// remove removes what the mode left in a family, and answers whether there was anything. It looks first, and cheaply:
	// it is called where the mode was never used. What its commands are missing for cannot have been used either. The
	// configuration has the mode that runs, none when everything is to go.
	remove func(context.Context, Config, plan.Family) (removed bool, err error)
	// guardsLoopback reports rules that keep neighbours off 127.0.0.0/8. Nil: the mode has none.
	guardsLoopback func(context.Context, Config) bool
	// drain is remove for a mode that carries connections itself: it leaves what those need, and answers whether there still
	// are any. Nil: remove cuts none.
	drain func(context.Context, Config, plan.Family) (removed, left bool, err error)
}

// modes in the order in which auto tries them.
var modes []kind

func init() {
	modes = []kind{
		{ModeNFTables, openNFTables, removeNFTables, nftablesGuardLoopback, nil},
		{ModeIPTables, openIPTables, removeIPTables, iptablesGuardLoopback, nil},
		{ModeIPVS, openIPVS, removeIPVS, nil, drainIPVS},
	}
}

// autoModes are those that auto may choose.
var autoModes = []Mode{ModeNFTables, ModeIPTables}

func kindOf(m Mode) kind {
	for _, k := range modes {
		if k.mode == m {
			return k
		}
	}
	return kind{mode: m}
}

func openIPTables(cfg Config, family plan.Family) (backend, error) {
	xt, err := xtables.New(xtables.Family(family), xtables.Flavor(cfg.IPTables))
	if err != nil {
		return nil, err
	}
	return iptables.New(iptablesConfig(cfg, family), xt), nil
}

func openNFTables(cfg Config, family plan.Family) (backend, error) {
	c := nftablesConfig(cfg, family)
	nft, err := nftables.Open(c)
	if err != nil {
		return nil, err
	}
	return nftables.New(c, nft), nil
}

// openBackends makes a backend for each family of the node's addresses, and answers which mode they are of: cfg's, and for
// auto the first that works. One family must work; the other is left out where the host has none, for the reason answered
// as without.
func openBackends(cfg Config) (m Mode, all []backend, without, err error) {
	try := []Mode{cfg.Mode}
	if cfg.Mode == ModeAuto {
		try = autoModes
	}
	var errs []error
	for _, m := range try {
		b, without, err := openFamilies(cfg, kindOf(m))
		if err == nil {
			if len(errs) > 0 {
				cfg.Logger.Info("Chose the Service proxy's mode", "mode", string(m), "because", errors.Join(errs...).Error())
			}
			return m, b, without, nil
		}
		errs = append(errs, fmt.Errorf("mode %s: %w", m, err))
	}
	return "", nil, nil, errors.Join(errs...)
}

func openFamilies(cfg Config, k kind) (out []backend, without, err error) {
	wanted := map[plan.Family]bool{}
	for _, ip := range cfg.NodeIPs {
		wanted[plan.FamilyOf(ip)] = true
	}
	var errs []error
	for _, family := range families {
		if !wanted[family] {
			continue
		}
		err := hasFamily(family)
		if err == nil {
			var b backend
			if b, err = k.open(cfg, family); err == nil {
				out = append(out, b)
			}
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	if len(out) == 0 {
		return nil, nil, fmt.Errorf("open the proxy's backend: %w", errors.Join(errs...))
	}
	return out, errors.Join(errs...), nil
}

func iptablesConfig(cfg Config, family plan.Family) iptables.Config {
	return iptables.Config{Facts: factsOf(cfg, nodeFacts{}), Prefix: cfg.ChainPrefix, MarkBit: *cfg.MasqueradeBit, Family: family}
}

func nftablesConfig(cfg Config, family plan.Family) nftables.Config {
	return nftables.Config{Facts: factsOf(cfg, nodeFacts{}), Table: tableName(cfg.ChainPrefix), MarkBit: *cfg.MasqueradeBit, Family: family}
}

// tableName moves with the chains' prefix, so that two instances share no table.
func tableName(prefix string) string {
	if prefix == defaultChainPrefix {
		return "reeve-proxy"
	}
	return "reeve-proxy-" + strings.ToLower(prefix)
}

// retire removes what the other modes left of an earlier start. The rules of this one are in place. It answers whether
// connections are left that another mode carries: then it is to be called again, for only those.
func retire(ctx context.Context, cfg Config, again bool) (left bool) {
	ctx, cancel := context.WithTimeout(ctx, retireTimeout)
	defer cancel()
	for _, k := range modes {
		if k.mode == cfg.Mode || (again && k.drain == nil) {
			continue
		}
		for _, family := range families {
			var removed, some bool
			var err error
			if k.drain != nil {
				removed, some, err = k.drain(ctx, cfg, family)
				left = left || some
			} else {
				removed, err = k.remove(ctx, cfg, family)
			}
			switch {
			case err != nil && ctx.Err() == nil:
				cfg.Logger.Warn("Failed to remove the rules of another mode", "mode", string(k.mode), logkey.IPFamily, int(family), logkey.Err, err)
			case removed:
				cfg.Logger.Info("Removed the rules of another mode", "mode", string(k.mode), logkey.IPFamily, int(family))
			}
		}
	}
	return left
}

func removeIPTables(ctx context.Context, cfg Config, family plan.Family) (removed bool, err error) {
	// Either flavour may have been used by an earlier start.
	for _, flavor := range flavors(cfg) {
		xt, err := xtables.Find(xtables.Family(family), flavor)
		if err != nil {
			continue
		}
		for _, table := range []string{"nat", "filter", "mangle"} {
			if !xt.Used(table) {
				continue
			}
			saved, err := xt.Save(ctx, table)
			if err != nil {
				return removed, err
			}
			found := xtables.ParseSave(saved)
			if cfg.Mode != "" { // another mode's, that keeps the hint
				found.Chains = slices.DeleteFunc(found.Chains, func(c string) bool { return c == hintChain(cfg) })
			}
			if !found.Has(cfg.ChainPrefix + "-") {
				continue
			}
			if err := iptables.Cleanup(ctx, iptablesConfig(cfg, family), xt); err != nil {
				return removed, err
			}
			removed = true
			break
		}
	}
	return removed, nil
}

// flavors are the kinds of iptables that may hold rules of ours.
func flavors(cfg Config) []xtables.Flavor {
	if cfg.IPTables != "" {
		return []xtables.Flavor{xtables.Flavor(cfg.IPTables)}
	}
	return []xtables.Flavor{xtables.HostDefault, xtables.NFT, xtables.Legacy}
}

func removeNFTables(ctx context.Context, cfg Config, family plan.Family) (removed bool, err error) {
	c := nftablesConfig(cfg, family)
	nft, err := nftables.Open(c)
	if err != nil {
		return false, nil
	}
	defer nft.Close()
	found, err := nft.CountRules(ctx)
	if err == nil && len(found) == 0 && !nft.Keeps(ctx) {
		return false, nil
	}
	return true, nftables.Cleanup(ctx, c, nft)
}

func nftablesGuardLoopback(ctx context.Context, cfg Config) bool {
	nft, err := nftables.Open(nftablesConfig(cfg, plan.IPv4))
	if err != nil {
		return false
	}
	defer nft.Close()
	return nft.GuardsLoopback(ctx)
}

func iptablesGuardLoopback(ctx context.Context, cfg Config) bool {
	for _, flavor := range flavors(cfg) {
		xt, err := xtables.Find(xtables.IPv4, flavor)
		if err == nil && iptables.GuardsLoopback(ctx, iptablesConfig(cfg, plan.IPv4), xt) {
			return true
		}
	}
	return false
}
