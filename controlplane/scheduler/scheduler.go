package scheduler

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/events"
	"k8s.io/kube-scheduler/framework"

	"github.com/reevehq/reeve/controlplane/scheduler/queue"
	"github.com/reevehq/reeve/controlplane/scheduler/state"
	"github.com/reevehq/reeve/internal/logkey"
)

// Scheduler is one running instance; Run makes it.
type Scheduler struct {
	cfg         Config
	factories   map[string]Factory
	scheme      *runtime.Scheme
	broadcaster events.EventBroadcaster
	profiles    map[string]*profile
	queue       *queue.Queue
	cache       *state.Cache
	snapshot    *state.Snapshot
	waiting     waitingPods
	pods        corelisters.PodLister
	bindings    sync.WaitGroup

	nextNode int // the decision loop's own
}

// Run schedules until ctx ends, then waits for bindings in flight. It returns an error only for a bad configuration.
func Run(ctx context.Context, cfg Config) error {
	if err := cfg.complete(); err != nil {
		return err
	}
	registerMetrics()
	s := &Scheduler{
		cfg: cfg, factories: builtin(), scheme: clientscheme.Scheme,
		broadcaster: events.NewBroadcaster(&events.EventSinkImpl{Interface: cfg.Client.EventsV1()}),
		profiles:    map[string]*profile{}, cache: state.NewCache(), snapshot: &state.Snapshot{},
		waiting: waitingPods{pods: map[types.UID]*waitingPod{}},
		pods:    cfg.Informers.Core().V1().Pods().Lister(),
	}
	defer s.broadcaster.Shutdown()
	for name, f := range cfg.Plugins {
		if _, ok := s.factories[name]; ok {
			return fmt.Errorf("scheduler config: plugin %q exists already", name)
		}
		s.factories[name] = f
	}
	hints := map[string][]framework.ClusterEventWithHint{}
	var sort framework.LessFunc
	s.queue = queue.New(queue.Config{
		Less:       func(a, b framework.QueuedPodInfo) bool { return sort(a, b) },
		PreEnqueue: s.preEnqueue, Hints: hints,
	})
	for _, pc := range cfg.Profiles {
		p, err := newProfile(ctx, s, pc)
		if err != nil {
			return err
		}
		if _, ok := s.profiles[p.name]; ok {
			return fmt.Errorf("scheduler config: two profiles are called %q", p.name)
		}
		s.profiles[p.name] = p
		if sort == nil {
			sort = p.sort.Less
		}
		for name, evs := range p.hints {
			hints[name] = append(hints[name], evs...)
		}
	}
	if err := s.broadcaster.StartRecordingToSinkWithContext(ctx); err != nil {
		return fmt.Errorf("start event recording: %w", err)
	}
	synced, stop, err := s.watch()
	defer stop()
	if err != nil {
		return err
	}
	cfg.Informers.Start(ctx.Done())
	if !cache.WaitFor(ctx, "scheduler", synced...) {
		return nil // ended before it began
	}
	cfg.Log.Info("Started scheduler", "profiles", len(s.profiles))

	var loops sync.WaitGroup
	loops.Go(func() { s.queue.Run(ctx) })
	loops.Go(func() {
		for p := s.queue.Pop(); p != nil; p = s.queue.Pop() {
			s.scheduleOne(ctx, p)
		}
	})
	loops.Wait()
	s.bindings.Wait()
	return nil
}

func (s *Scheduler) preEnqueue(ctx context.Context, pod *v1.Pod) *framework.Status {
	p, ok := s.profiles[pod.Spec.SchedulerName]
	if !ok {
		return nil
	}
	for _, pl := range p.preEnqueue {
		if st := pl.PreEnqueue(ctx, pod); !st.IsSuccess() {
			return st.WithPlugin(pl.Name())
		}
	}
	return nil
}

