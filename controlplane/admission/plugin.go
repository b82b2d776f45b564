package admission

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
)

// Names of the plugins, as --enable-admission-plugins takes them.
const (
	LimitRangerName                          = "LimitRanger"
	ServiceAccountName                       = "ServiceAccount"
	NodeRestrictionName                      = "NodeRestriction"
	TaintNodesByConditionName                = "TaintNodesByCondition"
	AlwaysPullImagesName                     = "AlwaysPullImages"
	PodSecurityName                          = "PodSecurity"
	PriorityName                             = "Priority"
	DefaultTolerationSecondsName             = "DefaultTolerationSeconds"
	ExtendedResourceTolerationName           = "ExtendedResourceToleration"
	DefaultStorageClassName                  = "DefaultStorageClass"
	StorageObjectInUseProtectionName         = "StorageObjectInUseProtection"
	OwnerReferencesPermissionEnforcementName = "OwnerReferencesPermissionEnforcement"
	PersistentVolumeClaimResizeName          = "PersistentVolumeClaimResize"
	RuntimeClassName                         = "RuntimeClass"
	CertificateApprovalName                  = "CertificateApproval"
	CertificateSigningName                   = "CertificateSigning"
	CertificateSubjectRestrictionName        = "CertificateSubjectRestriction"
	DefaultIngressClassName                  = "DefaultIngressClass"
	PodTopologyLabelsName                    = "PodTopologyLabels"
)

var (
	pods           = corev1.Resource("pods")
	nodes          = corev1.Resource("nodes")
	claims         = corev1.Resource("persistentvolumeclaims")
	volumes        = corev1.Resource("persistentvolumes")
	serviceaccount = corev1.Resource("serviceaccounts")
)

// is reports whether the request is about the resource itself, no subresource.
func is(a admission.Attributes, resource schema.GroupResource) bool {
	return a.GetSubresource() == "" && a.GetResource().GroupResource() == resource
}

// objectOf returns the request's object as its Go type, or BadRequest.
func objectOf[T any](a admission.Attributes) (T, error) {
	obj, ok := a.GetObject().(T)
	if !ok {
		return obj, wrongType[T](a.GetObject())
	}
	return obj, nil
}

// oldObjectOf returns the stored object as its Go type, or BadRequest.
func oldObjectOf[T any](a admission.Attributes) (T, error) {
	obj, ok := a.GetOldObject().(T)
	if !ok {
		return obj, wrongType[T](a.GetOldObject())
	}
	return obj, nil
}

func wrongType[T any](got any) error {
	var want T
	return apierrors.NewBadRequest(fmt.Sprintf("Resource was marked with kind %T but was %T", want, got))
}

// forbid refuses the request with a reason that names the object, as upstream's plugins do.
func forbid(a admission.Attributes, format string, args ...any) error {
	return admission.NewForbidden(a, fmt.Errorf(format, args...))
}

// notReady refuses a request while listers are loading: guessing would admit what must not be.
func notReady(a admission.Attributes) error {
	return admission.NewForbidden(a, fmt.Errorf("not yet ready to handle request"))
}

// required reports the first missing dependency of a plugin at start-up.
func required(plugin string, deps map[string]bool) error {
	for name, present := range deps {
		if !present {
			return fmt.Errorf("admission plugin %s is missing its %s", plugin, name)
		}
	}
	return nil
}
