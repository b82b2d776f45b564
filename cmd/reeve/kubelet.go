package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	v1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"

	"github.com/reevehq/reeve/agent"
	"github.com/reevehq/reeve/agent/bootstrap"
	"github.com/reevehq/reeve/internal/cgroup"
	"github.com/reevehq/reeve/internal/containerd"
	"github.com/reevehq/reeve/internal/datadir"
	"github.com/reevehq/reeve/internal/dropin"
	"github.com/reevehq/reeve/internal/dropin/kubeletconfig"
	"github.com/reevehq/reeve/internal/logkey"
	"github.com/reevehq/reeve/internal/version"
	"github.com/reevehq/reeve/systemd"
)

// kubeletCommand is what runs under the name kubelet: the agent alone, with upstream's flags and configuration. No proxy,
// no DNS and no network of reeve's own.
func kubeletCommand() *cobra.Command {
	return upstreamCommand("kubelet", "Run this host as a node, as upstream's kubelet would: reeve's agent alone",
		"Run this host as a node, as upstream's kubelet would: reeve's agent alone, without proxy, DNS and network, configured\n"+
			"by kubelet's flags and by KubeletConfiguration files. What it does not implement it names at start. Stopping it\n"+
			"leaves the pods running; the next start takes them over.", kubeletconfig.Flags, runKubelet)
}

// upstreamCommand is a command that stands in for a program of upstream's, with that one's flags.
func upstreamCommand(name, short, long string, list []dropin.Flag, run func(context.Context, *dropin.Flags) error) *cobra.Command {
	var flags *dropin.Flags
	cmd := &cobra.Command{
		Use: name, Short: short, Long: long, Args: noArguments, SilenceErrors: true, SilenceUsage: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if flags.Given("version") {
				return printUpstreamVersion(flags.Value("version"))
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			return run(ctx, flags)
		},
	}
	flags = dropin.NewFlags(cmd.Flags(), list)
	cmd.Flags().Lookup("version").NoOptDefVal = "true"
	cmd.CompletionOptions.DisableDefaultCmd = true
	cmd.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return badConfig(fmt.Errorf("%w; see %s --help", err, cmd.CommandPath()))
	})
	return cmd
}

// noArguments refuses arguments that are no flags.
func noArguments(cmd *cobra.Command, args []string) error { return badConfig(cobra.NoArgs(cmd, args)) }

// printUpstreamVersion answers --version as the programs of Kubernetes do.
func printUpstreamVersion(how string) error {
	switch how {
	case "true":
		fmt.Println("Kubernetes " + version.Git())
	case "raw":
		fmt.Printf("reeve %s, built %s\n", version.Git(), version.BuildDate())
	case "false":
	default:
		return badConfig(fmt.Errorf("--version=%q is unknown; use true or raw", how))
	}
	return nil
}

func runKubelet(ctx context.Context, flags *dropin.Flags) error {
	c, err := kubeletconfig.Load(flags)
	if err != nil {
		return badConfig(err)
	}
	log, err := upstreamLogger(c.Logging.Format, uint32(c.Logging.Verbosity))
	if err != nil {
		return badConfig(err)
	}
	tellUnsupported(log, c.Missing, c.Deprecated)
	if err := errors.Join(needRoot("kubelet"), needClock(time.Now())); err != nil {
		return err
	}
	if err := errors.Join(checkCgroupV1(log, c.FailCgroupV1), checkSwap(log, c.FailSwapOn)); err != nil {
		return badConfig(err)
	}
	dir, err := datadir.Open(flags.Value("data-dir"))
	if err != nil {
		return badConfig(err)
	}
	k := &kubeletRun{flags: flags, cfg: c, log: log, dir: dir}
	if err := k.complete(); err != nil {
		return badConfig(err)
	}
	release, err := takeNode(dir, func() error { return agentPreflight(&k.node) })
	if err != nil {
		return err
	}
	defer release()
	if err := k.pickRuntime(ctx); err != nil {
		return err
	}
	if err := instanceOf(&k.node).write(dir); err != nil {
		return err
	}
	debug.SetGCPercent(gcPercent)
	klog.SetSlogLogger(log)
	setOOMScore(log, *c.OOMScoreAdj)
	return startNode(ctx, log, dir, nodePlan{node: &k.node, join: k.join, agent: k.agentConfig})
}

// upstreamLogger logs as KubeletConfiguration's and KubeProxyConfiguration's logging says: verbosity 4 is where Kubernetes'
// components begin to debug.
func upstreamLogger(format string, verbosity uint32) (*slog.Logger, error) {
	o := logOptions{Level: "info", Format: format}
	if verbosity >= 4 {
		o.Level = "debug"
	}
	return o.logger()
}

// tellUnsupported names, once, everything that was asked for and is not done.
func tellUnsupported(log *slog.Logger, missing []dropin.Finding, deprecated []string) {
	for _, d := range deprecated {
		log.Warn("Deprecated flag", "flag", d)
	}
	for _, f := range missing {
		log.Warn("Not implemented by reeve, and ignored", "setting", f.Path, "value", f.Value, "note", f.Note)
	}
}

