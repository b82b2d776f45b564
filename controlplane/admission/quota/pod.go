package quota

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/quota/v1/generic"
	resourcehelper "k8s.io/component-helpers/resource"
)

// podCount is taken even by pods that have ended: they still fill the store.
const podCount corev1.ResourceName = "count/pods"

// named are the resources of pods that a quota names in full; devices and huge pages have open-ended names.
var named = sets.New(corev1.ResourcePods, corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage,
	corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory, corev1.ResourceRequestsEphemeralStorage,
	corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory, corev1.ResourceLimitsEphemeralStorage, podCount)

func newPods(list generic.ListFuncByNamespace, now func() time.Time) *evaluator {
	return &evaluator{
		resource: corev1.Resource("pods"),
		handles: func(a admission.Attributes) bool {
			switch a.GetOperation() {
			case admission.Create:
				return a.GetSubresource() == ""
			case admission.Update:
				return a.GetSubresource() == "resize"
			}
			return false
		},
		counts: func(n corev1.ResourceName) bool {
			if named.Has(n) || strings.HasPrefix(string(n), corev1.ResourceHugePagesPrefix) {
				return true
			}
			bare, ok := strings.CutPrefix(string(n), corev1.DefaultResourceRequestsPrefix)
			return ok && (strings.HasPrefix(bare, corev1.ResourceHugePagesPrefix) || isDevice(corev1.ResourceName(bare)))
		},
		usage: func(o runtime.Object) (corev1.ResourceList, error) {
			p, ok := o.(*corev1.Pod)
			if !ok {
				return nil, wrongType("Pod", o)
			}
			return podUsage(p, now()), nil
		},
		scope:   podScope,
		require: requireRequests,
		list:    list,
	}
}

// isDevice reports whether the resource is one that a device plugin serves.
func isDevice(n corev1.ResourceName) bool {
	domain, _, qualified := strings.Cut(string(n), "/")
	return qualified && domain != "kubernetes.io" && !strings.HasSuffix(domain, ".kubernetes.io")
}

// ended reports whether a pod takes no more of its node: it finished, or should have been gone by now, so that a node
// that is lost does not hold quota for ever.
func ended(p *corev1.Pod, now time.Time) bool {
	if p.Status.Phase == corev1.PodFailed || p.Status.Phase == corev1.PodSucceeded {
		return true
	}
	if p.DeletionTimestamp == nil || p.DeletionGracePeriodSeconds == nil {
		return false
	}
	grace := time.Duration(*p.DeletionGracePeriodSeconds) * time.Second
	return now.After(p.DeletionTimestamp.Add(grace))
}

func podUsage(p *corev1.Pod, now time.Time) corev1.ResourceList {
	one := *resource.NewQuantity(1, resource.DecimalSI)
	out := corev1.ResourceList{podCount: one}
	if ended(p, now) {
		return out
	}
	out[corev1.ResourcePods] = one
	o := resourcehelper.PodResourcesOptions{UseStatusResources: true}
	for name, q := range resourcehelper.PodRequests(p, o) {
		switch {
		case name == corev1.ResourceCPU || name == corev1.ResourceMemory || name == corev1.ResourceEphemeralStorage ||
			strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix):
			out[name] = q
			out[corev1.DefaultResourceRequestsPrefix+name] = q
		case isDevice(name):
			// Devices cannot be overcommitted: only requests are under quota.
			out[corev1.DefaultResourceRequestsPrefix+name] = q
		}
	}
	for name, q := range resourcehelper.PodLimits(p, o) {
		switch name {
		case corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage:
			out["limits."+name] = q
		}
	}
	return out
}

