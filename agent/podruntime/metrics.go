package podruntime

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics have upstream's names; operation types are CRI's verbs in snake case.
type metrics struct {
	pods, podErrors                 prometheus.Counter
	byOperation, errors, containers *prometheus.CounterVec
	seconds                         *prometheus.HistogramVec
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		byOperation: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kubelet_runtime_operations_total", Help: "Runtime operations by type."}, []string{"operation_type"}),
		errors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kubelet_runtime_operations_errors_total", Help: "Failed runtime operations by type."}, []string{"operation_type"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "kubelet_runtime_operations_duration_seconds", Help: "Duration of runtime operations by type.",
			Buckets: prometheus.ExponentialBuckets(.005, 2.5, 14)}, []string{"operation_type"}),
		containers: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kubelet_started_containers_total", Help: "Containers started."}, []string{"container_type"}),
		pods: prometheus.NewCounter(prometheus.CounterOpts{Name: "kubelet_started_pods_total", Help: "Pods whose sandbox was started."}),
		podErrors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "kubelet_started_pods_errors_total", Help: "Pods whose sandbox could not be started."}),
	}
	if reg != nil {
		reg.MustRegister(m.byOperation, m.errors, m.seconds, m.containers, m.pods, m.podErrors)
	}
	return m
}

// op counts one operation that began at start and ended with err.
func (m *metrics) op(name string, start time.Time, err error) {
	m.byOperation.WithLabelValues(name).Inc()
	m.seconds.WithLabelValues(name).Observe(time.Since(start).Seconds())
	if err != nil {
		m.errors.WithLabelValues(name).Inc()
	}
}
