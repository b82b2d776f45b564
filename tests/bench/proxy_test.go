package bench

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/utils/ptr"

	"github.com/reevehq/reeve/internal/testns"
	"github.com/reevehq/reeve/internal/xtables"
	"github.com/reevehq/reeve/proxy"
	"github.com/reevehq/reeve/proxy/iptables"
	"github.com/reevehq/reeve/proxy/nftables"
	"github.com/reevehq/reeve/proxy/plan"
)

// rules is a backend of the Service proxy.
type rules interface {
	Apply(ctx context.Context, changes map[plan.Name]*plan.Planned, full bool) error
}

var proxyFacts = plan.Facts{NodeName: "here", ClusterCIDRs: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/9")}}

// serviceObjects are n Services with two endpoints each, as the API has them. Service 0 has the endpoint last.
func serviceObjects(n int, last netip.Addr) (out []runtime.Object) {
	for i := range n {
		name := fmt.Sprintf("svc-%d", i)
		out = append(out, &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
			Spec: corev1.ServiceSpec{
				Type: corev1.ServiceTypeClusterIP, ClusterIP: clusterIP(i).String(), ClusterIPs: []string{clusterIP(i).String()},
				Ports: []corev1.ServicePort{{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80}},
			},
		}, sliceObject(i, 0, last))
	}
	return out
}

func clusterIP(i int) netip.Addr { return netip.AddrFrom4([4]byte{10, 200, byte(i >> 8), byte(i)}) }

func sliceObject(i, version int, only netip.Addr) *discoveryv1.EndpointSlice {
	name := fmt.Sprintf("svc-%d", i)
	addrs := []string{
		netip.AddrFrom4([4]byte{10, byte(i >> 14), byte(i >> 6), byte(i<<2) | 1}).String(),
		netip.AddrFrom4([4]byte{10, byte(64 + version%32), byte(i >> 8), byte(i)}).String(),
	}
	if i == 0 && only.IsValid() {
		addrs = []string{only.String()}
	}
	s := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: name}}, AddressType: discoveryv1.AddressTypeIPv4,
		Ports: []discoveryv1.EndpointPort{{Name: ptr.To("http"), Port: ptr.To(int32(8080)), Protocol: ptr.To(corev1.ProtocolTCP)}},
	}
	for _, a := range addrs {
		s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{a}, NodeName: ptr.To("here")})
	}
	return s
}

// planAll is the way from API objects to plans.
func planAll(objects []runtime.Object) map[plan.Name]*plan.Planned {
	out := make(map[plan.Name]*plan.Planned, len(objects)/2)
	for i := 0; i < len(objects); i += 2 {
		svc, _ := plan.FromService(objects[i].(*corev1.Service))
		sl, _ := plan.FromSlice(objects[i+1].(*discoveryv1.EndpointSlice))
		p := plan.Plan(proxyFacts, svc, []plan.Slice{sl})
		out[svc.Name] = &p
	}
	return plan.NewClaims().Change(out)
}

// changed is Service number i with another endpoint.
func changed(objects []runtime.Object, i, version int) map[plan.Name]*plan.Planned {
	return planAll([]runtime.Object{objects[2*i], sliceObject(i, version, netip.Addr{})})
}

// resized is Service number i with two endpoints, or in odd versions with one: the number of endpoints changes each time.
func resized(objects []runtime.Object, i, version int) map[plan.Name]*plan.Planned {
	sl := sliceObject(i, 0, netip.Addr{})
	sl.Endpoints = sl.Endpoints[:2-version%2]
	return planAll([]runtime.Object{objects[2*i], sl})
}

const (
	proxyRounds  = 5
	changeRounds = 60
)

