package spec

import (
	"fmt"
	"path"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Mount is one of the container's mounts with its host side settled: an existing absolute path.
type Mount struct {
	HostPath      string
	ContainerPath string
	ReadOnly      bool
	Recursive     bool // read-only recursively
	Propagation   runtimeapi.MountPropagation
	// SharedHost and SlaveHost say how the mount that HostPath lies on propagates.
	SharedHost, SlaveHost bool
}

func systemMounts(cgroupRW, sysRW bool) []specs.Mount {
	ro := func(rw bool) string {
		if rw {
			return "rw"
		}
		return "ro"
	}
	return []specs.Mount{
		{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"}},
		{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}},
		{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", ro(sysRW)}},
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", ro(cgroupRW)}},
	}
}

// bindMounts renders the mounts in an order in which none hides another: by depth. rootPropagation is what the
// container's root needs for them.
func bindMounts(mounts []Mount) (out []specs.Mount, rootPropagation string, err error) {
	sorted := slices.Clone(mounts)
	slices.SortStableFunc(sorted, func(a, b Mount) int {
		return strings.Count(path.Clean(a.ContainerPath), "/") - strings.Count(path.Clean(b.ContainerPath), "/")
	})
	for _, m := range sorted {
		dst := path.Clean(m.ContainerPath)
		if !path.IsAbs(dst) {
			dst = path.Clean("/" + dst) // relative to the root, as Docker and containerd take it
		}
		if dst == "/" {
			return nil, "", fmt.Errorf("mount of %q: the container path must not be the root", m.HostPath)
		}
		opts := []string{"rbind"}
		switch m.Propagation {
		case runtimeapi.MountPropagation_PROPAGATION_PRIVATE:
			opts = append(opts, "rprivate")
		case runtimeapi.MountPropagation_PROPAGATION_BIDIRECTIONAL:
			if !m.SharedHost {
				return nil, "", fmt.Errorf("mount %q: propagation Bidirectional needs a shared mount on the host, and %q is not on one", dst, m.HostPath)
			}
			opts, rootPropagation = append(opts, "rshared"), "rshared"
		case runtimeapi.MountPropagation_PROPAGATION_HOST_TO_CONTAINER:
			if !m.SharedHost && !m.SlaveHost {
				return nil, "", fmt.Errorf("mount %q: propagation HostToContainer needs a shared or slave mount on the host, and %q is not on one", dst, m.HostPath)
			}
			opts = append(opts, "rslave")
			if rootPropagation != "rshared" {
				rootPropagation = "rslave"
			}
		default:
			return nil, "", fmt.Errorf("mount %q: unknown propagation %d", dst, m.Propagation)
		}
		switch {
		case m.ReadOnly && m.Recursive:
			if m.Propagation != runtimeapi.MountPropagation_PROPAGATION_PRIVATE {
				return nil, "", fmt.Errorf("mount %q: recursive read-only needs propagation None", dst)
			}
			opts = append(opts, "rro")
		case m.Recursive:
			return nil, "", fmt.Errorf("mount %q: recursive read-only without read-only", dst)
		case m.ReadOnly:
			opts = append(opts, "ro")
		default:
			opts = append(opts, "rw")
		}
		out = append(out, specs.Mount{Destination: dst, Type: "bind", Source: m.HostPath, Options: opts})
	}
	return out, rootPropagation, nil
}

// without drops the system mounts that the container's own replace, and those below them: a bind over /dev brings its
// own /dev/pts.
func without(system []specs.Mount, own []specs.Mount) []specs.Mount {
	return slices.DeleteFunc(system, func(s specs.Mount) bool {
		for _, o := range own {
			if s.Destination == o.Destination || strings.HasPrefix(s.Destination, o.Destination+"/") {
				return true
			}
		}
		return false
	})
}
