package quota

import (
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	quotav1 "k8s.io/apiserver/pkg/quota/v1"
	"k8s.io/apiserver/pkg/quota/v1/generic"
)

// NewConfiguration returns the evaluators that quota works with. lister may be nil where usage of existing objects is not
// asked for, as in admission. Events are never counted.
func NewConfiguration(lister quotav1.ListerForResourceFunc, now func() time.Time) quotav1.Configuration {
	list := func(resource string) generic.ListFuncByNamespace {
		if lister == nil {
			return nil
		}
		return generic.ListResourceUsingListerFunc(lister, corev1.SchemeGroupVersion.WithResource(resource))
	}
	evaluators := []quotav1.Evaluator{
		newPods(list("pods"), now),
		newServices(list("services")),
		newClaims(list("persistentvolumeclaims")),
	}
	var devices generic.ListFuncByNamespace
	if lister != nil {
		devices = generic.ListResourceUsingListerFunc(lister, resourcev1.SchemeGroupVersion.WithResource("resourceclaims"))
	}
	evaluators = append(evaluators, newDeviceClaims(devices))
	// These were countable by a short name before everything was as count/<resource>.
	for _, resource := range []string{"configmaps", "resourcequotas", "replicationcontrollers", "secrets"} {
		evaluators = append(evaluators, generic.NewObjectCountEvaluator(corev1.Resource(resource), list(resource), corev1.ResourceName(resource)))
	}
	return generic.NewConfiguration(evaluators, map[schema.GroupResource]struct{}{
		corev1.Resource("events"):                    {},
		{Group: "events.k8s.io", Resource: "events"}: {},
	})
}

// evaluator implements quotav1.Evaluator from the few functions in which kinds differ.
type evaluator struct {
	resource schema.GroupResource
	// handles reports whether a request can change what an object takes.
	handles func(admission.Attributes) bool
	// counts reports whether the quota's resource is one that these objects take.
	counts func(corev1.ResourceName) bool
	// usage returns what an object takes, or an error for an object of another type.
	usage func(runtime.Object) (corev1.ResourceList, error)
	// scope reports whether an object is within a quota's scope; nil means that these objects have no scopes.
	scope generic.MatchesScopeFunc
	// require refuses an object that does not say how much it takes of a resource under quota; nil asks for nothing.
	require func([]corev1.ResourceName, runtime.Object) error
	list    generic.ListFuncByNamespace
}

var _ quotav1.Evaluator = &evaluator{}

// Constraints implements quotav1.Evaluator.
func (e *evaluator) Constraints(required []corev1.ResourceName, item runtime.Object) error {
	if e.require == nil {
		return nil
	}
	return e.require(required, item)
}

// GroupResource implements quotav1.Evaluator.
func (e *evaluator) GroupResource() schema.GroupResource { return e.resource }

// Handles implements quotav1.Evaluator.
func (e *evaluator) Handles(a admission.Attributes) bool { return e.handles(a) }

// Matches implements quotav1.Evaluator.
func (e *evaluator) Matches(q *corev1.ResourceQuota, item runtime.Object) (bool, error) {
	return generic.Matches(q, item, e.MatchingResources, e.inScope)
}

func (e *evaluator) inScope(s corev1.ScopedResourceSelectorRequirement, item runtime.Object) (bool, error) {
	if e.scope == nil {
		return generic.MatchesNoScopeFunc(s, item)
	}
	return e.scope(s, item)
}

// MatchingScopes implements quotav1.Evaluator.
func (e *evaluator) MatchingScopes(item runtime.Object, scopes []corev1.ScopedResourceSelectorRequirement) ([]corev1.ScopedResourceSelectorRequirement, error) {
	var out []corev1.ScopedResourceSelectorRequirement
	for _, s := range scopes {
		ok, err := e.inScope(s, item)
		if err != nil {
			return nil, fmt.Errorf("match scope %q: %w", s.ScopeName, err)
		}
		if ok {
			out = append(out, s)
		}
	}
	return out, nil
}

// UncoveredQuotaScopes implements quotav1.Evaluator.
func (e *evaluator) UncoveredQuotaScopes(limited, matched []corev1.ScopedResourceSelectorRequirement) ([]corev1.ScopedResourceSelectorRequirement, error) {
	var out []corev1.ScopedResourceSelectorRequirement
	for _, l := range limited {
		covered := false
		for _, m := range matched {
			covered = covered || m.ScopeName == l.ScopeName
		}
		if !covered {
			out = append(out, l)
		}
	}
	return out, nil
}

// MatchingResources implements quotav1.Evaluator.
func (e *evaluator) MatchingResources(names []corev1.ResourceName) []corev1.ResourceName {
	var out []corev1.ResourceName
	for _, n := range names {
		if e.counts(n) {
			out = append(out, n)
		}
	}
	return out
}

// Usage implements quotav1.Evaluator.
func (e *evaluator) Usage(item runtime.Object) (corev1.ResourceList, error) { return e.usage(item) }

// UsageStats implements quotav1.Evaluator. It needs the lister.
func (e *evaluator) UsageStats(o quotav1.UsageStatsOptions) (quotav1.UsageStats, error) {
	if e.list == nil {
		return quotav1.UsageStats{}, fmt.Errorf("measure %s in namespace %q: no lister was given", e.resource, o.Namespace)
	}
	return generic.CalculateUsageStats(o, e.list, e.inScope, e.usage)
}

// onWrite handles creation, and updates of the resource itself.
func onWrite(a admission.Attributes) bool {
	return a.GetSubresource() == "" && (a.GetOperation() == admission.Create || a.GetOperation() == admission.Update)
}

func wrongType(want string, got runtime.Object) error {
	return fmt.Errorf("measure quota usage: expected a %s, got %T", want, got)
}
