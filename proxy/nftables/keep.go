package nftables

import (
	"context"
	"fmt"

	"sigs.k8s.io/knftables"
)

// keeper is a table of ours beside the one that holds the Services, with nothing but chains that translate nothing and a
// rule that looks at connections. The kernel tracks and translates, open connections included, only as long as some rule
// asks for it: without this table, removing the other for a moment would send what is under way to the node itself, whose
// answer is a reset.
func (c Config) keeper() string { return c.Table + "-keep" }

// KeepTracking makes the keeper's table, or finds it made.
func (t *Table) KeepTracking(ctx context.Context) error {
	tx := t.keeper.NewTransaction()
	tx.Add(&knftables.Table{Comment: knftables.PtrTo("keeps connections tracked and translated while rules change")})
	for _, c := range []chain{
		base("nat-prerouting", knftables.NATType, knftables.PreroutingHook, "-90", "ct status dnat return"),
		base("nat-input", knftables.NATType, knftables.InputHook, "110"),
		base("nat-output", knftables.NATType, knftables.OutputHook, "-90"),
		base("nat-postrouting", knftables.NATType, knftables.PostroutingHook, "110"),
	} {
		tx.Add(&c.Chain)
		tx.Flush(&c.Chain)
		writeRules(tx, c)
	}
	if err := t.keeper.Run(ctx, tx); err != nil {
		return fmt.Errorf("write table %q: %w", t.cfg.keeper(), err)
	}
	return nil
}

// Keeps reports that the keeper's table is there.
func (t *Table) Keeps(ctx context.Context) bool {
	chains, err := t.keeper.List(ctx, "chains")
	return err == nil && len(chains) > 0
}

// StopTracking removes the keeper's table. That it is not there is no error.
func (t *Table) StopTracking(ctx context.Context) error {
	tx := t.keeper.NewTransaction()
	tx.Add(&knftables.Table{})
	tx.Delete(&knftables.Table{})
	if err := t.keeper.Run(ctx, tx); err != nil {
		return fmt.Errorf("remove table %q: %w", t.cfg.keeper(), err)
	}
	return nil
}
