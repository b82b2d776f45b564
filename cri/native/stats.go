package native

import (
	"context"
	"path"
	"strings"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/reevehq/reeve/cri/match"
	"github.com/reevehq/reeve/internal/cgroup"
	"github.com/reevehq/reeve/internal/logkey"
)

// Stats are read from cgroups, /proc and the snapshotter when they are asked for; nothing runs on a timer.

// systemdPath turns "kubelet-pod1.slice:cri-containerd:id" into the path that systemd gives such a scope.
func systemdPath(cgroupsPath string) string {
	f := strings.SplitN(cgroupsPath, ":", 3)
	if len(f) != 3 {
		return cgroupsPath
	}
	return path.Join(slicePath(f[0]), f[1]+"-"+f[2]+".scope")
}

// slicePath expands "a-b-c.slice" to "/a.slice/a-b.slice/a-b-c.slice", as systemd nests slices.
func slicePath(slice string) string {
	name := strings.TrimSuffix(path.Base(slice), ".slice")
	if name == "-" {
		return "/"
	}
	out, prefix := "/", ""
	for _, part := range strings.Split(name, "-") {
		prefix += part
		out = path.Join(out, prefix+".slice")
		prefix += "-"
	}
	return out
}

func (r *Runtime) cgroupPath(cgroupsPath string) string {
	if r.host.SystemdCgroup {
		return systemdPath(cgroupsPath)
	}
	return cgroupsPath
}

// podCgroup is where the pod's containers live together; "" when the sandbox has none of its own.
func (r *Runtime) podCgroup(s *sandbox) string {
	parent := s.rec.Config.M.GetLinux().GetCgroupParent()
	if parent == "" || parent == "/" {
		return ""
	}
	if r.host.SystemdCgroup {
		return slicePath(parent)
	}
	return parent
}

func value(v *uint64) *runtimeapi.UInt64Value {
	if v == nil {
		return nil
	}
	return &runtimeapi.UInt64Value{Value: *v}
}

func cpuUsage(now int64, u cgroup.Usage) *runtimeapi.CpuUsage {
	if u.CPUNanoseconds == nil {
		return nil
	}
	return &runtimeapi.CpuUsage{Timestamp: now, UsageCoreNanoSeconds: value(u.CPUNanoseconds), Psi: psi(u.CPUPressure)}
}

func memoryUsage(now int64, u cgroup.Usage) *runtimeapi.MemoryUsage {
	if u.MemoryUsage == nil {
		return nil
	}
	m := &runtimeapi.MemoryUsage{
		Timestamp: now, WorkingSetBytes: value(u.MemoryWorkingSet), UsageBytes: value(u.MemoryUsage), RssBytes: value(u.MemoryRSS),
		PageFaults: value(u.PageFaults), MajorPageFaults: value(u.MajorPageFaults), Psi: psi(u.MemoryPressure),
	}
	if u.MemoryLimit != nil && u.MemoryWorkingSet != nil {
		free := *u.MemoryLimit - min(*u.MemoryLimit, *u.MemoryWorkingSet)
		m.AvailableBytes = value(&free)
	}
	return m
}

func ioUsage(now int64, u cgroup.Usage) *runtimeapi.IoUsage {
	if u.IOPressure == nil {
		return nil
	}
	return &runtimeapi.IoUsage{Timestamp: now, Psi: psi(u.IOPressure)}
}

func psi(p *cgroup.Pressure) *runtimeapi.PsiStats {
	if p == nil {
		return nil
	}
	line := func(l cgroup.PressureLine) *runtimeapi.PsiData {
		return &runtimeapi.PsiData{Total: l.Total, Avg10: l.Avg10, Avg60: l.Avg60, Avg300: l.Avg300}
	}
	return &runtimeapi.PsiStats{Full: line(p.Full), Some: line(p.Some)}
}

type statsInput struct {
	id, sandbox string
	rec         containerRecord
	started     time.Time
}

func (r *Runtime) containerStats(ctx context.Context, in statsInput) *runtimeapi.ContainerStats {
	now := time.Now().UnixNano()
	config := in.rec.Config.M
	u := r.cgroups.Read(r.cgroupPath(in.rec.Cgroup))
	st := &runtimeapi.ContainerStats{
		Attributes: &runtimeapi.ContainerAttributes{Id: in.id, Metadata: config.Metadata, Labels: config.Labels, Annotations: config.Annotations},
		Cpu:        cpuUsage(now, u), Memory: memoryUsage(now, u), Io: ioUsage(now, u),
	}
	if u.SwapUsage != nil {
		st.Swap = &runtimeapi.SwapUsage{Timestamp: now, SwapUsageBytes: value(u.SwapUsage)}
		if u.SwapLimit != nil {
			free := *u.SwapLimit - min(*u.SwapLimit, *u.SwapUsage)
			st.Swap.SwapAvailableBytes = value(&free)
		}
	}
	if l, ok := r.layerUsage(ctx, in.id); ok {
		st.WritableLayer = &runtimeapi.FilesystemUsage{
			Timestamp: l.at.UnixNano(), FsId: &runtimeapi.FilesystemIdentifier{Mountpoint: r.images.root()},
			UsedBytes: value(&l.size), InodesUsed: value(&l.inodes),
		}
	}
	return st
}

