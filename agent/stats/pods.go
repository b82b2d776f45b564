package stats

import (
	"context"
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	info "github.com/google/cadvisor/info/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"github.com/reevehq/reeve/internal/logkey"
)

// pods measures every pod of the look. One that ended meanwhile is left out.
func (p *Provider) pods(ctx context.Context, w world, light bool) []statsapi.PodStats {
	var layers map[string]*runtimeapi.ContainerStats
	if !light {
		layers = p.layers(ctx)
	}
	out := make([]statsapi.PodStats, 0, len(w.pods))
	for _, pw := range w.pods {
		ps, ok := p.pod(pw, layers, light)
		if ok {
			out = append(out, ps)
		}
	}
	return out
}

func (p *Provider) pod(pw podWorld, layers map[string]*runtimeapi.ContainerStats, light bool) (statsapi.PodStats, bool) {
	ps := statsapi.PodStats{
		PodRef:     statsapi.PodReference{Name: pw.name, Namespace: pw.namespace, UID: pw.uid},
		StartTime:  metav1.NewTime(pw.started),
		Containers: make([]statsapi.ContainerStats, 0, len(pw.containers)),
	}
	which := fullMetrics
	pid := 0
	if light {
		which = lightMetrics
	} else if pw.sandboxCgroup != "" {
		pid = p.cgroups.firstPID(pw.sandboxCgroup)
		if sameNetwork(pid) {
			pid = 0 // the node's own network is the node's to count
		}
	}
	st, err := p.cgroups.read(pw.cgroup, pid, which)
	if err != nil {
		p.readFailed(pw, err)
		return ps, false
	}
	ps.CPU = p.cpuStats(st, p.rate(pw.cgroup, st.Timestamp, st.Cpu.Usage.Total))
	ps.Memory = p.memoryStats(st.Timestamp, &st.Memory, p.cgroups.memoryLimit(pw.cgroup))
	ps.Swap = swapStats(st.Timestamp, &st.Memory)
	ps.IO = p.ioStats(st)
	if !light {
		ps.Network = networkStats(st)
		count := st.Processes.ProcessCount
		if st.Processes.ThreadsCurrent > 0 {
			count = st.Processes.ThreadsCurrent
		}
		ps.ProcessStats = &statsapi.ProcessStats{ProcessCount: &count}
	}
	var ephemeral uint64
	for _, c := range pw.containers {
		cs, ok := p.container(pw, c, layers[c.id], light)
		if !ok {
			continue
		}
		for _, f := range []*statsapi.FsStats{cs.Rootfs, cs.Logs} {
			if f != nil && f.UsedBytes != nil {
				ephemeral += *f.UsedBytes
			}
		}
		ps.Containers = append(ps.Containers, cs)
	}
	if light {
		return ps, true
	}
	if p.cfg.Volumes != nil {
		vols := p.cfg.Volumes(types.UID(pw.uid))
		for _, name := range slices.Sorted(maps.Keys(vols)) {
			v, onDisk, err := p.volume(name, vols[name])
			if err != nil {
				continue
			}
			if onDisk && v.UsedBytes != nil {
				ephemeral += *v.UsedBytes
			}
			ps.VolumeStats = append(ps.VolumeStats, v)
		}
	}
	if node, err := fsStats(p.cfg.RootDir, time.Now()); err == nil {
		node.UsedBytes, node.InodesUsed = &ephemeral, nil
		ps.EphemeralStorage = node
	}
	return ps, true
}

