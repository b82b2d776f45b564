package validation

import (
	"maps"
	"slices"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const podUpdateAllows = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"

// podUpdate: a pod's spec is what its node runs. Images, a shorter deadline, more tolerations, fewer gates and, while
// gated, a narrower choice of nodes are all that may change.
func podUpdate(pod, old *corev1.Pod) field.ErrorList {
	r := &report{}
	p := field.NewPath("spec")
	metadata := field.NewPath("metadata", "annotations")
	podAnnotations(r, metadata, pod.Annotations, &pod.Spec)
	mirrorAnnotation(r, metadata, pod, old)
	podSpec(r, p, &pod.Spec)
	podImages(r, p, &pod.Spec)
	if len(pod.Spec.Containers) != len(old.Spec.Containers) {
		r.forbidden(p.Child("containers"), "pod updates may not add or remove containers")
		return r.list
	}
	if len(pod.Spec.InitContainers) != len(old.Spec.InitContainers) {
		r.forbidden(p.Child("initContainers"), "pod updates may not add or remove containers")
		return r.list
	}
	deadlineUpdate(r, p.Child("activeDeadlineSeconds"), pod.Spec.ActiveDeadlineSeconds, old.Spec.ActiveDeadlineSeconds)
	tolerationsUpdate(r, p.Child("tolerations"), pod.Spec.Tolerations, old.Spec.Tolerations)
	gatesUpdate(r, p.Child("schedulingGates"), pod.Spec.SchedulingGates, old.Spec.SchedulingGates)
	if pod.Spec.NodeName != "" && len(pod.Spec.SchedulingGates) > 0 && old.Spec.NodeName == "" {
		r.forbidden(p.Child("nodeName"), "cannot be set until all schedulingGates have been cleared")
	}

	// Take over what may change, and compare the rest.
	rest := pod.Spec.DeepCopy()
	for i := range rest.Containers {
		rest.Containers[i].Image = old.Spec.Containers[i].Image
	}
	for i := range rest.InitContainers {
		rest.InitContainers[i].Image = old.Spec.InitContainers[i].Image
	}
	rest.ActiveDeadlineSeconds = old.Spec.ActiveDeadlineSeconds
	rest.Tolerations = old.Spec.Tolerations
	rest.SchedulingGates = old.Spec.SchedulingGates
	rest.EphemeralContainers = old.Spec.EphemeralContainers
	if t := old.Spec.TerminationGracePeriodSeconds; t != nil && *t < 0 && rest.TerminationGracePeriodSeconds != nil && *rest.TerminationGracePeriodSeconds == 1 {
		rest.TerminationGracePeriodSeconds = t
	}
	if len(old.Spec.SchedulingGates) > 0 {
		narrowerSelector(r, p.Child("nodeSelector"), rest.NodeSelector, old.Spec.NodeSelector)
		rest.NodeSelector = old.Spec.NodeSelector
		narrowerAffinity(r, p.Child("affinity", "nodeAffinity"), rest, &old.Spec)
	}
	if !equality.Semantic.DeepEqual(*rest, old.Spec) {
		// Copies: printing a Quantity in place caches the text in it.
		r.forbidden(p, podUpdateAllows+"\n"+cmp.Diff(*old.Spec.DeepCopy(), *rest.DeepCopy()))
	}
	return r.list
}

func mirrorAnnotation(r *report, p *field.Path, pod, old *corev1.Pod) {
	now, isMirror := pod.Annotations[corev1.MirrorPodAnnotationKey]
	was, wasMirror := old.Annotations[corev1.MirrorPodAnnotationKey]
	if isMirror != wasMirror || now != was {
		r.forbidden(p.Key(corev1.MirrorPodAnnotationKey), "may not add, remove or update mirror pod annotation")
	}
}

func deadlineUpdate(r *report, p *field.Path, now, was *int64) {
	switch {
	case now == nil && was != nil:
		r.invalid(p, now, "must not update from a positive integer to nil value")
	case now != nil && was != nil && *now > *was:
		r.invalid(p, *now, "must be less than or equal to previous value")
	}
}

// tolerationsUpdate: the scheduler and the eviction by taints have acted on those that were there.
func tolerationsUpdate(r *report, p *field.Path, now, was []corev1.Toleration) {
	for _, old := range was {
		old.TolerationSeconds = nil
		kept := slices.ContainsFunc(now, func(t corev1.Toleration) bool {
			t.TolerationSeconds = nil
			return equality.Semantic.DeepEqual(t, old)
		})
		if !kept {
			r.forbidden(p, "existing toleration can not be modified except its tolerationSeconds")
			return
		}
	}
}

func gatesUpdate(r *report, p *field.Path, now, was []corev1.PodSchedulingGate) {
	for i, g := range now {
		if !slices.Contains(was, g) {
			r.forbidden(p.Index(i), "only deletion is allowed, but found new scheduling gate '"+g.Name+"'")
		}
	}
}

func narrowerSelector(r *report, p *field.Path, now, was map[string]string) {
	for _, key := range slices.Sorted(maps.Keys(was)) {
		if value, ok := now[key]; !ok || value != was[key] {
			r.invalid(p, now, "only additions are allowed to spec.nodeSelector (no mutations or deletions)")
			return
		}
	}
}

// narrowerAffinity lets required terms gain expressions; terms are alternatives, so none may be added or dropped. rest's
// node affinity is reset to old's.
func narrowerAffinity(r *report, p *field.Path, rest, old *corev1.PodSpec) {
	now, was := requiredTerms(rest), requiredTerms(old)
	switch {
	case len(was) == 0:
	case len(now) != len(was):
		r.invalid(p.Child("requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms"), now, "no additions/deletions to non-empty NodeSelectorTerms list are allowed")
	default:
		for i := range was {
			at := p.Child("requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms").Index(i)
			if !keepsRequirements(now[i].MatchExpressions, was[i].MatchExpressions) || !keepsRequirements(now[i].MatchFields, was[i].MatchFields) ||
				(len(was[i].MatchExpressions) == 0 && len(was[i].MatchFields) == 0 && !equality.Semantic.DeepEqual(now[i], was[i])) {
				r.invalid(at, now[i], "only additions are allowed (no mutations or deletions)")
			}
		}
	}
	switch {
	case old.Affinity != nil && rest.Affinity != nil:
		rest.Affinity.NodeAffinity = old.Affinity.NodeAffinity
	case old.Affinity == nil && rest.Affinity != nil && rest.Affinity.PodAffinity == nil && rest.Affinity.PodAntiAffinity == nil:
		rest.Affinity = nil
	}
}

func requiredTerms(s *corev1.PodSpec) []corev1.NodeSelectorTerm {
	if s.Affinity == nil || s.Affinity.NodeAffinity == nil || s.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return nil
	}
	return s.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
}

