package validation

import (
	"math"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func podCreate(pod *corev1.Pod) field.ErrorList {
	r := &report{}
	p := field.NewPath("spec")
	podAnnotations(r, field.NewPath("metadata", "annotations"), pod.Annotations, &pod.Spec)
	if len(pod.Spec.EphemeralContainers) > 0 {
		r.forbidden(p.Child("ephemeralContainers"), "cannot be set on create")
	}
	if pod.Spec.NodeName != "" && len(pod.Spec.SchedulingGates) > 0 {
		r.forbidden(p.Child("nodeName"), "cannot be set until all schedulingGates have been cleared")
	}
	podSpec(r, p, &pod.Spec)
	podImages(r, p, &pod.Spec)
	return r.list
}

// podAnnotations checks the annotations that change how a pod is treated.
func podAnnotations(r *report, p *field.Path, annotations map[string]string, spec *corev1.PodSpec) {
	if mirror, ok := annotations[corev1.MirrorPodAnnotationKey]; ok && spec.NodeName == "" {
		r.invalid(p.Key(corev1.MirrorPodAnnotationKey), mirror, "must set spec.nodeName if mirror pod annotation is set")
	}
	if cost, ok := annotations[corev1.PodDeletionCost]; ok {
		if !isInt32(cost) {
			r.invalid(p.Key(corev1.PodDeletionCost), cost, "must be a 32bit integer")
		}
	}
}

// isInt32 wants the plain spelling: no sign but minus, no leading zero.
func isInt32(s string) bool {
	digits, negative := s, false
	if len(s) > 0 && s[0] == '-' {
		digits, negative = s[1:], true
	}
	if digits == "" || len(digits) > 10 || (digits[0] == '0' && (len(digits) > 1 || negative)) {
		return false
	}
	n := int64(0)
	for _, d := range digits {
		if d < '0' || d > '9' {
			return false
		}
		n = n*10 + int64(d-'0')
	}
	if negative {
		n = -n
	}
	return n >= math.MinInt32 && n <= math.MaxInt32
}

// podSpec checks the spec of a pod or of a pod template.
func podSpec(r *report, p *field.Path, spec *corev1.PodSpec) {
	s := &podScope{spec: spec}
	s.volumes = podVolumes(r, p.Child("volumes"), spec.Volumes)
	s.claimNames = resourceClaims(r, p.Child("resourceClaims"), spec.ResourceClaims)
	names := containers(r, p, s)
	ephemeralContainers(r, p.Child("ephemeralContainers"), s, names)
	podRequirements(r, p.Child("resources"), spec)
	oneOf(r, p.Child("restartPolicy"), spec.RestartPolicy, true, corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever)
	dns(r, p, spec)
	hostnames(r, p, spec)
	labelMap(r, p.Child("nodeSelector"), spec.NodeSelector)
	podSecurity(r, p, spec)
	affinity(r, p.Child("affinity"), spec.Affinity)
	readinessGates(r, p.Child("readinessGates"), spec.ReadinessGates)
	schedulingGates(r, p.Child("schedulingGates"), spec.SchedulingGates)
	topologySpread(r, p.Child("topologySpreadConstraints"), spec.TopologySpreadConstraints)
	tolerations(r, p.Child("tolerations"), spec.Tolerations)
	hostAliases(r, p.Child("hostAliases"), spec.HostAliases)
	if spec.ServiceAccountName != "" {
		dnsSubdomain(r, p.Child("serviceAccountName"), spec.ServiceAccountName)
	}
	if spec.NodeName != "" {
		dnsSubdomain(r, p.Child("nodeName"), spec.NodeName)
	}
	if d := spec.ActiveDeadlineSeconds; d != nil && (*d < 1 || *d > math.MaxInt32) {
		r.invalid(p.Child("activeDeadlineSeconds"), *d, validation.InclusiveRangeError(1, math.MaxInt32))
	}
	if spec.PriorityClassName != "" {
		dnsSubdomain(r, p.Child("priorityClassName"), spec.PriorityClassName)
	}
	if spec.RuntimeClassName != nil {
		dnsSubdomain(r, p.Child("runtimeClassName"), *spec.RuntimeClassName)
	}
	optionalOneOf(r, p.Child("preemptionPolicy"), spec.PreemptionPolicy, corev1.PreemptLowerPriority, corev1.PreemptNever)
	if spec.Overhead != nil {
		checkLimitsAndRequests(r, p.Child("overhead"), p.Child("overhead"), spec.Overhead, nil, containerResourceName)
	}
	operatingSystem(r, p, spec)
}

func resourceClaims(r *report, p *field.Path, list []corev1.PodResourceClaim) sets.Set[string] {
	names := sets.New[string]()
	for i, c := range list {
		at := p.Index(i)
		switch {
		case c.Name == "":
			r.required(at.Child("name"), "")
		case names.Has(c.Name):
			r.duplicate(at.Child("name"), c.Name)
		default:
			dnsLabel(r, at.Child("name"), c.Name)
			names.Insert(c.Name)
		}
		switch {
		case c.ResourceClaimName == nil && c.ResourceClaimTemplateName == nil:
			r.required(at, "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`")
		case c.ResourceClaimName != nil && c.ResourceClaimTemplateName != nil:
			r.invalid(at, c, "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified")
		}
		if c.ResourceClaimName != nil {
			dnsSubdomain(r, at.Child("resourceClaimName"), *c.ResourceClaimName)
		}
		if c.ResourceClaimTemplateName != nil {
			dnsSubdomain(r, at.Child("resourceClaimTemplateName"), *c.ResourceClaimTemplateName)
		}
	}
	return names
}

// operatingSystem reports fields that mean nothing on the system that the pod names.
func operatingSystem(r *report, p *field.Path, spec *corev1.PodSpec) {
	if spec.OS == nil {
		return
	}
	name := p.Child("os", "name")
	if spec.OS.Name == "" {
		r.required(name, "cannot be empty")
		return
	}
	oneOf(r, name, spec.OS.Name, true, corev1.Linux, corev1.Windows)
	each := func(visit func(at *field.Path, c *corev1.SecurityContext)) {
		for group, list := range sorted(map[string][]corev1.Container{"containers": spec.Containers, "initContainers": spec.InitContainers}) {
			for i := range list {
				if list[i].SecurityContext != nil {
					visit(p.Child(group).Index(i).Child("securityContext"), list[i].SecurityContext)
				}
			}
		}
	}
	switch spec.OS.Name {
	case corev1.Linux:
		const why = "windows options cannot be set for a linux pod"
		if spec.SecurityContext != nil && spec.SecurityContext.WindowsOptions != nil {
			r.forbidden(p.Child("securityContext", "windowsOptions"), why)
		}
		each(func(at *field.Path, c *corev1.SecurityContext) {
			if c.WindowsOptions != nil {
				r.forbidden(at.Child("windowsOptions"), why)
			}
		})
	case corev1.Windows:
		const why = "cannot be set for a windows pod"
		refuse := func(at *field.Path, set map[string]bool) {
			for name, is := range sorted(set) {
				if is {
					r.forbidden(at.Child(name), why)
				}
			}
		}
		refuse(p, map[string]bool{"hostPID": spec.HostPID, "hostIPC": spec.HostIPC, "hostUsers": spec.HostUsers != nil})
		if c := spec.SecurityContext; c != nil {
			refuse(p.Child("securityContext"), map[string]bool{
				"seLinuxOptions": c.SELinuxOptions != nil, "seccompProfile": c.SeccompProfile != nil, "appArmorProfile": c.AppArmorProfile != nil,
				"fsGroup": c.FSGroup != nil, "fsGroupChangePolicy": c.FSGroupChangePolicy != nil, "sysctls": len(c.Sysctls) > 0,
				"runAsUser": c.RunAsUser != nil, "runAsGroup": c.RunAsGroup != nil, "supplementalGroups": c.SupplementalGroups != nil,
				"supplementalGroupsPolicy": c.SupplementalGroupsPolicy != nil, "shareProcessNamespace": spec.ShareProcessNamespace != nil && *spec.ShareProcessNamespace,
			})
		}
		each(func(at *field.Path, c *corev1.SecurityContext) {
			refuse(at, map[string]bool{
				"seLinuxOptions": c.SELinuxOptions != nil, "seccompProfile": c.SeccompProfile != nil, "appArmorProfile": c.AppArmorProfile != nil,
				"capabilities": c.Capabilities != nil, "readOnlyRootFilesystem": c.ReadOnlyRootFilesystem != nil, "privileged": c.Privileged != nil,
				"allowPrivilegeEscalation": c.AllowPrivilegeEscalation != nil, "procMount": c.ProcMount != nil,
				"runAsUser": c.RunAsUser != nil, "runAsGroup": c.RunAsGroup != nil,
			})
		})
	}
}

// podTemplate checks the template of a controller.
func podTemplate(r *report, p *field.Path, t *corev1.PodTemplateSpec) {
	labelMap(r, p.Child("labels"), t.Labels)
	annotationMap(r, p.Child("annotations"), t.Annotations)
	podAnnotations(r, p.Child("annotations"), t.Annotations, &t.Spec)
	podSpec(r, p.Child("spec"), &t.Spec)
	if len(t.Spec.EphemeralContainers) > 0 {
		r.forbidden(p.Child("spec", "ephemeralContainers"), "ephemeral containers not allowed in pod template")
	}
}
