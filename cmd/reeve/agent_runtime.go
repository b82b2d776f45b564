package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"path"
	"path/filepath"
	"time"

	"github.com/reevehq/reeve/cni"
	"github.com/reevehq/reeve/cri"
	"github.com/reevehq/reeve/cri/native"
	"github.com/reevehq/reeve/cri/remote"
	"github.com/reevehq/reeve/cri/server"
	"github.com/reevehq/reeve/internal/cgroup"
	"github.com/reevehq/reeve/internal/containerd"
	"github.com/reevehq/reeve/internal/datadir"
	"github.com/reevehq/reeve/internal/logkey"
	"github.com/reevehq/reeve/internal/logpump"
	"github.com/reevehq/reeve/systemd"
)

const (
	// rulesPeriod is how often flushed rules of the built-in network are looked for.
	rulesPeriod = 30 * time.Second
	// closeTimeout bounds letting go of the runtime at the end: nothing is stopped, only connections are closed.
	closeTimeout = 5 * time.Second
	// abandonTimeout bounds stopping the helpers of a node that cannot join.
	abandonTimeout = 30 * time.Second
	// startTimeout bounds finding or starting containerd and the runtime's recovery.
	startTimeout = 3 * time.Minute
)

// nodeRuntime is the container runtime of a node and what belongs to it. The fields that a remote runtime does not have
// are nil.
type nodeRuntime struct {
	runtime    cri.Runtime
	containerd *containerd.Instance
	builtin    *cni.Builtin
	conflist   *cni.Conflist
	criSocket  string

	// networkChanged wakes the agent's look at the network condition.
	networkChanged chan struct{}
	log            *slog.Logger
}

// openRuntime connects to the CRI socket of the user's choice, or finds or starts containerd and opens the native
// runtime on it.
func openRuntime(ctx context.Context, log *slog.Logger, dir datadir.Dir, o *nodeOptions) (_ *nodeRuntime, err error) {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	rt := &nodeRuntime{networkChanged: make(chan struct{}, 1), log: log}
	if o.RuntimeEndpoint != "" {
		rt.runtime, err = remote.New(ctx, o.RuntimeEndpoint)
		if err != nil {
			return nil, fmt.Errorf("use --container-runtime-endpoint: %w", err)
		}
		return rt, nil
	}
	defer func() {
		if err != nil {
			rt.close(log)
		}
	}()
	network, err := rt.openNetwork(dir, o)
	if err != nil {
		return nil, err
	}
	rt.containerd, err = containerd.Ensure(ctx, containerdConfig(log, dir, o))
	if err != nil {
		return nil, err
	}
	rt.runtime, err = native.New(ctx, nativeConfig(log, dir, o, rt.containerd.Address(), network))
	if err != nil {
		return nil, err
	}
	rt.criSocket = o.CRISocket
	return rt, nil
}

func (rt *nodeRuntime) openNetwork(dir datadir.Dir, o *nodeOptions) (native.Network, error) {
	var err error
	if o.Network == networkCNI {
		cfg := conflistConfig(rt.log, dir, o)
		cfg.Changed = rt.wakeNetwork
		rt.conflist, err = cni.NewConflist(cfg)
		return rt.conflist, err
	}
	cfg, err := builtinConfig(rt.log, dir, o.ClusterCIDR)
	if err != nil {
		return nil, err
	}
	rt.builtin, err = cni.NewBuiltin(cfg)
	return rt.builtin, err
}

func conflistConfig(log *slog.Logger, dir datadir.Dir, o *nodeOptions) cni.ConflistConfig {
	return cni.ConflistConfig{
		ConfDir: o.CNIConfDir, BinDirs: o.CNIBinDirs, CacheDir: filepath.Join(dir.Agent(), "cni"),
		NetNSDir: filepath.Join(dir.Agent(), "netns"), Logger: log.With("part", "cni"),
	}
}

func builtinConfig(log *slog.Logger, dir datadir.Dir, clusterCIDR string) (cni.BuiltinConfig, error) {
	ranges, err := prefixes("--cluster-cidr", clusterCIDR)
	return cni.BuiltinConfig{
		StateDir: filepath.Join(dir.Agent(), "network"), NetNSDir: filepath.Join(dir.Agent(), "netns"),
		ClusterCIDRs: ranges, Logger: log.With("part", "cni"),
	}, err
}

func containerdConfig(log *slog.Logger, dir datadir.Dir, o *nodeOptions) containerd.Config {
	return containerd.Config{
		Address: o.ContainerdAddress, Dir: dir.Containerd(), Detach: detach(dir, o.CgroupRoot, "containerd"), Logger: log.With("part", "containerd"),
	}
}

