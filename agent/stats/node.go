package stats

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"github.com/reevehq/reeve/internal/logkey"
)

// node measures the machine: the root cgroup, nodefs, the runtime's filesystems, network and processes.
func (p *Provider) node(ctx context.Context, w world, light bool) statsapi.NodeStats {
	n := statsapi.NodeStats{NodeName: p.cfg.NodeName, StartTime: metav1.NewTime(bootTime(p.started))}
	st, err := p.cgroups.read("/", 1, lightMetrics)
	if err != nil {
		p.log.Debug("Root cgroup could not be read", logkey.Err, err)
	} else {
		n.CPU = p.cpuStats(st, p.rate("/", st.Timestamp, st.Cpu.Usage.Total))
		limit := uint64(0)
		if m, err := p.MachineInfo(); err == nil {
			limit = m.MemoryCapacity
		}
		n.Memory = p.memoryStats(st.Timestamp, &st.Memory, limit)
		n.Swap = nodeSwap(st.Timestamp)
		n.IO = p.ioStats(st)
	}
	if c, ok := p.systemContainer(statsapi.SystemContainerPods, filepath.Join(p.cfg.CgroupRoot, p.podsCgroup())); ok {
		n.SystemContainers = append(n.SystemContainers, c)
	}
	if light {
		return n
	}
	now := time.Now()
	if f, err := fsStats(p.cfg.RootDir, now); err == nil {
		n.Fs = f
	}
	n.Runtime = p.runtimeFs(ctx)
	n.Network = nodeNetwork(now)
	n.Rlimit = rlimits(now)
	return n
}

func (p *Provider) podsCgroup() string {
	if exists(p.cgroups.dir("memory", filepath.Join(p.cfg.CgroupRoot, "kubepods.slice"))) {
		return "kubepods.slice"
	}
	return "kubepods"
}

func (p *Provider) systemContainer(name, cgroup string) (statsapi.ContainerStats, bool) {
	st, err := p.cgroups.read(cgroup, 0, lightMetrics)
	if err != nil {
		return statsapi.ContainerStats{}, false
	}
	return statsapi.ContainerStats{
		Name:      name,
		StartTime: metav1.NewTime(p.cgroups.spec(cgroup).CreationTime),
		CPU:       p.cpuStats(st, nil),
		Memory:    p.memoryStats(st.Timestamp, &st.Memory, p.cgroups.memoryLimit(cgroup)),
	}, true
}

func (p *Provider) runtimeFs(ctx context.Context) *statsapi.RuntimeStats {
	ctx, cancel := context.WithTimeout(ctx, runtimeTimeout)
	defer cancel()
	res, err := p.cfg.Runtime.ImageFsInfo(ctx)
	if err != nil {
		p.log.Debug("Runtime gave no image filesystem", logkey.Err, err)
		return nil
	}
	out := &statsapi.RuntimeStats{}
	for _, f := range res.GetImageFilesystems() {
		out.ImageFs = p.imageFs(f.GetFsId().GetMountpoint(), time.Unix(0, f.Timestamp))
		if out.ImageFs != nil {
			out.ImageFs.UsedBytes, out.ImageFs.InodesUsed = value(f.UsedBytes), value(f.InodesUsed)
		}
		break
	}
	for _, f := range res.GetContainerFilesystems() {
		out.ContainerFs = p.imageFs(f.GetFsId().GetMountpoint(), time.Unix(0, f.Timestamp))
		if out.ContainerFs != nil {
			out.ContainerFs.UsedBytes, out.ContainerFs.InodesUsed = value(f.UsedBytes), value(f.InodesUsed)
		}
		break
	}
	if out.ContainerFs == nil {
		out.ContainerFs = out.ImageFs
	}
	return out
}

func (p *Provider) imageFs(mountpoint string, at time.Time) *statsapi.FsStats {
	if mountpoint == "" {
		return nil
	}
	f, err := fsStats(mountpoint, at)
	if err != nil {
		return nil
	}
	return f
}

// bootTime of the machine, or fallback.
func bootTime(fallback time.Time) time.Time {
	var si unix.Sysinfo_t
	if err := unix.Sysinfo(&si); err != nil {
		return fallback
	}
	return time.Now().Add(-time.Duration(si.Uptime) * time.Second).Truncate(time.Second)
}

func nodeSwap(at time.Time) *statsapi.SwapStats {
	var si unix.Sysinfo_t
	if err := unix.Sysinfo(&si); err != nil {
		return nil
	}
	unit := uint64(si.Unit)
	avail, used := uint64(si.Freeswap)*unit, uint64(si.Totalswap-si.Freeswap)*unit
	return &statsapi.SwapStats{Time: metav1.NewTime(at), SwapAvailableBytes: &avail, SwapUsageBytes: &used}
}

func rlimits(at time.Time) *statsapi.RlimitStats {
	maxPID, err := strconv.ParseInt(readString("/proc/sys/kernel/pid_max"), 10, 64)
	if err != nil {
		return nil
	}
	if t, err := strconv.ParseInt(readString("/proc/sys/kernel/threads-max"), 10, 64); err == nil && t < maxPID {
		maxPID = t
	}
	// loadavg's fourth field is running/total.
	f := strings.Fields(readString("/proc/loadavg"))
	if len(f) < 4 {
		return nil
	}
	_, total, _ := strings.Cut(f[3], "/")
	running, err := strconv.ParseInt(total, 10, 64)
	if err != nil {
		return nil
	}
	return &statsapi.RlimitStats{Time: metav1.NewTime(at), MaxPID: &maxPID, NumOfRunningProcesses: &running}
}

// podLink are the node's ends of pods' links: those of CNI plugins, and of the built-in network.
var podLink = regexp.MustCompile(`^(veth.*|cali.*|lxc.*|rv[0-9a-f]{12})$`)

// nodeNetwork reads this process's interfaces, without the pods' ends of their links.
func nodeNetwork(at time.Time) *statsapi.NetworkStats {
	data, err := os.ReadFile("/proc/self/net/dev")
	if err != nil {
		return nil
	}
	return parseNetDev(data, defaultInterface(), at)
}

// parseNetDev reads /proc/net/dev. Pure.
func parseNetDev(data []byte, first string, at time.Time) *statsapi.NetworkStats {
	n := &statsapi.NetworkStats{Time: metav1.NewTime(at)}
	for l := range bytes.Lines(data) {
		name, rest, ok := strings.Cut(strings.TrimSpace(string(l)), ":")
		f := strings.Fields(rest)
		if !ok || len(f) < 11 || name == "lo" || podLink.MatchString(name) {
			continue
		}
		num := func(i int) *uint64 {
			v, err := strconv.ParseUint(f[i], 10, 64)
			if err != nil {
				return nil
			}
			return &v
		}
		is := statsapi.InterfaceStats{Name: name, RxBytes: num(0), RxErrors: num(2), TxBytes: num(8), TxErrors: num(10)}
		n.Interfaces = append(n.Interfaces, is)
		if name == first {
			n.InterfaceStats = is
		}
	}
	return n
}

// defaultInterface is the one that the default route leads through.
func defaultInterface() string {
	for l := range strings.Lines(readString("/proc/self/net/route")) {
		f := strings.Fields(l)
		if len(f) > 7 && f[1] == "00000000" && f[7] == "00000000" {
			return f[0]
		}
	}
	return ""
}