// requireRequests wants each container, or the pod as a whole, to say how much CPU and memory it takes where these are
// under quota.
func requireRequests(required []corev1.ResourceName, o runtime.Object) error {
	p, ok := o.(*corev1.Pod)
	if !ok {
		return wrongType("Pod", o)
	}
	needed := sets.New[corev1.ResourceName]()
	for _, n := range required {
		if n != corev1.ResourcePods && n != podCount && named.Has(n) && !strings.Contains(string(n), "ephemeral-storage") {
			needed.Insert(n)
		}
	}
	if p.Spec.Resources != nil {
		for n := range given(*p.Spec.Resources) {
			needed.Delete(n)
		}
	}
	missing := map[corev1.ResourceName][]string{}
	for _, c := range slices.Concat(p.Spec.Containers, p.Spec.InitContainers) {
		for n := range needed.Difference(given(c.Resources)) {
			missing[n] = append(missing[n], c.Name)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	var parts []string
	for n, containers := range missing {
		slices.Sort(containers)
		parts = append(parts, fmt.Sprintf("%s for: %s", n, strings.Join(containers, ",")))
	}
	slices.Sort(parts)
	return fmt.Errorf("must specify %s", strings.Join(parts, "; "))
}

func given(r corev1.ResourceRequirements) sets.Set[corev1.ResourceName] {
	out := sets.New[corev1.ResourceName]()
	for n := range r.Requests {
		out.Insert(n, corev1.DefaultResourceRequestsPrefix+n)
	}
	for n := range r.Limits {
		out.Insert("limits." + n)
	}
	return out
}

func podScope(s corev1.ScopedResourceSelectorRequirement, o runtime.Object) (bool, error) {
	p, ok := o.(*corev1.Pod)
	if !ok {
		return false, wrongType("Pod", o)
	}
	switch s.ScopeName {
	case corev1.ResourceQuotaScopeTerminating:
		return hasDeadline(p), nil
	case corev1.ResourceQuotaScopeNotTerminating:
		return !hasDeadline(p), nil
	case corev1.ResourceQuotaScopeBestEffort:
		return bestEffort(p), nil
	case corev1.ResourceQuotaScopeNotBestEffort:
		return !bestEffort(p), nil
	case corev1.ResourceQuotaScopePriorityClass:
		if s.Operator == corev1.ScopeSelectorOpExists {
			return p.Spec.PriorityClassName != "", nil
		}
		return selects(s, p.Spec.PriorityClassName)
	case corev1.ResourceQuotaScopeCrossNamespacePodAffinity:
		return reachesOut(p), nil
	}
	return false, nil
}

// selects applies a scope's operator to the name that an object has for it.
func selects(s corev1.ScopedResourceSelectorRequirement, name string) (bool, error) {
	op := map[corev1.ScopeSelectorOperator]selection.Operator{
		corev1.ScopeSelectorOpIn: selection.In, corev1.ScopeSelectorOpNotIn: selection.NotIn,
		corev1.ScopeSelectorOpExists: selection.Exists, corev1.ScopeSelectorOpDoesNotExist: selection.DoesNotExist,
	}[s.Operator]
	requirement, err := labels.NewRequirement(string(s.ScopeName), op, s.Values)
	if err != nil {
		return false, fmt.Errorf("parse scope selector %q: %w", s.ScopeName, err)
	}
	have := labels.Set{}
	if name != "" {
		have[string(s.ScopeName)] = name
	}
	return requirement.Matches(have), nil
}

func hasDeadline(p *corev1.Pod) bool {
	return p.Spec.ActiveDeadlineSeconds != nil && *p.Spec.ActiveDeadlineSeconds >= 0
}

func bestEffort(p *corev1.Pod) bool {
	asks := func(r corev1.ResourceRequirements) bool {
		for _, list := range []corev1.ResourceList{r.Requests, r.Limits} {
			for _, n := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
				if q, ok := list[n]; ok && q.Sign() > 0 {
					return true
				}
			}
		}
		return false
	}
	if p.Spec.Resources != nil && asks(*p.Spec.Resources) {
		return false
	}
	return !slices.ContainsFunc(slices.Concat(p.Spec.Containers, p.Spec.InitContainers), func(c corev1.Container) bool { return asks(c.Resources) })
}

// reachesOut reports whether a pod's affinity looks at pods of other namespaces.
func reachesOut(p *corev1.Pod) bool {
	a := p.Spec.Affinity
	if a == nil {
		return false
	}
	var terms []corev1.PodAffinityTerm
	weighted := func(list []corev1.WeightedPodAffinityTerm) {
		for _, w := range list {
			terms = append(terms, w.PodAffinityTerm)
		}
	}
	if a.PodAffinity != nil {
		terms = append(terms, a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution...)
		weighted(a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	if a.PodAntiAffinity != nil {
		terms = append(terms, a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution...)
		weighted(a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	return slices.ContainsFunc(terms, func(t corev1.PodAffinityTerm) bool { return len(t.Namespaces) > 0 || t.NamespaceSelector != nil })
}
