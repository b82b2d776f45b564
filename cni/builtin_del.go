package cni

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/reevehq/reeve/cni/netns"
	"github.com/reevehq/reeve/internal/logkey"
	"github.com/reevehq/reeve/internal/podnet"
)

// Del takes the sandbox's routes, host ports and addresses away; its link goes with its namespace, which the caller
// removes next. It needs only req.SandboxID, may be repeated, and is safe when Add never ran or died half-way.
func (b *Builtin) Del(ctx context.Context, req podnet.Request) error {
	if !sandboxIDPattern.MatchString(req.SandboxID) {
		return fmt.Errorf("tear down network: sandbox ID %q is not one", req.SandboxID)
	}
	b.mu.Lock()
	rec := b.records[req.SandboxID]
	b.mu.Unlock()
	if rec == nil {
		b.forget(req.SandboxID)
		return nil
	}
	if err := detach(rec); err != nil {
		return fmt.Errorf("tear down network of sandbox %q: %w", req.SandboxID, err)
	}
	if len(rec.Ports) > 0 {
		if err := b.ensureRulesWithout(ctx, req.SandboxID); err != nil {
			return fmt.Errorf("tear down network of sandbox %q: remove host ports: %w", req.SandboxID, err)
		}
		if err := forgetHostPortFlows(rec.Ports); err != nil {
			return fmt.Errorf("tear down network of sandbox %q: %w", req.SandboxID, err)
		}
	}
	if err := b.store.remove(req.SandboxID); err != nil {
		return fmt.Errorf("tear down network of sandbox %q: %w", req.SandboxID, err)
	}
	b.forget(req.SandboxID)
	return nil
}

// forget frees the sandbox's addresses.
func (b *Builtin) forget(sandboxID string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.fresh, sandboxID)
	rec := b.records[sandboxID]
	if rec == nil {
		return
	}
	delete(b.records, sandboxID)
	for _, r := range b.ranges {
		for _, ip := range rec.IPs {
			r.Release(ip, sandboxID)
		}
	}
}

// GC removes the records, addresses, links, host ports and namespaces of every sandbox that is not in keep, except of
// those that this process began to set up in the last two minutes. It also heals flushed rules.
func (b *Builtin) GC(ctx context.Context, keepSandboxIDs []string) error {
	// What there is comes first, and then who may keep it: what is begun meanwhile is not there, or is fresh.
	spaces, err := netns.List(b.cfg.NetNSDir)
	if err != nil {
		return err
	}
	links, err := vethNames()
	if err != nil {
		return err
	}
	var leaked []string
	b.mu.Lock()
	keep := keepFresh(keepSandboxIDs, b.fresh)
	for id := range b.records {
		if !keep[id] {
			leaked = append(leaked, id)
		}
	}
	b.mu.Unlock()
	var errs []error
	for _, id := range leaked {
		if err := b.Del(ctx, podnet.Request{SandboxID: id}); err != nil {
			errs = append(errs, err)
			continue
		}
		b.log.Info("Collected a leaked pod network", logkey.SandboxID, id)
	}
	errs = append(errs, gcNamespaces(spaces, keep), b.gcLinks(links, keep))
	if b.Status(ctx) == nil {
		errs = append(errs, b.EnsureRules(ctx))
	}
	return errors.Join(errs...)
}

// keepFresh is the set of sandboxes that GC keeps: the named ones and those that this process began to set up within
// gcGrace; older ones are forgotten. The caller holds the lock of fresh.
func keepFresh(named []string, fresh map[string]time.Time) map[string]bool {
	keep := make(map[string]bool, len(named)+len(fresh))
	for _, id := range named {
		keep[id] = true
	}
	for id, at := range fresh {
		if time.Since(at) < gcGrace {
			keep[id] = true
		} else {
			delete(fresh, id)
		}
	}
	return keep
}

// gcLinks deletes the veths with our prefix and name length that belong to none of keep.
func (b *Builtin) gcLinks(names []string, keep map[string]bool) error {
	kept := make(map[string]bool, len(keep))
	for id := range keep {
		kept[b.hostLink(id)] = true
	}
	var errs []error
	for _, name := range names {
		if !strings.HasPrefix(name, b.cfg.LinkPrefix) || len(name) != len(b.hostLink("")) || kept[name] {
			continue
		}
		errs = append(errs, unplug(name))
	}
	return errors.Join(errs...)
}

// gcNamespaces removes the namespaces whose sandbox is not in keep.
func gcNamespaces(paths []string, keep map[string]bool) error {
	var errs []error
	for _, path := range paths {
		if !keep[filepath.Base(path)] {
			errs = append(errs, netns.Remove(path))
		}
	}
	return errors.Join(errs...)
}
