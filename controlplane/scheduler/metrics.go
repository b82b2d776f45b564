package scheduler

import (
	"sync"

	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"
)

// Upstream's names and meanings.
var (
	attempts = metrics.NewCounterVec(&metrics.CounterOpts{
		Subsystem: "scheduler", Name: "schedule_attempts_total", StabilityLevel: metrics.STABLE,
		Help: "Attempts to place pods, by result: scheduled, unschedulable or error.",
	}, []string{"result", "profile"})
	attemptDuration = metrics.NewHistogramVec(&metrics.HistogramOpts{
		Subsystem: "scheduler", Name: "scheduling_attempt_duration_seconds", StabilityLevel: metrics.STABLE,
		Help: "From taking a pod off the queue to its binding or refusal.", Buckets: metrics.ExponentialBuckets(0.0005, 2, 15),
	}, []string{"result", "profile"})
	podDuration = metrics.NewHistogramVec(&metrics.HistogramOpts{
		Subsystem: "scheduler", Name: "pod_scheduling_sli_duration_seconds", StabilityLevel: metrics.BETA,
		Help: "From a pod's first attempt to its binding.", Buckets: metrics.ExponentialBuckets(0.001, 2, 20),
	}, []string{"attempts"})
	pending = metrics.NewGaugeVec(&metrics.GaugeOpts{
		Subsystem: "scheduler", Name: "pending_pods", StabilityLevel: metrics.STABLE,
		Help: "Pods that wait, by room: active, backoff, unschedulable or gated.",
	}, []string{"queue"})
	preemptions = metrics.NewCounter(&metrics.CounterOpts{
		Subsystem: "scheduler", Name: "preemption_attempts_total", StabilityLevel: metrics.STABLE,
		Help: "Preemptions that nominated a node.",
	})
	registerOnce sync.Once
)

func registerMetrics() {
	registerOnce.Do(func() {
		legacyregistry.MustRegister(attempts, attemptDuration, podDuration, pending, preemptions)
	})
}

func (s *Scheduler) countPending() {
	a, b, u, g := s.queue.Counts()
	pending.WithLabelValues("active").Set(float64(a))
	pending.WithLabelValues("backoff").Set(float64(b))
	pending.WithLabelValues("unschedulable").Set(float64(u))
	pending.WithLabelValues("gated").Set(float64(g))
}
