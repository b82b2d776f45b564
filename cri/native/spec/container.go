package spec

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// User is who the container runs as, looked up in its image already.
type User struct {
	UID, GID   uint32
	Additional []uint32
}

// Image is what of the image's configuration counts.
type Image struct {
	Ref        string
	Entrypoint []string
	Cmd        []string
	Env        []string
	WorkingDir string
}

// ContainerInput is what a container depends on.
type ContainerInput struct {
	Host          *Host
	ID            string
	Config        *runtimeapi.ContainerConfig
	SandboxID     string
	SandboxConfig *runtimeapi.PodSandboxConfig
	// Namespaces are the paths of the sandbox's, as far as it has them; see NamespacesOf.
	Namespaces map[specs.LinuxNamespaceType]string
	TargetPID  uint32 // of the container whose PID namespace is joined (mode TARGET)
	Hostname   string
	Image      Image
	User       User
	// Mounts are the configuration's with settled host paths; Extra are the runtime's own (/etc/hosts, resolv.conf,
	// hostname, /dev/shm), each dropped when the configuration mounts the same path.
	Mounts []Mount
	Extra  []Mount
}

// Container makes a container's spec.
func Container(in ContainerInput) (*specs.Spec, error) {
	c, h := in.Config, in.Host
	sec := c.GetLinux().GetSecurityContext()
	privileged := sec.GetPrivileged()
	args, err := command(c, in.Image)
	if err != nil {
		return nil, err
	}
	cwd := c.WorkingDir
	if cwd == "" {
		cwd = in.Image.WorkingDir
	}
	if cwd == "" {
		cwd = "/"
	}
	s := &specs.Spec{
		Version: Version,
		Root:    &specs.Root{Path: "rootfs", Readonly: sec.GetReadonlyRootfs()},
		Process: &specs.Process{
			Terminal: c.Tty, Cwd: cwd, Args: args, Env: env(c, in.Image, in.Hostname),
			NoNewPrivileges: sec.GetNoNewPrivs(),
			User:            specs.User{UID: in.User.UID, GID: in.User.GID, AdditionalGids: in.User.Additional},
		},
		Annotations: h.annotations(in.SandboxID, in.SandboxConfig),
		Linux: &specs.Linux{
			CgroupsPath: h.CgroupsPath(in.SandboxConfig.GetLinux().GetCgroupParent(), in.ID),
			Resources:   h.Resources(c.GetLinux().GetResources()),
		},
	}
	s.Annotations[AnnotationType] = TypeContainer
	s.Annotations[AnnotationContainer] = c.GetMetadata().GetName()
	s.Annotations[AnnotationImage] = in.Image.Ref
	s.Annotations[AnnotationGroup] = in.SandboxID
	score := h.OOMScoreAdj(c.GetLinux().GetResources().GetOomScoreAdj())
	s.Process.OOMScoreAdj = &score
	if !privileged {
		s.Linux.MaskedPaths, s.Linux.ReadonlyPaths = sec.GetMaskedPaths(), sec.GetReadonlyPaths()
	}
	if err := namespaces(s, in); err != nil {
		return nil, err
	}
	if s.Process.Capabilities, err = h.capabilities(sec.GetCapabilities(), privileged); err != nil {
		return nil, err
	}
	if err := mounts(s, in, privileged); err != nil {
		return nil, err
	}
	if err := devices(s, in, privileged); err != nil {
		return nil, err
	}
	if s.Linux.Seccomp, err = h.seccomp(s, sec.GetSeccomp(), sec.GetSeccompProfilePath(), privileged); err != nil {
		return nil, err
	}
	if s.Process.ApparmorProfile, err = h.apparmor(sec.GetApparmor(), sec.GetApparmorProfile(), privileged); err != nil {
		return nil, err
	}
	s.Process.SelinuxLabel, s.Linux.MountLabel = h.selinux(sec.GetSelinuxOptions(), privileged)
	return s, nil
}

// command is Kubernetes' rule: command replaces the entrypoint and drops the image's arguments; args replace those.
func command(c *runtimeapi.ContainerConfig, img Image) ([]string, error) {
	entry, args := c.Command, c.Args
	if len(entry) == 0 {
		entry = img.Entrypoint
		if len(args) == 0 {
			args = img.Cmd
		}
	}
	out := slices.Concat(entry, args)
	if len(out) == 0 {
		return nil, errors.New("no command specified: neither the container nor its image names one")
	}
	return out, nil
}

