package networking

import (
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"

	"github.com/reevehq/reeve/controlplane/apis/defaults/fill"
)

// SetDefaults_NetworkPolicy derives the policy types: always Ingress, Egress where there are egress rules.
func SetDefaults_NetworkPolicy(p *networkingv1.NetworkPolicy) {
	if len(p.Spec.PolicyTypes) > 0 {
		return
	}
	p.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
	if len(p.Spec.Egress) > 0 {
		p.Spec.PolicyTypes = append(p.Spec.PolicyTypes, networkingv1.PolicyTypeEgress)
	}
}

// SetDefaults_NetworkPolicyPort fills the protocol.
func SetDefaults_NetworkPolicyPort(p *networkingv1.NetworkPolicyPort) {
	fill.Nil(&p.Protocol, corev1.ProtocolTCP)
}

// SetDefaults_IngressClass fills the scope of its parameters.
func SetDefaults_IngressClass(c *networkingv1.IngressClass) {
	if c.Spec.Parameters != nil {
		fill.Nil(&c.Spec.Parameters.Scope, networkingv1.IngressClassParametersReferenceScopeCluster)
	}
}
