package proxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/reevehq/reeve/internal/testns"
)

// churned are the Services whose endpoints change in TestChurn, and churnRate how often a second, all together.
const (
	churned   = 500
	churnRate = 50
)

// endpointSet is what a Service's pods were, from the moment that a change to them was begun until the change to the next
// was made: zero for the last.
type endpointSet struct {
	pods        []int
	begun, gone time.Time
}

// answered is a request and the pod that answered.
type answered struct {
	service, pod int
	begun, ended time.Time
}

// 500 Services, endpoints changing 50 times a second, for 5 s and with REEVE_LONG=1 for a minute, while clients connect: no
// request fails, and none is answered by a pod that had left its Service for longer than the slowest programming took.
// Every pod answers until the test ends; what fails is a rule.
func TestChurn(t *testing.T) {
	each(t, func(t *testing.T, flavor string) {
		w := newWorld(t, 4, flavor)
		w.api, _ = newHTTPAPI(t)
		// The kernel's room for connections is shared with the whole machine.
		testns.Sh(t, "echo 2 > /proc/sys/net/netfilter/nf_conntrack_tcp_timeout_time_wait")
		t.Cleanup(func() { testns.Sh(t, "echo 120 > /proc/sys/net/netfilter/nf_conntrack_tcp_timeout_time_wait") })
		ctx := t.Context()
		ip := func(i int) string { return fmt.Sprintf("10.96.%d.%d", 2+i/250, 1+i%250) }
		var mu sync.Mutex
		sets := make([][]endpointSet, churned)
		begin := time.Now()
		for i := range churned {
			name := fmt.Sprint("churn-", i)
			if _, err := w.api.CoreV1().Services("default").Create(ctx, &corev1.Service{
				ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
				Spec:       corev1.ServiceSpec{ClusterIP: ip(i), ClusterIPs: []string{ip(i)}, Ports: []corev1.ServicePort{{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80}}},
			}, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			if _, err := w.api.DiscoveryV1().EndpointSlices("default").Create(ctx, w.churnSlice(i, i%3), metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			sets[i] = []endpointSet{{pods: []int{i % 3}, begun: begin}}
		}
		registry := prometheus.NewRegistry()
		w.run(func(c *Config) { c.Registry = registry })
		w.settled(fmt.Sprintf("default/churn-%d:http cluster IP", churned-1))

		length := 5 * time.Second
		if long() {
			length = time.Minute
		}
		var wg sync.WaitGroup
		started := time.Now()
		end := started.Add(length)
		changes := 0
		wg.Go(func() {
			r := rand.New(rand.NewPCG(1, 2))
			for ; ; changes++ {
				due := started.Add(time.Duration(changes) * time.Second / churnRate) // late changes are made up for
				if due.After(end) {
					return
				}
				time.Sleep(time.Until(due))
				i := r.IntN(churned)
				// Never without a Ready endpoint: one to three of the pods.
				pods := r.Perm(3)[:1+r.IntN(3)]
				mu.Lock()
				sets[i] = append(sets[i], endpointSet{pods: pods, begun: time.Now()})
				mu.Unlock()
				if _, err := w.api.DiscoveryV1().EndpointSlices("default").Update(ctx, w.churnSlice(i, pods...), metav1.UpdateOptions{}); err != nil {
					t.Error(err)
				}
				mu.Lock()
				sets[i][len(sets[i])-2].gone = time.Now()
				mu.Unlock()
			}
		})
		var answers []answered
		slow, failed := 0, 0
		for c := range 2 {
			wg.Go(func() {
				r := rand.New(rand.NewPCG(uint64(c), 3))
				for time.Now().Before(end) {
					i := r.IntN(churned)
					from := []testns.Host{w.pods[3], w.node}[c]
					a := answered{service: i, begun: time.Now()}
					said, err := from.Answer("tcp", ip(i)+":80")
					a.ended = time.Now()
					if err == nil {
						_, err = fmt.Sscanf(said, "p%d", &a.pod)
					}
					mu.Lock()
					if err != nil {
						failed++
						t.Errorf("%s asked Service %d: %q, %v", from, i, said, err)
					} else {
						answers = append(answers, a)
					}
					if a.ended.Sub(a.begun) > time.Second {
						slow++ // its first SYN was lost
					}
					mu.Unlock()
				}
			})
		}
		wg.Wait()
		text, slowest := histogram(t, registry, "kubeproxy_network_programming_duration_seconds")
		astray := 0
		for _, a := range answers {
			if !slices.ContainsFunc(sets[a.service], func(s endpointSet) bool {
				return slices.Contains(s.pods, a.pod) && !s.begun.After(a.ended) && (s.gone.IsZero() || a.begun.Before(s.gone.Add(slowest)))
			}) {
				if astray++; astray <= 5 {
					t.Errorf("Service %d was answered by p%d, %v after the start, and had %v", a.service, a.pod, a.begun.Sub(started), sets[a.service])
				}
			}
		}
		t.Logf("%d changes in %v, %d connections, %d failed, %d answered by a pod that was gone, %d took more than a second",
			changes, length, len(answers)+failed, failed, astray, slow)
		t.Log(text)
	})
}

// churnSlice is the EndpointSlice of Service number i, changed now.
func (w *world) churnSlice(i int, pods ...int) *discoveryv1.EndpointSlice {
	name := fmt.Sprint("churn-", i)
	sl := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: "default", Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: name},
			Annotations: map[string]string{corev1.EndpointsLastChangeTriggerTime: time.Now().UTC().Format(time.RFC3339Nano)},
		},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: ptr.To("http"), Protocol: ptr.To(corev1.ProtocolTCP), Port: ptr.To(int32(8080))}},
	}
	for _, p := range pods {
		sl.Endpoints = append(sl.Endpoints, discoveryv1.Endpoint{Addresses: []string{w.ips[p].String()}, NodeName: ptr.To("here")})
	}
	return sl
}

