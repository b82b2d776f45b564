package gc

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	kubelettypes "k8s.io/kubelet/pkg/types"

	"github.com/reevehq/reeve/cri"
	"github.com/reevehq/reeve/internal/logkey"
)

// Periods as upstream's: containers every minute, images every 5 minutes, logs every 10 seconds.
const (
	containersEvery = time.Minute
	imagesEvery     = 5 * time.Minute
	logsEvery       = 10 * time.Second
	// callTimeout bounds one call of the runtime.
	callTimeout = 2 * time.Minute
)

// Runtime is what the collector asks of the container runtime.
type Runtime interface {
	ListContainers(ctx context.Context, filter *runtimeapi.ContainerFilter) ([]*runtimeapi.Container, error)
	ListPodSandbox(ctx context.Context, filter *runtimeapi.PodSandboxFilter) ([]*runtimeapi.PodSandbox, error)
	ContainerStatus(ctx context.Context, id string, verbose bool) (*runtimeapi.ContainerStatusResponse, error)
	RemoveContainer(ctx context.Context, id string) error
	StopPodSandbox(ctx context.Context, id string) error
	RemovePodSandbox(ctx context.Context, id string) error
	ReopenContainerLog(ctx context.Context, id string) error
	ListImages(ctx context.Context, filter *runtimeapi.ImageFilter) ([]*runtimeapi.Image, error)
	RemoveImage(ctx context.Context, image *runtimeapi.ImageSpec) error
	ImageFsInfo(ctx context.Context) (*runtimeapi.ImageFsInfoResponse, error)
}

// Cgroups lists and removes pods' cgroups.
type Cgroups interface {
	Pods() []types.UID
	RemovePod(uid types.UID) error
}

// Volumes lets go of pods' volumes and removes their folders.
type Volumes interface {
	ReleasePod(uid types.UID)
	Unmounted(uid types.UID) bool
	RemovePodDir(uid types.UID) error
}

// Config of a Collector.
type Config struct {
	Runtime    Runtime
	Cgroups    Cgroups
	Volumes    Volumes
	PodLogsDir string
	RootDir    string
	// Pods are all that the node is to run; Synced tells whether that is known; HasWorker whether somebody is at work on
	// a pod, which is then left alone.
	Pods      func() []*v1.Pod
	Synced    func() bool
	HasWorker func(types.UID) bool
	// Ended tells that a pod has come to its end and no container of it will run again. Optional.
	Ended func(types.UID) bool

	HighPercent, LowPercent int
	MinAge, MaxAge          time.Duration
	LogMaxBytes             int64
	LogMaxFiles             int

	Event  func(eventType, reason, message string)
	Logger *slog.Logger
}

// Collector collects. Make it with New.
type Collector struct {
	cfg  Config
	log  *slog.Logger
	kick chan struct{}
	// reclaim takes a channel to close when the disk has been cleared.
	reclaim chan chan struct{}
	seen    map[string]time.Time // image → first seen
	used    map[string]time.Time // image → last used
}

// New returns a collector.
func New(cfg Config) *Collector {
	return &Collector{cfg: cfg, log: cfg.Logger, kick: make(chan struct{}, 1), reclaim: make(chan chan struct{}), seen: map[string]time.Time{}, used: map[string]time.Time{}}
}

// Kick asks for a collection now.
func (c *Collector) Kick() {
	select {
	case c.kick <- struct{}{}:
	default:
	}
}

// Run collects until ctx ends.
func (c *Collector) Run(ctx context.Context) error {
	tick := time.NewTicker(logsEvery)
	defer tick.Stop()
	var containers, images time.Time
	for {
		forced := false
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		case <-c.kick:
			forced = true
		case done := <-c.reclaim:
			c.containers(ctx)
			c.ended(ctx)
			c.leftovers(ctx)
			c.allUnused(ctx, time.Now())
			c.freeDisk(ctx)
			close(done)
			continue
		}
		now := time.Now()
		if forced || now.Sub(containers) >= containersEvery {
			containers = now
			c.containers(ctx)
			c.leftovers(ctx)
		}
		if now.Sub(images) >= imagesEvery {
			images = now
			c.images(ctx, now)
		}
		c.logs(ctx, now)
	}
}