func (p *Provider) container(pw podWorld, c containerWorld, layer *runtimeapi.ContainerStats, light bool) (statsapi.ContainerStats, bool) {
	cs := statsapi.ContainerStats{Name: c.name, StartTime: metav1.NewTime(c.started)}
	st, err := p.cgroups.read(c.cgroup, 0, lightMetrics)
	if err != nil {
		p.readFailed(pw, err)
		return cs, false
	}
	cs.CPU = p.cpuStats(st, p.rate(c.cgroup, st.Timestamp, st.Cpu.Usage.Total))
	cs.Memory = p.memoryStats(st.Timestamp, &st.Memory, p.cgroups.memoryLimit(c.cgroup))
	cs.Swap = swapStats(st.Timestamp, &st.Memory)
	cs.IO = p.ioStats(st)
	if light {
		return cs, true
	}
	if wl := layer.GetWritableLayer(); wl != nil {
		at := time.Unix(0, wl.Timestamp)
		cs.Rootfs = p.imageFs(wl.GetFsId().GetMountpoint(), at)
		if cs.Rootfs != nil {
			cs.Rootfs.UsedBytes, cs.Rootfs.InodesUsed = value(wl.UsedBytes), value(wl.InodesUsed)
		}
	}
	if p.cfg.PodLogsDir != "" {
		dir := filepath.Join(p.cfg.PodLogsDir, pw.namespace+"_"+pw.name+"_"+pw.uid, c.name)
		if u, at, err := p.du.of(dir); err == nil {
			if f, err := fsStats(p.cfg.PodLogsDir, at); err == nil {
				f.UsedBytes, f.InodesUsed = &u.Bytes, &u.Inodes
				cs.Logs = f
			}
		}
	}
	return cs, true
}

// layers are the runtime's figures of writable layers by container ID; a runtime that has none costs only these.
func (p *Provider) layers(ctx context.Context) map[string]*runtimeapi.ContainerStats {
	ctx, cancel := context.WithTimeout(ctx, runtimeTimeout)
	defer cancel()
	list, err := p.cfg.Runtime.ListContainerStats(ctx, nil)
	if err != nil {
		p.log.Debug("Runtime gave no container stats", logkey.Err, err)
		return nil
	}
	out := make(map[string]*runtimeapi.ContainerStats, len(list))
	for _, s := range list {
		out[s.GetAttributes().GetId()] = s
	}
	return out
}

// volume measures one volume: a mount of its own by its filesystem, anything else by walking it.
func (p *Provider) volume(name, path string) (v statsapi.VolumeStats, onDisk bool, err error) {
	at := time.Now()
	f, err := fsStats(path, at)
	if err != nil {
		return v, false, err
	}
	v = statsapi.VolumeStats{Name: name, FsStats: *f}
	if ownFilesystem(path) {
		return v, false, nil
	}
	u, at, err := p.du.of(path)
	if err != nil {
		return v, true, err
	}
	v.Time = metav1.NewTime(at)
	v.UsedBytes, v.InodesUsed = &u.Bytes, &u.Inodes
	return v, true, nil
}

func networkStats(st *info.ContainerStats) *statsapi.NetworkStats {
	if len(st.Network.Interfaces) == 0 {
		return nil
	}
	n := &statsapi.NetworkStats{Time: metav1.NewTime(st.Timestamp)}
	for i := range st.Network.Interfaces {
		s := &st.Network.Interfaces[i]
		is := statsapi.InterfaceStats{Name: s.Name, RxBytes: &s.RxBytes, RxErrors: &s.RxErrors, TxBytes: &s.TxBytes, TxErrors: &s.TxErrors}
		if s.Name == "eth0" {
			n.InterfaceStats = is
		}
		n.Interfaces = append(n.Interfaces, is)
	}
	if n.InterfaceStats.Name == "" {
		n.InterfaceStats = n.Interfaces[0]
	}
	return n
}

// sameNetwork says whether the process shares this one's network.
func sameNetwork(pid int) bool {
	if pid == 0 {
		return true
	}
	a, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return true
	}
	b, err := os.Readlink(filepath.Join("/proc", itoa(pid), "ns/net"))
	return err != nil || a == b
}

func (p *Provider) readFailed(pw podWorld, err error) {
	if !errors.Is(err, fs.ErrNotExist) {
		p.log.Debug("Pod could not be measured", logkey.Pod, pw.namespace+"/"+pw.name, logkey.Err, err)
	}
}

func value(v *runtimeapi.UInt64Value) *uint64 {
	if v == nil {
		return nil
	}
	return &v.Value
}
