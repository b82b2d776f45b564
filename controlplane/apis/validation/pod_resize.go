package validation

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// podResize: through this subresource the CPU and memory of running containers may change, while the pod's class of
// service does not.
func podResize(pod, old *corev1.Pod) field.ErrorList {
	r := &report{}
	p := field.NewPath("spec")
	podSpec(r, p, &pod.Spec)
	if _, mirror := old.Annotations[corev1.MirrorPodAnnotationKey]; mirror {
		r.forbidden(field.NewPath(""), "static pods cannot be resized")
	}
	if old.Spec.OS != nil && old.Spec.OS.Name == corev1.Windows {
		r.forbidden(field.NewPath(""), "windows pods cannot be resized")
	}
	if len(pod.Spec.Containers) != len(old.Spec.Containers) || len(pod.Spec.InitContainers) != len(old.Spec.InitContainers) {
		r.forbidden(p, "pod resize may not add or remove containers")
		return r.list
	}
	if now, was := QOSClass(&pod.Spec), QOSClass(&old.Spec); now != was {
		r.invalid(p, now, "Pod QOS Class may not change as a result of resizing")
	}
	rest := pod.Spec.DeepCopy()
	for i := range rest.Containers {
		resizedResources(r, p.Child("containers").Index(i).Child("resources"), &rest.Containers[i].Resources, &old.Spec.Containers[i].Resources)
	}
	for i := range rest.InitContainers {
		if isSidecar(&old.Spec.InitContainers[i]) {
			resizedResources(r, p.Child("initContainers").Index(i).Child("resources"), &rest.InitContainers[i].Resources, &old.Spec.InitContainers[i].Resources)
		}
	}
	if rest.Resources != nil && old.Spec.Resources != nil {
		resizedResources(r, p.Child("resources"), rest.Resources, old.Spec.Resources)
	}
	if !equality.Semantic.DeepEqual(*rest, old.Spec) {
		r.forbidden(p, "only cpu and memory resources are mutable")
	}
	return r.list
}

// resizedResources reports what cannot be taken away, and resets CPU and memory in now to what they were.
func resizedResources(r *report, p *field.Path, now, was *corev1.ResourceRequirements) {
	for name, pair := range sorted(map[string][2]*corev1.ResourceList{"limits": {&now.Limits, &was.Limits}, "requests": {&now.Requests, &was.Requests}}) {
		for _, res := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			old, had := (*pair[1])[res]
			_, has := (*pair[0])[res]
			switch {
			case had && !has:
				r.forbidden(p.Child(name), "resource "+name+" cannot be removed")
			case !had:
				delete(*pair[0], res)
				continue
			}
			if *pair[0] == nil {
				*pair[0] = corev1.ResourceList{}
			}
			(*pair[0])[res] = old
		}
		if len(*pair[0]) == 0 && len(*pair[1]) == 0 {
			*pair[0] = *pair[1]
		}
	}
}

// QOSClass computes a pod's class of service: Guaranteed when every container limits both CPU and memory to what it
// requests, BestEffort when none asks for either, else Burstable. Pod-level resources, where given, decide alone.
func QOSClass(s *corev1.PodSpec) corev1.PodQOSClass {
	type asks struct{ requests, limits corev1.ResourceList }
	var all []asks
	if s.Resources != nil && len(s.Resources.Requests)+len(s.Resources.Limits) > 0 {
		all = append(all, asks{s.Resources.Requests, s.Resources.Limits})
	} else {
		for _, c := range slices.Concat(s.Containers, s.InitContainers) {
			all = append(all, asks{c.Resources.Requests, c.Resources.Limits})
		}
	}
	anything, guaranteed := false, len(all) > 0
	for _, a := range all {
		limited := sets.New[corev1.ResourceName]()
		for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			request, requested := a.requests[name]
			limit, isLimited := a.limits[name]
			if requested && request.Sign() > 0 || isLimited && limit.Sign() > 0 {
				anything = true
			}
			if isLimited && limit.Sign() > 0 {
				limited.Insert(name)
			}
			if requested && isLimited && request.Cmp(limit) != 0 {
				guaranteed = false
			}
		}
		guaranteed = guaranteed && limited.Len() == 2
	}
	switch {
	case !anything:
		return corev1.PodQOSBestEffort
	case guaranteed:
		return corev1.PodQOSGuaranteed
	}
	return corev1.PodQOSBurstable
}
