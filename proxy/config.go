package proxy

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"regexp"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/client-go/kubernetes"
)

// Mode is a backend's name, as kube-proxy's --proxy-mode and /proxyMode have it.
type Mode string

// The modes. Auto is nftables where kernel (5.13) and nft (1.0.1) allow, else iptables.
const (
	ModeAuto     Mode = "auto"
	ModeIPTables Mode = "iptables"
	ModeNFTables Mode = "nftables"
	ModeIPVS     Mode = "ipvs"
)

// LocalMode is how traffic of pods is told from other traffic, as kube-proxy's --detect-local-mode.
type LocalMode string

// The ways: by the source address being in ClusterCIDRs or in this node's own spec.podCIDRs, or by the interface that the
// packet came in by, named or with a prefix.
const (
	LocalClusterCIDR     LocalMode = "ClusterCIDR"
	LocalNodeCIDR        LocalMode = "NodeCIDR"
	LocalBridge          LocalMode = "BridgeInterface"
	LocalInterfacePrefix LocalMode = "InterfaceNamePrefix"
)

// ConntrackConfig sizes the node's connection tracking. Nil leaves a value to the host, but for MaxPerCore and Min.
type ConntrackConfig struct {
	// MaxPerCore and Min size the table: MaxPerCore × cores, at least Min. Defaults: 32768 and 131072. MaxPerCore 0 leaves
	// the size to the host.
	MaxPerCore, Min *int32
	// Timeouts, of which nil and 0 leave the host's.
	TCPEstablishedTimeout, TCPCloseWaitTimeout, UDPTimeout, UDPStreamTimeout *time.Duration
	// TCPBeLiberal accepts packets outside their connection's window.
	TCPBeLiberal bool
}

// Config is everything that the proxy needs to know. The zero value of a field means its default; Client, NodeName are
// required.
type Config struct {
	// Client reads Services, EndpointSlices and this Node, and nothing else. It never writes.
	Client kubernetes.Interface
	// NodeName is this node's name in the API; endpoints with this node name count as local.
	NodeName string
	// NodeIPs are the node's own addresses, the primary one first. Their families are the ones proxied, IPv6 only where the
	// host has ip6tables or nft. Empty: IPv4.
	NodeIPs []netip.Addr
	// Mode selects the backend. Default: auto.
	Mode Mode
	// ClusterCIDRs are the pods' ranges: traffic to a ClusterIP from outside them is masqueraded. Empty: only hairpin and
	// external traffic is.
	ClusterCIDRs []netip.Prefix
	// DetectLocal is how pods' traffic is told. Default: ClusterCIDR.
	DetectLocal LocalMode
	// LocalInterface is the bridge's name, or the prefix of the pods' interfaces on the host, with those two ways.
	LocalInterface string
	// NodePortAddresses limit on which local addresses node ports answer. Empty: all but loopback.
	NodePortAddresses []netip.Prefix
	// LocalhostNodePorts also answers node ports on 127.0.0.1, which needs route_localnet: it is switched on after the rules
	// are in place that keep neighbours off 127.0.0.0/8 (CVE-2020-8558). Default: off.
	LocalhostNodePorts bool
	// MasqueradeAll masquerades all traffic to ClusterIPs.
	MasqueradeAll bool
	// MasqueradeBit is the packet mark's bit that asks for masquerading, 0–31. Default (nil): 14, as kube-proxy's.
	MasqueradeBit *int
	// ChainPrefix begins the name of every chain; the nftables table is reeve-proxy, or for another prefix than the default
	// reeve-proxy-<prefix>. Default: KUBE. At most 8 capital letters, digits or dashes.
	ChainPrefix string
	// IPTables chooses "nft" or "legacy"; empty takes what the host's iptables is.
	IPTables string
	// SyncPeriod is the slow full resync: changes are event-driven, and the canary finds foreign flushes sooner.
	// Default: 1 h.
	SyncPeriod time.Duration
	// CanaryPeriod is how often a foreign flush is looked for; nftables mode hears of one at once. Default: 30 s.
	CanaryPeriod time.Duration
	// Conntrack sizes connection tracking.
	Conntrack ConntrackConfig
	// IPVS is for mode ipvs only.
	IPVS IPVSConfig
	// PodAddresses are addresses of this node itself, no Service's of this proxy, that pods must reach where the host drops
	// what is sent to it: the cluster DNS.
	PodAddresses []netip.Addr
	// MinSyncInterval separates the starts of two programmings; the first after a rest starts at once. Default: 20 ms.
	MinSyncInterval time.Duration
	// HealthzAddress serves /healthz and /livez. Default: 0.0.0.0:10256. "-" serves none.
	HealthzAddress string
	// MetricsAddress serves /metrics, /proxyMode, /healthz. Default: 127.0.0.1:10249. "-" serves none.
	MetricsAddress string
	// Profiling serves /debug/pprof at MetricsAddress. Default: off.
	Profiling bool
	// Registry receives the proxy's metrics and is what /metrics serves. Default: a registry of its own.
	Registry *prometheus.Registry
	// Logger. Default: slog.Default().
	Logger *slog.Logger

	serviceLabel int // of connections to Services, which other firewalls let in; 0: none is needed
}

