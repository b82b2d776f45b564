package main

import (
	"context"
	"crypto/tls"
	"errors"
	"net/netip"
	"runtime"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/apimachinery/pkg/api/resource"
	cliflag "k8s.io/component-base/cli/flag"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	kubelet "k8s.io/kubelet/config/v1beta1"

	"github.com/reevehq/reeve/agent"
	"github.com/reevehq/reeve/cri/remote"
	"github.com/reevehq/reeve/internal/dropin/kubeletconfig"
)

// kubeletAgent translates a KubeletConfiguration, complete and valid, into the agent's. Pure but for the number of CPUs.
func kubeletAgent(c *kubeletconfig.Loaded, n *nodeOptions) agent.Config {
	address, _ := netip.ParseAddr(c.Address) // checked
	healthz, _ := netip.ParseAddr(c.HealthzBindAddress)
	system, _ := kubeletconfig.Resources(c.SystemReserved)
	kube, _ := kubeletconfig.Resources(c.KubeReserved)
	logSize := resource.MustParse(c.ContainerLogMaxSize)
	minTLS, _ := cliflag.TLSVersion(c.TLSMinVersion)
	ciphers, _ := cliflag.TLSCipherSuites(c.TLSCipherSuites)
	cfg := agent.Config{
		NodeName: n.NodeName, NodeIPs: addrs(n.NodeIPs), RootDir: n.RootDir, PodLogsDir: n.PodLogsDir,
		CgroupRoot: n.CgroupRoot, CgroupDriver: n.CgroupDriver, EnforceNodeAllocatable: enforced(c.EnforceNodeAllocatable),
		KubeReserved: kube, SystemReserved: system, EvictionHard: c.EvictionHard, EvictionSoft: c.EvictionSoft,
		EvictionSoftGracePeriod: c.EvictionSoftGracePeriod, EvictionMinimumReclaim: c.EvictionMinimumReclaim,
		EvictionMaxPodGracePeriod:        time.Duration(c.EvictionMaxPodGracePeriod) * time.Second,
		EvictionPressureTransitionPeriod: c.EvictionPressureTransitionPeriod.Duration,
		MergeDefaultEvictionSettings:     c.MergeDefaultEvictionSettings != nil && *c.MergeDefaultEvictionSettings,
		ClusterDNS:                       addrs(c.ClusterDNS), ClusterDomain: c.ClusterDomain, StaticPodPath: c.StaticPodPath,
		Address: address, Port: int(c.Port), HealthzBindAddress: healthz, HealthzPort: int(*c.HealthzPort),
		TLSCertFile: c.TLSCertFile, TLSPrivateKeyFile: c.TLSPrivateKeyFile, ServerTLSBootstrap: c.ServerTLSBootstrap,
		TLSMinVersion: minTLS, TLSCipherSuites: ciphers, ClientCAFile: c.Authentication.X509.ClientCAFile,
		AnonymousAuth: *c.Authentication.Anonymous.Enabled, NoTokenAuth: !*c.Authentication.Webhook.Enabled,
		AlwaysAllow: c.Authorization.Mode == kubelet.KubeletAuthorizationModeAlwaysAllow,
		MaxPods:     podLimit(c, runtime.NumCPU()), PodPidsLimit: max(*c.PodPidsLimit, 0),
		NodeLabels: n.NodeLabels, ProviderID: c.ProviderID, NoRegisterNode: !*c.RegisterNode,
		NodeLeaseDuration:         time.Duration(c.NodeLeaseDurationSeconds) * time.Second,
		NodeStatusUpdateFrequency: c.NodeStatusUpdateFrequency.Duration, NodeStatusReportFrequency: c.NodeStatusReportFrequency.Duration,
		SyncFrequency: c.SyncFrequency.Duration, SerializeImagePulls: c.SerializeImagePulls != nil && *c.SerializeImagePulls,
		ImageGCHighThresholdPercent: int(*c.ImageGCHighThresholdPercent), ImageGCLowThresholdPercent: int(*c.ImageGCLowThresholdPercent),
		ImageMinimumGCAge: c.ImageMinimumGCAge.Duration, ImageMaximumGCAge: c.ImageMaximumGCAge.Duration,
		ContainerLogMaxSizeBytes: logSize.Value(), ContainerLogMaxFiles: int(*c.ContainerLogMaxFiles),
		AllowedUnsafeSysctls: c.AllowedUnsafeSysctls, SeccompDefault: c.SeccompDefault != nil && *c.SeccompDefault,
		EventRecordQPS: int(*c.EventRecordQPS), EventBurst: int(c.EventBurst),
	}
	if cfg.EventRecordQPS == 0 {
		cfg.EventRecordQPS = -1 // KubeletConfiguration's word for no limit
	}
	off := func(enabled *bool) bool { return enabled != nil && !*enabled }
	cfg.NoDebuggingHandlers, cfg.NoSystemLogHandler = off(c.EnableDebuggingHandlers), off(c.EnableSystemLogHandler)
	cfg.NoProfilingHandler = off(c.EnableProfilingHandler)
	for _, curve := range c.TLSCurvePreferences {
		cfg.TLSCurvePreferences = append(cfg.TLSCurvePreferences, tls.CurveID(curve))
	}
	if !*c.EnableServer {
		cfg.Port = -1
	}
	if cfg.HealthzPort == 0 {
		cfg.HealthzPort = -1
	}
	if c.MaxParallelImagePulls != nil {
		cfg.MaxParallelImagePulls = int(*c.MaxParallelImagePulls)
	}
	if c.ResolverConfig != nil {
		cfg.ResolverConfig = *c.ResolverConfig
		if cfg.ResolverConfig == "" {
			cfg.ResolverConfig = "/dev/null" // pods get nothing of the host's
		}
	}
	return cfg
}

// enforced keeps of enforceNodeAllocatable what is done; the rest was named at start.
func enforced(list []string) []string {
	for _, e := range list {
		if e == "pods" {
			return []string{"pods"}
		}
	}
	return []string{"none"}
}

// podLimit is maxPods, or podsPerCore where that allows fewer.
func podLimit(c *kubeletconfig.Loaded, cpus int) int {
	if c.PodsPerCore > 0 {
		return min(int(c.MaxPods), int(c.PodsPerCore)*cpus)
	}
	return int(c.MaxPods)
}

// askCRI answers the cgroup driver of the runtime on a CRI socket, "" where it does not tell.
func askCRI(ctx context.Context, path string) (driver string, err error) {
	rt, err := remote.New(ctx, "unix://"+path)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, rt.Close(ctx)) }()
	answer, err := rt.RuntimeConfig(ctx)
	if isNoCRI(err) {
		return "", nil // containerd before 2.0
	}
	if err != nil {
		return "", err
	}
	if answer.GetLinux().GetCgroupDriver() == runtimeapi.CgroupDriver_SYSTEMD {
		return "systemd", nil
	}
	return "cgroupfs", nil
}

// isNoCRI tells a socket that answers, but not to CRI.
func isNoCRI(err error) bool { return err != nil && status.Code(err) == codes.Unimplemented }
