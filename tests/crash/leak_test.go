package crash

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/containerd/containerd/api/services/tasks/v1"
	client "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"

	"github.com/reevehq/reeve/internal/testenv"
)

// inventory is what the host has, by kind. Two are compared: before and after.
type inventory map[string][]string

var hexID = regexp.MustCompile(`[0-9a-f]{64}`)

// look counts. It asks containerd itself, not through the runtime.
func (w *world) look() (inventory, error) {
	inv := inventory{}
	// What a sandbox or container has in folders: names only.
	for kind, dir := range map[string]string{
		"network namespaces": "netns", "addresses": "ipam/pods", "CNI results": "cni/results", "sandbox folders": "cri/sandboxes",
		"container folders": "cri/containers", "exec folders": "cri/exec", "FIFOs": "pump/c",
		"bundles": "containerd/state/io.containerd.runtime.v2.task/k8s.io",
	} {
		inv.folder(kind, filepath.Join(w.dir, dir))
	}
	inv.folder("OCI runtime states", "/run/containerd/runc/k8s.io")
	sockets, err := os.ReadFile("/proc/self/net/unix")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(sockets)) {
		const listens = "00010000"
		if f := strings.Fields(line); len(f) == 8 && f[3] == listens && strings.HasPrefix(f[7], "/run/containerd/s/") { // the files are containerd's to remove
			inv["shim sockets"] = append(inv["shim sockets"], f[7])
		}
	}
	links, err := exec.Command("ip", "-o", "link").Output()
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(links)) {
		f := strings.Fields(line)
		inv["links"] = append(inv["links"], f[1])
	}
	rules, err := exec.Command("iptables-save").Output()
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(rules)) {
		if !strings.HasPrefix(line, "#") && !strings.HasPrefix(line, ":") { // a comment has the time, a chain's line counters
			inv["rules"] = append(inv["rules"], strings.TrimSpace(line))
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	for line := range strings.Lines(string(mounts)) {
		inv["mounts"] = append(inv["mounts"], strings.Fields(line)[4])
	}
	tops, _ := filepath.Glob("/sys/fs/cgroup/*" + testenv.CgroupOf(w.dir))
	for _, top := range append(tops, "/sys/fs/cgroup"+testenv.CgroupOf(w.dir)) {
		filepath.WalkDir(top, func(p string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() && hexID.MatchString(d.Name()) {
				inv["cgroups"] = append(inv["cgroups"], p)
			}
			return nil
		})
	}
	for _, p := range processes() {
		if strings.Contains(p, "shim") && strings.Contains(p, w.dir) {
			inv["shims"] = append(inv["shims"], p)
		}
		if hexID.MatchString(p) && strings.Contains(p, w.dir+"/bin/") {
			inv["stray programs"] = append(inv["stray programs"], p)
		}
	}
	return inv, w.lookContainerd(inv)
}

func (w *world) lookContainerd(inv inventory) error {
	c, err := client.New(w.inst.Address(), client.WithTimeout(10*time.Second))
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(namespaces.WithNamespace(context.Background(), "k8s.io"), 20*time.Second)
	defer cancel()
	records, err := c.ContainerService().List(ctx)
	if err != nil {
		return err
	}
	for _, r := range records {
		inv["records"] = append(inv["records"], r.ID)
	}
	list, err := c.TaskService().List(ctx, &tasks.ListTasksRequest{})
	if err != nil {
		return err
	}
	for _, t := range list.Tasks {
		inv["tasks"] = append(inv["tasks"], t.ID)
	}
	if err := c.SnapshotService("overlayfs").Walk(ctx, func(_ context.Context, i snapshots.Info) error {
		inv["snapshots"] = append(inv["snapshots"], i.Name)
		return nil
	}); err != nil {
		return err
	}
	leases, err := c.LeasesService().List(ctx)
	if err != nil {
		return err
	}
	for _, l := range leases {
		inv["leases"] = append(inv["leases"], l.ID)
	}
	return c.ContentStore().Walk(ctx, func(i content.Info) error {
		inv["content"] = append(inv["content"], i.Digest.String())
		return nil
	})
}

func (inv inventory) folder(kind, dir string) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if e.Name() != "lock" && !strings.HasPrefix(e.Name(), "last_reserved_ip") { // host-local's own
			inv[kind] = append(inv[kind], e.Name())
		}
	}
}

func processes() []string {
	list, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	var out []string
	for _, p := range list {
		b, _ := os.ReadFile(p)
		out = append(out, strings.ReplaceAll(string(b), "\x00", " "))
	}
	return out
}

// without lists what inv has and before has not.
func (inv inventory) without(before inventory) string {
	var out []string
	for kind, items := range inv {
		old := slices.Clone(before[kind])
		for _, item := range items {
			if i := slices.Index(old, item); i >= 0 {
				old = slices.Delete(old, i, i+1)
			} else {
				out = append(out, kind+": "+item)
			}
		}
	}
	sort.Strings(out)
	return strings.Join(out, "\n")
}

func (inv inventory) String() string {
	kinds := []string{}
	for k := range inv {
		kinds = append(kinds, k)
	}
	sort.Strings(kinds)
	var b strings.Builder
	for _, k := range kinds {
		fmt.Fprintf(&b, "%s %d, ", k, len(inv[k]))
	}
	return strings.TrimSuffix(b.String(), ", ")
}

// mustLook is look for a world at rest.
func (w *world) mustLook() inventory {
	w.t.Helper()
	inv, err := w.look()
	if err != nil {
		w.t.Fatal(err)
	}
	return inv
}

// leftNothing waits until the host has nothing more than before.
func (w *world) leftNothing(before inventory) {
	w.t.Helper()
	w.eventually("the host has nothing more than before", func() error {
		now, err := w.look()
		if err != nil {
			return err
		}
		if more := now.without(before); more != "" {
			return fmt.Errorf("left over:\n%s", more)
		}
		return nil
	})
}
