package kubeletconfig

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"
	cliflag "k8s.io/component-base/cli/flag"
	kubelet "k8s.io/kubelet/config/v1beta1"
)

// validate reports every field that cannot work.
func validate(c *kubelet.KubeletConfiguration) error {
	var errs []error
	bad := func(field, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s: %s", field, fmt.Sprintf(format, args...)))
	}
	for field, p := range map[string]int32{"port": c.Port, "healthzPort": *c.HealthzPort} {
		if p < 0 || p > 65535 || p == 0 && field == "port" {
			bad(field, "%d is no port; give 1 to 65535", p)
		}
	}
	for field, s := range map[string]string{"address": c.Address, "healthzBindAddress": c.HealthzBindAddress} {
		if _, err := netip.ParseAddr(s); err != nil {
			bad(field, "%q is not an IP address", s)
		}
	}
	for i, s := range c.ClusterDNS {
		if _, err := netip.ParseAddr(s); err != nil {
			bad(fmt.Sprintf("clusterDNS[%d]", i), "%q is not an IP address", s)
		}
	}
	if c.ClusterDomain != "" {
		if errs := validation.IsDNS1123Subdomain(c.ClusterDomain); len(errs) > 0 {
			bad("clusterDomain", "%q: %s", c.ClusterDomain, errs[0])
		}
	}
	for field, path := range map[string]string{"staticPodPath": c.StaticPodPath, "podLogsDir": c.PodLogsDir, "cgroupRoot": c.CgroupRoot} {
		if path != "" && !filepath.IsAbs(path) {
			bad(field, "%q is not an absolute path", path)
		}
	}
	if !slices.Contains([]string{"", "cgroupfs", "systemd"}, c.CgroupDriver) {
		bad("cgroupDriver", "%q is unknown; use cgroupfs or systemd", c.CgroupDriver)
	}
	if (c.TLSCertFile == "") != (c.TLSPrivateKeyFile == "") {
		bad("tlsCertFile", "it goes together with tlsPrivateKeyFile; give both or neither")
	}
	if _, err := cliflag.TLSVersion(c.TLSMinVersion); err != nil {
		bad("tlsMinVersion", "%v", err)
	}
	if _, err := cliflag.TLSCipherSuites(c.TLSCipherSuites); err != nil {
		bad("tlsCipherSuites", "%v", err)
	}
	if m := c.Authorization.Mode; m != kubelet.KubeletAuthorizationModeAlwaysAllow && m != kubelet.KubeletAuthorizationModeWebhook {
		bad("authorization.mode", "%q is unknown; use Webhook or AlwaysAllow", m)
	}
	if !slices.Contains([]string{"text", "json"}, c.Logging.Format) {
		bad("logging.format", "%q is unknown; use text or json", c.Logging.Format)
	}
	for _, e := range c.EnforceNodeAllocatable {
		if !slices.Contains([]string{"pods", "none", "system-reserved", "kube-reserved", "system-reserved-compressible", "kube-reserved-compressible"}, e) {
			bad("enforceNodeAllocatable", "%q is unknown; use pods or none", e)
		}
	}
	if slices.Contains(c.EnforceNodeAllocatable, "none") && len(c.EnforceNodeAllocatable) > 1 {
		bad("enforceNodeAllocatable", "none goes with nothing else")
	}
	for field, m := range map[string]map[string]string{"systemReserved": c.SystemReserved, "kubeReserved": c.KubeReserved} {
		if _, err := Resources(m); err != nil {
			bad(field, "%v", err)
		}
	}
	if q, err := resource.ParseQuantity(c.ContainerLogMaxSize); err != nil || q.Sign() <= 0 {
		bad("containerLogMaxSize", "%q is no positive quantity such as 10Mi", c.ContainerLogMaxSize)
	}
	if *c.ContainerLogMaxFiles < 2 {
		bad("containerLogMaxFiles", "%d is less than 2", *c.ContainerLogMaxFiles)
	}
	high, low := *c.ImageGCHighThresholdPercent, *c.ImageGCLowThresholdPercent
	if high < 0 || high > 100 {
		bad("imageGCHighThresholdPercent", "%d is not within 0 to 100", high)
	}
	if low < 0 || low >= high {
		bad("imageGCLowThresholdPercent", "%d is not below imageGCHighThresholdPercent %d", low, high)
	}
	if c.ImageMaximumGCAge.Duration != 0 && c.ImageMaximumGCAge.Duration < c.ImageMinimumGCAge.Duration {
		bad("imageMaximumGCAge", "%s is less than imageMinimumGCAge %s", c.ImageMaximumGCAge.Duration, c.ImageMinimumGCAge.Duration)
	}
	if c.MaxParallelImagePulls != nil && *c.MaxParallelImagePulls < 1 {
		bad("maxParallelImagePulls", "%d is less than 1", *c.MaxParallelImagePulls)
	}
	if c.SerializeImagePulls != nil && *c.SerializeImagePulls && c.MaxParallelImagePulls != nil && *c.MaxParallelImagePulls > 1 {
		bad("maxParallelImagePulls", "%d needs serializeImagePulls: false", *c.MaxParallelImagePulls)
	}
	for field, n := range map[string]int32{"maxPods": c.MaxPods, "podsPerCore": c.PodsPerCore, "kubeAPIQPS": *c.KubeAPIQPS, "kubeAPIBurst": c.KubeAPIBurst, "eventRecordQPS": *c.EventRecordQPS, "eventBurst": c.EventBurst, "evictionMaxPodGracePeriod": c.EvictionMaxPodGracePeriod, "nodeLeaseDurationSeconds": c.NodeLeaseDurationSeconds} {
		if n < 0 {
			bad(field, "%d is negative", n)
		}
	}
	if a := *c.OOMScoreAdj; a < -1000 || a > 1000 {
		bad("oomScoreAdj", "%d is not within -1000 to 1000", a)
	}
	if *c.PodPidsLimit == 0 || *c.PodPidsLimit < -1 {
		bad("podPidsLimit", "%d: give a positive number, or -1 for none", *c.PodPidsLimit)
	}
	for i, t := range c.RegisterWithTaints {
		if !slices.Contains([]v1.TaintEffect{v1.TaintEffectNoSchedule, v1.TaintEffectPreferNoSchedule, v1.TaintEffectNoExecute}, t.Effect) || len(validation.IsQualifiedName(t.Key)) > 0 {
			bad(fmt.Sprintf("registerWithTaints[%d]", i), "%s: needs a qualified key and one of the effects NoSchedule, PreferNoSchedule, NoExecute", t.ToString())
		}
	}
	if e := c.ContainerRuntimeEndpoint; e != "" && strings.Contains(e, "://") && !strings.HasPrefix(e, "unix://") {
		bad("containerRuntimeEndpoint", "%q: only unix:// sockets are there on Linux", e)
	}
	slices.SortFunc(errs, func(a, b error) int { return strings.Compare(a.Error(), b.Error()) })
	return errors.Join(errs...)
}

// Resources reads a mapping of resource names to quantities, as of systemReserved.
func Resources(m map[string]string) (v1.ResourceList, error) {
	out := v1.ResourceList{}
	for name, s := range m {
		q, err := resource.ParseQuantity(s)
		if err != nil || q.Sign() < 0 {
			return nil, fmt.Errorf("%s: %q is no quantity such as 500Mi or 200m", name, s)
		}
		switch v1.ResourceName(name) {
		case v1.ResourceCPU, v1.ResourceMemory, v1.ResourceEphemeralStorage, "pid":
		default:
			if !strings.HasPrefix(name, v1.ResourceHugePagesPrefix) {
				return nil, fmt.Errorf("%s cannot be reserved; use cpu, memory, ephemeral-storage, pid", name)
			}
		}
		out[v1.ResourceName(name)] = q
	}
	return out, nil
}
