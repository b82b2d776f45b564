package resources

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// mountRoot is where the kernel's cgroup file systems are mounted, by convention of every runtime.
const mountRoot = "/sys/fs/cgroup"

// tree is the machine's cgroup file systems: the one v2 tree, or a v1 hierarchy a controller.
type tree struct {
	v2     bool
	mounts map[string]string // controller → mount point (v1); "" → mount point (v2)
}

// isV2 tells whether /sys/fs/cgroup itself is cgroup v2. A v2 tree mounted beside v1 hierarchies ("hybrid") does not
// count: its controllers are with v1.
func isV2(root string) bool {
	var st unix.Statfs_t
	return unix.Statfs(root, &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC
}

func findTree() (*tree, error) {
	if isV2(mountRoot) {
		return &tree{v2: true, mounts: map[string]string{"": mountRoot}}, nil
	}
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("find cgroup mounts: %w", err)
	}
	defer f.Close()
	t := &tree{mounts: map[string]string{}}
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		pre, post, ok := strings.Cut(sc.Text(), " - ")
		left, right := strings.Fields(pre), strings.Fields(post)
		if !ok || len(left) < 5 || len(right) < 3 || !strings.HasPrefix(left[4], mountRoot) {
			continue
		}
		if right[0] == "cgroup2" {
			// Beside v1 it limits nothing, but runtimes make cgroups there too, which are to be removed.
			t.mounts["unified"] = left[4]
		}
		if right[0] != "cgroup" {
			continue
		}
		for _, opt := range strings.Split(right[2], ",") {
			switch opt {
			case "cpu", "memory", "pids", "cpuacct", "cpuset", "blkio", "devices", "freezer", "hugetlb", "net_cls", "net_prio", "perf_event", "rdma", "misc":
				t.mounts[opt] = left[4]
			case "name=systemd":
				t.mounts["systemd"] = left[4]
			}
		}
	}
	if t.mounts["memory"] == "" || t.mounts["cpu"] == "" {
		return nil, errors.New("find cgroup mounts: neither cgroup v2 nor the v1 controllers cpu and memory are mounted below " +
			mountRoot + "; mount one of them")
	}
	return t, sc.Err()
}

// limits of one cgroup. Zero values are not written, except where said.
type limits struct {
	shares      int64 // cpu.shares scale
	quotaUS     int64 // per 100 ms; -1 takes a limit away
	memoryBytes int64 // -1 takes a limit away
	pids        int64
}

// make creates the cgroup in every hierarchy where it can carry a limit, and sets the limits.
func (t *tree) make(path string, l limits) error {
	if t.v2 {
		return t.makeV2(path, l)
	}
	for _, ctl := range []string{"cpu", "memory", "pids"} {
		m := t.mounts[ctl]
		if m == "" {
			continue
		}
		dir := filepath.Join(m, path)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("make cgroup %s of %s: %w", path, ctl, err)
		}
		var err error
		switch ctl {
		case "cpu":
			if l.shares > 0 {
				err = write(dir, "cpu.shares", l.shares)
			}
			if l.quotaUS != 0 {
				err = errors.Join(err, write(dir, "cpu.cfs_period_us", 100_000), write(dir, "cpu.cfs_quota_us", l.quotaUS))
			}
		case "memory":
			if l.memoryBytes != 0 {
				err = write(dir, "memory.limit_in_bytes", l.memoryBytes)
			}
		case "pids":
			if l.pids > 0 {
				err = write(dir, "pids.max", l.pids)
			}
		}
		if err != nil {
			return fmt.Errorf("limit cgroup %s: %w", path, err)
		}
	}
	return nil
}

func (t *tree) makeV2(path string, l limits) error {
	root := t.mounts[""]
	dir := root
	for _, el := range strings.Split(strings.Trim(path, "/"), "/") {
		if el == "" {
			continue
		}
		// Controllers reach a child only if its parent hands them down. Those that a parent cannot hand down (a process
		// lives there, a container's root) are simply not available below.
		enable(dir)
		dir = filepath.Join(dir, el)
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("make cgroup %s: %w", path, err)
		}
	}
	enable(dir)
	var errs []error
	if l.shares > 0 {
		errs = append(errs, write(dir, "cpu.weight", Weight(l.shares)))
	}
	switch {
	case l.quotaUS > 0:
		errs = append(errs, writeString(dir, "cpu.max", fmt.Sprintf("%d 100000", l.quotaUS)))
	case l.quotaUS < 0:
		errs = append(errs, writeString(dir, "cpu.max", "max"))
	}
	switch {
	case l.memoryBytes > 0:
		errs = append(errs, write(dir, "memory.max", l.memoryBytes))
	case l.memoryBytes < 0:
		errs = append(errs, writeString(dir, "memory.max", "max"))
	}
	if l.pids > 0 {
		errs = append(errs, write(dir, "pids.max", l.pids))
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("limit cgroup %s: %w", path, err)
	}
	return nil
}

func enable(dir string) {
	have, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	if err != nil {
		return
	}
	for _, c := range strings.Fields(string(have)) {
		_ = os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+c), 0o644)
	}
}

// Weight turns cpu.shares into cgroup v2's cpu.weight as runtimes since 2025 do: 2 → 1, 1024 → 100, 262144 → 10000 on a
// quadratic in log2 (opencontainers/cgroups).
func Weight(shares int64) int64 {
	if shares <= 2 {
		return 1
	}
	if shares >= 262144 {
		return 10000
	}
	l := math.Log2(float64(shares))
	return int64(math.Ceil(math.Pow(10, (l*l+125*l)/612.0-7.0/34.0)))
}

func write(dir, file string, v int64) error { return writeString(dir, file, strconv.FormatInt(v, 10)) }

func writeString(dir, file, v string) error {
	err := os.WriteFile(filepath.Join(dir, file), []byte(v), 0o644)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // the controller is not enabled here
	}
	return err
}

// removeTries and removePause bound the wait for the last process of a cgroup to be reaped: rmdir says EBUSY until then.
const (
	removeTries = 20
	removePause = 10 * time.Millisecond
)

// remove removes the cgroup with everything below, in every hierarchy. A missing one is fine.
func (t *tree) remove(path string) error {
	var errs []error
	for _, m := range t.mounts {
		if m != "" {
			errs = append(errs, removeDir(filepath.Join(m, path)))
		}
	}
	return errors.Join(errs...)
}

func removeDir(dir string) error {
	ents, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove cgroup: %w", err)
	}
	for _, e := range ents {
		if e.IsDir() {
			if err := removeDir(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	for range removeTries {
		err = unix.Rmdir(dir)
		if err == nil || errors.Is(err, unix.ENOENT) {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) {
			break
		}
		time.Sleep(removePause)
	}
	return fmt.Errorf("remove cgroup %s: %w", dir, err)
}

// children lists the names of the cgroups right below path, over all hierarchies.
func (t *tree) children(path string) map[string]bool {
	out := map[string]bool{}
	for _, m := range t.mounts {
		ents, err := os.ReadDir(filepath.Join(m, path))
		if err != nil {
			continue
		}
		for _, e := range ents {
			if e.IsDir() {
				out[e.Name()] = true
			}
		}
	}
	return out
}
