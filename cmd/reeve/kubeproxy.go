package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"

	"github.com/reevehq/reeve/internal/dropin"
	"github.com/reevehq/reeve/internal/dropin/kubeproxyconfig"
	"github.com/reevehq/reeve/internal/logkey"
	"github.com/reevehq/reeve/proxy"
	"github.com/reevehq/reeve/systemd"
)

const (
	// nodeWait bounds the wait for this node's object, whose addresses say which families are proxied.
	nodeWait = 2 * time.Minute
	// nodeCall bounds one question for it, nodeRetry separates two.
	nodeCall  = 10 * time.Second
	nodeRetry = time.Second
	// proxyCleanupTimeout bounds removing every rule.
	proxyCleanupTimeout = 2 * time.Minute
)

// kubeProxyCommand is what runs under the name kube-proxy: the Service proxy alone, with upstream's flags and
// configuration.
func kubeProxyCommand() *cobra.Command {
	return upstreamCommand("kube-proxy", "Program Services on this node, as upstream's kube-proxy would: reeve's proxy alone",
		"Program Services on this node, as upstream's kube-proxy would: reeve's proxy alone, configured by kube-proxy's flags\n"+
			"or a KubeProxyConfiguration. What it does not implement it names at start. Stopping it leaves the rules in place.",
		kubeproxyconfig.Flags, runKubeProxy)
}

func runKubeProxy(ctx context.Context, flags *dropin.Flags) error {
	c, err := kubeproxyconfig.Load(flags)
	if err != nil {
		return badConfig(err)
	}
	log, err := upstreamLogger(c.Logging.Format, uint32(c.Logging.Verbosity))
	if err != nil {
		return badConfig(err)
	}
	klog.SetSlogLogger(log)
	for _, t := range c.Told {
		log.Warn("Configuration", "told", t)
	}
	tellUnsupported(log, c.Missing, nil)
	if err := needRoot("kube-proxy"); err != nil {
		return err
	}
	if flags.Bool("cleanup") {
		return cleanProxy(ctx, proxy.CleanupConfig{MasqueradeBit: masqueradeBit(c)})
	}
	api, err := kubeProxyAPI(flags.Value("master"), c)
	if err != nil {
		return badConfig(err)
	}
	if err := errors.Join(needPort("healthzBindAddress", c.HealthzBindAddress), needPort("metricsBindAddress", c.MetricsBindAddress)); err != nil {
		return err
	}
	name := c.HostnameOverride
	if name == "" {
		if name, err = os.Hostname(); err != nil {
			return fmt.Errorf("ask for the host's name: %w; give --hostname-override", err)
		}
	}
	name = strings.ToLower(strings.TrimSpace(name))
	ips, err := proxyNodeIPs(ctx, log, api, name, c.BindAddress)
	if err != nil || ctx.Err() != nil {
		return err
	}
	debug.SetGCPercent(gcPercent)
	setOOMScore(log, *c.OOMScoreAdj)
	cfg, err := kubeProxyConfig(c, ips)
	if err != nil {
		return badConfig(err)
	}
	cfg.Client, cfg.NodeName, cfg.Logger = api, name, log.With("part", "proxy")
	notifier := systemd.NewNotifier(log)
	notifier.Ready("programming Services")
	context.AfterFunc(ctx, func() { notifier.Stopping("leaving the rules in place") })
	return proxy.Run(ctx, cfg)
}

