package server

import (
	"context"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// resourceTimeout bounds one scrape of /metrics/resource.
const resourceTimeout = 10 * time.Second

// resourceGatherer is /metrics/resource, what metrics-server scrapes: processor time and memory of node, pods and
// containers under upstream's names, each with the time at which it was read.
func resourceGatherer(s Stats) prometheus.Gatherer {
	reg := prometheus.NewRegistry()
	reg.MustRegister(resourceCollector{s})
	return reg
}

type resourceCollector struct{ stats Stats }

var (
	nodeCPU    = prometheus.NewDesc("node_cpu_usage_seconds_total", "Cumulative cpu time consumed by the node in core-seconds", nil, nil)
	nodeMemory = prometheus.NewDesc("node_memory_working_set_bytes", "Current working set of the node in bytes", nil, nil)
	nodeSwap   = prometheus.NewDesc("node_swap_usage_bytes", "Current swap usage of the node in bytes. Reported only on non-windows systems", nil, nil)

	containerLabels = []string{"container", "pod", "namespace"}
	containerCPU    = prometheus.NewDesc("container_cpu_usage_seconds_total", "Cumulative cpu time consumed by the container in core-seconds", containerLabels, nil)
	containerMemory = prometheus.NewDesc("container_memory_working_set_bytes", "Current working set of the container in bytes", containerLabels, nil)
	containerSwap   = prometheus.NewDesc("container_swap_usage_bytes", "Current amount of the container swap usage in bytes. Reported only on non-windows systems", containerLabels, nil)
	containerStart  = prometheus.NewDesc("container_start_time_seconds", "Start time of the container since unix epoch in seconds", containerLabels, nil)

	podLabels = []string{"pod", "namespace"}
	podCPU    = prometheus.NewDesc("pod_cpu_usage_seconds_total", "Cumulative cpu time consumed by the pod in core-seconds", podLabels, nil)
	podMemory = prometheus.NewDesc("pod_memory_working_set_bytes", "Current working set of the pod in bytes", podLabels, nil)
	podSwap   = prometheus.NewDesc("pod_swap_usage_bytes", "Current amount of the pod swap usage in bytes. Reported only on non-windows systems", podLabels, nil)

	scrapeError = prometheus.NewDesc("resource_scrape_error", "1 if there was an error while getting container metrics, 0 otherwise", nil, nil)
)

func (resourceCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{nodeCPU, nodeMemory, nodeSwap, containerCPU, containerMemory, containerSwap, containerStart, podCPU, podMemory, podSwap, scrapeError} {
		ch <- d
	}
}

func (c resourceCollector) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), resourceTimeout)
	defer cancel()
	s, err := c.stats.Summary(ctx, true)
	if err != nil {
		ch <- prometheus.MustNewConstMetric(scrapeError, prometheus.GaugeValue, 1)
		return
	}
	ch <- prometheus.MustNewConstMetric(scrapeError, prometheus.GaugeValue, 0)
	usage(ch, s.Node.CPU, s.Node.Memory, s.Node.Swap, nodeCPU, nodeMemory, nodeSwap)
	for i := range s.Pods {
		p := &s.Pods[i]
		usage(ch, p.CPU, p.Memory, p.Swap, podCPU, podMemory, podSwap, p.PodRef.Name, p.PodRef.Namespace)
		for j := range p.Containers {
			k := &p.Containers[j]
			labels := []string{k.Name, p.PodRef.Name, p.PodRef.Namespace}
			usage(ch, k.CPU, k.Memory, k.Swap, containerCPU, containerMemory, containerSwap, labels...)
			if !k.StartTime.IsZero() {
				ch <- prometheus.MustNewConstMetric(containerStart, prometheus.GaugeValue, float64(k.StartTime.UnixNano())/1e9, labels...)
			}
		}
	}
}

func usage(ch chan<- prometheus.Metric, cpu *statsapi.CPUStats, mem *statsapi.MemoryStats, swap *statsapi.SwapStats, cpuDesc, memDesc, swapDesc *prometheus.Desc, labels ...string) {
	if cpu != nil && cpu.UsageCoreNanoSeconds != nil {
		ch <- prometheus.NewMetricWithTimestamp(cpu.Time.Time,
			prometheus.MustNewConstMetric(cpuDesc, prometheus.CounterValue, float64(*cpu.UsageCoreNanoSeconds)/1e9, labels...))
	}
	if mem != nil && mem.WorkingSetBytes != nil {
		ch <- prometheus.NewMetricWithTimestamp(mem.Time.Time,
			prometheus.MustNewConstMetric(memDesc, prometheus.GaugeValue, float64(*mem.WorkingSetBytes), labels...))
	}
	if swap != nil && swap.SwapUsageBytes != nil {
		ch <- prometheus.NewMetricWithTimestamp(swap.Time.Time,
			prometheus.MustNewConstMetric(swapDesc, prometheus.GaugeValue, float64(*swap.SwapUsageBytes), labels...))
	}
}