// histogram prints a metric's buckets, as far as they tell more than the one before, and answers the upper end of the last.
func histogram(t *testing.T, r *prometheus.Registry, name string) (text string, most time.Duration) {
	t.Helper()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != name {
			continue
		}
		h := f.GetMetric()[0].GetHistogram()
		var out strings.Builder
		fmt.Fprintf(&out, "%s: %d observed, mean %.4f s\n", name, h.GetSampleCount(), h.GetSampleSum()/float64(h.GetSampleCount()))
		for _, b := range h.GetBucket() {
			fmt.Fprintf(&out, "  ≤ %g s: %d\n", b.GetUpperBound(), b.GetCumulativeCount())
			if most = time.Duration(b.GetUpperBound() * float64(time.Second)); b.GetCumulativeCount() == h.GetSampleCount() {
				break
			}
		}
		if h.GetSampleCount() == 0 {
			t.Errorf("%s observed nothing", name)
		}
		return out.String(), most
	}
	t.Errorf("no metric %s", name)
	return "", 0
}

// flow is a connection that lives and tells when it died.
type flow struct {
	conn  net.Conn
	lines *bufio.Scanner
	first string
}

func openFlow(t *testing.T, from testns.Host, network, target string) *flow {
	t.Helper()
	// Connection tracking forgets a quiet UDP flow after 30 s; a slow host is not what is tested.
	testns.Sh(t, "for f in udp_timeout udp_timeout_stream; do echo 3600 > /proc/sys/net/netfilter/nf_conntrack_$f; done")
	c, err := from.DialFor(network, target, testns.Patience)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	f := &flow{conn: c, lines: bufio.NewScanner(c)}
	if network == "tcp" {
		f.lines.Scan() // the greeting
	} else if f.first, err = testns.TalkFor(c, testns.Patience); err != nil {
		t.Fatal(err)
	}
	return f
}

// lives sends a line and wants it back; a datagram must reach the pod that the first reached.
func (f *flow) lives() error {
	if f.conn.RemoteAddr().Network() == "udp" {
		said, err := testns.TalkFor(f.conn, testns.Patience)
		if err == nil && said != f.first {
			err = fmt.Errorf("the flow moved from %q to %q", f.first, said)
		}
		return err
	}
	_ = f.conn.SetDeadline(time.Now().Add(testns.Patience))
	if _, err := fmt.Fprintln(f.conn, "alive"); err != nil {
		return err
	}
	if !f.lines.Scan() || f.lines.Text() != "alive" {
		return fmt.Errorf("the connection died: %w", errors.Join(f.lines.Err(), errors.New("no echo")))
	}
	return nil
}

// openFlows opens TCP and UDP flows through the Service at clusterIP and its node ports: from the last pod, the outside and
// the node. What is answered checks that all live.
func (w *world) openFlows(t *testing.T) (live func(when string)) {
	t.Helper()
	pod := w.pods[len(w.pods)-1]
	flows := map[string]*flow{
		"TCP from a pod":       openFlow(t, pod, "tcp", clusterIP+":80"),
		"UDP from a pod":       openFlow(t, pod, "udp", clusterIP+":53"),
		"TCP from the outside": openFlow(t, w.outside, "tcp", "192.0.2.1:30080"),
		"UDP from the outside": openFlow(t, w.outside, "udp", "192.0.2.1:30053"),
		"TCP from the node":    openFlow(t, w.node, "tcp", clusterIP+":80"),
	}
	return func(when string) {
		t.Helper()
		for what, f := range flows {
			if err := f.lives(); err != nil {
				t.Errorf("%s, %s: %v", when, what, err)
			}
		}
	}
}

