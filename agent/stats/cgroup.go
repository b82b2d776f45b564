package stats

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/google/cadvisor/container"
	"github.com/google/cadvisor/container/libcontainer"
	info "github.com/google/cadvisor/info/v1"
)

// cgroupReader reads cgroups, v1 or v2, by their path from the hierarchy's root.
type cgroupReader struct {
	mounts map[string]string // controller → mount point; "" → the unified one
	psi    bool              // the kernel counts pressure a cgroup: v2, and neither psi=0 nor cgroup_disable=pressure
}

// noUnlimited: above it, a memory limit of cgroup v1 means none.
const noUnlimited = uint64(1) << 60

var (
	lightMetrics = container.MetricSet{container.CpuUsageMetrics: {}, container.MemoryUsageMetrics: {}, container.OOMMetrics: {}, container.PressureMetrics: {}}
	fullMetrics  = container.MetricSet{container.CpuUsageMetrics: {}, container.MemoryUsageMetrics: {}, container.OOMMetrics: {},
		container.DiskIOMetrics: {}, container.NetworkUsageMetrics: {}, container.ProcessMetrics: {}, container.PressureMetrics: {}}
)

func newCgroupReader() (cgroupReader, error) {
	m, err := libcontainer.GetCgroupSubsystems(container.AllMetrics)
	if err != nil {
		return cgroupReader{}, fmt.Errorf("find cgroup mounts: %w", err)
	}
	unified, ok := m[""]
	return cgroupReader{mounts: m, psi: ok && exists(filepath.Join(unified, "memory.pressure"))}, nil
}

func (r cgroupReader) unified() bool { _, ok := r.mounts[""]; return ok }

// dir is the folder of the cgroup in the named controller's hierarchy, empty when that is not mounted.
func (r cgroupReader) dir(controller, path string) string {
	if r.unified() {
		controller = ""
	}
	m, ok := r.mounts[controller]
	if !ok {
		return ""
	}
	return filepath.Join(m, path)
}

// read takes one reading. pid, if not 0, is the process whose network is counted. A cgroup that is gone is
// fs.ErrNotExist.
func (r cgroupReader) read(path string, pid int, which container.MetricSet) (*info.ContainerStats, error) {
	paths := make(map[string]string, len(r.mounts))
	found := false
	for c, m := range r.mounts {
		switch c {
		case "", "cpu", "cpuacct", "memory":
		case "blkio", "pids":
			if path == "/" || !which.Has(container.DiskIOMetrics) {
				continue // the root of cgroup v1 has no pids.current
			}
		default:
			continue // nothing of it is shown
		}
		d := filepath.Join(m, path)
		if !exists(d) {
			continue
		}
		found = true
		paths[c] = d
	}
	if !found {
		return nil, fmt.Errorf("read cgroup %q: %w", path, fs.ErrNotExist)
	}
	mgr, err := libcontainer.NewCgroupManager(filepath.Base(path), paths)
	if err != nil {
		return nil, fmt.Errorf("read cgroup %q: %w", path, err)
	}
	st, err := libcontainer.NewHandler(mgr, "/", pid, which).GetStats()
	if err != nil {
		return nil, fmt.Errorf("read cgroup %q: %w", path, err)
	}
	return st, nil
}

// spec reads the limits that the kernel holds.
func (r cgroupReader) spec(path string) info.ContainerSpec {
	s := info.ContainerSpec{HasCpu: true, HasMemory: true, HasProcesses: true, HasNetwork: true, HasDiskIo: true}
	s.Memory.Limit = r.memoryLimit(path)
	s.Memory.Reservation = 0
	if r.unified() {
		f := strings.Fields(readString(filepath.Join(r.dir("", path), "cpu.max")))
		if len(f) == 2 {
			s.Cpu.Period, _ = strconv.ParseUint(f[1], 10, 64)
			s.Cpu.Quota, _ = strconv.ParseUint(f[0], 10, 64) // "max" reads as 0: none
		}
		if w := readUint(filepath.Join(r.dir("", path), "cpu.weight")); w > 0 {
			s.Cpu.Limit = 2 + (w-1)*262142/9999
		}
	} else {
		s.Cpu.Limit = readUint(filepath.Join(r.dir("cpu", path), "cpu.shares"))
		s.Cpu.Period = readUint(filepath.Join(r.dir("cpu", path), "cpu.cfs_period_us"))
		s.Cpu.Quota = readUint(filepath.Join(r.dir("cpu", path), "cpu.cfs_quota_us")) // "-1" reads as 0: none
	}
	if fi, err := os.Stat(r.dir("memory", path)); err == nil {
		s.CreationTime = fi.ModTime()
	}
	return s
}

