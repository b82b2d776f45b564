package pleg

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	kubelettypes "k8s.io/kubelet/pkg/types"

	"github.com/reevehq/reeve/agent/podworker/podstate"
	"github.com/reevehq/reeve/internal/logkey"
)

const (
	// relistWithEvents is the safety net's period while events flow; relistWithout while they do not (as upstream).
	relistWithEvents = time.Minute
	relistWithout    = time.Second
	// relistTimeout bounds the two list calls of one relist.
	relistTimeout = 30 * time.Second
	// reconnectAfter spaces attempts to get the event stream back.
	reconnectAfter = time.Second
	// healthyWithin is how old the last good relist may be before Healthy complains (upstream: 3 min).
	healthyWithin = 3 * time.Minute
)

// Runtime is what the generator asks of the container runtime.
type Runtime interface {
	ListPodSandbox(ctx context.Context, filter *runtimeapi.PodSandboxFilter) ([]*runtimeapi.PodSandbox, error)
	PodSandboxStatus(ctx context.Context, id string, verbose bool) (*runtimeapi.PodSandboxStatusResponse, error)
	ListContainers(ctx context.Context, filter *runtimeapi.ContainerFilter) ([]*runtimeapi.Container, error)
	ContainerStatus(ctx context.Context, id string, verbose bool) (*runtimeapi.ContainerStatusResponse, error)
	GetContainerEvents(ctx context.Context, ch chan *runtimeapi.ContainerEventResponse, connected func(runtimeapi.RuntimeService_GetContainerEventsClient)) error
}

// seen is one sandbox or container as the last list gave it.
type seen struct {
	uid   types.UID
	state int32
}

// Generator tells which pods changed. Make it with New.
type Generator struct {
	// Message, if set before Run, reads what a dead container left as its termination message.
	Message func(uid types.UID, c *podstate.Container) string

	rt   Runtime
	wake func(types.UID)
	log  *slog.Logger

	relistSeconds  prometheus.Histogram
	relistInterval prometheus.Histogram

	mu         sync.Mutex
	sandboxes  map[string]podstate.Sandbox
	containers map[string]podstate.Container
	known      map[string]seen // sandbox and container IDs
	lastRelist time.Time
	streaming  bool
	kick       chan struct{}
}

// New returns a generator that calls wake, from its own goroutines, with the UID of each pod to look at again. wake must
// not block.
func New(rt Runtime, wake func(types.UID), reg prometheus.Registerer, log *slog.Logger) *Generator {
	g := &Generator{
		rt: rt, wake: wake, log: log,
		sandboxes: map[string]podstate.Sandbox{}, containers: map[string]podstate.Container{}, known: map[string]seen{},
		kick: make(chan struct{}, 1),
		relistSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "kubelet_pleg_relist_duration_seconds", Help: "Duration of one relist of the runtime.", Buckets: prometheus.DefBuckets}),
		relistInterval: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "kubelet_pleg_relist_interval_seconds", Help: "Time between two relists of the runtime.", Buckets: prometheus.DefBuckets}),
	}
	if reg != nil {
		reg.MustRegister(g.relistSeconds, g.relistInterval)
	}
	return g
}

// Run watches until ctx ends.
func (g *Generator) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	wg.Add(1)
	go func() {
		defer wg.Done()
		g.events(ctx)
	}()
	g.relistLoop(ctx)
	wg.Wait()
	return nil
}

// Healthy returns an error when the runtime has not answered a list for three minutes.
func (g *Generator) Healthy() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.lastRelist.IsZero() {
		return fmt.Errorf("the runtime has not been listed yet")
	}
	if d := time.Since(g.lastRelist); d > healthyWithin {
		return fmt.Errorf("the runtime was last listed %s ago; threshold is %s", d.Round(time.Second), healthyWithin)
	}
	return nil
}

// Forget drops what is remembered of a container, so that the next look reads its status again.
func (g *Generator) Forget(containerID string) {
	g.mu.Lock()
	delete(g.containers, containerID)
	g.mu.Unlock()
}

func (g *Generator) events(ctx context.Context) {
	for ctx.Err() == nil {
		ch := make(chan *runtimeapi.ContainerEventResponse, 256)
		stop, done := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(done)
			for {
				select {
				case ev := <-ch:
					g.event(ev)
				case <-stop:
					return
				}
			}
		}()
		err := g.rt.GetContainerEvents(ctx, ch, func(runtimeapi.RuntimeService_GetContainerEventsClient) {
			g.setStreaming(true)
		})
		close(stop) // not ch: a late sender may still hold it
		<-done
		g.setStreaming(false)
		if ctx.Err() != nil {
			return
		}
		wait := reconnectAfter
		if grpcstatus.Code(err) == codes.Unimplemented {
			wait = relistWithEvents
		} else {
			g.log.Warn("Lost the runtime's event stream", logkey.Err, err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(wait):
		}
	}
}

