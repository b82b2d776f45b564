package admissionregistration

import (
	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/reevehq/reeve/controlplane/apis/defaults/fill"
)

const (
	// webhookTimeoutSeconds is how long a webhook may take.
	webhookTimeoutSeconds = 10
	// webhookPort is the port of a webhook's Service.
	webhookPort = 443
)

// SetDefaults_ValidatingWebhook fills what a webhook is asked about, how long, and what its failure means.
func SetDefaults_ValidatingWebhook(w *admissionv1.ValidatingWebhook) {
	fill.Nil(&w.FailurePolicy, admissionv1.Fail)
	fill.Nil(&w.MatchPolicy, admissionv1.Equivalent)
	fill.Nil(&w.NamespaceSelector, metav1.LabelSelector{})
	fill.Nil(&w.ObjectSelector, metav1.LabelSelector{})
	fill.Nil(&w.TimeoutSeconds, webhookTimeoutSeconds)
}

// SetDefaults_MutatingWebhook is SetDefaults_ValidatingWebhook plus the reinvocation policy.
func SetDefaults_MutatingWebhook(w *admissionv1.MutatingWebhook) {
	fill.Nil(&w.FailurePolicy, admissionv1.Fail)
	fill.Nil(&w.MatchPolicy, admissionv1.Equivalent)
	fill.Nil(&w.NamespaceSelector, metav1.LabelSelector{})
	fill.Nil(&w.ObjectSelector, metav1.LabelSelector{})
	fill.Nil(&w.TimeoutSeconds, webhookTimeoutSeconds)
	fill.Nil(&w.ReinvocationPolicy, admissionv1.NeverReinvocationPolicy)
}

// SetDefaults_Rule fills the scope: namespaced and cluster-wide resources alike.
func SetDefaults_Rule(r *admissionv1.Rule) {
	fill.Nil(&r.Scope, admissionv1.AllScopes)
}

// SetDefaults_ServiceReference fills the port.
func SetDefaults_ServiceReference(r *admissionv1.ServiceReference) {
	fill.Nil(&r.Port, webhookPort)
}

// SetDefaults_ValidatingAdmissionPolicySpec fills what a policy that cannot be evaluated means.
func SetDefaults_ValidatingAdmissionPolicySpec(s *admissionv1.ValidatingAdmissionPolicySpec) {
	fill.Nil(&s.FailurePolicy, admissionv1.Fail)
}

// SetDefaults_MutatingAdmissionPolicySpec fills what a policy that cannot be evaluated means.
func SetDefaults_MutatingAdmissionPolicySpec(s *admissionv1.MutatingAdmissionPolicySpec) {
	fill.Nil(&s.FailurePolicy, admissionv1.Fail)
}

// SetDefaults_MatchResources fills what a policy is asked about. Without these a policy matches nothing it can read and
// rejects every write.
func SetDefaults_MatchResources(m *admissionv1.MatchResources) {
	fill.Nil(&m.MatchPolicy, admissionv1.Equivalent)
	fill.Nil(&m.NamespaceSelector, metav1.LabelSelector{})
	fill.Nil(&m.ObjectSelector, metav1.LabelSelector{})
}
