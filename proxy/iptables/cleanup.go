package iptables

import (
	"context"
	"errors"

	"github.com/reevehq/reeve/internal/xtables"
)

// Cleanup removes every jump and chain that a backend of this configuration makes. What is not there is no error.
func Cleanup(ctx context.Context, cfg Config, xt *xtables.Handle) error {
	var errs []error
	for _, j := range cfg.everyJump() {
		errs = append(errs, xt.DeleteJump(j))
	}
	for _, table := range tables {
		fixed := map[string]bool{}
		for _, c := range cfg.fixed(table) {
			fixed[c.name] = true
		}
		for w := range dispatchChains {
			if w.table() == table {
				fixed[cfg.dispatch(w)] = true
			}
		}
		errs = append(errs, xt.DeleteChains(ctx, table, func(chain string) bool { return fixed[chain] || cfg.mine(chain) }))
	}
	return errors.Join(errs...)
}
