package validation

import (
	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	networkingv1 "k8s.io/api/networking/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// conditions checks a list of the common condition type: known statuses, reasons and times, no type twice.
func conditions(list []metav1.Condition) field.ErrorList {
	return metavalidation.ValidateConditions(list, field.NewPath("status", "conditions"))
}

func serviceCIDRStatus(c, _ *networkingv1.ServiceCIDR) field.ErrorList {
	return conditions(c.Status.Conditions)
}

func validatingPolicyStatus(v, _ *admissionv1.ValidatingAdmissionPolicy) field.ErrorList {
	r := &report{list: conditions(v.Status.Conditions)}
	if v.Status.TypeChecking != nil {
		for i, w := range v.Status.TypeChecking.ExpressionWarnings {
			at := field.NewPath("status", "typeChecking", "expressionWarnings").Index(i)
			if w.Warning == "" {
				r.required(at.Child("warning"), "")
			}
			if w.FieldRef == "" {
				r.required(at.Child("fieldRef"), "")
			}
		}
	}
	return r.list
}

func flowSchemaStatus(s, _ *flowcontrolv1.FlowSchema) field.ErrorList {
	r := &report{}
	seen := sets.New[flowcontrolv1.FlowSchemaConditionType]()
	for i, c := range s.Status.Conditions {
		at := field.NewPath("status", "conditions").Index(i)
		flowCondition(r, at, string(c.Type), seen.Has(c.Type), c.Status)
		seen.Insert(c.Type)
	}
	return r.list
}

func priorityLevelStatus(l, _ *flowcontrolv1.PriorityLevelConfiguration) field.ErrorList {
	r := &report{}
	seen := sets.New[flowcontrolv1.PriorityLevelConfigurationConditionType]()
	for i, c := range l.Status.Conditions {
		at := field.NewPath("status", "conditions").Index(i)
		flowCondition(r, at, string(c.Type), seen.Has(c.Type), c.Status)
		seen.Insert(c.Type)
	}
	return r.list
}

func flowCondition(r *report, p *field.Path, kind string, twice bool, status flowcontrolv1.ConditionStatus) {
	if kind == "" {
		r.required(p.Child("type"), "must not be empty")
	}
	if twice {
		r.duplicate(p.Child("type"), kind)
	}
	oneOf(r, p.Child("status"), status, true, flowcontrolv1.ConditionTrue, flowcontrolv1.ConditionFalse, flowcontrolv1.ConditionUnknown)
}

// attachmentStatus bounds what a driver may leave on an attachment.
func attachmentStatus(a, _ *storagev1.VolumeAttachment) field.ErrorList {
	r := &report{}
	attachmentResult(r, &a.Status)
	return r.list
}

func volumeStatus(v, _ *corev1.PersistentVolume) field.ErrorList {
	r := &report{}
	if v.ResourceVersion == "" {
		r.required(field.NewPath("resourceVersion"), "")
	}
	return r.list
}
