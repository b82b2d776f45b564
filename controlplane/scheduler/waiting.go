package scheduler

import (
	"context"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/kube-scheduler/framework"
)

// waitingPods are the pods that permit plugins hold back between decision and binding.
type waitingPods struct {
	mu   sync.Mutex
	pods map[types.UID]*waitingPod
}

func (w *waitingPods) get(uid types.UID) *waitingPod {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.pods[uid]
}

func (w *waitingPods) each(f func(framework.WaitingPod)) {
	w.mu.Lock()
	list := make([]*waitingPod, 0, len(w.pods))
	for _, p := range w.pods {
		list = append(list, p)
	}
	w.mu.Unlock()
	for _, p := range list {
		f(p)
	}
}

func (w *waitingPods) add(pod *v1.Pod, waits map[string]time.Duration) {
	p := &waitingPod{pod: pod, waits: waits, since: time.Now(), verdict: make(chan *framework.Status, 1)}
	w.mu.Lock()
	w.pods[pod.UID] = p
	w.mu.Unlock()
}

// wait blocks until every plugin allows the pod, one rejects it, or the shortest wait ends.
func (w *waitingPods) wait(ctx context.Context, uid types.UID) *framework.Status {
	p := w.get(uid)
	if p == nil {
		return nil
	}
	defer func() {
		w.mu.Lock()
		delete(w.pods, uid)
		w.mu.Unlock()
	}()
	plugin, shortest := p.next()
	timer := time.NewTimer(shortest)
	defer timer.Stop()
	select {
	case s := <-p.verdict:
		return s
	case <-timer.C:
		return framework.NewStatus(framework.Unschedulable, "timed out waiting on permit").WithPlugin(plugin)
	case <-ctx.Done():
		return framework.AsStatus(ctx.Err())
	}
}

type waitingPod struct {
	pod     *v1.Pod
	since   time.Time
	mu      sync.Mutex
	waits   map[string]time.Duration
	verdict chan *framework.Status // one at most; the first counts
}

var _ framework.WaitingPod = (*waitingPod)(nil)

func (p *waitingPod) next() (plugin string, wait time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	wait = maxPermitWait
	for name, d := range p.waits {
		if d <= wait {
			plugin, wait = name, d
		}
	}
	return plugin, wait
}

func (p *waitingPod) GetPod() *v1.Pod { return p.pod }

func (p *waitingPod) GetPendingPlugins() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var names []string
	for n := range p.waits {
		names = append(names, n)
	}
	return names
}

func (p *waitingPod) Allow(plugin string) {
	p.mu.Lock()
	delete(p.waits, plugin)
	left := len(p.waits)
	p.mu.Unlock()
	if left == 0 {
		p.decide(nil)
	}
}

func (p *waitingPod) Reject(plugin, msg string) bool {
	return p.decide(framework.NewStatus(framework.Unschedulable, msg).WithPlugin(plugin))
}

func (p *waitingPod) Preempt(plugin, msg string) bool { return p.Reject(plugin, msg) }

func (p *waitingPod) decide(s *framework.Status) bool {
	select {
	case p.verdict <- s:
		return true
	default:
		return false
	}
}
