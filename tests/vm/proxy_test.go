package vm

import (
	"bytes"
	"io"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// proxyShort are the tests of package proxy that CI runs with IPVS; REEVE_LONG=1 runs all that have a form for it.
const proxyShort = "^(TestStoriesWithRealPackets|TestOtherPortsOfServiceAddressesAreClosed|TestServersDrain|TestBothPoliciesLocal|" +
	"TestRestartKeepsConnectionsAndRulesAndRemovesWhatIsGone)$"

const proxyLong = proxyShort + "|^(TestServiceWithoutEndpoints|TestExternalIPsAndLoadBalancer|TestIPv6Service|TestServiceSpreads|TestSourceAddress|TestExternalTrafficPolicyLocal|TestInternalTrafficPolicyLocal|TestSessionAffinity|" +
	"TestTypeAndPorts|TestForeignFlushIsHealed|TestUsersMarksSurvive|TestHealthAndMetrics|TestRunStopsEverything|TestEndpointOnTheNode|" +
	"TestNoConnectionFails|TestNodePortsFollow|TestForeignVirtualServicesStay|TestSwitchToAndFromIPVS)"

// The Service tests with real packets, on the kernel's IPVS: the same that run on the host with iptables and nftables, and
// those of IPVS alone.
func TestServicesOnIPVS(t *testing.T) {
	m := machine(t)
	run, long := proxyShort, os.Getenv("REEVE_LONG") == "1"
	if long {
		run = proxyLong
	}
	// Two halves beside each other, one a processor. The stories take as long as the others of the short form together.
	var halves [2][]string
	for i, name := range listTests(t, m, "/payload/proxy.test", run) {
		half := 1
		if name == "TestStoriesWithRealPackets" || (long && i%2 == 0) {
			half = 0
		}
		halves[half] = append(halves[half], regexp.QuoteMeta(name))
	}
	var wg sync.WaitGroup
	for _, names := range halves {
		wg.Go(func() { runTests(t, m, "/payload/proxy.test", "^("+strings.Join(names, "|")+")$") })
	}
	wg.Wait()
}

// Programming beside bare netlink calls: not slower than the kernel by more than the bound would be a matter of an
// idle host; here that it works at a size, and the figures in the log. REEVE_SCALE=1000,10000,40000 measures.
func TestIPVSAtScale(t *testing.T) {
	m := machine(t)
	runTests(t, m, "/payload/ipvs.test", "^TestScale$", "REEVE_SCALE="+os.Getenv("REEVE_SCALE"))
}

func listTests(t *testing.T, m *Machine, program, run string) []string {
	t.Helper()
	var names []string
	for name := range strings.Lines(sh(t, m, program+" -test.list '"+run+"'")) {
		if name = strings.TrimSpace(name); strings.HasPrefix(name, "Test") {
			names = append(names, name)
		}
	}
	if len(names) < 2 {
		t.Fatalf("%s has no tests of the names %s", program, run)
	}
	return names
}

// runTests runs a test program in the machine, and fails with its output.
func runTests(t *testing.T, m *Machine, program, run string, env ...string) {
	t.Helper()
	var out bytes.Buffer
	var also io.Writer = &out
	if path := os.Getenv("REEVE_VM_LOG"); path != "" { // to follow a long run
		f, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		also = io.MultiWriter(&out, f)
	}
	r, err := m.Run(t.Context(), Command{
		Args: []string{program, "-test.v", "-test.timeout", "30m", "-test.run", run}, Env: append(env, "REEVE_VM=1"), Dir: "/payload", Timeout: 30 * time.Minute, Output: also,
	})
	if err != nil || r.Code != 0 {
		t.Errorf("exit code %d, %v:\n%s", r.Code, err, out.String())
		return
	}
	for line := range strings.Lines(out.String()) {
		if strings.HasPrefix(line, "--- SKIP") {
			t.Errorf("skipped in the machine: %s", line)
		}
		if strings.HasPrefix(line, "--- PASS") || strings.Contains(line, "Services:") {
			t.Log(strings.TrimRight(line, "\n"))
		}
	}
}
