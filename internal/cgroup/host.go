package cgroup

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Host is where cgroups are mounted.
type Host struct {
	// Unified is true on a host whose controllers are all on v2.
	Unified bool
	// V2 is the mount point of the v2 hierarchy: on a hybrid host the one beside v1, with no controllers; "" if none.
	V2 string
	// V1 maps a controller ("memory", "cpuacct", "name=systemd") to the mount point of its v1 hierarchy.
	V1 map[string]string
}

// ErrNone says that no cgroup hierarchy is mounted.
var ErrNone = errors.New("no cgroup hierarchy is mounted (mount cgroup2 on /sys/fs/cgroup)")

// Detect reads the mounts of the calling process.
func Detect() (*Host, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("find cgroups: %w", err)
	}
	defer f.Close()
	h := &Host{V1: map[string]string{}}
	s := bufio.NewScanner(f)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		h.addMount(s.Text())
	}
	if err := s.Err(); err != nil {
		return nil, fmt.Errorf("find cgroups: %w", err)
	}
	if h.V2 == "" && len(h.V1) == 0 {
		return nil, ErrNone
	}
	h.Unified = h.V2 != "" && h.V1["memory"] == "" && h.V1["cpu"] == ""
	return h, nil
}

// addMount takes one line of mountinfo. Only mounts of a hierarchy's root count: bind mounts of a part of it, as inside
// containers, name the same path.
func (h *Host) addMount(line string) {
	before, after, ok := strings.Cut(line, " - ")
	if !ok {
		return
	}
	pre, post := strings.Fields(before), strings.Fields(after)
	if len(pre) < 5 || len(post) < 3 {
		return
	}
	at := unescape(pre[4])
	switch post[0] {
	case "cgroup2":
		if h.V2 == "" {
			h.V2 = at
		}
	case "cgroup":
		for _, o := range strings.Split(post[2], ",") {
			switch o {
			case "rw", "ro", "xattr", "clone_children", "noprefix", "release_agent", "none":
			default:
				if _, dup := h.V1[o]; !dup {
					h.V1[o] = at
				}
			}
		}
	}
}

// unescape undoes mountinfo's octal escapes of blanks.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// Dir returns the folder of cgroup path in the hierarchy of a v1 controller, or in v2 on a unified host; "" if that is
// not mounted.
func (h *Host) Dir(controller, path string) string {
	at := h.V1[controller]
	if h.Unified {
		at = h.V2
	}
	if at == "" {
		return ""
	}
	return filepath.Join(at, path)
}

// mounts returns each hierarchy's mount point once.
func (h *Host) mounts() []string {
	var out []string
	for _, m := range h.V1 {
		out = append(out, m)
	}
	if h.V2 != "" {
		out = append(out, h.V2)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// Join makes cgroup path in every hierarchy and moves a process there, so that whatever ends the caller's cgroup does
// not end it. cpuset, which would need its CPUs copied, is left out.
func (h *Host) Join(path string, pid int) error {
	var errs []error
	for _, m := range h.mounts() {
		if m == h.V1["cpuset"] {
			continue
		}
		dir := filepath.Join(m, path)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			errs = append(errs, err)
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(pid)), 0); err != nil {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("move process %d to cgroup %q: %w", pid, path, err)
	}
	return nil
}

// Remove deletes cgroup path and everything under it from every hierarchy, retrying for a moment because the kernel
// needs one after the last process. A cgroup with processes stays, and is an error.
func (h *Host) Remove(path string) error {
	if filepath.Clean("/"+path) == "/" {
		return errors.New("refusing to remove the root cgroup")
	}
	var errs []error
	for _, m := range h.mounts() {
		var err error
		for range 50 {
			if err = removeTree(filepath.Join(m, path)); err == nil {
				break
			}
			time.Sleep(2 * time.Millisecond)
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove cgroup %q: %w", path, err)
	}
	return nil
}

func removeTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeTree(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// OfProcess returns the cgroup path of a process in the hierarchy that Dir(controller) names.
func (h *Host) OfProcess(pid int, controller string) (string, error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cgroup")
	if err != nil {
		return "", err
	}
	for _, line := range strings.Split(string(b), "\n") {
		f := strings.SplitN(line, ":", 3)
		if len(f) != 3 {
			continue
		}
		if h.Unified && f[1] == "" || !h.Unified && slices.Contains(strings.Split(f[1], ","), controller) {
			return f[2], nil
		}
	}
	return "", fmt.Errorf("process %d is in no %s cgroup", pid, controller)
}
