package validation

import (
	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func podTemplateCreate(t *corev1.PodTemplate) field.ErrorList {
	r := &report{}
	podTemplate(r, field.NewPath("template"), &t.Template)
	return r.list
}

func replicationControllerCreate(rc *corev1.ReplicationController) field.ErrorList {
	r := &report{}
	p := field.NewPath("spec")
	r.nonNegative(p.Child("minReadySeconds"), int64(rc.Spec.MinReadySeconds))
	replicas(r, p.Child("replicas"), rc.Spec.Replicas)
	if len(rc.Spec.Selector) == 0 {
		r.required(p.Child("selector"), "")
	}
	t := p.Child("template")
	if rc.Spec.Template == nil {
		r.required(t, "")
		return r.list
	}
	if len(rc.Spec.Selector) > 0 {
		selectsTemplate(r, t, labels.Set(rc.Spec.Selector).AsSelectorPreValidated(), rc.Spec.Template.Labels)
	}
	podTemplate(r, t, rc.Spec.Template)
	alwaysRestarts(r, t, rc.Spec.Template)
	return r.list
}

func replicationControllerUpdate(rc, _ *corev1.ReplicationController) field.ErrorList {
	return replicationControllerCreate(rc)
}

func replicationControllerStatus(rc, _ *corev1.ReplicationController) field.ErrorList {
	r := &report{}
	s := &rc.Status
	replicaCounts(r, s.Replicas, s.FullyLabeledReplicas, s.ReadyReplicas, s.AvailableReplicas, s.ObservedGeneration)
	return r.list
}

func statefulSetCreate(ss *appsv1.StatefulSet) field.ErrorList {
	r := &report{}
	p := field.NewPath("spec")
	spec := &ss.Spec
	oneOf(r, p.Child("podManagementPolicy"), spec.PodManagementPolicy, true, appsv1.OrderedReadyPodManagement, appsv1.ParallelPodManagement)
	s, at := &spec.UpdateStrategy, p.Child("updateStrategy")
	switch s.Type {
	case "":
		r.required(at, "")
	case appsv1.OnDeleteStatefulSetStrategyType:
		if s.RollingUpdate != nil {
			r.invalid(at.Child("rollingUpdate"), s.RollingUpdate, "only allowed for updateStrategy 'RollingUpdate'")
		}
	case appsv1.RollingUpdateStatefulSetStrategyType:
		if u := s.RollingUpdate; u != nil {
			if u.Partition != nil {
				r.nonNegative(at.Child("rollingUpdate", "partition"), int64(*u.Partition))
			}
			if u.MaxUnavailable != nil {
				m := at.Child("rollingUpdate", "maxUnavailable")
				intOrPercent(r, m, *u.MaxUnavailable)
				if isNone(*u.MaxUnavailable) {
					r.invalid(m, *u.MaxUnavailable, "cannot be 0")
				}
				atMostWhole(r, m, *u.MaxUnavailable)
			}
		}
	default:
		r.invalid(at, *s, "must be 'RollingUpdate' or 'OnDelete'")
	}
	if c := spec.PersistentVolumeClaimRetentionPolicy; c != nil {
		at := p.Child("persistentVolumeClaimRetentionPolicy")
		oneOf(r, at.Child("whenDeleted"), c.WhenDeleted, true, appsv1.RetainPersistentVolumeClaimRetentionPolicyType, appsv1.DeletePersistentVolumeClaimRetentionPolicyType)
		oneOf(r, at.Child("whenScaled"), c.WhenScaled, true, appsv1.RetainPersistentVolumeClaimRetentionPolicyType, appsv1.DeletePersistentVolumeClaimRetentionPolicyType)
	}
	replicas(r, p.Child("replicas"), spec.Replicas)
	r.nonNegative(p.Child("minReadySeconds"), int64(spec.MinReadySeconds))
	if spec.Ordinals != nil {
		r.nonNegative(p.Child("ordinals", "start"), int64(spec.Ordinals.Start))
	}
	if spec.RevisionHistoryLimit != nil {
		r.nonNegative(p.Child("revisionHistoryLimit"), int64(*spec.RevisionHistoryLimit))
	}
	// The claims of the templates are volumes of the pods by the template's name.
	whole := workload{"statefulset", spec.Selector, spec.Template.DeepCopy()}
	named := sets.New[string]()
	for _, v := range whole.template.Spec.Volumes {
		named.Insert(v.Name)
	}
	for i := range spec.VolumeClaimTemplates {
		claim := &spec.VolumeClaimTemplates[i]
		at := p.Child("volumeClaimTemplates").Index(i)
		requiredSubdomain(r, at.Child("metadata", "name"), claim.Name)
		claimSpec(r, at.Child("spec"), &claim.Spec)
		if claim.Name != "" && !named.Has(claim.Name) {
			whole.template.Spec.Volumes = append(whole.template.Spec.Volumes, corev1.Volume{Name: claim.Name, VolumeSource: corev1.VolumeSource{
				PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim.Name}}})
			named.Insert(claim.Name)
		}
	}
	whole.check(r, p)
	return r.list
}

