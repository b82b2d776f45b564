package proxy

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/reevehq/reeve/internal/logkey"
	"github.com/reevehq/reeve/proxy/plan"
)

// loop owns the backends: it takes what changed, plans it, applies it, and forgets stale flows. One goroutine.
type loop struct {
	cfg      Config
	track    *tracker
	backends []backend
	metrics  *metrics
	health   *health
	checks   *healthChecks
	events   *events

	firewalls *firewalls

	planned  map[plan.Name]*plan.Planned // what is in the kernel, or will be after a retry
	pending  map[plan.Name]pendingChange // taken, but not applied in every family yet
	claims   *plan.Claims                // which Service has what several claim
	tally    *tally                      // of planned
	lost     map[plan.Name]string        // what has been said of claims that others have
	faults   map[plan.Name]string        // what has been said of fields that cannot be read
	needFull []bool                      // by backend: nothing can be presumed of the kernel
	missing  []bool                      // by backend: rules were, or may have been, missing for a while
	node     nodeFacts
	settled  bool          // the first programming of all families is done, and what follows it
	leftover bool          // another mode still carries connections
	touched  chan struct{} // somebody removed rules; full when the loop has yet to look
}

// pendingChange remembers what the kernel held before the first change that is not applied yet.
type pendingChange struct {
	before  *plan.Planned
	trigger time.Time
}

const (
	// retryFirst and retryMax bound the waits after a failure: a held xtables lock is soon free, a missing kernel module
	// never comes.
	retryFirst = 100 * time.Millisecond
	retryMax   = 30 * time.Second
)

func (l *loop) run(ctx context.Context) {
	l.planned = map[plan.Name]*plan.Planned{}
	l.claims, l.tally = plan.NewClaims(), newTally()
	l.lost, l.faults = map[plan.Name]string{}, map[plan.Name]string{}
	l.pending = map[plan.Name]pendingChange{}
	l.needFull, l.missing = make([]bool, len(l.backends)), make([]bool, len(l.backends))
	l.presumeNothing()
	for i := range l.missing {
		l.missing[i] = true // before the proxy was started
	}

	resync := time.NewTicker(l.cfg.SyncPeriod)
	defer resync.Stop()
	canary := time.NewTicker(l.cfg.CanaryPeriod)
	defer canary.Stop()
	retry := time.NewTimer(time.Hour)
	retry.Stop()
	defer retry.Stop()
	tend := time.NewTimer(time.Hour)
	tend.Stop()
	defer tend.Stop()
	tending := false
	wait := retryFirst
	var last time.Time
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.track.wake:
		case <-retry.C:
		case <-resync.C:
			l.presumeNothing()
		case <-canary.C:
			if l.intact(ctx) {
				continue
			}
		case <-l.touched:
			if l.intact(ctx) {
				continue
			}
		case <-tend.C:
			again, ok := l.tend(ctx)
			if tending = again > 0; tending {
				tend.Reset(again)
			}
			if ok {
				continue
			}
		}
		// Changes come in bursts; while one is being programmed the next gathers. The first after a rest does not wait.
		if !sleep(ctx, l.cfg.MinSyncInterval-time.Since(last)) {
			return
		}
		last = time.Now()
		if l.sync(ctx) {
			wait = retryFirst
			retry.Stop()
			if !tending && l.hasTender() {
				tending = true
				tend.Reset(tendSoon)
			}
		} else if ctx.Err() == nil {
			retry.Reset(wait)
			wait = min(wait*2, retryMax)
		}
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// watch passes on that rules of a family were removed. Where it cannot, the canary remains.
func (l *loop) watch(ctx context.Context, family plan.Family, w watcher) {
	err := w.Watch(ctx, func() {
		select {
		case l.touched <- struct{}{}:
		default:
		}
	})
	if err != nil {
		l.cfg.Logger.Warn("Lost the events of foreign changes, looking for them by the clock", logkey.IPFamily, int(family), logkey.Err, err)
	}
}

func (l *loop) presumeNothing() {
	for i := range l.needFull {
		l.needFull[i] = true
	}
}

// intact asks every backend whether somebody changed its rules, and lets those that can mend that alone. False: some must
// be written anew. One that is to be written anew anyway is not asked.
func (l *loop) intact(ctx context.Context) bool {
	ok := true
	for i, b := range l.backends {
		if l.needFull[i] {
			continue
		}
		if h, can := b.(healer); can {
			start := time.Now()
			mended, err := h.Heal(ctx)
			switch {
			case err != nil && ctx.Err() == nil:
				l.cfg.Logger.Warn("Failed to mend what another program changed, writing all anew", logkey.IPFamily, int(b.Family()), logkey.Err, err)
				l.needFull[i], l.missing[i] = true, true
				ok = false
			case mended != "":
				l.metrics.healed(b.Family())
				l.keepHints()
				l.cfg.Logger.Warn("Mended what another program changed", logkey.IPFamily, int(b.Family()), "mended", mended, logkey.Duration, time.Since(start))
				l.missing[i] = true
				l.forgetUntranslated(i, b)
			}
			continue
		}
		intact, err := b.Intact(ctx)
		if err != nil {
			l.cfg.Logger.Warn("Failed to look for flushed rules", logkey.IPFamily, int(b.Family()), logkey.Err, err)
			continue
		}
		if !intact {
			l.metrics.healed(b.Family())
			l.cfg.Logger.Warn("Found the proxy's rules flushed by another program, writing them again", logkey.IPFamily, int(b.Family()))
			l.needFull[i], l.missing[i] = true, true
			ok = false
			continue
		}
		l.keepHint(b) // empty, it goes by itself where others remove empty chains
	}
	return ok
}

