package native

import (
	"context"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/reevehq/reeve/internal/cgroup"
	"github.com/reevehq/reeve/internal/logkey"
)

// metric is one row of the descriptor list: cAdvisor's names, whose dashboards users have. CRI carries whole numbers, so
// seconds are rounded down.
type metric struct {
	name, help string
	kind       runtimeapi.MetricType
	labels     []string // after metricLabels
}

var (
	// metricLabels name a container as cAdvisor does; of a pod as a whole, container, image and name are empty.
	metricLabels = []string{"container", "id", "image", "name", "namespace", "pod"}

	counter, gauge = runtimeapi.MetricType_COUNTER, runtimeapi.MetricType_GAUGE

	metricCPU       = metric{"container_cpu_usage_seconds_total", "Cumulative cpu time consumed in seconds", counter, nil}
	metricMemory    = metric{"container_memory_usage_bytes", "Current memory usage in bytes, including all memory regardless of when it was accessed", gauge, nil}
	metricWorking   = metric{"container_memory_working_set_bytes", "Current working set in bytes", gauge, nil}
	metricRSS       = metric{"container_memory_rss", "Size of RSS in bytes", gauge, nil}
	metricSwap      = metric{"container_memory_swap", "Container swap usage in bytes", gauge, nil}
	metricFailures  = metric{"container_memory_failures_total", "Cumulative count of memory allocation failures", counter, []string{"failure_type", "scope"}}
	metricLimit     = metric{"container_spec_memory_limit_bytes", "Memory limit for the container", gauge, nil}
	metricOOM       = metric{"container_oom_events_total", "Count of out of memory events observed for the container", counter, nil}
	metricProcesses = metric{"container_processes", "Number of processes running inside the container", gauge, nil}
	metricStart     = metric{"container_start_time_seconds", "Start time of the container since unix epoch in seconds", gauge, nil}
	metricSeen      = metric{"container_last_seen", "Last time a container was seen by the exporter", gauge, nil}
	metricFS        = metric{"container_fs_usage_bytes", "Number of bytes that are consumed by the container on this filesystem", gauge, []string{"device"}}
	metricInodes    = metric{"container_fs_inodes_total", "Number of inodes that are consumed by the container on this filesystem", gauge, []string{"device"}}

	metricsOfContainer = []metric{
		metricCPU, metricMemory, metricWorking, metricRSS, metricSwap, metricFailures, metricLimit, metricOOM, metricProcesses,
		metricStart, metricSeen, metricFS, metricInodes,
	}
	// metricsOfNetwork have the columns of /proc/net/dev.
	metricsOfNetwork = []struct {
		metric
		column int
	}{
		{netMetric("receive_bytes", "bytes received"), 0}, {netMetric("receive_packets", "packets received"), 1},
		{netMetric("receive_errors", "errors encountered while receiving"), 2}, {netMetric("receive_packets_dropped", "packets dropped while receiving"), 3},
		{netMetric("transmit_bytes", "bytes transmitted"), 8}, {netMetric("transmit_packets", "packets transmitted"), 9},
		{netMetric("transmit_errors", "errors encountered while transmitting"), 10}, {netMetric("transmit_packets_dropped", "packets dropped while transmitting"), 11},
	}
)

func netMetric(name, what string) metric {
	return metric{"container_network_" + name + "_total", "Cumulative count of " + what, counter, []string{"interface"}}
}

// ListMetricDescriptors names what ListPodSandboxMetrics gives.
func (r *Runtime) ListMetricDescriptors(context.Context) ([]*runtimeapi.MetricDescriptor, error) {
	var out []*runtimeapi.MetricDescriptor
	add := func(m metric) {
		out = append(out, &runtimeapi.MetricDescriptor{Name: m.name, Help: m.help, LabelKeys: append(append([]string{}, metricLabels...), m.labels...)})
	}
	for _, m := range metricsOfContainer {
		add(m)
	}
	for _, m := range metricsOfNetwork {
		add(m.metric)
	}
	return out, nil
}

// metricRow collects the metrics of one container, or of a pod as a whole.
type metricRow struct {
	at     int64
	labels []string // the values of metricLabels
	out    []*runtimeapi.Metric
}

func (b *metricRow) add(m metric, v *uint64, labels ...string) {
	if v == nil {
		return
	}
	b.out = append(b.out, &runtimeapi.Metric{
		Name: m.name, Timestamp: b.at, MetricType: m.kind, LabelValues: append(append([]string{}, b.labels...), labels...), Value: value(v),
	})
}

