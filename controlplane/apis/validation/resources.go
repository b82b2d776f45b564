package validation

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	resourcehelper "k8s.io/component-helpers/resource"
)

var containerResources = sets.New(corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage)

func isHugePages(name corev1.ResourceName) bool {
	return strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix)
}

// isNative reports whether a resource is Kubernetes' own: without a domain, or in kubernetes.io.
func isNative(name corev1.ResourceName) bool {
	return !strings.Contains(string(name), "/") || strings.Contains(string(name), corev1.ResourceDefaultNamespacePrefix)
}

// isExtended reports whether a resource is a device's: countable only.
func isExtended(name corev1.ResourceName) bool {
	if isNative(name) || strings.HasPrefix(string(name), corev1.DefaultResourceRequestsPrefix) {
		return false
	}
	return len(validation.IsQualifiedName(corev1.DefaultResourceRequestsPrefix+string(name))) == 0
}

// isWhole reports whether only whole numbers of a resource can be given.
func isWhole(name corev1.ResourceName) bool { return isExtended(name) || isHugePages(name) }

// overcommits reports whether limits may exceed requests.
func overcommits(name corev1.ResourceName) bool { return isNative(name) && !isHugePages(name) }

// sortedNames orders a list's names, so that errors come in the same order every time.
func sortedNames(list corev1.ResourceList) []corev1.ResourceName {
	names := make([]corev1.ResourceName, 0, len(list))
	for name := range list {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func quantityOf(r *report, p *field.Path, name corev1.ResourceName, q resource.Quantity) {
	if q.Sign() < 0 {
		r.invalid(p, q.String(), "must be greater than or equal to 0")
	}
	if isWhole(name) && q.MilliValue()%1000 != 0 {
		r.invalid(p, q.String(), "must be an integer")
	}
}

// containerResourceName reports a name that containers cannot ask for.
func containerResourceName(r *report, p *field.Path, name corev1.ResourceName) {
	if messages := validation.IsQualifiedName(string(name)); len(messages) > 0 {
		r.each(p, string(name), messages)
		return
	}
	switch {
	case !strings.Contains(string(name), "/"):
		if !containerResources.Has(name) && !isHugePages(name) {
			r.invalid(p, string(name), "must be a standard resource for containers")
		}
	case !isNative(name) && !isExtended(name):
		r.invalid(p, string(name), "doesn't follow extended resource name standard")
	}
}

// requirements checks what a container asks for: known names, no negative quantities, requests within limits.
func requirements(r *report, p *field.Path, q *corev1.ResourceRequirements, claimNames sets.Set[string]) {
	limitPath, requestPath := p.Child("limits"), p.Child("requests")
	checkLimitsAndRequests(r, limitPath, requestPath, q.Limits, q.Requests, containerResourceName)
	seen := sets.New[string]()
	for i, c := range q.Claims {
		claimPath := p.Child("claims").Index(i)
		if c.Name == "" {
			r.required(claimPath.Child("name"), "")
			continue
		}
		key := c.Name + "/" + c.Request
		switch {
		case seen.Has(key):
			r.duplicate(claimPath, c.Name)
		case !claimNames.Has(c.Name):
			r.notFound(claimPath.Child("name"), c.Name)
		}
		seen.Insert(key)
		if c.Request != "" {
			dnsLabel(r, claimPath.Child("request"), c.Request)
		}
	}
}

func checkLimitsAndRequests(r *report, limitPath, requestPath *field.Path, limits, requests corev1.ResourceList,
	name func(*report, *field.Path, corev1.ResourceName)) {
	compute, huge := false, false
	for _, n := range sortedNames(limits) {
		limit, at := limits[n], limitPath.Key(string(n))
		name(r, at, n)
		quantityOf(r, at, n, limit)
		compute = compute || n == corev1.ResourceCPU || n == corev1.ResourceMemory
		huge = huge || isHugePages(n)
		request, asked := requests[n]
		switch {
		case !asked:
			continue
		case request.Cmp(limit) != 0 && !overcommits(n):
			r.invalid(requestPath, request.String(), fmt.Sprintf("must be equal to %s limit of %s", n, limit.String()))
		case request.Cmp(limit) > 0:
			r.invalid(requestPath, request.String(), fmt.Sprintf("must be less than or equal to %s limit of %s", n, limit.String()))
		}
	}
	for _, n := range sortedNames(requests) {
		at := requestPath.Key(string(n))
		name(r, at, n)
		quantityOf(r, at, n, requests[n])
		compute = compute || n == corev1.ResourceCPU || n == corev1.ResourceMemory
		huge = huge || isHugePages(n)
		if _, limited := limits[n]; !limited && !overcommits(n) {
			r.required(limitPath, "Limit must be set for non overcommitable resources")
		}
	}
	if huge && !compute {
		r.forbidden(limitPath.Key(corev1.ResourceHugePagesPrefix), "HugePages require cpu or memory")
	}
}

// podRequirements checks pod-level resources: only those that pods can share, enough for the containers together.
func podRequirements(r *report, p *field.Path, pod *corev1.PodSpec) {
	q := pod.Resources
	if q == nil {
		return
	}
	if pod.OS != nil && pod.OS.Name == corev1.Windows {
		r.forbidden(p, "may not be set for a windows pod")
	}
	for i := range q.Claims {
		r.forbidden(p.Child("claims").Index(i), "claims cannot be set for Resources at pod-level")
	}
	supported := func(r *report, at *field.Path, n corev1.ResourceName) {
		if !resourcehelper.IsSupportedPodLevelResource(n) {
			r.add(field.NotSupported(at, string(n), sortedSet(resourcehelper.SupportedPodLevelResources())))
		}
	}
	checkLimitsAndRequests(r, p.Child("limits"), p.Child("requests"), q.Limits, q.Requests, supported)
	whole := &corev1.Pod{Spec: *pod}
	sum := resourcehelper.AggregateContainerRequests(whole, resourcehelper.PodResourcesOptions{})
	for _, n := range sortedNames(q.Requests) {
		if total, ok := sum[n]; ok && total.Cmp(q.Requests[n]) > 0 {
			have := q.Requests[n]
			r.invalid(p.Child("requests").Key(string(n)), have.String(), fmt.Sprintf("must be greater than or equal to aggregate container requests of %s", total.String()))
		}
	}
	// One container's limit must fit into the pod's; all limits together may exceed it.
	for group, list := range sorted(map[string][]corev1.Container{"containers": pod.Containers, "initContainers": pod.InitContainers}) {
		for i := range list {
			for _, n := range sortedNames(list[i].Resources.Limits) {
				limit := list[i].Resources.Limits[n]
				if total, ok := q.Limits[n]; ok && limit.Cmp(total) > 0 {
					r.invalid(field.NewPath("spec", group).Index(i).Child("resources", "limits"), limit.String(),
						fmt.Sprintf("must be less than or equal to pod limits of %s", total.String()))
				}
			}
		}
	}
}

func sortedSet[T ~string](s sets.Set[T]) []T {
	out := s.UnsortedList()
	slices.Sort(out)
	return out
}

// quantities checks a list whose names may be anything qualified, as capacities and quotas are.
func quantities(r *report, p *field.Path, list corev1.ResourceList) {
	for _, n := range sortedNames(list) {
		q := list[n]
		r.each(p.Key(string(n)), string(n), validation.IsQualifiedName(string(n)))
		quantityOf(r, p.Key(string(n)), n, q)
	}
}

// textOf prints a copy: printing a Quantity in place caches the text in it, and what is checked must not change.
func textOf(q resource.Quantity) string { return q.String() }
