package agent

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/reevehq/reeve/agent/evict"
	"github.com/reevehq/reeve/cri"
)

// Config is everything that an agent needs to know. Fields bear KubeletConfiguration's names where they mean the same.
// Zero values are replaced by the defaults named at each field; Run validates the rest and reports every error at once.
type Config struct {
	// Logger receives structured logs. Required.
	Logger *slog.Logger

	// Runtime is where pods run. Required. The agent never closes it.
	Runtime cri.Runtime

	// Client and RESTConfig reach the API server as system:node:<name>. Both nil: standalone, static pods only.
	Client     kubernetes.Interface
	RESTConfig *rest.Config

	// EventRecordQPS and EventBurst bound the events that are sent in a second (default 50 and 100; a negative
	// EventRecordQPS: no bound).
	EventRecordQPS int
	EventBurst     int

	// NodeName is the name of the Node object. Required. Hostname defaults to it.
	NodeName string
	Hostname string
	// NodeIPs are the node's addresses, the primary first, at most one a family. Required unless standalone.
	NodeIPs []netip.Addr
	// Version is what nodeInfo.kubeletVersion says, as v1.36.x+reeve.
	Version string

	// RootDir holds pods' files (default /var/lib/kubelet), PodLogsDir their logs (default /var/log/pods), and StateDir
	// the agent's own checkpoints and keys (default RootDir/reeve).
	RootDir    string
	PodLogsDir string
	StateDir   string

	// CgroupRoot is the cgroup under which kubepods is made (default "/"). CgroupDriver is "cgroupfs" (default) or
	// "systemd".
	CgroupRoot   string
	CgroupDriver string
	// EnforceNodeAllocatable lists "pods" (the default) or is []string{"none"}.
	EnforceNodeAllocatable []string
	// KubeReserved and SystemReserved are taken off capacity to make allocatable.
	KubeReserved   v1.ResourceList
	SystemReserved v1.ResourceList
	// EvictionHard maps a signal (memory.available, nodefs.available, nodefs.inodesFree, imagefs.available,
	// imagefs.inodesFree, pid.available) to a quantity or a percentage. nil means upstream's defaults.
	EvictionHard map[string]string
	// EvictionSoft are thresholds below which pods go after EvictionSoftGracePeriod (a duration for each signal named),
	// with a grace of at most EvictionMaxPodGracePeriod. EvictionMinimumReclaim is how much more than a threshold must be
	// left for a shortage to be over; EvictionPressureTransitionPeriod (5 min) how long its condition stays then.
	EvictionSoft                     map[string]string
	EvictionSoftGracePeriod          map[string]string
	EvictionMaxPodGracePeriod        time.Duration
	EvictionMinimumReclaim           map[string]string
	EvictionPressureTransitionPeriod time.Duration
	// MergeDefaultEvictionSettings adds the default to each signal that EvictionHard does not name; otherwise an
	// EvictionHard that names any leaves the others without one.
	MergeDefaultEvictionSettings bool

	// ClusterDNS and ClusterDomain fill pods' resolv.conf. ResolverConfig is the node's own (default /etc/resolv.conf,
	// or systemd-resolved's real one where that points to the stub).
	ClusterDNS     []netip.Addr
	ClusterDomain  string
	ResolverConfig string

	// StaticPodPath is the folder (or file) of static pods; empty means none.
	StaticPodPath string

	// Address and Port of the HTTPS server (default all addresses, 10250; Port -1: none). HealthzBindAddress and
	// HealthzPort of plain healthz (default 127.0.0.1:10248; -1: none).
	Address            netip.Addr
	Port               int
	HealthzBindAddress netip.Addr
	HealthzPort        int
	// TLSCertFile and TLSPrivateKeyFile serve :10250; empty: a certificate from the API server's kubelet-serving signer
	// when ServerTLSBootstrap is set, a self-signed one until then and otherwise.
	TLSCertFile        string
	TLSPrivateKeyFile  string
	ServerTLSBootstrap bool
	// CertDir holds the serving certificate that was signed or, without one, a self-signed one made once (default
	// StateDir/pki).
	CertDir string
	// TLSMinVersion is a version of crypto/tls (default TLS 1.2); TLSCipherSuites and TLSCurvePreferences narrow what Go
	// offers.
	TLSMinVersion       uint16
	TLSCipherSuites     []uint16
	TLSCurvePreferences []tls.CurveID
	// ClientCAFile authenticates clients of :10250 by certificate; empty: tokens only.
	ClientCAFile string
	// AnonymousAuth lets clients without credentials in as system:anonymous (authentication.anonymous.enabled).
	// NoTokenAuth refuses bearer tokens (authentication.webhook.enabled: false). AlwaysAllow authorizes every
	// authenticated client (authorization.mode: AlwaysAllow).
	AnonymousAuth, NoTokenAuth, AlwaysAllow bool

	// NoDebuggingHandlers, NoSystemLogHandler and NoProfilingHandler are enableDebuggingHandlers, enableSystemLogHandler
	// and enableProfilingHandler turned off.
	NoDebuggingHandlers, NoSystemLogHandler, NoProfilingHandler bool

	// Collectors are further metrics of /metrics.
	Collectors []prometheus.Collector

	// MaxPods bounds pods on this node (default 110). PodPidsLimit bounds a pod's processes (default none).
	MaxPods      int
	PodPidsLimit int64

	// NodeLabels and RegisterWithTaints are put on the Node at registration, ProviderID into its spec.
	NodeLabels         map[string]string
	RegisterWithTaints []v1.Taint
	ProviderID         string
	// NoRegisterNode leaves the making of the Node object to somebody else.
	NoRegisterNode bool

	// NodeLeaseDuration (default 40 s) is the lease's length, renewed at a quarter of it. NodeStatusUpdateFrequency
	// (10 s) is how often the node is looked at, NodeStatusReportFrequency (5 min) how often unchanged status is
	// written. SyncFrequency (1 min) is how often an idle pod is looked at again.
	NodeLeaseDuration         time.Duration
	NodeStatusUpdateFrequency time.Duration
	NodeStatusReportFrequency time.Duration
	SyncFrequency             time.Duration

	// SerializeImagePulls pulls one image at a time; else at most MaxParallelImagePulls (default 5) at once.
	SerializeImagePulls   bool
	MaxParallelImagePulls int
	// ImageGCHighThresholdPercent (85), ImageGCLowThresholdPercent (80), ImageMinimumGCAge (2 min),
	// ImageMaximumGCAge (0: none).
	ImageGCHighThresholdPercent int
	ImageGCLowThresholdPercent  int
	ImageMinimumGCAge           time.Duration
	ImageMaximumGCAge           time.Duration

	// ContainerLogMaxSizeBytes (default 10 Mi) and ContainerLogMaxFiles (5) bound a container's logs.
	ContainerLogMaxSizeBytes int64
	ContainerLogMaxFiles     int

	// AllowedUnsafeSysctls are names or prefixes ending in "*".
	AllowedUnsafeSysctls []string
	// SeccompDefault makes RuntimeDefault the profile of pods that name none.
	SeccompDefault bool

	// OnPodCIDRs hears the node's pod CIDRs, whenever they are first seen or change. It must not block.
	OnPodCIDRs func([]netip.Prefix)
	// OnReady hears once that the node was reported Ready (or, standalone, that the loops run).
	OnReady func()
	// NetworkChanged, if given, wakes the check of the runtime's network condition.
	NetworkChanged <-chan struct{}
}