// The proxy ends without a goodbye and starts again, others flush its rules: open TCP and UDP flows live on, through the
// moment without rules too.
func TestFlowsLiveThroughKillsAndFlushes(t *testing.T) {
	each(t, func(t *testing.T, flavor string) {
		w := newWorld(t, 4, flavor)
		w.service("web", clusterIP, nodePorts)
		w.endpoints("web", 0, 1, 2)
		w.run(func(c *Config) { c.CanaryPeriod = 100 * time.Millisecond })
		w.settled("default/web:dns node port")
		live := w.openFlows(t)
		live("at first")
		flushes := []string{"iptables-nft -w 5 -t nat -F KUBE-SERVICES; iptables-nft -w 5 -t nat -F PREROUTING", "iptables-nft -w 5 -F"}
		if flavor == "legacy" {
			flushes = []string{"iptables-legacy -w 5 -t nat -F", "iptables-legacy -w 5 -F"}
		} else if flavor == onNFTables {
			flushes = []string{"nft flush chain ip reeve-proxy services", "nft flush map ip reeve-proxy service-ips", "nft flush table ip reeve-proxy", "nft delete table ip reeve-proxy"}
		} else if flavor == onIPVS {
			flushes = []string{"iptables -w 5 -t nat -F", "iptables -w 5 -F", "ipset flush reeve-services; ipset flush reeve-addresses; ipset flush reeve-hairpin"}
		}
		for _, flush := range flushes {
			testns.Sh(t, "%s", flush)
			// One that is first tried now gets through once the rules are back, without being tried anew.
			tried := make(chan error, 1)
			go func() {
				_, err := w.pods[3].AskFrom("tcp", netip.Addr{}, netip.MustParseAddrPort(clusterIP+":80"), time.Minute)
				tried <- err
			}()
			datagrams, err := w.pods[3].Dial("udp", clusterIP+":53")
			if err != nil {
				t.Fatal(err)
			}
			live("after " + flush)
			testns.Eventually(t, "an answer to datagrams since "+flush, func() bool { _, err := testns.Talk(datagrams); return err == nil })
			datagrams.Close()
			if err := <-tried; err != nil {
				t.Errorf("a connection tried at once after %s: %v", flush, err)
			}
			live("healed after " + flush)
		}
		if flavor == onIPVS { // while the address is nobody's, nothing passes
			testns.Sh(t, "ip link del reeve-ipvs0")
			testns.Eventually(t, "new connections after the device went", func() bool { _, err := w.pods[3].Ask("tcp", clusterIP+":80"); return err == nil })
			live("healed after the device went")
		}
		// kill -9: the process's state is gone and its rules are not; a change came meanwhile.
		for range map[bool]int{true: 3, false: 1}[long()] {
			w.stop()
			live("without the proxy")
			w.endpoints("web", 0, 1, 2, 3)
			w.run(nil)
			w.settled(w.ips[3].String() + ":8080")
			live("started again")
			w.endpoints("web", 0, 1, 2)
			w.unsettled(w.ips[3].String() + ":8080")
		}
	})
}

// What the host lacks and what users get wrong is named, with what to do.
func TestBadHostsAreNamed(t *testing.T) {
	testns.Need(t)
	base := (&world{t: t, flavor: onNFTables}).config()
	path := func(commands ...string) string {
		dir := t.TempDir()
		for _, c := range commands {
			testns.Sh(t, "ln -s $(command -v %s) %s/", c, dir)
		}
		return dir
	}
	oldNFT := t.TempDir()
	testns.Sh(t, "printf '#!/bin/sh\\necho nftables v0.9.8\\n' > %s/nft; chmod +x %[1]s/nft", oldNFT)
	for name, c := range map[string]struct {
		path string
		mode Mode
		want []string
	}{
		"no nft":                   {path(), ModeNFTables, []string{"nftables", "nft"}},
		"no iptables":              {path(), ModeIPTables, []string{"find iptables", "install"}},
		"neither":                  {path(), ModeAuto, []string{"mode nftables", "mode iptables"}},
		"an nft that is too old":   {oldNFT, ModeNFTables, []string{"nft", "1.0.1"}},
		"iptables without restore": {path("iptables"), ModeIPTables, []string{"iptables-restore", "install"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv("PATH", c.path+":/bin/none")
			cfg := base
			cfg.Mode, cfg.IPTables = c.mode, ""
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
			defer cancel()
			cfg.Client = newWorldAPI()
			err := Run(ctx, cfg)
			if err == nil {
				t.Fatal("it ran")
			}
			for _, w := range c.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%v does not say %q", err, w)
				}
			}
		})
	}
}
