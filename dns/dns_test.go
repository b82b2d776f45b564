package dns

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/fake"
	ktesting "k8s.io/client-go/testing"
	"k8s.io/utils/ptr"

	"github.com/reevehq/reeve/internal/testns"
)

func TestMain(m *testing.M) { testns.Main(m) }

var address = netip.MustParseAddr("10.96.0.10")

func objects() []runtime.Object {
	service := func(name string, spec corev1.ServiceSpec) *corev1.Service {
		return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name}, Spec: spec}
	}
	http := []corev1.ServicePort{{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80}}
	slice := func(service string, eps ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
		return &discoveryv1.EndpointSlice{
			ObjectMeta:  metav1.ObjectMeta{Namespace: "default", Name: service + "-1", Labels: map[string]string{discoveryv1.LabelServiceName: service}},
			AddressType: discoveryv1.AddressTypeIPv4,
			Ports:       []discoveryv1.EndpointPort{{Name: ptr.To("http"), Protocol: ptr.To(corev1.ProtocolTCP), Port: ptr.To(int32(8080))}},
			Endpoints:   eps,
		}
	}
	return []runtime.Object{
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}},
		service("web", corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, ClusterIP: "10.96.0.50", ClusterIPs: []string{"10.96.0.50"}, Ports: http}),
		service("db", corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, ClusterIP: "None", ClusterIPs: []string{"None"}, Ports: http}),
		service("alias", corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "example.org"}),
		slice("web", discoveryv1.Endpoint{Addresses: []string{"10.244.1.5"}}),
		slice("db",
			discoveryv1.Endpoint{Addresses: []string{"10.244.1.6"}, Hostname: ptr.To("db-0")},
			discoveryv1.Endpoint{Addresses: []string{"10.244.1.7"}, Hostname: ptr.To("db-1")},
			discoveryv1.Endpoint{Addresses: []string{"10.244.1.8"}, Hostname: ptr.To("db-2"), Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(false)}}),
	}
}

// upstreamServer answers every A question with ip, on 127.0.0.9 or so, and counts.
func upstreamServer(t *testing.T, listen, ip string) *atomic.Int64 {
	t.Helper()
	var asked atomic.Int64
	up := make(chan struct{})
	s := &dns.Server{Addr: listen + ":53", Net: "udp", NotifyStartedFunc: func() { close(up) }, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) {
		asked.Add(1)
		m := new(dns.Msg)
		m.SetReply(q)
		if q.Question[0].Qtype == dns.TypeA {
			rr, _ := dns.NewRR(q.Question[0].Name + " 60 IN A " + ip)
			m.Answer = append(m.Answer, rr)
		}
		_ = w.WriteMsg(m)
	})}
	go func() { _ = s.ListenAndServe() }()
	<-up
	t.Cleanup(func() { _ = s.Shutdown() })
	return &asked
}

type fixture struct {
	api  *fake.Clientset
	conf string
	stop func()
}

func start(t *testing.T, change func(*Config)) *fixture {
	t.Helper()
	testns.Need(t)
	f := &fixture{api: fake.NewClientset(objects()...), conf: filepath.Join(t.TempDir(), "resolv.conf")}
	f.upstream(t, "127.0.0.9")
	cfg := Config{Client: f.api, ListenAddrs: []netip.Addr{address}, UpstreamResolvConf: f.conf, Logger: slog.New(slog.DiscardHandler)}
	if change != nil {
		change(&cfg)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, cfg) }()
	stopped := false
	f.stop = func() {
		if !stopped {
			stopped = true
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	}
	t.Cleanup(f.stop)
	testns.Eventually(t, "the first answer", func() bool {
		r, err := ask("udp", "web.default.svc.cluster.local.", dns.TypeA)
		return err == nil && r.Rcode == dns.RcodeSuccess
	})
	return f
}

