package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/reevehq/reeve/internal/datadir"
	"github.com/reevehq/reeve/internal/rolebin"
	"github.com/reevehq/reeve/internal/supervise"
	"github.com/reevehq/reeve/systemd"
)

// serverOptions are the flags of `reeve server` beside the node's.
type serverOptions struct {
	DataDir string
	Config  string
	Log     logOptions

	BindAddress      string
	Port             int
	AdvertiseAddress string
	TLSSANs          []string
	EtcdServers      []string
	EtcdCAFile       string
	EtcdCertFile     string
	EtcdKeyFile      string
	DisableAgent     bool
	SigningDuration  time.Duration

	Node nodeOptions
}

func (o *serverOptions) addFlags(f *pflag.FlagSet) {
	f.StringVar(&o.DataDir, "data-dir", datadir.Default, "folder of all state")
	f.StringVar(&o.Config, "config", "", "YAML file with this command's flags as keys; the command line wins")
	o.Log.addFlags(f)
	f.StringVar(&o.BindAddress, "bind-address", "0.0.0.0", "address the API server listens on")
	f.IntVar(&o.Port, "https-listen-port", 6443, "port of the API server")
	f.StringVar(&o.AdvertiseAddress, "advertise-address", "", "address at which nodes and pods reach the API server (default: --node-ip)")
	f.StringSliceVar(&o.TLSSANs, "tls-san", nil, "further names and addresses in the API server's certificate")
	f.StringSliceVar(&o.EtcdServers, "etcd-servers", nil, "use this etcd in place of the embedded one, URL,…")
	f.StringVar(&o.EtcdCAFile, "etcd-cafile", "", "CA of --etcd-servers")
	f.StringVar(&o.EtcdCertFile, "etcd-certfile", "", "client certificate for --etcd-servers")
	f.StringVar(&o.EtcdKeyFile, "etcd-keyfile", "", "key of --etcd-certfile")
	f.DurationVar(&o.SigningDuration, "cluster-signing-duration", 365*24*time.Hour, "how long certificates that are signed for nodes and users hold, at most")
	f.BoolVar(&o.DisableAgent, "disable-agent", false, "run the control plane alone, no node")
	o.Node.addFlags(f, networkBuiltin)
}

// ownFlags are not handed on to the agent: they are the supervisor's or the control plane's.
var ownFlags = map[string]bool{
	"config": true, "bind-address": true, "https-listen-port": true, "advertise-address": true, "tls-san": true,
	"etcd-servers": true, "etcd-cafile": true, "etcd-certfile": true, "etcd-keyfile": true, "disable-agent": true, "cluster-signing-duration": true, "help": true,
}

func serverCommand() *cobra.Command {
	var o serverOptions
	cmd := &cobra.Command{
		Use:   "server",
		Short: "Run the control plane and this host's node agent",
		Long: "Run the control plane (embedded etcd, API server, scheduler, controllers) and this host's node agent (pods,\n" +
			"Service proxy, cluster DNS), each in a process of its own that is started again when it ends. Stopping it leaves\n" +
			"the pods running; the next start takes them over.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			if o.Config != "" {
				if err := loadConfigFile(cmd.Flags(), o.Config); err != nil {
					return badConfig(err)
				}
			}
			return runServer(ctx, &o, cmd.Flags())
		},
	}
	o.addFlags(cmd.Flags())
	return cmd
}

// handOver bounds the wait for children of a killed supervisor: their life line has closed, so they are on their way out.
const handOver = supervise.StopTimeout + 10*time.Second

func runServer(ctx context.Context, o *serverOptions, flags *pflag.FlagSet) error {
	log, err := o.Log.logger()
	if err != nil {
		return badConfig(err)
	}
	if err := needRoot("reeve server"); err != nil {
		return err
	}
	if err := needClock(time.Now()); err != nil {
		return err
	}
	dir, err := datadir.Open(o.DataDir)
	if err != nil {
		return badConfig(err)
	}
	if err := o.Node.complete(dir.Agent()); err != nil {
		return badConfig(err)
	}
	if o.AdvertiseAddress == "" {
		o.AdvertiseAddress = o.Node.NodeIPs[0]
	}
	for flag, s := range map[string]string{"--advertise-address": o.AdvertiseAddress, "--bind-address": o.BindAddress} {
		if _, err := netip.ParseAddr(s); err != nil {
			return badConfig(fmt.Errorf("%s %q is not an IP address", flag, s))
		}
	}
	release, err := dir.Hold("server")
	if err != nil {
		return badConfig(err)
	}
	defer release()
	if err := waitGone(ctx, dir, "controlplane", "agent"); err != nil {
		return err
	}
	if err := needPort("--https-listen-port", hostPort(o.BindAddress, o.Port)); err != nil {
		return err
	}
	if !o.DisableAgent {
		if err := agentPreflight(&o.Node); err != nil {
			return err
		}
	}
	if err := prepareData(dir, log); err != nil {
		return err
	}
	children, err := o.children(dir, flags, log)
	if err != nil {
		return err
	}
	notifier := systemd.NewNotifier(log)
	context.AfterFunc(ctx, func() { notifier.Stopping("leaving the pods running") })
	err = supervise.Run(ctx, log, children...)
	if errors.Is(err, supervise.ErrFatal) {
		return badConfig(fmt.Errorf("%w; its last message says why", err))
	}
	return err
}

