package podworker

import (
	"context"
	"log/slog"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/reevehq/reeve/agent/podworker/podstate"
)

// Config is what a pool works with.
type Config struct {
	Observer Observer
	Runtime  Runtime
	Volumes  Volumes
	Probes   Probes
	Reporter Reporter
	// Figures returns what the cgroups of the pod's containers should say, by container name. Optional.
	Figures func(pod *v1.Pod) map[string]podstate.Resources
	// Event records an Event about a pod, or about a container of it when name is not empty. Optional.
	Event  func(pod *v1.Pod, name, eventType, reason, message string)
	Logger *slog.Logger
	// SyncFrequency is how often an idle pod is looked at (default 1 min).
	SyncFrequency time.Duration
}

// event tells of a back-off once a container's wait, not at every look.
func (c *Config) event(pod *v1.Pod, name, kind, reason, msg string, w *worker, until time.Time) {
	key := "event/" + name
	if c.Event == nil || w.retryAt[key].Equal(until) {
		return
	}
	w.retryAt[key] = until
	c.Event(pod, name, kind, reason, msg)
}

// Pool has a worker for each pod. Make it with NewPool, then Run it; calls before Run are kept.
type Pool struct {
	cfg Config

	mu      sync.Mutex
	ctx     context.Context
	workers map[types.UID]*worker
	network bool
	wg      sync.WaitGroup
}

// NewPool returns a pool without workers.
func NewPool(cfg Config) *Pool {
	if cfg.SyncFrequency == 0 {
		cfg.SyncFrequency = time.Minute
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	p := &Pool{cfg: cfg, workers: map[types.UID]*worker{}}
	return p
}

// Run lets the workers work until ctx ends, then waits for them.
func (p *Pool) Run(ctx context.Context) error {
	p.mu.Lock()
	p.ctx = ctx
	for _, w := range p.workers {
		p.startLocked(w)
	}
	p.mu.Unlock()
	<-ctx.Done()
	p.wg.Wait()
	return nil
}

func (p *Pool) startLocked(w *worker) {
	ctx := p.ctx
	if ctx == nil || ctx.Err() != nil {
		return
	}
	p.wg.Add(1)
	go func() {
		defer p.wg.Done()
		w.run(ctx)
		if ctx.Err() == nil {
			p.mu.Lock()
			delete(p.workers, w.uid)
			p.mu.Unlock()
		}
	}()
}

// Update gives a pod to its worker, which is made if there is none.
func (p *Pool) Update(pod *v1.Pod) { p.update(pod, nil, false) }

// Stop asks for the end of a pod. A later stop can only shorten the grace.
func (p *Pool) Stop(pod *v1.Pod, s Stop) { p.update(pod, &s, false) }

// Remove says that the sources no longer have the pod: it ends, if it has not, and nothing of it is kept.
func (p *Pool) Remove(pod *v1.Pod, s Stop) { p.update(pod, &s, true) }

func (p *Pool) update(pod *v1.Pod, s *Stop, removed bool) {
	p.mu.Lock()
	w := p.workers[pod.UID]
	if w == nil {
		w = newWorker(p, pod)
		w.stop, w.removed = s, removed
		p.workers[pod.UID] = w
		p.startLocked(w)
		p.mu.Unlock()
		return
	}
	p.mu.Unlock()
	w.mu.Lock()
	if !removed || w.pod == nil {
		w.pod = pod
	}
	if s != nil && (w.stop == nil || s.Deadline().Before(w.stop.Deadline())) {
		w.stop = s
	}
	w.removed = w.removed || removed
	w.mu.Unlock()
	w.poke()
}

// Wake makes the pod's worker look at the runtime again; false: there is no such worker.
func (p *Pool) Wake(uid types.UID) bool {
	p.mu.Lock()
	w := p.workers[uid]
	p.mu.Unlock()
	if w == nil {
		return false
	}
	w.mu.Lock()
	w.dirty = true
	w.mu.Unlock()
	w.poke()
	return true
}

// Replan makes the pod's worker plan again without looking at the runtime: a probe or a volume changed.
func (p *Pool) Replan(uid types.UID) {
	p.mu.Lock()
	w := p.workers[uid]
	p.mu.Unlock()
	if w != nil {
		w.poke()
	}
}

// ConfigChanged makes containers of the pod that wait for a ConfigMap or Secret try again at once.
func (p *Pool) ConfigChanged(uid types.UID) {
	p.mu.Lock()
	w := p.workers[uid]
	p.mu.Unlock()
	if w == nil {
		return
	}
	w.mu.Lock()
	w.config = true
	w.mu.Unlock()
	w.poke()
}

// SetNetworkReady says whether sandboxes with a network can be made; every worker plans again when that changes.
func (p *Pool) SetNetworkReady(ready bool) {
	p.mu.Lock()
	changed := p.network != ready
	p.network = ready
	var all []*worker
	if changed {
		for _, w := range p.workers {
			all = append(all, w)
		}
	}
	p.mu.Unlock()
	for _, w := range all {
		w.poke()
	}
}

// NetworkReady is what SetNetworkReady said last; false at first.
func (p *Pool) NetworkReady() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.network
}

// UIDs lists the pods that have a worker.
func (p *Pool) UIDs() []types.UID {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := make([]types.UID, 0, len(p.workers))
	for uid := range p.workers {
		out = append(out, uid)
	}
	return out
}

// Has tells whether the pod has a worker.
func (p *Pool) Has(uid types.UID) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.workers[uid] != nil
}

// Done returns a channel that closes when the pod's worker has ended; a closed one if there is none.
func (p *Pool) Done(uid types.UID) <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if w := p.workers[uid]; w != nil {
		return w.done
	}
	c := make(chan struct{})
	close(c)
	return c
}
