package core

import (
	"maps"
	"strings"

	corev1 "k8s.io/api/core/v1"
	resourcehelper "k8s.io/component-helpers/resource"

	"github.com/reevehq/reeve/controlplane/apis/defaults/fill"
)

// SetDefaults_PodSpec fills what pods and pod templates share. Anything added here changes every stored template, and
// so rolls every Deployment: new pod defaults belong into SetDefaults_Pod.
func SetDefaults_PodSpec(s *corev1.PodSpec) {
	fill.Zero(&s.DNSPolicy, corev1.DNSClusterFirst)
	fill.Zero(&s.RestartPolicy, corev1.RestartPolicyAlways)
	fill.Zero(&s.SchedulerName, corev1.DefaultSchedulerName)
	fill.Nil(&s.SecurityContext, corev1.PodSecurityContext{})
	fill.Nil(&s.TerminationGracePeriodSeconds, int64(corev1.DefaultTerminationGracePeriodSeconds))
	// The old name of the field is an alias: read where the new one is empty, and always written.
	fill.Zero(&s.ServiceAccountName, s.DeprecatedServiceAccount)
	s.DeprecatedServiceAccount = s.ServiceAccountName
}

// SetDefaults_PodStatus keeps the single address and the first of the list the same. Where they differ the single one
// counts: it comes from a client that does not know the list.
func SetDefaults_PodStatus(s *corev1.PodStatus) {
	switch {
	case s.PodIP == "" && len(s.PodIPs) > 0:
		s.PodIP = s.PodIPs[0].IP
	case s.PodIP != "" && (len(s.PodIPs) == 0 || s.PodIPs[0].IP != s.PodIP):
		s.PodIPs = []corev1.PodIP{{IP: s.PodIP}}
	}
}

// SetDefaults_Pod fills what only pods get: requests from limits, service links and the host ports of pods on the
// node's network.
func SetDefaults_Pod(p *corev1.Pod) {
	fill.Nil(&p.Spec.EnableServiceLinks, corev1.DefaultEnableServiceLinks)
	for _, group := range [][]corev1.Container{p.Spec.Containers, p.Spec.InitContainers} {
		for i := range group {
			requestsFromLimits(&group[i].Resources)
			if p.Spec.HostNetwork {
				hostPortsFromContainerPorts(group[i].Ports)
			}
		}
	}
	if p.Spec.Resources != nil {
		hugePageLimitsFromContainers(p)
		podRequestsFromContainers(p)
	}
}

// SetDefaults_ResourceList rounds quantities up to thousandths, the finest unit that the API keeps.
func SetDefaults_ResourceList(list *corev1.ResourceList) {
	const milli = -3
	for name, quantity := range *list {
		quantity.RoundUp(milli)
		(*list)[name] = quantity
	}
}

func requestsFromLimits(r *corev1.ResourceRequirements) {
	if r.Limits == nil {
		return
	}
	if r.Requests == nil {
		r.Requests = make(corev1.ResourceList, len(r.Limits))
	}
	addMissing(r.Requests, r.Limits)
}

func hostPortsFromContainerPorts(ports []corev1.ContainerPort) {
	for i := range ports {
		fill.Zero(&ports[i].HostPort, ports[i].ContainerPort)
	}
}

// podRequestsFromContainers completes pod-level requests when pod-level limits are given: what the containers ask for
// together, else the limit itself. Huge pages cannot be overcommitted, so only their limit counts.
func podRequestsFromContainers(p *corev1.Pod) {
	r := p.Spec.Resources
	if len(r.Limits) == 0 {
		return
	}
	requests := maps.Clone(r.Requests)
	if requests == nil {
		requests = corev1.ResourceList{}
	}
	usable := func(name corev1.ResourceName) bool { return resourcehelper.IsSupportedPodLevelResource(name) }
	for name, quantity := range resourcehelper.AggregateContainerRequests(p, resourcehelper.PodResourcesOptions{}) {
		if _, set := requests[name]; !set && usable(name) && !isHugePages(name) {
			requests[name] = quantity.DeepCopy()
		}
	}
	for name, quantity := range r.Limits {
		if _, set := requests[name]; !set && usable(name) {
			requests[name] = quantity.DeepCopy()
		}
	}
	if len(requests) > 0 {
		r.Requests = requests
	}
}

// hugePageLimitsFromContainers sets pod-level huge page limits that were left out, neither requested nor limited, to
// the sum over the containers.
func hugePageLimitsFromContainers(p *corev1.Pod) {
	r := p.Spec.Resources
	if len(r.Requests) == 0 && len(r.Limits) == 0 {
		return
	}
	for name, quantity := range resourcehelper.AggregateContainerLimits(p, resourcehelper.PodResourcesOptions{}) {
		if !isHugePages(name) || !resourcehelper.IsSupportedPodLevelResource(name) {
			continue
		}
		if _, set := r.Limits[name]; set {
			continue
		}
		if _, set := r.Requests[name]; set {
			continue
		}
		if r.Limits == nil {
			r.Limits = corev1.ResourceList{}
		}
		r.Limits[name] = quantity.DeepCopy()
	}
}

func isHugePages(name corev1.ResourceName) bool {
	return strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix)
}

func addMissing(dst, src corev1.ResourceList) {
	for name, quantity := range src {
		if _, set := dst[name]; !set {
			dst[name] = quantity.DeepCopy()
		}
	}
}
