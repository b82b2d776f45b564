package evict

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"github.com/reevehq/reeve/agent/container"
	"github.com/reevehq/reeve/internal/logkey"
)

const (
	// near is how soon the node is looked at again after something was ended.
	near = time.Second
	// localEvery is how often pods' own storage limits are checked (upstream: 10 s).
	localEvery = 10 * time.Second
	// goneTimeout bounds the wait for an evicted pod to be gone, in which no other is evicted (upstream: 30 s).
	goneTimeout = 30 * time.Second
	// reclaimPause keeps images and dead containers, once cleared in vain, from being listed at every look.
	reclaimPause = 5 * time.Second
	// statsTimeout bounds the measuring of all pods.
	statsTimeout = 30 * time.Second
	// DefaultHold is how long a condition stays once its cause is gone (evictionPressureTransitionPeriod).
	DefaultHold = 5 * time.Minute
)

// Config of a Manager.
type Config struct {
	Thresholds []Threshold
	// Hold is evictionPressureTransitionPeriod; 0 means DefaultHold.
	Hold time.Duration
	// MaxPodGrace bounds the grace of pods that soft thresholds end (evictionMaxPodGracePeriod).
	MaxPodGrace time.Duration
	// Left reads what is left of every signal.
	Left func(ctx context.Context) map[Signal]Left
	// Wake hears that the kernel saw memory run short: the node is looked at at once. Optional.
	Wake <-chan struct{}
	// Summary measures pods.
	Summary func(ctx context.Context, onlyCPUAndMemory bool) (*statsapi.Summary, error)
	// Active are the pods that run here.
	Active func() []*v1.Pod
	// Evict ends a pod within the grace, with this message. Gone tells when nothing of it uses anything any more.
	Evict func(pod *v1.Pod, grace time.Duration, message string)
	Gone  func(uid types.UID) bool
	// ReclaimDisk removes dead containers and unused images, and returns when that is done.
	ReclaimDisk func(ctx context.Context)
	// Changed hears that Pressure answers otherwise than before.
	Changed  func()
	Event    func(eventType, reason, message string)
	Registry prometheus.Registerer
	Logger   *slog.Logger
}

// Manager evicts. Make it with New.
type Manager struct {
	cfg     Config
	evicted *prometheus.CounterVec
	age     *prometheus.HistogramVec

	// Only Run's goroutine uses these.
	going     *v1.Pod // evicted and not gone yet
	goingTill time.Time
	reclaimed time.Time
	localAt   time.Time
	announced Signal

	mu    sync.Mutex
	track *tracker
}

// New returns a manager.
func New(cfg Config) *Manager {
	if cfg.Hold <= 0 {
		cfg.Hold = DefaultHold
	}
	m := &Manager{cfg: cfg, track: newTracker(),
		evicted: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kubelet_evictions", Help: "Pods evicted, by the signal that was low."}, []string{"eviction_signal"}),
		age: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "kubelet_eviction_stats_age_seconds", Help: "Time between when stats were collected, and when a pod was evicted on them, by signal."},
			[]string{"eviction_signal"}),
	}
	if cfg.Registry != nil {
		cfg.Registry.MustRegister(m.evicted, m.age)
	}
	return m
}

// Pressure tells whether the node has the condition (MemoryPressure, DiskPressure, PIDPressure).
func (m *Manager) Pressure(t v1.NodeConditionType) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.track.pressure(t, m.cfg.Hold, time.Now())
}

// Refuses returns the condition under which a pod is not to be admitted now, "" if it is welcome. Critical pods always
// are; under memory pressure alone only BestEffort pods are not, unless they tolerate it.
func (m *Manager) Refuses(pod *v1.Pod) v1.NodeConditionType {
	if container.Critical(pod) {
		return ""
	}
	disk, mem, pid := m.Pressure(v1.NodeDiskPressure), m.Pressure(v1.NodeMemoryPressure), m.Pressure(v1.NodePIDPressure)
	switch {
	case disk:
		return v1.NodeDiskPressure
	case pid:
		return v1.NodePIDPressure
	case mem && container.QOS(pod) == v1.PodQOSBestEffort && !tolerates(pod):
		return v1.NodeMemoryPressure
	}
	return ""
}

