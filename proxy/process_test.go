package proxy

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"

	"github.com/reevehq/reeve/internal/nfnl"
	"github.com/reevehq/reeve/internal/testns"
)

// processAPI and processFlavor make the test binary a proxy: on the API at that address, of that flavor.
const (
	processAPI    = "REEVE_TEST_PROXY_API"
	processFlavor = "REEVE_TEST_PROXY_FLAVOR"
)

// processMain is the proxy as a process of its own. It ends with its standard input, and so with the test.
func processMain() error {
	client, err := apiClient(os.Getenv(processAPI))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		cancel()
	}()
	w := &world{flavor: os.Getenv(processFlavor), api: client}
	c := w.config()
	c.CanaryPeriod = 200 * time.Millisecond
	return Run(ctx, c)
}

// process is a proxy that may be killed.
type process struct {
	t   *testing.T
	cmd *exec.Cmd
}

func (w *world) process(t *testing.T, api string) *process {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), processAPI+"="+api, processFlavor+"="+w.flavor)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.Fatal(err)
	}
	p := &process{t, cmd}
	t.Cleanup(func() {
		p.kill()
		_ = stdin.Close()
	})
	return p
}

// kill is kill -9. It returns when the process is gone.
func (p *process) kill() {
	if p.cmd.ProcessState == nil {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
	}
}

// writes are changed rules and elements.
type writes struct{ rules, elements int64 }

// writeCounter counts what the kernel tells of changed rules and elements, in whatever table.
type writeCounter struct{ rules, elements atomic.Int64 }

// take answers what was counted since the last time.
func (c *writeCounter) take() writes { return writes{c.rules.Swap(0), c.elements.Swap(0)} }

func countWrites(t *testing.T) *writeCounter {
	t.Helper()
	w := &writeCounter{}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- nfnl.Listen(ctx, func(m nfnl.Message) {
			switch m.Kind {
			case nfnl.Type(unix.NFT_MSG_NEWRULE), nfnl.Type(unix.NFT_MSG_DELRULE):
				w.rules.Add(1)
			case nfnl.Type(unix.NFT_MSG_NEWSETELEM), nfnl.Type(unix.NFT_MSG_DELSETELEM):
				w.elements.Add(1)
			}
		}, func() { t.Error("lost events of the kernel") })
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return w
}

// The proxy is killed with -9 and started again, and its rules are flushed while it is dead, under open TCP and UDP flows,
// beside many other Services: flows live on, what changed meanwhile is written, what was flushed is mended, and nothing
// else is. The kernel counts.
func TestKilledProxyWritesOnlyWhatChanged(t *testing.T) {
	each(t, func(t *testing.T, flavor string) {
		others := 100
		if long() {
			others = 1000
		}
		ip := func(i int) string { return fmt.Sprintf("10.96.%d.%d", 2+i/250, 1+i%250) }
		w := newWorld(t, 4, flavor)
		var api string
		w.api, api = newHTTPAPI(t)
		for i := range others {
			name := fmt.Sprint("other-", i)
			w.service(name, ip(i), func(s *corev1.ServiceSpec) { s.Ports = s.Ports[:1] })
			w.endpoints(name, 0, 1)
		}
		w.service("web", clusterIP, nodePorts)
		w.endpoints("web", 0, 1)
		t.Cleanup(w.cleanup)
		counted := countWrites(t)
		p := w.process(t, api)
		w.settled(fmt.Sprintf("default/other-%d:http cluster IP", others-1))
		w.settled("default/web:dns node port")
		all := counted.take()
		live := w.openFlows(t)
		for round, flush := range []string{"true", w.on(
			"iptables-"+flavor+" -w 5 -t nat -F $(iptables-"+flavor+"-save -t nat | grep -o 'KUBE-SVC-[A-Z0-9]*' | head -1); iptables-"+flavor+" -w 5 -F",
			"nft flush map ip reeve-proxy endpoints-udp-3; nft flush chain ip reeve-proxy services", "true")} {
			live("before it is killed")
			p.kill()
			testns.Sh(t, "%s", flush)
			live("after a kill and " + flush)
			pods := []int{0, 1, 2}[:3-round] // a third pod comes, and goes
			w.endpoints("web", pods...)
			counted.take()
			p = w.process(t, api)
			if last := w.ips[2].String() + ":8080"; len(pods) == 3 {
				w.settled(last)
			} else {
				w.unsettled(last)
			}
			for i := range others {
				testns.Eventually(t, "an answer of every other Service", func() bool { _, err := w.node.Ask("tcp", ip(i)+":80"); return err == nil })
			}
			for _, to := range []string{"tcp " + clusterIP + ":80", "udp " + clusterIP + ":53"} {
				network, target, _ := strings.Cut(to, " ")
				testns.Eventually(t, "an answer to "+to, func() bool { _, err := w.pods[3].Ask(network, target); return err == nil })
			}
			live("started after a kill and " + flush)
			// The kernel tells nothing of legacy iptables; there the proxy counts. An nftables table's rules do not grow with
			// Services, and are written anew.
			now, said := counted.take(), w.written(t)
			if now.elements > all.elements/3 || (flavor != onNFTables && now.rules > all.rules/3) || said > others/3 {
				t.Errorf("after a kill and %s the kernel was told of %+v, the proxy says %d; everything is %+v", flush, now, said, all)
			}
			t.Logf("after a kill and %s: %+v, by the proxy's count %d rules; everything was %+v", flush, now, said, all)
		}
	})
}

// written sums what the last programming wrote, as the running proxy counts it where it writes iptables' rules.
func (w *world) written(t *testing.T) int {
	t.Helper()
	_, body := get(t, "http://127.0.0.1:10249/metrics")
	sum := 0
	for line := range strings.Lines(body) {
		if strings.HasPrefix(line, "kubeproxy_sync_proxy_rules_iptables_last{") {
			_, value, _ := strings.Cut(line, "} ")
			n, err := strconv.Atoi(strings.TrimSpace(value))
			if err != nil {
				t.Errorf("%q: %v", line, err)
			}
			sum += n
		}
	}
	return sum
}