func (g *Generator) setStreaming(on bool) {
	g.mu.Lock()
	changed := g.streaming != on
	g.streaming = on
	g.mu.Unlock()
	if changed {
		// Whatever happened while nobody listened is found by a relist.
		select {
		case g.kick <- struct{}{}:
		default:
		}
	}
}

func (g *Generator) event(ev *runtimeapi.ContainerEventResponse) {
	uid := types.UID(ev.GetPodSandboxStatus().GetMetadata().GetUid())
	if uid == "" {
		uid = types.UID(ev.GetPodSandboxStatus().GetLabels()[kubelettypes.KubernetesPodUIDLabel])
	}
	if uid == "" {
		g.mu.Lock()
		uid = g.known[ev.GetContainerId()].uid
		g.mu.Unlock()
	}
	if uid == "" {
		select {
		case g.kick <- struct{}{}:
		default:
		}
		return
	}
	g.wake(uid)
}

func (g *Generator) relistLoop(ctx context.Context) {
	for {
		g.relist(ctx)
		g.mu.Lock()
		wait := relistWithout
		if g.streaming {
			wait = relistWithEvents
		}
		g.mu.Unlock()
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-g.kick:
			t.Stop()
		case <-t.C:
		}
	}
}

func (g *Generator) relist(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, relistTimeout)
	defer cancel()
	start := time.Now()
	sandboxes, err := g.rt.ListPodSandbox(ctx, nil)
	if err == nil {
		var containers []*runtimeapi.Container
		if containers, err = g.rt.ListContainers(ctx, nil); err == nil {
			g.compare(sandboxes, containers)
		}
	}
	if err != nil {
		if ctx.Err() == nil {
			g.log.Error("Failed to list the runtime's pods", logkey.Err, err)
		}
		return
	}
	g.relistSeconds.Observe(time.Since(start).Seconds())
	g.mu.Lock()
	if !g.lastRelist.IsZero() {
		g.relistInterval.Observe(start.Sub(g.lastRelist).Seconds())
	}
	g.lastRelist = start
	g.mu.Unlock()
}

// snapshot flattens two lists into ID → what was seen.
func snapshot(sandboxes []*runtimeapi.PodSandbox, containers []*runtimeapi.Container) map[string]seen {
	m := make(map[string]seen, len(sandboxes)+len(containers))
	for _, s := range sandboxes {
		m[s.Id] = seen{uid: types.UID(s.GetMetadata().GetUid()), state: int32(s.State)}
	}
	for _, c := range containers {
		m[c.Id] = seen{uid: types.UID(c.Labels[kubelettypes.KubernetesPodUIDLabel]), state: int32(c.State)}
	}
	return m
}

func (g *Generator) compare(sandboxes []*runtimeapi.PodSandbox, containers []*runtimeapi.Container) {
	now := snapshot(sandboxes, containers)
	changed := map[types.UID]bool{}
	g.mu.Lock()
	for id, s := range now {
		if g.known[id] != s {
			changed[s.uid] = true
		}
	}
	for id, s := range g.known {
		if _, ok := now[id]; !ok {
			changed[s.uid] = true
			delete(g.sandboxes, id)
			delete(g.containers, id)
		}
	}
	g.known = now
	g.mu.Unlock()
	for uid := range changed {
		if uid != "" {
			g.wake(uid)
		}
	}
}

// remember notes one pod's lists, so that the next relist does not report what its worker has already seen.
func (g *Generator) remember(uid types.UID, sandboxes []*runtimeapi.PodSandbox, containers []*runtimeapi.Container) {
	now := snapshot(sandboxes, containers)
	g.mu.Lock()
	defer g.mu.Unlock()
	for id, s := range g.known {
		if _, ok := now[id]; s.uid == uid && !ok {
			delete(g.known, id)
			delete(g.sandboxes, id)
			delete(g.containers, id)
		}
	}
	for id, s := range now {
		g.known[id] = s
	}
}

// UIDs lists the pods that the runtime had at the last look.
func (g *Generator) UIDs() []types.UID {
	g.mu.Lock()
	defer g.mu.Unlock()
	set := map[types.UID]bool{}
	for _, s := range g.known {
		if s.uid != "" {
			set[s.uid] = true
		}
	}
	out := make([]types.UID, 0, len(set))
	for uid := range set {
		out = append(out, uid)
	}
	return out
}

// Relist takes one full look now and returns the UIDs that the runtime has, or an error.
func (g *Generator) Relist(ctx context.Context) ([]types.UID, error) {
	ctx, cancel := context.WithTimeout(ctx, relistTimeout)
	defer cancel()
	sandboxes, err := g.rt.ListPodSandbox(ctx, nil)
	if err != nil {
		return nil, fmt.Errorf("list sandboxes: %w", err)
	}
	containers, err := g.rt.ListContainers(ctx, nil)
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	g.compare(sandboxes, containers)
	g.mu.Lock()
	g.lastRelist = time.Now()
	g.mu.Unlock()
	return g.UIDs(), nil
}
