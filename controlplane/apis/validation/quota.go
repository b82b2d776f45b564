package validation

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// quotaResources are what a quota can count by a short name.
var quotaResources = sets.New[corev1.ResourceName]("cpu", "memory", "ephemeral-storage", "requests.cpu", "requests.memory",
	"requests.storage", "requests.ephemeral-storage", "limits.cpu", "limits.memory", "limits.ephemeral-storage", "pods",
	"resourcequotas", "services", "replicationcontrollers", "secrets", "configmaps", "persistentvolumeclaims",
	"services.nodeports", "services.loadbalancers")

var quotaScopes = []corev1.ResourceQuotaScope{corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeNotTerminating,
	corev1.ResourceQuotaScopeBestEffort, corev1.ResourceQuotaScopeNotBestEffort, corev1.ResourceQuotaScopePriorityClass,
	corev1.ResourceQuotaScopeCrossNamespacePodAffinity, corev1.ResourceQuotaScopeVolumeAttributesClass}

func quotaCreate(q *corev1.ResourceQuota) field.ErrorList {
	r := &report{}
	quotaSpec(r, field.NewPath("spec"), &q.Spec)
	return r.list
}

func quotaSpec(r *report, p *field.Path, s *corev1.ResourceQuotaSpec) {
	quotaList(r, p.Child("hard"), s.Hard)
	scopes := sets.New[corev1.ResourceQuotaScope]()
	for _, scope := range s.Scopes {
		quotaScope(r, p.Child("scopes"), scope, s.Hard)
		scopes.Insert(scope)
	}
	conflicts(r, p.Child("scopes"), scopes, s.Scopes)
	if s.ScopeSelector != nil {
		scopeSelector(r, p.Child("scopeSelector"), s)
	}
}

func quotaList(r *report, p *field.Path, list corev1.ResourceList) {
	for _, n := range sortedNames(list) {
		at := p.Key(string(n))
		quotaResource(r, at, n)
		q := list[n]
		if q.Sign() < 0 {
			r.invalid(at, q.String(), "must be greater than or equal to 0")
		}
		if isCount(n) && q.MilliValue()%1000 != 0 {
			r.invalid(at, q.String(), "must be an integer")
		}
	}
}

func isCount(n corev1.ResourceName) bool {
	s := string(n)
	return strings.HasPrefix(s, "count/") || isExtended(corev1.ResourceName(strings.TrimPrefix(s, corev1.DefaultResourceRequestsPrefix))) ||
		n == "pods" || (quotaResources.Has(n) && !strings.Contains(s, "cpu") && !strings.Contains(s, "memory") && !strings.Contains(s, "storage"))
}

func quotaResource(r *report, p *field.Path, n corev1.ResourceName) {
	if messages := validation.IsQualifiedName(string(n)); len(messages) > 0 {
		r.each(p, string(n), messages)
		return
	}
	if !strings.Contains(string(n), "/") && !quotaResources.Has(n) && !isHugePages(n) && !isHugePages(corev1.ResourceName(strings.TrimPrefix(string(n), corev1.DefaultResourceRequestsPrefix))) {
		r.invalid(p, string(n), "must be a standard resource for quota")
	}
}

func quotaScope(r *report, p *field.Path, scope corev1.ResourceQuotaScope, hard corev1.ResourceList) {
	if !slices.Contains(quotaScopes, scope) {
		r.invalid(p, scope, "unsupported scope")
		return
	}
	for _, n := range sortedNames(hard) {
		if !scopeCounts(scope, n) {
			r.invalid(p, scope, "unsupported scope applied to resource")
			return
		}
	}
}

