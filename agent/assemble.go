package agent

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/reevehq/reeve/agent/container"
	"github.com/reevehq/reeve/agent/evict"
	"github.com/reevehq/reeve/agent/gc"
	"github.com/reevehq/reeve/agent/image"
	"github.com/reevehq/reeve/agent/mirror"
	"github.com/reevehq/reeve/agent/node"
	"github.com/reevehq/reeve/agent/pleg"
	"github.com/reevehq/reeve/agent/podconfig"
	"github.com/reevehq/reeve/agent/podruntime"
	"github.com/reevehq/reeve/agent/podworker"
	"github.com/reevehq/reeve/agent/resources"
	"github.com/reevehq/reeve/agent/stats"
	"github.com/reevehq/reeve/agent/status"
	"github.com/reevehq/reeve/internal/cgroup"
	"github.com/reevehq/reeve/probes"
	"github.com/reevehq/reeve/volumes"
	"github.com/reevehq/reeve/volumes/objects"
)

// agent is everything that Run runs, wired.
type agent struct {
	cfg      *Config
	log      *slog.Logger
	registry *prometheus.Registry
	probeReg *prometheus.Registry
	events   *events
	cgroups  *resources.Manager
	objects  *objects.Cache
	services *services
	volumes  *volumes.Manager
	probes   *probes.Manager
	saver    *saver
	alloc    *saver
	pulls    *saver
	images   *image.Manager
	pleg     *pleg.Generator
	runtime  *podruntime.Runtime
	pool     *podworker.Pool
	pods     *pods
	writer   *status.Writer
	mirrors  *mirror.Manager
	node     *node.Manager
	stats    *stats.Provider
	gc       *gc.Collector
	evict    *evict.Manager
	gauge    *gauge
	certs    *servingCert
}

// bounds are what the node has, and what of it is for pods.
type bounds struct {
	machine               resources.Machine
	capacity, allocatable v1.ResourceList
	enforce               bool // the cgroup of all pods is limited
	thresholds            []evict.Threshold
	cgroupHost            *cgroup.Host
	ceiling               resources.Ceiling // of memory, around the node
}

// assemble makes every part. They know each other by functions, which are called only once all of them run.
func assemble(ctx context.Context, cfg *Config) (*agent, error) {
	a := &agent{cfg: cfg, log: cfg.Logger, registry: prometheus.NewRegistry(), probeReg: prometheus.NewRegistry()}
	registerProcess(a.registry)
	a.registry.MustRegister(cfg.Collectors...)
	var err error
	if a.events, err = newEvents(cfg); err != nil {
		return nil, err
	}
	b, err := a.measure()
	if err != nil {
		return nil, err
	}
	if err := a.makeVolumes(b); err != nil {
		return nil, err
	}
	a.makeProbes()
	a.makeImages()
	a.makeRuntime(b)
	a.makePods(ctx)
	if err := a.makeNode(ctx, b); err != nil {
		return nil, err
	}
	if err := a.makeStats(); err != nil {
		return nil, err
	}
	a.makeCollectors(b)
	if a.certs, err = newServingCert(cfg); err != nil {
		return nil, err
	}
	return a, nil
}

