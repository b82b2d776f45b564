package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/reevehq/reeve/cni"
	"github.com/reevehq/reeve/cri"
	"github.com/reevehq/reeve/dns"
	"github.com/reevehq/reeve/internal/cgroup"
	"github.com/reevehq/reeve/internal/datadir"
	"github.com/reevehq/reeve/internal/logpump"
	"github.com/reevehq/reeve/proxy"
	"github.com/reevehq/reeve/systemd"
)

// sandboxTimeout bounds stopping and removing one pod's sandbox and containers.
const sandboxTimeout = 30 * time.Second

// removeNode removes what a node agent made. The recorded instance says where.
func removeNode(ctx context.Context, log *slog.Logger, dir datadir.Dir, inst instance, what cleaning) error {
	ownsServiceRules, err := inst.ownsServiceRules(what.serviceRules)
	if err != nil {
		return badConfig(err)
	}
	o := &nodeOptions{
		RootDir: inst.RootDir, PodLogsDir: inst.PodLogsDir, CgroupRoot: inst.CgroupRoot, CgroupDriver: inst.CgroupDriver,
		ContainerdAddress: inst.Containerd, Network: inst.Network, CNIConfDir: inst.CNIConfDir, CNIBinDirs: inst.CNIBinDirs,
		ClusterCIDR: inst.ClusterCIDR, RuntimeEndpoint: inst.RemoteCRI, RuntimeHandler: "runc",
		CRISocket: filepath.Join(dir.Agent(), "cri.sock"), RegistryHosts: "/etc/containerd/certs.d",
	}
	var all error
	try := func(what string, err error) {
		if err != nil {
			all = errors.Join(all, fmt.Errorf("%s: %w", what, err))
		}
	}
	rt, err := openRuntime(ctx, log, dir, o)
	if err != nil {
		return fmt.Errorf("reach the container runtime to remove the pods: %w", err)
	}
	try("remove the pods", removePods(ctx, rt.runtime))
	rt.close(log)
	try("stop the log writer", (&logpump.Supervisor{Dir: dir.Logpump(), Logger: log}).Stop(ctx))
	if rt.containerd != nil && rt.containerd.Private() {
		try("stop the private containerd", rt.containerd.Stop(ctx))
		// containerd's shims make these wherever its state lies; they go when nobody else's shims use them.
		for _, folder := range []string{"s", "runc/k8s.io", "runc/reeve", "runc", "."} {
			os.Remove(filepath.Join("/run/containerd", folder))
		}
	}

	if ownsServiceRules {
		try("remove the Service rules", proxy.Cleanup(ctx, proxy.CleanupConfig{}))
	}
	try("remove the cluster DNS address", dns.Cleanup(addrs(inst.ClusterDNS)))
	if inst.Network == networkBuiltin {
		cfg, err := builtinConfig(log, dir, inst.ClusterCIDR)
		if err == nil {
			var b *cni.Builtin
			if b, err = cni.NewBuiltin(cfg); err == nil {
				err = b.Cleanup(ctx)
			}
		}
		try("remove the pod network", err)
	}
	try("unmount", unmountBelow(append(inst.podFolders(), dir.Root())...))
	try("remove cgroups", removeCgroups(ctx, dir, inst))
	if all != nil {
		return all
	}
	try("remove the pods' files", removePodFiles(inst))
	return all
}

// removePods stops and removes every sandbox with its containers.
func removePods(ctx context.Context, rt cri.Runtime) error {
	list, err := rt.ListPodSandbox(ctx, &runtimeapi.PodSandboxFilter{})
	if err != nil {
		return err
	}
	errs := make(chan error)
	for _, s := range list {
		go func() {
			ctx, cancel := context.WithTimeout(ctx, sandboxTimeout)
			defer cancel()
			err := rt.StopPodSandbox(ctx, s.Id)
			if err == nil {
				err = rt.RemovePodSandbox(ctx, s.Id)
			}
			if err != nil {
				err = fmt.Errorf("remove sandbox %q of pod %s/%s: %w", s.Id, s.Metadata.GetNamespace(), s.Metadata.GetName(), err)
			}
			errs <- err
		}()
	}
	var all error
	for range list {
		all = errors.Join(all, <-errs)
	}
	return all
}

// removeCgroups removes the pods' tree and the helpers' cgroups. The root itself goes when it was ours alone: it is not
// the hierarchy's root and is empty.
func removeCgroups(ctx context.Context, dir datadir.Dir, inst instance) error {
	host, err := cgroup.Detect()
	if errors.Is(err, cgroup.ErrNone) {
		return nil
	}
	if err != nil {
		return err
	}
	pods := filepath.Join(inst.CgroupRoot, "kubepods")
	if inst.CgroupDriver == "systemd" {
		pods += ".slice"
		if systemd.Running() && pods == "/kubepods.slice" {
			var all systemd.Slices
			defer all.Close()
			if err := all.Stop(ctx, "kubepods.slice"); err != nil {
				return err
			}
		}
	}
	err = errors.Join(host.Remove(pods), host.Remove(filepath.Join(inst.CgroupRoot, instanceID(dir))))
	if err == nil && filepath.Clean(inst.CgroupRoot) != "/" {
		for _, mount := range append(hierarchies(host), host.V2) {
			if mount != "" {
				os.Remove(filepath.Join(mount, inst.CgroupRoot)) // stays where others use it
			}
		}
	}
	return err
}

func hierarchies(host *cgroup.Host) []string {
	var out []string
	for _, mount := range host.V1 {
		out = append(out, mount)
	}
	return out
}

// removePodFiles removes pods' folders and logs, and the folders themselves when nothing else lies in them. Nothing may
// be mounted there any more.
func removePodFiles(inst instance) error {
	if inst.RootDir == "" {
		return nil // the runtime alone: pods' files are its callers'
	}
	left, err := mountsBelow(inst.podFolders()...)
	if err != nil {
		return err
	}
	if len(left) > 0 {
		return fmt.Errorf("still mounted: %v", left)
	}
	logs, err := filepath.Glob(filepath.Join(inst.PodLogsDir, "*_*_*"))
	if err != nil {
		return err
	}
	err = os.RemoveAll(filepath.Join(inst.RootDir, "pods"))
	for _, folder := range logs {
		err = errors.Join(err, os.RemoveAll(folder))
	}
	err = errors.Join(err, removeLogLinks(inst.PodLogsDir))
	os.Remove(inst.RootDir) // fails where something of others lies in it, which is meant
	os.Remove(inst.PodLogsDir)
	return err
}

// removeLogLinks removes the links in the folder "containers" beside the pods' logs that led to one of them, and the
// folder when nothing else lies in it.
func removeLogLinks(podLogs string) error {
	folder := filepath.Join(filepath.Dir(podLogs), "containers")
	links, err := filepath.Glob(filepath.Join(folder, "*.log"))
	if err != nil {
		return err
	}
	for _, link := range links {
		if target, readErr := os.Readlink(link); readErr == nil && strings.HasPrefix(target, podLogs+"/") {
			err = errors.Join(err, os.Remove(link))
		}
	}
	os.Remove(folder) // fails where something of others lies in it, which is meant
	return err
}
