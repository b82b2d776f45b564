package podruntime

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/reevehq/reeve/agent/container"
	"github.com/reevehq/reeve/agent/env"
	"github.com/reevehq/reeve/agent/image"
	"github.com/reevehq/reeve/agent/podworker"
	"github.com/reevehq/reeve/agent/podworker/podstate"
	"github.com/reevehq/reeve/cri"
	"github.com/reevehq/reeve/internal/logkey"
	"github.com/reevehq/reeve/volumes"
)

const (
	// sandboxTimeout bounds one RunPodSandbox: a CNI plugin may wait for its daemon (upstream: 4 min).
	sandboxTimeout = 4 * time.Minute
	// callTimeout bounds every other call of the runtime (upstream's runtimeRequestTimeout: 2 min).
	callTimeout = 2 * time.Minute
	// killSlack is what a stop may take beyond the container's grace.
	killSlack = 30 * time.Second
)

// Volumes is what containers' mounts come from; *volumes.Manager is the real one.
type Volumes interface {
	Mounts(uid types.UID) (map[string]volumes.Mounted, bool, error)
	SubPath(uid types.UID, volume, volumePath, container string, index int, subPath string) (string, error)
	RemovePodDir(uid types.UID) error
}

// Cgroups makes and removes pods' cgroups; *resources.Manager is the real one.
type Cgroups interface {
	EnsurePod(pod *v1.Pod) error
	GrowPod(pod *v1.Pod) error
	RemovePod(uid types.UID) error
	Parent(pod *v1.Pod) string
}

// Config is what a Runtime works with. Cgroups, Objects, Services and Handler may be nil.
type Config struct {
	CRI      cri.Runtime
	Images   *image.Manager
	Volumes  Volumes
	Cgroups  Cgroups
	Objects  env.Objects
	Services func(ctx context.Context, pod *v1.Pod) ([]*v1.Service, error)
	// Handler returns the runtime handler of a RuntimeClass.
	Handler func(ctx context.Context, class string) (string, error)
	Node    container.Node
	HostIPs []netip.Addr
	// Allocatable is what resourceFieldRef reads for a limit that is not set.
	Allocatable func() v1.ResourceList
	ClusterDNS  []netip.Addr
	ResolvConf  string // path
	Event       func(pod *v1.Pod, container, eventType, reason, message string)
	Forget      func(containerID string)
	Registry    prometheus.Registerer
	Logger      *slog.Logger
}

// Runtime implements podworker.Runtime on a cri.Runtime.
type Runtime struct {
	cfg     Config
	metrics *metrics
}

var _ podworker.Runtime = (*Runtime)(nil)

// New returns a Runtime.
func New(cfg Config) *Runtime { return &Runtime{cfg: cfg, metrics: newMetrics(cfg.Registry)} }

func (r *Runtime) podDir(uid types.UID) string {
	return filepath.Join(r.cfg.Node.RootDir, "pods", string(uid))
}

func (r *Runtime) event(pod *v1.Pod, name, kind, reason, format string, args ...any) {
	if r.cfg.Event != nil {
		r.cfg.Event(pod, name, kind, reason, fmt.Sprintf(format, args...))
	}
}

// CreateSandbox implements podworker.Runtime.
func (r *Runtime) CreateSandbox(ctx context.Context, pod *v1.Pod, attempt uint32) error {
	ctx, cancel := context.WithTimeout(ctx, sandboxTimeout)
	defer cancel()
	err := r.createSandbox(ctx, pod, attempt)
	if err != nil && ctx.Err() == nil {
		r.event(pod, "", v1.EventTypeWarning, "FailedCreatePodSandBox", "Failed to create pod sandbox: %v", err)
	}
	return err
}

