package evict

import (
	"time"

	v1 "k8s.io/api/core/v1"
)

const (
	// every is how often the node is looked at while nothing is near a threshold (upstream: 10 s); least how often while
	// something is.
	every = 10 * time.Second
	least = 500 * time.Millisecond
	// horizon: a look is due after this part of the time that is left at the present rate.
	horizon = 4
	// nearFactor: within this many times the threshold a sudden rush must not be missed between two looks.
	nearFactor = 2
	// nearEvery is how often something is looked at that is near.
	nearEvery = 2 * time.Second
)

// which identifies a threshold: a signal has at most one hard and one soft one.
type which struct {
	signal Signal
	soft   bool
}

func (t Threshold) which() which { return which{t.Signal, t.Soft} }

// tracker remembers since when thresholds are crossed and when conditions were last seen. Pure but for its own state;
// time comes in.
type tracker struct {
	since map[which]time.Time
	// owed are thresholds that were acted on: they are over only with MinReclaim on top.
	owed map[which]bool
	seen map[v1.NodeConditionType]time.Time // when it was last true
	// before is the last look, for the rate.
	before   map[Signal]Left
	beforeAt time.Time
}

func newTracker() *tracker {
	return &tracker{since: map[which]time.Time{}, owed: map[which]bool{}, seen: map[v1.NodeConditionType]time.Time{}}
}

// verdict is what a look comes to.
type verdict struct {
	// Act are the thresholds to act on, in order: crossed, and for soft ones for all of their grace.
	Act []Met
	// Changed: Pressure answers otherwise than before.
	Changed bool
	// Wait is how long until the next look.
	Wait time.Duration
}

// look takes in an observation.
func (t *tracker) look(thresholds []Threshold, left map[Signal]Left, hold time.Duration, now time.Time) verdict {
	met := crossed(thresholds, left, func(x Threshold) bool { return t.owed[x.which()] })
	order(met)
	var v verdict
	now0 := map[which]bool{}
	v.Wait = t.wait(thresholds, left, now)
	for _, m := range met {
		w := m.which()
		now0[w] = true
		if _, ok := t.since[w]; !ok {
			t.since[w] = now
		}
		if d := m.Grace - now.Sub(t.since[w]); d > 0 {
			v.Wait = min(v.Wait, max(d, least))
			continue
		}
		t.owed[w] = true
		v.Act = append(v.Act, m)
	}
	for w := range t.since {
		if !now0[w] {
			delete(t.since, w)
			delete(t.owed, w)
		}
	}
	v.Changed = t.conditions(met, hold, now)
	for _, at := range t.seen {
		// The condition's end is news, too.
		v.Wait = min(v.Wait, max(hold-now.Sub(at), least))
	}
	t.before, t.beforeAt = left, now
	return v
}

// conditions remembers which conditions hold, and tells when that changes anything.
func (t *tracker) conditions(met []Met, hold time.Duration, now time.Time) (changed bool) {
	for _, x := range met {
		c := x.Signal.Condition()
		if !t.pressure(c, hold, now) {
			changed = true
		}
		t.seen[c] = now
	}
	for c, at := range t.seen {
		if now.Sub(at) >= hold && !at.Equal(now) {
			delete(t.seen, c)
			changed = true
		}
	}
	return changed
}

func (t *tracker) pressure(c v1.NodeConditionType, hold time.Duration, now time.Time) bool {
	at, ok := t.seen[c]
	return ok && (now.Sub(at) < hold || at.Equal(now))
}

// wait is when to look again: the sooner, the nearer a threshold is in amount or, at the rate since the last look, in
// time.
func (t *tracker) wait(thresholds []Threshold, left map[Signal]Left, now time.Time) time.Duration {
	wait := every
	for _, th := range thresholds {
		l, ok := left[th.Signal]
		if !ok || l.Capacity <= 0 {
			continue
		}
		bound := th.Of(l.Capacity)
		room := l.Available - bound
		if room < bound*(nearFactor-1) {
			wait = min(wait, nearEvery)
		}
		old, ok := t.before[th.Signal]
		gone, took := old.Available-l.Available, now.Sub(t.beforeAt)
		if !ok || gone <= 0 || took <= 0 || room <= 0 {
			continue
		}
		until := time.Duration(float64(took) * float64(room) / float64(gone))
		wait = min(wait, max(until/horizon, least))
	}
	return wait
}
