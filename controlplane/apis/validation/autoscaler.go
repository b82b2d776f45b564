package validation

import (
	"fmt"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/api/validation/path"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Bounds of an autoscaler's behaviour, in seconds.
const (
	maxStabilizationSeconds = 3600
	maxPolicyPeriodSeconds  = 1800
)

func autoscalerV1Create(h *autoscalingv1.HorizontalPodAutoscaler) field.ErrorList {
	r := &report{}
	p := field.NewPath("spec")
	autoscalerRange(r, p, h.Spec.MinReplicas, h.Spec.MaxReplicas)
	t := h.Spec.ScaleTargetRef
	targetRef(r, p.Child("scaleTargetRef"), t.Kind, t.Name)
	if u := h.Spec.TargetCPUUtilizationPercentage; u != nil && *u < 1 {
		r.invalid(p.Child("targetCPUUtilizationPercentage"), *u, "must be greater than 0")
	}
	return r.list
}

func autoscalerRange(r *report, p *field.Path, min *int32, max int32) {
	if min != nil && *min < 1 {
		r.invalid(p.Child("minReplicas"), *min, "must be greater than or equal to 1")
	}
	switch {
	case max == 0:
		r.required(p.Child("maxReplicas"), "")
	case max < 0:
		r.invalid(p.Child("maxReplicas"), max, "must be greater than 0")
	}
	if min != nil && max < *min {
		r.invalid(p.Child("maxReplicas"), max, "must be greater than or equal to `minReplicas`")
	}
}

func targetRef(r *report, p *field.Path, kind, name string) {
	segment := func(child, value string) {
		if value == "" {
			r.required(p.Child(child), "")
			return
		}
		r.each(p.Child(child), value, path.IsValidPathSegmentName(value))
	}
	segment("kind", kind)
	segment("name", name)
}

func autoscalerCreate(h *autoscalingv2.HorizontalPodAutoscaler) field.ErrorList {
	r := &report{}
	p := field.NewPath("spec")
	autoscalerRange(r, p, h.Spec.MinReplicas, h.Spec.MaxReplicas)
	t := h.Spec.ScaleTargetRef
	targetRef(r, p.Child("scaleTargetRef"), t.Kind, t.Name)
	outside := false
	for i := range h.Spec.Metrics {
		m := &h.Spec.Metrics[i]
		metric(r, p.Child("metrics").Index(i), m)
		outside = outside || m.Type == autoscalingv2.ObjectMetricSourceType || m.Type == autoscalingv2.ExternalMetricSourceType
	}
	if h.Spec.MinReplicas != nil && *h.Spec.MinReplicas == 0 && !outside {
		r.forbidden(p.Child("metrics"), "must specify at least one Object or External metric to support scaling to zero replicas")
	}
	if b := h.Spec.Behavior; b != nil {
		scalingRules(r, p.Child("behavior", "scaleUp"), b.ScaleUp)
		scalingRules(r, p.Child("behavior", "scaleDown"), b.ScaleDown)
	}
	return r.list
}

func metric(r *report, p *field.Path, m *autoscalingv2.MetricSpec) {
	oneOf(r, p.Child("type"), m.Type, true, autoscalingv2.ObjectMetricSourceType, autoscalingv2.PodsMetricSourceType,
		autoscalingv2.ResourceMetricSourceType, autoscalingv2.ExternalMetricSourceType, autoscalingv2.ContainerResourceMetricSourceType)
	set := sets.New(setFields(m)...)
	want := map[autoscalingv2.MetricSourceType]string{autoscalingv2.ObjectMetricSourceType: "object", autoscalingv2.PodsMetricSourceType: "pods",
		autoscalingv2.ResourceMetricSourceType: "resource", autoscalingv2.ExternalMetricSourceType: "external",
		autoscalingv2.ContainerResourceMetricSourceType: "containerResource"}[m.Type]
	if want != "" && !set.Has(want) {
		r.required(p.Child(want), "must populate information for the given metric source")
	}
	for _, extra := range sortedSet(set) {
		if extra != want {
			r.forbidden(p.Child(extra), "must populate the given metric source only")
		}
	}
	if s := m.Object; s != nil {
		at := p.Child("object")
		targetRef(r, at.Child("describedObject"), s.DescribedObject.Kind, s.DescribedObject.Name)
		metricIdentifier(r, at.Child("metric"), &s.Metric)
		metricTarget(r, at.Child("target"), &s.Target)
		if s.Target.Value == nil && s.Target.AverageValue == nil {
			r.required(at.Child("target", "averageValue"), "must set either a target value or averageValue")
		}
	}
	if s := m.External; s != nil {
		at := p.Child("external")
		metricIdentifier(r, at.Child("metric"), &s.Metric)
		metricTarget(r, at.Child("target"), &s.Target)
		switch {
		case s.Target.Value == nil && s.Target.AverageValue == nil:
			r.required(at.Child("target", "averageValue"), "must set either a target value for metric or a per-pod target")
		case s.Target.Value != nil && s.Target.AverageValue != nil:
			r.forbidden(at.Child("target", "value"), "may not set both a target value for metric and a per-pod target")
		}
	}
	if s := m.Pods; s != nil {
		at := p.Child("pods")
		metricIdentifier(r, at.Child("metric"), &s.Metric)
		metricTarget(r, at.Child("target"), &s.Target)
		if s.Target.AverageValue == nil || s.Target.AverageValue.Sign() <= 0 {
			r.required(at.Child("target", "averageValue"), "must specify a positive target averageValue")
		}
	}
	if s := m.Resource; s != nil {
		resourceMetric(r, p.Child("resource"), string(s.Name), &s.Target)
	}
	if s := m.ContainerResource; s != nil {
		at := p.Child("containerResource")
		resourceMetric(r, at, string(s.Name), &s.Target)
		if s.Container == "" {
			r.required(at.Child("container"), "must specify a container")
		}
	}
}

func resourceMetric(r *report, p *field.Path, name string, t *autoscalingv2.MetricTarget) {
	if name == "" {
		r.required(p.Child("name"), "must specify a resource name")
	}
	metricTarget(r, p.Child("target"), t)
	at := p.Child("target")
	switch {
	case t.AverageUtilization == nil && t.AverageValue == nil:
		r.required(at.Child("averageUtilization"), "must set either a target raw value or a target utilization")
	case t.AverageUtilization != nil && t.AverageValue != nil:
		r.forbidden(at.Child("averageValue"), "may not set both a target raw value and a target utilization")
	}
}

func metricIdentifier(r *report, p *field.Path, m *autoscalingv2.MetricIdentifier) {
	if m.Name == "" {
		r.required(p.Child("name"), "must specify a metric name")
		return
	}
	r.each(p.Child("name"), m.Name, path.IsValidPathSegmentName(m.Name))
}

func metricTarget(r *report, p *field.Path, t *autoscalingv2.MetricTarget) {
	switch t.Type {
	case "":
		r.required(p.Child("type"), "must specify a metric target type")
	case autoscalingv2.UtilizationMetricType, autoscalingv2.ValueMetricType, autoscalingv2.AverageValueMetricType:
	default:
		r.invalid(p.Child("type"), t.Type, "must be either Utilization, Value, or AverageValue")
	}
	if t.Value != nil && t.Value.Sign() != 1 {
		r.invalid(p.Child("value"), *t.Value, "must be positive")
	}
	if t.AverageValue != nil && t.AverageValue.Sign() != 1 {
		r.invalid(p.Child("averageValue"), *t.AverageValue, "must be positive")
	}
	if t.AverageUtilization != nil && *t.AverageUtilization < 1 {
		r.invalid(p.Child("averageUtilization"), *t.AverageUtilization, "must be greater than 0")
	}
}

func scalingRules(r *report, p *field.Path, s *autoscalingv2.HPAScalingRules) {
	if s == nil {
		return
	}
	if w := s.StabilizationWindowSeconds; w != nil {
		at := p.Child("stabilizationWindowSeconds")
		r.nonNegative(at, int64(*w))
		if *w > maxStabilizationSeconds {
			r.invalid(at, *w, fmt.Sprintf("must be less than or equal to %v", maxStabilizationSeconds))
		}
	}
	optionalOneOf(r, p.Child("selectPolicy"), s.SelectPolicy, autoscalingv2.MaxChangePolicySelect, autoscalingv2.MinChangePolicySelect, autoscalingv2.DisabledPolicySelect)
	if s.Tolerance != nil && s.Tolerance.Sign() < 0 {
		r.invalid(p.Child("tolerance"), textOf(*s.Tolerance), "must be greater than or equal to 0")
	}
	if len(s.Policies) == 0 {
		r.required(p.Child("policies"), "must specify at least one Policy")
	}
	for i, policy := range s.Policies {
		at := p.Child("policies").Index(i)
		oneOf(r, at.Child("type"), policy.Type, true, autoscalingv2.PodsScalingPolicy, autoscalingv2.PercentScalingPolicy)
		if policy.Value <= 0 {
			r.invalid(at.Child("value"), policy.Value, "must be greater than zero")
		}
		if policy.PeriodSeconds <= 0 {
			r.invalid(at.Child("periodSeconds"), policy.PeriodSeconds, "must be greater than zero")
		}
		if policy.PeriodSeconds > maxPolicyPeriodSeconds {
			r.invalid(at.Child("periodSeconds"), policy.PeriodSeconds, fmt.Sprintf("must be less than or equal to %v", maxPolicyPeriodSeconds))
		}
	}
}

func autoscalerStatus(h, _ *autoscalingv2.HorizontalPodAutoscaler) field.ErrorList {
	r := &report{}
	counts(r, field.NewPath("status"), map[string]int64{"currentReplicas": int64(h.Status.CurrentReplicas), "desiredReplicas": int64(h.Status.DesiredReplicas)})
	return r.list
}