// Reclaim removes dead containers, those of ended pods with their logs, and every unused image now, because the node needs
// the disk. Images that a pod here is about to use stay. Call it from one goroutine other than Run's at a time; it returns
// when it is done.
func (c *Collector) Reclaim(ctx context.Context) {
	done := make(chan struct{})
	select {
	case c.reclaim <- done:
	case <-ctx.Done():
		return
	}
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// containers removes dead containers but the newest of each name, and sandboxes that were replaced and are empty.
func (c *Collector) containers(ctx context.Context) {
	if !c.cfg.Synced() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	list, err := c.cfg.Runtime.ListContainers(ctx, nil)
	if err != nil {
		c.log.Warn("Failed to list containers for collection", logkey.Err, err)
		return
	}
	for _, x := range surplus(list) {
		if err := c.cfg.Runtime.RemoveContainer(ctx, x.Id); err != nil && !cri.IsNotFound(err) {
			c.log.Warn("Failed to remove dead container", logkey.ContainerID, x.Id, logkey.Err, err)
		}
	}
	left, err := c.cfg.Runtime.ListContainers(ctx, nil)
	if err != nil {
		return
	}
	sandboxes, err := c.cfg.Runtime.ListPodSandbox(ctx, nil)
	if err != nil {
		return
	}
	for _, id := range replaced(sandboxes, left) {
		err := c.cfg.Runtime.StopPodSandbox(ctx, id)
		if err == nil || cri.IsNotFound(err) {
			err = c.cfg.Runtime.RemovePodSandbox(ctx, id)
		}
		if err != nil && !cri.IsNotFound(err) {
			c.log.Warn("Failed to remove dead sandbox", logkey.SandboxID, id, logkey.Err, err)
		}
	}
}

// freeDisk has the runtime make good on what was removed, where it puts that off.
func (c *Collector) freeDisk(ctx context.Context) {
	f, ok := c.cfg.Runtime.(interface{ FreeDisk(context.Context) error })
	if !ok {
		return // a CRI socket: removing an image there waits until it is gone
	}
	if err := f.FreeDisk(ctx); err != nil && ctx.Err() == nil {
		c.log.Warn("Failed to free disk", logkey.Err, err)
	}
}

// ended removes the containers and logs of pods that have come to their end, though their objects stay.
func (c *Collector) ended(ctx context.Context) {
	if c.cfg.Ended == nil || !c.cfg.Synced() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	list, err := c.cfg.Runtime.ListContainers(ctx, nil)
	if err != nil {
		c.log.Warn("Failed to list containers for collection", logkey.Err, err)
		return
	}
	for _, x := range list {
		uid := types.UID(x.Labels[kubelettypes.KubernetesPodUIDLabel])
		if uid == "" || x.State == runtimeapi.ContainerState_CONTAINER_RUNNING || !c.cfg.Ended(uid) {
			continue
		}
		if err := c.cfg.Runtime.RemoveContainer(ctx, x.Id); err != nil && !cri.IsNotFound(err) {
			c.log.Warn("Failed to remove container of ended pod", logkey.ContainerID, x.Id, logkey.Err, err)
		}
	}
	for _, p := range c.cfg.Pods() {
		if !c.cfg.Ended(p.UID) {
			continue
		}
		logs := filepath.Join(c.cfg.PodLogsDir, p.Namespace+"_"+p.Name+"_"+string(p.UID))
		if err := os.RemoveAll(logs); err != nil {
			c.log.Warn("Failed to remove logs of pod", logkey.Path, logs, logkey.Err, err)
		}
	}
}

// surplus returns the dead containers that have a newer dead one of their name in their pod.
func surplus(list []*runtimeapi.Container) []*runtimeapi.Container {
	type key struct{ uid, name string }
	dead := map[key][]*runtimeapi.Container{}
	for _, x := range list {
		if x.State == runtimeapi.ContainerState_CONTAINER_EXITED || x.State == runtimeapi.ContainerState_CONTAINER_UNKNOWN {
			k := key{x.Labels[kubelettypes.KubernetesPodUIDLabel], x.GetMetadata().GetName()}
			dead[k] = append(dead[k], x)
		}
	}
	var out []*runtimeapi.Container
	for k, l := range dead {
		if k.uid == "" {
			continue // not ours
		}
		sort.Slice(l, func(i, j int) bool { return l[i].CreatedAt > l[j].CreatedAt })
		out = append(out, l[1:]...)
	}
	return out
}

// replaced returns the dead sandboxes without containers that are not their pod's newest.
func replaced(sandboxes []*runtimeapi.PodSandbox, containers []*runtimeapi.Container) []string {
	busy := map[string]bool{}
	for _, x := range containers {
		busy[x.PodSandboxId] = true
	}
	newest := map[string]*runtimeapi.PodSandbox{}
	for _, s := range sandboxes {
		uid := s.GetMetadata().GetUid()
		if n := newest[uid]; n == nil || s.CreatedAt > n.CreatedAt {
			newest[uid] = s
		}
	}
	var out []string
	for _, s := range sandboxes {
		if s.State == runtimeapi.PodSandboxState_SANDBOX_NOTREADY && !busy[s.Id] && newest[s.GetMetadata().GetUid()] != s {
			out = append(out, s.Id)
		}
	}
	return out
}

// leftovers removes log folders, pod folders and cgroups of pods that neither a source nor the runtime nor a worker has.
func (c *Collector) leftovers(ctx context.Context) {
	if !c.cfg.Synced() {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	known := map[types.UID]bool{}
	for _, p := range c.cfg.Pods() {
		known[p.UID] = true
	}
	sandboxes, err := c.cfg.Runtime.ListPodSandbox(ctx, nil)
	if err != nil {
		return
	}
	for _, s := range sandboxes {
		known[types.UID(s.GetMetadata().GetUid())] = true
	}
	stranger := func(uid types.UID) bool { return !known[uid] && !c.cfg.HasWorker(uid) }
	ents, err := os.ReadDir(c.cfg.PodLogsDir)
	if err == nil {
		for _, e := range ents {
			parts := strings.Split(e.Name(), "_")
			if len(parts) != 3 || !e.IsDir() || !stranger(types.UID(parts[2])) {
				continue
			}
			if err := os.RemoveAll(filepath.Join(c.cfg.PodLogsDir, e.Name())); err != nil {
				c.log.Warn("Failed to remove logs of pod", logkey.Path, e.Name(), logkey.Err, err)
			}
		}
	}
	if c.cfg.Cgroups != nil {
		for _, uid := range c.cfg.Cgroups.Pods() {
			if !stranger(uid) {
				continue
			}
			if err := c.cfg.Cgroups.RemovePod(uid); err != nil {
				c.log.Warn("Failed to remove cgroup of pod", logkey.PodUID, string(uid), logkey.Err, err)
			}
		}
	}
	c.folders(stranger)
	c.links()
}

// folders removes pods' folders, once their volumes are unmounted: what is not at the first look is at a later one.
func (c *Collector) folders(stranger func(types.UID) bool) {
	ents, err := os.ReadDir(filepath.Join(c.cfg.RootDir, "pods"))
	if err != nil || c.cfg.Volumes == nil {
		return
	}
	for _, e := range ents {
		uid := types.UID(e.Name())
		if !e.IsDir() || strings.HasPrefix(e.Name(), ".") || !stranger(uid) {
			continue
		}
		c.cfg.Volumes.ReleasePod(uid)
		if !c.cfg.Volumes.Unmounted(uid) {
			continue
		}
		if err := c.cfg.Volumes.RemovePodDir(uid); err != nil {
			c.log.Warn("Failed to remove folder of pod", logkey.PodUID, string(uid), logkey.Err, err)
		}
	}
}

// links removes log links whose file is gone.
func (c *Collector) links() {
	dir := filepath.Join(filepath.Dir(c.cfg.PodLogsDir), "containers")
	ents, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range ents {
		path := filepath.Join(dir, e.Name())
		to, err := os.Readlink(path)
		if err != nil || !strings.HasPrefix(to, c.cfg.PodLogsDir+"/") {
			continue
		}
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			_ = os.Remove(path)
		}
	}
}
