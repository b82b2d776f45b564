package podruntime

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/reevehq/reeve/agent/container"
	"github.com/reevehq/reeve/agent/env"
	"github.com/reevehq/reeve/agent/podworker"
	"github.com/reevehq/reeve/agent/podworker/podspec"
	"github.com/reevehq/reeve/agent/podworker/podstate"
	"github.com/reevehq/reeve/internal/downward"
	"github.com/reevehq/reeve/internal/expansion"
	"github.com/reevehq/reeve/internal/logkey"
	"github.com/reevehq/reeve/volumes"
)

// configTimeout bounds the reading of ConfigMaps and Secrets for an environment.
const configTimeout = 10 * time.Second

func reason(name string, err error) error {
	return &podworker.Reason{Waiting: podworker.Waiting{Reason: name, Message: err.Error()}}
}

// StartContainer implements podworker.Runtime.
func (r *Runtime) StartContainer(ctx context.Context, pod *v1.Pod, state *podstate.Pod, s podworker.Start, img podworker.Image) (string, error) {
	c, kind := podspec.Find(&pod.Spec, s.Name)
	if c == nil {
		return "", fmt.Errorf("start container %q: the pod has none of that name", s.Name)
	}
	fail := func(why string, err error) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		r.event(pod, s.Name, v1.EventTypeWarning, "Failed", "Error: %v", err)
		return reason(why, err)
	}
	id := s.ResumeID
	if id == "" {
		cfg, err := r.containerConfig(ctx, pod, c, state, s, img)
		if err != nil {
			err = fail("CreateContainerConfigError", err)
			var why *podworker.Reason
			if errors.As(err, &why) {
				why.OnChange = true
			}
			return "", err
		}
		parent := ""
		if r.cfg.Cgroups != nil {
			parent = r.cfg.Cgroups.Parent(pod)
		}
		sb, _, err := r.sandboxConfig(pod, attemptOf(state, s.SandboxID), parent)
		if err != nil {
			return "", fail("CreateContainerConfigError", err)
		}
		if r.cfg.Cgroups != nil && s.RestartCount > 0 {
			// A restart may be the container's way to new resources.
			if err := r.cfg.Cgroups.EnsurePod(pod); err != nil {
				r.cfg.Logger.Warn("Failed to resize cgroup of pod", logkey.Pod, pod.Namespace+"/"+pod.Name, logkey.Err, err)
			}
		}
		cctx, cancel := context.WithTimeout(ctx, callTimeout)
		start := time.Now()
		id, err = r.cfg.CRI.CreateContainer(cctx, s.SandboxID, cfg, sb)
		r.metrics.op("create_container", start, err)
		cancel()
		if err != nil {
			return "", fail("CreateContainerError", fmt.Errorf("create container: %w", err))
		}
		r.event(pod, s.Name, v1.EventTypeNormal, "Created", "Container created")
	}
	sctx, cancel := context.WithTimeout(ctx, callTimeout)
	start := time.Now()
	err := r.cfg.CRI.StartContainer(sctx, id)
	r.metrics.op("start_container", start, err)
	r.metrics.containers.WithLabelValues(kind.String()).Inc()
	cancel()
	if err != nil {
		return id, fail("RunContainerError", fmt.Errorf("start container: %w", err))
	}
	r.event(pod, s.Name, v1.EventTypeNormal, "Started", "Container started")
	r.link(pod, s.Name, id, s.RestartCount)
	if c.Lifecycle == nil || c.Lifecycle.PostStart == nil {
		return id, nil
	}
	if err := r.hook(ctx, pod, c, id, podIP(pod, state, r.cfg.HostIPs), c.Lifecycle.PostStart); err != nil {
		if ctx.Err() != nil {
			return id, ctx.Err()
		}
		r.event(pod, s.Name, v1.EventTypeWarning, "FailedPostStartHook", "PostStartHook failed")
		r.cfg.Logger.Warn("Failed to run postStart hook", logkey.Pod, pod.Namespace+"/"+pod.Name, logkey.ContainerName, s.Name, logkey.Err, err)
		grace := 30 * time.Second
		if g := pod.Spec.TerminationGracePeriodSeconds; g != nil {
			grace = time.Duration(*g) * time.Second
		}
		kerr := r.KillContainer(ctx, pod, state, podworker.Kill{Name: s.Name, ID: id, Grace: grace, Message: "FailedPostStartHook"})
		return id, errors.Join(reason("PostStartHookError", err), kerr)
	}
	return id, nil
}

