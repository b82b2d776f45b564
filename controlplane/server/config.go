package server

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"

	utilnet "k8s.io/apimachinery/pkg/util/net"

	"github.com/reevehq/reeve/controlplane/pki"
)

// Config of the API server. All fields without "optional" must be set.
type Config struct {
	Logger *slog.Logger
	// Listener is where the API is served, TLS by PKI.Serving. The server closes it.
	Listener net.Listener
	// AdvertiseIP is the address at which nodes and pods reach Listener.
	AdvertiseIP netip.Addr
	PKI         *pki.PKI
	Etcd        Etcd

	// ServiceCIDRs hold the addresses of Services, the primary family first. NodePorts is the range of node ports.
	ServiceCIDRs []netip.Prefix
	NodePorts    utilnet.PortRange
	// Issuer is the issuer of service-account tokens, an https URL; optional: the API server's in-cluster name.
	Issuer string
	// ClusterDomain ends the in-cluster names, "cluster.local".
	ClusterDomain string

	// EnableAdmission and DisableAdmission change which admission plugins run; optional.
	EnableAdmission, DisableAdmission []string
}

// Etcd says where the cluster is stored.
type Etcd struct {
	// Servers are the client URLs: unix:///path or https://host:port.
	Servers []string
	// CAFile, CertFile and KeyFile are for https servers; optional.
	CAFile, CertFile, KeyFile string
	// Prefix of all keys; optional: /registry.
	Prefix string
}

func (c *Config) complete() error {
	var errs []error
	if c.Listener == nil {
		errs = append(errs, errors.New("Listener is nil"))
	}
	if c.PKI == nil {
		errs = append(errs, errors.New("PKI is nil"))
	}
	if !c.AdvertiseIP.IsValid() || c.AdvertiseIP.IsUnspecified() {
		errs = append(errs, fmt.Errorf("AdvertiseIP %s cannot be reached: give an address of this host", c.AdvertiseIP))
	}
	if len(c.ServiceCIDRs) == 0 {
		errs = append(errs, errors.New("ServiceCIDRs is empty"))
	}
	if len(c.Etcd.Servers) == 0 {
		errs = append(errs, errors.New("Etcd.Servers is empty"))
	}
	if c.Etcd.Prefix == "" {
		c.Etcd.Prefix = "/registry"
	}
	if c.ClusterDomain == "" {
		c.ClusterDomain = "cluster.local"
	}
	if c.Issuer == "" {
		c.Issuer = "https://kubernetes.default.svc." + c.ClusterDomain
	}
	if len(errs) > 0 {
		return fmt.Errorf("configure API server: %w", errors.Join(errs...))
	}
	return nil
}
