package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"slices"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sync/errgroup"
	"k8s.io/klog/v2"

	"github.com/reevehq/reeve/agent"
	"github.com/reevehq/reeve/agent/bootstrap"
	"github.com/reevehq/reeve/dns"
	"github.com/reevehq/reeve/internal/datadir"
	"github.com/reevehq/reeve/internal/logkey"
	"github.com/reevehq/reeve/internal/supervise"
	"github.com/reevehq/reeve/internal/version"
	"github.com/reevehq/reeve/proxy"
	"github.com/reevehq/reeve/systemd"
)

// gcPercent makes the agent's heap be collected at half as much garbage as Go's default allows: it is small, and its
// memory is what users of small nodes count.
const gcPercent = 50

// agentOptions are the flags of `reeve agent` beside the node's.
type agentOptions struct {
	DataDir string
	Config  string
	Log     logOptions

	Server     string
	Token      string
	TokenFile  string
	Kubeconfig string
	NoDNS      bool

	Node nodeOptions
}

func (o *agentOptions) addFlags(f *pflag.FlagSet) {
	f.StringVar(&o.DataDir, "data-dir", datadir.Default, "folder of all state")
	f.StringVar(&o.Config, "config", "", "YAML file with this command's flags as keys; the command line wins")
	o.Log.addFlags(f)
	f.StringVar(&o.Server, "server", "", "URL of a reeve server to join, with --token or --token-file")
	f.StringVar(&o.Token, "token", "", "the server's join token (`reeve token` there prints it)")
	f.StringVar(&o.TokenFile, "token-file", "", "file with the join token; waited for when it is not there yet")
	f.StringVar(&o.Kubeconfig, "kubeconfig", "", "join the API server of this kubeconfig in place of a reeve server's")
	f.BoolVar(&o.NoDNS, "disable-dns", false, "run no cluster DNS on this node")
	// Given or not is what tells the default: see network.
	o.Node.addFlags(f, "")
}

func agentCommand() *cobra.Command {
	var o agentOptions
	cmd := &cobra.Command{
		Use:   "agent",
		Short: "Run this host as a node: pods, Service proxy and cluster DNS",
		Long: "Run this host as a node of the cluster of --server (a reeve server) or --kubeconfig (any conformant API\n" +
			"server). Stopping it leaves the pods running; the next start takes them over.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, release := supervise.WithLifeline(cmd.Context())
			defer release()
			ctx, stop := signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
			defer stop()
			if o.Config != "" {
				if err := loadConfigFile(cmd.Flags(), o.Config); err != nil {
					return badConfig(err)
				}
			}
			return runAgent(ctx, &o)
		},
	}
	o.addFlags(cmd.Flags())
	return cmd
}

// complete fills defaults and reports every value that cannot work.
func (o *agentOptions) complete(dir datadir.Dir) error {
	var all error
	switch {
	case o.Server == "" && o.Kubeconfig == "":
		all = errors.New("neither --server nor --kubeconfig is given; name the cluster to join")
	case o.Server != "" && o.Kubeconfig != "":
		all = errors.New("--server and --kubeconfig name two clusters; give one")
	case o.Server != "" && o.Token != "" && o.TokenFile != "":
		all = errors.New("--token and --token-file are both given; give one")
	case o.Token != "":
		if _, err := bootstrap.ParseToken(o.Token); err != nil {
			all = fmt.Errorf("--token: %w", err)
		}
	}
	if o.Node.Network == "" {
		o.Node.Network = networkBuiltin
		if o.Kubeconfig != "" {
			o.Node.Network = networkCNI
		}
	}
	return errors.Join(all, o.Node.complete(dir.Agent()))
}

