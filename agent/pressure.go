package agent

import (
	"fmt"
	"strconv"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/reevehq/reeve/agent/node"
	"github.com/reevehq/reeve/agent/resources"
)

// threshold is how little may be left: an amount, or a share of the capacity.
type threshold struct {
	bytes   int64
	percent float64
}

func parseThreshold(s string) (threshold, error) {
	if p, ok := strings.CutSuffix(s, "%"); ok {
		f, err := strconv.ParseFloat(p, 64)
		if err != nil || f < 0 || f > 100 {
			return threshold{}, fmt.Errorf("%q is not a percentage within 0..100", s)
		}
		return threshold{percent: f}, nil
	}
	q, err := resource.ParseQuantity(s)
	if err != nil || q.Sign() < 0 {
		return threshold{}, fmt.Errorf("%q is neither a quantity nor a percentage", s)
	}
	return threshold{bytes: q.Value()}, nil
}

// of returns the amount for a capacity.
func (t threshold) of(capacity int64) int64 {
	if t.percent > 0 {
		return int64(float64(capacity) * t.percent / 100)
	}
	return t.bytes
}

// evictionReserve returns what the hard eviction thresholds take off allocatable: memory and storage.
func evictionReserve(hard map[string]string, capacity v1.ResourceList) (v1.ResourceList, error) {
	out := v1.ResourceList{}
	for signal, s := range hard {
		t, err := parseThreshold(s)
		if err != nil {
			return nil, fmt.Errorf("evictionHard[%s]: %w", signal, err)
		}
		switch signal {
		case "memory.available":
			out[v1.ResourceMemory] = *resource.NewQuantity(t.of(capacity.Memory().Value()), resource.BinarySI)
		case "nodefs.available":
			st := capacity[v1.ResourceEphemeralStorage]
			out[v1.ResourceEphemeralStorage] = *resource.NewQuantity(t.of(st.Value()), resource.BinarySI)
		case "nodefs.inodesFree", "imagefs.available", "imagefs.inodesFree", "pid.available":
		default:
			return nil, fmt.Errorf("evictionHard[%s]: unknown signal", signal)
		}
	}
	return out, nil
}

// pressure says of what the node is short by the hard thresholds.
func (a *agent) pressure() node.Pressure {
	var p node.Pressure
	hard := map[string]threshold{}
	for signal, s := range a.cfg.EvictionHard {
		if t, err := parseThreshold(s); err == nil {
			hard[signal] = t
		}
	}
	if t, ok := hard["memory.available"]; ok {
		if avail, err := resources.MemoryAvailable(); err == nil {
			n := a.node.Capacity()
			p.Memory = avail < t.of(n.Memory().Value())
		}
	}
	if fs, err := resources.ReadFS(a.cfg.RootDir); err == nil {
		if t, ok := hard["nodefs.available"]; ok && fs.AvailableBytes < t.of(fs.CapacityBytes) {
			p.Disk = true
		}
		if t, ok := hard["nodefs.inodesFree"]; ok && fs.Inodes > 0 && fs.InodesFree < t.of(fs.Inodes) {
			p.Disk = true
		}
	}
	return p
}
