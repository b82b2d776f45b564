package vm

import (
	"os"
	"strings"
	"testing"
)

// What needs systemd and cgroup v2 for real and takes seconds: slices with their limits, and a full cgroup that wakes its
// watcher. Beside TestInstallOnASystemdHost, which takes minutes: REEVE_LONG=1.
func TestSystemdAndCgroupV2(t *testing.T) {
	if os.Getenv("REEVE_LONG") != "1" {
		t.Skip("its programs are built for the long form only: REEVE_LONG=1 runs it")
	}
	m := machine(t)
	for program, test := range map[string]string{"/payload/systemd.test": "TestSlicesOfSystemd", "/payload/cgroup.test": "TestLimitOfV2Wakes"} {
		r, err := m.Run(t.Context(), Command{Args: []string{program, "-test.v", "-test.run", "^" + test + "$", "-test.count", "5"}, Dir: "/payload"})
		if err != nil || r.Code != 0 || strings.Count(r.Output, "--- PASS: "+test) != 5 {
			t.Errorf("%s: exit code %d, %v:\n%s", test, r.Code, err, r.Output)
		}
	}
}
