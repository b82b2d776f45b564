package loop

import (
	"sync"
	"time"

	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"
	_ "k8s.io/component-base/metrics/prometheus/workqueue" // depth, latency and retries of every queue, by upstream's names
)

var (
	duration = metrics.NewHistogramVec(&metrics.HistogramOpts{
		Name: "reeve_controller_reconcile_duration_seconds", StabilityLevel: metrics.ALPHA,
		Help: "Time to reconcile one key, by controller.", Buckets: metrics.ExponentialBuckets(0.0005, 4, 9),
	}, []string{"controller"})
	failures = metrics.NewCounterVec(&metrics.CounterOpts{
		Name: "reeve_controller_reconcile_errors_total", StabilityLevel: metrics.ALPHA,
		Help: "Reconciliations that failed and will be tried again, by controller.",
	}, []string{"controller"})
	lastSuccess = metrics.NewGaugeVec(&metrics.GaugeOpts{
		Name: "reeve_controller_last_success_timestamp_seconds", StabilityLevel: metrics.ALPHA,
		Help: "When a reconciliation last succeeded, by controller.",
	}, []string{"controller"})
	once sync.Once
)

func observe(name string, d time.Duration, err error) {
	once.Do(func() { legacyregistry.MustRegister(duration, failures, lastSuccess) })
	duration.WithLabelValues(name).Observe(d.Seconds())
	if err != nil {
		failures.WithLabelValues(name).Inc()
		return
	}
	lastSuccess.WithLabelValues(name).Set(float64(time.Now().Unix()))
}
