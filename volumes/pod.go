package volumes

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/reevehq/reeve/internal/logkey"
)

// podWork is one pod's volumes.
//
//	desired ──pass──▶ ready ⇄ (changed content: pass again)
//	   │  ▲ retry        │
//	   └──┴──────────────┴──ReleasePod──▶ gone ──pass──▶ forgotten
//
// All fields are guarded by Manager.mu; passes run in one goroutine at a time, started on demand.
type podWork struct {
	mgr     *Manager
	pod     *corev1.Pod
	gone    bool // one-way
	orphan  bool // known from disk only: its whole folder is nobody's
	running bool
	dirty   bool
	abort   context.CancelFunc // ends the running pass, nil when none
	timer   *time.Timer
	delay   time.Duration

	ready   bool
	mounted map[string]Mounted
	errs    map[string]error // by volume; "" for the pod's tear-down
	changed chan struct{}    // closed and replaced after every pass
	told    string           // last FailedMount message, to send one event a new failure
}

func newPodWork(m *Manager, pod *corev1.Pod) *podWork {
	return &podWork{mgr: m, pod: pod, changed: make(chan struct{}), mounted: map[string]Mounted{}}
}

func (p *podWork) errLocked() error {
	if len(p.errs) == 0 {
		return nil
	}
	names := make([]string, 0, len(p.errs))
	for n := range p.errs {
		names = append(names, n)
	}
	slices.Sort(names)
	var errs []error
	for _, n := range names {
		errs = append(errs, p.errs[n])
	}
	return errors.Join(errs...)
}

func (p *podWork) stopTimer() {
	if p.timer != nil {
		p.timer.Stop()
		p.timer = nil
	}
}

// kickLocked asks for a pass; passes that were asked for while one runs are one more pass.
func (p *podWork) kickLocked() {
	p.dirty = true
	if p.running || p.mgr.ctx.Err() != nil {
		return
	}
	p.running = true
	p.stopTimer()
	p.mgr.wg.Go(p.run)
}

func (p *podWork) run() {
	m := p.mgr
	m.mu.Lock()
	for p.dirty && m.ctx.Err() == nil {
		p.dirty = false
		pod, gone := p.pod, p.gone
		ctx, cancel := context.WithTimeout(m.ctx, passTimeout)
		p.abort = cancel
		m.mu.Unlock()

		var res passResult
		if gone {
			res = m.tearDownPass(ctx, pod, p.orphan)
		} else {
			res = m.setUpPass(ctx, pod)
		}
		cancel()

		m.mu.Lock()
		p.abort = nil
		if gone != p.gone {
			continue // released while setting up: dirty is set, what was found is void
		}
		p.finishLocked(gone, res)
		changed := p.changed
		p.changed = make(chan struct{})
		if gone && len(res.errs) == 0 {
			delete(m.pods, pod.UID)
			p.dirty = false
		}
		m.mu.Unlock()
		close(changed)
		p.report(pod, gone, res)
		m.cfg.OnChange(pod.UID)
		m.mu.Lock()
	}
	p.running = false
	m.mu.Unlock()
}

// finishLocked takes over what a pass found, and sets the clock for the next one.
func (p *podWork) finishLocked(gone bool, res passResult) {
	p.errs = res.errs
	if !gone {
		p.mounted = res.mounted
		// Once ready, a pod stays ready, and one whose volumes are all in place from before a restart of the agent is:
		// content that cannot be brought up to date is an error to report and retry, not a reason to hold back a
		// container that restarts while the API server is away.
		if res.complete {
			p.ready = true
		}
	}
	var wait time.Duration
	if len(res.errs) > 0 {
		p.delay = min(max(p.delay*2, retryFirst), retryMax)
		wait = p.delay
	} else {
		p.delay = 0
		if !res.refresh.IsZero() {
			wait = max(time.Until(res.refresh), time.Second)
		}
	}
	p.stopTimer()
	if wait > 0 {
		p.timer = time.AfterFunc(wait, func() { p.mgr.kick(p.pod.UID) })
	}
}

// report makes one event and one log line of a new failure.
func (p *podWork) report(pod *corev1.Pod, gone bool, res passResult) {
	var lines []string
	for name, err := range res.errs {
		if gone {
			lines = append(lines, err.Error())
		} else {
			lines = append(lines, fmt.Sprintf("MountVolume.SetUp failed for volume %q : %v", name, err))
		}
	}
	slices.Sort(lines)
	msg := strings.Join(lines, "\n")
	p.mgr.mu.Lock()
	news := msg != p.told
	p.told = msg
	p.mgr.mu.Unlock()
	if !news {
		return
	}
	if msg == "" {
		return
	}
	reason := "FailedMount"
	if gone {
		reason = "FailedUnmount"
	}
	for _, l := range lines {
		p.mgr.log.Warn("Volume work failed, will retry", logkey.Pod, pod.Namespace+"/"+pod.Name, logkey.PodUID, pod.UID, logkey.Err, l)
		if pod.Name != "" {
			p.mgr.cfg.OnEvent(pod, corev1.EventTypeWarning, reason, l)
		}
	}
}

// passResult is what one pass found.
type passResult struct {
	mounted map[string]Mounted
	errs    map[string]error
	// complete says that every planned volume is in mounted, with whatever content.
	complete bool
	refresh  time.Time // when content must be looked at again; zero: only on change
}

// setUpPass brings every volume up to date, all at once: most of the time goes by in waiting for objects and tokens.
func (m *Manager) setUpPass(ctx context.Context, pod *corev1.Pod) passResult {
	steps, errs := planSetUp(pod)
	res := passResult{mounted: make(map[string]Mounted, len(steps)), errs: map[string]error{}}
	for n, err := range errs {
		res.errs[n] = err
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, s := range steps {
		do := func() {
			mt, refresh, err := m.setUp(ctx, pod, s)
			mu.Lock()
			defer mu.Unlock()
			// A volume whose content could not be refreshed is still mounted where it was.
			if err != nil {
				res.errs[s.Name] = err
				if mt.HostPath == "" && mt.Image == nil {
					return
				}
			}
			res.mounted[s.Name] = mt
			if !refresh.IsZero() && (res.refresh.IsZero() || refresh.Before(res.refresh)) {
				res.refresh = refresh
			}
		}
		if len(steps) == 1 {
			do()
		} else {
			wg.Go(do)
		}
	}
	wg.Wait()
	res.complete = len(errs) == 0 && len(res.mounted) == len(steps)
	return res
}