func (f *fixture) upstream(t *testing.T, servers ...string) {
	t.Helper()
	text := ""
	for _, s := range servers {
		text += "nameserver " + s + "\n"
	}
	if err := os.WriteFile(f.conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func ask(network, name string, typ uint16) (*dns.Msg, error) {
	m := new(dns.Msg)
	m.SetQuestion(name, typ)
	c := dns.Client{Net: network, Timeout: 2 * time.Second}
	r, _, err := c.Exchange(m, address.String()+":53")
	return r, err
}

// answers are the records of an answer without name and TTL, sorted.
func answers(t *testing.T, network, name string, typ uint16) (rcode string, rrs []string) {
	t.Helper()
	r, err := ask(network, name, typ)
	if err != nil {
		t.Fatalf("%s %s: %v", name, dns.TypeToString[typ], err)
	}
	for _, rr := range r.Answer {
		fields := strings.Fields(rr.String())
		rrs = append(rrs, strings.Join(fields[3:], " "))
	}
	slices.Sort(rrs)
	return dns.RcodeToString[r.Rcode], rrs
}

func TestClusterNames(t *testing.T) {
	upstreamServer(t, "127.0.0.9", "203.0.113.1")
	start(t, nil)
	for _, c := range []struct {
		name  string
		typ   uint16
		rcode string
		want  []string
	}{
		{"web.default.svc.cluster.local.", dns.TypeA, "NOERROR", []string{"A 10.96.0.50"}},
		{"WEB.Default.svc.cluster.local.", dns.TypeA, "NOERROR", []string{"A 10.96.0.50"}},
		{"web.default.svc.cluster.local.", dns.TypeAAAA, "NOERROR", nil}, // NODATA, or musl would give up on the name
		{"_http._tcp.web.default.svc.cluster.local.", dns.TypeSRV, "NOERROR", []string{"SRV 0 100 80 web.default.svc.cluster.local."}},
		{"db.default.svc.cluster.local.", dns.TypeA, "NOERROR", []string{"A 10.244.1.6", "A 10.244.1.7"}},
		{"db-1.db.default.svc.cluster.local.", dns.TypeA, "NOERROR", []string{"A 10.244.1.7"}},
		{"db-2.db.default.svc.cluster.local.", dns.TypeA, "NXDOMAIN", nil}, // not ready
		{"_http._tcp.db.default.svc.cluster.local.", dns.TypeSRV, "NOERROR", []string{
			"SRV 0 50 8080 db-0.db.default.svc.cluster.local.", "SRV 0 50 8080 db-1.db.default.svc.cluster.local."}},
		{"alias.default.svc.cluster.local.", dns.TypeCNAME, "NOERROR", []string{"CNAME example.org."}},
		{"alias.default.svc.cluster.local.", dns.TypeA, "NOERROR", []string{"A 203.0.113.1", "CNAME example.org."}},
		{"10-244-1-5.default.pod.cluster.local.", dns.TypeA, "NOERROR", []string{"A 10.244.1.5"}},
		{"50.0.96.10.in-addr.arpa.", dns.TypePTR, "NOERROR", []string{"PTR web.default.svc.cluster.local."}},
		{"6.1.244.10.in-addr.arpa.", dns.TypePTR, "NOERROR", []string{"PTR db-0.db.default.svc.cluster.local."}},
		{"none.default.svc.cluster.local.", dns.TypeA, "NXDOMAIN", nil},
		{"web.nowhere.svc.cluster.local.", dns.TypeA, "NXDOMAIN", nil},
		// What a resolver tries first with the search path and ndots:5.
		{"web.default.svc.cluster.local.default.svc.cluster.local.", dns.TypeA, "NXDOMAIN", nil},
		{"example.org.svc.cluster.local.", dns.TypeA, "NXDOMAIN", nil},
		{"example.org.", dns.TypeA, "NOERROR", []string{"A 203.0.113.1"}},
	} {
		for _, network := range []string{"udp", "tcp"} {
			if rcode, got := answers(t, network, c.name, c.typ); rcode != c.rcode || !slices.Equal(got, c.want) {
				t.Errorf("%s %s %s: %s %q, want %s %q", network, c.name, dns.TypeToString[c.typ], rcode, got, c.rcode, c.want)
			}
		}
	}
}

func TestChangesAreAnsweredAtOnce(t *testing.T) {
	f := start(t, nil)
	ctx := t.Context()
	s, _ := f.api.CoreV1().Services("default").Get(ctx, "web", metav1.GetOptions{})
	s.Spec.ClusterIP, s.Spec.ClusterIPs = "10.96.0.60", []string{"10.96.0.60"}
	if _, err := f.api.CoreV1().Services("default").Update(ctx, s, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	says := func(name, want string) func() bool {
		return func() bool {
			rcode, rrs := answers(t, "udp", name, dns.TypeA)
			return rcode+strings.Join(rrs, ",") == want
		}
	}
	testns.Eventually(t, "the new address", says("web.default.svc.cluster.local.", "NOERRORA 10.96.0.60"))
	if rcode, _ := answers(t, "udp", "50.0.96.10.in-addr.arpa.", dns.TypePTR); rcode == "NOERROR" {
		t.Error("the old address still has a name")
	}
	if err := f.api.DiscoveryV1().EndpointSlices("default").Delete(ctx, "db-1", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	testns.Eventually(t, "the headless name to be empty", func() bool {
		_, rrs := answers(t, "udp", "db.default.svc.cluster.local.", dns.TypeA)
		return len(rrs) == 0
	})
	if err := f.api.CoreV1().Services("default").Delete(ctx, "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	testns.Eventually(t, "the name to go", says("web.default.svc.cluster.local.", "NXDOMAIN"))
}

func TestAnswersGoOnWhileTheAPIIsAway(t *testing.T) {
	var mu sync.Mutex
	var away bool
	var watches []*watch.FakeWatcher
	start(t, func(c *Config) {
		api := c.Client.(*fake.Clientset)
		api.PrependReactor("*", "*", func(ktesting.Action) (bool, runtime.Object, error) {
			mu.Lock()
			defer mu.Unlock()
			return away, nil, apierrors.NewServiceUnavailable("away")
		})
		api.PrependWatchReactor("*", func(ktesting.Action) (bool, watch.Interface, error) {
			mu.Lock()
			defer mu.Unlock()
			if away {
				return true, nil, apierrors.NewServiceUnavailable("away")
			}
			watches = append(watches, watch.NewFake())
			return true, watches[len(watches)-1], nil
		})
	})
	// From here on every request fails, and the watches break.
	mu.Lock()
	away = true
	broken := watches
	mu.Unlock()
	for _, w := range broken {
		w.Stop()
	}
	for range 20 {
		if rcode, rrs := answers(t, "udp", "web.default.svc.cluster.local.", dns.TypeA); rcode != "NOERROR" || len(rrs) != 1 {
			t.Fatalf("%s %v", rcode, rrs)
		}
		time.Sleep(20 * time.Millisecond) // a stretch of failing retries, not a condition
	}
}

func TestRestartWhileTheAPIIsAwayAnswersFromTheSnapshot(t *testing.T) {
	file := filepath.Join(t.TempDir(), "names.json")
	f := start(t, func(c *Config) { c.SnapshotFile = file })
	f.stop()
	away := fake.NewClientset()
	away.PrependReactor("*", "*", func(ktesting.Action) (bool, runtime.Object, error) {
		return true, nil, apierrors.NewServiceUnavailable("away")
	})
	f = start(t, func(c *Config) { c.SnapshotFile, c.Client = file, away }) // waits for the first answer
	for name, want := range map[string]string{
		"web.default.svc.cluster.local.": "A 10.96.0.50", "db-1.db.default.svc.cluster.local.": "A 10.244.1.7",
	} {
		if _, rrs := answers(t, "udp", name, dns.TypeA); !slices.Equal(rrs, []string{want}) {
			t.Errorf("%s: %v, want %s", name, rrs, want)
		}
	}
	f.stop()
	// The API is back, with less than the snapshot has.
	gone := fake.NewClientset(objects()[0], objects()[1])
	start(t, func(c *Config) { c.SnapshotFile, c.Client = file, gone })
	testns.Eventually(t, "the API's names instead of the saved ones", func() bool {
		rcode, _ := answers(t, "udp", "db.default.svc.cluster.local.", dns.TypeA)
		return rcode == "NXDOMAIN"
	})
	for _, broken := range []string{"{", `{"version":9}`, `{"version":1,"services":[null,{"Index":"a.b"}],"slices":{"x":null}}`} {
		if err := os.WriteFile(file, []byte(broken), 0o600); err != nil {
			t.Fatal(err)
		}
		r := newRecords()
		if _, err := r.load(file); (err != nil) != (broken == "{") || len(r.services) != 0 {
			t.Errorf("%s: %v, %v", broken, err, r.services)
		}
	}
}

func TestUpstreamServersAreTakenOverWithoutALostQuery(t *testing.T) {
	upstreamServer(t, "127.0.0.9", "203.0.113.1")
	upstreamServer(t, "127.0.0.8", "203.0.113.2")
	f := start(t, nil)
	if _, rrs := answers(t, "udp", "one.example.org.", dns.TypeA); !slices.Equal(rrs, []string{"A 203.0.113.1"}) {
		t.Fatal(rrs)
	}
	f.upstream(t, address.String(), "127.0.0.8") // our own address would be a loop
	n := 0
	testns.Eventually(t, "the new upstream server", func() bool {
		n++
		_, rrs := answers(t, "udp", "x"+strings.Repeat("x", n%50)+".example.org.", dns.TypeA) // fatal on a lost query
		return slices.Equal(rrs, []string{"A 203.0.113.2"})
	})
	f.upstream(t)
	testns.Eventually(t, "a refusal without upstream servers", func() bool {
		rcode, _ := answers(t, "udp", "refused.example.org.", dns.TypeA)
		return rcode == "REFUSED"
	})
	if rcode, _ := answers(t, "udp", "web.default.svc.cluster.local.", dns.TypeA); rcode != "NOERROR" {
		t.Error(rcode)
	}
}

func TestAddressComesAndGoes(t *testing.T) {
	ignore := goleak.IgnoreCurrent()
	f := start(t, func(c *Config) { c.KeepAddresses = true })
	f.stop()
	if !strings.Contains(testns.Sh(t, "ip -o addr show lo"), "10.96.0.10/32 scope host") {
		t.Error("the address was to be kept")
	}
	if _, err := ask("udp", "web.default.svc.cluster.local.", dns.TypeA); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("with the address kept a query got %v, want a refusal", err)
	}
	f = start(t, nil) // over the leftover
	f.stop()
	if addrs := testns.Sh(t, "ip -o addr show lo"); strings.Contains(addrs, "10.96.0.10") {
		t.Errorf("left: %s", addrs)
	}
	if err := Cleanup([]netip.Addr{address}); err != nil {
		t.Errorf("cleanup of nothing: %v", err)
	}
	// The forwarder's connections end with its garbage collection.
	goleak.VerifyNone(t, ignore, goleak.IgnoreAnyFunction("github.com/coredns/coredns/plugin/pkg/proxy.(*Transport).connManager"), goleak.IgnoreAnyFunction("k8s.io/apimachinery/pkg/watch.(*Broadcaster).loop"))
}

func TestPodsAreAnsweredWhereTheHostDrops(t *testing.T) {
	for _, flavor := range []string{"nft", "legacy"} {
		t.Run(flavor, func(t *testing.T) {
			testns.Need(t)
			testns.NeedBinary(t, "iptables-"+flavor)
			pod := testns.NewHost(t, "pod")
			testns.Sh(t, `ip link add vpod type veth peer name eth0 netns pod && ip addr add 10.244.3.1/32 dev vpod && ip link set vpod up &&
				ip -n pod addr add 10.244.3.5/32 dev eth0 && ip -n pod link set eth0 up && ip -n pod route add default via 10.244.3.1 dev eth0 onlink &&
				ip route add 10.244.3.5/32 dev vpod && iptables-%[1]s -A INPUT -i lo -j ACCEPT && iptables-%[1]s -P INPUT DROP`, flavor)
			t.Cleanup(func() {
				testns.Sh(t, "ip link del vpod; iptables-%[1]s -P INPUT ACCEPT; iptables-%[1]s -D INPUT -i lo -j ACCEPT", flavor)
			})
			f := start(t, func(c *Config) { c.IPTables = flavor })
			for _, network := range []string{"udp", "tcp"} {
				testns.Eventually(t, "an answer for the pod over "+network, func() bool {
					ok := false
					_ = pod.Do(func() error {
						r, err := ask(network, "web.default.svc.cluster.local.", dns.TypeA)
						ok = err == nil && len(r.Answer) == 1
						return nil
					})
					return ok
				})
			}
			f.stop()
			if rules := testns.Sh(t, "iptables-%s-save -t filter", flavor); strings.Contains(rules, "REEVE") {
				t.Errorf("left:\n%s", rules)
			}
		})
	}
}

func TestTakenPortFailsAndNamesIt(t *testing.T) {
	start(t, nil)
	err := Run(t.Context(), Config{Client: fake.NewClientset(), ListenAddrs: []netip.Addr{netip.MustParseAddr("203.0.113.77")}, Domain: "a b"})
	if err == nil || !strings.Contains(err.Error(), "Domain") {
		t.Errorf("bad domain: %v", err)
	}
}