func (b *metricRow) usage(u cgroup.Usage) {
	if u.CPUNanoseconds != nil {
		seconds := *u.CPUNanoseconds / uint64(time.Second)
		b.add(metricCPU, &seconds)
	}
	b.add(metricMemory, u.MemoryUsage)
	b.add(metricWorking, u.MemoryWorkingSet)
	b.add(metricRSS, u.MemoryRSS)
	b.add(metricSwap, u.SwapUsage)
	b.add(metricFailures, u.PageFaults, "pgfault", "container")
	b.add(metricFailures, u.MajorPageFaults, "pgmajfault", "container")
	b.add(metricLimit, u.MemoryLimit)
	b.add(metricOOM, u.OOMKills)
	b.add(metricProcesses, u.Processes)
}

// ListPodSandboxMetrics reads the metrics of the ready sandboxes and their running containers.
func (r *Runtime) ListPodSandboxMetrics(ctx context.Context) ([]*runtimeapi.PodSandboxMetrics, error) {
	r.store.mu.RLock()
	var list []*sandbox
	for _, s := range r.store.sandboxes {
		if s.state == sandboxReady {
			list = append(list, s)
		}
	}
	r.store.mu.RUnlock()
	var out []*runtimeapi.PodSandboxMetrics
	for _, s := range list {
		out = append(out, r.sandboxMetrics(ctx, s))
	}
	return out, ctx.Err()
}

func (r *Runtime) sandboxMetrics(ctx context.Context, s *sandbox) *runtimeapi.PodSandboxMetrics {
	now := time.Now()
	m := s.rec.Config.M.Metadata
	pod := metricRow{at: now.UnixNano(), labels: []string{"", s.id, "", "", m.Namespace, m.Name}}
	if cg := r.podCgroup(s); cg != "" {
		pod.labels[1] = cg
		pod.usage(r.cgroups.Read(cg))
	}
	if s.rec.NetNS != "" {
		rows, err := interfaceCounters(s.rec.NetNS)
		if err != nil {
			r.log.Debug("Could not read a pod's network counters", logkey.SandboxID, s.id, logkey.Err, err)
		}
		for _, row := range rows {
			for _, n := range metricsOfNetwork {
				pod.add(n.metric, &row.n[n.column], row.name)
			}
		}
	}
	out := &runtimeapi.PodSandboxMetrics{PodSandboxId: s.id, Metrics: pod.out}
	for _, in := range r.statsInputs(func(c *container) bool { return c.rec.SandboxID == s.id }) {
		cg := r.cgroupPath(in.rec.Cgroup)
		row := metricRow{at: now.UnixNano(), labels: []string{
			in.rec.Config.M.GetMetadata().GetName(), cg, in.rec.ImageRef, in.id, m.Namespace, m.Name,
		}}
		row.usage(r.cgroups.Read(cg))
		start, seen := uint64(max(in.started.Unix(), 0)), uint64(now.Unix())
		row.add(metricStart, &start)
		row.add(metricSeen, &seen)
		if l, ok := r.layerUsage(ctx, in.id); ok {
			row.add(metricFS, &l.size, r.images.root())
			row.add(metricInodes, &l.inodes, r.images.root())
		}
		out.ContainerMetrics = append(out.ContainerMetrics, &runtimeapi.ContainerMetrics{ContainerId: in.id, Metrics: row.out})
	}
	return out
}

// interfaceRow is a line of /proc/net/dev: 8 counters of what was received, then 8 of what was sent.
type interfaceRow struct {
	name string
	n    [16]uint64
}

// interfaceCounters reads the counters of a network namespace's interfaces but loopback.
func interfaceCounters(netns string) ([]interfaceRow, error) {
	var text []byte
	if err := onThread(func() (err error) {
		if err = enter(netns, unix.CLONE_NEWNET); err == nil {
			text, err = os.ReadFile("/proc/thread-self/net/dev")
		}
		return err
	}); err != nil {
		return nil, err
	}
	var out []interfaceRow
	for line := range strings.Lines(string(text)) {
		name, rest, ok := strings.Cut(line, ":")
		row := interfaceRow{name: strings.TrimSpace(name)}
		if !ok || row.name == "lo" {
			continue
		}
		f := strings.Fields(rest)
		for i := range min(len(f), len(row.n)) {
			row.n[i], _ = strconv.ParseUint(f[i], 10, 64)
		}
		out = append(out, row)
	}
	return out, nil
}

// networkUsage is the pod's network in CRI's form. eth0 is the pod's own interface, by CNI's convention.
func networkUsage(netns string, now int64) (*runtimeapi.NetworkUsage, error) {
	rows, err := interfaceCounters(netns)
	if err != nil {
		return nil, err
	}
	out := &runtimeapi.NetworkUsage{Timestamp: now}
	for _, row := range rows {
		u := &runtimeapi.NetworkInterfaceUsage{Name: row.name, RxBytes: value(&row.n[0]), RxErrors: value(&row.n[2]), TxBytes: value(&row.n[8]), TxErrors: value(&row.n[10])}
		if row.name == "eth0" {
			out.DefaultInterface = u
		} else {
			out.Interfaces = append(out.Interfaces, u)
		}
	}
	return out, nil
}
