package discovery

import (
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/reevehq/reeve/controlplane/apis/defaults/fill"
)

// SetDefaults_EndpointPort fills name and protocol.
func SetDefaults_EndpointPort(p *discoveryv1.EndpointPort) {
	fill.Nil(&p.Name, "")
	fill.Nil(&p.Protocol, corev1.ProtocolTCP)
}
