package evict

import (
	"fmt"
	"sort"
	"strconv"
	"strings"

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
)

// Resource names the signal's resource in messages.
func (s Signal) Resource() v1.ResourceName {
	switch s {
	case Memory:
		return v1.ResourceMemory
	case PID:
		return "pids"
	case NodeFSInodes, ImageInodes:
		return "inodes"
	}
	return v1.ResourceEphemeralStorage
}

// disk tells signals that images and dead containers can relieve.
func (s Signal) disk() bool { return s != Memory && s != PID }

// Threshold is how little of a signal may be left: an amount, or a percentage of the capacity.
type Threshold struct {
	Signal  Signal
	Amount  int64
	Percent float64
}

// Of returns the amount for a capacity.
func (t Threshold) Of(capacity int64) int64 {
	if t.Percent > 0 {
		return int64(float64(capacity) * t.Percent / 100)
	}
	return t.Amount
}

// Parse reads evictionHard, sorted by signal; errors name the field.
func Parse(hard map[string]string) ([]Threshold, error) {
	var out []Threshold
	for name, s := range hard {
		t := Threshold{Signal: Signal(name)}
		switch t.Signal {
		case Memory, NodeFS, NodeFSInodes, ImageFS, ImageInodes, PID:
		default:
			return nil, fmt.Errorf("evictionHard[%s]: unknown signal", name)
		}
		if p, ok := strings.CutSuffix(s, "%"); ok {
			f, err := strconv.ParseFloat(p, 64)
			if err != nil || f < 0 || f > 100 {
				return nil, fmt.Errorf("evictionHard[%s]: %q is not a percentage within 0..100", name, s)
			}
			t.Percent = f
		} else {
			q, err := resource.ParseQuantity(s)
			if err != nil || q.Sign() < 0 {
				return nil, fmt.Errorf("evictionHard[%s]: %q is neither a quantity nor a percentage", name, s)
			}
			t.Amount = q.Value()
		}
		if t.Amount > 0 || t.Percent > 0 {
			out = append(out, t)
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Signal < out[j].Signal })
	return out, nil
}

// Left is what is left of a signal, of how much.
type Left struct{ Available, Capacity int64 }

// Met is a threshold that was crossed.
type Met struct {
	Threshold
	Left
}

// Crossed returns the thresholds below which something has fallen; memory first, for nothing kills faster.
func Crossed(thresholds []Threshold, left map[Signal]Left) []Met {
	var out []Met
	for _, t := range thresholds {
		l, ok := left[t.Signal]
		if ok && l.Capacity > 0 && l.Available < t.Of(l.Capacity) {
			out = append(out, Met{t, l})
		}
	}
	sort.SliceStable(out, func(i, j int) bool { return out[i].Signal == Memory && out[j].Signal != Memory })
	return out
}
