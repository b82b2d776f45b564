package agent

import (
	"context"
	"os"
	"strconv"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/reevehq/reeve/agent/evict"
	"github.com/reevehq/reeve/agent/node"
	"github.com/reevehq/reeve/agent/podworker"
	"github.com/reevehq/reeve/agent/resources"
)

// evictionReserve returns what the hard eviction thresholds take off allocatable: memory and storage.
func evictionReserve(thresholds []evict.Threshold, capacity v1.ResourceList) v1.ResourceList {
	out := v1.ResourceList{}
	for _, t := range thresholds {
		switch t.Signal {
		case evict.Memory:
			out[v1.ResourceMemory] = *resource.NewQuantity(t.Of(capacity.Memory().Value()), resource.BinarySI)
		case evict.NodeFS:
			st := capacity[v1.ResourceEphemeralStorage]
			out[v1.ResourceEphemeralStorage] = *resource.NewQuantity(t.Of(st.Value()), resource.BinarySI)
		}
	}
	return out
}

// pressure says of what the node is short.
func (a *agent) pressure() node.Pressure {
	return node.Pressure{
		Memory: a.evict.Pressure(v1.NodeMemoryPressure), Disk: a.evict.Pressure(v1.NodeDiskPressure), PID: a.evict.Pressure(v1.NodePIDPressure),
	}
}

// imageFSTimeout bounds the runtime's answer where images lie.
const imageFSTimeout = 5 * time.Second

// left reads what is left of everything that eviction watches. What cannot be read is left out, and never evicts.
func (a *agent) left(ctx context.Context) map[evict.Signal]evict.Left {
	out := map[evict.Signal]evict.Left{}
	if avail, err := resources.MemoryAvailable(); err == nil {
		n := a.node.Capacity()
		out[evict.Memory] = evict.Left{Available: avail, Capacity: n.Memory().Value()}
	}
	fill := func(path string, space, inodes evict.Signal) {
		fs, err := resources.ReadFS(path)
		if err != nil {
			return
		}
		out[space] = evict.Left{Available: fs.AvailableBytes, Capacity: fs.CapacityBytes}
		if fs.Inodes > 0 {
			out[inodes] = evict.Left{Available: fs.InodesFree, Capacity: fs.Inodes}
		}
	}
	fill(a.cfg.RootDir, evict.NodeFS, evict.NodeFSInodes)
	ctx, cancel := context.WithTimeout(ctx, imageFSTimeout)
	defer cancel()
	if info, err := a.cfg.Runtime.ImageFsInfo(ctx); err == nil {
		for _, f := range info.GetImageFilesystems() {
			if p := f.GetFsId().GetMountpoint(); p != "" {
				fill(p, evict.ImageFS, evict.ImageInodes)
				break
			}
		}
	}
	if l, ok := pidsLeft(); ok {
		out[evict.PID] = l
	}
	return out
}

// pidsLeft compares the number of threads (the fourth field of loadavg) with the most that there may be.
func pidsLeft() (evict.Left, bool) {
	maxRaw, err := os.ReadFile("/proc/sys/kernel/pid_max")
	if err != nil {
		return evict.Left{}, false
	}
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return evict.Left{}, false
	}
	most, err := strconv.ParseInt(strings.TrimSpace(string(maxRaw)), 10, 64)
	f := strings.Fields(string(load))
	if err != nil || len(f) < 4 {
		return evict.Left{}, false
	}
	_, all, _ := strings.Cut(f[3], "/")
	threads, err := strconv.ParseInt(all, 10, 64)
	if err != nil {
		return evict.Left{}, false
	}
	return evict.Left{Available: most - threads, Capacity: most}, true
}

// evictPod ends a pod at once, as hard eviction does.
func (a *agent) evictPod(pod *v1.Pod, msg string) {
	a.events.pod(pod, "", v1.EventTypeWarning, "Evicted", msg)
	a.pool.Stop(pod, podworker.Stop{Cause: podworker.Evicted, Since: time.Now(), Grace: 0, Reason: "Evicted", Message: msg})
}
