package nftables

import (
	"context"
	"fmt"

	"sigs.k8s.io/knftables"
)

// Cleanup removes the tables. That it is not there is no error.
func Cleanup(ctx context.Context, cfg Config, nft kernel) error {
	tx := nft.NewTransaction()
	tx.Add(&knftables.Table{})
	tx.Delete(&knftables.Table{})
	if err := nft.Run(ctx, tx); err != nil {
		return fmt.Errorf("remove table %q: %w", cfg.Table, err)
	}
	return nft.StopTracking(ctx)
}
