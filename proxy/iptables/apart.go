package iptables

import (
	"context"
	"errors"
	"fmt"
	"os/exec"

	"github.com/reevehq/reeve/proxy/plan"
)

// exitBusy is iptables' exit code when it could not get its lock or the kernel's resources: nothing about the rules.
const exitBusy = 4

// judged reports that iptables refused the rules themselves.
func judged(err error) bool {
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.Exited() && exit.ExitCode() != exitBusy
	}
	return !errors.Is(err, context.Canceled) && !errors.Is(err, context.DeadlineExceeded)
}

// Rejected are the Services that the last full Apply left out, because the kernel did not take their rules (a protocol or
// match that it lacks), with its words.
func (b *Backend) Rejected() map[plan.Name]error { return b.rejected }

// applyApart writes everything that is no Service's, and then the Services in halves of halves, to find those that make
// the whole fail. It fails with the first error when not even the former is taken.
func (b *Backend) applyApart(ctx context.Context, all map[plan.Name]*plan.Planned, first error) error {
	b.reset()
	input, err := b.full(ctx, nil)
	if err != nil {
		return err
	}
	if err := b.xt.Restore(ctx, input); err != nil {
		return first
	}
	names := make([]plan.Name, 0, len(all))
	for name := range all {
		names = append(names, name)
	}
	rejected := map[plan.Name]error{}
	if err := b.applyHalves(ctx, all, names, rejected); err != nil {
		return err
	}
	b.rejected = rejected
	return nil
}

func (b *Backend) applyHalves(ctx context.Context, all map[plan.Name]*plan.Planned, names []plan.Name, rejected map[plan.Name]error) error {
	changes := make(map[plan.Name]*plan.Planned, len(names))
	for _, name := range names {
		changes[name] = all[name]
	}
	input := b.difference(changes)
	if input == nil {
		return nil
	}
	err := b.xt.Restore(ctx, input)
	if err == nil {
		return nil
	}
	if !judged(err) {
		return err
	}
	// Tables commit one by one: what went in before the failure is written over by the next transaction, which begins every
	// chain anew; only lines in dispatch chains would stand twice, so those are written as a whole.
	for _, name := range names {
		b.forget(name)
	}
	if restoreErr := b.rewriteDispatch(ctx); restoreErr != nil {
		return restoreErr
	}
	if len(names) == 1 {
		rejected[names[0]] = fmt.Errorf("program Service %q: %w", names[0].String(), err)
		return nil
	}
	half := len(names) / 2
	return errors.Join(b.applyHalves(ctx, all, names[:half], rejected), b.applyHalves(ctx, all, names[half:], rejected))
}

// rewriteDispatch writes every dispatch chain as the state has it.
func (b *Backend) rewriteDispatch(ctx context.Context) error {
	edits := map[string]*edit{"nat": {}, "filter": {}}
	for w := range dispatchChains {
		edits[w.table()].chain(b.cfg.dispatch(w), append(b.allLines(w), b.cfg.last(w)...))
	}
	for _, table := range tables {
		e := edits[table]
		if e == nil {
			continue
		}
		if err := b.xt.Restore(ctx, e.input(table)); err != nil {
			return err
		}
	}
	return nil
}
