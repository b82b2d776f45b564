package dns

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"regexp"
	"strings"

	"k8s.io/client-go/kubernetes"
)

// Config is everything that the cluster DNS needs to know. Client, ListenAddrs are required.
type Config struct {
	// Client lists and watches Services, EndpointSlices and Namespaces. It never writes.
	Client kubernetes.Interface
	// ListenAddrs are the cluster DNS addresses, at most one a family. Each is put on the loopback device of this network
	// namespace, as /32 or /128 with scope host, unless the host has it already; UDP and TCP port 53 are bound on it.
	ListenAddrs []netip.Addr
	// Port to bind. Default: 53.
	Port uint16
	// Domain of the cluster. Default: cluster.local.
	Domain string
	// UpstreamResolvConf names the servers to which other names are forwarded. Default: /etc/resolv.conf, or where that
	// points to systemd-resolved's stub, the file with its real servers. The addresses of ListenAddrs are left out. No
	// usable server: other names are refused at once.
	UpstreamResolvConf string
	// KeepAddresses leaves ListenAddrs on the loopback device, and the accepting rule, when Run ends: while a restart lasts, queries are then refused
	// at once instead of lost on the way out of the node. Cleanup removes them.
	KeepAddresses bool
	// ChainPrefix begins the name of the iptables chain that accepts questions. Default: REEVE.
	ChainPrefix string
	// IPTables chooses "nft" or "legacy"; empty takes what the host's iptables is.
	IPTables string
	// SnapshotFile keeps the cluster's names over restarts, so that they are answered although the API is away when Run
	// starts. Its folder must exist. Empty: none is kept.
	SnapshotFile string
	// Logger. Default: slog.Default().
	Logger *slog.Logger
}

const defaultChainPrefix = "REEVE"

var chainPrefixPattern = regexp.MustCompile(`^[A-Z][A-Z0-9-]{0,7}$`)

func (c Config) complete() (Config, error) {
	var errs []error
	if c.Client == nil {
		errs = append(errs, errors.New("Client is required"))
	}
	if len(c.ListenAddrs) == 0 {
		errs = append(errs, errors.New("ListenAddrs: at least one address is required"))
	}
	for _, a := range c.ListenAddrs {
		if !a.IsValid() || a.IsUnspecified() {
			errs = append(errs, fmt.Errorf("ListenAddrs: %q is no address to listen on", a))
		}
	}
	if c.Port == 0 {
		c.Port = 53
	}
	if c.Domain == "" {
		c.Domain = "cluster.local"
	}
	c.Domain = strings.Trim(c.Domain, ".")
	if c.Domain == "" || strings.ContainsAny(c.Domain, " \t\n{}\"") {
		errs = append(errs, fmt.Errorf("Domain %q is no DNS domain", c.Domain))
	}
	if c.ChainPrefix == "" {
		c.ChainPrefix = defaultChainPrefix
	}
	if !chainPrefixPattern.MatchString(c.ChainPrefix) {
		errs = append(errs, fmt.Errorf("ChainPrefix %q: use a capital letter and up to 7 capital letters, digits or dashes", c.ChainPrefix))
	}
	if c.UpstreamResolvConf == "" {
		c.UpstreamResolvConf = defaultResolvConf
	}
	if c.Logger == nil {
		c.Logger = slog.Default()
	}
	if err := errors.Join(errs...); err != nil {
		return c, fmt.Errorf("check DNS configuration: %w", err)
	}
	return c, nil
}