func (r *Runtime) createSandbox(ctx context.Context, pod *v1.Pod, attempt uint32) error {
	parent := ""
	if r.cfg.Cgroups != nil {
		if err := r.cfg.Cgroups.EnsurePod(pod); err != nil {
			return fmt.Errorf("make cgroup of pod: %w", err)
		}
		parent = r.cfg.Cgroups.Parent(pod)
	}
	dir := r.podDir(pod.UID)
	for _, d := range []string{filepath.Join(dir, "containers"), filepath.Join(dir, "plugins")} {
		if err := os.MkdirAll(d, 0o750); err != nil {
			return fmt.Errorf("make folder of pod: %w", err)
		}
	}
	if err := os.MkdirAll(container.LogDirectory(r.cfg.Node.PodLogsDir, pod), 0o755); err != nil {
		return fmt.Errorf("make log folder of pod: %w", err)
	}
	cfg, warnings, err := r.sandboxConfig(pod, attempt, parent)
	if err != nil {
		return err
	}
	for _, w := range warnings {
		r.event(pod, "", v1.EventTypeWarning, "DNSConfigForming", "%s", w)
	}
	handler := ""
	if class := pod.Spec.RuntimeClassName; class != nil && *class != "" {
		if r.cfg.Handler == nil {
			return fmt.Errorf("runtimeClassName %q: a standalone node knows no RuntimeClass", *class)
		}
		if handler, err = r.cfg.Handler(ctx, *class); err != nil {
			return err
		}
	}
	start := time.Now()
	_, err = r.cfg.CRI.RunPodSandbox(ctx, cfg, handler)
	r.metrics.op("run_podsandbox", start, err)
	r.metrics.pods.Inc()
	if err != nil {
		r.metrics.podErrors.Inc()
		return fmt.Errorf("run sandbox of pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return nil
}

func (r *Runtime) sandboxConfig(pod *v1.Pod, attempt uint32, cgroupParent string) (*runtimeapi.PodSandboxConfig, []string, error) {
	var host container.ResolvConf
	if f, err := os.Open(r.cfg.ResolvConf); err == nil {
		host, err = container.ParseResolvConf(f)
		f.Close()
		if err != nil {
			return nil, nil, fmt.Errorf("read %s: %w", r.cfg.ResolvConf, err)
		}
	} else if !errors.Is(err, os.ErrNotExist) {
		return nil, nil, fmt.Errorf("read resolverConfig: %w", err)
	}
	dns, warnings := container.DNS(pod, r.cfg.ClusterDNS, r.cfg.Node.ClusterDomain, host)
	cfg, err := container.Sandbox(pod, attempt, dns, cgroupParent, r.cfg.Node)
	return cfg, warnings, err
}

// StopSandbox implements podworker.Runtime.
func (r *Runtime) StopSandbox(ctx context.Context, pod *v1.Pod, id string) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	start := time.Now()
	err := r.cfg.CRI.StopPodSandbox(ctx, id)
	r.metrics.op("stop_podsandbox", start, err)
	if err == nil || cri.IsNotFound(err) {
		return nil
	}
	r.event(pod, "", v1.EventTypeWarning, "FailedKillPod", "error killing pod: %v", err)
	return fmt.Errorf("stop sandbox %s: %w", id, err)
}

// EnsureImage implements podworker.Runtime. Images that volumes mount are brought along.
func (r *Runtime) EnsureImage(ctx context.Context, pod *v1.Pod, c *v1.Container) (podworker.Image, error) {
	for i := range c.VolumeMounts {
		for j := range pod.Spec.Volumes {
			v := &pod.Spec.Volumes[j]
			if v.Name != c.VolumeMounts[i].Name || v.Image == nil {
				continue
			}
			if _, err := r.cfg.Images.Ensure(ctx, pod, c.Name, v.Image.Reference, v.Image.PullPolicy); err != nil {
				return podworker.Image{}, err
			}
		}
	}
	return r.cfg.Images.Ensure(ctx, pod, c.Name, c.Image, c.ImagePullPolicy)
}

// Settle implements podworker.Runtime.
func (r *Runtime) Settle(_ context.Context, pod *v1.Pod) error {
	if r.cfg.Cgroups == nil {
		return nil
	}
	return r.cfg.Cgroups.RemovePod(pod.UID)
}

// Cleanup implements podworker.Runtime.
func (r *Runtime) Cleanup(ctx context.Context, pod *v1.Pod, state *podstate.Pod) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	var errs []error
	keep := func(what string, err error) {
		if err != nil && !cri.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("remove %s: %w", what, err))
		}
	}
	for i := range state.Containers {
		c := &state.Containers[i]
		keep("container "+c.ID, r.RemoveContainer(ctx, pod, c))
	}
	for i := range state.Sandboxes {
		keep("sandbox "+state.Sandboxes[i].ID, r.cfg.CRI.RemovePodSandbox(ctx, state.Sandboxes[i].ID))
	}
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	if r.cfg.Cgroups != nil {
		keep("cgroup", r.cfg.Cgroups.RemovePod(pod.UID))
	}
	if pod.Name != "" {
		keep("logs", os.RemoveAll(container.LogDirectory(r.cfg.Node.PodLogsDir, pod)))
	}
	keep("folder", r.cfg.Volumes.RemovePodDir(pod.UID))
	if r.cfg.Images != nil {
		r.cfg.Images.Forget(string(pod.UID))
	}
	return errors.Join(errs...)
}

// RemoveContainer removes one dead container with its log link; its log files go with it only when the pod's do.
func (r *Runtime) RemoveContainer(ctx context.Context, pod *v1.Pod, c *podstate.Container) error {
	if err := r.cfg.CRI.RemoveContainer(ctx, c.ID); err != nil {
		return err
	}
	if err := os.Remove(r.logLink(pod, c.Name, c.ID)); err != nil && !errors.Is(err, os.ErrNotExist) {
		r.cfg.Logger.Debug("Failed to remove log link", logkey.ContainerID, c.ID, logkey.Err, err)
	}
	return nil
}

// linkNameMax is the longest file name.
const linkNameMax = 255

// logLink is where log collectors look: <logs>/../containers/<pod>_<namespace>_<container>-<id>.log.
func (r *Runtime) logLink(pod *v1.Pod, name, id string) string {
	base := pod.Name + "_" + pod.Namespace + "_" + name
	suffix := "-" + id + ".log"
	if n := linkNameMax - len(suffix); len(base) > n {
		base = base[:n]
	}
	return filepath.Join(filepath.Dir(r.cfg.Node.PodLogsDir), "containers", base+suffix)
}