// statefulSetUpdate: pods and claims are named after what does not change.
func statefulSetUpdate(ss, old *appsv1.StatefulSet) field.ErrorList {
	r := &report{list: statefulSetCreate(ss)}
	rest := ss.Spec.DeepCopy()
	rest.Replicas, rest.Template, rest.UpdateStrategy = old.Spec.Replicas, old.Spec.Template, old.Spec.UpdateStrategy
	rest.MinReadySeconds, rest.Ordinals, rest.RevisionHistoryLimit = old.Spec.MinReadySeconds, old.Spec.Ordinals, old.Spec.RevisionHistoryLimit
	rest.PersistentVolumeClaimRetentionPolicy = old.Spec.PersistentVolumeClaimRetentionPolicy
	if !equality.Semantic.DeepEqual(*rest, old.Spec) {
		r.forbidden(field.NewPath("spec"), "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden")
	}
	return r.list
}

func statefulSetStatus(ss, _ *appsv1.StatefulSet) field.ErrorList {
	r := &report{}
	p := field.NewPath("status")
	s := &ss.Status
	counts(r, p, map[string]int64{"replicas": int64(s.Replicas), "readyReplicas": int64(s.ReadyReplicas), "currentReplicas": int64(s.CurrentReplicas),
		"updatedReplicas": int64(s.UpdatedReplicas), "availableReplicas": int64(s.AvailableReplicas), "observedGeneration": s.ObservedGeneration})
	if s.CollisionCount != nil {
		r.nonNegative(p.Child("collisionCount"), int64(*s.CollisionCount))
	}
	atMost(r, p.Child("readyReplicas"), s.ReadyReplicas, s.Replicas, "status.replicas")
	atMost(r, p.Child("currentReplicas"), s.CurrentReplicas, s.Replicas, "status.replicas")
	atMost(r, p.Child("updatedReplicas"), s.UpdatedReplicas, s.Replicas, "status.replicas")
	atMost(r, p.Child("availableReplicas"), s.AvailableReplicas, s.Replicas, "status.replicas")
	atMost(r, p.Child("availableReplicas"), s.AvailableReplicas, s.ReadyReplicas, "status.readyReplicas")
	return r.list
}

func controllerRevisionCreate(c *appsv1.ControllerRevision) field.ErrorList {
	r := &report{}
	if c.Data.Raw == nil && c.Data.Object == nil {
		r.required(field.NewPath("data"), "data is mandatory")
	}
	r.nonNegative(field.NewPath("revision"), c.Revision)
	return r.list
}

func controllerRevisionUpdate(c, old *appsv1.ControllerRevision) field.ErrorList {
	r := &report{list: controllerRevisionCreate(c)}
	if !equality.Semantic.DeepEqual(c.Data, old.Data) {
		r.invalid(field.NewPath("data"), nil, "field is immutable")
	}
	return r.list
}

func scaleCreate(s *autoscalingv1.Scale) field.ErrorList {
	r := &report{}
	r.nonNegative(field.NewPath("spec", "replicas"), int64(s.Spec.Replicas))
	return r.list
}

func budgetCreate(b *policyv1.PodDisruptionBudget) field.ErrorList {
	r := &report{}
	p := field.NewPath("spec")
	if b.Spec.MinAvailable != nil && b.Spec.MaxUnavailable != nil {
		r.invalid(p, b.Spec, "minAvailable and maxUnavailable cannot be both set")
	}
	if m := b.Spec.MinAvailable; m != nil {
		intOrPercent(r, p.Child("minAvailable"), *m)
		atMostWhole(r, p.Child("minAvailable"), *m)
	}
	if m := b.Spec.MaxUnavailable; m != nil {
		intOrPercent(r, p.Child("maxUnavailable"), *m)
		atMostWhole(r, p.Child("maxUnavailable"), *m)
	}
	selector(r, p.Child("selector"), b.Spec.Selector)
	optionalOneOf(r, p.Child("unhealthyPodEvictionPolicy"), b.Spec.UnhealthyPodEvictionPolicy, policyv1.IfHealthyBudget, policyv1.AlwaysAllow)
	return r.list
}

func budgetStatus(b, _ *policyv1.PodDisruptionBudget) field.ErrorList {
	r := &report{}
	p := field.NewPath("status")
	r.list = append(r.list, metavalidation.ValidateConditions(b.Status.Conditions, p.Child("conditions"))...)
	counts(r, p, map[string]int64{"disruptionsAllowed": int64(b.Status.DisruptionsAllowed), "currentHealthy": int64(b.Status.CurrentHealthy),
		"desiredHealthy": int64(b.Status.DesiredHealthy), "expectedPods": int64(b.Status.ExpectedPods)})
	return r.list
}
