package validation

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"
)

// podStatus checks what a node reports about a pod.
func podStatus(pod, old *corev1.Pod) field.ErrorList {
	r := &report{}
	p := field.NewPath("status")
	mirrorAnnotation(r, field.NewPath("metadata", "annotations"), pod, old)
	if pod.Spec.NodeName != old.Spec.NodeName && old.Spec.NodeName != "" {
		r.forbidden(p.Child("nodeName"), "may not be changed directly")
	}
	if n := pod.Status.NominatedNodeName; n != "" {
		dnsSubdomain(r, p.Child("nominatedNodeName"), n)
	}
	types := sets.New[corev1.PodConditionType]()
	for i, c := range pod.Status.Conditions {
		at := p.Child("conditions").Index(i)
		if c.Type == "" {
			r.required(at.Child("type"), "")
		} else if isCustomCondition(c.Type) {
			qualifiedName(r, at.Child("type"), string(c.Type))
		}
		if types.Has(c.Type) {
			r.duplicate(at.Child("type"), c.Type)
		}
		types.Insert(c.Type)
	}
	transitions(r, p.Child("containerStatuses"), pod.Status.ContainerStatuses, old.Status.ContainerStatuses, &old.Spec, old.Spec.Containers)
	transitions(r, p.Child("initContainerStatuses"), pod.Status.InitContainerStatuses, old.Status.InitContainerStatuses, &old.Spec, old.Spec.InitContainers)
	if was := old.Status.QOSClass; was != "" && pod.Status.QOSClass != was {
		r.invalid(p.Child("qosClass"), pod.Status.QOSClass, "field is immutable")
	}
	addresses(r, p.Child("podIPs"), podIPs(&pod.Status))
	addresses(r, p.Child("hostIPs"), hostIPs(&pod.Status))
	return r.list
}

// isCustomCondition reports whether somebody outside Kubernetes sets the condition.
func isCustomCondition(t corev1.PodConditionType) bool {
	switch t {
	case corev1.PodScheduled, corev1.PodReady, corev1.PodInitialized, corev1.ContainersReady, corev1.DisruptionTarget,
		corev1.PodReadyToStartContainers, corev1.PodResizePending, corev1.PodResizeInProgress:
		return false
	}
	return true
}

func podIPs(s *corev1.PodStatus) []string {
	out := make([]string, 0, len(s.PodIPs))
	for _, a := range s.PodIPs {
		out = append(out, a.IP)
	}
	return out
}

func hostIPs(s *corev1.PodStatus) []string {
	out := make([]string, 0, len(s.HostIPs))
	for _, a := range s.HostIPs {
		out = append(out, a.IP)
	}
	return out
}

// addresses wants valid addresses, at most one of each family, none twice.
func addresses(r *report, p *field.Path, list []string) {
	seen := sets.New[string]()
	for i, a := range list {
		ip(r, p.Index(i), a)
		if seen.Has(a) {
			r.duplicate(p.Index(i), a)
		}
		seen.Insert(a)
	}
	if len(list) <= 1 {
		return
	}
	dual, err := netutils.IsDualStackIPStrings(list)
	switch {
	case err != nil:
		r.add(field.InternalError(p, fmt.Errorf("failed to check for dual stack with error:%w", err)))
	case !dual || len(list) > 2:
		r.invalid(p, list, "may specify no more than one IP for each IP family")
	}
}

// transitions refuses to bring back to life a container whose end was reported and that is not to be started again.
func transitions(r *report, p *field.Path, now, was []corev1.ContainerStatus, spec *corev1.PodSpec, containers []corev1.Container) {
	if spec.RestartPolicy == corev1.RestartPolicyAlways {
		return
	}
	ended := map[string]*corev1.ContainerStateTerminated{}
	for i := range was {
		if t := was[i].State.Terminated; t != nil {
			ended[was[i].Name] = t
		}
	}
	restartable := sets.New[string]()
	for i := range containers {
		if containers[i].RestartPolicy != nil {
			restartable.Insert(containers[i].Name)
		}
	}
	for i := range now {
		end, done := ended[now[i].Name]
		if !done || restartable.Has(now[i].Name) {
			continue
		}
		if end.ExitCode != 0 && spec.RestartPolicy == corev1.RestartPolicyOnFailure {
			continue
		}
		if now[i].State.Terminated == nil {
			r.forbidden(p.Index(i).Child("state"), "may not be transitioned to non-terminated state")
		}
	}
}
