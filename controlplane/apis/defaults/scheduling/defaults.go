package scheduling

import (
	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"

	"github.com/reevehq/reeve/controlplane/apis/defaults/fill"
)

// SetDefaults_PriorityClass fills the preemption policy.
func SetDefaults_PriorityClass(c *schedulingv1.PriorityClass) {
	fill.Nil(&c.PreemptionPolicy, corev1.PreemptLowerPriority)
}
