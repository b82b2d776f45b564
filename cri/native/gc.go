package native

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"

	"github.com/reevehq/reeve/internal/logkey"
)

// A killed runtime leaves more than it knew of: a call that containerd had under way when its caller died may still
// succeed after the next runtime has looked, and so may a plugin. So the collector looks again and again, at first often,
// and removes whatever carries our mark and belongs to nothing that is known. What is being made or removed right now
// holds its name, and is known by that.

// gcLoop collects soon after the start, ever more rarely then, and soon again when kicked.
func (r *Runtime) gcLoop(ctx context.Context) {
	wait := gcFirst // not while the node starts
	var shims shimLook
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.gcKick:
			wait = gcFirst
			continue
		case <-time.After(wait):
		}
		err := r.collect(ctx)
		var serr error
		shims, serr = r.collectShims(ctx, shims)
		if err = errors.Join(err, serr); err != nil && ctx.Err() == nil {
			r.log.Warn("Could not collect everything that is left over", logkey.Err, err)
		}
		if wait = min(4*wait, gcInterval); serr == nil && !shims.none() {
			wait = gcFirst // a second look decides
		}
	}
}

// kickGC makes the collector look soon: something died that may have left things.
func (r *Runtime) kickGC() {
	select {
	case r.gcKick <- struct{}{}:
	default:
	}
}

// collect looks once at everything.
func (r *Runtime) collect(ctx context.Context) error {
	return errors.Join(r.collectRecords(ctx), r.collectTasks(ctx), r.collectSnapshots(ctx), r.collectStreams(ctx), r.collectNetworks(ctx), r.collectCgroups())
}

// unknown says whether nothing that lives, is being made or being removed has this ID. Ask after the thing was seen, not
// before: what is made later is known.
func (r *Runtime) unknown(id string) bool {
	r.store.mu.RLock()
	defer r.store.mu.RUnlock()
	if r.store.sandboxes[id] != nil || r.store.containers[id] != nil {
		return false
	}
	for _, holder := range r.store.names {
		if holder == id {
			return false
		}
	}
	return true
}

// collectRecords removes sandboxes and containers that containerd recorded for a runtime that was dead by then.
func (r *Runtime) collectRecords(ctx context.Context) error {
	records, err := r.conts.List(ctx, "labels."+labelKind)
	if err != nil {
		return fmt.Errorf("list containerd's containers: %w", err)
	}
	return each(r, ctx, records, func(rec containers.Container) string { return rec.ID }, func(ctx context.Context, rec containers.Container) error {
		r.log.Info("Removing what a killed runtime was making", "kind", rec.Labels[labelKind], "id", rec.ID)
		switch rec.Labels[labelKind] {
		case kindOrphan:
			return errors.Join(r.destroyTask(ctx, rec.ID), r.deleteRecord(ctx, rec.ID))
		case kindSandbox:
			s, _, err := r.loadSandbox(rec, taskView{})
			if err != nil {
				return err
			}
			return r.eraseSandbox(ctx, s)
		}
		c, err := r.loadContainer(rec)
		if err != nil {
			return err
		}
		if err := r.destroyTask(ctx, c.id); err != nil {
			return err
		}
		return r.eraseContainer(ctx, c)
	})
}

// collectTasks ends tasks without a record: containerd finished making them after their record was removed. It cannot
// delete such a task, so it is given a record for that moment. Whose a task is, only we can remember.
func (r *Runtime) collectTasks(ctx context.Context) error {
	running, err := r.listTasks(ctx)
	if err != nil {
		return err
	}
	var ids []string
	r.store.mu.RLock()
	for id := range running {
		if !r.erased[id].at.IsZero() {
			ids = append(ids, id)
		}
	}
	r.store.mu.RUnlock()
	return each(r, ctx, ids, same, func(ctx context.Context, id string) error {
		r.log.Info("Ending a task that was made for a killed runtime", "id", id)
		_, err := r.conts.Create(ctx, containers.Container{
			ID: id, Labels: map[string]string{labelKind: kindOrphan}, Runtime: containers.RuntimeInfo{Name: runcType},
		})
		if err != nil && !errdefs.IsAlreadyExists(err) {
			return fmt.Errorf("record task %q to delete it: %w", id, err)
		}
		if err := r.destroyTask(ctx, id); err != nil {
			return err
		}
		return r.deleteRecord(ctx, id)
	})
}

