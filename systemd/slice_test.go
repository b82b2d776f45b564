package systemd

import (
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestLimitsOfASlice(t *testing.T) {
	for name, tc := range map[string]struct {
		slice Slice
		want  map[string]uint64
	}{
		"none":       {Slice{}, map[string]uint64{}},
		"all":        {Slice{CPUWeight: 59, CPUQuota: 500 * time.Millisecond, MemoryMax: 1 << 20, TasksMax: 9}, map[string]uint64{"CPUWeight": 59, "CPUQuotaPerSecUSec": 500_000, "MemoryMax": 1 << 20, "TasksMax": 9}},
		"rounded up": {Slice{CPUQuota: 12345 * time.Microsecond}, map[string]uint64{"CPUQuotaPerSecUSec": 20_000}},
		"taken away": {Slice{CPUQuota: NoLimit, MemoryMax: NoLimit}, map[string]uint64{"CPUQuotaPerSecUSec": math.MaxUint64, "MemoryMax": math.MaxUint64}},
	} {
		got := map[string]uint64{}
		for _, p := range tc.slice.limits() {
			got[p.Name], _ = p.Value.Value().(uint64)
		}
		if len(got) != len(tc.want) {
			t.Errorf("%s: %v, want %v", name, got, tc.want)
		}
		for k, v := range tc.want {
			if got[k] != v {
				t.Errorf("%s: %s is %d, want %d", name, k, got[k], v)
			}
		}
	}
}

// TestSlicesOfSystemd makes, changes and ends slices, and reads what the kernel has of them: limits stay as they are set
// when systemd looks at the tree again, and a slice takes what is in it along. tests/vm runs it in a machine with systemd.
func TestSlicesOfSystemd(t *testing.T) {
	const at = "/sys/fs/cgroup/reevetest.slice"
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err != nil || !Running() || os.Geteuid() != 0 {
		t.Skip("needs systemd on cgroup v2, and root: it runs in a virtual machine")
	}
	var s Slices
	defer s.Close()
	file := func(dir, name, want string) {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(at, dir, name))
		if got := strings.TrimSpace(string(b)); got != want {
			t.Errorf("%s of %q is %q, want %q (%v)", name, dir, got, want, err)
		}
	}
	set := func(slice Slice) {
		t.Helper()
		slice.Description = "a test of reeve's"
		if err := s.Set(t.Context(), slice); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		var again Slices
		defer again.Close()
		_ = again.Stop(t.Context(), "reevetest.slice")
	})
	set(Slice{Name: "reevetest-pod1.slice", CPUWeight: 59, CPUQuota: 500 * time.Millisecond, MemoryMax: 64 << 20, TasksMax: 99})
	const pod = "reevetest-pod1.slice"
	file(pod, "cpu.weight", "59")
	file(pod, "cpu.max", "50000 100000")
	file(pod, "memory.max", "67108864")
	file(pod, "pids.max", "99")
	file("", "memory.max", "max")
	// Another connection, as after a restart; and limits beside one another.
	s.Close()
	set(Slice{Name: "reevetest.slice", MemoryMax: 1 << 30})
	set(Slice{Name: pod, MemoryMax: 32 << 20, CPUQuota: NoLimit})
	file("", "memory.max", "1073741824")
	file(pod, "memory.max", "33554432")
	file(pod, "cpu.max", "max 100000")
	file(pod, "cpu.weight", "59")
	conn, err := connect(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.ReloadContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	file(pod, "memory.max", "33554432")
	for range 2 { // with the slice in it; then nothing is there
		if err := s.Stop(t.Context(), "reevetest.slice"); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(at); !os.IsNotExist(err) {
			t.Fatalf("the cgroup is still there: %v", err)
		}
	}
	var services Services
	defer services.Close()
	for name, want := range map[string]string{"dbus.service": "active", "reeve-no-such.service": "inactive"} {
		if got, err := services.Read(t.Context(), name); err != nil || got.Active != want || (got.Invocation != "") != (want == "active") {
			t.Errorf("%s is %+v, %v", name, got, err)
		}
	}
	units, err := conn.ListUnitsByPatternsContext(t.Context(), nil, []string{"reevetest*"})
	if err != nil || len(units) > 0 {
		t.Errorf("systemd still lists %v, %v", units, err)
	}
}
