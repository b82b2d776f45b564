package validation

import (
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// workload is what the controllers of long-running pods share.
type workload struct {
	kind     string
	selector *metav1.LabelSelector
	template *corev1.PodTemplateSpec
}

// check checks selector and template, and that one finds the other.
func (w workload) check(r *report, p *field.Path) {
	at := p.Child("selector")
	var s labels.Selector
	if w.selector == nil {
		r.required(at, "")
	} else {
		selector(r, at, w.selector)
		if len(w.selector.MatchLabels)+len(w.selector.MatchExpressions) == 0 {
			r.invalid(at, w.selector, "empty selector is invalid for "+w.kind)
		}
		var err error
		if s, err = metav1.LabelSelectorAsSelector(w.selector); err != nil {
			r.invalid(at, w.selector, "invalid label selector")
		}
	}
	t := p.Child("template")
	if s != nil && !s.Empty() {
		selectsTemplate(r, t, s, w.template.Labels)
	}
	podTemplate(r, t, w.template)
	alwaysRestarts(r, t, w.template)
}

// alwaysRestarts: pods that end by themselves are Jobs'.
func alwaysRestarts(r *report, p *field.Path, t *corev1.PodTemplateSpec) {
	if t.Spec.RestartPolicy != corev1.RestartPolicyAlways {
		r.add(field.NotSupported(p.Child("spec", "restartPolicy"), t.Spec.RestartPolicy, []corev1.RestartPolicy{corev1.RestartPolicyAlways}))
	}
	if t.Spec.ActiveDeadlineSeconds != nil {
		r.forbidden(p.Child("spec", "activeDeadlineSeconds"), "activeDeadlineSeconds in ReplicaSet is not Supported")
	}
}

func replicas(r *report, p *field.Path, n *int32) {
	if n == nil {
		r.required(p, "")
		return
	}
	r.nonNegative(p, int64(*n))
}

// sameSelector: a controller that changes its selector would leave its pods behind.
func sameSelector(r *report, now, was *metav1.LabelSelector) {
	immutable(r, field.NewPath("spec", "selector"), now, was, func(a, b *metav1.LabelSelector) bool { return equality.Semantic.DeepEqual(a, b) })
}

func deploymentCreate(d *appsv1.Deployment) field.ErrorList {
	r := &report{}
	p := field.NewPath("spec")
	spec := &d.Spec
	replicas(r, p.Child("replicas"), spec.Replicas)
	workload{"deployment", spec.Selector, &spec.Template}.check(r, p)
	s, at := &spec.Strategy, p.Child("strategy")
	switch s.Type {
	case appsv1.RecreateDeploymentStrategyType:
		if s.RollingUpdate != nil {
			r.forbidden(at.Child("rollingUpdate"), "may not be specified when strategy `type` is '"+string(s.Type)+"'")
		}
	case appsv1.RollingUpdateDeploymentStrategyType:
		if s.RollingUpdate == nil {
			r.required(at.Child("rollingUpdate"), "this should be defaulted and never be nil")
		} else {
			rolling(r, at.Child("rollingUpdate"), s.RollingUpdate.MaxUnavailable, s.RollingUpdate.MaxSurge)
		}
	default:
		r.add(field.NotSupported(at, *s, []appsv1.DeploymentStrategyType{appsv1.RecreateDeploymentStrategyType, appsv1.RollingUpdateDeploymentStrategyType}))
	}
	r.nonNegative(p.Child("minReadySeconds"), int64(spec.MinReadySeconds))
	if spec.RevisionHistoryLimit != nil {
		r.nonNegative(p.Child("revisionHistoryLimit"), int64(*spec.RevisionHistoryLimit))
	}
	if d := spec.ProgressDeadlineSeconds; d != nil {
		r.nonNegative(p.Child("progressDeadlineSeconds"), int64(*d))
		if *d <= spec.MinReadySeconds {
			r.invalid(p.Child("progressDeadlineSeconds"), *d, "must be greater than minReadySeconds")
		}
	}
	return r.list
}

// rolling checks a rolling update's two steps: both none would never get anywhere.
func rolling(r *report, p *field.Path, unavailable, surge *intstr.IntOrString) {
	zero := intstr.FromInt32(0)
	if unavailable == nil {
		unavailable = &zero
	}
	if surge == nil {
		surge = &zero
	}
	intOrPercent(r, p.Child("maxUnavailable"), *unavailable)
	intOrPercent(r, p.Child("maxSurge"), *surge)
	if isNone(*unavailable) && isNone(*surge) {
		r.invalid(p.Child("maxUnavailable"), *unavailable, "may not be 0 when `maxSurge` is 0")
	}
	atMostWhole(r, p.Child("maxUnavailable"), *unavailable)
}

func isNone(v intstr.IntOrString) bool {
	share, isPercent := percent(v)
	return v.Type == intstr.Int && v.IntVal == 0 || isPercent && share == 0
}

func deploymentUpdate(d, old *appsv1.Deployment) field.ErrorList {
	r := &report{list: deploymentCreate(d)}
	sameSelector(r, d.Spec.Selector, old.Spec.Selector)
	return r.list
}

func deploymentStatus(d, old *appsv1.Deployment) field.ErrorList {
	r := &report{}
	p := field.NewPath("status")
	s := &d.Status
	counts(r, p, map[string]int64{"observedGeneration": s.ObservedGeneration, "replicas": int64(s.Replicas), "updatedReplicas": int64(s.UpdatedReplicas),
		"readyReplicas": int64(s.ReadyReplicas), "availableReplicas": int64(s.AvailableReplicas), "unavailableReplicas": int64(s.UnavailableReplicas)})
	if s.CollisionCount != nil {
		r.nonNegative(p.Child("collisionCount"), int64(*s.CollisionCount))
	}
	atMost(r, p.Child("updatedReplicas"), s.UpdatedReplicas, s.Replicas, "status.replicas")
	atMost(r, p.Child("readyReplicas"), s.ReadyReplicas, s.Replicas, "status.replicas")
	atMost(r, p.Child("availableReplicas"), s.AvailableReplicas, s.Replicas, "status.replicas")
	atMost(r, p.Child("availableReplicas"), s.AvailableReplicas, s.ReadyReplicas, "readyReplicas")
	if was := old.Status.CollisionCount; was != nil {
		switch now := s.CollisionCount; {
		case now == nil:
			r.invalid(p.Child("collisionCount"), "null", "cannot be unset once set")
		case *now < *was:
			r.invalid(p.Child("collisionCount"), *now, "cannot be decremented")
		}
	}
	return r.list
}

func counts(r *report, p *field.Path, list map[string]int64) {
	for name, n := range sorted(list) {
		r.nonNegative(p.Child(name), n)
	}
}

func atMost(r *report, p *field.Path, n, bound int32, what string) {
	if n > bound {
		r.invalid(p, n, "cannot be greater than "+what)
	}
}

func replicaSetCreate(rs *appsv1.ReplicaSet) field.ErrorList {
	r := &report{}
	p := field.NewPath("spec")
	replicas(r, p.Child("replicas"), rs.Spec.Replicas)
	r.nonNegative(p.Child("minReadySeconds"), int64(rs.Spec.MinReadySeconds))
	workload{"replicaset", rs.Spec.Selector, &rs.Spec.Template}.check(r, p)
	return r.list
}

func replicaSetUpdate(rs, old *appsv1.ReplicaSet) field.ErrorList {
	r := &report{list: replicaSetCreate(rs)}
	sameSelector(r, rs.Spec.Selector, old.Spec.Selector)
	return r.list
}

func replicaSetStatus(rs, _ *appsv1.ReplicaSet) field.ErrorList {
	r := &report{}
	s := &rs.Status
	replicaCounts(r, s.Replicas, s.FullyLabeledReplicas, s.ReadyReplicas, s.AvailableReplicas, s.ObservedGeneration)
	return r.list
}

func replicaCounts(r *report, all, labeled, ready, available int32, generation int64) {
	p := field.NewPath("status")
	counts(r, p, map[string]int64{"replicas": int64(all), "fullyLabeledReplicas": int64(labeled), "readyReplicas": int64(ready),
		"availableReplicas": int64(available), "observedGeneration": generation})
	atMost(r, p.Child("fullyLabeledReplicas"), labeled, all, "status.replicas")
	atMost(r, p.Child("readyReplicas"), ready, all, "status.replicas")
	atMost(r, p.Child("availableReplicas"), available, all, "status.replicas")
	atMost(r, p.Child("availableReplicas"), available, ready, "readyReplicas")
}

func daemonSetCreate(ds *appsv1.DaemonSet) field.ErrorList {
	r := &report{}
	p := field.NewPath("spec")
	spec := &ds.Spec
	workload{"daemonset", spec.Selector, &spec.Template}.check(r, p)
	r.nonNegative(p.Child("minReadySeconds"), int64(spec.MinReadySeconds))
	s, at := &spec.UpdateStrategy, p.Child("updateStrategy")
	switch s.Type {
	case appsv1.OnDeleteDaemonSetStrategyType:
	case appsv1.RollingUpdateDaemonSetStrategyType:
		if s.RollingUpdate == nil {
			r.required(at.Child("rollingUpdate"), "")
			break
		}
		daemonSteps(r, at.Child("rollingUpdate"), s.RollingUpdate)
	default:
		r.add(field.NotSupported(at, *s, []appsv1.DaemonSetUpdateStrategyType{appsv1.RollingUpdateDaemonSetStrategyType, appsv1.OnDeleteDaemonSetStrategyType}))
	}
	if spec.RevisionHistoryLimit != nil {
		r.nonNegative(p.Child("revisionHistoryLimit"), int64(*spec.RevisionHistoryLimit))
	}
	return r.list
}

// daemonSteps wants exactly one of the two to be something: a node has either one pod less or one more for a while.
func daemonSteps(r *report, p *field.Path, u *appsv1.RollingUpdateDaemonSet) {
	unavailable, surge := intstr.FromInt32(0), intstr.FromInt32(0)
	if u.MaxUnavailable != nil {
		unavailable = *u.MaxUnavailable
	}
	if u.MaxSurge != nil {
		surge = *u.MaxSurge
	}
	intOrPercent(r, p.Child("maxUnavailable"), unavailable)
	intOrPercent(r, p.Child("maxSurge"), surge)
	switch {
	case !isNone(unavailable) && !isNone(surge):
		r.invalid(p.Child("maxSurge"), surge, "may not be set when maxUnavailable is non-zero")
	case isNone(unavailable) && isNone(surge):
		r.required(p.Child("maxUnavailable"), "cannot be 0 when maxSurge is 0")
	}
	atMostWhole(r, p.Child("maxUnavailable"), unavailable)
	atMostWhole(r, p.Child("maxSurge"), surge)
}

func daemonSetUpdate(ds, old *appsv1.DaemonSet) field.ErrorList {
	r := &report{list: daemonSetCreate(ds)}
	sameSelector(r, ds.Spec.Selector, old.Spec.Selector)
	return r.list
}

func daemonSetStatus(ds, _ *appsv1.DaemonSet) field.ErrorList {
	r := &report{}
	s := &ds.Status
	counts(r, field.NewPath("status"), map[string]int64{"currentNumberScheduled": int64(s.CurrentNumberScheduled), "numberMisscheduled": int64(s.NumberMisscheduled),
		"desiredNumberScheduled": int64(s.DesiredNumberScheduled), "numberReady": int64(s.NumberReady), "observedGeneration": s.ObservedGeneration,
		"updatedNumberScheduled": int64(s.UpdatedNumberScheduled), "numberAvailable": int64(s.NumberAvailable), "numberUnavailable": int64(s.NumberUnavailable)})
	return r.list
}