func tolerates(pod *v1.Pod) bool {
	for _, t := range pod.Spec.Tolerations {
		if t.Key == v1.TaintNodeMemoryPressure || t.Key == "" && t.Operator == v1.TolerationOpExists {
			if t.Effect == "" || t.Effect == v1.TaintEffectNoSchedule {
				return true
			}
		}
	}
	return false
}

// Run watches until ctx ends.
func (m *Manager) Run(ctx context.Context) error {
	wait := least
	for {
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-m.cfg.Wake:
			m.cfg.Logger.Debug("Kernel told of memory pressure")
		case <-t.C:
		}
		t.Stop()
		wait = m.look(ctx, time.Now())
	}
}

// look takes one turn; it returns when to take the next.
func (m *Manager) look(ctx context.Context, now time.Time) time.Duration {
	v := m.observe(ctx, now)
	if m.going != nil {
		switch {
		case m.cfg.Gone(m.going.UID):
			m.going, m.reclaimed = nil, time.Time{} // its containers are dead, and their layers can go
		case now.Before(m.goingTill):
			return min(v.Wait, near)
		default:
			m.cfg.Logger.Warn("Evicted pod is not gone yet, going on", logkey.Pod, m.going.Namespace+"/"+m.going.Name)
			m.going = nil
		}
	}
	if len(v.Act) == 0 {
		m.announced = ""
		if m.local(ctx, now) {
			return near
		}
		return v.Wait
	}
	first := v.Act[0]
	m.announce(first)
	if first.Signal.disk() {
		// A pod beyond its own limits goes before anything else does: it is the cause, or soon would be.
		if m.local(ctx, now) {
			return near
		}
		if now.Sub(m.reclaimed) >= reclaimPause {
			m.cfg.Logger.Warn("Node is short of disk, reclaiming", "signal", string(first.Signal), "available", first.Available)
			m.cfg.ReclaimDisk(ctx)
			m.reclaimed = time.Now()
			if v = m.observe(ctx, time.Now()); len(v.Act) == 0 {
				return min(v.Wait, near)
			}
			first = v.Act[0]
		}
	}
	if m.relieve(ctx, first, now) {
		return near
	}
	return v.Wait
}

// observe reads what is left, keeps the conditions, and tells what is to be acted on.
func (m *Manager) observe(ctx context.Context, now time.Time) verdict {
	left := m.cfg.Left(ctx)
	m.mu.Lock()
	v := m.track.look(m.cfg.Thresholds, left, m.cfg.Hold, now)
	m.mu.Unlock()
	if v.Changed && m.cfg.Changed != nil {
		m.cfg.Changed()
	}
	return v
}

// announce tells once of each shortage.
func (m *Manager) announce(x Met) {
	if m.announced == x.Signal {
		return
	}
	m.announced = x.Signal
	m.cfg.Logger.Warn("Node is short of a resource", "signal", string(x.Signal), "available", x.Available, "capacity", x.Capacity)
	if m.cfg.Event != nil {
		m.cfg.Event(v1.EventTypeWarning, "EvictionThresholdMet", fmt.Sprintf("Attempting to reclaim %s", x.Signal.Resource()))
	}
}

// relieve ends the pod that is first in line.
func (m *Manager) relieve(ctx context.Context, x Met, now time.Time) bool {
	res := x.Signal.Resource()
	measured := time.Now()
	usage, err := m.usage(ctx, res == v1.ResourceMemory)
	if err != nil {
		m.cfg.Logger.Warn("Failed to measure pods for eviction", logkey.Err, err)
	}
	ranked := Rank(m.cfg.Active(), usage, res)
	if len(ranked) == 0 {
		m.cfg.Logger.Warn("Node is short of a resource and no pod can be evicted", "signal", string(x.Signal))
		return false
	}
	p := ranked[0]
	grace := time.Duration(0)
	if x.Soft {
		grace = m.cfg.MaxPodGrace
		if g := p.Spec.TerminationGracePeriodSeconds; g != nil {
			grace = min(grace, time.Duration(*g)*time.Second)
		}
	}
	m.evict(p, string(x.Signal), grace, message(x, p, usage[p.UID]))
	m.age.WithLabelValues(string(x.Signal)).Observe(time.Since(measured).Seconds())
	m.going, m.goingTill = p, now.Add(goneTimeout+grace)
	return true
}

