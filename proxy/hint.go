package proxy

import (
	"fmt"

	"github.com/reevehq/reeve/internal/logkey"
	"github.com/reevehq/reeve/internal/xtables"
	"github.com/reevehq/reeve/proxy/plan"
)

// hintChain is the chain of table mangle that images of CNI plugins look for, to choose between iptables-nft and
// iptables-legacy. In iptables mode the backend has it.
func hintChain(cfg Config) string { return cfg.ChainPrefix + "-IPTABLES-HINT" }

// keepHints makes the chain in the modes whose backends do not.
func (l *loop) keepHints() {
	for _, b := range l.backends {
		l.keepHint(b)
	}
}

// keepHint is keepHints for one family. A host that lacks iptables has nothing to choose.
func (l *loop) keepHint(b backend) {
	if l.cfg.Mode == ModeIPTables {
		return
	}
	if err := keepHint(l.cfg, b.Family()); err != nil {
		l.cfg.Logger.Warn("Failed to make the chain that CNI plugins look for", logkey.IPFamily, int(b.Family()), logkey.Err, err)
	}
}

func keepHint(cfg Config, family plan.Family) error {
	xt, err := xtables.Find(xtables.Family(family), xtables.Flavor(cfg.IPTables))
	if err != nil {
		return nil
	}
	name := hintChain(cfg)
	if there, err := xt.ChainExists("mangle", name); err == nil && there {
		return nil
	}
	if err := xt.NewChain("mangle", name); err != nil {
		return fmt.Errorf("make chain %s of %s mangle: %w", name, xt.Family(), err)
	}
	return nil
}