// layerUsageAge is how old a writable layer's size may be.
const layerUsageAge = 5 * time.Second

// layerUsage measures a writable layer, which means walking it, when it is asked for: not within layerUsageAge of the
// last time, and for no more than a fiftieth of the time, however large the layer is.
func (r *Runtime) layerUsage(ctx context.Context, id string) (layerUsage, bool) {
	r.store.mu.RLock()
	c := r.store.containers[id]
	var l layerUsage
	if c != nil {
		l = c.layer
	}
	r.store.mu.RUnlock()
	if c == nil || !l.at.IsZero() && time.Since(l.at) < max(layerUsageAge, 50*l.took) {
		return l, c != nil
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	began := time.Now()
	u, err := r.snaps.Usage(ctx, id)
	if err != nil {
		return l, !l.at.IsZero()
	}
	l = layerUsage{at: time.Now(), took: time.Since(began), size: uint64(max(u.Size, 0)), inodes: uint64(max(u.Inodes, 0))}
	r.store.mu.Lock()
	c.layer = l
	r.store.mu.Unlock()
	return l, true
}

// ContainerStats answers codes.NotFound for an unknown container.
func (r *Runtime) ContainerStats(ctx context.Context, id string) (*runtimeapi.ContainerStats, error) {
	c, err := r.store.container(id)
	if err != nil {
		return nil, err
	}
	r.store.mu.RLock()
	in := statsInput{c.id, c.rec.SandboxID, c.rec, c.started}
	r.store.mu.RUnlock()
	return r.containerStats(ctx, in), nil
}

// ListContainerStats covers the running containers that the filter selects.
func (r *Runtime) ListContainerStats(ctx context.Context, f *runtimeapi.ContainerStatsFilter) ([]*runtimeapi.ContainerStats, error) {
	var out []*runtimeapi.ContainerStats
	for _, in := range r.statsInputs(func(c *container) bool {
		return match.ContainerStats(f, c.id, c.rec.SandboxID, c.rec.Config.M.Labels)
	}) {
		out = append(out, r.containerStats(ctx, in))
	}
	return out, ctx.Err()
}

func (r *Runtime) statsInputs(want func(*container) bool) []statsInput {
	r.store.mu.RLock()
	defer r.store.mu.RUnlock()
	var out []statsInput
	for _, c := range r.store.containers {
		if c.state == stateRunning && want(c) {
			out = append(out, statsInput{c.id, c.rec.SandboxID, c.rec, c.started})
		}
	}
	return out
}

// PodSandboxStats sums the pod's cgroup and reads its network's counters.
func (r *Runtime) PodSandboxStats(ctx context.Context, id string) (*runtimeapi.PodSandboxStats, error) {
	s, err := r.store.sandbox(id)
	if err != nil {
		return nil, err
	}
	return r.sandboxStats(ctx, s), nil
}

func (r *Runtime) sandboxStats(ctx context.Context, s *sandbox) *runtimeapi.PodSandboxStats {
	now := time.Now().UnixNano()
	c := s.rec.Config.M
	r.store.mu.RLock()
	ready := s.state == sandboxReady
	r.store.mu.RUnlock()
	var u cgroup.Usage
	if cg := r.podCgroup(s); cg != "" {
		u = r.cgroups.Read(cg)
	}
	linux := &runtimeapi.LinuxPodSandboxStats{Cpu: cpuUsage(now, u), Memory: memoryUsage(now, u), Io: ioUsage(now, u)}
	if u.Processes != nil {
		linux.Process = &runtimeapi.ProcessUsage{Timestamp: now, ProcessCount: value(u.Processes)}
	}
	if s.rec.NetNS != "" && ready {
		n, err := networkUsage(s.rec.NetNS, now)
		if err != nil {
			r.log.Debug("Could not read a pod's network counters", logkey.SandboxID, s.id, logkey.Err, err)
		}
		linux.Network = n
	}
	for _, in := range r.statsInputs(func(ct *container) bool { return ct.rec.SandboxID == s.id }) {
		linux.Containers = append(linux.Containers, r.containerStats(ctx, in))
	}
	return &runtimeapi.PodSandboxStats{
		Attributes: &runtimeapi.PodSandboxAttributes{Id: s.id, Metadata: c.Metadata, Labels: c.Labels, Annotations: c.Annotations}, Linux: linux,
	}
}

// ListPodSandboxStats covers the ready sandboxes that the filter selects.
func (r *Runtime) ListPodSandboxStats(ctx context.Context, f *runtimeapi.PodSandboxStatsFilter) ([]*runtimeapi.PodSandboxStats, error) {
	r.store.mu.RLock()
	var list []*sandbox
	for _, s := range r.store.sandboxes {
		if s.state == sandboxReady && match.SandboxStats(f, s.id, s.rec.Config.M.Labels) {
			list = append(list, s)
		}
	}
	r.store.mu.RUnlock()
	var out []*runtimeapi.PodSandboxStats
	for _, s := range list {
		out = append(out, r.sandboxStats(ctx, s))
	}
	return out, ctx.Err()
}
