package apis

import (
	admissionregistrationv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

var admissionKinds = []*Kind{
	{
		GroupVersionKind: admissionregistrationv1.SchemeGroupVersion.WithKind("MutatingWebhookConfiguration"),
		Resource:         "mutatingwebhookconfigurations", Singular: "mutatingwebhookconfiguration", Cluster: true,
		Categories: []string{"api-extensions"},
		New:        func() runtime.Object { return &admissionregistrationv1.MutatingWebhookConfiguration{} },
		NewList:    func() runtime.Object { return &admissionregistrationv1.MutatingWebhookConfigurationList{} },
		Generation: OnSpec, VersionedUpdate: true,
	},
	{
		GroupVersionKind: admissionregistrationv1.SchemeGroupVersion.WithKind("ValidatingWebhookConfiguration"),
		Resource:         "validatingwebhookconfigurations", Singular: "validatingwebhookconfiguration", Cluster: true,
		Categories: []string{"api-extensions"},
		New:        func() runtime.Object { return &admissionregistrationv1.ValidatingWebhookConfiguration{} },
		NewList:    func() runtime.Object { return &admissionregistrationv1.ValidatingWebhookConfigurationList{} },
		Generation: OnSpec, VersionedUpdate: true,
	},
	{
		GroupVersionKind: admissionregistrationv1.SchemeGroupVersion.WithKind("ValidatingAdmissionPolicy"),
		Resource:         "validatingadmissionpolicies", Singular: "validatingadmissionpolicy", Cluster: true,
		Categories: []string{"api-extensions"},
		New:        func() runtime.Object { return &admissionregistrationv1.ValidatingAdmissionPolicy{} },
		NewList:    func() runtime.Object { return &admissionregistrationv1.ValidatingAdmissionPolicyList{} },
		Status:     true, Generation: OnSpec, VersionedUpdate: true,
	},
	{
		GroupVersionKind: admissionregistrationv1.SchemeGroupVersion.WithKind("ValidatingAdmissionPolicyBinding"),
		Resource:         "validatingadmissionpolicybindings", Singular: "validatingadmissionpolicybinding", Cluster: true,
		Categories: []string{"api-extensions"},
		New:        func() runtime.Object { return &admissionregistrationv1.ValidatingAdmissionPolicyBinding{} },
		NewList:    func() runtime.Object { return &admissionregistrationv1.ValidatingAdmissionPolicyBindingList{} },
		Generation: OnSpec, VersionedUpdate: true,
	},
	{
		GroupVersionKind: admissionregistrationv1.SchemeGroupVersion.WithKind("MutatingAdmissionPolicy"),
		Resource:         "mutatingadmissionpolicies", Singular: "mutatingadmissionpolicy", Cluster: true,
		Categories: []string{"api-extensions"},
		New:        func() runtime.Object { return &admissionregistrationv1.MutatingAdmissionPolicy{} },
		NewList:    func() runtime.Object { return &admissionregistrationv1.MutatingAdmissionPolicyList{} },
		Generation: OnSpec, VersionedUpdate: true,
	},
	{
		GroupVersionKind: admissionregistrationv1.SchemeGroupVersion.WithKind("MutatingAdmissionPolicyBinding"),
		Resource:         "mutatingadmissionpolicybindings", Singular: "mutatingadmissionpolicybinding", Cluster: true,
		Categories: []string{"api-extensions"},
		New:        func() runtime.Object { return &admissionregistrationv1.MutatingAdmissionPolicyBinding{} },
		NewList:    func() runtime.Object { return &admissionregistrationv1.MutatingAdmissionPolicyBindingList{} },
		Generation: OnSpec, VersionedUpdate: true,
	},
}
