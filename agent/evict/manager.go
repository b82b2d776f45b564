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
	// every is how often the node is looked at (upstream: 10 s); near after something was done.
	every = 10 * time.Second
	near  = 2 * time.Second
	// hold is how long a condition stays once its cause is gone (evictionPressureTransitionPeriod).
	hold = 5 * time.Minute
	// statsTimeout bounds the measuring of all pods.
	statsTimeout = 30 * time.Second
)

// Config of a Manager.
type Config struct {
	Thresholds []Threshold
	// Left reads what is left of every signal.
	Left func(ctx context.Context) map[Signal]Left
	// Summary measures pods.
	Summary func(ctx context.Context, onlyCPUAndMemory bool) (*statsapi.Summary, error)
	// Active are the pods that run here.
	Active func() []*v1.Pod
	// Evict ends a pod at once, with this message.
	Evict func(pod *v1.Pod, message string)
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

	mu   sync.Mutex
	seen map[v1.NodeConditionType]time.Time // when it was last true
}

// New returns a manager.
func New(cfg Config) *Manager {
	m := &Manager{cfg: cfg, seen: map[v1.NodeConditionType]time.Time{}, evicted: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "kubelet_evictions", Help: "Pods evicted, by the signal that was low."}, []string{"eviction_signal"})}
	if cfg.Registry != nil {
		cfg.Registry.MustRegister(m.evicted)
	}
	return m
}

// Pressure tells whether the node has the condition (MemoryPressure, DiskPressure, PIDPressure).
func (m *Manager) Pressure(t v1.NodeConditionType) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	at, ok := m.seen[t]
	return ok && time.Since(at) < hold
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

func condition(s Signal) v1.NodeConditionType {
	switch s {
	case Memory:
		return v1.NodeMemoryPressure
	case PID:
		return v1.NodePIDPressure
	}
	return v1.NodeDiskPressure
}

// Run watches until ctx ends.
func (m *Manager) Run(ctx context.Context) error {
	wait := every
	for {
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-t.C:
		}
		wait = every
		if m.look(ctx) {
			wait = near
		}
	}
}

// look takes one turn; it returns whether something was ended.
func (m *Manager) look(ctx context.Context) bool {
	met := Crossed(m.cfg.Thresholds, m.cfg.Left(ctx))
	m.note(met, time.Now())
	if len(met) > 0 && met[0].Signal.disk() {
		m.cfg.Logger.Warn("Node is short of disk, reclaiming", "signal", string(met[0].Signal), "availableBytes", met[0].Available)
		if m.cfg.Event != nil {
			m.cfg.Event(v1.EventTypeWarning, "EvictionThresholdMet", fmt.Sprintf("Attempting to reclaim %s", met[0].Signal.Resource()))
		}
		m.cfg.ReclaimDisk(ctx)
		met = Crossed(m.cfg.Thresholds, m.cfg.Left(ctx))
	}
	if len(met) > 0 {
		return m.relieve(ctx, met[0])
	}
	return m.local(ctx)
}

// note remembers which conditions hold, and tells when that changes anything.
func (m *Manager) note(met []Met, now time.Time) {
	m.mu.Lock()
	changed := false
	for _, x := range met {
		c := condition(x.Signal)
		if at, ok := m.seen[c]; !ok || now.Sub(at) >= hold {
			changed = true
		}
		m.seen[c] = now
	}
	for c, at := range m.seen {
		if now.Sub(at) >= hold {
			delete(m.seen, c)
			changed = true
		}
	}
	m.mu.Unlock()
	if changed && m.cfg.Changed != nil {
		m.cfg.Changed()
	}
}

// relieve ends the pod that is first in line.
func (m *Manager) relieve(ctx context.Context, x Met) bool {
	res := x.Signal.Resource()
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
	m.cfg.Logger.Warn("Evicting pod", logkey.Pod, p.Namespace+"/"+p.Name, "signal", string(x.Signal), "available", x.Available)
	m.evicted.WithLabelValues(string(x.Signal)).Inc()
	m.cfg.Evict(p, message(x, p, usage[p.UID]))
	return true
}

// local ends pods that outgrew their own limits.
func (m *Manager) local(ctx context.Context) bool {
	var pods []*v1.Pod
	for _, p := range m.cfg.Active() {
		if limited(p) {
			pods = append(pods, p)
		}
	}
	if len(pods) == 0 {
		return false
	}
	usage, err := m.usage(ctx, false)
	if err != nil {
		m.cfg.Logger.Warn("Failed to measure pods' storage", logkey.Err, err)
		return false
	}
	did := false
	for _, p := range pods {
		if msg := Outgrown(p, usage[p.UID]); msg != "" {
			m.cfg.Logger.Warn("Evicting pod", logkey.Pod, p.Namespace+"/"+p.Name, "reason", msg)
			m.evicted.WithLabelValues("ephemeral-storage").Inc()
			m.cfg.Evict(p, msg)
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
		}
	}
	for i := range p.VolumeStats {
		if v := &p.VolumeStats[i]; v.UsedBytes != nil {
			u.Volumes[v.Name] = int64(*v.UsedBytes)
		}
	}
	if p.Memory != nil && p.Memory.WorkingSetBytes != nil {
		u.Memory = int64(*p.Memory.WorkingSetBytes)
	}
	if p.EphemeralStorage != nil && p.EphemeralStorage.UsedBytes != nil {
		u.Disk = int64(*p.EphemeralStorage.UsedBytes)
	}
	return u
}
