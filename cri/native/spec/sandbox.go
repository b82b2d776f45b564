package spec

import (
	"fmt"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// SandboxInput is what a pause container depends on.
type SandboxInput struct {
	Host   *Host
	ID     string
	Config *runtimeapi.PodSandboxConfig
	NetNS  string // "" on the host's network
	// Pins are the paths of the sandbox's own namespaces that are made already, hostname and sysctls set.
	Pins    map[specs.LinuxNamespaceType]string
	Command []string
	Env     []string
	UID     uint32
	GID     uint32
	// Own says that the program is reeve's pause, for which a small seccomp filter does.
	Own bool
}

// unprivilegedDefaults open what needs no privilege in a namespace of one's own, as containerd 2 does by default: low
// ports, and ping for every group.
var unprivilegedDefaults = map[string]string{
	"net.ipv4.ip_unprivileged_port_start": "0",
	"net.ipv4.ping_group_range":           "0 2147483647",
}

// Sandbox makes the pause container's spec: it owns the pod's namespaces, and little else.
func Sandbox(in SandboxInput) (*specs.Spec, error) {
	c, h := in.Config, in.Host
	sec := c.GetLinux().GetSecurityContext()
	ns := sec.GetNamespaceOptions()
	hostNet := ns.GetNetwork() == runtimeapi.NamespaceMode_NODE
	s := &specs.Spec{
		Version:  Version,
		Hostname: c.Hostname,
		Root:     &specs.Root{Path: "rootfs", Readonly: true},
		Process: &specs.Process{
			Cwd: "/", Args: in.Command, Env: in.Env, NoNewPrivileges: true,
			User: specs.User{UID: in.UID, GID: in.GID}, Capabilities: &specs.LinuxCapabilities{},
		},
		Annotations: h.annotations(in.ID, c),
		Linux: &specs.Linux{
			CgroupsPath:   h.CgroupsPath(c.GetLinux().GetCgroupParent(), in.ID),
			MaskedPaths:   sandboxMasked,
			ReadonlyPaths: sandboxReadonly,
			Resources:     &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}},
		},
	}
	s.Annotations[AnnotationType] = TypeSandbox
	s.Annotations[AnnotationGroup] = in.ID
	if v := sec.GetRunAsUser(); v != nil {
		s.Process.User.UID = uint32(v.Value)
		s.Process.User.GID = uint32(v.Value)
	}
	if v := sec.GetRunAsGroup(); v != nil {
		s.Process.User.GID = uint32(v.Value)
	}
	// Two CPU shares and a low OOM score: pause must live as long as the pod.
	shares := uint64(2)
	s.Linux.Resources.CPU = &specs.LinuxCPU{Shares: &shares}
	score := h.OOMScoreAdj(-998)
	s.Process.OOMScoreAdj = &score

	add := func(t specs.LinuxNamespaceType, path string) {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: t, Path: path})
	}
	add(specs.MountNamespace, "")
	if !hostNet {
		add(specs.NetworkNamespace, in.NetNS)
		add(specs.UTSNamespace, in.Pins[specs.UTSNamespace])
	} else {
		s.Hostname = ""
	}
	if ns.GetPid() != runtimeapi.NamespaceMode_NODE {
		add(specs.PIDNamespace, "")
	}
	if ns.GetIpc() != runtimeapi.NamespaceMode_NODE {
		add(specs.IPCNamespace, in.Pins[specs.IPCNamespace])
	}
	if h.CgroupV2 {
		add(specs.CgroupNamespace, "")
	}

	// No cgroup mount, /dev/pts and mqueue: pause opens nothing, and each costs a mount at every start.
	for _, m := range systemMounts(false, false) {
		switch m.Destination {
		case "/proc", "/dev":
			s.Mounts = append(s.Mounts, m)
		case "/sys":
			if hostNet {
				// sysfs shows the network namespace it is mounted from, which must not be another's: bind the host's.
				m = specs.Mount{Destination: "/sys", Type: "bind", Source: "/sys", Options: []string{"rbind", "nosuid", "noexec", "nodev", "ro"}}
			}
			s.Mounts = append(s.Mounts, m)
		}
	}
	var err error
	if s.Linux.Sysctl, err = Sysctls(c); err != nil {
		return nil, err
	}
	if in.Pins != nil {
		s.Linux.Sysctl, s.Hostname = nil, ""
	}
	if in.Own && h.SeccompDefault != nil && sec.GetSeccomp().GetProfileType() == runtimeapi.SecurityProfile_RuntimeDefault && sec.GetSeccomp() != nil && !sec.GetPrivileged() {
		s.Linux.Seccomp = pauseSeccomp()
	} else if s.Linux.Seccomp, err = h.seccomp(s, sec.GetSeccomp(), sec.GetSeccompProfilePath(), sec.GetPrivileged()); err != nil {
		return nil, err
	}
	s.Process.SelinuxLabel, s.Linux.MountLabel = h.selinux(sec.GetSelinuxOptions(), sec.GetPrivileged())
	return s, nil
}

func (h *Host) annotations(id string, c *runtimeapi.PodSandboxConfig) map[string]string {
	out := map[string]string{
		AnnotationSandboxID:   id,
		AnnotationSandboxName: c.GetMetadata().GetName(),
		AnnotationNamespace:   c.GetMetadata().GetNamespace(),
		AnnotationUID:         c.GetMetadata().GetUid(),
	}
	if h.SystemdCgroup {
		out[AnnotationSubgroup] = ""
	}
	return out
}

var (
	sandboxMasked   = []string{"/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware"}
	sandboxReadonly = []string{"/proc/asound", "/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

// Sysctls are the sandbox's kernel parameters: its own over ours. Each must belong to a namespace that the sandbox has
// for itself, or it would change the host.
func Sysctls(c *runtimeapi.PodSandboxConfig) (map[string]string, error) {
	ns := c.GetLinux().GetSecurityContext().GetNamespaceOptions()
	ownNet, ownIPC := ns.GetNetwork() != runtimeapi.NamespaceMode_NODE, ns.GetIpc() != runtimeapi.NamespaceMode_NODE
	out := map[string]string{}
	if ownNet {
		for k, v := range unprivilegedDefaults {
			out[k] = v
		}
	}
	for k, v := range c.GetLinux().GetSysctls() {
		dotted := strings.ReplaceAll(k, "/", ".")
		if dotted == "" || strings.Contains(dotted, "..") || strings.HasPrefix(dotted, ".") || strings.HasSuffix(dotted, ".") {
			return nil, fmt.Errorf("sysctl %q is not the name of a kernel parameter", k)
		}
		own := false
		switch {
		case strings.HasPrefix(dotted, "net."):
			own = ownNet
		case strings.HasPrefix(dotted, "fs.mqueue."), strings.HasPrefix(dotted, "kernel.shm"), strings.HasPrefix(dotted, "kernel.msg"), dotted == "kernel.sem":
			own = ownIPC
		case dotted == "kernel.domainname":
			own = ownNet // the UTS namespace goes with the network's
		default:
			return nil, fmt.Errorf("sysctl %q belongs to no namespace: only the node's administrator can set it", k)
		}
		if !own {
			return nil, fmt.Errorf("sysctl %q: the pod shares the host's namespace that it belongs to", k)
		}
		out[k] = v
	}
	return out, nil
}
