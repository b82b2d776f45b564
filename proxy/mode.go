package proxy

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"sigs.k8s.io/knftables"

	"github.com/reevehq/reeve/internal/logkey"
	"github.com/reevehq/reeve/internal/xtables"
	"github.com/reevehq/reeve/proxy/iptables"
	"github.com/reevehq/reeve/proxy/nftables"
	"github.com/reevehq/reeve/proxy/plan"
)

// retireTimeout bounds the removal of the other mode's rules: some 40 runs of iptables on a busy host.
const retireTimeout = 30 * time.Second

var families = []plan.Family{plan.IPv4, plan.IPv6}

// opener makes one family's backend, or says why this host cannot have it.
type opener func(Config, plan.Family) (backend, error)

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
// auto iptables where it works, else nftables. One family must work; the other is left out, with a warning, where the host
// has none.
func openBackends(cfg Config) (Mode, []backend, error) {
	switch cfg.Mode {
	case ModeIPTables:
		b, err := openFamilies(cfg, openIPTables)
		return ModeIPTables, b, err
	case ModeNFTables:
		b, err := openFamilies(cfg, openNFTables)
		return ModeNFTables, b, err
	}
	// nftables would be the better choice, but for hosts that drop what they forward (a FORWARD policy, Docker's rules): only
	// iptables mode can let Services' traffic pass those.
	b, err := openFamilies(cfg, openIPTables)
	if err == nil {
		return ModeIPTables, b, nil
	}
	b, nftErr := openFamilies(cfg, openNFTables)
	if nftErr != nil {
		return "", nil, errors.Join(err, nftErr)
	}
	return ModeNFTables, b, nil
}

func openFamilies(cfg Config, open opener) ([]backend, error) {
	wanted := map[plan.Family]bool{}
	for _, ip := range cfg.NodeIPs {
		wanted[plan.FamilyOf(ip)] = true
	}
	var out []backend
	var errs []error
	for _, family := range families {
		if !wanted[family] {
			continue
		}
		b, err := open(cfg, family)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		out = append(out, b)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("open the proxy's backend: %w", errors.Join(errs...))
	}
	if err := errors.Join(errs...); err != nil {
		cfg.Logger.Warn("Proxied one IP family only", logkey.Err, err)
	}
	return out, nil
}

func iptablesConfig(cfg Config, family plan.Family) iptables.Config {
	return iptables.Config{Facts: factsOf(cfg, ""), Prefix: cfg.ChainPrefix, MarkBit: *cfg.MasqueradeBit, Family: family}
}

func nftablesConfig(cfg Config, family plan.Family) nftables.Config {
	return nftables.Config{Facts: factsOf(cfg, ""), Table: tableName(cfg.ChainPrefix), MarkBit: *cfg.MasqueradeBit, Family: family}
}

// tableName moves with the chains' prefix, so that two instances share no table.
func tableName(prefix string) string {
	if prefix == defaultChainPrefix {
		return "reeve-proxy"
	}
	return "reeve-proxy-" + strings.ToLower(prefix)
}

// retire removes what the other mode left of an earlier start. The rules of this one are in place. What cannot be looked
// at, since its command is missing, cannot have been used either.
func retire(ctx context.Context, cfg Config, other Mode) {
	ctx, cancel := context.WithTimeout(ctx, retireTimeout)
	defer cancel()
	for _, family := range families {
		var removed bool
		var err error
		if other == ModeIPTables {
			removed, err = removeIPTables(ctx, cfg, family)
		} else {
			removed, err = removeNFTables(ctx, cfg, family)
		}
		switch {
		case err != nil && ctx.Err() == nil:
			cfg.Logger.Warn("Failed to remove the rules of the other mode", "mode", string(other), logkey.IPFamily, int(family), logkey.Err, err)
		case removed:
			cfg.Logger.Info("Removed the rules of the other mode", "mode", string(other), logkey.IPFamily, int(family))
		}
	}
}

// removeIPTables removes our chains where there are any. It reads first: removing what is not there takes many runs of
// iptables.
func removeIPTables(ctx context.Context, cfg Config, family plan.Family) (removed bool, err error) {
	xt, err := xtables.New(xtables.Family(family), xtables.Flavor(cfg.IPTables))
	if err != nil {
		return false, nil
	}
	for _, table := range []string{"nat", "filter", "mangle"} {
		saved, err := xt.Save(ctx, table)
		if err != nil {
			return false, err
		}
		for _, chain := range xtables.ParseSave(saved).Chains {
			if strings.HasPrefix(chain, cfg.ChainPrefix+"-") {
				c := iptablesConfig(cfg, family)
				return true, iptables.Cleanup(ctx, c, xt)
			}
		}
	}
	return false, nil
}

func removeNFTables(ctx context.Context, cfg Config, family plan.Family) (removed bool, err error) {
	c := nftablesConfig(cfg, family)
	nft, err := nftables.Open(c)
	if err != nil {
		return false, nil
	}
	found, err := nft.ListAll(ctx)
	if knftables.IsNotFound(err) || (err == nil && len(found) == 0) {
		return false, nil
	}
	return true, nftables.Cleanup(ctx, c, nft)
}