// BenchmarkProxyNFTables measures programming with nftables, and beside it the nft command writing the same elements and
// one element.
func BenchmarkProxyNFTables(b *testing.B) {
	for _, n := range []int{1000, 10000, 40000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			cfg := nftables.Config{Facts: proxyFacts, Table: "reeve-bench", MarkBit: 14, Family: plan.IPv4}
			objects := serviceObjects(n, netip.Addr{})
			remove := func() { testns.Sh(b, "nft delete table ip reeve-bench 2>/dev/null; true") }
			b.Cleanup(remove)
			var empty, bare []time.Duration
			var be *nftables.Backend
			for range proxyRounds {
				remove()
				nft, err := nftables.Open(cfg)
				if err != nil {
					b.Fatal(err)
				}
				be = nftables.New(cfg, nft)
				empty = append(empty, timed(func() {
					if err := be.Apply(b.Context(), planAll(objects), true); err != nil {
						b.Fatal(err)
					}
				}))
				b.Cleanup(be.Close)
			}
			var one, size, bareOne []time.Duration
			for v := range changeRounds {
				one = append(one, timed(func() {
					if err := be.Apply(b.Context(), changed(objects, n/2, v+1), false); err != nil {
						b.Fatal(err)
					}
				}))
				size = append(size, timed(func() {
					if err := be.Apply(b.Context(), resized(objects, n/3, v+1), false); err != nil {
						b.Fatal(err)
					}
				}))
				bareOne = append(bareOne, timed(func() {
					testns.Sh(b, "nft add element ip reeve-bench hairpin { 10.255.0.1 . 10.255.0.1 }; nft delete element ip reeve-bench hairpin { 10.255.0.1 . 10.255.0.1 }")
				}))
			}
			dump := testns.Sh(b, "nft list table ip reeve-bench")
			for range 2 {
				remove()
				bare = append(bare, timed(func() { feed(b, dump, "nft", "-f", "-") }))
			}
			report(b, "from-empty", empty)
			report(b, "bare-nft-load", bare)
			report(b, "one-change", one)
			report(b, "one-endpoint-more-or-less", size)
			report(b, "bare-nft-add-and-delete", bareOne)
		})
	}
}

func timed(fn func()) time.Duration {
	began := time.Now()
	fn()
	return time.Since(began)
}

func feed(b *testing.B, input, command string, args ...string) {
	b.Helper()
	cmd := exec.Command(command, args...)
	cmd.Stdin = strings.NewReader(input)
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("%s: %v\n%s", command, err, out)
	}
}

// recorder keeps what a backend gives to iptables-restore.
type recorder struct {
	*xtables.Handle
	last []byte
}

func (r *recorder) Restore(ctx context.Context, input []byte) error {
	r.last = bytes.Clone(input)
	return r.Handle.Restore(ctx, input)
}

// BenchmarkProxyIPTables measures programming with both kinds of iptables, and beside it iptables-restore alone with the
// same lines.
func BenchmarkProxyIPTables(b *testing.B) {
	for _, flavor := range []xtables.Flavor{xtables.Legacy, xtables.NFT} {
		for _, n := range []int{1000, 10000} {
			b.Run(fmt.Sprintf("%s/%d", flavor, n), func(b *testing.B) {
				xt, err := xtables.New(xtables.IPv4, flavor)
				if err != nil {
					b.Fatal(err)
				}
				cfg := iptables.Config{Facts: proxyFacts, Prefix: "KUBE", MarkBit: 14, Family: plan.IPv4}
				clean := func() {
					if err := iptables.Cleanup(context.Background(), cfg, xt); err != nil {
						b.Fatal(err)
					}
				}
				b.Cleanup(clean)
				objects := serviceObjects(n, netip.Addr{})
				restore := "iptables-" + string(flavor) + "-restore"
				rec := &recorder{Handle: xt}
				var empty, bare, one, bareOne []time.Duration
				var be rules
				times := proxyRounds
				if flavor == xtables.NFT && n > 1000 {
					times = 1 // 15 s and more
				}
				for range times {
					clean()
					be = iptables.New(cfg, rec)
					empty = append(empty, timed(func() {
						if err := be.Apply(b.Context(), planAll(objects), true); err != nil {
							b.Fatal(err)
						}
					}))
					lines := string(rec.last)
					clean()
					bare = append(bare, timed(func() { feed(b, lines, restore, "--noflush") }))
				}
				steps := changeRounds / 3
				for v := range steps {
					one = append(one, timed(func() {
						if err := be.Apply(b.Context(), changed(objects, n/2, v+1), false); err != nil {
							b.Fatal(err)
						}
					}))
					bareOne = append(bareOne, timed(func() {
						feed(b, "*nat\n:REEVE-BENCH - [0:0]\n-A REEVE-BENCH -j RETURN\nCOMMIT\n", restore, "--noflush")
					}))
				}
				testns.Sh(b, "iptables-%s -t nat -F REEVE-BENCH; iptables-%[1]s -t nat -X REEVE-BENCH", flavor)
				a := report(b, "from-empty", empty)
				z := report(b, "bare-restore", bare)
				b.ReportMetric(float64(a)/float64(z), "empty-per-bare")
				a, z = report(b, "one-change", one), report(b, "bare-step", bareOne)
				b.ReportMetric(float64(a)/float64(z), "change-per-bare")
			})
		}
	}
}