// memoryLimit in bytes; 0 when there is none.
func (r cgroupReader) memoryLimit(path string) uint64 {
	file := "memory.limit_in_bytes"
	if r.unified() {
		file = "memory.max"
	}
	v := readUint(filepath.Join(r.dir("memory", path), file))
	if v >= noUnlimited {
		return 0
	}
	return v
}

// firstPID is some process of the cgroup, 0 when it has none.
func (r cgroupReader) firstPID(path string) int {
	for _, c := range []string{"pids", "memory", "cpu"} {
		d := r.dir(c, path)
		if d == "" {
			continue
		}
		f, err := os.Open(filepath.Join(d, "cgroup.procs"))
		if err != nil {
			continue
		}
		sc := bufio.NewScanner(f)
		pid := 0
		if sc.Scan() {
			pid, _ = strconv.Atoi(sc.Text())
		}
		f.Close()
		return pid
	}
	return 0
}

// podCgroup is one pod's cgroup, with those of its containers by container ID.
type podCgroup struct {
	path       string
	containers map[string]string
}

var (
	// cgroupfs: pod<uid>; systemd: kubepods-burstable-pod<uid, dashes as underscores>.slice
	podDirPattern = regexp.MustCompile(`^(?:pod|kubepods(?:-burstable|-besteffort)?-pod)([0-9a-fA-F_-]{8,}|[0-9a-f]{32})(?:\.slice)?$`)
	// cgroupfs: <id>; systemd: cri-containerd-<id>.scope, crio-<id>.scope
	containerDirPattern = regexp.MustCompile(`^(?:[a-z-]+-)?([0-9a-f]{64})(?:\.scope)?$`)
)

// podCgroups finds the pods' cgroups below root, by pod UID.
func (r cgroupReader) podCgroups(root string) (map[string]podCgroup, error) {
	out := map[string]podCgroup{}
	for _, top := range []string{"kubepods", "kubepods.slice"} {
		base := r.dir("memory", filepath.Join(root, top))
		if base == "" {
			base = r.dir("cpu", filepath.Join(root, top))
		}
		if err := r.findPods(base, filepath.Join(root, top), 0, out); err != nil {
			return nil, err
		}
	}
	return out, nil
}

func (r cgroupReader) findPods(dir, path string, depth int, out map[string]podCgroup) error {
	ents, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list cgroups: %w", err)
	}
	for _, e := range ents {
		if !e.IsDir() {
			continue
		}
		if m := podDirPattern.FindStringSubmatch(e.Name()); m != nil {
			pc := podCgroup{path: filepath.Join(path, e.Name()), containers: map[string]string{}}
			kids, err := os.ReadDir(filepath.Join(dir, e.Name()))
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("list cgroups: %w", err)
			}
			for _, k := range kids {
				if cm := containerDirPattern.FindStringSubmatch(k.Name()); cm != nil && k.IsDir() {
					pc.containers[cm[1]] = filepath.Join(pc.path, k.Name())
				}
			}
			out[strings.ReplaceAll(m[1], "_", "-")] = pc
		} else if depth == 0 && (e.Name() == "burstable" || e.Name() == "besteffort" || strings.HasPrefix(e.Name(), "kubepods-")) {
			if err := r.findPods(filepath.Join(dir, e.Name()), filepath.Join(path, e.Name()), depth+1, out); err != nil {
				return err
			}
		}
	}
	return nil
}

func readString(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(data))
}

// readUint reads a number; what is none ("max", "-1", a missing file) reads as 0.
func readUint(path string) uint64 {
	v, err := strconv.ParseUint(readString(path), 10, 64)
	if err != nil {
		return 0
	}
	return v
}