func attemptOf(state *podstate.Pod, sandboxID string) uint32 {
	for i := range state.Sandboxes {
		if state.Sandboxes[i].ID == sandboxID {
			return state.Sandboxes[i].Attempt
		}
	}
	return 0
}

// link leaves the symlink that log collectors follow; without it everything else still works.
func (r *Runtime) link(pod *v1.Pod, name, id string, restartCount int32) {
	at := r.logLink(pod, name, id)
	to := filepath.Join(container.LogDirectory(r.cfg.Node.PodLogsDir, pod), container.LogPath(name, restartCount))
	err := os.Symlink(to, at)
	if errors.Is(err, os.ErrNotExist) {
		if err = os.MkdirAll(filepath.Dir(at), 0o755); err == nil {
			err = os.Symlink(to, at)
		}
	}
	if err != nil && !errors.Is(err, os.ErrExist) {
		r.cfg.Logger.Debug("Failed to link container log", logkey.Path, at, logkey.Err, err)
	}
}

// podIPs are the pod's addresses: the sandbox's, or the node's with the host's network.
func podIPs(pod *v1.Pod, state *podstate.Pod, hostIPs []netip.Addr) []netip.Addr {
	if pod.Spec.HostNetwork {
		return hostIPs
	}
	if s := state.Current(); s != nil {
		return s.IPs
	}
	return nil
}

func podIP(pod *v1.Pod, state *podstate.Pod, hostIPs []netip.Addr) string {
	if ips := podIPs(pod, state, hostIPs); len(ips) > 0 {
		return ips[0].String()
	}
	return ""
}

func texts(ips []netip.Addr) []string {
	var out []string
	for _, ip := range ips {
		out = append(out, ip.String())
	}
	return out
}

func (r *Runtime) containerConfig(ctx context.Context, pod *v1.Pod, c *v1.Container, state *podstate.Pod,
	s podworker.Start, img podworker.Image) (*runtimeapi.ContainerConfig, error) {
	ctx, cancel := context.WithTimeout(ctx, configTimeout)
	defer cancel()
	ips := podIPs(pod, state, r.cfg.HostIPs)
	in := env.Input{
		Pod: pod, Container: c, Objects: r.cfg.Objects,
		Addresses: downward.Addresses{PodIPs: texts(ips), HostIPs: texts(r.cfg.HostIPs)},
	}
	if r.cfg.Allocatable != nil {
		in.Allocatable = r.cfg.Allocatable()
	}
	if r.cfg.Services != nil {
		var err error
		if in.Services, err = r.cfg.Services(ctx, pod); err != nil {
			return nil, err
		}
	}
	vars, skipped, err := env.Make(ctx, in)
	if err != nil {
		return nil, err
	}
	if len(skipped) > 0 {
		r.event(pod, c.Name, v1.EventTypeWarning, "InvalidEnvironmentVariableNames",
			"Keys [%s] were skipped since they are considered invalid environment variable names.", strings.Join(skipped, ", "))
	}
	kvs := make([]*runtimeapi.KeyValue, len(vars))
	byName := make(map[string]string, len(vars))
	for i, v := range vars {
		kvs[i] = &runtimeapi.KeyValue{Key: v.Name, Value: []byte(v.Value)}
		byName[v.Name] = v.Value
	}
	mounts, err := r.mounts(pod, c, ips, s, byName)
	if err != nil {
		return nil, err
	}
	target := ""
	for i := range pod.Spec.EphemeralContainers {
		e := &pod.Spec.EphemeralContainers[i]
		if e.Name != c.Name || e.TargetContainerName == "" {
			continue
		}
		t := state.Latest(e.TargetContainerName)
		if t == nil || t.State != podstate.Running {
			return nil, fmt.Errorf("unable to find target container %s", e.TargetContainerName)
		}
		target = t.ID
	}
	return container.Config(container.Input{
		Pod: pod, Container: c, Node: r.cfg.Node, RestartCount: s.RestartCount, CrashCount: s.CrashCount,
		ImageRef: img.Ref, ImageUser: container.ImageUser{UID: img.UID, Name: img.Username},
		Env: kvs, Mounts: mounts, TargetID: target,
	})
}

