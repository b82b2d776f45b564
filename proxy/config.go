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

// The modes. Auto is iptables where the host has it, else nftables, which needs kernel 5.13 and nft 1.0.1. IPTables lets
// Services' traffic pass hosts whose own rules drop what they forward; NFTables cannot, and is much faster with many
// Services.
const (
	ModeAuto     Mode = "auto"
	ModeIPTables Mode = "iptables"
	ModeNFTables Mode = "nftables"
)

// other is the mode whose rules may be there from an earlier start.
func (m Mode) other() Mode {
	if m == ModeNFTables {
		return ModeIPTables
	}
	return ModeNFTables
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
	// NodePortAddresses limit on which local addresses node ports answer. Empty: all but loopback.
	NodePortAddresses []netip.Prefix
	// LocalhostNodePorts also answers node ports on 127.0.0.1, which needs route_localnet. Default: off.
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
	// MinSyncInterval separates the starts of two programmings; the first after a rest starts at once. Default: 20 ms.
	MinSyncInterval time.Duration
	// HealthzAddress serves /healthz and /livez. Default: 0.0.0.0:10256. "-" serves none.
	HealthzAddress string
	// MetricsAddress serves /metrics, /proxyMode, /healthz. Default: 127.0.0.1:10249. "-" serves none.
	MetricsAddress string
	// Registry receives the proxy's metrics and is what /metrics serves. Default: a registry of its own.
	Registry *prometheus.Registry
	// Logger. Default: slog.Default().
	Logger *slog.Logger
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
	case ModeAuto, ModeIPTables, ModeNFTables:
	default:
		errs = append(errs, fmt.Errorf("Mode %q is unknown: use auto, iptables or nftables", c.Mode))
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
	for _, p := range append(append([]netip.Prefix{}, c.ClusterCIDRs...), c.NodePortAddresses...) {
		if !p.IsValid() {
			errs = append(errs, errors.New("ClusterCIDRs, NodePortAddresses: an invalid prefix"))
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
