package resources

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"

	"github.com/reevehq/reeve/internal/testenv"
	"github.com/reevehq/reeve/systemd"
)

func pod(req, lim v1.ResourceList) *v1.Pod {
	p := &v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{{Resources: v1.ResourceRequirements{Requests: req, Limits: lim}}}}}
	p.UID = "0a-1b"
	return p
}

func TestWeight(t *testing.T) {
	for shares, want := range map[int64]int64{2: 1, 1024: 100, 262144: 10000, 512: 59} {
		if got := Weight(shares); got != want {
			t.Errorf("Weight(%d) = %d, want %d", shares, got, want)
		}
	}
}

func TestPodPath(t *testing.T) {
	cpu := v1.ResourceList{v1.ResourceCPU: resource.MustParse("1"), v1.ResourceMemory: resource.MustParse("1Gi")}
	for _, tc := range []struct {
		driver       string
		p            *v1.Pod
		path, parent string
		root         string
	}{
		{"cgroupfs", pod(nil, nil), "/kubepods/besteffort/pod0a-1b", "/kubepods/besteffort/pod0a-1b", "/"},
		{"cgroupfs", pod(cpu, nil), "/reeve/kubepods/burstable/pod0a-1b", "/reeve/kubepods/burstable/pod0a-1b", "/reeve"},
		{"cgroupfs", pod(cpu, cpu), "/kubepods/pod0a-1b", "/kubepods/pod0a-1b", "/"},
		{"systemd", pod(cpu, nil), "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0a_1b.slice", "kubepods-burstable-pod0a_1b.slice", "/"},
		{"systemd", pod(cpu, cpu), "/kubepods.slice/kubepods-pod0a_1b.slice", "kubepods-pod0a_1b.slice", "/"},
	} {
		m := &Manager{cfg: Config{Root: tc.root, Driver: tc.driver}}
		if got := m.PodPath(tc.p); got != tc.path {
			t.Errorf("%s: path %s, want %s", tc.driver, got, tc.path)
		}
		if got := m.Parent(tc.p); got != tc.parent {
			t.Errorf("%s: parent %s, want %s", tc.driver, got, tc.parent)
		}
	}
}

func TestPodLimitsNeedEveryContainersLimit(t *testing.T) {
	lim := v1.ResourceList{v1.ResourceCPU: resource.MustParse("500m"), v1.ResourceMemory: resource.MustParse("64Mi")}
	p := pod(lim, lim)
	if got := podLimits(p, 0); got.quotaUS != 50_000 || got.memoryBytes != 64<<20 || got.shares != 512 {
		t.Errorf("limits = %+v", got)
	}
	p.Spec.Containers = append(p.Spec.Containers, v1.Container{})
	if got := podLimits(p, 0); got.quotaUS != 0 || got.memoryBytes != 0 {
		t.Errorf("limits beside a container without any = %+v", got)
	}
}

func TestAllocatable(t *testing.T) {
	capacity := Capacity(Machine{CPUs: 2, MemoryBytes: 4 << 30, HugePages: map[int64]int64{2 << 20: 8}}, FS{CapacityBytes: 100}, 110)
	got := Allocatable(capacity, []v1.ResourceList{{v1.ResourceCPU: resource.MustParse("500m")}}, v1.ResourceList{v1.ResourceMemory: resource.MustParse("100Mi")})
	if got.Cpu().MilliValue() != 1500 || got.Memory().Value() != 4<<30-100<<20-16<<20 || got.Pods().Value() != 110 {
		t.Errorf("allocatable = %v", got)
	}
	if q := got["hugepages-2Mi"]; q.Value() != 16<<20 {
		t.Errorf("huge pages = %v", q)
	}
}

func TestReservedProcesses(t *testing.T) {
	if got := WithPIDs(v1.ResourceList{}, nil, 1000); len(got) != 0 {
		t.Errorf("nothing reserved: %v", got)
	}
	got := WithPIDs(v1.ResourceList{}, []v1.ResourceList{{"pid": resource.MustParse("100")}, {"pid": resource.MustParse("50")}}, 1000)
	if pidsOf(got) != 850 {
		t.Errorf("150 of 1000 reserved: %v", got)
	}
}

func TestCgroupsOfAPod(t *testing.T) {
	testenv.NeedRoot(t)
	root := testenv.CgroupOf(testenv.Dir(t))
	m, err := New(Config{Root: root, Driver: "cgroupfs"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.tree.remove(root); err != nil {
			t.Error(err)
		}
	})
	p := pod(v1.ResourceList{v1.ResourceCPU: resource.MustParse("100m")}, nil)
	for range 2 { // idempotent
		if err := m.EnsurePod(p); err != nil {
			t.Fatal(err)
		}
	}
	if got := m.Pods(); len(got) != 1 || got[0] != p.UID {
		t.Errorf("pods = %v, want %s", got, p.UID)
	}
	for range 2 {
		if err := m.RemovePod(p.UID); err != nil {
			t.Fatal(err)
		}
	}
	if got := m.Pods(); len(got) != 0 {
		t.Errorf("pods after removal = %v", got)
	}
}

