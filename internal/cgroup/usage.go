package cgroup

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Usage is what a cgroup uses now. A nil pointer means that the host does not say.
type Usage struct {
	CPUNanoseconds   *uint64
	MemoryUsage      *uint64 // bytes, page cache included
	MemoryWorkingSet *uint64 // MemoryUsage without inactive file pages, as the kubelet counts
	MemoryRSS        *uint64
	MemoryLimit      *uint64 // nil when unlimited
	SwapUsage        *uint64
	SwapLimit        *uint64
	PageFaults       *uint64
	MajorPageFaults  *uint64
	Processes        *uint64
	OOMKills         *uint64
	CPUPressure      *Pressure // v2 with PSI only, as the two below
	MemoryPressure   *Pressure
	IOPressure       *Pressure
}

// Pressure is one PSI file.
type Pressure struct{ Some, Full PressureLine }

// PressureLine is the stall time: averages in percent, the total in nanoseconds.
type PressureLine struct {
	Avg10, Avg60, Avg300 float64
	Total                uint64
}

// unlimited is where a v1 limit starts to mean none: the kernel shows the largest page-aligned int64.
const unlimited = 1 << 62

// Read returns the usage of a cgroup path, which is the same in all hierarchies as container runtimes make it. A cgroup
// that is gone gives an empty Usage.
func (h *Host) Read(path string) Usage {
	if h.Unified {
		return readV2(filepath.Join(h.V2, path))
	}
	var u Usage
	if d := h.Dir("cpuacct", path); d != "" {
		u.CPUNanoseconds = number(d, "cpuacct.usage")
	}
	if d := h.Dir("pids", path); d != "" {
		u.Processes = number(d, "pids.current")
	}
	d := h.Dir("memory", path)
	if d == "" {
		return u
	}
	stat := table(d, "memory.stat")
	u.MemoryUsage = number(d, "memory.usage_in_bytes")
	u.MemoryWorkingSet = less(u.MemoryUsage, stat["total_inactive_file"])
	u.MemoryRSS, u.PageFaults, u.MajorPageFaults = stat["total_rss"], stat["total_pgfault"], stat["total_pgmajfault"]
	u.MemoryLimit = limit(number(d, "memory.limit_in_bytes"))
	u.SwapUsage = stat["total_swap"]
	u.OOMKills = h.OOMKills(path)
	return u
}

// OOMKills is how many processes of the cgroup the kernel has killed for want of memory; on v2 with those of the cgroups
// below it, also of such as are gone, unless cgroup2 is mounted with memory_localevents. It is nil for a cgroup that is
// gone, and on kernels that do not count (v1 before 4.13).
func (h *Host) OOMKills(path string) *uint64 {
	if h.Unified {
		return table(filepath.Join(h.V2, path), "memory.events")["oom_kill"]
	}
	if d := h.Dir("memory", path); d != "" {
		return table(d, "memory.oom_control")["oom_kill"]
	}
	return nil
}

func readV2(d string) Usage {
	var u Usage
	if us := table(d, "cpu.stat")["usage_usec"]; us != nil {
		ns := *us * 1000
		u.CPUNanoseconds = &ns
	}
	stat := table(d, "memory.stat")
	u.MemoryUsage = number(d, "memory.current")
	u.MemoryWorkingSet = less(u.MemoryUsage, stat["inactive_file"])
	u.MemoryRSS, u.PageFaults, u.MajorPageFaults = stat["anon"], stat["pgfault"], stat["pgmajfault"]
	u.MemoryLimit = limit(number(d, "memory.max"))
	u.SwapUsage, u.SwapLimit = number(d, "memory.swap.current"), limit(number(d, "memory.swap.max"))
	u.Processes = number(d, "pids.current")
	u.OOMKills = table(d, "memory.events")["oom_kill"]
	u.CPUPressure, u.MemoryPressure, u.IOPressure = pressure(d, "cpu.pressure"), pressure(d, "memory.pressure"), pressure(d, "io.pressure")
	return u
}

func less(a, b *uint64) *uint64 {
	if a == nil || b == nil {
		return a
	}
	v := *a - min(*a, *b)
	return &v
}

func limit(v *uint64) *uint64 {
	if v != nil && *v >= unlimited {
		return nil
	}
	return v
}

func number(dir, file string) *uint64 {
	b, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return nil
	}
	v, err := strconv.ParseUint(string(bytes.TrimSpace(b)), 10, 64)
	if err != nil {
		return nil // "max"
	}
	return &v
}

// table reads a flat keyed file.
func table(dir, file string) map[string]*uint64 {
	b, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return nil
	}
	out := map[string]*uint64{}
	for line := range strings.Lines(string(b)) {
		k, v, ok := strings.Cut(strings.TrimSpace(line), " ")
		if n, err := strconv.ParseUint(v, 10, 64); ok && err == nil {
			out[k] = &n
		}
	}
	return out
}

func pressure(dir, file string) *Pressure {
	b, err := os.ReadFile(filepath.Join(dir, file))
	if err != nil {
		return nil
	}
	var p Pressure
	for line := range strings.Lines(string(b)) {
		f := strings.Fields(line)
		if len(f) == 0 {
			continue
		}
		l := &p.Some
		if f[0] == "full" {
			l = &p.Full
		}
		for _, kv := range f[1:] {
			k, v, _ := strings.Cut(kv, "=")
			switch k {
			case "avg10":
				l.Avg10, _ = strconv.ParseFloat(v, 64)
			case "avg60":
				l.Avg60, _ = strconv.ParseFloat(v, 64)
			case "avg300":
				l.Avg300, _ = strconv.ParseFloat(v, 64)
			case "total": // microseconds
				n, _ := strconv.ParseUint(v, 10, 64)
				l.Total = n * 1000
			}
		}
	}
	return &p
}