// checkCgroupV1: upstream refuses cgroup v1 unless it is told not to; here it works, so only an explicit true refuses.
func checkCgroupV1(log *slog.Logger, fail *bool) error {
	host, err := cgroup.Detect()
	if err != nil || len(host.V1) == 0 {
		return err
	}
	if fail == nil {
		log.Warn("This host has cgroup v1, which upstream's kubelet refuses by default; set failCgroupV1 to true to refuse it here too, to false to silence this")
		return nil
	}
	if *fail {
		return errors.New("failCgroupV1 is true, and this host has cgroup v1: boot it with cgroup v2 (systemd.unified_cgroup_hierarchy=1), or set failCgroupV1: false")
	}
	return nil
}

// checkSwap: upstream refuses swap unless it is told not to; here only an explicit true does.
func checkSwap(log *slog.Logger, fail *bool) error {
	b, err := os.ReadFile("/proc/swaps")
	if err != nil || strings.Count(strings.TrimSpace(string(b)), "\n") == 0 {
		return nil // a kernel without swap has no such file
	}
	if fail == nil {
		log.Warn("Swap is on, which upstream's kubelet refuses by default: pods' memory may be swapped; set failSwapOn to true to refuse it here too, to false to silence this")
		return nil
	}
	if *fail {
		return errors.New("failSwapOn is true, and swap is on: turn it off (swapoff -a), or set failSwapOn: false")
	}
	return nil
}

// setOOMScore makes the kernel spare this process, as far as it may ask for that.
func setOOMScore(log *slog.Logger, score int32) {
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte(fmt.Sprint(score)), 0); err != nil {
		log.Debug("Could not set oomScoreAdj", "value", score, "err", err)
	}
}

// kubeletRun is one start under the name kubelet.
type kubeletRun struct {
	flags *dropin.Flags
	cfg   *kubeletconfig.Loaded
	log   *slog.Logger
	dir   datadir.Dir
	node  nodeOptions
	// taints are the configuration's and those that flags ask for.
	taints []v1.Taint
}

func (k *kubeletRun) standalone() bool { return k.flags.Value("kubeconfig") == "" }

// complete makes the node's options out of flags and configuration, and reports every value that cannot work.
func (k *kubeletRun) complete() error {
	if k.standalone() && k.flags.Value("bootstrap-kubeconfig") != "" {
		return errors.New("--bootstrap-kubeconfig needs --kubeconfig, the file to write the node's own credential to")
	}
	if !k.standalone() {
		if err := bootstrap.CheckKubeconfigs(k.flags.Value("kubeconfig"), k.flags.Value("bootstrap-kubeconfig")); err != nil {
			return err
		}
	}
	// What no flag here sets keeps reeve's own default.
	defaults := pflag.NewFlagSet("", pflag.ContinueOnError)
	k.node.addFlags(defaults, networkCNI)
	c, f := k.cfg, k.flags
	n := &k.node
	n.NodeName = strings.ToLower(strings.TrimSpace(f.Value("hostname-override")))
	n.RootDir, n.PodLogsDir, n.StaticPods = f.Value("root-dir"), c.PodLogsDir, c.StaticPodPath
	n.CgroupRoot, n.CgroupDriver = c.CgroupRoot, c.CgroupDriver
	n.ProxyMode, n.CNIConfDir = "none", f.Value("cni-conf-dir")
	if f.Given("cni-bin-dir") {
		n.CNIBinDirs = f.List("cni-bin-dir")
	}
	n.KubeletAddress, n.KubeletPort, n.HealthzPort = c.Address, int(c.Port), int(*c.HealthzPort)
	n.MaxPods, n.NodeLabels = int(c.MaxPods), f.StringMap("node-labels")
	var err error
	if n.NodeIPs, err = nodeIPs(f.Value("node-ip"), k.standalone()); err != nil {
		return err
	}
	if err := n.complete(k.dir.Agent()); err != nil {
		return err
	}
	n.StaticPods, n.ClusterDNS, n.ClusterDomain = c.StaticPodPath, c.ClusterDNS, c.ClusterDomain
	return k.completeTaints()
}

func (k *kubeletRun) completeTaints() error {
	fromFlag, err := parseTaints(k.flags.List("register-with-taints"))
	k.taints = append(append(k.taints, k.cfg.RegisterWithTaints...), fromFlag...)
	switch k.flags.Value("cloud-provider") {
	case "":
	case "external":
		k.taints = append(k.taints, v1.Taint{Key: "node.cloudprovider.kubernetes.io/uninitialized", Value: "true", Effect: v1.TaintEffectNoSchedule})
	default:
		err = errors.Join(err, fmt.Errorf("--cloud-provider %q: only external is there, as upstream", k.flags.Value("cloud-provider")))
	}
	if k.flags.Given("register-schedulable") && !k.flags.Bool("register-schedulable") {
		k.taints = append(k.taints, v1.Taint{Key: v1.TaintNodeUnschedulable, Effect: v1.TaintEffectNoSchedule})
	}
	return err
}

