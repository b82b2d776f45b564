package vm

import (
	"bytes"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/reevehq/reeve/internal/testenv"
)

// The tests of package proxy that CI runs with IPVS. REEVE_LONG=1 runs all that have a form for it, and the stories with
// real packets, which take minutes; REEVE_VM_STORIES picks among those, REEVE_VM_TESTS among the others.
const (
	proxyShort = "^(TestOtherPortsOfServiceAddressesAreClosed|TestServersDrain)$"
	// noIPVS are tests of what this mode refuses, of the other modes alone, and of hosts without IPVS or IPv6.
	noIPVS  = "^(TestHostWithoutIPVS|TestNodePortsOnLoopback|TestLoopbackIsOpened|TestModeSwitchKeeps|TestStories|TestBadHosts|TestFirewalld|TestKernelWithoutIPv6)"
	stories = "^TestStoriesWithRealPackets$/^ipvs$/"
)

// The Service tests with real packets, on the kernel's IPVS: the same that run on the host with iptables and nftables, and
// those of IPVS alone.
func TestServicesOnIPVS(t *testing.T) {
	m := machine(t)
	run := func(args ...string) func() {
		return func() {
			runTests(t, m, "/payload/proxy.test", args, "REEVE_LONG="+os.Getenv("REEVE_LONG"), "REEVE_LOG="+os.Getenv("REEVE_LOG"))
		}
	}
	someStories, someTests := os.Getenv("REEVE_VM_STORIES"), os.Getenv("REEVE_VM_TESTS")
	var runs []func()
	switch {
	case someStories != "" || someTests != "":
		if someStories != "" {
			runs = append(runs, run("-test.run", stories+"("+someStories+")"))
		}
		if someTests != "" {
			runs = append(runs, run("-test.run", someTests))
		}
	case testenv.Long():
		runs = append(runs, run("-test.skip", noIPVS), run("-test.run", stories))
	default:
		runs = append(runs, run("-test.run", proxyShort))
	}
	// Beside each other, one a processor.
	var wg sync.WaitGroup
	for _, fn := range runs {
		wg.Go(fn)
	}
	wg.Wait()
}

// Programming beside bare netlink calls: not slower than the kernel by more than the bound would be a matter of an
// idle host; here that it works at a size, and the figures in the log. REEVE_SCALE=1000,10000,40000 measures.
func TestIPVSAtScale(t *testing.T) {
	m := machine(t)
	runTests(t, m, "/payload/ipvs.test", []string{"-test.run", "^TestScale$"}, "REEVE_SCALE="+os.Getenv("REEVE_SCALE"))
}

// runTests runs a test program in the machine, and fails with its output.
func runTests(t *testing.T, m *Machine, program string, args []string, env ...string) {
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
		Args: append([]string{program, "-test.v", "-test.timeout", "45m"}, args...), Env: append(env, "REEVE_VM=1"), Dir: "/payload", Timeout: 45 * time.Minute, Output: also,
	})
	if err != nil || r.Code != 0 {
		t.Errorf("exit code %d, %v:\n%s", r.Code, err, out.String())
		return
	}
	if !strings.Contains(out.String(), "--- PASS") {
		t.Errorf("nothing has run:\n%s", out.String())
	}
	for line := range strings.Lines(out.String()) {
		if strings.HasPrefix(line, "--- SKIP") {
			t.Errorf("skipped in the machine: %s", line)
		}
		if strings.HasPrefix(strings.TrimSpace(line), "--- PASS") || strings.Contains(line, "connections,") || strings.Contains(line, "Services:") || strings.Contains(line, "Times:") {
			t.Log(strings.TrimRight(line, "\n"))
		}
	}
}