// BenchmarkProxyWhole measures the whole proxy in nftables mode at 10,000 Services: memory above what it was before, CPU at
// rest, the time until a foreign flush is healed, and the latency of connections beside one bare DNAT rule's.
func BenchmarkProxyWhole(b *testing.B) {
	const n = 10000
	rest := 20 * time.Second
	if s := os.Getenv("REST"); s != "" {
		var err error
		if rest, err = time.ParseDuration(s); err != nil {
			b.Fatal(err)
		}
	}
	client, pod := testns.NewHost(b, "bclient"), testns.NewHost(b, "bpod")
	for i, h := range []testns.Host{client, pod} {
		testns.Sh(b, `ip link add v%[1]s type veth peer name eth0 netns %[1]s; ip addr add 10.127.0.1/32 dev v%[1]s; ip link set v%[1]s up
			ip -n %[1]s addr add 10.127.0.%[2]d/32 dev eth0; ip -n %[1]s link set eth0 up; ip -n %[1]s route add default via 10.127.0.1 dev eth0 onlink; ip route add 10.127.0.%[2]d/32 dev v%[1]s`, h.Name, 10+i)
	}
	pod.Serve(b, "pod", ":8080")
	endpoint := netip.MustParseAddr("10.127.0.11")
	api := fake.NewClientset(append(serviceObjects(n, endpoint), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "here"}})...)
	debug.FreeOSMemory()
	before := status(b, os.Getpid())["RssAnon"]

	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() {
		done <- proxy.Run(ctx, proxy.Config{
			Client: api, NodeName: "here", Mode: proxy.ModeNFTables, ClusterCIDRs: proxyFacts.ClusterCIDRs, HealthzAddress: "-", MetricsAddress: "-",
			Logger: slog.New(slog.DiscardHandler),
		})
	}()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			b.Error(err)
		}
	})
	defer func() {
		stop()
		if err := proxy.Cleanup(context.Background(), proxy.CleanupConfig{}); err != nil {
			b.Error(err)
		}
	}()
	target := clusterIP(0).String() + ":80"
	connect := func(timeout time.Duration) error {
		return client.Do(func() error {
			c, err := net.DialTimeout("tcp", target, timeout)
			if err != nil {
				return err
			}
			return c.Close()
		})
	}
	heal := func() time.Duration {
		return timed(func() {
			for connect(20*time.Millisecond) != nil {
			}
		})
	}
	heal()
	time.Sleep(rest / 2) // the measurement's own condition: rest
	debug.FreeOSMemory()
	b.ReportMetric(float64(status(b, os.Getpid())["RssAnon"]-before)/1024, "memory-above-idle-MB")
	used := cpu(b, os.Getpid())
	time.Sleep(rest)
	b.ReportMetric(100*(cpu(b, os.Getpid())-used).Seconds()/rest.Seconds(), "idle-cpu-%")

	var healed, elements []time.Duration
	for range proxyRounds {
		testns.Sh(b, "nft flush ruleset")
		healed = append(healed, heal())
		testns.Sh(b, "nft flush map ip reeve-proxy service-ips")
		elements = append(elements, heal())
	}
	report(b, "flush-ruleset-healed", healed)
	report(b, "flush-map-healed", elements)

	latency := func() time.Duration {
		var times []time.Duration
		err := client.Do(func() error {
			for range 400 {
				began := time.Now()
				c, err := net.DialTimeout("tcp", target, time.Second)
				if err != nil {
					return err
				}
				times = append(times, time.Since(began))
				// The greeting: the server took the connection, and its queue does not fill.
				if _, err := c.Read(make([]byte, 1)); err != nil {
					return err
				}
				_ = c.Close()
			}
			return nil
		})
		if len(times) < 400 {
			b.Fatalf("after %d connections: %v", len(times), err)
		}
		slices.Sort(times)
		return times[len(times)/2]
	}
	stop() // the rules stay
	// Connections tried while there were no rules are remembered as not translated, and their ports come again.
	testns.Sh(b, "conntrack -F 2>&1")
	ruleset := testns.Sh(b, "nft list table ip reeve-proxy")
	var through, bare []time.Duration
	for range proxyRounds {
		through = append(through, latency())
		testns.Sh(b, `nft delete table ip reeve-proxy; nft add table ip bare; nft 'add chain ip bare pre { type nat hook prerouting priority -100; }'
			nft add rule ip bare pre ip daddr %s tcp dport 80 dnat to %s:8080`, clusterIP(0), endpoint)
		bare = append(bare, latency())
		testns.Sh(b, "nft delete table ip bare")
		feed(b, ruleset, "nft", "-f", "-")
	}
	a, z := report(b, "connect", through), report(b, "bare-dnat-connect", bare)
	b.ReportMetric(float64(a.Nanoseconds())/1000, "connect-us")
	b.ReportMetric(float64(z.Nanoseconds())/1000, "bare-dnat-connect-us")
	b.ReportMetric(float64(a)/float64(z), "connect-per-bare")
}