// scopeCounts reports whether a scope can select what the resource counts.
func scopeCounts(scope corev1.ResourceQuotaScope, n corev1.ResourceName) bool {
	s := string(n)
	switch scope {
	case corev1.ResourceQuotaScopeBestEffort:
		return n == corev1.ResourcePods || s == "count/pods"
	case corev1.ResourceQuotaScopeVolumeAttributesClass:
		return strings.Contains(s, "persistentvolumeclaims") || strings.HasSuffix(s, "storage")
	}
	if strings.HasPrefix(s, "count/") {
		return s == "count/pods"
	}
	if !quotaResources.Has(n) {
		return true // Devices and huge pages are pods'.
	}
	switch n {
	case "resourcequotas", "services", "replicationcontrollers", "secrets", "configmaps", "persistentvolumeclaims", "services.nodeports", "services.loadbalancers", "requests.storage":
		return false
	}
	return true
}

func conflicts(r *report, p *field.Path, have sets.Set[corev1.ResourceQuotaScope], value any) {
	for _, pair := range [][2]corev1.ResourceQuotaScope{
		{corev1.ResourceQuotaScopeBestEffort, corev1.ResourceQuotaScopeNotBestEffort},
		{corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeNotTerminating},
	} {
		if have.HasAll(pair[0], pair[1]) {
			r.invalid(p, value, "conflicting scopes")
		}
	}
}

func scopeSelector(r *report, p *field.Path, s *corev1.ResourceQuotaSpec) {
	have := sets.New[corev1.ResourceQuotaScope]()
	at := p.Child("matchExpressions")
	for _, e := range s.ScopeSelector.MatchExpressions {
		if e.ScopeName == "" {
			r.required(at.Child("scopeName"), "must specify a scope name")
			continue
		}
		quotaScope(r, at.Child("scopeName"), e.ScopeName, s.Hard)
		switch e.Operator {
		case corev1.ScopeSelectorOpIn, corev1.ScopeSelectorOpNotIn:
			if len(e.Values) == 0 {
				r.required(at.Child("values"), "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector")
			}
		case corev1.ScopeSelectorOpExists, corev1.ScopeSelectorOpDoesNotExist:
			if len(e.Values) != 0 {
				r.invalid(at.Child("values"), e.Values, "must be no value when `operator` is 'Exists' or 'DoesNotExist' for scope selector")
			}
		default:
			r.invalid(at.Child("operator"), e.Operator, "not a valid selector operator")
		}
		switch e.ScopeName {
		case corev1.ResourceQuotaScopeBestEffort, corev1.ResourceQuotaScopeNotBestEffort, corev1.ResourceQuotaScopeTerminating,
			corev1.ResourceQuotaScopeNotTerminating, corev1.ResourceQuotaScopeCrossNamespacePodAffinity:
			if e.Operator != corev1.ScopeSelectorOpExists {
				r.invalid(at.Child("operator"), e.Operator, "must be 'Exist' when scope is any of Terminating, NotTerminating, BestEffort, NotBestEffort and CrossNamespacePodAffinity")
			}
		}
		have.Insert(e.ScopeName)
	}
	conflicts(r, p.Child("matchExpressions"), have, s.ScopeSelector.MatchExpressions)
}

// quotaUpdate: a quota's scopes say what it has counted; they stay.
func quotaUpdate(q, old *corev1.ResourceQuota) field.ErrorList {
	r := &report{list: quotaCreate(q)}
	same := func(a, b any) bool { return equality.Semantic.DeepEqual(a, b) }
	p := field.NewPath("spec")
	if !same(sets.New(q.Spec.Scopes...), sets.New(old.Spec.Scopes...)) {
		r.invalid(p.Child("scopes"), q.Spec.Scopes, "field is immutable")
	}
	if !same(q.Spec.ScopeSelector, old.Spec.ScopeSelector) {
		r.invalid(p.Child("scopeSelector"), q.Spec.ScopeSelector, "field is immutable")
	}
	return r.list
}

func quotaStatus(q, _ *corev1.ResourceQuota) field.ErrorList {
	r := &report{}
	if q.ResourceVersion == "" {
		r.required(field.NewPath("resourceVersion"), "")
	}
	quotaList(r, field.NewPath("status", "hard"), q.Status.Hard)
	quotaList(r, field.NewPath("status", "used"), q.Status.Used)
	return r.list
}
