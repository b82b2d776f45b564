package native

import (
	"context"
	"fmt"
	"time"

	"github.com/containerd/containerd/v2/core/leases"
)

// freeTimeout bounds a collection of containerd's: it walks everything that images and snapshots refer to, and removes
// folders.
const freeTimeout = 2 * time.Minute

// FreeDisk returns when what was removed before has left the disk. containerd frees content and layers in collections of
// its own, which it puts off until enough changes have come together; somebody who is short of disk cannot wait for that.
func (r *Runtime) FreeDisk(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, freeTimeout)
	defer cancel()
	// The end of a lease is the one thing beside an image's whose deletion can be asked to wait for a collection.
	manager := r.client.LeasesService()
	l, err := manager.Create(ctx, leases.WithRandomID(), leases.WithExpiration(freeTimeout))
	if err == nil {
		err = manager.Delete(ctx, l, leases.SynchronousDelete)
	}
	if err != nil {
		return toStatus(fmt.Errorf("free disk: %w", err))
	}
	return nil
}
