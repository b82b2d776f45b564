package allocator

import (
	"net/netip"
	"sync"
	"time"

	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"
)

// Upstream's names where the meaning is upstream's; the repair loop's own begin with reeve_.
var (
	addressesAllocated = metrics.NewGaugeVec(&metrics.GaugeOpts{
		Name: "kube_apiserver_clusterip_allocator_allocated_ips", StabilityLevel: metrics.ALPHA,
		Help: "Gauge measuring the number of allocated IPs for Services, as the last repair pass saw them"}, []string{"cidr"})
	addressAllocations = metrics.NewCounterVec(&metrics.CounterOpts{
		Name: "kube_apiserver_clusterip_allocator_allocation_total", StabilityLevel: metrics.ALPHA,
		Help: "Number of Cluster IPs allocations"}, []string{"cidr", "scope"})
	addressErrors = metrics.NewCounterVec(&metrics.CounterOpts{
		Name: "kube_apiserver_clusterip_allocator_allocation_errors_total", StabilityLevel: metrics.ALPHA,
		Help: "Number of errors trying to allocate Cluster IPs"}, []string{"cidr", "scope"})
	portsAllocated = metrics.NewGauge(&metrics.GaugeOpts{
		Name: "kube_apiserver_nodeport_allocator_allocated_ports", StabilityLevel: metrics.ALPHA,
		Help: "Gauge measuring the number of allocated NodePorts for Services, as the last repair pass saw them"})
	portAllocations = metrics.NewCounterVec(&metrics.CounterOpts{
		Name: "kube_apiserver_nodeport_allocator_allocation_total", StabilityLevel: metrics.ALPHA,
		Help: "Number of NodePort allocations"}, []string{"scope"})
	portErrors = metrics.NewCounterVec(&metrics.CounterOpts{
		Name: "kube_apiserver_nodeport_allocator_allocation_errors_total", StabilityLevel: metrics.ALPHA,
		Help: "Number of errors trying to allocate NodePort"}, []string{"scope"})

	repairDuration = metrics.NewHistogram(&metrics.HistogramOpts{
		Name: "reeve_service_repair_duration_seconds", StabilityLevel: metrics.ALPHA, Buckets: []float64{.005, .02, .1, .5, 2, 10, 60},
		Help: "How long a pass of the Service allocation repair took"})
	repairErrors = metrics.NewCounter(&metrics.CounterOpts{
		Name: "reeve_service_repair_errors_total", StabilityLevel: metrics.ALPHA,
		Help: "Passes of the Service allocation repair that failed"})
	repairSuspects = metrics.NewGauge(&metrics.GaugeOpts{
		Name: "reeve_service_repair_suspects", StabilityLevel: metrics.ALPHA,
		Help: "Addresses and ports that no Service holds and that will be taken back if that stays so"})
	repairSuccess = metrics.NewGauge(&metrics.GaugeOpts{
		Name: "reeve_service_repair_last_success_seconds", StabilityLevel: metrics.ALPHA,
		Help: "When the last pass of the Service allocation repair succeeded, in seconds since 1970"})

	registerMetrics = sync.OnceFunc(func() {
		legacyregistry.MustRegister(addressesAllocated, addressAllocations, addressErrors, portsAllocated, portAllocations, portErrors,
			repairDuration, repairErrors, repairSuspects, repairSuccess)
	})
)

// The scopes of an allocation, by upstream's words: what was asked for, and what was picked.
const (
	scopeStatic  = "static"
	scopeDynamic = "dynamic"
)

func countAddress(prefix netip.Prefix, scope string, err error) {
	if err != nil {
		addressErrors.WithLabelValues(prefix.String(), scope).Inc()
		return
	}
	addressAllocations.WithLabelValues(prefix.String(), scope).Inc()
}

func countPort(scope string, err error) {
	if err != nil {
		portErrors.WithLabelValues(scope).Inc()
		return
	}
	portAllocations.WithLabelValues(scope).Inc()
}

func observeRepair(start time.Time, p *repairs, o observed, spans []span, err error) {
	repairDuration.Observe(time.Since(start).Seconds())
	if err != nil {
		repairErrors.Inc()
		return
	}
	repairSuccess.Set(float64(time.Now().Unix()))
	repairSuspects.Set(float64(len(p.leaks.addresses) + len(p.leaks.ports)))
	ports := 0
	for i := range o.ports.BitLen() {
		ports += int(o.ports.Bit(i))
	}
	portsAllocated.Set(float64(ports))
	for _, s := range spans {
		n := 0
		for i := range o.addresses {
			if a, err := netip.ParseAddr(o.addresses[i].Name); err == nil && s.holds(a) {
				n++
			}
		}
		addressesAllocated.WithLabelValues(s.prefix.String()).Set(float64(n))
	}
}
