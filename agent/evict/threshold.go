package evict

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sort"
	"strconv"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Signal is what can run out, named as in KubeletConfiguration.evictionHard.
type Signal string

const (
	Memory       Signal = "memory.available"
	NodeFS       Signal = "nodefs.available"
	NodeFSInodes Signal = "nodefs.inodesFree"
	ImageFS      Signal = "imagefs.available"
	ImageInodes  Signal = "imagefs.inodesFree"
	PID          Signal = "pid.available"
	// AllocatableMemory is what is left of the pods' own cgroup. No field names it: it has memory.available's hard
	// threshold where that cgroup is limited (as upstream's allocatableMemory.available).
	AllocatableMemory Signal = "allocatableMemory.available"
)

// settable are the signals that a configuration may name.
var settable = []Signal{Memory, NodeFS, NodeFSInodes, ImageFS, ImageInodes, PID}

// Resource names the signal's resource in messages.
func (s Signal) Resource() v1.ResourceName {
	switch s {
	case Memory, AllocatableMemory:
		return v1.ResourceMemory
	case PID:
		return "pids"
	case NodeFSInodes, ImageInodes:
		return "inodes"
	}
	return v1.ResourceEphemeralStorage
}

// disk tells signals that images and dead containers can relieve.
func (s Signal) disk() bool { return s != Memory && s != AllocatableMemory && s != PID }

// Condition is the node condition under which the signal shows.
func (s Signal) Condition() v1.NodeConditionType {
	switch s {
	case Memory, AllocatableMemory:
		return v1.NodeMemoryPressure
	case PID:
		return v1.NodePIDPressure
	}
	return v1.NodeDiskPressure
}

// Amount is a number of bytes, inodes or processes, or a percentage of the capacity.
type Amount struct {
	Absolute int64
	Percent  float64
}

// Of returns the amount for a capacity.
func (a Amount) Of(capacity int64) int64 {
	if a.Percent > 0 {
		return int64(float64(capacity) * a.Percent / 100)
	}
	return a.Absolute
}

// Threshold is how little of a signal may be left.
type Threshold struct {
	Signal Signal
	Amount
	// Soft thresholds evict only when they were crossed for all of Grace, and let pods end in peace.
	Soft  bool
	Grace time.Duration
	// MinReclaim is how much more than the threshold must be left until the shortage counts as over.
	MinReclaim Amount
}

// Settings are KubeletConfiguration's fields of the same names.
type Settings struct {
	EvictionHard, EvictionSoft, EvictionSoftGracePeriod, EvictionMinimumReclaim map[string]string
}

// Defaults are upstream's evictionHard on Linux.
func Defaults() map[string]string {
	return map[string]string{
		"memory.available": "100Mi", "nodefs.available": "10%", "nodefs.inodesFree": "5%",
		"imagefs.available": "15%", "imagefs.inodesFree": "5%",
	}
}

// Merge returns the settings with the defaults for every signal that evictionHard does not name
// (mergeDefaultEvictionSettings).
func (s Settings) Merge() Settings {
	all := Defaults()
	maps.Copy(all, s.EvictionHard)
	s.EvictionHard = all
	return s
}

// Parse reads the settings: hard thresholds first, each kind sorted by signal. It reports every error, naming the field.
func Parse(s Settings) ([]Threshold, error) {
	var out []Threshold
	var errs []error
	each := func(field string, m map[string]string, f func(Signal, string) error) {
		for _, name := range slices.Sorted(maps.Keys(m)) {
			err := fmt.Errorf("unknown signal; use one of %v", settable)
			if slices.Contains(settable, Signal(name)) {
				err = f(Signal(name), m[name])
			}
			if err != nil {
				errs = append(errs, fmt.Errorf("%s[%s]: %w", field, name, err))
			}
		}
	}
	reclaim := map[Signal]Amount{}
	each("evictionMinimumReclaim", s.EvictionMinimumReclaim, func(sig Signal, v string) (err error) {
		reclaim[sig], err = parseAmount(v)
		return err
	})
	each("evictionHard", s.EvictionHard, func(sig Signal, v string) error {
		a, err := parseAmount(v)
		if err == nil && a != (Amount{}) {
			out = append(out, Threshold{Signal: sig, Amount: a, MinReclaim: reclaim[sig]})
		}
		return err
	})
	graces := map[Signal]time.Duration{}
	each("evictionSoftGracePeriod", s.EvictionSoftGracePeriod, func(sig Signal, v string) error {
		d, err := time.ParseDuration(v)
		if err != nil || d < 0 {
			return fmt.Errorf("%q is not a duration such as 1m30s", v)
		}
		if s.EvictionSoft[string(sig)] == "" {
			return errors.New("evictionSoft has no threshold of this signal")
		}
		graces[sig] = d
		return nil
	})
	each("evictionSoft", s.EvictionSoft, func(sig Signal, v string) error {
		a, err := parseAmount(v)
		if err != nil || a == (Amount{}) {
			return err
		}
		d, ok := graces[sig]
		if !ok {
			return errors.New("evictionSoftGracePeriod names no grace period for this signal")
		}
		out = append(out, Threshold{Signal: sig, Amount: a, Soft: true, Grace: d, MinReclaim: reclaim[sig]})
		return nil
	})
	return out, errors.Join(errs...)
}

func parseAmount(s string) (Amount, error) {
	if p, ok := strings.CutSuffix(s, "%"); ok {
		f, err := strconv.ParseFloat(p, 64)
		if err != nil || !(f >= 0 && f <= 100) {
			return Amount{}, fmt.Errorf("%q is not a percentage within 0..100", s)
		}
		return Amount{Percent: f}, nil
	}
	q, err := resource.ParseQuantity(s)
	if err != nil || q.Sign() < 0 {
		return Amount{}, fmt.Errorf("%q is neither a quantity nor a percentage", s)
	}
	return Amount{Absolute: q.Value()}, nil
}

// WithAllocatable adds the threshold of the pods' own cgroup, for nodes that limit it.
func WithAllocatable(in []Threshold) []Threshold {
	for _, t := range in {
		if t.Signal == Memory && !t.Soft {
			t.Signal = AllocatableMemory
			return append(slices.Clone(in), t)
		}
	}
	return in
}

// Left is what is left of a signal, of how much.
type Left struct{ Available, Capacity int64 }

// Met is a threshold that was crossed.
type Met struct {
	Threshold
	Left
}

// Crossed returns the thresholds below which something has fallen.
func Crossed(thresholds []Threshold, left map[Signal]Left) []Met {
	return crossed(thresholds, left, func(Threshold) bool { return false })
}

// crossed asks for more, by MinReclaim, of those that are owed.
func crossed(thresholds []Threshold, left map[Signal]Left, owed func(Threshold) bool) []Met {
	var out []Met
	for _, t := range thresholds {
		l, ok := left[t.Signal]
		if !ok || l.Capacity <= 0 {
			continue
		}
		bound := t.Of(l.Capacity)
		if owed(t) {
			bound += t.MinReclaim.Of(l.Capacity)
		}
		if l.Available < bound {
			out = append(out, Met{t, l})
		}
	}
	return out
}

// order puts first what is to be acted on first: memory, for nothing kills faster; then what can be reclaimed; then
// processes. Hard before soft.
func order(met []Met) {
	rank := func(m Met) int {
		r := 2
		switch {
		case m.Signal == Memory || m.Signal == AllocatableMemory:
			r = 0
		case m.Signal == PID:
			r = 4
		}
		if m.Soft {
			r++
		}
		return r
	}
	sort.SliceStable(met, func(i, j int) bool { return rank(met[i]) < rank(met[j]) })
}
