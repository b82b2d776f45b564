package probes

import (
	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
)

// metrics carry upstream's names where the meaning is identical; they are what /metrics/probes serves.
type metrics struct {
	total     *prometheus.CounterVec
	duration  *prometheus.HistogramVec
	late      prometheus.Histogram
	discarded prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		total: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "prober_probe_total",
			Help: "Cumulative number of a liveness, readiness or startup probe for a container by result.",
		}, []string{"probe_type", "result", "container", "pod", "namespace", "pod_uid"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "prober_probe_duration_seconds",
			Help: "Duration in seconds for a probe response.",
		}, []string{"probe_type", "container", "pod", "namespace"}),
		late: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "reeve_prober_late_seconds",
			Help:    "How long after its due time a probe began.",
			Buckets: []float64{.001, .005, .02, .1, .5, 2, 10},
		}),
		discarded: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "reeve_prober_discarded_total",
			Help: "Time-outs that were not counted because the agent itself was starved.",
		}),
	}
	if reg != nil {
		reg.MustRegister(m.total, m.duration, m.late, m.discarded)
	}
	return m
}

func (m *metrics) count(w *worker, r Result) {
	m.total.WithLabelValues(w.typ.String(), r.String(), w.name, w.pod.Name, w.pod.Namespace, string(w.pod.UID)).Inc()
}

// forget drops the series of a pod that is gone.
func (m *metrics) forget(pod *corev1.Pod) {
	m.total.DeletePartialMatch(prometheus.Labels{"pod_uid": string(pod.UID)})
	m.duration.DeletePartialMatch(prometheus.Labels{"pod": pod.Name, "namespace": pod.Namespace})
}