// scheduleOne decides for one pod; binding goes on beside.
func (s *Scheduler) scheduleOne(ctx context.Context, q *queue.Pod) {
	defer s.countPending()
	pod := q.Info.Pod
	p, ok := s.profiles[pod.Spec.SchedulerName]
	if !ok || pod.DeletionTimestamp != nil || s.cache.IsAssumed(pod.UID) {
		s.queue.Done(pod.UID)
		return
	}
	start := time.Now()
	cs := state.NewCycleState()
	d, err := s.decide(ctx, p, cs, pod)
	if err != nil {
		var m *misfit
		if errors.As(err, &m) {
			s.preempt(ctx, p, cs, q, m)
		}
		s.fail(ctx, p, q, err, start)
		return
	}
	assumed := pod.DeepCopy()
	assumed.Spec.NodeName = d.node
	if err := s.cache.AssumePod(assumed); err != nil {
		s.fail(ctx, p, q, err, start)
		return
	}
	s.queue.DeleteNominatedPodIfExists(pod)
	undo := func(err error) {
		for i := len(p.reserve) - 1; i >= 0; i-- {
			p.reserve[i].Unreserve(ctx, cs, assumed, d.node)
		}
		s.cache.ForgetPod(assumed)
		s.fail(ctx, p, q, err, start)
	}
	for _, pl := range p.reserve {
		if st := pl.Reserve(ctx, cs, assumed, d.node); !st.IsSuccess() {
			undo(s.rejected(st.WithPlugin(pl.Name())))
			return
		}
	}
	waits, st := p.runPermit(ctx, cs, assumed, d.node)
	if !st.IsSuccess() {
		undo(s.rejected(st))
		return
	}
	if len(waits) > 0 {
		s.waiting.add(assumed, waits)
	}
	s.bindings.Go(func() {
		if err := s.bind(ctx, p, cs, assumed, d.node); err != nil {
			undo(err)
			// Room that was held is free again.
			s.queue.MoveOn(framework.ClusterEvent{Resource: framework.Pod, ActionType: framework.Delete}, assumed, nil)
			return
		}
		s.queue.Done(pod.UID)
		attempts.WithLabelValues("scheduled", p.name).Inc()
		attemptDuration.WithLabelValues("scheduled", p.name).Observe(time.Since(start).Seconds())
		podDuration.WithLabelValues(fmt.Sprint(min(q.Attempts, 15))).Observe(time.Since(q.FirstAttempt).Seconds())
		s.cfg.Log.Debug("Bound pod", logkey.Pod, pod.Namespace+"/"+pod.Name, logkey.Node, d.node,
			"evaluated", d.evaluated, "feasible", d.feasible, logkey.Duration, time.Since(start))
		p.recorder.Eventf(assumed, nil, v1.EventTypeNormal, "Scheduled", "Binding",
			"Successfully assigned %v/%v to %v", pod.Namespace, pod.Name, d.node)
	})
}

// rejected turns a refusal after the decision into the error that requeues the pod on the plugin's events.
func (s *Scheduler) rejected(st *framework.Status) error {
	if !st.IsRejected() {
		return st.AsError()
	}
	nodes, _, _ := s.cache.Counts() // not the snapshot: the next decision may be changing it
	m := &misfit{nodes: nodes, preFilter: st.Message(), rejectors: queue.Set(), pending: queue.Set()}
	m.reject(st)
	return m
}

// bind waits for permits, prepares (volumes) and writes the binding.
func (s *Scheduler) bind(ctx context.Context, p *profile, cs *state.CycleState, pod *v1.Pod, node string) error {
	if st := s.waiting.wait(ctx, pod.UID); !st.IsSuccess() {
		return s.rejected(st)
	}
	for _, pl := range p.preBind {
		if _, st := pl.PreBindPreFlight(ctx, cs, pod, node); st.IsSkip() {
			continue
		} else if !st.IsSuccess() {
			return fmt.Errorf("prepare binding in %s: %w", pl.Name(), st.AsError())
		}
		if st := pl.PreBind(ctx, cs, pod, node); st.IsRejected() {
			return s.rejected(st.WithPlugin(pl.Name()))
		} else if !st.IsSuccess() {
			return fmt.Errorf("prepare binding in %s: %w", pl.Name(), st.AsError())
		}
	}
	for _, pl := range p.bind {
		st := pl.Bind(ctx, cs, pod, node)
		if st.IsSkip() {
			continue
		}
		if !st.IsSuccess() {
			return st.AsError()
		}
		break
	}
	for _, pl := range p.postBind {
		pl.PostBind(ctx, cs, pod, node)
	}
	return nil
}
