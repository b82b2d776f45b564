package cgroup

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestMountsOfThreeKindsOfHosts(t *testing.T) {
	const v1 = "30 23 0:26 / /sys/fs/cgroup/memory rw,nosuid - cgroup cgroup rw,memory\n" +
		"31 23 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n" +
		"32 23 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n"
	const v2 = "33 23 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
	for name, tc := range map[string]struct {
		mounts  string
		unified bool
		memory  string
		cpuacct string
	}{
		"v1":     {v1, false, "/sys/fs/cgroup/memory/a", "/sys/fs/cgroup/cpu,cpuacct/a"},
		"hybrid": {v1 + v2, false, "/sys/fs/cgroup/memory/a", "/sys/fs/cgroup/cpu,cpuacct/a"},
		"v2":     {"33 23 0:29 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n", true, "/sys/fs/cgroup/a", "/sys/fs/cgroup/a"},
		"blank":  {"33 23 0:29 / /sys/fs/c\\040g rw - cgroup2 cgroup2 rw\n36 35 98:0 /mnt1 /mnt2 rw - ext3 /dev/root rw\n\n", true, "/sys/fs/c g/a", "/sys/fs/c g/a"},
	} {
		h := &Host{V1: map[string]string{}}
		for line := range strings.Lines(tc.mounts) {
			h.addMount(strings.TrimSpace(line))
		}
		h.Unified = h.V2 != "" && h.V1["memory"] == ""
		if h.Unified != tc.unified || h.Dir("memory", "/a") != tc.memory || h.Dir("cpuacct", "a") != tc.cpuacct {
			t.Errorf("%s: %+v", name, h)
		}
	}
}

func write(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, data := range files {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func TestReadV2(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{
		"p/cpu.stat": "usage_usec 1500\nuser_usec 1\n", "p/memory.current": "1000\n", "p/memory.max": "max\n",
		"p/memory.stat": "anon 300\ninactive_file 400\npgfault 7\npgmajfault 2\n", "p/pids.current": "3\n",
		"p/memory.events": "oom 1\noom_kill 2\n", "p/memory.swap.current": "5\n",
		"p/cpu.pressure": "some avg10=0.50 avg60=1.00 avg300=0.25 total=12\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=3\n",
	})
	u := (&Host{Unified: true, V2: dir}).Read("/p")
	if *u.CPUNanoseconds != 1_500_000 || *u.MemoryUsage != 1000 || *u.MemoryWorkingSet != 600 || *u.MemoryRSS != 300 || u.MemoryLimit != nil ||
		*u.Processes != 3 || *u.OOMKills != 2 || *u.SwapUsage != 5 || u.CPUPressure.Some.Avg10 != 0.5 || u.CPUPressure.Full.Total != 3000 || u.IOPressure != nil {
		t.Errorf("%+v", u)
	}
	if gone := (&Host{Unified: true, V2: dir}).Read("/gone"); gone.MemoryUsage != nil || gone.CPUNanoseconds != nil {
		t.Errorf("a cgroup that is gone: %+v", gone)
	}
}

func TestReadV1(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{
		"cpuacct/p/cpuacct.usage": "99\n", "memory/p/memory.usage_in_bytes": "1000\n", "memory/p/memory.limit_in_bytes": "9223372036854771712\n",
		"memory/p/memory.stat":        "total_inactive_file 1200\ntotal_rss 300\ntotal_pgfault 7\ntotal_pgmajfault 2\n",
		"memory/p/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n", "pids/p/pids.current": "4\n",
	})
	h := &Host{V1: map[string]string{"cpuacct": dir + "/cpuacct", "memory": dir + "/memory", "pids": dir + "/pids"}}
	u := h.Read("p")
	if *u.CPUNanoseconds != 99 || *u.MemoryWorkingSet != 0 || u.MemoryLimit != nil || *u.OOMKills != 1 || *u.Processes != 4 {
		t.Errorf("%+v", u)
	}
}

func TestRemoveRefusesTheRoot(t *testing.T) {
	for _, p := range []string{"", "/", "..", "/.."} {
		if err := (&Host{V1: map[string]string{"memory": t.TempDir()}}).Remove(p); err == nil {
			t.Errorf("%q: no error", p)
		}
	}
}
