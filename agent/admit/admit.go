package admit

import (
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"
	corev1 "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"

	"github.com/reevehq/reeve/agent/container"
	"github.com/reevehq/reeve/agent/podworker/podspec"
)

// Rejection is why a pod is not taken; it becomes the status of a Failed pod.
type Rejection struct{ Reason, Message string }

// Node is the node as far as admission cares.
type Node struct {
	Object      *v1.Node // labels and taints; nil: not known yet, then nothing is asked of them
	Allocatable v1.ResourceList
	// AllowedUnsafeSysctls are names, or prefixes ending in "*".
	AllowedUnsafeSysctls []string
	AppArmor             bool
}

// Pod returns nil if the node takes pod beside the pods already on it.
func Pod(node Node, active []*v1.Pod, pod *v1.Pod) *Rejection {
	for _, check := range []func(Node, []*v1.Pod, *v1.Pod) *Rejection{operatingSystem, features, sysctls, appArmor, resources, affinity, ports, taints} {
		if r := check(node, active, pod); r != nil {
			return r
		}
	}
	return nil
}

func operatingSystem(_ Node, _ []*v1.Pod, pod *v1.Pod) *Rejection {
	if pod.Spec.OS != nil && pod.Spec.OS.Name != v1.Linux {
		return &Rejection{"PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS"}
	}
	if os, ok := pod.Spec.NodeSelector[v1.LabelOSStable]; ok && os != "linux" {
		return &Rejection{"PodOSSelectorNodeLabelDoesNotMatch",
			"Failed to admit pod as the `kubernetes.io/os` label doesn't match node label"}
	}
	return nil
}

// features refuses what this node would have to leave out: a pod without its devices, or one whose containers are not
// restarted together as it asks, is worse than none.
func features(_ Node, _ []*v1.Pod, pod *v1.Pod) *Rejection {
	lacks := func(field string, args ...any) *Rejection {
		return &Rejection{"PodFeatureUnsupported", fmt.Sprintf(field, args...) + " is not supported by this node"}
	}
	if len(pod.Spec.ResourceClaims) > 0 {
		return lacks("spec.resourceClaims (dynamic resource allocation)")
	}
	for list, cs := range map[string][]v1.Container{"initContainers": pod.Spec.InitContainers, "containers": pod.Spec.Containers} {
		for i := range cs {
			for j, r := range cs[i].RestartPolicyRules {
				if r.Action != v1.ContainerRestartRuleActionRestart {
					return lacks("spec.%s[%d].restartPolicyRules[%d].action: %s", list, i, j, r.Action)
				}
			}
		}
	}
	return nil
}

// safeSysctls are namespaced and harm nobody else on the node (Kubernetes 1.36's list).
var safeSysctls = []string{
	"kernel.shm_rmid_forced", "net.ipv4.ip_local_port_range", "net.ipv4.tcp_syncookies", "net.ipv4.ping_group_range",
	"net.ipv4.ip_unprivileged_port_start", "net.ipv4.ip_local_reserved_ports", "net.ipv4.tcp_keepalive_time",
	"net.ipv4.tcp_fin_timeout", "net.ipv4.tcp_keepalive_intvl", "net.ipv4.tcp_keepalive_probes", "net.ipv4.tcp_rmem",
	"net.ipv4.tcp_wmem",
}

func sysctls(node Node, _ []*v1.Pod, pod *v1.Pod) *Rejection {
	sc := pod.Spec.SecurityContext
	if sc == nil {
		return nil
	}
	for _, s := range sc.Sysctls {
		name := strings.ReplaceAll(s.Name, "/", ".")
		net := strings.HasPrefix(name, "net.")
		ipc := strings.HasPrefix(name, "kernel.shm") || strings.HasPrefix(name, "kernel.msg") || name == "kernel.sem" || strings.HasPrefix(name, "fs.mqueue.")
		bad := func(why string) *Rejection {
			return &Rejection{"SysctlForbidden", fmt.Sprintf("forbidden sysctl: %q %s", name, why)}
		}
		switch {
		case net && pod.Spec.HostNetwork:
			return bad("not allowed with host net enabled")
		case ipc && pod.Spec.HostIPC:
			return bad("not allowed with host ipc enabled")
		case slices.Contains(safeSysctls, name):
		case !slices.ContainsFunc(node.AllowedUnsafeSysctls, func(a string) bool {
			prefix, glob := strings.CutSuffix(a, "*")
			return a == name || glob && strings.HasPrefix(name, prefix)
		}):
			return bad("not allowlisted")
		}
	}
	return nil
}