// TestV2Tree makes the tree of a v2 host, by either driver, in a folder that looks like one.
func TestV2Tree(t *testing.T) {
	for driver, dirs := range map[string][3]string{
		"cgroupfs": {"kubepods", "kubepods/burstable", "kubepods/burstable/pod0a-1b"},
		"systemd":  {"kubepods.slice", "kubepods.slice/kubepods-burstable.slice", "kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0a_1b.slice"},
	} {
		t.Run(driver, func(t *testing.T) {
			root := t.TempDir()
			file := func(dir, name string) string {
				b, _ := os.ReadFile(filepath.Join(root, dir, name))
				return string(b)
			}
			if err := os.WriteFile(filepath.Join(root, "cgroup.controllers"), []byte("cpu memory pids hugetlb\n"), 0o644); err != nil {
				t.Fatal(err)
			}
			m := &Manager{cfg: Config{Root: "/", Driver: driver, Enforce: true, PodPidsLimit: 99}, tree: &tree{v2: true, mounts: map[string]string{"": root}}, pods: map[types.UID]*v1.Pod{}, set: map[types.UID]limits{}}
			for _, at := range []string{m.path(), m.path("burstable"), m.path("besteffort")} {
				if err := m.tree.make(at, limits{shares: 1024, memoryBytes: 1 << 30, pids: 1000}); err != nil {
					t.Fatal(err)
				}
			}
			p := pod(v1.ResourceList{v1.ResourceCPU: resource.MustParse("500m")}, v1.ResourceList{v1.ResourceCPU: resource.MustParse("1"), v1.ResourceMemory: resource.MustParse("64Mi")})
			if err := m.EnsurePod(p); err != nil {
				t.Fatal(err)
			}
			for at, want := range map[[2]string]string{
				{dirs[0], "memory.max"}: "1073741824", {dirs[0], "pids.max"}: "1000", {dirs[1], "cpu.weight"}: "59",
				{dirs[2], "cpu.weight"}: "59", {dirs[2], "cpu.max"}: "100000 100000", {dirs[2], "memory.max"}: "67108864", {dirs[2], "pids.max"}: "99",
				{"", "cgroup.subtree_control"}: "+hugetlb",
			} {
				if got := file(at[0], at[1]); got != want {
					t.Errorf("%s/%s = %q, want %q", at[0], at[1], got, want)
				}
			}
			if got := m.Pods(); len(got) != 1 || got[0] != p.UID {
				t.Errorf("pods = %v, want %s", got, p.UID)
			}
		})
	}
}

// recorded is systemd's part of slices, written down. root is a folder that looks like the cgroups.
type recorded struct {
	root    string
	set     []systemd.Slice
	stopped []string
}

func (r *recorded) Set(_ context.Context, s systemd.Slice) error {
	r.set = append(r.set, s)
	return nil
}

func (r *recorded) Stop(_ context.Context, name string) error {
	r.stopped = append(r.stopped, name)
	return os.RemoveAll(filepath.Join(r.root, "kubepods.slice", "kubepods-burstable.slice", name))
}

// TestSystemdHearsOfEverySlice: what systemd does not know, it undoes; what it is not told to stop, it keeps.
func TestSystemdHearsOfEverySlice(t *testing.T) {
	rec := &recorded{root: t.TempDir()}
	m := &Manager{cfg: Config{Root: "/", Driver: "systemd"}, slices: rec, tree: &tree{v2: true, mounts: map[string]string{"": rec.root}}, pods: map[types.UID]*v1.Pod{}, set: map[types.UID]limits{}}
	lim := v1.ResourceList{v1.ResourceCPU: resource.MustParse("500m"), v1.ResourceMemory: resource.MustParse("64Mi")}
	p := pod(v1.ResourceList{v1.ResourceCPU: resource.MustParse("500m")}, lim)
	if err := m.EnsurePod(p); err != nil {
		t.Fatal(err)
	}
	wider := p.DeepCopy()
	delete(wider.Spec.Containers[0].Resources.Limits, v1.ResourceCPU)
	if err := m.EnsurePod(wider); err != nil {
		t.Fatal(err)
	}
	if err := m.RemovePod(p.UID); err != nil {
		t.Fatal(err)
	}
	const slice, about = "kubepods-burstable-pod0a_1b.slice", "pods of reeve"
	want := []systemd.Slice{
		{Name: slice, Description: about, CPUWeight: 59, CPUQuota: 500 * time.Millisecond, MemoryMax: 64 << 20},
		{Name: "kubepods-burstable.slice", Description: about, CPUWeight: 59},
		{Name: slice, Description: about, CPUWeight: 59, CPUQuota: systemd.NoLimit, MemoryMax: 64 << 20},
		{Name: "kubepods-burstable.slice", Description: about, CPUWeight: 1},
	}
	if !slices.Equal(rec.set, want) {
		t.Errorf("systemd heard\n%+v, want\n%+v", rec.set, want)
	}
	if !slices.Equal(rec.stopped, []string{slice}) {
		t.Errorf("systemd was told to stop %v", rec.stopped)
	}
}
