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

func assemble(ctx context.Context, cfg *Config) (*agent, error) {
	log := cfg.Logger
	a := &agent{cfg: cfg, log: log, registry: prometheus.NewRegistry(), probeReg: prometheus.NewRegistry()}
	registerProcess(a.registry)
	a.registry.MustRegister(cfg.Collectors...)
	var err error
	if a.events, err = newEvents(cfg); err != nil {
		return nil, err
	}
	machine, err := resources.ReadMachine()
	if err != nil {
		return nil, err
	}
	rootFS, err := resources.ReadFS(cfg.RootDir)
	if err != nil {
		return nil, err
	}
	cgroupHost, ceiling := memoryCeiling(cfg.CgroupRoot)
	if ceiling.Cgroup != "" && ceiling.LimitBytes < machine.MemoryBytes {
		log.Info("Node's memory is limited by a cgroup around it", "cgroup", ceiling.Cgroup, "limitBytes", ceiling.LimitBytes)
		machine.MemoryBytes = ceiling.LimitBytes
	}
	capacity := resources.Capacity(machine, rootFS, cfg.MaxPods)
	reserved := []v1.ResourceList{cfg.KubeReserved, cfg.SystemReserved}
	thresholds, err := evict.Parse(cfg.evictionSettings())
	if err != nil {
		return nil, err
	}
	allocatable := resources.Allocatable(capacity, reserved, evictionReserve(thresholds, capacity))
	enforce := len(cfg.EnforceNodeAllocatable) > 0 && cfg.EnforceNodeAllocatable[0] == "pods"
	if a.cgroups, err = resources.New(resources.Config{
		Root: cfg.CgroupRoot, Driver: cfg.CgroupDriver, Enforce: enforce, PodPidsLimit: cfg.PodPidsLimit,
		Allocatable: resources.WithPIDs(resources.Allocatable(capacity, reserved, nil), reserved, pidMax()),
	}); err != nil {
		return nil, err
	}

	if cfg.Client != nil {
		a.objects = objects.NewCache(cfg.Client, log)
		a.services = newServices(cfg.Client)
	}
	vc := volumes.Config{
		RootDir: cfg.RootDir, Logger: log,
		OnEvent:         func(pod *v1.Pod, kind, reason, msg string) { a.events.pod(pod, "", kind, reason, msg) },
		OnChange:        func(uid types.UID) { a.pool.Replan(uid) },
		NodeAllocatable: func() v1.ResourceList { return allocatable },
		NodeLabels: func() map[string]string {
			if n := a.node.Node(); n != nil {
				return n.Labels
			}
			return cfg.NodeLabels
		},
	}
	if cfg.Client != nil {
		api := volumes.APIClient{Client: cfg.Client}
		vc.Objects, vc.Tokens, vc.Claims = heard{a.objects, func(uid types.UID) { a.pool.ConfigChanged(uid) }}, api, api
	}
	if a.volumes, err = volumes.NewManager(vc); err != nil {
		return nil, err
	}

	a.saver = newSaver(filepath.Join(cfg.StateDir, "probes.json"), "probe results", log)
	a.alloc = newSaver(filepath.Join(cfg.StateDir, "allocations.json"), "allocated resources", log)
	a.probes = probes.NewManager(probes.Config{
		Exec: func(ctx context.Context, id string, cmd []string, timeout time.Duration) (int, []byte, error) {
			return a.runtime.Exec(ctx, id, cmd, timeout)
		},
		OnResult:   func(u probes.Update) { a.saver.changed(); a.pool.Replan(u.PodUID) },
		OnEvent:    a.events.pod,
		Registerer: a.probeReg, Logger: log, UserAgent: "kube-probe/1.36",
	})
	a.saver.take = a.probes.Checkpoint
	a.saver.restore(a.probes.Restore)

	ic := image.Config{Service: cfg.Runtime, Event: a.events.pod, Parallel: cfg.MaxParallelImagePulls, Registry: a.registry, Logger: log}
	if a.objects != nil {
		ic.Secrets = a.objects
	}
	a.pulls = newSaver(filepath.Join(cfg.StateDir, "image-backoff.json"), "image back-offs", log)
	ic.Changed = a.pulls.changed
	a.images = image.New(ic)
	a.pulls.take = a.images.Checkpoint
	a.pulls.restore(a.images.Restore)
	a.pleg = pleg.New(cfg.Runtime, func(uid types.UID) { a.pods.wake(uid) }, a.registry, log)

	cnode := container.Node{
		RootDir: cfg.RootDir, PodLogsDir: cfg.PodLogsDir, MemoryCapacityBytes: machine.MemoryBytes, CgroupV2: a.cgroups.V2(),
		SeccompDefault: cfg.SeccompDefault, ClusterDomain: cfg.ClusterDomain,
	}
	rc := podruntime.Config{
		CRI: cfg.Runtime, Images: a.images, Volumes: a.volumes, Cgroups: a.cgroups, Node: cnode, HostIPs: cfg.NodeIPs,
		Allocatable: func() v1.ResourceList { return allocatable }, ClusterDNS: cfg.ClusterDNS, ResolvConf: resolvConf(cfg.ResolverConfig), Registry: a.registry,
		Event: a.events.pod, Forget: a.pleg.Forget, Logger: log,
	}
	if cfg.Client != nil {
		rc.Objects, rc.Services = a.objects, a.services.of
		rc.Handler = func(ctx context.Context, class string) (string, error) {
			rc, err := cfg.Client.NodeV1().RuntimeClasses().Get(ctx, class, metav1.GetOptions{})
			if err != nil {
				return "", fmt.Errorf("get RuntimeClass %q: %w", class, err)
			}
			return rc.Handler, nil
		}
	}
	a.runtime = podruntime.New(rc)
	a.pleg.Message = a.runtime.TerminationMessage

	vols := &podVolumes{m: a.volumes, released: map[types.UID]bool{}}
	prober := &podProbes{m: a.probes}
	if len(cfg.NodeIPs) > 0 {
		prober.nodeIP = cfg.NodeIPs[0].String()
	}
	a.pods = &pods{
		ctx: ctx, cfg: cfg, log: log, volumes: vols, probes: a.probes, events: a.events, look: a.pleg.Observe,
		sources: map[podconfig.Source]bool{}, onSync: func() { a.synced(ctx) },
		known: map[types.UID]*v1.Pod{}, admitted: map[types.UID]bool{}, statuses: map[types.UID]v1.PodStatus{},
		reports: map[types.UID]podworker.Report{}, waiters: map[string]waiter{},
		resizes: newResizes(), noted: a.cgroups.Note,
	}
	a.alloc.take = a.pods.resizes.book.Checkpoint
	a.alloc.restore(a.pods.resizes.book.Restore)
	a.pods.resizes.book.Changed = a.alloc.changed
	a.pool = podworker.NewPool(podworker.Config{
		Observer: a.pleg, Runtime: a.runtime, Figures: a.runtime.Figures, Volumes: vols, Probes: prober, Reporter: a.pods, Event: a.events.pod,
		Logger: log, SyncFrequency: cfg.SyncFrequency,
	})
	a.pods.pool = a.pool

	a.node = node.New(node.Config{
		Client: cfg.Client, Runtime: cfg.Runtime, Name: cfg.NodeName, Hostname: cfg.Hostname, IPs: cfg.NodeIPs, Version: cfg.Version,
		ProviderID: cfg.ProviderID, Labels: cfg.NodeLabels, Taints: cfg.RegisterWithTaints, NoRegister: cfg.NoRegisterNode,
		KubeletPort: max(cfg.Port, 0), Machine: machine, Capacity: capacity, Allocatable: allocatable, LeaseDuration: cfg.NodeLeaseDuration,
		Check: cfg.NodeStatusUpdateFrequency, Report: cfg.NodeStatusReportFrequency, Healthy: a.pleg.Healthy, Pressure: a.pressure,
		OnPodCIDRs: cfg.OnPodCIDRs, OnNetwork: a.pool.SetNetworkReady, OnReady: cfg.OnReady,
		OnRegistered: func() {
			if a.mirrors != nil {
				a.mirrors.NodeRegistered()
			}
		},
		NetworkChanged: cfg.NetworkChanged, Logger: log,
		Event: func(kind, reason, msg string) { a.events.node(cfg.NodeName, kind, reason, msg) },
	})
	a.pods.node = a.node
	if a.pods.runtime, err = a.node.RuntimeName(ctx); err != nil {
		return nil, err
	}
	if cfg.Client != nil {
		a.writer = status.NewWriter(cfg.Client, nil, log)
		a.mirrors = mirror.New(cfg.Client, a.node.UID, log)
		a.pods.writer, a.pods.mirrors = a.writer, a.mirrors
		a.pods.sources[podconfig.API] = true
	}
	if cfg.StaticPodPath != "" {
		a.pods.sources[podconfig.File] = true
	}
	a.registry.MustRegister(&podCollector{pods: a.pods, node: cfg.NodeName})
	if a.stats, err = stats.New(stats.Config{
		NodeName: cfg.NodeName, Runtime: cfg.Runtime, RootDir: cfg.RootDir, PodLogsDir: cfg.PodLogsDir, CgroupRoot: cfg.CgroupRoot, Logger: log,
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
	}); err != nil {
		return nil, err
	}
	a.gc = gc.New(gc.Config{
		Runtime: cfg.Runtime, PodLogsDir: cfg.PodLogsDir, RootDir: cfg.RootDir, Pods: a.pods.all, Synced: a.pods.allSynced,
		HasWorker: a.pool.Has, Ended: a.pods.ended, Cgroups: a.cgroups, Volumes: a.volumes,
		HighPercent: cfg.ImageGCHighThresholdPercent, LowPercent: cfg.ImageGCLowThresholdPercent,
		MinAge: cfg.ImageMinimumGCAge, MaxAge: cfg.ImageMaximumGCAge,
		LogMaxBytes: cfg.ContainerLogMaxSizeBytes, LogMaxFiles: cfg.ContainerLogMaxFiles,
		Event: func(kind, reason, msg string) { a.events.node(cfg.NodeName, kind, reason, msg) }, Logger: log,
	})
	if enforce {
		thresholds = evict.WithAllocatable(thresholds)
	}
	a.gauge = newGauge(a, cgroupHost, ceiling, thresholds)
	a.evict = evict.New(evict.Config{
		Thresholds: thresholds, Hold: cfg.EvictionPressureTransitionPeriod, MaxPodGrace: cfg.EvictionMaxPodGracePeriod,
		Left: a.gauge.left, Wake: a.gauge.wake, Summary: a.stats.Summary, Active: a.pods.active, Evict: a.evictPod, Gone: a.evictedGone,
		ReclaimDisk: a.gc.Reclaim, Changed: a.node.Kick, Event: func(kind, reason, msg string) { a.events.node(cfg.NodeName, kind, reason, msg) },
		Registry: a.registry, Logger: log,
	})
	a.pods.refuses = a.evict.Refuses
	if a.certs, err = newServingCert(cfg); err != nil {
		return nil, err
	}
	return a, nil
}