// agentPreflight refuses a host on which the node cannot run, before anything is made.
func agentPreflight(o *nodeOptions) error {
	need := map[string]string{}
	if o.ProxyMode == "iptables" || o.ProxyMode == "ipvs" || o.Network == networkBuiltin {
		need["iptables"], need["iptables-restore"] = "iptables", "iptables"
	}
	if o.ProxyMode == "nftables" {
		need["nft"] = "nftables"
	}
	if err := needCommands(need); err != nil {
		return err
	}
	addresses := map[string]string{"--kubelet-port": hostPort(o.KubeletAddress, o.KubeletPort)}
	if o.HealthzPort > 0 {
		addresses["--healthz-port"] = hostPort("127.0.0.1", o.HealthzPort)
	}
	if o.ProxyMode != "none" {
		for flag, a := range map[string]string{"--proxy-healthz-bind-address": o.ProxyHealthz, "--proxy-metrics-bind-address": o.ProxyMetrics} {
			if a != "" {
				addresses[flag] = a
			}
		}
	}
	var all error
	for _, flag := range slices.Sorted(maps.Keys(addresses)) {
		all = errors.Join(all, needPort(flag, addresses[flag]))
	}
	return all
}

func runAgent(ctx context.Context, o *agentOptions) error {
	log, err := o.Log.logger()
	if err != nil {
		return badConfig(err)
	}
	if err := needRoot("reeve agent"); err != nil {
		return err
	}
	if err := needClock(time.Now()); err != nil {
		return err
	}
	dir, err := datadir.Open(o.DataDir)
	if err != nil {
		return badConfig(err)
	}
	if err := o.complete(dir); err != nil {
		return badConfig(err)
	}
	release, err := takeNode(dir, func() error { return agentPreflight(&o.Node) })
	if err != nil {
		return err
	}
	defer release()
	if err := instanceOf(&o.Node).write(dir); err != nil {
		return err
	}
	debug.SetGCPercent(gcPercent)
	klog.SetSlogLogger(log)
	return startNode(ctx, log, dir, o.plan(log, dir))
}

// nodePlan is what startNode puts together: the roles on one node.
type nodePlan struct {
	node *nodeOptions
	// join gets the credential for the API server; an API without a client runs the node standalone.
	join func(context.Context) (*nodeAPI, error)
	// agent makes the agent's configuration, once the runtime and the API are there.
	agent func(*nodeRuntime, *nodeAPI) agent.Config
	// services adds what runs beside the agent; nil: nothing does.
	services func(api *nodeAPI, part func(name string, f func(context.Context) error))
}

// plan is `reeve agent`: agent, proxy and DNS.
func (o *agentOptions) plan(log *slog.Logger, dir datadir.Dir) nodePlan {
	return nodePlan{
		node:  &o.Node,
		join:  func(ctx context.Context) (*nodeAPI, error) { return join(ctx, log, dir, o) },
		agent: func(rt *nodeRuntime, api *nodeAPI) agent.Config { return o.agentConfig(log, dir, rt, api) },
		services: func(api *nodeAPI, part func(name string, f func(context.Context) error)) {
			if o.Node.ProxyMode != "none" {
				part("Service proxy", func(ctx context.Context) error { return proxy.Run(ctx, o.proxyConfig(log, api)) })
			}
			if o.NoDNS {
				return
			}
			part("cluster DNS", func(ctx context.Context) error {
				return dns.Run(ctx, dns.Config{
					Client: api.client, ListenAddrs: addrs(o.Node.ClusterDNS), Domain: o.Node.ClusterDomain,
					UpstreamResolvConf: o.Node.ResolvConf, SnapshotFile: filepath.Join(dir.Agent(), "dns.json"), KeepAddresses: true,
					Logger: log.With("part", "dns"),
				})
			})
		},
	}
}

