package spec

import (
	"cmp"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Version is the ociVersion written: the newest that crun 1.8 and runc 1.1 both accept.
const Version = "1.1.0"

// Host is what specs depend on beside their configuration.
type Host struct {
	// CgroupV2 is true where all controllers are on v2.
	CgroupV2 bool
	// CgroupRoot is the parent of pods that name none, with the cgroupfs driver; "" means "/".
	CgroupRoot string
	// SystemdCgroup says that cgroup paths are "slice:prefix:name".
	SystemdCgroup bool
	// Capabilities that the runtime may grant ("CAP_CHOWN"); a container never gets others, because asking fails.
	Capabilities []string
	// MinOOMScoreAdj is the lowest oom_score_adj that the runtime may set; -1000 with CAP_SYS_RESOURCE.
	MinOOMScoreAdj int
	// AppArmor says that profiles can be applied.
	AppArmor bool
	// SELinux says that labels can be applied.
	SELinux bool
	// Hugetlb says that page limits can be applied.
	Hugetlb bool
	// Swap says that the kernel accounts swap.
	Swap bool
	// SeccompDefault returns RuntimeDefault's filter for the capabilities already in the spec; nil where the kernel has
	// no seccomp.
	SeccompDefault func(*specs.Spec) *specs.LinuxSeccomp
	// SeccompLocalhost loads a profile by its absolute path.
	SeccompLocalhost func(path string) (*specs.LinuxSeccomp, error)
	// AppArmorDefault is the name of RuntimeDefault's loaded profile.
	AppArmorDefault string
	// Devices lists the host's devices, for privileged containers.
	Devices func() ([]specs.LinuxDevice, error)
	// Device describes one host path, which may be a folder, for the container's path.
	Device func(hostPath, containerPath, permissions string) ([]specs.LinuxDevice, error)
}

// Annotations that shims and runtime hooks (Kata, gVisor, NRI, CDI) look for, under the names that containerd's CRI
// gave them. AnnotationGroup makes the runc shim of the sandbox serve the container too.
const (
	AnnotationType        = "io.kubernetes.cri.container-type"
	AnnotationSandboxID   = "io.kubernetes.cri.sandbox-id"
	AnnotationSandboxName = "io.kubernetes.cri.sandbox-name"
	AnnotationNamespace   = "io.kubernetes.cri.sandbox-namespace"
	AnnotationUID         = "io.kubernetes.cri.sandbox-uid"
	AnnotationContainer   = "io.kubernetes.cri.container-name"
	AnnotationImage       = "io.kubernetes.cri.image-name"
	AnnotationGroup       = "io.containerd.runc.v2.group"
	// AnnotationSubgroup, empty, keeps crun from nesting a cgroup in the scope that systemd makes. Limits and usage are
	// looked for in the scope, where runc has them.
	AnnotationSubgroup = "run.oci.systemd.subgroup"
	TypeSandbox        = "sandbox"
	TypeContainer      = "container"
)

// defaultCapabilities are what a container has unless told otherwise: Docker's and containerd's set.
var defaultCapabilities = []string{
	"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID", "CAP_SETUID",
	"CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
}

// DefaultPath is PATH for images that set none.
const DefaultPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// CgroupsPath is where a container's cgroup goes: "<parent>/<id>", or "<slice>:cri-containerd:<id>" with the systemd
// driver, whose scope names metric tools parse.
func (h *Host) CgroupsPath(parent, id string) string {
	if !h.SystemdCgroup {
		parent = cmp.Or(parent, h.CgroupRoot, "/")
		if parent[len(parent)-1] != '/' {
			parent += "/"
		}
		return parent + id
	}
	slice := parent
	for i := len(parent) - 1; i >= 0; i-- {
		if parent[i] == '/' {
			slice = parent[i+1:]
			break
		}
	}
	if slice == "" {
		slice = "system.slice"
	}
	return slice + ":cri-containerd:" + id
}
