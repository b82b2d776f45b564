package validation

import (
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// podSecurity checks the pod's security context against its host namespaces.
func podSecurity(r *report, p *field.Path, spec *corev1.PodSpec) {
	c := spec.SecurityContext
	if spec.HostNetwork {
		hostNetworkPorts(r, p, spec)
	}
	if c == nil {
		return
	}
	at := p.Child("securityContext")
	if spec.ShareProcessNamespace != nil && *spec.ShareProcessNamespace && spec.HostPID {
		r.invalid(at.Child("shareProcessNamespace"), *spec.ShareProcessNamespace, "ShareProcessNamespace and HostPID cannot both be enabled")
	}
	groupID(r, at.Child("fsGroup"), c.FSGroup)
	userID(r, at.Child("runAsUser"), c.RunAsUser)
	groupID(r, at.Child("runAsGroup"), c.RunAsGroup)
	for i := range c.SupplementalGroups {
		groupID(r, at.Child("supplementalGroups").Index(i), &c.SupplementalGroups[i])
	}
	optionalOneOf(r, at.Child("fsGroupChangePolicy"), c.FSGroupChangePolicy, corev1.FSGroupChangeAlways, corev1.FSGroupChangeOnRootMismatch)
	optionalOneOf(r, at.Child("supplementalGroupsPolicy"), c.SupplementalGroupsPolicy, corev1.SupplementalGroupsPolicyMerge, corev1.SupplementalGroupsPolicyStrict)
	optionalOneOf(r, at.Child("seLinuxChangePolicy"), c.SELinuxChangePolicy, corev1.SELinuxChangePolicyMountOption, corev1.SELinuxChangePolicyRecursive)
	seccomp(r, at.Child("seccompProfile"), c.SeccompProfile)
	appArmor(r, at.Child("appArmorProfile"), c.AppArmorProfile)
	sysctls(r, at.Child("sysctls"), c.Sysctls, spec)
	windowsOptions(r, at.Child("windowsOptions"), c.WindowsOptions)
	hostUsers(r, p, spec)
}

// hostNetworkPorts: on the node's network a container's port is the node's.
func hostNetworkPorts(r *report, p *field.Path, spec *corev1.PodSpec) {
	for group, list := range sorted(map[string][]corev1.Container{"containers": spec.Containers, "initContainers": spec.InitContainers}) {
		for i := range list {
			for j, port := range list[i].Ports {
				if port.HostPort != 0 && port.HostPort != port.ContainerPort {
					r.invalid(p.Child(group).Index(i).Child("ports").Index(j).Child("containerPort"), port.ContainerPort, "must match `hostPort` when `hostNetwork` is true")
				}
			}
		}
	}
}

func hostUsers(r *report, p *field.Path, spec *corev1.PodSpec) {
	if spec.HostUsers == nil || *spec.HostUsers {
		return
	}
	const why = "when `hostUsers` is false"
	if spec.HostNetwork {
		r.forbidden(p.Child("hostNetwork"), why)
	}
	if spec.HostPID {
		r.forbidden(p.Child("hostPID"), why)
	}
	if spec.HostIPC {
		r.forbidden(p.Child("hostIPC"), why)
	}
	for group, list := range sorted(map[string][]corev1.Container{"containers": spec.Containers, "initContainers": spec.InitContainers}) {
		for i := range list {
			if len(list[i].VolumeDevices) > 0 {
				r.forbidden(p.Child(group).Index(i).Child("volumeDevices"), why)
			}
		}
	}
}

func userID(r *report, p *field.Path, id *int64) {
	if id != nil {
		r.each(p, *id, validation.IsValidUserID(*id))
	}
}

func groupID(r *report, p *field.Path, id *int64) {
	if id != nil {
		r.each(p, *id, validation.IsValidGroupID(*id))
	}
}

func seccomp(r *report, p *field.Path, s *corev1.SeccompProfile) {
	if s == nil {
		return
	}
	oneOf(r, p.Child("type"), s.Type, true, corev1.SeccompProfileTypeLocalhost, corev1.SeccompProfileTypeRuntimeDefault, corev1.SeccompProfileTypeUnconfined)
	file := p.Child("localhostProfile")
	switch {
	case s.Type == corev1.SeccompProfileTypeLocalhost && s.LocalhostProfile == nil:
		r.required(file, "must be set when seccomp type is Localhost")
	case s.Type == corev1.SeccompProfileTypeLocalhost:
		relativePath(r, file, *s.LocalhostProfile)
	case s.LocalhostProfile != nil:
		r.invalid(file, *s.LocalhostProfile, "can only be set when seccomp type is Localhost")
	}
}

// maxAppArmorProfile bounds the name of a profile on the node.
const maxAppArmorProfile = 4095

func appArmor(r *report, p *field.Path, a *corev1.AppArmorProfile) {
	if a == nil {
		return
	}
	oneOf(r, p.Child("type"), a.Type, true, corev1.AppArmorProfileTypeLocalhost, corev1.AppArmorProfileTypeRuntimeDefault, corev1.AppArmorProfileTypeUnconfined)
	name := p.Child("localhostProfile")
	switch {
	case a.Type == corev1.AppArmorProfileTypeLocalhost && (a.LocalhostProfile == nil || strings.TrimSpace(*a.LocalhostProfile) == ""):
		r.required(name, "must be set when AppArmor type is Localhost")
	case a.Type == corev1.AppArmorProfileTypeLocalhost:
		if strings.TrimSpace(*a.LocalhostProfile) != *a.LocalhostProfile {
			r.invalid(name, *a.LocalhostProfile, "must not be padded with whitespace")
		}
		if len(*a.LocalhostProfile) > maxAppArmorProfile {
			r.add(field.TooLong(name, *a.LocalhostProfile, maxAppArmorProfile))
		}
	case a.LocalhostProfile != nil:
		r.invalid(name, *a.LocalhostProfile, "can only be set when AppArmor type is Localhost")
	}
}

// sysctlName is a kernel parameter's name with dots or slashes between its parts, at most 253 characters.
var sysctlName = regexp.MustCompile(`^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$`)

const maxSysctlName = 253

func sysctls(r *report, p *field.Path, list []corev1.Sysctl, spec *corev1.PodSpec) {
	seen := sets.New[string]()
	for i, s := range list {
		at := p.Index(i).Child("name")
		switch {
		case s.Name == "":
			r.required(at, "")
		case len(s.Name) > maxSysctlName || !sysctlName.MatchString(s.Name):
			r.invalid(at, s.Name, "must have at most 253 characters and match regex "+sysctlName.String())
		case seen.Has(s.Name):
			r.duplicate(at, s.Name)
		}
		seen.Insert(s.Name)
		name := strings.ReplaceAll(s.Name, "/", ".")
		inIPC := strings.HasPrefix(name, "kernel.shm") || strings.HasPrefix(name, "kernel.msg") || name == "kernel.sem" || strings.HasPrefix(name, "fs.mqueue.")
		if spec.HostNetwork && strings.HasPrefix(name, "net.") {
			r.invalid(at, s.Name, "may not be specified when 'hostNetwork' is set to true")
		}
		if spec.HostIPC && inIPC {
			r.invalid(at, s.Name, "may not be specified when 'hostIPC' is set to true")
		}
	}
}

const (
	maxGMSASpec    = 64 * 1024
	maxWindowsUser = 104 + 256
)

func windowsOptions(r *report, p *field.Path, w *corev1.WindowsSecurityContextOptions) {
	if w == nil {
		return
	}
	if w.GMSACredentialSpecName != nil {
		dnsSubdomain(r, p.Child("gmsaCredentialSpecName"), *w.GMSACredentialSpecName)
	}
	if w.GMSACredentialSpec != nil {
		switch n := len(*w.GMSACredentialSpec); {
		case n == 0:
			r.invalid(p.Child("gmsaCredentialSpec"), "", "gmsaCredentialSpec cannot be an empty string")
		case n > maxGMSASpec:
			r.invalid(p.Child("gmsaCredentialSpec"), "", "gmsaCredentialSpec size must be under 64 KiB")
		}
	}
	if w.RunAsUserName != nil {
		at := p.Child("runAsUserName")
		switch name := *w.RunAsUserName; {
		case name == "":
			r.invalid(at, name, "runAsUserName cannot be an empty string")
		case strings.ContainsFunc(name, func(c rune) bool { return c < ' ' || c == 0x7f }):
			r.invalid(at, name, "runAsUserName cannot contain control characters")
		case strings.Count(name, `\`) > 1:
			r.invalid(at, name, "runAsUserName cannot contain more than one backslash")
		case len(name) > maxWindowsUser:
			r.invalid(at, name, "runAsUserName is too long")
		}
	}
}

// containerSecurity checks a container's security context.
func containerSecurity(r *report, p *field.Path, c *corev1.SecurityContext, s *podScope) {
	if c == nil {
		return
	}
	userID(r, p.Child("runAsUser"), c.RunAsUser)
	groupID(r, p.Child("runAsGroup"), c.RunAsGroup)
	if c.ProcMount != nil {
		optionalOneOf(r, p.Child("procMount"), c.ProcMount, corev1.DefaultProcMount, corev1.UnmaskedProcMount)
		if inHost := s.spec.HostUsers == nil || *s.spec.HostUsers; *c.ProcMount == corev1.UnmaskedProcMount && inHost {
			r.invalid(p.Child("procMount"), *c.ProcMount, "`hostUsers` must be false to use `Unmasked`")
		}
	}
	seccomp(r, p.Child("seccompProfile"), c.SeccompProfile)
	appArmor(r, p.Child("appArmorProfile"), c.AppArmorProfile)
	if c.AllowPrivilegeEscalation != nil && !*c.AllowPrivilegeEscalation {
		if c.Privileged != nil && *c.Privileged {
			r.invalid(p, c, "cannot set `allowPrivilegeEscalation` to false and `privileged` to true")
		}
		if c.Capabilities != nil {
			for _, add := range c.Capabilities.Add {
				if add == "CAP_SYS_ADMIN" {
					r.invalid(p, c, "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN")
				}
			}
		}
	}
	windowsOptions(r, p.Child("windowsOptions"), c.WindowsOptions)
}
