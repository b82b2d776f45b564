package vm

import (
	"fmt"
	"strings"
	"testing"

	"github.com/reevehq/reeve/internal/testenv"
)

// What needs systemd and cgroup v2 for real and takes seconds: slices with their limits; a full cgroup and tasks that wait
// for memory, which wake their watcher; and containers killed for their memory, whose cgroups systemd removes at once.
// TestInstallOnASystemdHost and TestNativeRuntimeOnCgroupV2 have the whole of it, and take minutes.
func TestSystemdAndCgroupV2(t *testing.T) {
	m := machine(t)
	for program, tests := range map[string][]string{"systemd.test": {"TestSlicesOfSystemd"}, "cgroup.test": {"TestLimitOfV2Wakes", "TestPressureTriggerWakes"}} {
		for _, test := range tests {
			times := 1
			if testenv.Long() {
				times = 5
			}
			r, err := m.Run(t.Context(), Command{Args: []string{"/payload/" + program, "-test.v", "-test.run", "^" + test + "$", "-test.count", fmt.Sprint(times)}, Dir: "/payload"})
			if err != nil || r.Code != 0 || strings.Count(r.Output, "--- PASS: "+test) != times {
				t.Errorf("%s: exit code %d, %v:\n%s", test, r.Code, err, r.Output)
			}
		}
	}
	nativeTests(t, m, "runc", "systemd", "^TestOutOfMemoryIsTold$")
}
