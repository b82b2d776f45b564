package agent

import (
	"context"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"

	"github.com/reevehq/reeve/agent/evict"
	"github.com/reevehq/reeve/agent/node"
	"github.com/reevehq/reeve/agent/podworker"
	"github.com/reevehq/reeve/agent/resources"
	"github.com/reevehq/reeve/internal/cgroup"
	"github.com/reevehq/reeve/internal/logkey"
)

// evictionReserve returns what the hard eviction thresholds take off allocatable: memory and storage.
func evictionReserve(thresholds []evict.Threshold, capacity v1.ResourceList) v1.ResourceList {
	out := v1.ResourceList{}
	for _, t := range thresholds {
		if t.Soft {
			continue
		}
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

// gauge reads what eviction watches, and has the kernel wake it.
type gauge struct {
	agent *agent
	host  *cgroup.Host // nil: no cgroups
	ceil  resources.Ceiling
	wake  chan struct{}
	// hard is the memory threshold below which pods go.
	hard evict.Threshold

	imageFS string // found once

	node, pods *cgroup.MemoryWatch
}

// memoryCeiling is the limit that the cgroups around this node's pods set to its memory.
func memoryCeiling(cgroupRoot string) (*cgroup.Host, resources.Ceiling) {
	h, err := cgroup.Detect()
	if err != nil {
		return nil, resources.Ceiling{}
	}
	return h, resources.FindCeiling(h, cgroupRoot)
}

func newGauge(a *agent, host *cgroup.Host, ceil resources.Ceiling, thresholds []evict.Threshold) *gauge {
	g := &gauge{agent: a, host: host, ceil: ceil, wake: make(chan struct{}, 1)}
	for _, t := range thresholds {
		if t.Signal == evict.Memory && !t.Soft {
			g.hard = t
		}
	}
	return g
}

// run listens to the kernel until ctx ends. Where it tells nothing, looking often has to do.
func (g *gauge) run(ctx context.Context) error {
	if g.host == nil {
		<-ctx.Done()
		return nil
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, w := range []*cgroup.MemoryWatch{g.node, g.pods} {
		if w == nil {
			continue
		}
		wg.Go(func() {
			defer w.Close()
			for {
				select {
				case <-ctx.Done():
					return
				case <-w.C:
				}
				select {
				case g.wake <- struct{}{}:
				default:
				}
			}
		})
	}
	<-ctx.Done()
	return nil
}

// open starts the watches.
func (g *gauge) open() {
	if g.host == nil {
		return
	}
	at := func(path string) *cgroup.MemoryWatch {
		w, err := g.host.WatchMemory(path)
		if err != nil {
			g.agent.log.Warn("Failed to watch memory, looking at it by the clock", logkey.Err, err)
			return nil
		}
		g.agent.log.Info("Watching memory", "cgroup", path, "sources", w.Sources())
		return w
	}
	around := g.ceil.Cgroup
	if around == "" {
		around = "/"
	}
	g.node, g.pods = at(around), at(g.agent.cgroups.PodsPath())
}

// left reads what is left of everything that eviction watches. What cannot be read is left out, and never evicts. Call
// it from one goroutine.
func (g *gauge) left(ctx context.Context) map[evict.Signal]evict.Left {
	out := map[evict.Signal]evict.Left{}
	g.memory(out)
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
	fill(g.agent.cfg.RootDir, evict.NodeFS, evict.NodeFSInodes)
	if g.imageFS == "" {
		ctx, cancel := context.WithTimeout(ctx, imageFSTimeout)
		defer cancel()
		if info, err := g.agent.cfg.Runtime.ImageFsInfo(ctx); err == nil {
			for _, f := range info.GetImageFilesystems() {
				if p := f.GetFsId().GetMountpoint(); p != "" {
					g.imageFS = p
					break
				}
			}
		}
	}
	if g.imageFS != "" {
		fill(g.imageFS, evict.ImageFS, evict.ImageInodes)
	}
	if l, ok := pidsLeft(); ok {
		out[evict.PID] = l
	}
	return out
}

// memory fills in the machine's memory, or that of the cgroup around the node where that is tighter, and the pods' own.
func (g *gauge) memory(out map[evict.Signal]evict.Left) {
	list := g.agent.node.Capacity()
	capacity := list.Memory().Value()
	if avail, err := resources.MemoryAvailable(); err == nil {
		out[evict.Memory] = evict.Left{Available: avail, Capacity: capacity}
		if g.host != nil && g.ceil.Cgroup == "" {
			g.arm(g.node, g.host.Read("/"), avail, g.hard.Of(capacity))
		}
	}
	if g.host == nil {
		return
	}
	if g.ceil.Cgroup != "" {
		if left, limit, u, ok := resources.LeftIn(g.host, g.ceil.Cgroup); ok && left < out[evict.Memory].Available {
			out[evict.Memory] = evict.Left{Available: left, Capacity: min(capacity, limit)}
			g.arm(g.node, u, left, g.hard.Of(limit))
		}
	}
	if left, limit, u, ok := resources.LeftIn(g.host, g.agent.cgroups.PodsPath()); ok {
		out[evict.AllocatableMemory] = evict.Left{Available: left, Capacity: limit}
		g.arm(g.pods, u, left, g.hard.Of(limit))
	}
}

// arm has the kernel tell when usage has grown by what is left above the threshold. Usage counts the page cache, which
// the kernel would give up first: that it grows wakes us too early at worst.
func (g *gauge) arm(w *cgroup.MemoryWatch, u cgroup.Usage, left, threshold int64) {
	if w == nil || u.MemoryUsage == nil || left <= threshold {
		return
	}
	if err := w.Arm(*u.MemoryUsage + uint64(left-threshold)); err != nil {
		g.agent.log.Debug("Failed to arm memory threshold", logkey.Err, err)
	}
}

// pidMax is the most threads that the machine can have, 0 when that cannot be read.
func pidMax() int64 {
	b, err := os.ReadFile("/proc/sys/kernel/pid_max")
	if err != nil {
		return 0
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	if err != nil {
		return 0
	}
	return n
}

// pidsLeft compares the number of threads (the fourth field of loadavg) with the most that there may be.
func pidsLeft() (evict.Left, bool) {
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return evict.Left{}, false
	}
	most := pidMax()
	f := strings.Fields(string(load))
	if most == 0 || len(f) < 4 {
		return evict.Left{}, false
	}
	_, all, _ := strings.Cut(f[3], "/")
	threads, err := strconv.ParseInt(all, 10, 64)
	if err != nil {
		return evict.Left{}, false
	}
	return evict.Left{Available: most - threads, Capacity: most}, true
}

// evictPod ends a pod within the grace; none for hard thresholds.
func (a *agent) evictPod(pod *v1.Pod, grace time.Duration, msg string) {
	a.events.pod(pod, "", v1.EventTypeWarning, "Evicted", msg)
	a.pool.Stop(pod, podworker.Stop{Cause: podworker.Evicted, Since: time.Now(), Grace: grace, Reason: "Evicted", Message: msg})
}

// evictedGone tells that an evicted pod uses nothing any more: no container runs, and its volumes are gone.
func (a *agent) evictedGone(uid types.UID) bool {
	if !a.pool.Has(uid) {
		return true
	}
	a.pods.mu.Lock()
	r, ok := a.pods.reports[uid]
	a.pods.mu.Unlock()
	return ok && r.Stage >= podworker.Stopped
}

// ended tells that a pod has come to its end here, so that what is left of its containers serves only to be looked at.
func (p *pods) ended(uid types.UID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if r, ok := p.reports[uid]; ok && r.Stage < podworker.Stopped {
		return false
	}
	if st, ok := p.statuses[uid]; ok {
		return st.Phase == v1.PodSucceeded || st.Phase == v1.PodFailed
	}
	pod := p.known[uid]
	return pod != nil && (pod.Status.Phase == v1.PodSucceeded || pod.Status.Phase == v1.PodFailed)
}