// env is the image's environment under the container's. Later settings of a name win, at the place of the first.
func env(c *runtimeapi.ContainerConfig, img Image, hostname string) []string {
	var out []string
	at := map[string]int{}
	put := func(kv string) {
		k, _, _ := strings.Cut(kv, "=")
		if i, ok := at[k]; ok {
			out[i] = kv
			return
		}
		at[k] = len(out)
		out = append(out, kv)
	}
	put(DefaultPath)
	if c.Tty {
		put("TERM=xterm")
	}
	put("HOSTNAME=" + hostname)
	for _, kv := range img.Env {
		put(kv)
	}
	for _, e := range c.Envs {
		put(e.Key + "=" + string(e.Value))
	}
	return out
}

func namespaces(s *specs.Spec, in ContainerInput) error {
	opts := in.Config.GetLinux().GetSecurityContext().GetNamespaceOptions()
	add := func(t specs.LinuxNamespaceType, path string) {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: t, Path: path})
	}
	var err error
	join := func(t specs.LinuxNamespaceType) {
		if in.Namespaces[t] == "" {
			err = errors.Join(err, fmt.Errorf("namespace options: the sandbox has no %s namespace of its own to share: ask for the same mode as the sandbox", t))
			return
		}
		add(t, in.Namespaces[t])
	}
	add(specs.MountNamespace, "")
	if opts.GetNetwork() != runtimeapi.NamespaceMode_NODE {
		join(specs.NetworkNamespace)
		join(specs.UTSNamespace)
	}
	if opts.GetIpc() != runtimeapi.NamespaceMode_NODE {
		join(specs.IPCNamespace)
	}
	switch opts.GetPid() {
	case runtimeapi.NamespaceMode_POD:
		join(specs.PIDNamespace)
	case runtimeapi.NamespaceMode_CONTAINER:
		add(specs.PIDNamespace, "")
	case runtimeapi.NamespaceMode_TARGET:
		if in.TargetPID == 0 {
			return fmt.Errorf("target container %q of the PID namespace is not running", opts.GetTargetId())
		}
		add(specs.PIDNamespace, fmt.Sprintf("/proc/%d/ns/pid", in.TargetPID))
	}
	if in.Host.CgroupV2 && !in.Config.GetLinux().GetSecurityContext().GetPrivileged() {
		add(specs.CgroupNamespace, "")
	}
	if u := opts.GetUsernsOptions(); u != nil && u.Mode == runtimeapi.NamespaceMode_POD {
		return errors.New("namespaceOptions.usernsOptions: this runtime has no user namespaces yet (hostUsers: false)")
	}
	return err
}

// NamespacesOf are the paths of the namespaces of a process.
func NamespacesOf(pid uint32) map[specs.LinuxNamespaceType]string {
	out := map[specs.LinuxNamespaceType]string{}
	for t, kind := range map[specs.LinuxNamespaceType]string{
		specs.NetworkNamespace: "net", specs.UTSNamespace: "uts", specs.IPCNamespace: "ipc", specs.PIDNamespace: "pid",
	} {
		out[t] = fmt.Sprintf("/proc/%d/ns/%s", pid, kind)
	}
	return out
}

func mounts(s *specs.Spec, in ContainerInput, privileged bool) error {
	own, propagation, err := bindMounts(in.Mounts)
	if err != nil {
		return err
	}
	taken := map[string]bool{}
	for _, m := range own {
		taken[m.Destination] = true
	}
	var extra []Mount
	for _, m := range in.Extra {
		if !taken[m.ContainerPath] {
			extra = append(extra, m)
		}
	}
	rendered, _, err := bindMounts(extra)
	if err != nil {
		return err
	}
	s.Mounts = append(without(systemMounts(privileged, privileged), own), rendered...)
	s.Mounts = append(s.Mounts, own...)
	s.Linux.RootfsPropagation = propagation
	return nil
}

func devices(s *specs.Spec, in ContainerInput, privileged bool) error {
	h := in.Host
	if privileged {
		s.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
		list, err := h.Devices()
		if err != nil {
			return fmt.Errorf("list the host's devices: %w", err)
		}
		s.Linux.Devices = list
		return nil
	}
	s.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}
	for _, d := range in.Config.Devices {
		perms := d.Permissions
		if perms == "" {
			perms = "rwm"
		}
		if strings.Trim(perms, "rwm") != "" {
			return fmt.Errorf("device %q: permissions %q are not of r, w, m", d.HostPath, d.Permissions)
		}
		list, err := h.Device(d.HostPath, d.ContainerPath, perms)
		if err != nil {
			return fmt.Errorf("device %q: %w", d.HostPath, err)
		}
		for _, dev := range list {
			s.Linux.Devices = append(s.Linux.Devices, dev)
			major, minor := dev.Major, dev.Minor
			s.Linux.Resources.Devices = append(s.Linux.Resources.Devices, specs.LinuxDeviceCgroup{
				Allow: true, Type: dev.Type, Major: &major, Minor: &minor, Access: perms,
			})
		}
	}
	return nil
}
