package scheme

import (
	"encoding/json"
	"maps"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime"
)

// What autoscaling/v1 has no field for travels in these annotations, as JSON (names and shapes are upstream's).
const (
	metricsAnnotation        = "autoscaling.alpha.kubernetes.io/metrics"
	currentMetricsAnnotation = "autoscaling.alpha.kubernetes.io/current-metrics"
	conditionsAnnotation     = "autoscaling.alpha.kubernetes.io/conditions"
	behaviorAnnotation       = "autoscaling.alpha.kubernetes.io/behavior"
)

func addAutoscalingConversions(s *runtime.Scheme) error {
	return addPairs(s,
		pair((*autoscalingv2.HorizontalPodAutoscaler)(nil), (*autoscalingv1.HorizontalPodAutoscaler)(nil), hpaToV1),
		pair((*autoscalingv1.HorizontalPodAutoscaler)(nil), (*autoscalingv2.HorizontalPodAutoscaler)(nil), hpaFromV1),
		pair((*autoscalingv2.HorizontalPodAutoscalerList)(nil), (*autoscalingv1.HorizontalPodAutoscalerList)(nil),
			func(in *autoscalingv2.HorizontalPodAutoscalerList, out *autoscalingv1.HorizontalPodAutoscalerList) error {
				out.ListMeta = in.ListMeta
				return each(in.Items, &out.Items, hpaToV1)
			}),
		pair((*autoscalingv1.HorizontalPodAutoscalerList)(nil), (*autoscalingv2.HorizontalPodAutoscalerList)(nil),
			func(in *autoscalingv1.HorizontalPodAutoscalerList, out *autoscalingv2.HorizontalPodAutoscalerList) error {
				out.ListMeta = in.ListMeta
				return each(in.Items, &out.Items, hpaFromV1)
			}),
	)
}

func hpaToV1(in *autoscalingv2.HorizontalPodAutoscaler, out *autoscalingv1.HorizontalPodAutoscaler) error {
	out.ObjectMeta = in.ObjectMeta
	out.Spec = autoscalingv1.HorizontalPodAutoscalerSpec{
		ScaleTargetRef: autoscalingv1.CrossVersionObjectReference(in.Spec.ScaleTargetRef),
		MinReplicas:    in.Spec.MinReplicas,
		MaxReplicas:    in.Spec.MaxReplicas,
	}
	out.Status = autoscalingv1.HorizontalPodAutoscalerStatus{
		ObservedGeneration: in.Status.ObservedGeneration,
		LastScaleTime:      in.Status.LastScaleTime,
		CurrentReplicas:    in.Status.CurrentReplicas,
		DesiredReplicas:    in.Status.DesiredReplicas,
	}

	var metrics []autoscalingv1.MetricSpec
	for i := range in.Spec.Metrics {
		m := &in.Spec.Metrics[i]
		if out.Spec.TargetCPUUtilizationPercentage == nil && isCPUUtilization(m) {
			out.Spec.TargetCPUUtilizationPercentage = m.Resource.Target.AverageUtilization
			continue
		}
		metrics = append(metrics, metricToV1(m))
	}
	var current []autoscalingv1.MetricStatus
	for i := range in.Status.CurrentMetrics {
		m := &in.Status.CurrentMetrics[i]
		if m.Type == autoscalingv2.ResourceMetricSourceType && m.Resource != nil && m.Resource.Name == corev1.ResourceCPU {
			out.Status.CurrentCPUUtilizationPercentage = m.Resource.Current.AverageUtilization
		}
		current = append(current, currentToV1(m))
	}
	var conditions []autoscalingv1.HorizontalPodAutoscalerCondition
	for _, c := range in.Status.Conditions {
		conditions = append(conditions, autoscalingv1.HorizontalPodAutoscalerCondition{
			Type:               autoscalingv1.HorizontalPodAutoscalerConditionType(c.Type),
			Status:             c.Status,
			LastTransitionTime: c.LastTransitionTime,
			Reason:             c.Reason,
			Message:            c.Message,
		})
	}

	// The incoming object is shared (watch cache): its annotations are copied before they change.
	annotations := withoutHPAAnnotations(in.Annotations)
	for key, value := range map[string]any{
		metricsAnnotation: metrics, currentMetricsAnnotation: current, conditionsAnnotation: conditions,
	} {
		if err := setJSON(&annotations, key, value); err != nil {
			return err
		}
	}
	if in.Spec.Behavior != nil {
		if err := setJSON(&annotations, behaviorAnnotation, in.Spec.Behavior); err != nil {
			return err
		}
	}
	out.Annotations = annotations
	return nil
}

