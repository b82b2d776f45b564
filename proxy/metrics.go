package proxy

import (
	"fmt"
	"math"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/reevehq/reeve/proxy/plan"
)

// metrics carry upstream's names where they mean the same.
type metrics struct {
	registry *prometheus.Registry

	syncSeconds        *prometheus.HistogramVec
	fullSeconds        *prometheus.HistogramVec
	partialSeconds     *prometheus.HistogramVec
	programmingSeconds prometheus.Histogram
	lastSync           prometheus.Gauge
	lastQueued         prometheus.Gauge
	endpointChanges    prometheus.Counter
	serviceChanges     prometheus.Counter
	rules              *prometheus.GaugeVec
	rulesWritten       *prometheus.GaugeVec
	restoreFailures    *prometheus.CounterVec
	noLocalEndpoints   *prometheus.GaugeVec
	conntrackDeleted   *prometheus.CounterVec
	heals              *prometheus.CounterVec
	healthz, livez     *prometheus.CounterVec
}

func newMetrics(r *prometheus.Registry, mode Mode) (*metrics, error) {
	buckets := prometheus.ExponentialBuckets(0.001, 2, 15)
	opts := func(name, help string) prometheus.Opts {
		return prometheus.Opts{Namespace: "kubeproxy", Name: name, Help: help}
	}
	histogram := func(name, help string, b []float64) prometheus.HistogramOpts {
		return prometheus.HistogramOpts{Namespace: "kubeproxy", Name: name, Help: help, Buckets: b}
	}
	family := []string{"ip_family"}
	rules, failures := opts("sync_proxy_rules_iptables_total", "Rules in place."), "sync_proxy_rules_iptables_restore_failures_total"
	if mode == ModeNFTables {
		// "table" is what is counted here: rules, which do not grow with Services, or elements, which do.
		rules = prometheus.Opts{Namespace: "reeve", Name: "proxy_nftables_objects", Help: "Rules and elements in place."}
		failures = "sync_proxy_rules_nftables_sync_failures_total"
	}
	if mode == ModeIPVS {
		rules = prometheus.Opts{Namespace: "reeve", Name: "proxy_ipvs_objects", Help: "Virtual services, real servers, addresses and set entries in place."}
	}
	m := &metrics{
		registry:       r,
		syncSeconds:    prometheus.NewHistogramVec(histogram("sync_proxy_rules_duration_seconds", "Duration of a programming of rules.", buckets), family),
		fullSeconds:    prometheus.NewHistogramVec(histogram("sync_full_proxy_rules_duration_seconds", "Duration of a programming of all rules.", buckets), family),
		partialSeconds: prometheus.NewHistogramVec(histogram("sync_partial_proxy_rules_duration_seconds", "Duration of a programming of changed rules.", buckets), family),
		programmingSeconds: prometheus.NewHistogram(histogram("network_programming_duration_seconds",
			"From a change of a Service's pods to its rules on this node.", []float64{0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2, 3, 5, 10, 20, 30, 60, 120, 300})),
		lastSync:         prometheus.NewGauge(prometheus.GaugeOpts(opts("sync_proxy_rules_last_timestamp_seconds", "When rules were last programmed."))),
		lastQueued:       prometheus.NewGauge(prometheus.GaugeOpts(opts("sync_proxy_rules_last_queued_timestamp_seconds", "When a programming was last asked for."))),
		endpointChanges:  prometheus.NewCounter(prometheus.CounterOpts(opts("sync_proxy_rules_endpoint_changes_total", "Changes of EndpointSlices."))),
		serviceChanges:   prometheus.NewCounter(prometheus.CounterOpts(opts("sync_proxy_rules_service_changes_total", "Changes of Services."))),
		rules:            prometheus.NewGaugeVec(prometheus.GaugeOpts(rules), []string{"table", "ip_family"}),
		rulesWritten:     prometheus.NewGaugeVec(prometheus.GaugeOpts(opts("sync_proxy_rules_iptables_last", "Rules added or removed by the last programming.")), []string{"table", "ip_family"}),
		restoreFailures:  prometheus.NewCounterVec(prometheus.CounterOpts(opts(failures, "Failed programmings.")), family),
		noLocalEndpoints: prometheus.NewGaugeVec(prometheus.GaugeOpts(opts("sync_proxy_rules_no_local_endpoints_total", "Services with a Local policy and endpoints, but none on this node.")), []string{"traffic_policy"}),
		conntrackDeleted: prometheus.NewCounterVec(prometheus.CounterOpts(opts("conntrack_reconciler_deleted_entries_total", "Stale flows forgotten.")), family),
		heals: prometheus.NewCounterVec(prometheus.CounterOpts{Namespace: "reeve", Name: "proxy_heals_total",
			Help: "Times that rules which another program changed were mended."}, family),
		healthz: prometheus.NewCounterVec(prometheus.CounterOpts(opts("proxy_healthz_total", "Answers of /healthz.")), []string{"code"}),
		livez:   prometheus.NewCounterVec(prometheus.CounterOpts(opts("proxy_livez_total", "Answers of /livez.")), []string{"code"}),
	}
	for _, c := range []prometheus.Collector{
		m.syncSeconds, m.fullSeconds, m.partialSeconds, m.programmingSeconds, m.lastSync, m.lastQueued, m.endpointChanges,
		m.serviceChanges, m.rules, m.rulesWritten, m.restoreFailures, m.noLocalEndpoints, m.conntrackDeleted, m.heals, m.healthz, m.livez,
	} {
		if err := r.Register(c); err != nil {
			return nil, fmt.Errorf("register the proxy's metrics: %w", err)
		}
	}
	return m, nil
}

func familyLabel(f plan.Family) string { return "IPv" + strconv.Itoa(int(f)) }

func (m *metrics) changes(b batch) {
	m.serviceChanges.Add(float64(b.serviceChanges))
	m.endpointChanges.Add(float64(b.endpointChanges))
	m.lastQueued.Set(unixSeconds(time.Now()))
}

func (m *metrics) applied(f plan.Family, took time.Duration, full bool, rules map[string]int) {
	label := familyLabel(f)
	m.syncSeconds.WithLabelValues(label).Observe(took.Seconds())
	which := m.partialSeconds
	if full {
		which = m.fullSeconds
	}
	which.WithLabelValues(label).Observe(took.Seconds())
	for table, n := range rules {
		m.rules.WithLabelValues(table, label).Set(float64(n))
	}
}

func (m *metrics) written(f plan.Family, rules map[string]int) {
	for table, n := range rules {
		m.rulesWritten.WithLabelValues(table, familyLabel(f)).Set(float64(n))
	}
}

func (m *metrics) failed(f plan.Family) { m.restoreFailures.WithLabelValues(familyLabel(f)).Inc() }

func (m *metrics) healed(f plan.Family) { m.heals.WithLabelValues(familyLabel(f)).Inc() }

func (m *metrics) programmed(latency time.Duration) {
	m.programmingSeconds.Observe(max(0, latency.Seconds()))
}

func (m *metrics) synced(now time.Time, t *tally) {
	m.lastSync.Set(unixSeconds(now))
	m.noLocalEndpoints.WithLabelValues("internal").Set(float64(t.noLocalInternal))
	m.noLocalEndpoints.WithLabelValues("external").Set(float64(t.noLocalExternal))
}

func (m *metrics) flowsDeleted(f plan.Family, n int) {
	m.conntrackDeleted.WithLabelValues(familyLabel(f)).Add(float64(n))
}

func unixSeconds(t time.Time) float64 { return math.Round(float64(t.UnixMicro())) / 1e6 }