// sync programs what changed. False: some of it failed and must be tried again.
func (l *loop) sync(ctx context.Context) bool {
	b := l.track.take(false)
	if !b.synced {
		return true // the watches wake us
	}
	if b.node != l.node {
		// Hints are read by zone, and pods' ranges are in the rules: everything is planned anew.
		l.node = b.node
		b = l.track.take(true).merge(b)
		for _, be := range l.backends {
			be.SetFacts(factsOf(l.cfg, l.node))
		}
		l.presumeNothing()
	}
	l.metrics.changes(b)
	facts := factsOf(l.cfg, l.node)
	planned := make(map[plan.Name]*plan.Planned, len(b.services))
	for name, c := range b.services {
		planned[name] = nil
		if !c.gone {
			p := plan.Plan(facts, c.service, c.slices)
			planned[name] = &p
		}
		if text, fresh := news(l.faults, name, c.service.Faults); fresh {
			l.cfg.Logger.Warn("Left out what cannot be read of a Service", logkey.Service, name.String(), "faults", text)
			l.events.service(name, "InvalidField", "Left out on the node: "+text)
		}
	}
	for name, p := range l.claims.Change(planned) {
		next := pendingChange{before: l.planned[name], trigger: b.services[name].trigger}
		if earlier, ok := l.pending[name]; ok {
			next.before = earlier.before
			if next.trigger.IsZero() {
				next.trigger = earlier.trigger
			}
		}
		l.pending[name] = next
		l.tally.replace(name, l.planned[name], p)
		if delete(l.planned, name); p != nil {
			l.planned[name] = p
		}
		l.sayLost(name)
	}
	if len(l.pending) > 0 {
		l.health.queued()
	}

	ok, anew := true, !l.settled || slices.Contains(l.needFull, true)
	for i, be := range l.backends {
		if !l.apply(ctx, i, be) {
			ok = false
		}
	}
	if !ok {
		return false
	}
	l.forgetFlows()
	l.checks.set(l.tally.checked)
	l.firewalls.set(facts, l.tally.healthPorts())
	now := time.Now()
	for _, p := range l.pending {
		if !p.trigger.IsZero() {
			l.metrics.programmed(now.Sub(p.trigger))
		}
	}
	clear(l.pending)
	l.metrics.synced(now, l.tally)
	l.health.updated()
	if !l.settle(ctx) {
		return false
	}
	if anew { // whoever flushed rules may have flushed this too
		l.keepHints()
	}
	return true
}

// sayLost names, once, the frontends that a Service claims and another has.
func (l *loop) sayLost(name plan.Name) {
	lost, fresh := news(l.lost, name, l.claims.Lost(name))
	if !fresh {
		return
	}
	l.cfg.Logger.Warn("Left out what another Service has already", logkey.Service, name.String(), "lost", lost)
	l.events.service(name, "FrontendTaken", "Not programmed on the node, since the first Service by name has it: "+lost)
}

// news joins what there is to say of a Service, and reports whether that is something that was not said before.
func news(said map[plan.Name]string, name plan.Name, what []string) (text string, fresh bool) {
	text = strings.Join(what, "; ")
	if text == said[name] {
		return text, false
	}
	if delete(said, name); text == "" {
		return text, false
	}
	said[name] = text
	return text, true
}

// settle does, once, what must wait for the rules to be in place. False: try again.
func (l *loop) settle(ctx context.Context) bool {
	if l.settled {
		return true
	}
	if l.cfg.LocalhostNodePorts {
		if err := openLoopback(); err != nil {
			l.cfg.Logger.Error("Failed to open node ports on loopback", logkey.Err, err)
			return false
		}
	}
	l.leftover = retire(ctx, l.cfg, false)
	l.settled = true
	return true
}

// merge adds the changes and counts of an earlier take.
func (b batch) merge(earlier batch) batch {
	for name, c := range earlier.services {
		if now, ok := b.services[name]; !ok || now.trigger.IsZero() {
			if ok {
				now.trigger = c.trigger
				c = now
			}
			b.services[name] = c
		}
	}
	b.serviceChanges += earlier.serviceChanges
	b.endpointChanges += earlier.endpointChanges
	return b
}

func (l *loop) apply(ctx context.Context, i int, be backend) bool {
	changes := map[plan.Name]*plan.Planned{}
	full := l.needFull[i]
	if full {
		changes = l.planned
	} else {
		for name := range l.pending {
			changes[name] = l.planned[name]
		}
		if len(changes) == 0 {
			return true
		}
	}
	start := time.Now()
	if err := be.Apply(ctx, changes, full); err != nil {
		l.needFull[i] = true
		l.metrics.failed(be.Family())
		if ctx.Err() == nil {
			l.cfg.Logger.Error("Failed to program Services", logkey.IPFamily, int(be.Family()), logkey.Err, err)
		}
		return false
	}
	l.needFull[i] = false
	took := time.Since(start)
	if l.missing[i] {
		l.forgetUntranslated(i, be)
	}
	if full {
		for name, err := range be.Rejected() {
			l.cfg.Logger.Error("Left out a Service that the kernel's rules cannot express", logkey.Service, name.String(), logkey.Err, err)
			l.events.service(name, "FailedToProgram", "The node's kernel does not take the Service's rules: "+err.Error())
		}
	}
	l.metrics.applied(be.Family(), took, full, be.Rules())
	if w, can := be.(counter); can {
		l.metrics.written(be.Family(), w.Written())
	}
	if full {
		l.cfg.Logger.Info("Programmed all Services", logkey.IPFamily, int(be.Family()), "services", len(changes), logkey.Duration, took)
	} else {
		l.cfg.Logger.Debug("Programmed changed Services", logkey.IPFamily, int(be.Family()), "services", len(changes), logkey.Duration, took)
	}
	return true
}