func hpaFromV1(in *autoscalingv1.HorizontalPodAutoscaler, out *autoscalingv2.HorizontalPodAutoscaler) error {
	out.ObjectMeta = in.ObjectMeta
	out.Annotations = withoutHPAAnnotations(in.Annotations)
	out.Spec = autoscalingv2.HorizontalPodAutoscalerSpec{
		ScaleTargetRef: autoscalingv2.CrossVersionObjectReference(in.Spec.ScaleTargetRef),
		MinReplicas:    in.Spec.MinReplicas,
		MaxReplicas:    in.Spec.MaxReplicas,
	}
	out.Status = autoscalingv2.HorizontalPodAutoscalerStatus{
		ObservedGeneration: in.Status.ObservedGeneration,
		LastScaleTime:      in.Status.LastScaleTime,
		CurrentReplicas:    in.Status.CurrentReplicas,
		DesiredReplicas:    in.Status.DesiredReplicas,
	}
	if in.Spec.TargetCPUUtilizationPercentage != nil {
		out.Spec.Metrics = append(out.Spec.Metrics, autoscalingv2.MetricSpec{
			Type: autoscalingv2.ResourceMetricSourceType,
			Resource: &autoscalingv2.ResourceMetricSource{
				Name: corev1.ResourceCPU,
				Target: autoscalingv2.MetricTarget{
					Type:               autoscalingv2.UtilizationMetricType,
					AverageUtilization: in.Spec.TargetCPUUtilizationPercentage,
				},
			},
		})
	}

	// Annotations are the user's own text: what does not parse is dropped, as upstream does, and never fails a read.
	var metrics []autoscalingv1.MetricSpec
	if getJSON(in.Annotations, metricsAnnotation, &metrics) {
		for i := range metrics {
			out.Spec.Metrics = append(out.Spec.Metrics, metricFromV1(&metrics[i]))
		}
	}
	var behavior autoscalingv2.HorizontalPodAutoscalerBehavior
	if getJSON(in.Annotations, behaviorAnnotation, &behavior) {
		out.Spec.Behavior = &behavior
	}
	var current []autoscalingv1.MetricStatus
	switch {
	case getJSON(in.Annotations, currentMetricsAnnotation, &current):
		for i := range current {
			out.Status.CurrentMetrics = append(out.Status.CurrentMetrics, currentFromV1(&current[i]))
		}
	case in.Status.CurrentCPUUtilizationPercentage != nil:
		out.Status.CurrentMetrics = []autoscalingv2.MetricStatus{{
			Type: autoscalingv2.ResourceMetricSourceType,
			Resource: &autoscalingv2.ResourceMetricStatus{
				Name:    corev1.ResourceCPU,
				Current: autoscalingv2.MetricValueStatus{AverageUtilization: in.Status.CurrentCPUUtilizationPercentage},
			},
		}}
	}
	var conditions []autoscalingv1.HorizontalPodAutoscalerCondition
	if getJSON(in.Annotations, conditionsAnnotation, &conditions) {
		for _, c := range conditions {
			out.Status.Conditions = append(out.Status.Conditions, autoscalingv2.HorizontalPodAutoscalerCondition{
				Type:               autoscalingv2.HorizontalPodAutoscalerConditionType(c.Type),
				Status:             c.Status,
				LastTransitionTime: c.LastTransitionTime,
				Reason:             c.Reason,
				Message:            c.Message,
			})
		}
	}
	return nil
}

func isCPUUtilization(m *autoscalingv2.MetricSpec) bool {
	return m.Type == autoscalingv2.ResourceMetricSourceType && m.Resource != nil &&
		m.Resource.Name == corev1.ResourceCPU && m.Resource.Target.AverageUtilization != nil
}

