package controlplane

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"path/filepath"
	"time"

	utilnet "k8s.io/apimachinery/pkg/util/net"
)

// Config of the bundled control plane. The zero value of a field means its default, except where it says required.
type Config struct {
	// DataDir holds everything: admin.kubeconfig, server/etcd, server/pki, server/node-token. Required.
	DataDir string
	Logger  *slog.Logger

	// BindAddress is where the API listens; default 0.0.0.0. Port defaults to 6443.
	BindAddress netip.Addr
	Port        int
	// Listener is served instead of BindAddress and Port where it is given. Run closes it.
	Listener net.Listener
	// AdvertiseIP is the address that nodes and pods reach the API by; default the address of the default route, or
	// of the first interface that is up.
	AdvertiseIP netip.Addr
	// TLSNames are further host names and addresses that clients use.
	TLSNames []string

	// ServiceCIDR of ClusterIPs; default 10.96.0.0/16. Its first address is the kubernetes Service's.
	ServiceCIDR netip.Prefix
	// PodCIDR is divided among the nodes, a /24 each; default 10.244.0.0/16.
	PodCIDR netip.Prefix
	// NodePorts defaults to 30000-32767.
	NodePorts utilnet.PortRange
	// ClusterDNS defaults to 10.96.0.10, the tenth address of ServiceCIDR.
	ClusterDNS netip.Addr
	// ClusterDomain defaults to cluster.local.
	ClusterDomain string
	// Issuer of service-account tokens; default https://kubernetes.default.svc.<ClusterDomain>.
	Issuer string

	// EtcdServers point to an external etcd; empty runs the embedded one.
	EtcdServers                               []string
	EtcdCAFile, EtcdCertFile, EtcdKeyFile     string
	EnableAdmissionPlugins, DisableAdmissions []string

	// SigningDuration is how long certificates that are signed for nodes and users hold; default one year.
	SigningDuration time.Duration
	// LocalNode is the node on this host: it alone may serve under the API server's own addresses. Empty: none.
	LocalNode string

	// DisableScheduler and DisableControllers leave that part out, for tests and for a scheduler of the user's own.
	DisableScheduler, DisableControllers bool

	// OnReady is called once, when the API serves and the bootstrap objects exist. It must not block.
	OnReady func()
}

// Defaults, as the brief of the whole product names them.
const (
	DefaultPort          = 6443
	DefaultClusterDomain = "cluster.local"
)

// complete fills in defaults and reports every error at once.
func (c *Config) complete() error {
	var errs []error
	if c.DataDir == "" {
		errs = append(errs, errors.New("--data-dir is empty: give a folder"))
	} else if abs, err := filepath.Abs(c.DataDir); err != nil {
		errs = append(errs, fmt.Errorf("--data-dir %q: %w", c.DataDir, err))
	} else {
		c.DataDir = abs
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if c.Listener != nil {
		if at, ok := c.Listener.Addr().(*net.TCPAddr); ok {
			c.BindAddress, c.Port = at.AddrPort().Addr().Unmap(), at.Port
		} else {
			errs = append(errs, fmt.Errorf("Listener is of network %q, not TCP", c.Listener.Addr().Network()))
		}
	}
	if !c.BindAddress.IsValid() {
		c.BindAddress = netip.IPv4Unspecified()
	}
	if c.Port == 0 {
		c.Port = DefaultPort
	}
	if c.Port < 0 || c.Port > 65535 {
		errs = append(errs, fmt.Errorf("--https-listen-port %d: must be between 1 and 65535", c.Port))
	}
	if !c.AdvertiseIP.IsValid() {
		if !c.BindAddress.IsUnspecified() {
			c.AdvertiseIP = c.BindAddress
		} else if ip, err := hostAddress(); err != nil {
			errs = append(errs, fmt.Errorf("--advertise-address is not given and cannot be guessed: %w", err))
		} else {
			c.AdvertiseIP = ip
		}
	}
	if c.AdvertiseIP.IsValid() && c.AdvertiseIP.IsUnspecified() {
		errs = append(errs, fmt.Errorf("--advertise-address %s: nodes cannot reach it: give an address of this host", c.AdvertiseIP))
	}
	if !c.ServiceCIDR.IsValid() {
		c.ServiceCIDR = netip.MustParsePrefix("10.96.0.0/16")
	}
	c.ServiceCIDR = c.ServiceCIDR.Masked()
	if size := c.ServiceCIDR.Addr().BitLen() - c.ServiceCIDR.Bits(); size < 4 || size > 20 {
		errs = append(errs, fmt.Errorf("--service-cluster-ip-range %s: must leave between 4 and 20 bits for Services, as a /12 to /28 does", c.ServiceCIDR))
	}
	if !c.PodCIDR.IsValid() {
		c.PodCIDR = netip.MustParsePrefix("10.244.0.0/16")
	}
	c.PodCIDR = c.PodCIDR.Masked()
	if c.PodCIDR.Overlaps(c.ServiceCIDR) {
		errs = append(errs, fmt.Errorf("--cluster-cidr %s overlaps --service-cluster-ip-range %s: choose ranges apart", c.PodCIDR, c.ServiceCIDR))
	}
	if c.NodePorts.Size == 0 {
		c.NodePorts = utilnet.PortRange{Base: 30000, Size: 2768}
	}
	if !c.ClusterDNS.IsValid() {
		c.ClusterDNS = nth(c.ServiceCIDR, 10)
	}
	if !c.ServiceCIDR.Contains(c.ClusterDNS) {
		errs = append(errs, fmt.Errorf("--cluster-dns %s is not in --service-cluster-ip-range %s", c.ClusterDNS, c.ServiceCIDR))
	}
	if c.ClusterDomain == "" {
		c.ClusterDomain = DefaultClusterDomain
	}
	if c.SigningDuration == 0 {
		c.SigningDuration = 365 * 24 * time.Hour
	}
	if c.SigningDuration < time.Second {
		errs = append(errs, fmt.Errorf("--cluster-signing-duration %s: must be at least 1s, and is a year by default", c.SigningDuration))
	}
	if len(errs) > 0 {
		return fmt.Errorf("configure control plane: %w", errors.Join(errs...))
	}
	return nil
}

// nth is the n-th address of p, its base being the 0th; invalid when p ends before.
func nth(p netip.Prefix, n int) netip.Addr {
	a := p.Masked().Addr()
	for range n {
		a = a.Next()
	}
	return a
}

// hostAddress guesses the address by which others reach this host: that of the interface of the default route, or the
// first that is up and not loopback, or loopback on a host without network.
func hostAddress() (netip.Addr, error) {
	if ip, err := utilnet.ChooseHostInterface(); err == nil {
		if a, ok := netip.AddrFromSlice(ip); ok {
			return a.Unmap(), nil
		}
	}
	interfaces, err := net.InterfaceAddrs()
	if err != nil {
		return netip.Addr{}, err
	}
	var loopback netip.Addr
	for _, i := range interfaces {
		prefix, err := netip.ParsePrefix(i.String())
		if err != nil || !prefix.Addr().Is4() {
			continue
		}
		if !prefix.Addr().IsLoopback() {
			return prefix.Addr(), nil
		}
		loopback = prefix.Addr()
	}
	if loopback.IsValid() {
		return loopback, nil
	}
	return netip.Addr{}, errors.New("the host has no IPv4 address")
}