func nativeConfig(log *slog.Logger, dir datadir.Dir, o *nodeOptions, address string, network native.Network) native.Config {
	handlers := map[string]native.Handler{"crun": {Binary: "crun"}}
	if _, known := handlers[o.RuntimeHandler]; !known && o.RuntimeHandler != "runc" && o.RuntimeHandler != "" {
		handlers[o.RuntimeHandler] = native.Handler{Type: o.RuntimeHandler}
	}
	return native.Config{
		Address: address, StateDir: filepath.Join(dir.Root(), "cri"), LogpumpDir: dir.Logpump(), DetachLogpump: detach(dir, o.CgroupRoot, "logpump"),
		Network: network, CgroupDriver: o.CgroupDriver, CgroupRoot: o.CgroupRoot, Handlers: handlers, DefaultHandler: o.RuntimeHandler,
		ImageDir: filepath.Join(dir.Agent(), "images"), RegistryDir: o.RegistryHosts, CDIDirs: o.CDISpecDirs,
		Logger: log.With("part", "cri"),
	}
}

// instanceID tells the instances of one host apart in the names of cgroups and scopes.
func instanceID(dir datadir.Dir) string {
	sum := sha256.Sum256([]byte(dir.Root()))
	return "reeve-" + hex.EncodeToString(sum[:4])
}

// helperCgroup is the cgroup of a helper that outlives the agent.
func helperCgroup(dir datadir.Dir, root, name string) string {
	return path.Join(root, instanceID(dir), name)
}

// detach moves a helper out of the agent's cgroup, so that nothing that ends the agent's ends it: into a transient scope
// under systemd, else into a cgroup of its own.
func detach(dir datadir.Dir, root, name string) func(pid int) error {
	return func(pid int) error {
		if systemd.Running() {
			return systemd.StartScope(context.Background(), systemd.Scope{
				Name: instanceID(dir) + "-" + name + ".scope", Description: "reeve's " + name + " of " + dir.Root(),
				PIDs: []uint32{uint32(pid)}, Delegate: true,
			})
		}
		host, err := cgroup.Detect()
		if err != nil {
			return err
		}
		return host.Join(helperCgroup(dir, root, name), pid)
	}
}

// setPodCIDRs tells the built-in network the node's ranges; other networks have their own ways.
func (rt *nodeRuntime) setPodCIDRs(ranges []netip.Prefix) {
	if rt.builtin == nil {
		return
	}
	if err := rt.builtin.SetPodCIDRs(ranges); err != nil {
		// Status keeps saying so, and the Node is not Ready.
		rt.log.Error("Failed to set up the pod network", "podCIDRs", ranges, logkey.Err, err)
	}
	rt.wakeNetwork()
}

// wakeNetwork makes the agent look at the network condition now.
func (rt *nodeRuntime) wakeNetwork() {
	select {
	case rt.networkChanged <- struct{}{}:
	default:
	}
}

// run adds the runtime's own loops.
func (rt *nodeRuntime) run(part func(name string, f func(context.Context) error)) {
	if rt.containerd != nil {
		part("containerd", rt.containerd.Run)
	}
	if rt.builtin != nil {
		part("pod network", func(ctx context.Context) error {
			if err := rt.builtin.Run(ctx, rulesPeriod); !errors.Is(err, context.Canceled) {
				return err
			}
			return nil
		})
	}
	if rt.criSocket != "" {
		part("CRI server", func(ctx context.Context) error {
			return server.Run(ctx, rt.runtime, rt.criSocket, rt.log.With("part", "cri"))
		})
	}
}

// abandon stops what openRuntime started, for a node that cannot join: a runtime with pods is left alone.
func (rt *nodeRuntime) abandon(dir datadir.Dir, cgroupRoot string) error {
	if rt.containerd == nil || !rt.containerd.Private() {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), abandonTimeout)
	defer cancel()
	pods, err := rt.runtime.ListPodSandbox(ctx, nil)
	if err != nil || len(pods) > 0 {
		return err
	}
	rt.close(rt.log)
	err = errors.Join((&logpump.Supervisor{Dir: dir.Logpump(), Logger: rt.log}).Stop(ctx), rt.containerd.Stop(ctx))
	if host, detectErr := cgroup.Detect(); err == nil && detectErr == nil {
		err = host.Remove(path.Join(cgroupRoot, instanceID(dir)))
	}
	return err
}

// close lets go of the runtime. Nothing is stopped. It may be repeated.
func (rt *nodeRuntime) close(log *slog.Logger) {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	var err error
	if rt.runtime != nil {
		err = rt.runtime.Close(ctx)
		rt.runtime = nil
	}
	if rt.conflist != nil {
		err = errors.Join(err, rt.conflist.Close())
		rt.conflist = nil
	}
	if err != nil {
		log.Warn("Could not close the runtime's connections", logkey.Err, err)
	}
}
