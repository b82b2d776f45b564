package native

import (
	"fmt"
	"strings"
	"syscall"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestBlame: whose kill it was, when some of the cgroups that tell are gone.
func TestBlame(t *testing.T) {
	n := func(v uint64) *uint64 { return &v }
	for _, tc := range []struct {
		name          string
		own, pod      *uint64
		living        []*uint64
		before, after uint64
		killed        bool
	}{
		{"own cgroup tells, no pod's", n(1), nil, nil, 0, 0, true},
		{"own cgroup denies, no pod's", n(0), nil, nil, 0, 0, false},
		{"nothing tells", nil, nil, nil, 0, 0, false},
		{"own cgroup tells, and is accounted for", n(2), n(2), nil, 0, 2, true},
		{"own cgroup is gone, pod's tells", nil, n(2), nil, 0, 2, true},
		{"own cgroup is gone, the kill was one before", nil, n(2), nil, 2, 2, false},
		{"own cgroup is gone, a living one's child was killed", nil, n(1), []*uint64{n(1)}, 0, 0, false},
		{"own cgroup is gone, and a living one's child was killed too", nil, n(3), []*uint64{n(1), n(0)}, 1, 2, true},
		{"own cgroup denies, pod's is accounted for by what ended before", n(0), n(1), nil, 0, 1, false},
		{"another ended at once: both are blamed", nil, n(1), []*uint64{nil}, 0, 0, true},
		{"another ended at once, nothing new", nil, n(1), []*uint64{nil}, 1, 1, false},
		{"the pod's cgroup was made anew", nil, n(1), nil, 5, 1, false},
		{"killed in a pod's cgroup made anew", nil, n(2), nil, 1, 2, true},
	} {
		killed, after := blame(tc.own, tc.pod, tc.living, tc.before)
		if killed != tc.killed || after != tc.after {
			t.Errorf("%s: %t and %d, want %t and %d", tc.name, killed, after, tc.killed, tc.after)
		}
	}
}

// TestOutOfMemoryIsTold: the end of a container says each time that it was killed for its memory, and never does when it was
// killed otherwise, whatever became of its neighbours; also when it ends while the runtime is away.
func TestOutOfMemoryIsTold(t *testing.T) {
	g := newRig(t)
	sb := g.sandbox("greedy")
	limited := func(c *runtimeapi.ContainerConfig) { c.Linux.Resources.MemoryLimitInBytes = 16 << 20 }
	wants := func(id, reason string) {
		t.Helper()
		if st := g.wait(id); st.Reason != reason || st.ExitCode != 137 {
			t.Errorf("%s ended as %s %d, not as %s", st.Metadata.Name, st.Reason, st.ExitCode, reason)
		}
	}
	// Its child is killed now and then, and it lives on.
	parent := g.run(sb, containerConfig("parent", limited, "sh", "-c", "while :; do tail /dev/zero; sleep 0.2; done"))
	for i := range 5 {
		wants(g.run(sb, containerConfig(fmt.Sprintf("hog%d", i), limited, "tail", "/dev/zero")), reasonOOM)
		id := g.run(sb, containerConfig(fmt.Sprintf("killed%d", i), nil, "sleep", "1000"))
		if err := g.StopContainer(t.Context(), id, 0); err != nil {
			t.Error(err)
		}
		wants(id, reasonError)
	}
	for _, away := range []struct {
		sig    syscall.Signal
		reason string
	}{{syscall.SIGUSR1, reasonOOM}, {syscall.SIGKILL, reasonError}} {
		id := g.run(sb, containerConfig("away"+away.reason, limited, "sh", "-c", "trap 'exec tail /dev/zero' USR1; echo set; while :; do sleep 0.01; done"))
		c, _ := g.store.container(id)
		pid, path, cgroups := int(c.pid), g.cgroupPath(c.rec.Cgroup), g.cgroups
		waitFor(t, func() bool { return strings.Contains(g.log(id), " F set\n") })
		g.stop()
		if err := syscall.Kill(pid, away.sig); err != nil {
			t.Fatal(err)
		}
		waitFor(t, func() bool { // systemd removes the cgroup, runc lets it stay
			return syscall.Kill(pid, 0) == syscall.ESRCH && (g.cfg.CgroupDriver != "systemd" || cgroups.OOMKills(path) == nil)
		})
		g.start()
		wants(id, away.reason)
	}
	if st := g.status(parent); st.State != runtimeapi.ContainerState_CONTAINER_RUNNING {
		t.Errorf("the parent ended with its child: %v", st)
	}
}
