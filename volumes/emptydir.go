package volumes

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// emptyDirMode: every user of the pod may write; fsGroup then narrows nothing but adds its group.
const emptyDirMode os.FileMode = 0o777

func (m *Manager) setUpEmptyDir(pod *corev1.Pod, v *corev1.Volume, dir string) (Mounted, error) {
	src := v.EmptyDir
	if src == nil {
		src = &corev1.EmptyDirVolumeSource{}
	}
	mt := Mounted{HostPath: dir, Relabel: true}
	created, err := makeDir(dir, emptyDirMode)
	if err != nil {
		return Mounted{}, err
	}
	switch {
	case src.Medium == corev1.StorageMediumDefault:
	case src.Medium == corev1.StorageMediumMemory:
		mounted, err := m.m.IsMountPoint(dir)
		if err != nil {
			return Mounted{}, err
		}
		if mounted {
			break
		}
		var alloc corev1.ResourceList
		if m.cfg.NodeAllocatable != nil {
			alloc = m.cfg.NodeAllocatable()
		}
		if err := mountTmpfs(m.m, dir, memorySize(pod, src, alloc), false); err != nil {
			return Mounted{}, err
		}
	case src.Medium == corev1.StorageMediumHugePages || strings.HasPrefix(string(src.Medium), string(corev1.StorageMediumHugePagesPrefix)):
		mounted, err := m.m.IsMountPoint(dir)
		if err != nil {
			return Mounted{}, err
		}
		if mounted {
			break
		}
		size, err := pageSize(pod, src.Medium)
		if err != nil {
			return Mounted{}, err
		}
		if err := m.m.Mount("nodev", dir, "hugetlbfs", 0, "pagesize="+strconv.FormatInt(size, 10)); err != nil {
			return Mounted{}, err
		}
		if err := os.Chmod(dir, emptyDirMode); err != nil {
			return Mounted{}, fmt.Errorf("set mode of %q: %w", dir, err)
		}
	default:
		return Mounted{}, fmt.Errorf(`emptyDir medium %q is not supported; use "", "Memory" or "HugePages"`, src.Medium)
	}
	// Not only when created: an agent may have died between making the folder and giving it away.
	if g := fsGroup(pod); g != nil && (created || !belongsTo(dir, *g)) {
		if err := giveToGroup(dir, *g); err != nil {
			return Mounted{}, err
		}
	}
	return mt, nil
}

// memorySize is the size in bytes of a Memory emptyDir: the least of its sizeLimit, the pod's memory limit where every
// container has one, and the node's allocatable memory; 0 (half of the machine's memory, the kernel's default) when none
// of them is known. Pure.
func memorySize(pod *corev1.Pod, src *corev1.EmptyDirVolumeSource, allocatable corev1.ResourceList) int64 {
	size := int64(0)
	least := func(q *resource.Quantity) {
		if q == nil || q.IsZero() {
			return
		}
		if v := q.Value(); size == 0 || v < size {
			size = v
		}
	}
	if q, ok := allocatable[corev1.ResourceMemory]; ok {
		least(&q)
	}
	total, all := resource.Quantity{}, len(pod.Spec.Containers) > 0
	for i := range pod.Spec.Containers {
		q, ok := pod.Spec.Containers[i].Resources.Limits[corev1.ResourceMemory]
		if !ok || q.IsZero() {
			all = false
			break
		}
		total.Add(q)
	}
	for i := range pod.Spec.InitContainers {
		q := pod.Spec.InitContainers[i].Resources.Limits[corev1.ResourceMemory]
		if q.Cmp(total) > 0 {
			total = q
		}
	}
	if all {
		least(&total)
	}
	least(src.SizeLimit)
	return size
}

// pageSize finds the page size in bytes of a HugePages medium: named by it, or the only one that the pod asks for.
func pageSize(pod *corev1.Pod, medium corev1.StorageMedium) (int64, error) {
	if s, ok := strings.CutPrefix(string(medium), string(corev1.StorageMediumHugePagesPrefix)); ok {
		q, err := resource.ParseQuantity(s)
		if err != nil {
			return 0, fmt.Errorf("emptyDir medium %q: %w", medium, err)
		}
		return q.Value(), nil
	}
	found := int64(0)
	for i := range pod.Spec.Containers {
		for name := range pod.Spec.Containers[i].Resources.Requests {
			s, ok := strings.CutPrefix(string(name), corev1.ResourceHugePagesPrefix)
			if !ok {
				continue
			}
			q, err := resource.ParseQuantity(s)
			if err != nil {
				return 0, fmt.Errorf("resource %q: %w", name, err)
			}
			if found != 0 && found != q.Value() {
				return 0, fmt.Errorf("emptyDir medium %q: the pod asks for several huge page sizes; name one as HugePages-<size>", medium)
			}
			found = q.Value()
		}
	}
	if found == 0 {
		return 0, fmt.Errorf("emptyDir medium %q: no container of the pod requests huge pages", medium)
	}
	return found, nil
}

// mountTmpfs mounts a tmpfs of the size in bytes (0: the kernel's default) with mode 1777. Secret content asks for
// noswap, which kernels before 6.3 do not know.
func mountTmpfs(m mounter, dir string, size int64, secret bool) error {
	var opts []string
	if size > 0 {
		opts = append(opts, "size="+strconv.FormatInt(size, 10))
	}
	opts = append(opts, "mode=1777")
	if secret {
		if err := m.Mount("tmpfs", dir, "tmpfs", 0, strings.Join(append(opts, "noswap"), ",")); err == nil {
			return nil
		}
	}
	return m.Mount("tmpfs", dir, "tmpfs", 0, strings.Join(opts, ","))
}
