package native

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/contrib/apparmor"
	"github.com/containerd/containerd/v2/contrib/seccomp"
	apparmorpkg "github.com/containerd/containerd/v2/pkg/apparmor"
	"github.com/containerd/containerd/v2/pkg/oci"
	seccomppkg "github.com/containerd/containerd/v2/pkg/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/reevehq/reeve/cri/native/spec"
	"github.com/reevehq/reeve/internal/cgroup"
	"github.com/reevehq/reeve/internal/logkey"
)

const (
	apparmorProfile = "reeve-default"
	capSysResource  = 24
)

// inspectHost learns what specs may ask of this host. What counts is containerd's process, whose shims start the
// containers, not ours.
func (r *Runtime) inspectHost(ctx context.Context) error {
	cg, err := cgroup.Detect()
	if err != nil {
		return err
	}
	r.cgroups = cg
	caps, score := runtimeProcess(r.cfg.Address)
	h := &spec.Host{
		CgroupV2: cg.Unified, CgroupRoot: r.cfg.CgroupRoot, SystemdCgroup: r.cfg.CgroupDriver == "systemd", Capabilities: spec.CapabilitiesOf(caps),
		MinOOMScoreAdj: -1000, SELinux: exists("/sys/fs/selinux/enforce"),
		Devices: oci.HostDevices, Device: devicesAt, SeccompLocalhost: loadSeccomp,
	}
	if caps&(1<<capSysResource) == 0 {
		h.MinOOMScoreAdj = score
	}
	h.Hugetlb = cg.Dir("hugetlb", "/") != "" && (!cg.Unified || hasController(cg, "hugetlb"))
	h.Swap = exists(filepath.Join(cg.Dir("memory", "/"), "memory.memsw.limit_in_bytes"))
	if cg.Unified {
		own, _ := cg.OfProcess(os.Getpid(), "memory")
		h.Swap = exists(filepath.Join(cg.V2, own, "memory.swap.max")) || exists("/proc/swaps") && hasController(cg, "memory")
	}
	if seccomppkg.IsEnabled() {
		h.SeccompDefault = seccomp.DefaultProfile
	}
	if apparmorpkg.HostSupports() {
		if err := apparmor.LoadDefaultProfile(apparmorProfile); err != nil {
			r.log.Warn("Could not load the AppArmor profile, containers run without", logkey.Err, err)
		} else {
			h.AppArmor, h.AppArmorDefault = true, apparmorProfile
		}
	}
	r.host = h
	return ctx.Err()
}

// runtimeProcess returns the capabilities and oom_score_adj of the process behind a unix socket, or our own where it
// cannot be asked.
func runtimeProcess(address string) (caps uint64, score int) {
	pid := os.Getpid()
	if conn, err := net.Dial("unix", strings.TrimPrefix(address, "unix://")); err == nil {
		if raw, err := conn.(*net.UnixConn).SyscallConn(); err == nil {
			raw.Control(func(fd uintptr) {
				if u, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil && u.Pid > 0 {
					pid = int(u.Pid)
				}
			})
		}
		conn.Close()
	}
	proc := "/proc/" + strconv.Itoa(pid)
	b, err := os.ReadFile(proc + "/status")
	if err != nil {
		proc = "/proc/self"
		b, _ = os.ReadFile(proc + "/status")
	}
	for line := range strings.Lines(string(b)) {
		if v, ok := strings.CutPrefix(line, "CapEff:"); ok {
			caps, _ = strconv.ParseUint(strings.TrimSpace(v), 16, 64)
		}
	}
	b, _ = os.ReadFile(proc + "/oom_score_adj")
	score, _ = strconv.Atoi(strings.TrimSpace(string(b)))
	return caps, score
}

func hasController(cg *cgroup.Host, name string) bool {
	b, _ := os.ReadFile(filepath.Join(cg.V2, "cgroup.controllers"))
	for _, f := range strings.Fields(string(b)) {
		if f == name {
			return true
		}
	}
	return false
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

func loadSeccomp(path string) (*specs.LinuxSeccomp, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read seccomp profile: %w", err)
	}
	var s specs.LinuxSeccomp
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, fmt.Errorf("seccomp profile %q is no OCI seccomp JSON: %w", path, err)
	}
	return &s, nil
}

// devicesAt describes a device, or every device under a folder.
func devicesAt(hostPath, containerPath, _ string) ([]specs.LinuxDevice, error) {
	resolved, err := filepath.EvalSymlinks(hostPath)
	if err != nil {
		return nil, err
	}
	st, err := os.Stat(resolved)
	if err != nil {
		return nil, err
	}
	if !st.IsDir() {
		d, err := oci.DeviceFromPath(resolved)
		if err != nil {
			return nil, err
		}
		d.Path = containerPath
		return []specs.LinuxDevice{*d}, nil
	}
	var out []specs.LinuxDevice
	err = filepath.WalkDir(resolved, func(p string, e os.DirEntry, err error) error {
		if err != nil || e.Type()&os.ModeDevice == 0 {
			return err
		}
		d, err := oci.DeviceFromPath(p)
		if err != nil {
			return nil // gone or not a device after all
		}
		rel, _ := filepath.Rel(resolved, p)
		d.Path = filepath.Join(containerPath, rel)
		out = append(out, *d)
		return nil
	})
	return out, err
}