// SetDefaults fills every zero field that has a default.
func (c *Config) SetDefaults() {
	def := func(s *string, v string) {
		if *s == "" {
			*s = v
		}
	}
	dur := func(d *time.Duration, v time.Duration) {
		if *d == 0 {
			*d = v
		}
	}
	num := func(i *int, v int) {
		if *i == 0 {
			*i = v
		}
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	def(&c.Hostname, c.NodeName)
	def(&c.RootDir, "/var/lib/kubelet")
	def(&c.PodLogsDir, "/var/log/pods")
	def(&c.StateDir, filepath.Join(c.RootDir, "reeve"))
	def(&c.CertDir, filepath.Join(c.StateDir, "pki"))
	def(&c.CgroupRoot, "/")
	def(&c.CgroupDriver, "cgroupfs")
	def(&c.ClusterDomain, "cluster.local")
	def(&c.Version, "v1.36.0+reeve")
	if c.EnforceNodeAllocatable == nil {
		c.EnforceNodeAllocatable = []string{"pods"}
	}
	if c.EvictionHard == nil {
		c.EvictionHard = evict.Defaults()
	}
	if c.MergeDefaultEvictionSettings {
		c.EvictionHard = c.evictionSettings().Merge().EvictionHard
	}
	dur(&c.EvictionPressureTransitionPeriod, evict.DefaultHold)
	num(&c.Port, 10250)
	num(&c.HealthzPort, 10248)
	if !c.HealthzBindAddress.IsValid() {
		c.HealthzBindAddress = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	num(&c.EventRecordQPS, 50)
	num(&c.EventBurst, 100)
	num(&c.MaxPods, 110)
	dur(&c.NodeLeaseDuration, 40*time.Second)
	dur(&c.NodeStatusUpdateFrequency, 10*time.Second)
	dur(&c.NodeStatusReportFrequency, 5*time.Minute)
	dur(&c.SyncFrequency, time.Minute)
	num(&c.MaxParallelImagePulls, 5)
	if c.SerializeImagePulls {
		c.MaxParallelImagePulls = 1
	}
	num(&c.ImageGCHighThresholdPercent, 85)
	num(&c.ImageGCLowThresholdPercent, 80)
	dur(&c.ImageMinimumGCAge, 2*time.Minute)
	if c.ContainerLogMaxSizeBytes == 0 {
		c.ContainerLogMaxSizeBytes = 10 << 20
	}
	num(&c.ContainerLogMaxFiles, 5)
}

func (c *Config) evictionSettings() evict.Settings {
	return evict.Settings{EvictionHard: c.EvictionHard, EvictionSoft: c.EvictionSoft, EvictionSoftGracePeriod: c.EvictionSoftGracePeriod,
		EvictionMinimumReclaim: c.EvictionMinimumReclaim}
}

// Validate reports every field that Run could not work with, named as in KubeletConfiguration.
func (c *Config) Validate() error {
	var errs []error
	bad := func(field, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s: %s", field, fmt.Sprintf(format, args...)))
	}
	if c.Runtime == nil {
		bad("runtime", "none given; the agent needs a container runtime")
	}
	if c.NodeName == "" {
		bad("nodeName", "empty; give the name of this node")
	}
	if c.Client != nil && len(c.NodeIPs) == 0 {
		bad("nodeIPs", "empty; give the address at which this node is reached")
	}
	for field, p := range map[string]string{"rootDir": c.RootDir, "podLogsDir": c.PodLogsDir, "stateDir": c.StateDir} {
		if !filepath.IsAbs(p) {
			bad(field, "%q is not an absolute path", p)
		}
	}
	if c.CgroupDriver != "cgroupfs" && c.CgroupDriver != "systemd" {
		bad("cgroupDriver", `%q is unknown; use "cgroupfs" or "systemd"`, c.CgroupDriver)
	}
	if (c.TLSCertFile == "") != (c.TLSPrivateKeyFile == "") {
		bad("tlsCertFile", "tlsCertFile and tlsPrivateKeyFile go together; give both or neither")
	}
	if c.MaxPods < 0 {
		bad("maxPods", "%d is negative", c.MaxPods)
	}
	if c.EventBurst < 0 {
		bad("eventBurst", "%d is negative", c.EventBurst)
	}
	if c.ImageGCHighThresholdPercent < 0 || c.ImageGCHighThresholdPercent > 100 {
		bad("imageGCHighThresholdPercent", "%d is not within 0..100", c.ImageGCHighThresholdPercent)
	}
	if c.ImageGCLowThresholdPercent >= c.ImageGCHighThresholdPercent {
		bad("imageGCLowThresholdPercent", "%d is not below imageGCHighThresholdPercent %d",
			c.ImageGCLowThresholdPercent, c.ImageGCHighThresholdPercent)
	}
	if c.NodeLeaseDuration < time.Second {
		bad("nodeLeaseDurationSeconds", "%s is under one second", c.NodeLeaseDuration)
	}
	if c.ContainerLogMaxFiles < 2 {
		bad("containerLogMaxFiles", "%d is less than 2", c.ContainerLogMaxFiles)
	}
	if _, err := evict.Parse(c.evictionSettings()); err != nil {
		errs = append(errs, err)
	}
	for field, d := range map[string]time.Duration{"evictionMaxPodGracePeriod": c.EvictionMaxPodGracePeriod, "evictionPressureTransitionPeriod": c.EvictionPressureTransitionPeriod} {
		if d < 0 {
			bad(field, "%s is negative", d)
		}
	}
	for field, list := range map[string]v1.ResourceList{"kubeReserved": c.KubeReserved, "systemReserved": c.SystemReserved} {
		for name, q := range list {
			if q.Sign() < 0 {
				bad(field+"["+string(name)+"]", "%s is negative", q.String())
			}
		}
	}
	return errors.Join(errs...)
}
