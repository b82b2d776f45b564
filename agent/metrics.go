package agent

import (
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// registerProcess adds what every program tells of itself.
func registerProcess(r prometheus.Registerer) {
	r.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
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
		"serializeImagePulls": c.SerializeImagePulls, "maxParallelImagePulls": c.MaxParallelImagePulls,
		"imageGCHighThresholdPercent": c.ImageGCHighThresholdPercent, "imageGCLowThresholdPercent": c.ImageGCLowThresholdPercent,
		"imageMinimumGCAge": c.ImageMinimumGCAge.String(), "containerLogMaxFiles": c.ContainerLogMaxFiles,
		"serverTLSBootstrap": c.ServerTLSBootstrap, "seccompDefault": c.SeccompDefault, "podLogsDir": c.PodLogsDir,
	}
}
