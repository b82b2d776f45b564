package validation

import (
	"fmt"
	"slices"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	webhookutil "k8s.io/apiserver/pkg/util/webhook"
)

const (
	maxWebhookSeconds  = 30
	maxMatchConditions = 64
)

func validatingWebhooksCreate(c *admissionv1.ValidatingWebhookConfiguration) field.ErrorList {
	r := &report{}
	names := sets.New[string]()
	for i := range c.Webhooks {
		w := &c.Webhooks[i]
		webhook{w.Name, &w.ClientConfig, w.Rules, w.FailurePolicy, w.MatchPolicy, w.SideEffects, w.TimeoutSeconds, w.AdmissionReviewVersions, w.MatchConditions}.
			check(r, field.NewPath("webhooks").Index(i), names)
		selector(r, field.NewPath("webhooks").Index(i).Child("namespaceSelector"), w.NamespaceSelector)
		selector(r, field.NewPath("webhooks").Index(i).Child("objectSelector"), w.ObjectSelector)
	}
	return r.list
}

func mutatingWebhooksCreate(c *admissionv1.MutatingWebhookConfiguration) field.ErrorList {
	r := &report{}
	names := sets.New[string]()
	for i := range c.Webhooks {
		w, p := &c.Webhooks[i], field.NewPath("webhooks").Index(i)
		webhook{w.Name, &w.ClientConfig, w.Rules, w.FailurePolicy, w.MatchPolicy, w.SideEffects, w.TimeoutSeconds, w.AdmissionReviewVersions, w.MatchConditions}.
			check(r, p, names)
		selector(r, p.Child("namespaceSelector"), w.NamespaceSelector)
		selector(r, p.Child("objectSelector"), w.ObjectSelector)
		optionalOneOf(r, p.Child("reinvocationPolicy"), w.ReinvocationPolicy, admissionv1.NeverReinvocationPolicy, admissionv1.IfNeededReinvocationPolicy)
	}
	return r.list
}

// webhook is what the two kinds of webhook share.
type webhook struct {
	name       string
	client     *admissionv1.WebhookClientConfig
	rules      []admissionv1.RuleWithOperations
	failure    *admissionv1.FailurePolicyType
	match      *admissionv1.MatchPolicyType
	effects    *admissionv1.SideEffectClass
	timeout    *int32
	versions   []string
	conditions []admissionv1.MatchCondition
}

func (w webhook) check(r *report, p *field.Path, names sets.Set[string]) {
	r.list = append(r.list, validation.IsFullyQualifiedName(p.Child("name"), w.name)...)
	if names.Has(w.name) {
		r.duplicate(p.Child("name"), w.name)
	}
	names.Insert(w.name)
	for i := range w.rules {
		webhookRule(r, p.Child("rules").Index(i), &w.rules[i])
	}
	optionalOneOf(r, p.Child("failurePolicy"), w.failure, admissionv1.Ignore, admissionv1.Fail)
	optionalOneOf(r, p.Child("matchPolicy"), w.match, admissionv1.Exact, admissionv1.Equivalent)
	if w.effects == nil {
		r.required(p.Child("sideEffects"), "must specify one of None, NoneOnDryRun")
	}
	optionalOneOf(r, p.Child("sideEffects"), w.effects, admissionv1.SideEffectClassNone, admissionv1.SideEffectClassNoneOnDryRun)
	if t := w.timeout; t != nil && (*t > maxWebhookSeconds || *t < 1) {
		r.invalid(p.Child("timeoutSeconds"), *t, "the timeout value must be between 1 and 30 seconds")
	}
	reviewVersions(r, p.Child("admissionReviewVersions"), w.versions)
	c := p.Child("clientConfig")
	switch {
	case (w.client.URL == nil) == (w.client.Service == nil):
		r.required(c, "exactly one of url or service is required")
	case w.client.URL != nil:
		r.list = append(r.list, webhookutil.ValidateWebhookURL(c.Child("url"), *w.client.URL, true)...)
	default:
		s := w.client.Service
		port := int32(443)
		if s.Port != nil {
			port = *s.Port
		}
		r.list = append(r.list, webhookutil.ValidateWebhookService(c.Child("service"), s.Namespace, s.Name, s.Path, port)...)
	}
	matchConditions(r, p.Child("matchConditions"), w.conditions)
}

// knownReviewVersions are the versions of AdmissionReview that the API server sends.
var knownReviewVersions = sets.New("v1", "v1beta1")

func reviewVersions(r *report, p *field.Path, versions []string) {
	if len(versions) == 0 {
		r.required(p, "must specify one of v1, v1beta1")
		return
	}
	seen, known := sets.New[string](), false
	for i, v := range versions {
		if seen.Has(v) {
			r.invalid(p.Index(i), v, "duplicate version")
		}
		seen.Insert(v)
		r.each(p.Index(i), v, validation.IsDNS1035Label(v))
		known = known || knownReviewVersions.Has(v)
	}
	if !known {
		r.invalid(p, versions, "must include at least one of v1, v1beta1")
	}
}

func webhookRule(r *report, p *field.Path, w *admissionv1.RuleWithOperations) {
	list := func(name string, values []string) {
		at := p.Child(name)
		if len(values) == 0 {
			r.required(at, "")
		}
		if slices.Contains(values, "*") && len(values) > 1 {
			r.invalid(at, values, "if '*' is present, must not specify other "+name)
		}
	}
	list("apiGroups", w.APIGroups)
	list("apiVersions", w.APIVersions)
	for i, v := range w.APIVersions {
		if v == "" {
			r.required(p.Child("apiVersions").Index(i), "")
		}
	}
	resources(r, p.Child("resources"), w.Resources)
	optionalOneOf(r, p.Child("scope"), w.Scope, admissionv1.ClusterScope, admissionv1.NamespacedScope, admissionv1.AllScopes)
	at := p.Child("operations")
	if len(w.Operations) == 0 {
		r.required(at, "")
	}
	if slices.Contains(w.Operations, admissionv1.OperationAll) && len(w.Operations) > 1 {
		r.invalid(at, w.Operations, "if '*' is present, must not specify other operations")
	}
	for i, op := range w.Operations {
		oneOf(r, at.Index(i), op, true, admissionv1.OperationAll, admissionv1.Create, admissionv1.Update, admissionv1.Delete, admissionv1.Connect)
	}
}

// resources checks "resource", "resource/sub", with wildcards that do not overlap.
func resources(r *report, p *field.Path, list []string) {
	if len(list) == 0 {
		r.required(p, "")
	}
	wildSub, wildResource := sets.New[string](), sets.New[string]()
	for i, name := range list {
		resource, sub, hasSub := strings.Cut(name, "/")
		if name == "" {
			r.required(p.Index(i), "")
			continue
		}
		if name == "*/*" && len(list) > 1 {
			r.invalid(p.Index(i), list, "if '*/*' is present, must not specify other resources")
		}
		if name == "*" && slices.ContainsFunc(list, func(other string) bool { return other != "*" && !strings.Contains(other, "/") }) {
			r.invalid(p, list, "if '*' is present, must not specify other resources without subresources")
		}
		if !hasSub {
			continue
		}
		if sub == "*" {
			wildSub.Insert(resource)
		} else if wildSub.Has(resource) {
			r.invalid(p.Index(i), name, fmt.Sprintf("if '%s/*' is present, must not specify %s", resource, name))
		}
		if resource == "*" {
			wildResource.Insert(sub)
		} else if wildResource.Has(sub) {
			r.invalid(p.Index(i), name, fmt.Sprintf("if '*/%s' is present, must not specify %s", sub, name))
		}
	}
}
