package admit

import (
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/utils/ptr"
)

func list(cpu, memory, pods string) v1.ResourceList {
	l := v1.ResourceList{v1.ResourceCPU: resource.MustParse(cpu), v1.ResourceMemory: resource.MustParse(memory)}
	if pods != "" {
		l[v1.ResourcePods] = resource.MustParse(pods)
	}
	return l
}

func pod(cpu, memory string, hostPorts ...v1.ContainerPort) *v1.Pod {
	return &v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{{Ports: hostPorts, Resources: v1.ResourceRequirements{Requests: list(cpu, memory, "")}}}}}
}

func TestPod(t *testing.T) {
	object := &v1.Node{Spec: v1.NodeSpec{Taints: []v1.Taint{{Key: "gone", Effect: v1.TaintEffectNoExecute}, {Key: "full", Effect: v1.TaintEffectNoSchedule}}}}
	object.Labels = map[string]string{"disk": "ssd"}
	bare := Node{Allocatable: list("2", "1Gi", "3")}
	for _, tc := range []struct {
		name   string
		node   Node
		active []*v1.Pod
		pod    func() *v1.Pod
		reason string
		text   string
	}{
		{name: "fits", node: bare, active: []*v1.Pod{pod("1", "512Mi")}, pod: func() *v1.Pod { return pod("1", "512Mi") }},
		{name: "too much CPU", node: bare, active: []*v1.Pod{pod("1500m", "0")}, pod: func() *v1.Pod { return pod("600m", "0") }, reason: "OutOfcpu",
			text: "Node didn't have enough resource: cpu, requested: 600, used: 1500, capacity: 2000"},
		{name: "too much memory", node: bare, pod: func() *v1.Pod { return pod("0", "2Gi") }, reason: "OutOfmemory"},
		{name: "too many pods", node: bare, active: []*v1.Pod{pod("0", "0"), pod("0", "0"), pod("0", "0")}, pod: func() *v1.Pod { return pod("0", "0") }, reason: "OutOfpods"},
		{name: "an extended resource that the node knows nothing of", node: bare, pod: func() *v1.Pod {
			p := pod("0", "0")
			p.Spec.Containers[0].Resources.Requests["example.com/gpu"] = resource.MustParse("1")
			return p
		}}, // as a resource of the whole cluster, which the scheduler counts
		{name: "a port in use", node: bare, active: []*v1.Pod{pod("0", "0", v1.ContainerPort{HostPort: 80})},
			pod: func() *v1.Pod { return pod("0", "0", v1.ContainerPort{HostPort: 80, HostIP: "192.0.2.1"}) }, reason: "NodePorts"},
		{name: "the same port on other addresses", node: bare, active: []*v1.Pod{pod("0", "0", v1.ContainerPort{HostPort: 80, HostIP: "192.0.2.2"})},
			pod: func() *v1.Pod { return pod("0", "0", v1.ContainerPort{HostPort: 80, HostIP: "192.0.2.1"}) }},
		{name: "the same port of the other protocol", node: bare, active: []*v1.Pod{pod("0", "0", v1.ContainerPort{HostPort: 53, Protocol: v1.ProtocolUDP})},
			pod: func() *v1.Pod { return pod("0", "0", v1.ContainerPort{HostPort: 53}) }},
		{name: "another operating system", node: bare, pod: func() *v1.Pod {
			p := pod("0", "0")
			p.Spec.OS = &v1.PodOS{Name: v1.Windows}
			return p
		}, reason: "PodOSNotSupported"},
		{name: "a label that the node lost", node: Node{Object: object, Allocatable: bare.Allocatable}, pod: func() *v1.Pod {
			p := pod("0", "0")
			p.Spec.NodeSelector = map[string]string{"disk": "hdd"}
			p.Spec.Tolerations = []v1.Toleration{{Operator: v1.TolerationOpExists}}
			return p
		}, reason: "NodeAffinity"},
		{name: "a NoExecute taint", node: Node{Object: object, Allocatable: bare.Allocatable}, pod: func() *v1.Pod { return pod("0", "0") }, reason: "TaintToleration"},
		{name: "a NoSchedule taint is the scheduler's matter", node: Node{Object: object, Allocatable: bare.Allocatable}, pod: func() *v1.Pod {
			p := pod("0", "0")
			p.Spec.Tolerations = []v1.Toleration{{Key: "gone", Operator: v1.TolerationOpExists}}
			return p
		}},
		{name: "an unsafe sysctl", node: bare, pod: func() *v1.Pod {
			p := pod("0", "0")
			p.Spec.SecurityContext = &v1.PodSecurityContext{Sysctls: []v1.Sysctl{{Name: "kernel.msgmax", Value: "1"}}}
			return p
		}, reason: "SysctlForbidden"},
		{name: "the same, allowed", node: Node{Allocatable: bare.Allocatable, AllowedUnsafeSysctls: []string{"kernel.msg*"}}, pod: func() *v1.Pod {
			p := pod("0", "0")
			p.Spec.SecurityContext = &v1.PodSecurityContext{Sysctls: []v1.Sysctl{{Name: "kernel.msgmax", Value: "1"}}}
			return p
		}},
		{name: "a net sysctl on the host's network", node: bare, pod: func() *v1.Pod {
			p := pod("0", "0")
			p.Spec.HostNetwork = true
			p.Spec.SecurityContext = &v1.PodSecurityContext{Sysctls: []v1.Sysctl{{Name: "net.ipv4.tcp_syncookies", Value: "1"}}}
			return p
		}, reason: "SysctlForbidden"},
		{name: "devices by claim", node: bare, pod: func() *v1.Pod {
			p := pod("0", "0")
			p.Spec.ResourceClaims = []v1.PodResourceClaim{{Name: "gpu", ResourceClaimName: ptr.To("gpu")}}
			return p
		}, reason: "PodFeatureUnsupported", text: "spec.resourceClaims (dynamic resource allocation) is not supported by this node"},
		{name: "restart of all containers", node: bare, pod: func() *v1.Pod {
			p := pod("0", "0")
			p.Spec.Containers[0].RestartPolicyRules = []v1.ContainerRestartRule{{Action: v1.ContainerRestartRuleActionRestart}, {Action: v1.ContainerRestartRuleActionRestartAllContainers}}
			return p
		}, reason: "PodFeatureUnsupported", text: "spec.containers[0].restartPolicyRules[1].action: RestartAllContainers is not supported by this node"},
		{name: "AppArmor where there is none", node: bare, pod: func() *v1.Pod {
			p := pod("0", "0")
			p.Spec.Containers[0].SecurityContext = &v1.SecurityContext{AppArmorProfile: &v1.AppArmorProfile{Type: v1.AppArmorProfileTypeLocalhost, LocalhostProfile: ptr.To("x")}}
			return p
		}, reason: "AppArmor"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := Pod(tc.node, tc.active, tc.pod())
			switch {
			case got == nil && tc.reason != "":
				t.Errorf("admitted, want %s", tc.reason)
			case got != nil && got.Reason != tc.reason:
				t.Errorf("rejected: %s: %s; want %q", got.Reason, got.Message, tc.reason)
			case got != nil && tc.text != "" && got.Message != tc.text:
				t.Errorf("message = %s", got.Message)
			}
		})
	}
}
