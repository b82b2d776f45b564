package stats

import (
	"context"
	"fmt"
	"sync"

	cafs "github.com/google/cadvisor/fs"
	info "github.com/google/cadvisor/info/v1"
	v2 "github.com/google/cadvisor/info/v2"
	camachine "github.com/google/cadvisor/machine"
	"github.com/google/cadvisor/metrics"
	"github.com/google/cadvisor/utils/sysfs"
	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/utils/clock"
)

// MachineInfo is what cAdvisor knows of the machine: cores, topology, memory, filesystems, IDs. Read once; it does not
// change while a node runs.
func (p *Provider) MachineInfo() (*info.MachineInfo, error) {
	p.machineOnce.Do(func() {
		fi, err := cafs.NewFsInfo(cafs.Context{})
		if err != nil {
			p.machineErr = fmt.Errorf("read filesystems: %w", err)
			return
		}
		if p.machine, err = camachine.Info(sysfs.NewRealSysFs(), fi, true); err != nil {
			p.machineErr = fmt.Errorf("read machine: %w", err)
		}
	})
	return p.machine, p.machineErr
}

// Cadvisor is /metrics/cadvisor: every container's figures under cAdvisor's names, with kubelet's labels (namespace, pod,
// container, image, name, id), read when it is scraped.
func (p *Provider) Cadvisor() prometheus.Gatherer {
	src := cadvisorSource{p}
	reg := prometheus.NewRegistry()
	opts := v2.RequestOptions{Count: 1, Recursive: true}
	reg.MustRegister(
		&serial{Collector: metrics.NewPrometheusCollector(src, cadvisorLabels, fullMetrics, clock.RealClock{}, opts)},
		metrics.NewPrometheusMachineCollector(src, fullMetrics))
	return reg
}

// serial runs one scrape at a time: the collector keeps state between its metrics.
type serial struct {
	mu sync.Mutex
	prometheus.Collector
}

func (s *serial) Collect(ch chan<- prometheus.Metric) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.Collector.Collect(ch)
}

const (
	labelContainer = "io.kubernetes.container.name"
	labelPod       = "io.kubernetes.pod.name"
	labelNamespace = "io.kubernetes.pod.namespace"
)

func cadvisorLabels(c *info.ContainerInfo) map[string]string {
	out := map[string]string{metrics.LabelID: c.Name, metrics.LabelName: "", metrics.LabelImage: c.Spec.Image, "pod": "", "namespace": "", "container": ""}
	if len(c.Aliases) > 0 {
		out[metrics.LabelName] = c.Aliases[0]
	}
	out["pod"], out["namespace"], out["container"] = c.Spec.Labels[labelPod], c.Spec.Labels[labelNamespace], c.Spec.Labels[labelContainer]
	return out
}

// cadvisorSource gives cAdvisor's collectors what its manager would, without the manager's housekeeping.
type cadvisorSource struct{ p *Provider }

func (s cadvisorSource) GetMachineInfo() (*info.MachineInfo, error) { return s.p.MachineInfo() }

func (s cadvisorSource) GetVersionInfo() (*info.VersionInfo, error) {
	return &info.VersionInfo{KernelVersion: camachine.KernelVersion(), ContainerOsVersion: camachine.ContainerOsVersion()}, nil
}

func (s cadvisorSource) GetRequestedContainersInfo(string, v2.RequestOptions) (map[string]*info.ContainerInfo, error) {
	ctx, cancel := context.WithTimeout(context.Background(), runtimeTimeout)
	defer cancel()
	w, err := s.p.look(ctx)
	if err != nil {
		return nil, err
	}
	out := map[string]*info.ContainerInfo{}
	add := func(cgroup string, pid int, labels map[string]string, image, id string) {
		st, err := s.p.cgroups.read(cgroup, pid, fullMetrics)
		if err != nil {
			return // it ended meanwhile
		}
		c := &info.ContainerInfo{ContainerReference: info.ContainerReference{Name: cgroup}, Spec: s.p.cgroups.spec(cgroup), Stats: []*info.ContainerStats{st}}
		c.Spec.Labels, c.Spec.Image = labels, image
		if id != "" {
			c.Aliases = []string{id}
		}
		c.Spec.HasNetwork = pid != 0
		out[cgroup] = c
	}
	add("/", 1, nil, "", "")
	for _, p := range w.pods {
		labels := map[string]string{labelPod: p.name, labelNamespace: p.namespace}
		add(p.cgroup, 0, labels, "", "")
		if p.sandboxCgroup != "" {
			pid := s.p.cgroups.firstPID(p.sandboxCgroup)
			if sameNetwork(pid) {
				pid = 0
			}
			add(p.sandboxCgroup, pid, labels, "", p.sandboxID)
		}
		for _, c := range p.containers {
			add(c.cgroup, 0, map[string]string{labelPod: p.name, labelNamespace: p.namespace, labelContainer: c.name}, c.image, c.id)
		}
	}
	return out, nil
}