// nodeIPs reads --node-ip: addresses, or 0.0.0.0 or :: for the host's own of that family. A standalone node needs none.
func nodeIPs(value string, standalone bool) ([]string, error) {
	if value == "" {
		if ip, err := defaultAddress(); err == nil {
			return []string{ip.String()}, nil
		} else if standalone {
			return []string{"127.0.0.1"}, nil
		}
		return nil, nil // complete says what is wrong
	}
	var out []string
	for s := range strings.SplitSeq(value, ",") {
		ip, err := netip.ParseAddr(strings.TrimSpace(s))
		if err != nil {
			return nil, fmt.Errorf("--node-ip %q is not an IP address", s)
		}
		if ip.IsUnspecified() {
			if ip, err = defaultAddressOf(ip.Is6()); err != nil {
				return nil, fmt.Errorf("--node-ip %q: %w", s, err)
			}
		}
		out = append(out, ip.String())
	}
	return out, nil
}

// join finds or gets the node's credential; standalone there is none.
func (k *kubeletRun) join(ctx context.Context) (*nodeAPI, error) {
	api := &nodeAPI{}
	if k.standalone() {
		k.log.Info("Running without an API server: static pods only (--kubeconfig is not given)")
		return api, nil
	}
	credential, err := bootstrap.FromKubeconfig(ctx, bootstrap.KubeconfigConfig{
		Kubeconfig: k.flags.Value("kubeconfig"), Bootstrap: k.flags.Value("bootstrap-kubeconfig"), CertDir: k.flags.Value("cert-dir"),
		Rotate: k.cfg.RotateCertificates, NodeName: k.node.NodeName, Logger: k.log.With("part", "join"),
	})
	if errors.Is(err, bootstrap.ErrKubeconfig) {
		return nil, badConfig(err)
	}
	if err != nil {
		return nil, err
	}
	api.use(credential)
	return api, api.connect(float32(*k.cfg.KubeAPIQPS), int(k.cfg.KubeAPIBurst), k.cfg.ContentType)
}

// runtimeCheck bounds finding out what serves containerRuntimeEndpoint.
const runtimeCheck = 20 * time.Second

// pickRuntime decides once what runs the containers: a CRI socket is used as it is, so that pods which another kubelet
// started there go on; on a containerd whose CRI plugin is off, the native runtime runs. What an earlier start decided
// stands, because its pods are there.
func (k *kubeletRun) pickRuntime(ctx context.Context) error {
	endpoint := k.cfg.ContainerRuntimeEndpoint
	path := strings.TrimPrefix(endpoint, "unix://")
	if endpoint == "" {
		path = containerd.DefaultAddress
		if _, err := os.Stat(path); err != nil {
			return nil // a private containerd
		}
	}
	before, ran, err := readInstance(k.dir)
	if err != nil {
		return err
	}
	if ran && before.RemoteCRI == "" && (before.Containerd == path || endpoint == "" && before.Containerd == "") {
		k.node.ContainerdAddress = before.Containerd
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, runtimeCheck)
	defer cancel()
	driver, err := askCRI(ctx, path)
	switch {
	case err == nil:
		k.node.RuntimeEndpoint = "unix://" + path
		if driver != "" && driver != k.node.CgroupDriver {
			if k.cfg.CgroupDriver != "" {
				k.log.Warn("The container runtime's cgroup driver is used, not cgroupDriver", "runtime", driver, "cgroupDriver", k.cfg.CgroupDriver)
			}
			k.node.CgroupDriver = driver
		} else if k.cfg.CgroupDriver == "" {
			k.node.CgroupDriver = "cgroupfs" // upstream's default, where the runtime does not tell
		}
		k.log.Info("Using the container runtime's CRI socket", "endpoint", k.node.RuntimeEndpoint, "cgroupDriver", k.node.CgroupDriver)
	case isNoCRI(err):
		k.node.ContainerdAddress = path
		k.log.Info("Using containerd with reeve's own runtime: its CRI plugin is off", "address", path)
	default:
		return fmt.Errorf("containerRuntimeEndpoint %q does not answer: %w", "unix://"+path, err)
	}
	return nil
}

// agentConfig is the agent's configuration.
func (k *kubeletRun) agentConfig(rt *nodeRuntime, api *nodeAPI) agent.Config {
	cfg := kubeletAgent(k.cfg, &k.node)
	notifier := systemd.NewNotifier(k.log)
	cfg.Logger, cfg.Runtime, cfg.Client, cfg.RESTConfig = k.log.With("part", "agent"), rt.runtime, api.client, api.config
	cfg.StateDir, cfg.CertDir, cfg.Version = k.dir.Agent(), k.flags.Value("cert-dir"), version.Git()
	cfg.RegisterWithTaints, cfg.Collectors = k.taints, api.collectors
	cfg.OnPodCIDRs, cfg.NetworkChanged = rt.setPodCIDRs, rt.networkChanged
	cfg.OnReady = func() {
		k.log.Info("Node is ready", logkey.Node, k.node.NodeName)
		notifier.Ready("node is ready")
	}
	return cfg
}

// startedAs is the name that the program was started by: a link's, or a copy's.
func startedAs() string { return filepath.Base(os.Args[0]) }
