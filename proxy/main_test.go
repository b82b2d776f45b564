package proxy

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/utils/ptr"

	"github.com/reevehq/reeve/internal/testns"
)

func TestMain(m *testing.M) {
	if os.Getenv(processAPI) != "" {
		if err := processMain(); err != nil {
			fmt.Fprintln(os.Stderr, "proxy:", err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	testns.Main(m)
}

// world is a node (the test's namespace) with pods behind it and a machine outside, and an API.
type world struct {
	t       testing.TB
	api     kubernetes.Interface
	node    testns.Host
	outside testns.Host // 192.0.2.2, the node is 192.0.2.1 there
	pods    []testns.Host
	ips     []netip.Addr
	flavor  string
	stop    func()
}

// newWorld makes pods p0…pn at 10.244.3.10 + i, each serving its name on port 8080, TCP and UDP.
func newWorld(t testing.TB, pods int, flavor string) *world {
	t.Helper()
	testns.Need(t)
	switch flavor {
	case onNFTables:
		testns.NeedBinary(t, "nft")
	case onIPVS:
		testns.NeedBinary(t, "ipvsadm")
	default:
		testns.NeedBinary(t, "iptables-"+flavor)
	}
	w := &world{t: t, flavor: flavor, api: newWorldAPI()}
	forgetConnections(t)
	w.outside = testns.NewHost(t, "outside")
	testns.Sh(t, `ip link add up0 type veth peer name eth0 netns outside && ip addr add 192.0.2.1/24 dev up0 && ip link set up0 up &&
		ip -n outside addr add 192.0.2.2/24 dev eth0 && ip -n outside link set eth0 up && ip route add default via 192.0.2.2 &&
		ip -n outside route add 10.96.0.0/16 via 192.0.2.1 && ip -n outside route add 198.51.100.0/24 via 192.0.2.1`)
	t.Cleanup(func() { testns.Sh(t, "ip link del up0; true") })
	for i := range pods {
		name, ip := fmt.Sprintf("p%d", i), netip.AddrFrom4([4]byte{10, 244, 3, byte(10 + i)})
		p := testns.NewHost(t, name)
		testns.Sh(t, `ip link add v%[1]s type veth peer name eth0 netns %[1]s && ip addr add 10.244.3.1/32 dev v%[1]s && ip link set v%[1]s up &&
			ip -n %[1]s addr add %[2]s/32 dev eth0 && ip -n %[1]s link set eth0 up && ip -n %[1]s route add default via 10.244.3.1 dev eth0 onlink &&
			ip route add %[2]s/32 dev v%[1]s`, name, ip)
		t.Cleanup(func() { testns.Sh(t, "ip link del v%s; true", name) })
		p.Serve(t, name, ":8080")
		w.pods, w.ips = append(w.pods, p), append(w.ips, ip)
	}
	return w
}

// forgetConnections lets the node begin without the connections that an earlier test's clients, of the same addresses, left:
// one tried while rules were flushed is remembered untranslated for two minutes, one whose ends went with their namespaces as
// established for days, and who by chance has its source port would go where it went.
func forgetConnections(t testing.TB) {
	t.Helper()
	if err := netlink.ConntrackTableFlush(netlink.ConntrackTable); err != nil {
		t.Fatal(err)
	}
}

func (w *world) config() Config {
	c := Config{
		Client: w.api, NodeName: "here", NodeIPs: []netip.Addr{netip.MustParseAddr("192.0.2.1")}, Mode: ModeIPTables,
		ClusterCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")}, IPTables: w.flavor,
		Logger: testLogger(),
	}
	switch w.flavor {
	case onNFTables:
		c.Mode, c.IPTables = ModeNFTables, ""
	case onIPVS:
		c.Mode, c.IPTables = ModeIPVS, ""
	}
	return c
}

// run starts the proxy; stopping it is part of the test's end, and so is removing its rules.
func (w *world) run(change func(*Config)) {
	w.t.Helper()
	cfg := w.config()
	if change != nil {
		change(&cfg)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, cfg) }()
	stopped := false
	w.stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			w.t.Error(err)
		}
	}
	w.t.Cleanup(func() {
		w.stop()
		w.cleanup()
	})
}

func (w *world) cleanup() {
	c := CleanupConfig{IPTables: w.flavor}
	if w.flavor == onNFTables || w.flavor == onIPVS {
		c.IPTables = ""
	}
	if err := Cleanup(context.Background(), c); err != nil {
		w.t.Error(err)
	}
}

// endpointPattern is an address and port as nft prints them.
var endpointPattern = regexp.MustCompile(`([0-9a-f.:]{7,}) \. ([0-9]+)`)