func keepsRequirements(now, was []corev1.NodeSelectorRequirement) bool {
	if len(now) < len(was) {
		return false
	}
	for i := range was {
		if !equality.Semantic.DeepEqual(now[i], was[i]) {
			return false
		}
	}
	return true
}

// podEphemeralContainers: ephemeral containers may be added to a pod, and then stay as they are.
func podEphemeralContainers(pod, old *corev1.Pod) field.ErrorList {
	r := &report{}
	p := field.NewPath("spec")
	podSpec(r, p, &pod.Spec)
	at := p.Child("ephemeralContainers")
	if _, mirror := old.Annotations[corev1.MirrorPodAnnotationKey]; mirror {
		r.forbidden(field.NewPath(""), "static pods do not support ephemeral containers")
	}
	now := map[string]*corev1.EphemeralContainer{}
	for i := range pod.Spec.EphemeralContainers {
		now[pod.Spec.EphemeralContainers[i].Name] = &pod.Spec.EphemeralContainers[i]
	}
	for i := range old.Spec.EphemeralContainers {
		was := &old.Spec.EphemeralContainers[i]
		is, kept := now[was.Name]
		switch {
		case !kept:
			r.forbidden(at, "existing ephemeral containers \""+was.Name+"\" may not be removed\n")
		case !equality.Semantic.DeepEqual(*is, *was):
			r.forbidden(at, "existing ephemeral containers \""+was.Name+"\" may not be changed\n")
		}
	}
	return r.list
}