const (
	defaultSyncPeriod      = time.Hour
	defaultCanaryPeriod    = 30 * time.Second
	defaultMinSyncInterval = 20 * time.Millisecond
	defaultMasqueradeBit   = 14
	defaultHealthzAddress  = "0.0.0.0:10256"
	defaultMetricsAddress  = "127.0.0.1:10249"
	defaultChainPrefix     = "KUBE"
)

var interfacePattern = regexp.MustCompile(`^[A-Za-z0-9._-]{1,15}$`)

var chainPrefixPattern = regexp.MustCompile(`^[A-Z][A-Z0-9-]{0,7}$`)

// complete fills defaults and reports every wrong field at once.
func (c Config) complete() (Config, error) {
	var errs []error
	if c.Client == nil {
		errs = append(errs, errors.New("Client is required"))
	}
	if c.NodeName == "" {
		errs = append(errs, errors.New("NodeName is required"))
	}
	switch c.Mode {
	case "":
		c.Mode = ModeAuto
	case ModeAuto, ModeIPTables, ModeNFTables, ModeIPVS:
	default:
		errs = append(errs, fmt.Errorf("Mode %q is unknown: use auto, nftables, iptables or ipvs", c.Mode))
	}
	errs = append(errs, c.IPVS.check(&c)...)
	switch c.DetectLocal {
	case "":
		c.DetectLocal = LocalClusterCIDR
	case LocalClusterCIDR, LocalNodeCIDR:
	case LocalBridge, LocalInterfacePrefix:
		if !interfacePattern.MatchString(c.LocalInterface) {
			errs = append(errs, fmt.Errorf("LocalInterface %q: DetectLocal %s needs an interface's name or prefix, at most 15 letters, digits and ._-", c.LocalInterface, c.DetectLocal))
		}
	default:
		errs = append(errs, fmt.Errorf("DetectLocal %q is unknown: use ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix", c.DetectLocal))
	}
	if len(c.NodeIPs) == 0 {
		c.NodeIPs = []netip.Addr{netip.IPv4Unspecified()}
	}
	if c.MasqueradeBit == nil {
		bit := defaultMasqueradeBit
		c.MasqueradeBit = &bit
	}
	if *c.MasqueradeBit < 0 || *c.MasqueradeBit > 31 {
		errs = append(errs, fmt.Errorf("MasqueradeBit %d: use 0 to 31", *c.MasqueradeBit))
	}
	if c.ChainPrefix == "" {
		c.ChainPrefix = defaultChainPrefix
	}
	if !chainPrefixPattern.MatchString(c.ChainPrefix) {
		errs = append(errs, fmt.Errorf("ChainPrefix %q: use a capital letter and up to 7 capital letters, digits or dashes", c.ChainPrefix))
	}
	switch c.IPTables {
	case "", "nft", "legacy":
	default:
		errs = append(errs, fmt.Errorf("IPTables %q: use nft, legacy or nothing", c.IPTables))
	}
	setDuration := func(name string, d *time.Duration, def time.Duration) {
		if *d < 0 {
			errs = append(errs, fmt.Errorf("%s %v: use a positive duration", name, *d))
		}
		if *d == 0 {
			*d = def
		}
	}
	setDuration("SyncPeriod", &c.SyncPeriod, defaultSyncPeriod)
	setDuration("CanaryPeriod", &c.CanaryPeriod, defaultCanaryPeriod)
	setDuration("MinSyncInterval", &c.MinSyncInterval, defaultMinSyncInterval)
	setAddress := func(name string, a *string, def string) {
		if *a == "" {
			*a = def
		}
		if *a == "-" {
			return
		}
		if _, _, err := net.SplitHostPort(*a); err != nil {
			errs = append(errs, fmt.Errorf("%s %q: use host:port or - for none", name, *a))
		}
	}
	setAddress("HealthzAddress", &c.HealthzAddress, defaultHealthzAddress)
	setAddress("MetricsAddress", &c.MetricsAddress, defaultMetricsAddress)
	for name, list := range map[string][]netip.Prefix{"ClusterCIDRs": c.ClusterCIDRs, "NodePortAddresses": c.NodePortAddresses} {
		for i, p := range list {
			if !p.IsValid() {
				errs = append(errs, fmt.Errorf("%s[%d] is no valid address range: use one like 10.244.0.0/16", name, i))
			}
		}
	}
	for name, n := range map[string]*int32{"Conntrack.MaxPerCore": c.Conntrack.MaxPerCore, "Conntrack.Min": c.Conntrack.Min} {
		if n != nil && *n < 0 {
			errs = append(errs, fmt.Errorf("%s %d: use 0 or more", name, *n))
		}
	}
	if c.Registry == nil {
		c.Registry = prometheus.NewRegistry()
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if err := errors.Join(errs...); err != nil {
		return c, fmt.Errorf("check proxy configuration: %w", err)
	}
	return c, nil
}
