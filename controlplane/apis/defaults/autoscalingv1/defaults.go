package autoscalingv1

import (
	autoscalingv1 "k8s.io/api/autoscaling/v1"

	"github.com/reevehq/reeve/controlplane/apis/defaults/fill"
)

// SetDefaults_HorizontalPodAutoscaler fills the minimum. The CPU target is filled when the object is read as v2, which
// alone can tell whether other metrics stand in its place.
func SetDefaults_HorizontalPodAutoscaler(h *autoscalingv1.HorizontalPodAutoscaler) {
	fill.Nil(&h.Spec.MinReplicas, 1)
}