// kubeProxyAPI makes the client: of the kubeconfig, or of the pod that this runs in.
func kubeProxyAPI(master string, c *kubeproxyconfig.Loaded) (kubernetes.Interface, error) {
	var cfg *rest.Config
	var err error
	switch {
	case c.ClientConnection.Kubeconfig != "" || master != "":
		cfg, err = clientcmd.BuildConfigFromFlags(master, c.ClientConnection.Kubeconfig)
	default:
		cfg, err = rest.InClusterConfig()
		if errors.Is(err, rest.ErrNotInCluster) {
			err = errors.New("no kubeconfig is given and this is no pod")
		}
	}
	if err != nil {
		return nil, fmt.Errorf("clientConnection.kubeconfig %q: %w", c.ClientConnection.Kubeconfig, err)
	}
	api := &nodeAPI{config: cfg}
	if err := api.connect(c.ClientConnection.QPS, int(c.ClientConnection.Burst), c.ClientConnection.ContentType); err != nil {
		return nil, err
	}
	if accept := c.ClientConnection.AcceptContentTypes; accept != "" {
		cfg.AcceptContentTypes = accept
		return kubernetes.NewForConfig(cfg)
	}
	return api.client, nil
}

// proxyNodeIPs are the node's addresses, as its object tells them, with bindAddress first where that names one. A node
// that never appears is taken for one with the host's own address, as upstream does.
func proxyNodeIPs(ctx context.Context, log *slog.Logger, api kubernetes.Interface, name, bind string) ([]netip.Addr, error) {
	given, err := netip.ParseAddr(bind)
	if err != nil {
		return nil, badConfig(fmt.Errorf("bindAddress %q is not an IP address", bind))
	}
	wait, cancel := context.WithTimeout(ctx, nodeWait)
	defer cancel()
	var ips []netip.Addr
	for len(ips) == 0 && wait.Err() == nil {
		call, done := context.WithTimeout(wait, nodeCall)
		n, err := api.CoreV1().Nodes().Get(call, name, metav1.GetOptions{})
		done()
		if err == nil {
			ips = internalIPs(n)
			break
		}
		log.Warn("Waiting for this node's object", logkey.Node, name, logkey.Err, err)
		select {
		case <-wait.Done():
		case <-time.After(nodeRetry):
		}
	}
	if !given.IsUnspecified() {
		ips = append([]netip.Addr{given}, slices.DeleteFunc(ips, func(a netip.Addr) bool { return a.Is4() == given.Is4() })...)
	}
	if len(ips) == 0 && ctx.Err() == nil {
		own, err := defaultAddress()
		if err != nil {
			return nil, fmt.Errorf("find this node's address: %w; give --bind-address", err)
		}
		log.Warn("This node's object tells no address, using the host's own", logkey.Node, name, "address", own.String())
		ips = []netip.Addr{own}
	}
	return ips, nil
}

// internalIPs are a node's internal addresses, the first of each family.
func internalIPs(n *v1.Node) []netip.Addr {
	var out []netip.Addr
	for _, a := range n.Status.Addresses {
		ip, err := netip.ParseAddr(a.Address)
		if a.Type == v1.NodeInternalIP && err == nil && !slices.ContainsFunc(out, func(o netip.Addr) bool { return o.Is4() == ip.Is4() }) {
			out = append(out, ip)
		}
	}
	return out
}

func masqueradeBit(c *kubeproxyconfig.Loaded) *int {
	bit := c.IPTables.MasqueradeBit
	if c.Mode == "nftables" {
		bit = c.NFTables.MasqueradeBit
	}
	if bit == nil {
		return nil
	}
	n := int(*bit)
	return &n
}

