package agent

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/reevehq/reeve/agent/container"
	"github.com/reevehq/reeve/agent/podworker/podstate"
)

// registerProcess adds what every program tells of itself.
func registerProcess(r prometheus.Registerer) {
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
}

var (
	runningPods = prometheus.NewDesc("kubelet_running_pods", "Pods with a running sandbox.", nil, nil)
	runningCtrs = prometheus.NewDesc("kubelet_running_containers", "Containers by state.", []string{"container_state"}, nil)
	desiredPods = prometheus.NewDesc("kubelet_desired_pods", "Pods that the node is to run.", []string{"static"}, nil)
	nodeName    = prometheus.NewDesc("kubelet_node_name", "The node's name.", []string{"node"}, nil)
)

// podCollector counts what is known of pods, when it is asked.
type podCollector struct {
	pods *pods
	node string
}

func (c *podCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- runningPods
	ch <- runningCtrs
	ch <- desiredPods
	ch <- nodeName
}

func (c *podCollector) Collect(ch chan<- prometheus.Metric) {
	running, static, api := 0, 0, 0
	states := map[podstate.State]int{podstate.Created: 0, podstate.Running: 0, podstate.Exited: 0}
	c.pods.mu.Lock()
	for _, r := range c.pods.reports {
		if s := r.State.Current(); s != nil && s.Ready {
			running++
		}
		for i := range r.State.Containers {
			states[r.State.Containers[i].State]++
		}
	}
	for _, p := range c.pods.known {
		if container.IsStatic(p) {
			static++
		} else {
			api++
		}
	}
	c.pods.mu.Unlock()
	gauge := func(d *prometheus.Desc, v int, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), labels...)
	}
	gauge(runningPods, running)
	for s, n := range states {
		gauge(runningCtrs, n, s.String())
	}
	gauge(desiredPods, static, "true")
	gauge(desiredPods, api, "false")
	gauge(nodeName, 1, c.node)
}

// configz is what /configz shows, in KubeletConfiguration's words.
func configz(c *Config) map[string]any {
	dns := []string{}
	for _, ip := range c.ClusterDNS {
		dns = append(dns, ip.String())
	}
	return map[string]any{
		"apiVersion": "kubelet.config.k8s.io/v1beta1", "kind": "KubeletConfiguration",
		"staticPodPath": c.StaticPodPath, "port": c.Port, "healthzPort": c.HealthzPort, "healthzBindAddress": c.HealthzBindAddress.String(),
		"clusterDomain": c.ClusterDomain, "clusterDNS": dns, "maxPods": c.MaxPods, "podPidsLimit": c.PodPidsLimit,
		"cgroupDriver": c.CgroupDriver, "cgroupRoot": c.CgroupRoot, "evictionHard": c.EvictionHard,
		"enforceNodeAllocatable": c.EnforceNodeAllocatable, "kubeReserved": c.KubeReserved, "systemReserved": c.SystemReserved,
		"syncFrequency": c.SyncFrequency.String(), "nodeStatusUpdateFrequency": c.NodeStatusUpdateFrequency.String(),
		"nodeStatusReportFrequency": c.NodeStatusReportFrequency.String(), "nodeLeaseDurationSeconds": int(c.NodeLeaseDuration.Seconds()),
		"eventRecordQPS": max(c.EventRecordQPS, 0), "eventBurst": c.EventBurst,
		"serializeImagePulls": c.SerializeImagePulls, "maxParallelImagePulls": c.MaxParallelImagePulls,
		"imageGCHighThresholdPercent": c.ImageGCHighThresholdPercent, "imageGCLowThresholdPercent": c.ImageGCLowThresholdPercent,
		"imageMinimumGCAge": c.ImageMinimumGCAge.String(), "containerLogMaxFiles": c.ContainerLogMaxFiles,
		"serverTLSBootstrap": c.ServerTLSBootstrap, "seccompDefault": c.SeccompDefault, "podLogsDir": c.PodLogsDir,
	}
}
