package validation

import (
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// podScope is what the checks of a container need to know of its pod.
type podScope struct {
	spec       *corev1.PodSpec
	volumes    map[string]*corev1.Volume
	claimNames sets.Set[string]
}

func (s *podScope) gracePeriod() int64 {
	if s.spec.TerminationGracePeriodSeconds == nil {
		return corev1.DefaultTerminationGracePeriodSeconds
	}
	return *s.spec.TerminationGracePeriodSeconds
}

// isSidecar reports whether an init container keeps running beside the app containers.
func isSidecar(c *corev1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways
}

// containers checks init and app containers: their names must be unique across both.
func containers(r *report, p *field.Path, s *podScope) sets.Set[string] {
	names := sets.New[string]()
	ports := sets.New[string]()
	if len(s.spec.Containers) == 0 {
		r.required(p.Child("containers"), "")
	}
	for i := range s.spec.Containers {
		c, at := &s.spec.Containers[i], p.Child("containers").Index(i)
		container(r, at, c, s)
		containerName(r, at.Child("name"), c.Name, names)
		hostPorts(r, at.Child("ports"), c.Ports, ports)
		if c.Lifecycle != nil {
			lifecycle(r, at.Child("lifecycle"), c.Lifecycle, s)
		}
		probes(r, at, c, s)
		restartRules(r, at, c)
	}
	for i := range s.spec.InitContainers {
		c, at := &s.spec.InitContainers[i], p.Child("initContainers").Index(i)
		container(r, at, c, s)
		containerName(r, at.Child("name"), c.Name, names)
		if isSidecar(c) {
			hostPorts(r, at.Child("ports"), c.Ports, ports)
			if c.Lifecycle != nil {
				lifecycle(r, at.Child("lifecycle"), c.Lifecycle, s)
			}
			probes(r, at, c, s)
		} else {
			notForInit(r, at, c)
			hostPorts(r, at.Child("ports"), c.Ports, sets.New[string]())
		}
		restartRules(r, at, c)
	}
	return names
}

func containerName(r *report, p *field.Path, name string, seen sets.Set[string]) {
	if name == "" {
		r.required(p, "")
		return
	}
	dnsLabel(r, p, name)
	if seen.Has(name) {
		r.duplicate(p, name)
	}
	seen.Insert(name)
}

// notForInit reports what a container that runs to its end before the app starts cannot have.
func notForInit(r *report, p *field.Path, c *corev1.Container) {
	const why = "may not be set for init containers without restartPolicy=Always"
	if c.Lifecycle != nil {
		r.forbidden(p.Child("lifecycle"), why)
	}
	if c.LivenessProbe != nil {
		r.forbidden(p.Child("livenessProbe"), why)
	}
	if c.ReadinessProbe != nil {
		r.forbidden(p.Child("readinessProbe"), why)
	}
	if c.StartupProbe != nil {
		r.forbidden(p.Child("startupProbe"), why)
	}
}

// container checks what all sorts of containers share, except name, lifecycle and probes.
func container(r *report, p *field.Path, c *corev1.Container, s *podScope) {
	image(r, p.Child("image"), c.Image)
	oneOf(r, p.Child("terminationMessagePolicy"), c.TerminationMessagePolicy, true, corev1.TerminationMessageReadFile, corev1.TerminationMessageFallbackToLogsOnError)
	oneOf(r, p.Child("imagePullPolicy"), c.ImagePullPolicy, true, corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever)
	containerPorts(r, p.Child("ports"), c.Ports)
	environmentOf(r, p, c.Env, c.EnvFrom, s)
	mounts(r, p, c, s)
	requirements(r, p.Child("resources"), &c.Resources, s.claimNames)
	resizePolicies(r, p.Child("resizePolicy"), c.ResizePolicy)
	containerSecurity(r, p.Child("securityContext"), c.SecurityContext, s)
}

// image checks a reference. Whitespace around it is refused in pods only: templates have long held " " for tools to
// replace.
func image(r *report, p *field.Path, ref string) {
	if ref == "" {
		r.required(p, "")
	}
}

// podImages checks what only pods, not templates, must get right.
func podImages(r *report, p *field.Path, spec *corev1.PodSpec) {
	for group, list := range sorted(map[string][]corev1.Container{"containers": spec.Containers, "initContainers": spec.InitContainers}) {
		for i := range list {
			if ref := list[i].Image; strings.TrimSpace(ref) != ref {
				r.invalid(p.Child(group).Index(i).Child("image"), ref, "must not have leading or trailing whitespace")
			}
		}
	}
}

func containerPorts(r *report, p *field.Path, ports []corev1.ContainerPort) {
	names := sets.New[string]()
	for i := range ports {
		port, at := &ports[i], p.Index(i)
		if port.Name != "" {
			if messages := validation.IsValidPortName(port.Name); len(messages) > 0 {
				r.each(at.Child("name"), port.Name, messages)
			} else if names.Has(port.Name) {
				r.duplicate(at.Child("name"), port.Name)
			} else {
				names.Insert(port.Name)
			}
		}
		if port.ContainerPort == 0 {
			r.required(at.Child("containerPort"), "")
		} else {
			r.each(at.Child("containerPort"), port.ContainerPort, validation.IsValidPortNum(int(port.ContainerPort)))
		}
		if port.HostPort != 0 {
			r.each(at.Child("hostPort"), port.HostPort, validation.IsValidPortNum(int(port.HostPort)))
		}
		oneOf(r, at.Child("protocol"), port.Protocol, true, corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)
	}
}

// hostPorts reports a port of the host that the pod's containers claim twice.
func hostPorts(r *report, p *field.Path, ports []corev1.ContainerPort, taken sets.Set[string]) {
	for i := range ports {
		if ports[i].HostPort == 0 {
			continue
		}
		key := fmt.Sprintf("%s/%s/%d", ports[i].Protocol, ports[i].HostIP, ports[i].HostPort)
		if taken.Has(key) {
			r.duplicate(p.Index(i).Child("hostPort"), key)
		}
		taken.Insert(key)
	}
}

func resizePolicies(r *report, p *field.Path, policies []corev1.ContainerResizePolicy) {
	seen := sets.New[corev1.ResourceName]()
	for i, policy := range policies {
		if seen.Has(policy.ResourceName) {
			r.duplicate(p.Index(i), policy.ResourceName)
		}
		seen.Insert(policy.ResourceName)
		oneOf(r, p, policy.ResourceName, true, corev1.ResourceCPU, corev1.ResourceMemory)
		oneOf(r, p, policy.RestartPolicy, true, corev1.NotRequired, corev1.RestartContainer)
	}
}

// maxRestartRules and maxExitCodes bound what a container's restart rules may list.
const (
	maxRestartRules = 20
	maxExitCodes    = 255
)

func restartRules(r *report, p *field.Path, c *corev1.Container) {
	optionalOneOf(r, p.Child("restartPolicy"), c.RestartPolicy,
		corev1.ContainerRestartPolicyAlways, corev1.ContainerRestartPolicyOnFailure, corev1.ContainerRestartPolicyNever)
	rules := p.Child("restartPolicyRules")
	if len(c.RestartPolicyRules) > 0 && c.RestartPolicy == nil {
		r.required(p.Child("restartPolicy"), "must specify restartPolicy when restart rules are used")
	}
	if len(c.RestartPolicyRules) > maxRestartRules {
		r.add(field.TooLong(rules, c.RestartPolicyRules, maxRestartRules))
	}
	for i, rule := range c.RestartPolicyRules {
		at := rules.Index(i)
		oneOf(r, at.Child("action"), rule.Action, true, corev1.ContainerRestartRuleActionRestart, corev1.ContainerRestartRuleActionRestartAllContainers)
		if rule.ExitCodes == nil {
			r.required(at.Child("exitCodes"), "must be specified")
			continue
		}
		oneOf(r, at.Child("exitCodes", "operator"), rule.ExitCodes.Operator, true,
			corev1.ContainerRestartRuleOnExitCodesOpIn, corev1.ContainerRestartRuleOnExitCodesOpNotIn)
		values := at.Child("exitCodes", "values")
		switch {
		case len(rule.ExitCodes.Values) == 0:
			r.invalid(values, rule.ExitCodes.Values, "must specify at least one exit code")
		case len(rule.ExitCodes.Values) > maxExitCodes:
			r.add(field.TooLong(values, rule.ExitCodes.Values, maxExitCodes))
		}
		seen := sets.New[int32]()
		for j, code := range rule.ExitCodes.Values {
			if seen.Has(code) {
				r.duplicate(values.Index(j), code)
			}
			seen.Insert(code)
		}
	}
}

// ephemeralContainers checks containers added to a running pod, for a look into it.
func ephemeralContainers(r *report, p *field.Path, s *podScope, names sets.Set[string]) {
	taken := names.Clone()
	for i := range s.spec.EphemeralContainers {
		c, at := &s.spec.EphemeralContainers[i], p.Index(i)
		whole := corev1.Container(c.EphemeralContainerCommon)
		container(r, at, &whole, s)
		containerName(r, at.Child("name"), c.Name, taken)
		if t := c.TargetContainerName; t != "" && !names.Has(t) {
			r.notFound(at.Child("targetContainerName"), t)
		}
		const why = "cannot be set for an Ephemeral Container"
		for name, set := range sorted(map[string]bool{
			"ports": len(c.Ports) > 0, "lifecycle": c.Lifecycle != nil, "livenessProbe": c.LivenessProbe != nil,
			"readinessProbe": c.ReadinessProbe != nil, "startupProbe": c.StartupProbe != nil,
			"resources":    len(c.Resources.Limits)+len(c.Resources.Requests)+len(c.Resources.Claims) > 0,
			"resizePolicy": len(c.ResizePolicy) > 0, "restartPolicy": c.RestartPolicy != nil, "restartPolicyRules": len(c.RestartPolicyRules) > 0,
		}) {
			if set {
				r.forbidden(at.Child(name), why)
			}
		}
		for j, m := range c.VolumeMounts {
			if m.SubPath != "" {
				r.forbidden(at.Child("volumeMounts").Index(j).Child("subPath"), why)
			}
			if m.SubPathExpr != "" {
				r.forbidden(at.Child("volumeMounts").Index(j).Child("subPathExpr"), why)
			}
		}
	}
}