// startNode prepares the runtime and the API's credential side by side, then runs the node until ctx ends.
func startNode(ctx context.Context, log *slog.Logger, dir datadir.Dir, p nodePlan) error {
	var rt *nodeRuntime
	var api *nodeAPI
	// No shared cancellation: a runtime that was stopped in the middle of starting could not tell what it started.
	var prepare errgroup.Group
	prepare.Go(func() (err error) {
		rt, err = openRuntime(ctx, log, dir, p.node)
		return err
	})
	prepare.Go(func() (err error) {
		api, err = p.join(ctx)
		return err
	})
	err := prepare.Wait()
	if rt != nil {
		defer rt.close(log)
	}
	if ctx.Err() != nil {
		return nil
	}
	if err != nil {
		if rt != nil {
			err = errors.Join(err, rt.abandon(dir, p.node.CgroupRoot))
		}
		return err
	}
	run, runCtx := errgroup.WithContext(ctx)
	part := partsOf(runCtx, run)
	rt.run(part)
	if api.renew != nil {
		part("credential", api.renew)
	}
	part("agent", func(ctx context.Context) error { return agent.Run(ctx, p.agent(rt, api)) })
	if p.services != nil {
		p.services(api, part)
	}
	notifier := systemd.NewNotifier(log)
	context.AfterFunc(ctx, func() { notifier.Stopping("leaving the pods running") })
	return run.Wait()
}

// partsOf answers what runs one part of a process in the group. What a part answers once ctx has ended is no error.
func partsOf(ctx context.Context, run *errgroup.Group) func(name string, f func(context.Context) error) {
	return func(name string, f func(context.Context) error) {
		run.Go(func() error {
			if err := f(ctx); err != nil && ctx.Err() == nil {
				return fmt.Errorf("run the %s: %w", name, err)
			}
			return nil
		})
	}
}

func (o *agentOptions) proxyConfig(log *slog.Logger, api *nodeAPI) proxy.Config {
	clusterCIDRs, _ := prefixes("--cluster-cidr", o.Node.ClusterCIDR) // checked by complete
	off := func(address string) string {
		if address == "" {
			return "-"
		}
		return address
	}
	return proxy.Config{
		Client: api.client, NodeName: o.Node.NodeName, NodeIPs: addrs(o.Node.NodeIPs), Mode: proxy.Mode(o.Node.ProxyMode),
		ClusterCIDRs: clusterCIDRs, HealthzAddress: off(o.Node.ProxyHealthz), MetricsAddress: off(o.Node.ProxyMetrics),
		IPVS:         proxy.IPVSConfig{Scheduler: o.Node.IPVSScheduler, StrictARP: o.Node.IPVSStrictARP},
		PodAddresses: addrs(o.Node.ClusterDNS),
		Logger:       log.With("part", "proxy"),
	}
}

func (o *agentOptions) agentConfig(log *slog.Logger, dir datadir.Dir, rt *nodeRuntime, api *nodeAPI) agent.Config {
	taints, _ := parseTaints(o.Node.NodeTaints) // checked by complete
	healthz := o.Node.HealthzPort
	if healthz == 0 {
		healthz = -1
	}
	address, _ := netip.ParseAddr(o.Node.KubeletAddress)
	notifier := systemd.NewNotifier(log)
	cfg := agent.Config{
		Logger: log.With("part", "agent"), Runtime: rt.runtime, Client: api.client, RESTConfig: api.config,
		NodeName: o.Node.NodeName, NodeIPs: addrs(o.Node.NodeIPs), Version: version.Git(),
		RootDir: o.Node.RootDir, PodLogsDir: o.Node.PodLogsDir, StateDir: dir.Agent(),
		CgroupRoot: o.Node.CgroupRoot, CgroupDriver: o.Node.CgroupDriver,
		ClusterDNS: addrs(o.Node.ClusterDNS), ClusterDomain: o.Node.ClusterDomain, ResolverConfig: o.Node.ResolvConf,
		StaticPodPath: o.Node.StaticPods, Address: address, Port: o.Node.KubeletPort, HealthzPort: healthz,
		ServerTLSBootstrap: true, ClientCAFile: api.clientCAFile, MaxPods: o.Node.MaxPods,
		NodeLabels: o.Node.NodeLabels, RegisterWithTaints: taints, Collectors: api.collectors,
		OnPodCIDRs: rt.setPodCIDRs, NetworkChanged: rt.networkChanged,
		OnReady: func() {
			log.Info("Node is ready", logkey.Node, o.Node.NodeName)
			supervise.NotifyReady()
			notifier.Ready("node is ready")
		},
	}
	o.Node.Resources.apply(&cfg)
	return cfg
}
