package evict

import (
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
)

var t0 = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func parse(t *testing.T, s Settings) []Threshold {
	t.Helper()
	th, err := Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return th
}

func TestSoftThresholdWaitsForItsGrace(t *testing.T) {
	th := parse(t, Settings{
		EvictionSoft:            map[string]string{"memory.available": "200Mi"},
		EvictionSoftGracePeriod: map[string]string{"memory.available": "1m"},
	})
	low, high := map[Signal]Left{Memory: {100 << 20, 1 << 30}}, map[Signal]Left{Memory: {300 << 20, 1 << 30}}
	tr := newTracker()
	v := tr.look(th, low, DefaultHold, t0)
	if len(v.Act) != 0 || !v.Changed || !tr.pressure(v1.NodeMemoryPressure, DefaultHold, t0) {
		t.Errorf("at first sight: %+v; want the condition and no eviction", v)
	}
	if v = tr.look(th, low, DefaultHold, t0.Add(59*time.Second)); len(v.Act) != 0 || v.Changed {
		t.Errorf("within the grace: %+v", v)
	}
	if v.Wait > time.Second {
		t.Errorf("next look in %s, though the grace ends in 1s", v.Wait)
	}
	// A moment above the threshold, and the grace begins anew.
	tr.look(th, high, DefaultHold, t0.Add(59500*time.Millisecond))
	if v = tr.look(th, low, DefaultHold, t0.Add(61*time.Second)); len(v.Act) != 0 {
		t.Errorf("after a pause: %+v", v)
	}
	if v = tr.look(th, low, DefaultHold, t0.Add(121*time.Second)); len(v.Act) != 1 || !v.Act[0].Soft {
		t.Errorf("after the grace: %+v", v)
	}
}

func TestMinimumReclaimIsOwedOnceActed(t *testing.T) {
	th := parse(t, Settings{
		EvictionHard:           map[string]string{"nodefs.available": "10%"},
		EvictionMinimumReclaim: map[string]string{"nodefs.available": "5%"},
	})
	tr := newTracker()
	at := func(n int64, after time.Duration) int {
		return len(tr.look(th, map[Signal]Left{NodeFS: {n, 100}}, DefaultHold, t0.Add(after)).Act)
	}
	for i, step := range []struct {
		left int64
		act  int
	}{{12, 0}, {9, 1}, {12, 1}, {14, 1}, {15, 0}, {12, 0}} {
		if got := at(step.left, time.Duration(i)*time.Second); got != step.act {
			t.Errorf("step %d with %d%% left: %d thresholds to act on, want %d", i, step.left, got, step.act)
		}
	}
}

func TestConditionStaysForTheTransitionPeriod(t *testing.T) {
	th := parse(t, Settings{EvictionHard: map[string]string{"pid.available": "100"}})
	tr := newTracker()
	tr.look(th, map[Signal]Left{PID: {50, 1000}}, time.Minute, t0)
	fine := map[Signal]Left{PID: {500, 1000}}
	if v := tr.look(th, fine, time.Minute, t0.Add(59*time.Second)); v.Changed || !tr.pressure(v1.NodePIDPressure, time.Minute, t0.Add(59*time.Second)) {
		t.Errorf("within the period: %+v", v)
	}
	if v := tr.look(th, fine, time.Minute, t0.Add(61*time.Second)); !v.Changed || tr.pressure(v1.NodePIDPressure, time.Minute, t0.Add(61*time.Second)) {
		t.Errorf("after the period: %+v", v)
	}
	if v := tr.look(th, map[Signal]Left{PID: {50, 1000}}, time.Minute, t0.Add(62*time.Second)); !v.Changed {
		t.Error("a new shortage is no news")
	}
}

func TestSamplingQuickensNearAThreshold(t *testing.T) {
	th := parse(t, Settings{EvictionHard: map[string]string{"memory.available": "100Mi"}})
	mem := func(mi int64) map[Signal]Left { return map[Signal]Left{Memory: {mi << 20, 8 << 30}} }
	tr := newTracker()
	if v := tr.look(th, mem(4000), DefaultHold, t0); v.Wait != every {
		t.Errorf("at rest: %s, want %s", v.Wait, every)
	}
	// 1900 MiB in 10 s: 2000 more are gone in about as long.
	v := tr.look(th, mem(2100), DefaultHold, t0.Add(10*time.Second))
	if v.Wait < 2*time.Second || v.Wait > 3*time.Second {
		t.Errorf("in a rush: %s, want a quarter of the 10 s that are left", v.Wait)
	}
	if v = tr.look(th, mem(150), DefaultHold, t0.Add(1000*time.Second)); v.Wait > nearEvery {
		t.Errorf("near the threshold: %s, want at most %s", v.Wait, nearEvery)
	}
	if v = tr.look(th, mem(105), DefaultHold, t0.Add(1001*time.Second)); v.Wait != least {
		t.Errorf("about to cross: %s, want %s", v.Wait, least)
	}
}

func TestOrder(t *testing.T) {
	th := parse(t, Settings{
		EvictionHard: map[string]string{"imagefs.available": "15%", "pid.available": "10%", "memory.available": "10%"},
		EvictionSoft: map[string]string{"memory.available": "20%"}, EvictionSoftGracePeriod: map[string]string{"memory.available": "0s"},
	})
	v := newTracker().look(th, map[Signal]Left{Memory: {1, 100}, ImageFS: {1, 100}, PID: {1, 100}}, DefaultHold, t0)
	var got []which
	for _, m := range v.Act {
		got = append(got, m.which())
	}
	want := []which{{Memory, false}, {Memory, true}, {ImageFS, false}, {PID, false}}
	if len(got) != len(want) {
		t.Fatalf("order = %v, want %v", got, want)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("order = %v, want %v", got, want)
		}
	}
}
