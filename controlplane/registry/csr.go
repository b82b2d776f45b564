package registry

import (
	"context"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	genericapirequest "k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

// csrCreate writes down who asks: approvers decide by it, so nothing that the client claims may stand.
func csrCreate(ctx context.Context, obj runtime.Object) {
	csr := obj.(*certificatesv1.CertificateSigningRequest)
	csr.Spec.Username, csr.Spec.UID, csr.Spec.Groups, csr.Spec.Extra = "", "", nil, nil
	if user, ok := genericapirequest.UserFrom(ctx); ok {
		csr.Spec.Username, csr.Spec.UID = user.GetName(), user.GetUID()
		csr.Spec.Groups = append([]string(nil), user.GetGroups()...)
		if extra := user.GetExtra(); len(extra) > 0 {
			csr.Spec.Extra = map[string]certificatesv1.ExtraValue{}
			for k, v := range extra {
				csr.Spec.Extra[k] = v
			}
		}
	}
	csr.Status = certificatesv1.CertificateSigningRequestStatus{}
}

func csrUpdate(_ context.Context, obj, old runtime.Object) {
	obj.(*certificatesv1.CertificateSigningRequest).Spec = old.(*certificatesv1.CertificateSigningRequest).Spec
}

func isDecision(t certificatesv1.RequestConditionType) bool {
	return t == certificatesv1.CertificateApproved || t == certificatesv1.CertificateDenied
}

// csrUpdateStatus lets signers write everything but the decision.
func csrUpdateStatus(_ context.Context, obj, old runtime.Object) {
	now, before := obj.(*certificatesv1.CertificateSigningRequest), old.(*certificatesv1.CertificateSigningRequest)
	now.Status.Conditions = mergeConditions(now.Status.Conditions, before.Status.Conditions, func(t certificatesv1.RequestConditionType) bool {
		return !isDecision(t)
	})
	stampConditions(now, before)
}

// NewCSRApproval gives the approval subresource, which alone writes the Approved and Denied conditions.
func NewCSRApproval(csrs *Store) rest.Storage {
	return newPart(csrs, approvalStrategy{newStrategy(csrs.kind)})
}

type approvalStrategy struct {
	*strategy
}

func (s approvalStrategy) PrepareForUpdate(_ context.Context, obj, old runtime.Object) {
	now, before := obj.(*certificatesv1.CertificateSigningRequest), old.(*certificatesv1.CertificateSigningRequest)
	now.Spec = before.Spec
	conditions := mergeConditions(now.Status.Conditions, before.Status.Conditions, isDecision)
	now.Status = before.Status
	now.Status.Conditions = conditions
	stampConditions(now, before)
}

func (s approvalStrategy) ValidateUpdate(ctx context.Context, obj, old runtime.Object) field.ErrorList {
	return validatePart("approval")(ctx, obj, old)
}

func (s approvalStrategy) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return s.everyVersion(fieldpath.MakePathOrDie("spec"), fieldpath.MakePathOrDie("status", "certificate"))
}

// mergeConditions takes the conditions that writer may write from now and the others from before.
func mergeConditions(now, before []certificatesv1.CertificateSigningRequestCondition, writable func(certificatesv1.RequestConditionType) bool) []certificatesv1.CertificateSigningRequestCondition {
	var out []certificatesv1.CertificateSigningRequestCondition
	for _, c := range before {
		if !writable(c.Type) {
			out = append(out, c)
		}
	}
	for _, c := range now {
		if writable(c.Type) {
			out = append(out, c)
		}
	}
	return out
}

func stampConditions(now, before *certificatesv1.CertificateSigningRequest) {
	at := metav1.Now()
	for i := range now.Status.Conditions {
		c := &now.Status.Conditions[i]
		if c.Status == "" {
			c.Status = corev1.ConditionTrue
		}
		var previous *certificatesv1.CertificateSigningRequestCondition
		for j := range before.Status.Conditions {
			if before.Status.Conditions[j].Type == c.Type {
				previous = &before.Status.Conditions[j]
			}
		}
		if c.LastUpdateTime.IsZero() {
			c.LastUpdateTime = at
		}
		if c.LastTransitionTime.IsZero() {
			c.LastTransitionTime = at
			if previous != nil && previous.Status == c.Status {
				c.LastTransitionTime = previous.LastTransitionTime
			}
		}
	}
}
