package resources

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// Machine is what the hardware and the kernel are.
type Machine struct {
	CPUs                             int
	MemoryBytes                      int64
	SwapBytes                        int64
	HugePages                        map[int64]int64 // page size in bytes → number
	MachineID, SystemUUID, BootID    string
	KernelVersion, OSImage, OS, Arch string
}

// ReadMachine looks at the machine.
func ReadMachine() (Machine, error) {
	m := Machine{CPUs: runtime.NumCPU(), OS: runtime.GOOS, Arch: runtime.GOARCH, HugePages: map[int64]int64{}}
	info, err := meminfo()
	if err != nil {
		return m, err
	}
	m.MemoryBytes, m.SwapBytes = info["MemTotal"], info["SwapTotal"]
	var u unix.Utsname
	if unix.Uname(&u) == nil {
		m.KernelVersion = unix.ByteSliceToString(u.Release[:])
	}
	m.MachineID = firstLine("/etc/machine-id", "/var/lib/dbus/machine-id")
	m.SystemUUID = firstLine("/sys/class/dmi/id/product_uuid", "/etc/machine-id", "/proc/sys/kernel/random/boot_id")
	m.BootID = firstLine("/proc/sys/kernel/random/boot_id")
	m.OSImage = osImage()
	dirs, _ := filepath.Glob("/sys/kernel/mm/hugepages/hugepages-*kB")
	for _, d := range dirs {
		kb, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimPrefix(filepath.Base(d), "hugepages-"), "kB"), 10, 64)
		n, err2 := strconv.ParseInt(firstLine(filepath.Join(d, "nr_hugepages")), 10, 64)
		if err == nil && err2 == nil {
			m.HugePages[kb<<10] = n
		}
	}
	return m, nil
}

// MemoryAvailable is what the kernel thinks can be given to new processes without swapping.
func MemoryAvailable() (int64, error) {
	info, err := meminfo()
	return info["MemAvailable"], err
}

func meminfo() (map[string]int64, error) {
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return nil, fmt.Errorf("read memory size: %w", err)
	}
	defer f.Close()
	out := map[string]int64{}
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		fl := strings.Fields(sc.Text())
		if len(fl) < 2 {
			continue
		}
		n, err := strconv.ParseInt(fl[1], 10, 64)
		if err != nil {
			continue
		}
		if len(fl) == 3 {
			n <<= 10
		}
		out[strings.TrimSuffix(fl[0], ":")] = n
	}
	return out, sc.Err()
}

func firstLine(paths ...string) string {
	for _, p := range paths {
		b, err := os.ReadFile(p)
		if err != nil {
			continue
		}
		if s := strings.TrimSpace(string(b)); s != "" {
			line, _, _ := strings.Cut(s, "\n")
			return line
		}
	}
	return ""
}

func osImage() string {
	for _, p := range []string{"/etc/os-release", "/usr/lib/os-release"} {
		b, err := os.ReadFile(p)
		if err != nil {
			continue
		}
		for _, line := range strings.Split(string(b), "\n") {
			if v, ok := strings.CutPrefix(line, "PRETTY_NAME="); ok {
				return strings.Trim(v, `"'`)
			}
		}
	}
	return "Linux"
}

// FS is how full a file system is.
type FS struct {
	CapacityBytes, AvailableBytes int64
	Inodes, InodesFree            int64
}

// ReadFS asks for the file system that holds path.
func ReadFS(path string) (FS, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return FS{}, fmt.Errorf("read size of file system at %s: %w", path, err)
	}
	return FS{
		CapacityBytes: int64(st.Blocks) * st.Bsize, AvailableBytes: int64(st.Bavail) * st.Bsize,
		Inodes: int64(st.Files), InodesFree: int64(st.Ffree),
	}, nil
}

// Capacity of the machine as a node: cpu, memory, ephemeral-storage, pods, hugepages.
func Capacity(m Machine, root FS, maxPods int) v1.ResourceList {
	l := v1.ResourceList{
		v1.ResourceCPU:              *resource.NewQuantity(int64(m.CPUs), resource.DecimalSI),
		v1.ResourceMemory:           *resource.NewQuantity(m.MemoryBytes, resource.BinarySI),
		v1.ResourceEphemeralStorage: *resource.NewQuantity(root.CapacityBytes, resource.BinarySI),
		v1.ResourcePods:             *resource.NewQuantity(int64(maxPods), resource.DecimalSI),
	}
	for size, n := range m.HugePages {
		l[v1.ResourceName("hugepages-"+resource.NewQuantity(size, resource.BinarySI).String())] = *resource.NewQuantity(size*n, resource.BinarySI)
	}
	return l
}

// Allocatable is capacity less what is reserved and, where given, the eviction thresholds of memory and storage.
func Allocatable(capacity v1.ResourceList, reserved []v1.ResourceList, thresholds v1.ResourceList) v1.ResourceList {
	out := v1.ResourceList{}
	for name, q := range capacity {
		q = q.DeepCopy()
		for _, r := range append(reserved, thresholds) {
			if x, ok := r[name]; ok {
				q.Sub(x)
			}
		}
		if q.Sign() < 0 {
			q = resource.MustParse("0")
		}
		out[name] = q
	}
	// Pre-allocated huge pages are memory that nobody else can have.
	mem := out[v1.ResourceMemory]
	for name, q := range capacity {
		if strings.HasPrefix(string(name), v1.ResourceHugePagesPrefix) {
			mem.Sub(q)
		}
	}
	if mem.Sign() < 0 {
		mem = resource.MustParse("0")
	}
	out[v1.ResourceMemory] = mem
	return out
}

// WithPIDs adds to allocatable how many of the machine's processes pods may have together, where some are reserved.
func WithPIDs(allocatable v1.ResourceList, reserved []v1.ResourceList, most int64) v1.ResourceList {
	kept := int64(0)
	for _, r := range reserved {
		if q, ok := r["pid"]; ok {
			kept += q.Value()
		}
	}
	if kept > 0 && most > kept {
		allocatable["pid"] = *resource.NewQuantity(most-kept, resource.DecimalSI)
	}
	return allocatable
}