// erasure is the removal of a sandbox's or container's record.
type erasure struct {
	at     time.Time
	cgroup string // as the OCI specification names it
}

// noteErased remembers what was removed for the collector, and forgets what is long gone.
func (r *Runtime) noteErased(id, cgroup string) {
	r.store.mu.Lock()
	defer r.store.mu.Unlock()
	for old, e := range r.erased {
		if time.Since(e.at) > erasedKeep {
			delete(r.erased, old)
		}
	}
	r.erased[id] = erasure{time.Now(), cgroup}
}

// collectCgroups removes those that an OCI runtime could not remove, since something was dying in them still, or has told
// nobody of, since it was killed. Under systemd they go by themselves.
func (r *Runtime) collectCgroups() error {
	if r.host.SystemdCgroup {
		return nil
	}
	var errs []error
	r.store.mu.RLock()
	erased := maps.Clone(r.erased)
	r.store.mu.RUnlock()
	for id, e := range erased {
		if e.cgroup != "" && r.unknown(id) {
			errs = append(errs, r.cgroups.Remove(e.cgroup))
		}
	}
	return errors.Join(errs...)
}

func (r *Runtime) collectSnapshots(ctx context.Context) error {
	var keys []string
	err := r.snaps.Walk(ctx, func(_ context.Context, info snapshots.Info) error {
		if r.unknown(info.Labels[labelSnapshot]) {
			keys = append(keys, info.Name)
		}
		return nil
	}, "labels."+labelSnapshot)
	if err != nil {
		return fmt.Errorf("list snapshots: %w", err)
	}
	return each(r, ctx, keys, nil, r.removeSnapshot)
}

// collectStreams removes FIFOs without a container, and those of containers that were never started.
func (r *Runtime) collectStreams(ctx context.Context) error {
	ids, err := r.pump.List(ctx)
	if err != nil {
		return fmt.Errorf("list log streams: %w", err)
	}
	return each(r, ctx, ids, same, r.pump.Remove)
}

// collectNetworks lets the network remove what no sandbox has.
func (r *Runtime) collectNetworks(ctx context.Context) error {
	if r.cfg.Network == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, networkTimeout)
	defer cancel()
	r.store.mu.RLock()
	keep := make([]string, 0, len(r.store.sandboxes))
	for id, s := range r.store.sandboxes {
		if !s.torn {
			keep = append(keep, id)
		}
	}
	r.store.mu.RUnlock()
	return r.cfg.Network.GC(ctx, keep)
}

// each removes the items whose IDs nothing known has (all, where id is nil), side by side, so that one that hangs delays
// no other.
func each[T any](r *Runtime, ctx context.Context, items []T, id func(T) string, remove func(context.Context, T) error) error {
	ctx, cancel := context.WithTimeout(ctx, collectTimeout)
	defer cancel()
	var wg sync.WaitGroup
	errs := make([]error, len(items))
	for i, item := range items {
		if id == nil || r.unknown(id(item)) {
			wg.Go(func() { errs[i] = remove(ctx, item) })
		}
	}
	wg.Wait()
	return errors.Join(errs...)
}

func same(id string) string { return id }

// sweepFolders removes folders that belong to no record. It is for the start, when nothing is being made.
func (r *Runtime) sweepFolders() {
	for _, kind := range []string{"sandboxes", "containers"} {
		entries, _ := os.ReadDir(filepath.Join(r.cfg.StateDir, kind))
		for _, e := range entries {
			if r.store.sandboxes[e.Name()] != nil || r.store.containers[e.Name()] != nil {
				continue
			}
			dir := filepath.Join(r.cfg.StateDir, kind, e.Name())
			if err := errors.Join(r.unpin(e.Name()), unmount(filepath.Join(dir, "shm")), r.unmountImages(e.Name()), os.RemoveAll(dir)); err != nil {
				r.log.Warn("Could not remove a leftover folder", logkey.Path, dir, logkey.Err, err)
			}
		}
	}
	os.RemoveAll(filepath.Join(r.cfg.StateDir, "exec"))
	os.MkdirAll(filepath.Join(r.cfg.StateDir, "exec"), 0o711)
}