func (m *Manager) evict(p *v1.Pod, signal string, grace time.Duration, msg string) {
	m.cfg.Logger.Warn("Evicting pod", logkey.Pod, p.Namespace+"/"+p.Name, logkey.PodUID, string(p.UID), "signal", signal, "reason", msg)
	m.evicted.WithLabelValues(signal).Inc()
	m.cfg.Evict(p, grace, msg)
}

// local ends pods that outgrew their own limits.
func (m *Manager) local(ctx context.Context, now time.Time) bool {
	if now.Sub(m.localAt) < localEvery {
		return false
	}
	var pods []*v1.Pod
	for _, p := range m.cfg.Active() {
		if limited(p) && !container.Critical(p) {
			pods = append(pods, p)
		}
	}
	if len(pods) == 0 {
		return false
	}
	m.localAt = now
	usage, err := m.usage(ctx, false)
	if err != nil {
		m.cfg.Logger.Warn("Failed to measure pods' storage", logkey.Err, err)
		return false
	}
	did := false
	for _, p := range pods {
		if msg := Outgrown(p, usage[p.UID]); msg != "" {
			m.evict(p, "ephemeral-storage", 0, msg)
			did = true
		}
	}
	return did
}

func (m *Manager) usage(ctx context.Context, memoryOnly bool) (map[types.UID]Usage, error) {
	ctx, cancel := context.WithTimeout(ctx, statsTimeout)
	defer cancel()
	sum, err := m.cfg.Summary(ctx, memoryOnly)
	if err != nil {
		return nil, err
	}
	out := map[types.UID]Usage{}
	for i := range sum.Pods {
		out[types.UID(sum.Pods[i].PodRef.UID)] = usageOf(&sum.Pods[i])
	}
	return out, nil
}

func usageOf(p *statsapi.PodStats) Usage {
	u := Usage{Volumes: map[string]int64{}, ContainersMemory: map[string]int64{}, ContainersDisk: map[string]int64{}}
	count := func(to *int64, v *uint64) {
		if v != nil {
			*to += int64(*v)
		}
	}
	for i := range p.Containers {
		c := &p.Containers[i]
		if c.Memory != nil && c.Memory.WorkingSetBytes != nil {
			u.ContainersMemory[c.Name] = int64(*c.Memory.WorkingSetBytes)
			u.Memory += int64(*c.Memory.WorkingSetBytes)
		}
		for _, fs := range []*statsapi.FsStats{c.Rootfs, c.Logs} {
			if fs != nil && fs.UsedBytes != nil {
				u.ContainersDisk[c.Name] += int64(*fs.UsedBytes)
			}
			if fs != nil {
				count(&u.Inodes, fs.InodesUsed)
			}
		}
	}
	for i := range p.VolumeStats {
		v := &p.VolumeStats[i]
		if v.UsedBytes != nil {
			u.Volumes[v.Name] = int64(*v.UsedBytes)
		}
		count(&u.Inodes, v.InodesUsed)
	}
	if p.Memory != nil && p.Memory.WorkingSetBytes != nil {
		u.Memory = int64(*p.Memory.WorkingSetBytes)
	}
	if p.EphemeralStorage != nil && p.EphemeralStorage.UsedBytes != nil {
		u.Disk = int64(*p.EphemeralStorage.UsedBytes)
	}
	if p.ProcessStats != nil {
		count(&u.Processes, p.ProcessStats.ProcessCount)
	}
	return u
}