func (r *Runtime) mounts(pod *v1.Pod, c *v1.Container, ips []netip.Addr, s podworker.Start, vars map[string]string) ([]*runtimeapi.Mount, error) {
	vols, ok, err := r.cfg.Volumes.Mounts(pod.UID)
	if !ok {
		if err == nil {
			err = errors.New("volumes of the pod are not mounted yet")
		}
		return nil, err
	}
	var out []*runtimeapi.Mount
	hasHosts := false
	for i := range c.VolumeMounts {
		vm := &c.VolumeMounts[i]
		vol, ok := vols[vm.Name]
		if !ok {
			return nil, fmt.Errorf("cannot find volume %q to mount into container %q", vm.Name, c.Name)
		}
		m, err := r.mount(pod, c.Name, i, vm, vol, vars)
		if err != nil {
			return nil, err
		}
		hasHosts = hasHosts || m.ContainerPath == "/etc/hosts"
		out = append(out, m)
	}
	dir := r.podDir(pod.UID)
	if !hasHosts && (len(ips) > 0 || pod.Spec.HostNetwork) {
		path := filepath.Join(dir, "etc-hosts")
		if err := r.writeHosts(path, pod, ips); err != nil {
			return nil, err
		}
		out = append(out, &runtimeapi.Mount{ContainerPath: "/etc/hosts", HostPath: path})
	}
	if c.TerminationMessagePath != "" {
		path := r.terminationLog(pod, c.Name, s.RestartCount)
		if err := writeFresh(path); err != nil {
			return nil, fmt.Errorf("make termination log: %w", err)
		}
		out = append(out, &runtimeapi.Mount{ContainerPath: c.TerminationMessagePath, HostPath: path})
	}
	return out, nil
}

// terminationLog is the file that the container sees at its terminationMessagePath.
func (r *Runtime) terminationLog(pod *v1.Pod, name string, restartCount int32) string {
	return filepath.Join(r.podDir(pod.UID), "containers", name, strconv.Itoa(int(restartCount)))
}

// writeFresh makes an empty file that any user in the container may write.
func writeFresh(path string) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o666)
	if err != nil {
		return err
	}
	return errors.Join(f.Chmod(0o666), f.Close())
}

func (r *Runtime) mount(pod *v1.Pod, name string, index int, vm *v1.VolumeMount, vol volumes.Mounted, vars map[string]string) (*runtimeapi.Mount, error) {
	m := &runtimeapi.Mount{ContainerPath: vm.MountPath, HostPath: vol.HostPath, Readonly: vm.ReadOnly || vol.ReadOnly, SelinuxRelabel: vol.Relabel}
	if !filepath.IsAbs(m.ContainerPath) {
		m.ContainerPath = "/" + m.ContainerPath
	}
	sub := vm.SubPath
	if vm.SubPathExpr != "" {
		expanded, missing := expansion.ExpandStrict(vm.SubPathExpr, func(n string) (string, bool) { v, ok := vars[n]; return v, ok })
		if len(missing) > 0 {
			return nil, fmt.Errorf("missing value for %q in subPathExpr of volume %q", missing[0], vm.Name)
		}
		sub = expanded
	}
	if vol.Image != nil {
		full, _, _, err := nameOf(vol.Image.Reference)
		if err != nil {
			return nil, err
		}
		m.Image, m.ImageSubPath, m.Readonly, m.HostPath = &runtimeapi.ImageSpec{Image: full}, sub, true, ""
		return m, nil
	}
	if sub != "" {
		p, err := r.cfg.Volumes.SubPath(pod.UID, vm.Name, vol.HostPath, name, index, sub)
		if err != nil {
			return nil, err
		}
		m.HostPath = p
	}
	if vm.MountPropagation != nil {
		switch *vm.MountPropagation {
		case v1.MountPropagationHostToContainer:
			m.Propagation = runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER
		case v1.MountPropagationBidirectional:
			m.Propagation = runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL
		}
	}
	if vm.RecursiveReadOnly != nil && *vm.RecursiveReadOnly == v1.RecursiveReadOnlyEnabled {
		m.RecursiveReadOnly = true
	}
	return m, nil
}

func (r *Runtime) writeHosts(path string, pod *v1.Pod, ips []netip.Addr) error {
	host, err := container.Hostname(pod, r.cfg.Node.ClusterDomain)
	if err != nil {
		return err
	}
	var node []byte
	if pod.Spec.HostNetwork {
		if node, err = os.ReadFile("/etc/hosts"); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("read the node's hosts file: %w", err)
		}
	}
	text := container.Hosts(pod, ips, host, container.HostDomain(pod, r.cfg.Node.ClusterDomain), node)
	// Written in place: running containers have this very file mounted.
	if old, err := os.ReadFile(path); err == nil && string(old) == string(text) {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o750); err != nil {
		return fmt.Errorf("write hosts file: %w", err)
	}
	if err := os.WriteFile(path, text, 0o644); err != nil {
		return fmt.Errorf("write hosts file: %w", err)
	}
	return os.Chmod(path, 0o644)
}