func metricToV1(m *autoscalingv2.MetricSpec) autoscalingv1.MetricSpec {
	out := autoscalingv1.MetricSpec{Type: autoscalingv1.MetricSourceType(m.Type)}
	if o := m.Object; o != nil {
		out.Object = &autoscalingv1.ObjectMetricSource{
			Target:       autoscalingv1.CrossVersionObjectReference(o.DescribedObject),
			MetricName:   o.Metric.Name,
			Selector:     o.Metric.Selector,
			TargetValue:  value(o.Target.Value),
			AverageValue: o.Target.AverageValue,
		}
	}
	if o := m.Pods; o != nil {
		out.Pods = &autoscalingv1.PodsMetricSource{
			MetricName: o.Metric.Name, Selector: o.Metric.Selector, TargetAverageValue: value(o.Target.AverageValue),
		}
	}
	if o := m.Resource; o != nil {
		out.Resource = &autoscalingv1.ResourceMetricSource{
			Name: o.Name, TargetAverageUtilization: o.Target.AverageUtilization, TargetAverageValue: o.Target.AverageValue,
		}
	}
	if o := m.ContainerResource; o != nil {
		out.ContainerResource = &autoscalingv1.ContainerResourceMetricSource{
			Name: o.Name, Container: o.Container,
			TargetAverageUtilization: o.Target.AverageUtilization, TargetAverageValue: o.Target.AverageValue,
		}
	}
	if o := m.External; o != nil {
		out.External = &autoscalingv1.ExternalMetricSource{
			MetricName: o.Metric.Name, MetricSelector: o.Metric.Selector,
			TargetValue: o.Target.Value, TargetAverageValue: o.Target.AverageValue,
		}
	}
	return out
}

func metricFromV1(m *autoscalingv1.MetricSpec) autoscalingv2.MetricSpec {
	out := autoscalingv2.MetricSpec{Type: autoscalingv2.MetricSourceType(m.Type)}
	if o := m.Object; o != nil {
		target := autoscalingv2.MetricTarget{Type: autoscalingv2.ValueMetricType, Value: &o.TargetValue}
		if o.AverageValue != nil {
			target = autoscalingv2.MetricTarget{Type: autoscalingv2.AverageValueMetricType, AverageValue: o.AverageValue}
		}
		out.Object = &autoscalingv2.ObjectMetricSource{
			DescribedObject: autoscalingv2.CrossVersionObjectReference(o.Target),
			Metric:          autoscalingv2.MetricIdentifier{Name: o.MetricName, Selector: o.Selector},
			Target:          target,
		}
	}
	if o := m.Pods; o != nil {
		out.Pods = &autoscalingv2.PodsMetricSource{
			Metric: autoscalingv2.MetricIdentifier{Name: o.MetricName, Selector: o.Selector},
			Target: autoscalingv2.MetricTarget{Type: autoscalingv2.AverageValueMetricType, AverageValue: &o.TargetAverageValue},
		}
	}
	if o := m.Resource; o != nil {
		out.Resource = &autoscalingv2.ResourceMetricSource{
			Name: o.Name, Target: resourceTarget(o.TargetAverageUtilization, o.TargetAverageValue),
		}
	}
	if o := m.ContainerResource; o != nil {
		out.ContainerResource = &autoscalingv2.ContainerResourceMetricSource{
			Name: o.Name, Container: o.Container, Target: resourceTarget(o.TargetAverageUtilization, o.TargetAverageValue),
		}
	}
	if o := m.External; o != nil {
		target := autoscalingv2.MetricTarget{Type: autoscalingv2.ValueMetricType, Value: o.TargetValue}
		if o.TargetAverageValue != nil {
			target = autoscalingv2.MetricTarget{Type: autoscalingv2.AverageValueMetricType, AverageValue: o.TargetAverageValue}
		}
		out.External = &autoscalingv2.ExternalMetricSource{
			Metric: autoscalingv2.MetricIdentifier{Name: o.MetricName, Selector: o.MetricSelector}, Target: target,
		}
	}
	return out
}

func resourceTarget(utilization *int32, average *resource.Quantity) autoscalingv2.MetricTarget {
	t := autoscalingv2.MetricTarget{Type: autoscalingv2.AverageValueMetricType, AverageUtilization: utilization, AverageValue: average}
	if utilization != nil {
		t.Type = autoscalingv2.UtilizationMetricType
	}
	return t
}

