package vm

import (
	"bytes"
	"os"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// proxyShort are the tests of package proxy that CI runs with IPVS; REEVE_LONG=1 runs all that have a form for it.
const proxyShort = "^(TestOtherPortsOfServiceAddressesAreClosed|TestServersDrain|TestBothPoliciesLocal|" +
	"TestServiceWithoutEndpointsRejectsAtOnceAndUDPFlowMovesOn|TestExternalIPsAndLoadBalancerSourceRanges|TestIPv6Service|" +
	"TestRestartKeepsConnectionsAndRulesAndRemovesWhatIsGone)$"

const proxyLong = proxyShort + "|^(TestServiceSpreads|TestSourceAddress|TestExternalTrafficPolicyLocal|TestInternalTrafficPolicyLocal|TestSessionAffinity|" +
	"TestTypeAndPorts|TestForeignFlushIsHealed|TestUsersMarksSurvive|TestHealthAndMetrics|TestRunStopsEverything|TestEndpointOnTheNode|" +
	"TestNoConnectionFails|TestNodePortsFollow|TestForeignVirtualServicesStay)"

// The Service tests with real packets, on the kernel's IPVS: the same that run on the host with iptables and nftables, and
// those of IPVS alone.
func TestServicesOnIPVS(t *testing.T) {
	m := machine(t)
	run := proxyShort
	if os.Getenv("REEVE_LONG") == "1" {
		run = proxyLong
	}
	// Two halves beside each other, one a processor.
	tests := listTests(t, m, "/payload/proxy.test", run)
	var wg sync.WaitGroup
	for half := range 2 {
		var names []string
		for i, name := range tests {
			if i%2 == half {
				names = append(names, regexp.QuoteMeta(name))
			}
		}
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
	r, err := m.Run(t.Context(), Command{
		Args: []string{program, "-test.v", "-test.timeout", "30m", "-test.run", run}, Env: append(env, "REEVE_VM=1"), Timeout: 30 * time.Minute, Output: &out,
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