// measure reads what the node has, and makes the cgroups of pods.
func (a *agent) measure() (*bounds, error) {
	machine, err := resources.ReadMachine()
	if err != nil {
		return nil, err
	}
	rootFS, err := resources.ReadFS(a.cfg.RootDir)
	if err != nil {
		return nil, err
	}
	b := &bounds{machine: machine}
	b.cgroupHost, b.ceiling = memoryCeiling(a.cfg.CgroupRoot)
	if ceiling := b.ceiling; ceiling.Cgroup != "" && ceiling.LimitBytes < machine.MemoryBytes {
		a.log.Info("Node's memory is limited by a cgroup around it", "cgroup", ceiling.Cgroup, "limitBytes", ceiling.LimitBytes)
		b.machine.MemoryBytes = ceiling.LimitBytes
	}
	b.capacity = resources.Capacity(b.machine, rootFS, a.cfg.MaxPods)
	reserved := []v1.ResourceList{a.cfg.KubeReserved, a.cfg.SystemReserved}
	if b.thresholds, err = evict.Parse(a.cfg.evictionSettings()); err != nil {
		return nil, err
	}
	b.allocatable = resources.Allocatable(b.capacity, reserved, evictionReserve(b.thresholds, b.capacity))
	b.enforce = len(a.cfg.EnforceNodeAllocatable) > 0 && a.cfg.EnforceNodeAllocatable[0] == "pods"
	if a.cgroups, err = resources.New(resources.Config{
		Root: a.cfg.CgroupRoot, Driver: a.cfg.CgroupDriver, Enforce: b.enforce, PodPidsLimit: a.cfg.PodPidsLimit,
		Allocatable: resources.WithPIDs(resources.Allocatable(b.capacity, reserved, nil), reserved, pidMax()),
	}); err != nil {
		return nil, err
	}
	return b, nil
}

// makeVolumes makes what mounts volumes, and the cache of what they are made of.
func (a *agent) makeVolumes(b *bounds) error {
	if a.cfg.Client != nil {
		a.objects = objects.NewCache(a.cfg.Client, a.log)
		a.services = newServices(a.cfg.Client)
	}
	vc := volumes.Config{
		RootDir: a.cfg.RootDir, Logger: a.log,
		OnEvent:         func(pod *v1.Pod, kind, reason, msg string) { a.events.pod(pod, "", kind, reason, msg) },
		OnChange:        func(uid types.UID) { a.pool.Replan(uid) },
		NodeAllocatable: func() v1.ResourceList { return b.allocatable },
		NodeLabels: func() map[string]string {
			if n := a.node.Node(); n != nil {
				return n.Labels
			}
			return a.cfg.NodeLabels
		},
	}
	if a.cfg.Client != nil {
		api := volumes.APIClient{Client: a.cfg.Client}
		vc.Objects, vc.Tokens, vc.Claims = heard{a.objects, func(uid types.UID) { a.pool.ConfigChanged(uid) }}, api, api
	}
	var err error
	a.volumes, err = volumes.NewManager(vc)
	return err
}

// makeProbes makes what probes containers. Results survive a restart.
func (a *agent) makeProbes() {
	a.saver = newSaver(filepath.Join(a.cfg.StateDir, "probes.json"), "probe results", a.log)
	a.probes = probes.NewManager(probes.Config{
		Exec: func(ctx context.Context, id string, cmd []string, timeout time.Duration) (int, []byte, error) {
			return a.runtime.Exec(ctx, id, cmd, timeout)
		},
		OnResult:   func(u probes.Update) { a.saver.changed(); a.pool.Replan(u.PodUID) },
		OnEvent:    a.events.pod,
		Registerer: a.probeReg, Logger: a.log, UserAgent: "kube-probe/1.36",
	})
	a.saver.take = a.probes.Checkpoint
	a.saver.restore(a.probes.Restore)
}

// makeImages makes what pulls images. Back-offs survive a restart.
func (a *agent) makeImages() {
	ic := image.Config{Service: a.cfg.Runtime, Event: a.events.pod, Parallel: a.cfg.MaxParallelImagePulls, Registry: a.registry, Logger: a.log}
	if a.objects != nil {
		ic.Secrets = a.objects
	}
	a.pulls = newSaver(filepath.Join(a.cfg.StateDir, "image-backoff.json"), "image back-offs", a.log)
	ic.Changed = a.pulls.changed
	a.images = image.New(ic)
	a.pulls.take = a.images.Checkpoint
	a.pulls.restore(a.images.Restore)
}