// kubeProxyConfig translates a KubeProxyConfiguration, complete and valid, into the proxy's. Pure.
func kubeProxyConfig(c *kubeproxyconfig.Loaded, ips []netip.Addr) (proxy.Config, error) {
	cluster, _ := kubeproxyconfig.CIDRs(c.ClusterCIDR) // checked
	exclude, _ := kubeproxyconfig.CIDRs(strings.Join(c.IPVS.ExcludeCIDRs, ","))
	cfg := proxy.Config{
		NodeIPs: ips, Mode: proxy.Mode(c.Mode), ClusterCIDRs: cluster, DetectLocal: proxy.LocalMode(c.DetectLocalMode),
		LocalhostNodePorts: c.IPTables.LocalhostNodePorts != nil && *c.IPTables.LocalhostNodePorts && c.Mode != "ipvs",
		MasqueradeAll:      c.IPTables.MasqueradeAll, MasqueradeBit: masqueradeBit(c), MinSyncInterval: c.IPTables.MinSyncPeriod.Duration,
		HealthzAddress: c.HealthzBindAddress, MetricsAddress: c.MetricsBindAddress, Profiling: c.EnableProfiling,
		Conntrack: proxy.ConntrackConfig{
			MaxPerCore: c.Conntrack.MaxPerCore, Min: c.Conntrack.Min, TCPBeLiberal: c.Conntrack.TCPBeLiberal,
			TCPEstablishedTimeout: span(c.Conntrack.TCPEstablishedTimeout), TCPCloseWaitTimeout: span(c.Conntrack.TCPCloseWaitTimeout),
			UDPTimeout: span(&c.Conntrack.UDPTimeout), UDPStreamTimeout: span(&c.Conntrack.UDPStreamTimeout),
		},
		IPVS: proxy.IPVSConfig{
			Scheduler: c.IPVS.Scheduler, ExcludeCIDRs: exclude, StrictARP: c.IPVS.StrictARP,
			TCPTimeout: c.IPVS.TCPTimeout.Duration, TCPFinTimeout: c.IPVS.TCPFinTimeout.Duration, UDPTimeout: c.IPVS.UDPTimeout.Duration,
		},
	}
	switch c.Mode {
	case "nftables":
		cfg.MasqueradeAll, cfg.MinSyncInterval = c.NFTables.MasqueradeAll, c.NFTables.MinSyncPeriod.Duration
	case "ipvs":
		cfg.MinSyncInterval = c.IPVS.MinSyncPeriod.Duration
	}
	switch cfg.DetectLocal {
	case proxy.LocalBridge:
		cfg.LocalInterface = c.DetectLocal.BridgeInterface
	case proxy.LocalInterfacePrefix:
		cfg.LocalInterface = c.DetectLocal.InterfaceNamePrefix
	}
	if slices.Equal(c.NodePortAddresses, []string{"primary"}) {
		for _, ip := range ips {
			cfg.NodePortAddresses = append(cfg.NodePortAddresses, netip.PrefixFrom(ip, ip.BitLen()))
		}
		return cfg, nil
	}
	var err error
	cfg.NodePortAddresses, err = kubeproxyconfig.CIDRs(strings.Join(c.NodePortAddresses, ","))
	return cfg, err
}

// span is a duration that leaves the host's value when it is not set.
func span(d *metav1.Duration) *time.Duration {
	if d == nil || d.Duration == 0 {
		return nil
	}
	return &d.Duration
}

// proxyCommand has what an administrator does to the proxy's rules by hand.
func proxyCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "proxy", Short: "Look after the Service proxy's rules", Args: noArguments}
	var bit int
	var flavor string
	clean := &cobra.Command{
		Use:   "cleanup",
		Short: "Remove the rules of every proxy mode, of both families",
		Long: "Remove the rules of every proxy mode, of both families. A proxy that still runs would make them again: stop it first.\n" +
			"It may be repeated; what others made is not touched.",
		Args: noArguments,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := needRoot("reeve proxy cleanup"); err != nil {
				return err
			}
			cfg := proxy.CleanupConfig{IPTables: flavor}
			if cmd.Flags().Changed("masquerade-bit") {
				cfg.MasqueradeBit = &bit
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			return cleanProxy(ctx, cfg)
		},
	}
	clean.Flags().IntVar(&bit, "masquerade-bit", 14, "the packet mark's bit that the rules were made with")
	clean.Flags().StringVar(&flavor, "iptables", "", "nft or legacy (default: what the host's iptables is)")
	cmd.AddCommand(clean)
	return cmd
}

func cleanProxy(ctx context.Context, cfg proxy.CleanupConfig) error {
	ctx, cancel := context.WithTimeout(ctx, proxyCleanupTimeout)
	defer cancel()
	return proxy.Cleanup(ctx, cfg)
}
