package autoscalingv2

import (
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"

	"github.com/reevehq/reeve/controlplane/apis/defaults/fill"
)

// cpuUtilization is the target of an autoscaler that names no metric: percent of the requested CPU.
const cpuUtilization int32 = 80

// SetDefaults_HorizontalPodAutoscaler fills the minimum, the metric, and the behaviour where one is given.
func SetDefaults_HorizontalPodAutoscaler(h *autoscalingv2.HorizontalPodAutoscaler) {
	fill.Nil(&h.Spec.MinReplicas, 1)
	if len(h.Spec.Metrics) == 0 {
		target := cpuUtilization
		h.Spec.Metrics = []autoscalingv2.MetricSpec{{
			Type: autoscalingv2.ResourceMetricSourceType,
			Resource: &autoscalingv2.ResourceMetricSource{
				Name:   corev1.ResourceCPU,
				Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: &target},
			},
		}}
	}
	if b := h.Spec.Behavior; b != nil {
		b.ScaleUp = ScaleUpRules(b.ScaleUp)
		b.ScaleDown = ScaleDownRules(b.ScaleDown)
	}
}

// ScaleUpRules completes rules for scaling up, nil included: at once, by four pods or the double every 15 s, whichever
// is more. The argument is not changed.
func ScaleUpRules(given *autoscalingv2.HPAScalingRules) *autoscalingv2.HPAScalingRules {
	r := complete(given, autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PodsScalingPolicy, Value: 4, PeriodSeconds: 15},
		autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PercentScalingPolicy, Value: 100, PeriodSeconds: 15})
	fill.Nil(&r.StabilizationWindowSeconds, 0)
	return r
}

// ScaleDownRules completes rules for scaling down, nil included: down to the minimum every 15 s. The window stays unset:
// the controller's own setting holds then. The argument is not changed.
func ScaleDownRules(given *autoscalingv2.HPAScalingRules) *autoscalingv2.HPAScalingRules {
	return complete(given, autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PercentScalingPolicy, Value: 100, PeriodSeconds: 15})
}

func complete(given *autoscalingv2.HPAScalingRules, policies ...autoscalingv2.HPAScalingPolicy) *autoscalingv2.HPAScalingRules {
	r := given.DeepCopy()
	if r == nil {
		r = &autoscalingv2.HPAScalingRules{}
	}
	fill.Nil(&r.SelectPolicy, autoscalingv2.MaxChangePolicySelect)
	if r.Policies == nil {
		r.Policies = policies
	}
	return r
}
