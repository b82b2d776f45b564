package vm

import (
	"os"
	"strings"
	"testing"

	"github.com/reevehq/reeve/internal/testenv"
)

// What of the native runtime's tests depends on the OCI runtime or on cgroups; TestOCIRuntimes has both runtimes anyway.
const runtimeTests = "^(TestOCIRuntimes|TestLifeOfAPod|TestContainersThatCannotStart|TestSecurityContext|TestNamespacesAndMounts|" +
	"TestStopSignalsAndGrace|TestOOMAndUpdate|TestOutOfMemoryIsTold|TestExecGivenUpWhileStarting|TestEvents|TestManyAtOnceLeakNothing|" +
	"TestRestartKeepsEverything|TestPauseFollows|TestExecStreams|TestAttachStreams)$"

// The native runtime with crun, which refuses the cgroups of many development hosts, and with runc beside it, on cgroup v2,
// with both cgroup drivers; and what each takes. It takes minutes in the slow machine: REEVE_LONG=1.
func TestNativeRuntimeOnCgroupV2(t *testing.T) {
	testenv.NeedLong(t)
	m := machine(t)
	t.Log(sh(t, m, "crun --version; runc --version; containerd --version"))
	only := os.Getenv("REEVE_VM_RUNTIME_TESTS")
	if only == "" {
		only = runtimeTests
	}
	for _, tc := range []struct {
		handler, driver, run string
	}{
		{"crun", "cgroupfs", only},
		{"crun", "systemd", only},
		{"runc", "cgroupfs", only},
		{"runc", "systemd", only},
		{"both", "cgroupfs", "^TestOCIRuntimesInTurns$"},
	} {
		t.Run(tc.handler+"/"+tc.driver, func(t *testing.T) {
			nativeTests(t, m, strings.TrimPrefix(tc.handler, "both"), tc.driver, tc.run)
		})
	}
}

// nativeTests runs tests of cri/native in the machine, with the named OCI runtime and cgroup driver.
func nativeTests(t *testing.T, m *Machine, handler, driver, run string) {
	t.Helper()
	sh(t, m, "modprobe overlay")
	env := []string{"REEVE_PARTS=/payload/parts", "REEVE_TEST_HANDLER=" + handler, "REEVE_TEST_CGROUP_DRIVER=" + driver, "REEVE_ROUNDS=10"}
	if driver == "systemd" {
		env = append(env, "REEVE_KEEP_RUN=1")
	}
	runTests(t, m, "/payload/native.test", []string{"-test.run", run}, env...)
}
