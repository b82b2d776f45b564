package native

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"

	"github.com/reevehq/reeve/cri/native/spec"
	"github.com/reevehq/reeve/internal/embedded"
)

// pauseImage is what every sandbox shares, found out once.
type pauseImage struct {
	mu    sync.Mutex
	parts *pauseParts
}

// pauseParts are a sandbox's root and command.
type pauseParts struct {
	ref, chainID string
	command, env []string
	uid, gid     uint32
	// shared is the read-only root that all sandboxes mount: our own pause needs nothing written, and a snapshot of
	// each sandbox's own would cost two disk syncs. Nil for a user's image, whose folders the runtime may have to make.
	shared mountList
}

func (r *Runtime) pauseParts(ctx context.Context) (*pauseParts, error) {
	r.pause.mu.Lock()
	defer r.pause.mu.Unlock()
	if r.pause.parts != nil && r.images.lookup(r.cfg.PauseImage) != nil {
		return r.pause.parts, nil
	}
	img := r.images.lookup(r.cfg.PauseImage)
	if img == nil {
		if r.cfg.PauseImage == embedded.PauseRef {
			_, err := embedded.PauseArchive()
			return nil, errors.Join(fmt.Errorf("sandbox image %q is not on this node", r.cfg.PauseImage), err)
		}
		name, err := normalize(r.cfg.PauseImage)
		if err != nil {
			return nil, err
		}
		id, err := r.images.pull(ctx, name, nil)
		if err != nil {
			return nil, fmt.Errorf("pull sandbox image %q: %w", r.cfg.PauseImage, err)
		}
		img = r.images.lookup(id)
	}
	cfg, err := r.images.config(ctx, img)
	if err != nil {
		return nil, err
	}
	p := &pauseParts{ref: r.images.firstName(img), chainID: cfg.chainID, command: append(append([]string{}, cfg.entrypoint...), cfg.cmd...), env: cfg.env}
	if len(p.command) == 0 {
		return nil, fmt.Errorf("sandbox image %q has no command", r.cfg.PauseImage)
	}
	if len(p.env) == 0 {
		p.env = []string{spec.DefaultPath}
	}
	user, group, _ := strings.Cut(cfg.user, ":")
	if n, err := strconv.ParseUint(user, 10, 32); err == nil {
		p.uid, p.gid = uint32(n), uint32(n)
	}
	if n, err := strconv.ParseUint(group, 10, 32); err == nil {
		p.gid = uint32(n)
	}
	if r.cfg.PauseImage == embedded.PauseRef {
		if p.shared, err = r.sharedRoot(ctx, cfg.chainID); err != nil {
			return nil, err
		}
	}
	r.pause.parts = p
	return p, nil
}

// sharedRoot is a read-only view of an image, one for all sandboxes; the label keeps it from containerd's collector.
func (r *Runtime) sharedRoot(ctx context.Context, chainID string) (mountList, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	key := "reeve-pause-" + strings.TrimPrefix(chainID, "sha256:")
	var ms []mount.Mount
	ms, err := r.snaps.View(ctx, key, chainID, snapshots.WithLabels(map[string]string{labelRoot: time.Now().UTC().Format(time.RFC3339)}))
	if errdefs.IsAlreadyExists(err) {
		ms, err = r.snaps.Mounts(ctx, key)
	}
	if err != nil {
		return nil, fmt.Errorf("prepare the sandboxes' root: %w", err)
	}
	return toMounts(ms), nil
}