// waitGone waits until no process holds any of the roles.
func waitGone(ctx context.Context, dir datadir.Dir, roles ...string) error {
	ctx, cancel := context.WithTimeout(ctx, handOver)
	defer cancel()
	for _, role := range roles {
		for {
			pid, held := dir.Holder(role)
			if !held {
				break
			}
			select {
			case <-ctx.Done():
				return fmt.Errorf("wait for the earlier %s (process %d) to end: %w", role, pid, ctx.Err())
			case <-time.After(20 * time.Millisecond):
			}
		}
	}
	return nil
}

// prepareData checks the data's version, takes a copy of etcd before an upgrade, and records this build.
func prepareData(dir datadir.Dir, log *slog.Logger) error {
	upgrade, err := dir.CheckStamp()
	if err != nil {
		return badConfig(err)
	}
	if upgrade {
		from, err := dir.ReadStamp()
		if err != nil {
			return err
		}
		backup, err := dir.BackupEtcd(from.Version, time.Now())
		if err != nil {
			return fmt.Errorf("copy etcd's data before the upgrade: %w", err)
		}
		if backup != "" {
			log.Info("Copied etcd's data before the upgrade; to go back, stop reeve, put the copy in the place of server/etcd and start the earlier version",
				"from", from.Version, "copy", backup)
		}
	}
	return dir.WriteStamp()
}

// children are the control plane and, unless it is turned off, the agent.
func (o *serverOptions) children(dir datadir.Dir, flags *pflag.FlagSet, log *slog.Logger) ([]supervise.Child, error) {
	program, err := rolebin.Unpack(dir.Bin(), rolebin.ControlPlane)
	if err != nil {
		return nil, err
	}
	fatal := func(code int) bool { return code == exitConfig }
	ready := readiness(log, o.DisableAgent)
	all := []supervise.Child{{
		Name: "controlplane", Path: program, Args: o.controlPlaneArgs(), Fatal: fatal,
		Ready: func() { ready("controlplane") },
	}}
	if o.DisableAgent {
		return all, nil
	}
	args := []string{"agent",
		"--server=https://" + hostPort(loopbackFor(o.BindAddress), o.Port), "--token-file=" + dir.NodeToken(),
		"--data-dir=" + o.DataDir, "--network=" + o.Node.Network, "--node-ip=" + strings.Join(o.Node.NodeIPs, ",")}
	flags.Visit(func(f *pflag.Flag) {
		if !ownFlags[f.Name] && f.Name != "data-dir" && f.Name != "network" && f.Name != "node-ip" {
			args = append(args, flagArgs(f)...)
		}
	})
	return append(all, supervise.Child{
		Name: "agent", Path: "/proc/self/exe", Args: args, Fatal: fatal,
		Ready: func() { ready("agent") },
	}), nil
}

// flagArgs writes a changed flag the way that it was given.
func flagArgs(f *pflag.Flag) []string {
	switch v := f.Value.(type) {
	case pflag.SliceValue:
		return []string{"--" + f.Name + "=" + strings.Join(v.GetSlice(), ",")}
	}
	if f.Value.Type() == "stringToString" {
		return []string{"--" + f.Name + "=" + strings.Trim(f.Value.String(), "[]")}
	}
	return []string{"--" + f.Name + "=" + f.Value.String()}
}

func (o *serverOptions) controlPlaneArgs() []string {
	args := []string{
		"--data-dir=" + o.DataDir,
		"--bind-address=" + o.BindAddress,
		"--https-listen-port=" + strconv.Itoa(o.Port),
		"--advertise-address=" + o.AdvertiseAddress,
		"--service-cluster-ip-range=" + o.Node.ServiceCIDR,
		"--service-node-port-range=" + o.Node.NodePorts,
		"--cluster-cidr=" + o.Node.ClusterCIDR,
		"--cluster-dns=" + strings.Join(o.Node.ClusterDNS, ","),
		"--cluster-domain=" + o.Node.ClusterDomain,
		"--log-level=" + o.Log.Level,
		"--log-format=" + o.Log.Format,
		"--cluster-signing-duration=" + o.SigningDuration.String(),
	}
	if !o.DisableAgent {
		args = append(args, "--local-node="+o.Node.NodeName)
	}
	for flag, v := range map[string]string{
		"--tls-san": strings.Join(o.TLSSANs, ","), "--etcd-servers": strings.Join(o.EtcdServers, ","),
		"--etcd-cafile": o.EtcdCAFile, "--etcd-certfile": o.EtcdCertFile, "--etcd-keyfile": o.EtcdKeyFile,
	} {
		if v != "" {
			args = append(args, flag+"="+v)
		}
	}
	return args
}

// loopbackFor is how a process on this host reaches a server that listens on bind.
func loopbackFor(bind string) string {
	a, err := netip.ParseAddr(bind)
	if err != nil || (a.IsUnspecified() && a.Is4()) {
		return "127.0.0.1"
	}
	if a.IsUnspecified() {
		return "::1"
	}
	return bind
}

// readiness tells systemd, once, when every child has said that it is ready.
func readiness(log *slog.Logger, controlPlaneOnly bool) func(child string) {
	var mu sync.Mutex
	waiting := map[string]bool{"controlplane": true}
	if !controlPlaneOnly {
		waiting["agent"] = true
	}
	began := time.Now()
	notifier := systemd.NewNotifier(log)
	notifier.Status("starting")
	return func(child string) {
		mu.Lock()
		defer mu.Unlock()
		if !waiting[child] {
			return
		}
		delete(waiting, child)
		if len(waiting) == 0 {
			log.Info("Became ready", "after", time.Since(began).Round(time.Millisecond))
			notifier.Ready("control plane and node are ready")
			return
		}
		if waiting["agent"] {
			notifier.Status("the control plane is ready; waiting for the node")
		}
	}
}