func appArmor(node Node, _ []*v1.Pod, pod *v1.Pod) *Rejection {
	if node.AppArmor {
		return nil
	}
	wants := func(p *v1.AppArmorProfile) bool { return p != nil && p.Type != v1.AppArmorProfileTypeUnconfined }
	asked := pod.Spec.SecurityContext != nil && wants(pod.Spec.SecurityContext.AppArmorProfile)
	for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			asked = asked || list[i].SecurityContext != nil && wants(list[i].SecurityContext.AppArmorProfile)
		}
	}
	if asked {
		return &Rejection{"AppArmor", "Cannot enforce AppArmor: AppArmor is not enabled on the host"}
	}
	return nil
}

// resources compares what is requested with what the node can give.
func resources(node Node, active []*v1.Pod, pod *v1.Pod) *Rejection {
	opts := resourcehelper.PodResourcesOptions{}
	if max, ok := node.Allocatable[v1.ResourcePods]; ok && int64(len(active))+1 > max.Value() {
		return insufficient(v1.ResourcePods, 1, int64(len(active)), max.Value())
	}
	used := v1.ResourceList{}
	for _, p := range active {
		for name, q := range resourcehelper.PodRequests(p, opts) {
			sum := used[name]
			sum.Add(q)
			used[name] = sum
		}
	}
	req := resourcehelper.PodRequests(pod, opts)
	names := make([]v1.ResourceName, 0, len(req))
	for name := range req {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		want, have, max := req[name], used[name], node.Allocatable[name]
		if want.IsZero() {
			continue
		}
		if _, known := node.Allocatable[name]; !known && (name == v1.ResourceEphemeralStorage || strings.Contains(string(name), "/")) {
			continue // an extended resource that the node knows nothing of is the scheduler's matter alone
		}
		total := have.DeepCopy()
		total.Add(want)
		if total.Cmp(max) > 0 {
			return insufficient(name, amount(name, want), amount(name, have), amount(name, max))
		}
	}
	return nil
}

func amount(name v1.ResourceName, q resource.Quantity) int64 {
	if name == v1.ResourceCPU {
		return q.MilliValue()
	}
	return q.Value()
}

func insufficient(name v1.ResourceName, want, used, capacity int64) *Rejection {
	return &Rejection{"OutOf" + string(name), fmt.Sprintf(
		"Node didn't have enough resource: %s, requested: %d, used: %d, capacity: %d", name, want, used, capacity)}
}

func affinity(node Node, _ []*v1.Pod, pod *v1.Pod) *Rejection {
	if node.Object == nil || container.IsStatic(pod) {
		return nil
	}
	if ok, err := nodeaffinity.GetRequiredNodeAffinity(pod).Match(node.Object); err != nil || !ok {
		return &Rejection{"NodeAffinity", "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"}
	}
	return nil
}

type hostPort struct {
	proto v1.Protocol
	port  int32
}

func hostPorts(pod *v1.Pod) map[hostPort][]string {
	out := map[hostPort][]string{}
	add := func(list []v1.Container, sidecarsOnly bool) {
		for i := range list {
			if sidecarsOnly && !podspec.IsSidecar(&list[i]) {
				continue
			}
			for _, p := range list[i].Ports {
				if p.HostPort == 0 {
					continue
				}
				proto, ip := p.Protocol, p.HostIP
				if proto == "" {
					proto = v1.ProtocolTCP
				}
				if ip == "" || ip == "::" {
					ip = "0.0.0.0"
				}
				k := hostPort{proto, p.HostPort}
				out[k] = append(out[k], ip)
			}
		}
	}
	add(pod.Spec.InitContainers, true)
	add(pod.Spec.Containers, false)
	return out
}

func ports(_ Node, active []*v1.Pod, pod *v1.Pod) *Rejection {
	want := hostPorts(pod)
	if len(want) == 0 {
		return nil
	}
	for _, p := range active {
		for k, ips := range hostPorts(p) {
			for _, mine := range want[k] {
				if mine == "0.0.0.0" || slices.Contains(ips, "0.0.0.0") || slices.Contains(ips, mine) {
					return &Rejection{"NodePorts", "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"}
				}
			}
		}
	}
	return nil
}

// taints: only NoExecute ones count here; what else keeps pods away is the scheduler's matter.
func taints(node Node, _ []*v1.Pod, pod *v1.Pod) *Rejection {
	if node.Object == nil || container.IsStatic(pod) {
		return nil
	}
	t, found := corev1.FindMatchingUntoleratedTaint(klog.Background(), node.Object.Spec.Taints, pod.Spec.Tolerations,
		func(t *v1.Taint) bool { return t.Effect == v1.TaintEffectNoExecute }, false)
	if found {
		return &Rejection{"TaintToleration", fmt.Sprintf("Predicate TaintToleration failed: node(s) had untolerated taint {%s: %s}", t.Key, t.Value)}
	}
	return nil
}
