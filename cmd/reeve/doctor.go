package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/reevehq/reeve/internal/datadir"
)

// finding is what doctor says about one thing.
type finding struct {
	what, state, fix string
	// level is "ok", "note" (works, with a limit) or "bad" (reeve does not start).
	level string
}

func doctorCommand() *cobra.Command {
	var dataDir string
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Look at this host and say what is missing and how to mend it",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			findings := examine(dataDir)
			w := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 2, ' ', 0)
			bad := 0
			for _, f := range findings {
				fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", f.level, f.what, f.state, f.fix)
				if f.level == "bad" {
					bad++
				}
			}
			if err := w.Flush(); err != nil {
				return err
			}
			if bad > 0 {
				return fmt.Errorf("%d things keep reeve from starting here", bad)
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&dataDir, "data-dir", datadir.Default, "folder of all state")
	return cmd
}

// examine reads the host and changes nothing.
func examine(dataDir string) []finding {
	var out []finding
	add := func(level, what, state, fix string) { out = append(out, finding{what, state, fix, level}) }

	if os.Geteuid() == 0 {
		add("ok", "user", "root", "")
	} else {
		add("bad", "user", "uid "+strconv.Itoa(os.Geteuid()), "run with sudo")
	}
	release, major, minor := kernel()
	if major > 5 || (major == 5 && minor >= 4) {
		add("ok", "kernel", release, "")
	} else {
		add("bad", "kernel", release, "5.4 or newer is needed")
	}
	for _, command := range slices.Sorted(maps.Keys(hostPackages)) {
		path, err := exec.LookPath(command)
		if err != nil {
			add("bad", command, "not in PATH", "apt-get install "+hostPackages[command])
			continue
		}
		add("ok", command, path, "")
	}
	if _, err := os.Stat("/run/containerd/containerd.sock"); err == nil {
		add("ok", "containerd", "the host's own runs and will be used", "")
	}
	switch {
	case exists("/sys/fs/cgroup/cgroup.controllers"):
		add("ok", "cgroups", "v2", "")
	case exists("/sys/fs/cgroup/memory"):
		add("note", "cgroups", "v1", "works; v2 (systemd.unified_cgroup_hierarchy=1) gives pressure and memory.high")
	default:
		add("bad", "cgroups", "not mounted at /sys/fs/cgroup", "mount them (systemd does; else the package cgroupfs-mount)")
	}
	add("ok", "cgroup driver", defaultCgroupDriver(), "")
	if filesystems, err := os.ReadFile("/proc/filesystems"); err == nil {
		if strings.Contains(string(filesystems), "\toverlay\n") || exec.Command("modprobe", "-n", "overlay").Run() == nil {
			add("ok", "overlayfs", "there", "")
		} else {
			add("bad", "overlayfs", "not in this kernel", "modprobe overlay, or a kernel that has it")
		}
	}
	if swaps, err := os.ReadFile("/proc/swaps"); err == nil && strings.Count(string(swaps), "\n") > 1 {
		add("note", "swap", "on", "works; pods' memory requests are then not guaranteed to stay in RAM")
	}
	if err := needClock(time.Now()); err != nil {
		add("bad", "clock", time.Now().UTC().Format(time.RFC3339), err.Error())
	} else {
		add("ok", "clock", time.Now().UTC().Format(time.RFC3339), "")
	}
	if ip, err := defaultAddress(); err != nil {
		add("bad", "address", err.Error(), "give --node-ip")
	} else {
		add("ok", "address", ip.String(), "")
	}
	for _, port := range []int{6443, 10250, 10248, 10249, 10256} {
		what := "port " + strconv.Itoa(port)
		if err := needPort("", hostPort("", port)); err != nil {
			add("note", what, "in use", "reeve itself may hold it; else stop the other program or move reeve's port")
			continue
		}
		add("ok", what, "free", "")
	}
	if exists("/var/lib/kubelet/config.yaml") {
		add("note", "another kubelet", "/var/lib/kubelet has a kubelet's files", "stop it, or give --root-dir and other ports")
	}
	var st unix.Statfs_t
	switch err := unix.Statfs(dataDir, &st); {
	case errors.Is(err, unix.ENOENT):
		add("ok", "data-dir", dataDir+" will be made", "")
	case err != nil:
		add("bad", "data-dir", err.Error(), "give another --data-dir")
	default:
		add("ok", "data-dir", fmt.Sprintf("%s, %d MiB free", dataDir, st.Bavail*uint64(st.Bsize)>>20), "")
	}
	return out
}

// hostPackages are the commands that a node runs, and the Debian packages that bring them.
var hostPackages = map[string]string{
	"containerd": "containerd", "runc": "runc", "iptables": "iptables", "iptables-restore": "iptables",
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// kernel is uname(2)'s release and its first two numbers.
func kernel() (release string, major, minor int) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "unknown", 0, 0
	}
	release = unix.ByteSliceToString(u.Release[:])
	fmt.Sscanf(release, "%d.%d", &major, &minor)
	return release, major, minor
}