// makeRuntime makes what starts and stops pods through CRI, and what sees that they have changed.
func (a *agent) makeRuntime(b *bounds) {
	a.pleg = pleg.New(a.cfg.Runtime, func(uid types.UID) { a.pods.wake(uid) }, a.registry, a.log)
	cnode := container.Node{
		RootDir: a.cfg.RootDir, PodLogsDir: a.cfg.PodLogsDir, MemoryCapacityBytes: b.machine.MemoryBytes, CgroupV2: a.cgroups.V2(),
		SeccompDefault: a.cfg.SeccompDefault, ClusterDomain: a.cfg.ClusterDomain,
	}
	rc := podruntime.Config{
		CRI: a.cfg.Runtime, Images: a.images, Volumes: a.volumes, Cgroups: a.cgroups, Node: cnode, HostIPs: a.cfg.NodeIPs,
		Allocatable: func() v1.ResourceList { return b.allocatable }, ClusterDNS: a.cfg.ClusterDNS, ResolvConf: resolvConf(a.cfg.ResolverConfig), Registry: a.registry,
		Event: a.events.pod, Forget: a.pleg.Forget, Logger: a.log,
	}
	if a.cfg.Client != nil {
		rc.Objects, rc.Services = a.objects, a.services.of
		rc.Handler = func(ctx context.Context, class string) (string, error) {
			rc, err := a.cfg.Client.NodeV1().RuntimeClasses().Get(ctx, class, metav1.GetOptions{})
			if err != nil {
				return "", fmt.Errorf("get RuntimeClass %q: %w", class, err)
			}
			return rc.Handler, nil
		}
	}
	a.runtime = podruntime.New(rc)
	a.pleg.Message = a.runtime.TerminationMessage
}

// makePods makes the workers of pods, and what tells them what to do. Allocated resources survive a restart.
func (a *agent) makePods(ctx context.Context) {
	vols := &podVolumes{m: a.volumes, released: map[types.UID]bool{}}
	prober := &podProbes{m: a.probes}
	if len(a.cfg.NodeIPs) > 0 {
		prober.nodeIP = a.cfg.NodeIPs[0].String()
	}
	a.pods = &pods{
		ctx: ctx, cfg: a.cfg, log: a.log, volumes: vols, probes: a.probes, events: a.events, look: a.pleg.Observe,
		sources: map[podconfig.Source]bool{}, onSync: func() { a.synced(ctx) },
		known: map[types.UID]*v1.Pod{}, admitted: map[types.UID]bool{}, statuses: map[types.UID]v1.PodStatus{},
		reports: map[types.UID]podworker.Report{}, waiters: map[string]waiter{},
		resizes: newResizes(), noted: a.cgroups.Note,
	}
	a.alloc = newSaver(filepath.Join(a.cfg.StateDir, "allocations.json"), "allocated resources", a.log)
	a.alloc.take = a.pods.resizes.book.Checkpoint
	a.alloc.restore(a.pods.resizes.book.Restore)
	a.pods.resizes.book.Changed = a.alloc.changed
	a.pool = podworker.NewPool(podworker.Config{
		Observer: a.pleg, Runtime: a.runtime, Figures: a.runtime.Figures, Volumes: vols, Probes: prober, Reporter: a.pods, Event: a.events.pod,
		Logger: a.log, SyncFrequency: a.cfg.SyncFrequency,
	})
	a.pods.pool = a.pool
}