// rules is the saved state of nat and filter; of nftables, the table with addresses, ports and verdicts as iptables has them.
func (w *world) rules() string {
	if w.flavor == onNFTables {
		table := testns.Sh(w.t, "nft list table ip reeve-proxy 2>/dev/null; nft list table ip6 reeve-proxy 2>/dev/null; true")
		return strings.ReplaceAll(endpointPattern.ReplaceAllString(table, "$1:$2"), "goto reject-new", "REJECT")
	}
	if w.flavor == onIPVS {
		return w.ipvsRules()
	}
	return testns.Sh(w.t, "iptables-%s-save -t nat; iptables-%[1]s-save -t filter", w.flavor)
}

// on chooses the text for the world's mode; without one for ipvs that is iptables'.
func (w *world) on(iptables, nftables string, ipvs ...string) string {
	switch {
	case w.flavor == onNFTables:
		return nftables
	case w.flavor == onIPVS && len(ipvs) > 0:
		return ipvs[0]
	}
	return iptables
}

// settled waits until the rules hold text.
func (w *world) settled(text string) {
	w.t.Helper()
	testns.Eventually(w.t, "a rule with "+text, func() bool { return strings.Contains(w.rules(), text) })
}

func (w *world) unsettled(text string) {
	w.t.Helper()
	testns.Eventually(w.t, "no rule with "+text, func() bool { return !strings.Contains(w.rules(), text) })
}

// service makes or replaces a Service with ports http (TCP 80) and dns (UDP 53).
func (w *world) service(name, clusterIP string, change func(*corev1.ServiceSpec)) *corev1.Service {
	w.t.Helper()
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: corev1.ServiceSpec{
		Type: corev1.ServiceTypeClusterIP, ClusterIP: clusterIP, ClusterIPs: []string{clusterIP},
		Ports: []corev1.ServicePort{
			{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80, TargetPort: intstr.FromInt32(8080)},
			{Name: "dns", Protocol: corev1.ProtocolUDP, Port: 53, TargetPort: intstr.FromInt32(8080)},
		},
	}}
	if change != nil {
		change(&s.Spec)
	}
	api := w.api.CoreV1().Services("default")
	if _, err := api.Update(context.Background(), s, metav1.UpdateOptions{}); err == nil {
		return s
	}
	if _, err := api.Create(context.Background(), s, metav1.CreateOptions{}); err != nil {
		w.t.Fatal(err)
	}
	return s
}

func nodePorts(s *corev1.ServiceSpec) {
	s.Type = corev1.ServiceTypeNodePort
	s.Ports[0].NodePort, s.Ports[1].NodePort = 30080, 30053
}

// endpoints makes or replaces the slice of a Service: pods by number; negative ones, -1-i, live on another node.
func (w *world) endpoints(service string, pods ...int) {
	w.t.Helper()
	sl := &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: service + "-x", Labels: map[string]string{
			discoveryv1.LabelServiceName: service,
		}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports: []discoveryv1.EndpointPort{
			{Name: ptr.To("http"), Protocol: ptr.To(corev1.ProtocolTCP), Port: ptr.To(int32(8080))},
			{Name: ptr.To("dns"), Protocol: ptr.To(corev1.ProtocolUDP), Port: ptr.To(int32(8080))},
		},
	}
	for _, i := range pods {
		node := "here"
		if i < 0 {
			i, node = -1-i, "there"
		}
		sl.Endpoints = append(sl.Endpoints, discoveryv1.Endpoint{Addresses: []string{w.ips[i].String()}, NodeName: &node})
	}
	api := w.api.DiscoveryV1().EndpointSlices("default")
	if _, err := api.Update(context.Background(), sl, metav1.UpdateOptions{}); err == nil {
		return
	}
	if _, err := api.Create(context.Background(), sl, metav1.CreateOptions{}); err != nil {
		w.t.Fatal(err)
	}
}

// onNFTables is the flavor of worlds in nftables mode; the others are kinds of iptables.
const onNFTables = "nftables"

// each runs a test on iptables and on nftables, with REEVE_LONG=1 on legacy iptables too.
func each(t *testing.T, fn func(t *testing.T, flavor string)) {
	flavors := []string{"nft", onNFTables}
	if long() {
		flavors = append(flavors, "legacy")
	}
	eachOf(t, flavors, fn)
}

// long is true where tests may take minutes.
func long() bool { return os.Getenv("REEVE_LONG") == "1" }

// eachOf runs a test on flavors. In the virtual machine (tests/vm) it is IPVS instead, which other hosts lack.
func eachOf(t *testing.T, flavors []string, fn func(t *testing.T, flavor string)) {
	if inVM() {
		flavors = []string{onIPVS}
	}
	for _, flavor := range flavors {
		t.Run(flavor, func(t *testing.T) { fn(t, flavor) })
	}
}

// testLogger is silent but with REEVE_LOG=1.
func testLogger() *slog.Logger {
	if os.Getenv("REEVE_LOG") == "1" {
		return slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	return slog.New(slog.DiscardHandler)
}

// newWorldAPI is an API with the node and nothing else.
func newWorldAPI() kubernetes.Interface {
	return fake.NewClientset(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "here"}})
}
