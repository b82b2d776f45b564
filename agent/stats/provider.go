package stats

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	info "github.com/google/cadvisor/info/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// Runtime is the part of CRI that stats need: which container belongs to which pod, and how big its layer is.
type Runtime interface {
	ListPodSandbox(ctx context.Context, filter *runtimeapi.PodSandboxFilter) ([]*runtimeapi.PodSandbox, error)
	ListContainers(ctx context.Context, filter *runtimeapi.ContainerFilter) ([]*runtimeapi.Container, error)
	ListContainerStats(ctx context.Context, filter *runtimeapi.ContainerStatsFilter) ([]*runtimeapi.ContainerStats, error)
	ImageFsInfo(ctx context.Context) (*runtimeapi.ImageFsInfoResponse, error)
}

// Config is what a Provider measures. NodeName, RootDir and Runtime are required.
type Config struct {
	NodeName   string
	Runtime    Runtime
	RootDir    string // the filesystem below it is nodefs
	PodLogsDir string
	// CgroupRoot is the cgroup under which kubepods lies (default "/").
	CgroupRoot string
	// Volumes answers the paths of the volumes whose use counts against a pod, by name. Optional.
	Volumes func(uid types.UID) map[string]string
	Logger  *slog.Logger
}

// Provider measures on demand. Safe for concurrent use.
type Provider struct {
	cfg     Config
	log     *slog.Logger
	started time.Time
	cgroups cgroupReader

	mu    sync.Mutex
	rates map[string]cpuSample // by cgroup

	machineOnce sync.Once
	machine     *info.MachineInfo
	machineErr  error

	du diskUsage
}

// cpuSample is the last reading of a cgroup's processor time, and the rate that came out of the two last ones.
type cpuSample struct {
	at    time.Time
	usage uint64 // nanoseconds
	rate  uint64 // nanoseconds a second
	rated bool
}

// minRateWindow: two readings closer than this make no trustworthy rate; the older rate is served instead.
const minRateWindow = time.Second

// New makes a provider. It fails when the node has no cgroups that can be read.
func New(cfg Config) (*Provider, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if cfg.CgroupRoot == "" {
		cfg.CgroupRoot = "/"
	}
	r, err := newCgroupReader()
	if err != nil {
		return nil, fmt.Errorf("start stats: %w", err)
	}
	return &Provider{cfg: cfg, log: cfg.Logger, started: time.Now(), cgroups: r, rates: map[string]cpuSample{}, du: newDiskUsage()}, nil
}

// rate notes a reading and answers the rate in nanoseconds a second, nil while there is only one.
func (p *Provider) rate(cgroup string, at time.Time, usage uint64) *uint64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	old, ok := p.rates[cgroup]
	s := nextSample(old, ok, at, usage)
	p.rates[cgroup] = s
	if !s.rated {
		return nil
	}
	return &s.rate
}

// nextSample is the rate rule. Pure.
func nextSample(old cpuSample, known bool, at time.Time, usage uint64) cpuSample {
	if !known || usage < old.usage {
		return cpuSample{at: at, usage: usage} // first, or the cgroup was made anew
	}
	d := at.Sub(old.at)
	if d < minRateWindow {
		return old
	}
	return cpuSample{at: at, usage: usage, rate: uint64(float64(usage-old.usage) / d.Seconds()), rated: true}
}

// forget drops the readings of cgroups that are gone.
func (p *Provider) forget(present map[string]bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for k := range p.rates {
		if !present[k] {
			delete(p.rates, k)
		}
	}
}

// Summary is what /stats/summary shows. onlyCPUAndMemory leaves out everything that takes a walk over disks or /proc.
func (p *Provider) Summary(ctx context.Context, onlyCPUAndMemory bool) (*statsapi.Summary, error) {
	world, err := p.look(ctx)
	if err != nil {
		return nil, err
	}
	s := &statsapi.Summary{Node: p.node(ctx, world, onlyCPUAndMemory), Pods: p.pods(ctx, world, onlyCPUAndMemory)}
	present := map[string]bool{"/": true}
	for _, w := range world.pods {
		present[w.cgroup] = true
		for _, c := range w.containers {
			present[c.cgroup] = true
		}
	}
	p.forget(present)
	return s, nil
}

func (p *Provider) cpuStats(st *info.ContainerStats, rate *uint64) *statsapi.CPUStats {
	return &statsapi.CPUStats{Time: metav1.NewTime(st.Timestamp), UsageCoreNanoSeconds: &st.Cpu.Usage.Total, UsageNanoCores: rate, PSI: p.cgroups.pressure(st.Cpu.PSI)}
}

// ioStats is nil where the kernel has no pressure figures: nothing else of IO is in the API.
func (p *Provider) ioStats(st *info.ContainerStats) *statsapi.IOStats {
	psi := p.cgroups.pressure(st.DiskIo.PSI)
	if psi == nil {
		return nil
	}
	return &statsapi.IOStats{Time: metav1.NewTime(st.Timestamp), PSI: psi}
}

func (p *Provider) memoryStats(at time.Time, m *info.MemoryStats, limit uint64) *statsapi.MemoryStats {
	out := &statsapi.MemoryStats{Time: metav1.NewTime(at), UsageBytes: &m.Usage, WorkingSetBytes: &m.WorkingSet, RSSBytes: &m.RSS,
		PageFaults: &m.HierarchicalData.Pgfault, MajorPageFaults: &m.HierarchicalData.Pgmajfault, PSI: p.cgroups.pressure(m.PSI)}
	if limit > 0 {
		avail := uint64(0)
		if m.WorkingSet < limit {
			avail = limit - m.WorkingSet
		}
		out.AvailableBytes = &avail
	}
	return out
}

func swapStats(at time.Time, m *info.MemoryStats) *statsapi.SwapStats {
	return &statsapi.SwapStats{Time: metav1.NewTime(at), SwapUsageBytes: &m.Swap}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// pressure turns the kernel's pressure figures into the API's, nil where the kernel counts none: zero is a figure too.
// cAdvisor gives totals in microseconds, as the kernel does; the API wants nanoseconds.
func (r cgroupReader) pressure(p info.PSIStats) *statsapi.PSIStats {
	if !r.psi {
		return nil
	}
	one := func(d info.PSIData) statsapi.PSIData {
		return statsapi.PSIData{Total: d.Total * 1000, Avg10: d.Avg10, Avg60: d.Avg60, Avg300: d.Avg300}
	}
	return &statsapi.PSIStats{Full: one(p.Full), Some: one(p.Some)}
}
