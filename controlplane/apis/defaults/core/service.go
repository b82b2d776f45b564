package core

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/reevehq/reeve/controlplane/apis/defaults/fill"
)

// SetDefaults_Service fills everything but what needs the cluster: addresses, families and node ports are the
// allocators'.
func SetDefaults_Service(s *corev1.Service) {
	spec := &s.Spec
	fill.Zero(&spec.Type, corev1.ServiceTypeClusterIP)
	fillAffinity(spec)
	for i := range spec.Ports {
		p := &spec.Ports[i]
		fill.Zero(&p.Protocol, corev1.ProtocolTCP)
		if p.TargetPort == intstr.FromInt32(0) || p.TargetPort == intstr.FromString("") {
			p.TargetPort = intstr.FromInt32(p.Port)
		}
	}
	balanced := spec.Type == corev1.ServiceTypeLoadBalancer
	switch spec.Type {
	case corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort, corev1.ServiceTypeLoadBalancer:
		fill.Nil(&spec.InternalTrafficPolicy, corev1.ServiceInternalTrafficPolicyCluster)
	}
	if ReachableFromOutside(spec) {
		fill.Zero(&spec.ExternalTrafficPolicy, corev1.ServiceExternalTrafficPolicyCluster)
	}
	if !balanced {
		return
	}
	fill.Nil(&spec.AllocateLoadBalancerNodePorts, true)
	for i := range s.Status.LoadBalancer.Ingress {
		if in := &s.Status.LoadBalancer.Ingress[i]; in.IP != "" {
			fill.Nil(&in.IPMode, corev1.LoadBalancerIPModeVIP)
		}
	}
}

// ReachableFromOutside reports whether the Service takes traffic that does not come to its cluster IP, so that its
// external traffic policy means something.
func ReachableFromOutside(s *corev1.ServiceSpec) bool {
	switch s.Type {
	case corev1.ServiceTypeNodePort, corev1.ServiceTypeLoadBalancer:
		return true
	case corev1.ServiceTypeClusterIP:
		return len(s.ExternalIPs) > 0
	}
	return false
}

func fillAffinity(s *corev1.ServiceSpec) {
	fill.Zero(&s.SessionAffinity, corev1.ServiceAffinityNone)
	switch s.SessionAffinity {
	case corev1.ServiceAffinityNone:
		s.SessionAffinityConfig = nil
	case corev1.ServiceAffinityClientIP:
		fill.Nil(&s.SessionAffinityConfig, corev1.SessionAffinityConfig{})
		fill.Nil(&s.SessionAffinityConfig.ClientIP, corev1.ClientIPConfig{})
		fill.Nil(&s.SessionAffinityConfig.ClientIP.TimeoutSeconds, corev1.DefaultClientIPServiceAffinitySeconds)
	}
}

// SetDefaults_Endpoints fills the protocol of ports.
func SetDefaults_Endpoints(e *corev1.Endpoints) {
	for i := range e.Subsets {
		for j := range e.Subsets[i].Ports {
			fill.Zero(&e.Subsets[i].Ports[j].Protocol, corev1.ProtocolTCP)
		}
	}
}