func currentToV1(m *autoscalingv2.MetricStatus) autoscalingv1.MetricStatus {
	out := autoscalingv1.MetricStatus{Type: autoscalingv1.MetricSourceType(m.Type)}
	if o := m.Object; o != nil {
		out.Object = &autoscalingv1.ObjectMetricStatus{
			Target:     autoscalingv1.CrossVersionObjectReference(o.DescribedObject),
			MetricName: o.Metric.Name, Selector: o.Metric.Selector,
			CurrentValue: value(o.Current.Value), AverageValue: o.Current.AverageValue,
		}
	}
	if o := m.Pods; o != nil {
		out.Pods = &autoscalingv1.PodsMetricStatus{
			MetricName: o.Metric.Name, Selector: o.Metric.Selector, CurrentAverageValue: value(o.Current.AverageValue),
		}
	}
	if o := m.Resource; o != nil {
		out.Resource = &autoscalingv1.ResourceMetricStatus{
			Name: o.Name, CurrentAverageUtilization: o.Current.AverageUtilization, CurrentAverageValue: value(o.Current.AverageValue),
		}
	}
	if o := m.ContainerResource; o != nil {
		out.ContainerResource = &autoscalingv1.ContainerResourceMetricStatus{
			Name: o.Name, Container: o.Container,
			CurrentAverageUtilization: o.Current.AverageUtilization, CurrentAverageValue: value(o.Current.AverageValue),
		}
	}
	if o := m.External; o != nil {
		out.External = &autoscalingv1.ExternalMetricStatus{
			MetricName: o.Metric.Name, MetricSelector: o.Metric.Selector,
			CurrentValue: value(o.Current.Value), CurrentAverageValue: o.Current.AverageValue,
		}
	}
	return out
}

func currentFromV1(m *autoscalingv1.MetricStatus) autoscalingv2.MetricStatus {
	out := autoscalingv2.MetricStatus{Type: autoscalingv2.MetricSourceType(m.Type)}
	if o := m.Object; o != nil {
		out.Object = &autoscalingv2.ObjectMetricStatus{
			DescribedObject: autoscalingv2.CrossVersionObjectReference(o.Target),
			Metric:          autoscalingv2.MetricIdentifier{Name: o.MetricName, Selector: o.Selector},
			Current:         autoscalingv2.MetricValueStatus{Value: &o.CurrentValue, AverageValue: o.AverageValue},
		}
	}
	if o := m.Pods; o != nil {
		out.Pods = &autoscalingv2.PodsMetricStatus{
			Metric:  autoscalingv2.MetricIdentifier{Name: o.MetricName, Selector: o.Selector},
			Current: autoscalingv2.MetricValueStatus{AverageValue: &o.CurrentAverageValue},
		}
	}
	if o := m.Resource; o != nil {
		out.Resource = &autoscalingv2.ResourceMetricStatus{
			Name:    o.Name,
			Current: autoscalingv2.MetricValueStatus{AverageValue: &o.CurrentAverageValue, AverageUtilization: o.CurrentAverageUtilization},
		}
	}
	if o := m.ContainerResource; o != nil {
		out.ContainerResource = &autoscalingv2.ContainerResourceMetricStatus{
			Name: o.Name, Container: o.Container,
			Current: autoscalingv2.MetricValueStatus{AverageValue: &o.CurrentAverageValue, AverageUtilization: o.CurrentAverageUtilization},
		}
	}
	if o := m.External; o != nil {
		out.External = &autoscalingv2.ExternalMetricStatus{
			Metric:  autoscalingv2.MetricIdentifier{Name: o.MetricName, Selector: o.MetricSelector},
			Current: autoscalingv2.MetricValueStatus{Value: &o.CurrentValue, AverageValue: o.CurrentAverageValue},
		}
	}
	return out
}

func value(q *resource.Quantity) resource.Quantity {
	if q == nil {
		return resource.Quantity{}
	}
	return *q
}

func withoutHPAAnnotations(in map[string]string) map[string]string {
	if in == nil {
		return nil
	}
	out := maps.Clone(in)
	for _, key := range []string{metricsAnnotation, currentMetricsAnnotation, conditionsAnnotation, behaviorAnnotation} {
		delete(out, key)
	}
	return out
}

// setJSON writes value under key; an empty slice writes nothing.
func setJSON(annotations *map[string]string, key string, value any) error {
	raw, err := json.Marshal(value)
	if err != nil {
		return err
	}
	if string(raw) == "null" {
		return nil
	}
	if *annotations == nil {
		*annotations = map[string]string{}
	}
	(*annotations)[key] = string(raw)
	return nil
}

func getJSON(annotations map[string]string, key string, into any) bool {
	raw, ok := annotations[key]
	return ok && json.Unmarshal([]byte(raw), into) == nil
}
