package container

import (
	"fmt"
	"maps"

	v1 "k8s.io/api/core/v1"
	resourcehelper "k8s.io/component-helpers/resource"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	kubelettypes "k8s.io/kubelet/pkg/types"

	"github.com/reevehq/reeve/agent/podworker/podspec"
)

// Sandbox returns the CRI configuration of a pod's sandbox. cgroupParent is the pod's cgroup in the driver's notation.
func Sandbox(pod *v1.Pod, attempt uint32, dns *runtimeapi.DNSConfig, cgroupParent string, node Node) (*runtimeapi.PodSandboxConfig, error) {
	hostname, err := Hostname(pod, node.ClusterDomain)
	if err != nil {
		return nil, err
	}
	lab := make(map[string]string, len(pod.Labels)+3)
	maps.Copy(lab, pod.Labels)
	lab[kubelettypes.KubernetesPodNameLabel] = pod.Name
	lab[kubelettypes.KubernetesPodNamespaceLabel] = pod.Namespace
	lab[kubelettypes.KubernetesPodUIDLabel] = string(pod.UID)
	ann := maps.Clone(pod.Annotations)
	if ann == nil {
		ann = map[string]string{}
	}
	if _, ok := ann[ConfigSourceAnnotation]; !ok {
		ann[ConfigSourceAnnotation] = "api"
	}
	cfg := &runtimeapi.PodSandboxConfig{
		Metadata:     &runtimeapi.PodSandboxMetadata{Name: pod.Name, Namespace: pod.Namespace, Uid: string(pod.UID), Attempt: attempt},
		Labels:       lab,
		Annotations:  ann,
		LogDirectory: LogDirectory(node.PodLogsDir, pod),
		DnsConfig:    dns,
		Linux: &runtimeapi.LinuxPodSandboxConfig{
			CgroupParent:    cgroupParent,
			SecurityContext: sandboxSecurity(pod, node),
			Sysctls:         sysctls(pod),
			Overhead:        podLevel(pod.Spec.Overhead, pod.Spec.Overhead),
			Resources: podLevel(
				resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{ExcludeOverhead: true}),
				resourcehelper.PodLimits(pod, resourcehelper.PodResourcesOptions{ExcludeOverhead: true})),
		},
	}
	if !pod.Spec.HostNetwork {
		cfg.Hostname = hostname
	}
	for i := range pod.Spec.InitContainers {
		if podspec.IsSidecar(&pod.Spec.InitContainers[i]) {
			cfg.PortMappings = append(cfg.PortMappings, ports(&pod.Spec.InitContainers[i])...)
		}
	}
	for i := range pod.Spec.Containers {
		cfg.PortMappings = append(cfg.PortMappings, ports(&pod.Spec.Containers[i])...)
	}
	return cfg, nil
}

func podLevel(requests, limits v1.ResourceList) *runtimeapi.LinuxContainerResources {
	return &runtimeapi.LinuxContainerResources{
		CpuPeriod: QuotaPeriodUS, CpuQuota: QuotaOf(quantity(limits, v1.ResourceCPU).MilliValue()),
		CpuShares: SharesOf(quantity(requests, v1.ResourceCPU).MilliValue()), MemoryLimitInBytes: memoryOf(limits),
	}
}

func sysctls(pod *v1.Pod) map[string]string {
	m := map[string]string{}
	if sc := pod.Spec.SecurityContext; sc != nil {
		for _, s := range sc.Sysctls {
			m[s.Name] = s.Value
		}
	}
	return m
}

func ports(c *v1.Container) []*runtimeapi.PortMapping {
	var out []*runtimeapi.PortMapping
	for _, p := range c.Ports {
		proto := runtimeapi.Protocol_TCP
		switch p.Protocol {
		case v1.ProtocolUDP:
			proto = runtimeapi.Protocol_UDP
		case v1.ProtocolSCTP:
			proto = runtimeapi.Protocol_SCTP
		}
		out = append(out, &runtimeapi.PortMapping{Protocol: proto, ContainerPort: p.ContainerPort, HostPort: p.HostPort, HostIp: p.HostIP})
	}
	return out
}

func sandboxSecurity(pod *v1.Pod, node Node) *runtimeapi.LinuxSandboxSecurityContext {
	out := &runtimeapi.LinuxSandboxSecurityContext{
		NamespaceOptions: namespaces(pod),
		Privileged:       Privileged(pod),
		Seccomp:          &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault},
	}
	out.SupplementalGroups, out.SupplementalGroupsPolicy = supplementalGroups(pod)
	if sc := pod.Spec.SecurityContext; sc != nil {
		out.SelinuxOptions = selinux(sc.SELinuxOptions)
		out.RunAsUser, out.RunAsGroup = int64Value(sc.RunAsUser), int64Value(sc.RunAsGroup)
		if out.RunAsGroup != nil && out.RunAsUser == nil {
			out.RunAsGroup = nil // CRI takes a group only beside a user, and pause has none of its own
		}
		if sc.SeccompProfile != nil {
			out.Seccomp = seccomp(sc.SeccompProfile, node)
		}
	}
	return out
}

// hostnameMax is the kernel's limit, 64 with the final NUL.
const hostnameMax = 63

// Hostname returns what uname says inside the pod: spec.hostname or the pod's name, cut to 63 characters; the whole FQDN
// with setHostnameAsFQDN, which fails when that is over 64 characters; spec.hostnameOverride above all.
func Hostname(pod *v1.Pod, clusterDomain string) (string, error) {
	if o := pod.Spec.HostnameOverride; o != nil && *o != "" {
		return *o, nil
	}
	host := pod.Spec.Hostname
	if host == "" {
		host = pod.Name
	}
	if len(host) > hostnameMax {
		host = host[:hostnameMax]
		for len(host) > 0 && (host[len(host)-1] == '-' || host[len(host)-1] == '.') {
			host = host[:len(host)-1]
		}
	}
	if pod.Spec.SetHostnameAsFQDN != nil && *pod.Spec.SetHostnameAsFQDN {
		if d := HostDomain(pod, clusterDomain); d != "" {
			fqdn := host + "." + d
			if len(fqdn) > hostnameMax+1 {
				return "", fmt.Errorf("failed to construct FQDN from pod hostname and cluster domain, FQDN %s is too long (64 characters is the max, %d characters requested)", fqdn, len(fqdn))
			}
			return fqdn, nil
		}
	}
	return host, nil
}

// HostDomain is <subdomain>.<namespace>.svc.<cluster domain>, empty without a subdomain.
func HostDomain(pod *v1.Pod, clusterDomain string) string {
	if pod.Spec.Subdomain == "" || (pod.Spec.HostnameOverride != nil && *pod.Spec.HostnameOverride != "") {
		return ""
	}
	return pod.Spec.Subdomain + "." + pod.Namespace + ".svc." + clusterDomain
}
