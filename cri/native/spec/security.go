package spec

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// capabilities renders a container's capability sets. Names may lack "CAP_"; "ALL" means all that the host has. Drops
// come first, then adds, unless everything is dropped or added: the more specific wish then wins, as in Docker.
func (h *Host) capabilities(c *runtimeapi.Capability, privileged bool) (*specs.LinuxCapabilities, error) {
	have := slices.Clone(defaultCapabilities)
	all := func(list []string) bool {
		return slices.ContainsFunc(list, func(s string) bool { return strings.EqualFold(s, "ALL") })
	}
	if privileged || all(c.GetAddCapabilities()) {
		have = slices.Clone(h.Capabilities)
	}
	if all(c.GetDropCapabilities()) && !privileged {
		have = nil
	}
	for _, name := range c.GetDropCapabilities() {
		n, err := capName(name)
		if err != nil {
			return nil, err
		}
		if !privileged {
			have = slices.DeleteFunc(have, func(s string) bool { return s == n })
		}
	}
	for _, name := range c.GetAddCapabilities() {
		n, err := capName(name)
		if err != nil {
			return nil, err
		}
		if n != "CAP_ALL" && !slices.Contains(have, n) {
			if !slices.Contains(known, n) {
				return nil, fmt.Errorf("capability %q is unknown", name)
			}
			have = append(have, n)
		}
	}
	have = slices.DeleteFunc(have, func(s string) bool { return !slices.Contains(h.Capabilities, s) })
	out := &specs.LinuxCapabilities{Bounding: have, Effective: have, Permitted: have}
	for _, name := range c.GetAddAmbientCapabilities() {
		n, err := capName(name)
		if err != nil {
			return nil, err
		}
		if slices.Contains(have, n) {
			out.Ambient = append(out.Ambient, n)
			out.Inheritable = append(out.Inheritable, n)
		}
	}
	return out, nil
}

func capName(s string) (string, error) {
	s = strings.ToUpper(s)
	if s == "" {
		return "", errors.New("capability with an empty name")
	}
	if !strings.HasPrefix(s, "CAP_") {
		s = "CAP_" + s
	}
	return s, nil
}

// known are Linux's capabilities in the order of their numbers.
var known = strings.Fields(`CAP_CHOWN CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_FOWNER CAP_FSETID CAP_KILL CAP_SETGID
CAP_SETUID CAP_SETPCAP CAP_LINUX_IMMUTABLE CAP_NET_BIND_SERVICE CAP_NET_BROADCAST CAP_NET_ADMIN CAP_NET_RAW CAP_IPC_LOCK
CAP_IPC_OWNER CAP_SYS_MODULE CAP_SYS_RAWIO CAP_SYS_CHROOT CAP_SYS_PTRACE CAP_SYS_PACCT CAP_SYS_ADMIN CAP_SYS_BOOT
CAP_SYS_NICE CAP_SYS_RESOURCE CAP_SYS_TIME CAP_SYS_TTY_CONFIG CAP_MKNOD CAP_LEASE CAP_AUDIT_WRITE CAP_AUDIT_CONTROL
CAP_SETFCAP CAP_MAC_OVERRIDE CAP_MAC_ADMIN CAP_SYSLOG CAP_WAKE_ALARM CAP_BLOCK_SUSPEND CAP_AUDIT_READ CAP_PERFMON
CAP_BPF CAP_CHECKPOINT_RESTORE`)

// CapabilitiesOf names the bits of a capability mask, as in /proc/<pid>/status.
func CapabilitiesOf(mask uint64) []string {
	var out []string
	for i, name := range known {
		if mask&(1<<i) != 0 {
			out = append(out, name)
		}
	}
	return out
}

// seccomp renders a profile; the capabilities must be in the spec already. The deprecated path field counts when the
// profile is missing.
func (h *Host) seccomp(s *specs.Spec, p *runtimeapi.SecurityProfile, deprecated string, privileged bool) (*specs.LinuxSeccomp, error) {
	if privileged || h.SeccompDefault == nil {
		return nil, nil
	}
	if p == nil {
		switch {
		case deprecated == "" || deprecated == "unconfined":
			return nil, nil
		case deprecated == "runtime/default" || deprecated == "docker/default":
			p = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
		case strings.HasPrefix(deprecated, "localhost/"):
			p = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: strings.TrimPrefix(deprecated, "localhost/")}
		default:
			return nil, fmt.Errorf("seccomp profile %q is invalid: use runtime/default, unconfined or localhost/<path>", deprecated)
		}
	}
	switch p.ProfileType {
	case runtimeapi.SecurityProfile_RuntimeDefault:
		return h.SeccompDefault(s), nil
	case runtimeapi.SecurityProfile_Unconfined:
		return nil, nil
	case runtimeapi.SecurityProfile_Localhost:
		ref := strings.TrimPrefix(p.LocalhostRef, "localhost/")
		if !filepath.IsAbs(ref) {
			return nil, fmt.Errorf("seccomp profile %q: the path must be absolute", p.LocalhostRef)
		}
		return h.SeccompLocalhost(ref)
	}
	return nil, fmt.Errorf("seccomp profile type %s is unknown", p.ProfileType)
}

// apparmor returns the profile's name, or "" for none.
func (h *Host) apparmor(p *runtimeapi.SecurityProfile, deprecated string, privileged bool) (string, error) {
	if p == nil {
		switch {
		case deprecated == "" || deprecated == "runtime/default":
			p = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_RuntimeDefault}
			if privileged {
				p.ProfileType = runtimeapi.SecurityProfile_Unconfined
			}
		case deprecated == "unconfined":
			p = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Unconfined}
		default:
			p = &runtimeapi.SecurityProfile{ProfileType: runtimeapi.SecurityProfile_Localhost, LocalhostRef: deprecated}
		}
	}
	switch p.ProfileType {
	case runtimeapi.SecurityProfile_RuntimeDefault:
		if !h.AppArmor {
			return "", nil
		}
		return h.AppArmorDefault, nil
	case runtimeapi.SecurityProfile_Localhost:
		if !h.AppArmor {
			return "", fmt.Errorf("AppArmor profile %q cannot be applied: the host has no AppArmor", p.LocalhostRef)
		}
		return strings.TrimPrefix(p.LocalhostRef, "localhost/"), nil
	}
	return "", nil
}

// selinux renders process and mount labels of the given options; empty without SELinux.
func (h *Host) selinux(o *runtimeapi.SELinuxOption, privileged bool) (process, mount string) {
	if !h.SELinux || privileged || o == nil || o.Type == "" && o.Level == "" {
		return "", ""
	}
	or := func(v, d string) string {
		if v == "" {
			return d
		}
		return v
	}
	user, role, level := or(o.User, "system_u"), or(o.Role, "system_r"), or(o.Level, "s0")
	return strings.Join([]string{user, role, or(o.Type, "container_t"), level}, ":"),
		strings.Join([]string{user, "object_r", "container_file_t", level}, ":")
}