// makeNode makes what registers the node, and what writes statuses and mirror pods.
func (a *agent) makeNode(ctx context.Context, b *bounds) error {
	a.node = node.New(node.Config{
		Client: a.cfg.Client, Runtime: a.cfg.Runtime, Name: a.cfg.NodeName, Hostname: a.cfg.Hostname, IPs: a.cfg.NodeIPs, Version: a.cfg.Version,
		ProviderID: a.cfg.ProviderID, Labels: a.cfg.NodeLabels, Taints: a.cfg.RegisterWithTaints, NoRegister: a.cfg.NoRegisterNode,
		KubeletPort: max(a.cfg.Port, 0), Machine: b.machine, Capacity: b.capacity, Allocatable: b.allocatable, LeaseDuration: a.cfg.NodeLeaseDuration,
		Check: a.cfg.NodeStatusUpdateFrequency, Report: a.cfg.NodeStatusReportFrequency, Healthy: a.pleg.Healthy, Pressure: a.pressure,
		OnPodCIDRs: a.cfg.OnPodCIDRs, OnNetwork: a.pool.SetNetworkReady, OnReady: a.cfg.OnReady,
		OnRegistered: func() {
			if a.mirrors != nil {
				a.mirrors.NodeRegistered()
			}
		},
		NetworkChanged: a.cfg.NetworkChanged, Logger: a.log,
		Event: func(kind, reason, msg string) { a.events.node(a.cfg.NodeName, kind, reason, msg) },
	})
	a.pods.node = a.node
	var err error
	if a.pods.runtime, err = a.node.RuntimeName(ctx); err != nil {
		return err
	}
	if a.cfg.Client != nil {
		a.writer = status.NewWriter(a.cfg.Client, nil, a.log)
		a.mirrors = mirror.New(a.cfg.Client, a.node.UID, a.log)
		a.pods.writer, a.pods.mirrors = a.writer, a.mirrors
		a.pods.sources[podconfig.API] = true
	}
	if a.cfg.StaticPodPath != "" {
		a.pods.sources[podconfig.File] = true
	}
	return nil
}

// makeStats makes what measures pods and the node.
func (a *agent) makeStats() error {
	a.registry.MustRegister(&podCollector{pods: a.pods, node: a.cfg.NodeName})
	var err error
	a.stats, err = stats.New(stats.Config{
		NodeName: a.cfg.NodeName, Runtime: a.cfg.Runtime, RootDir: a.cfg.RootDir, PodLogsDir: a.cfg.PodLogsDir, CgroupRoot: a.cfg.CgroupRoot, Logger: a.log,
		Volumes: func(uid types.UID) map[string]string {
			mounted, _, _ := a.volumes.Mounts(uid)
			out := make(map[string]string, len(mounted))
			for name, m := range mounted {
				// What lies elsewhere (hostPath, claims) is not the pod's, may be the whole disk, and may not answer.
				if strings.HasPrefix(m.HostPath, a.volumes.PodDir(uid)+"/") {
					out[name] = m.HostPath
				}
			}
			return out
		},
	})
	return err
}

// makeCollectors makes what takes away: garbage, and pods under pressure.
func (a *agent) makeCollectors(b *bounds) {
	a.gc = gc.New(gc.Config{
		Runtime: a.cfg.Runtime, PodLogsDir: a.cfg.PodLogsDir, RootDir: a.cfg.RootDir, Pods: a.pods.all, Synced: a.pods.allSynced,
		HasWorker: a.pool.Has, Ended: a.pods.ended, Cgroups: a.cgroups, Volumes: a.volumes,
		HighPercent: a.cfg.ImageGCHighThresholdPercent, LowPercent: a.cfg.ImageGCLowThresholdPercent,
		MinAge: a.cfg.ImageMinimumGCAge, MaxAge: a.cfg.ImageMaximumGCAge,
		LogMaxBytes: a.cfg.ContainerLogMaxSizeBytes, LogMaxFiles: a.cfg.ContainerLogMaxFiles,
		Event: func(kind, reason, msg string) { a.events.node(a.cfg.NodeName, kind, reason, msg) }, Logger: a.log,
	})
	if b.enforce {
		b.thresholds = evict.WithAllocatable(b.thresholds)
	}
	a.gauge = newGauge(a, b.cgroupHost, b.ceiling, b.thresholds)
	a.evict = evict.New(evict.Config{
		Thresholds: b.thresholds, Hold: a.cfg.EvictionPressureTransitionPeriod, MaxPodGrace: a.cfg.EvictionMaxPodGracePeriod,
		Left: a.gauge.left, Wake: a.gauge.wake, Summary: a.stats.Summary, Active: a.pods.active, Evict: a.evictPod, Gone: a.evictedGone,
		ReclaimDisk: a.gc.Reclaim, Changed: a.node.Kick, Event: func(kind, reason, msg string) { a.events.node(a.cfg.NodeName, kind, reason, msg) },
		Registry: a.registry, Logger: a.log,
	})
	a.pods.refuses = a.evict.Refuses
}
