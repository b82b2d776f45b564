package proxy

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/utils/ptr"

	"github.com/reevehq/reeve/internal/story"
	"github.com/reevehq/reeve/internal/testns"
)

// scene is the stage of internal/story in network namespaces.
type scene struct {
	*world
	senders map[string]testns.Host
	marks   int
}

func newScene(t *testing.T, flavor string) *scene {
	t.Helper()
	testns.Need(t)
	s := &scene{world: &world{t: t, flavor: flavor}, senders: map[string]testns.Host{}}
	forgetConnections(t)
	for _, name := range []string{"outside", "there"} {
		s.senders[name] = testns.NewHost(t, name)
	}
	s.senders["node"], s.senders["other"] = testns.Host{}, s.senders["outside"]
	s.outside = s.senders["outside"]
	testns.Sh(t, `echo 1 > /proc/sys/net/ipv6/conf/all/forwarding
		echo 0 > /proc/sys/net/ipv4/icmp_ratelimit; echo 0 > /proc/sys/net/ipv6/icmp/ratelimit
		ip addr add 203.0.113.1/32 dev lo
		ip link add up0 type veth peer name eth0 netns outside
		ip addr add 192.0.2.1/24 dev up0; ip addr add 2001:db8::1/64 dev up0 nodad; ip link set up0 up
		o="ip -n outside"
		$o addr add 192.0.2.2/24 dev eth0; $o addr add 192.0.2.130/24 dev eth0; $o addr add 2001:db8::2/64 dev eth0 nodad; $o addr add 2001:db8::130/64 dev eth0 nodad; $o link set eth0 up
		for r in 10.96.0.0/16 198.51.100.0/24 203.0.113.0/24 10.244.0.0/16; do $o route add $r via 192.0.2.1 src 192.0.2.2; done
		for r in fd00:10:96::/112 2001:db8:1::/64 fd00:10:244::/48; do $o route add $r via 2001:db8::1 src 2001:db8::2; done
		ip route add default via 192.0.2.2; ip route add default via 2001:db8::2
		ip link add vthere type veth peer name eth0 netns there; ip link set vthere up
		h="ip -n there"; $h link set eth0 up
		for a in 192.0.2.9/32 10.244.4.10/32 10.244.4.11/32; do $h addr add $a dev lo; ip route add $a dev vthere src 192.0.2.1; done
		for a in fd00:10:244:4::10/128 fd00:10:244:4::11/128; do $h addr add $a dev lo nodad; ip route add $a dev vthere src 2001:db8::1; done
		ip addr add 10.244.3.1/32 dev vthere; ip addr add fd00:10:244:3::1/128 dev vthere nodad
		$h route add 10.244.3.1/32 dev eth0 src 192.0.2.9; $h route add default via 10.244.3.1 dev eth0 onlink src 192.0.2.9
		$h route add fd00:10:244:3::1/128 dev eth0; $h route add default via fd00:10:244:3::1 dev eth0 onlink
		ip neigh replace 10.244.4.10 dev vthere lladdr $(ip -n there -br link show eth0 | awk '{print $3}')
		for a in 10.244.4.10 10.244.4.11 192.0.2.9 fd00:10:244:4::10 fd00:10:244:4::11; do ip neigh replace $a dev vthere lladdr $(ip -n there -br link show eth0 | awk '{print $3}'); done`)
	t.Cleanup(func() {
		testns.Sh(t, "ip link del up0; ip link del vthere; ip addr del 203.0.113.1/32 dev lo; echo 0 > /proc/sys/net/ipv4/conf/all/route_localnet; true")
	})
	for i, last := range []string{"10", "11", "12", "20"} {
		name := fmt.Sprint("p", i)
		h := testns.NewHost(t, name)
		testns.Sh(t, `ip link add v%[1]s type veth peer name eth0 netns %[1]s; ip addr add 10.244.3.1/32 dev v%[1]s; ip addr add fd00:10:244:3::1/128 dev v%[1]s nodad; ip link set v%[1]s up
			p="ip -n %[1]s"; $p addr add 10.244.3.%[2]s/32 dev eth0; $p addr add fd00:10:244:3::%[2]s/128 dev eth0 nodad; $p link set eth0 up
			$p route add default via 10.244.3.1 dev eth0 onlink; $p route add fd00:10:244:3::1/128 dev eth0; $p route add default via fd00:10:244:3::1 dev eth0 onlink
			ip route add 10.244.3.%[2]s/32 dev v%[1]s; ip route add fd00:10:244:3::%[2]s/128 dev v%[1]s`, name, last)
		t.Cleanup(func() { testns.Sh(t, "ip link del v%s; true", name) })
		s.senders["10.244.3."+last], s.senders["fd00:10:244:3::"+last] = h, h
		if last == "20" {
			s.senders["pod"] = h
		}
	}
	serve := func(h testns.Host, a netip.Addr) {
		at := netip.AddrPortFrom(a, 8080)
		h.Serve(t, at.String(), at.String())
		h.ServeSCTP(t, at.String(), at)
	}
	for _, a := range story.LocalPods {
		serve(s.senders[a.String()], a)
	}
	for _, a := range story.RemotePods {
		serve(s.senders["there"], a)
	}
	serve(testns.Host{}, netip.MustParseAddr("192.0.2.1"))
	return s
}

// begin starts the proxy as a story's node is set up, on an API that holds its first step, until t ends.
func (s *scene) begin(t *testing.T, st *story.Story) {
	t.Helper()
	s.api = fake.NewSimpleClientset(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "here", Labels: map[string]string{corev1.LabelTopologyZone: "a"}}})
	cfg := s.config()
	cfg.NodeIPs = []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}
	cfg.ClusterCIDRs, cfg.NodePortAddresses = st.Node.CIDRs(), st.Node.NodePortAddresses
	cfg.LocalhostNodePorts, cfg.MasqueradeAll = st.Node.LocalhostNodePorts && s.flavor != onIPVS, st.Node.MasqueradeAll
	if s.flavor == onIPVS {
		cfg.IPTables = "nft" // half as many commands
	}
	if st.Node.LocalInterface != "" {
		cfg.DetectLocal, cfg.LocalInterface = LocalBridge, st.Node.LocalInterface
		if st.Node.LocalInterfaceIsPrefix {
			cfg.DetectLocal = LocalInterfacePrefix
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	first := s.set(t, st.Steps[0]) // the first state is there before the proxy
	go func() { done <- Run(ctx, cfg) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if s.flavor != onIPVS { // there the next story begins with what this one left, as after a restart
			s.cleanup()
		}
	})
	s.settled(first) // this API loses what comes between a list and the watch that follows it
}

// set makes the API hold what a step has, and last a Service that tells that all before it is programmed; settled waits
// for what it answers.
func (s *scene) set(t *testing.T, step story.Step) (ready string) {
	t.Helper()
	ctx := context.Background()
	s.marks++
	mark := fmt.Sprintf("10.244.9.%d", s.marks%250+1)
	name := fmt.Sprint("zz-mark-", s.marks)
	slicesAPI := func(ns string) interface {
		Update(context.Context, *discoveryv1.EndpointSlice, metav1.UpdateOptions) (*discoveryv1.EndpointSlice, error)
		Create(context.Context, *discoveryv1.EndpointSlice, metav1.CreateOptions) (*discoveryv1.EndpointSlice, error)
	} {
		return s.api.DiscoveryV1().EndpointSlices(ns)
	}
	keep := map[string]bool{}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, o := range step.Slices {
		keep["slice "+o.Namespace+"/"+o.Name] = true
		if _, err := slicesAPI(o.Namespace).Update(ctx, o, metav1.UpdateOptions{}); err != nil {
			_, err = slicesAPI(o.Namespace).Create(ctx, o, metav1.CreateOptions{})
			must(err)
		}
	}
	for _, o := range step.Services {
		keep["service "+o.Namespace+"/"+o.Name] = true
		if _, err := s.api.CoreV1().Services(o.Namespace).Update(ctx, o, metav1.UpdateOptions{}); err != nil {
			_, err = s.api.CoreV1().Services(o.Namespace).Create(ctx, o, metav1.CreateOptions{})
			must(err)
		}
	}
	allSlices, err := s.api.DiscoveryV1().EndpointSlices("").List(ctx, metav1.ListOptions{})
	must(err)
	for _, o := range allSlices.Items {
		if !keep["slice "+o.Namespace+"/"+o.Name] {
			must(s.api.DiscoveryV1().EndpointSlices(o.Namespace).Delete(ctx, o.Name, metav1.DeleteOptions{}))
		}
	}
	all, err := s.api.CoreV1().Services("").List(ctx, metav1.ListOptions{})
	must(err)
	for _, o := range all.Items {
		if !keep["service "+o.Namespace+"/"+o.Name] {
			must(s.api.CoreV1().Services(o.Namespace).Delete(ctx, o.Name, metav1.DeleteOptions{}))
		}
	}
	six := slices.ContainsFunc(step.Packets, func(p story.Packet) bool { return p.To.Addr().Is6() })
	kind := discoveryv1.AddressTypeIPv4
	if s.flavor == onIPVS && six { // IPv6 is programmed after IPv4, and takes its time in the machine that has IPVS
		mark, kind = fmt.Sprintf("fd00:10:244:9::%x", s.marks%250+1), discoveryv1.AddressTypeIPv6
	}
	_, err = slicesAPI("default").Create(ctx, &discoveryv1.EndpointSlice{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, Labels: map[string]string{discoveryv1.LabelServiceName: name}}, AddressType: kind,
		Ports:     []discoveryv1.EndpointPort{{Name: ptr.To("m"), Port: ptr.To(int32(1)), Protocol: ptr.To(corev1.ProtocolTCP)}},
		Endpoints: []discoveryv1.Endpoint{{Addresses: []string{mark}}},
	}, metav1.CreateOptions{})
	must(err)
	s.markService(name, 255, kind)
	return netip.AddrPortFrom(netip.MustParseAddr(mark), 1).String()
}

// markService makes a Service in this block of addresses, and answers the address of its that is programmed last.
func (s *scene) markService(name string, block int, kind discoveryv1.AddressType) string {
	s.t.Helper()
	vips := []string{fmt.Sprintf("10.96.%d.%d", block, s.marks%250+1)}
	if kind == discoveryv1.AddressTypeIPv6 {
		vips = append(vips, fmt.Sprintf("fd00:10:96::%x%02x", block, s.marks%250+1))
	}
	_, err := s.api.CoreV1().Services("default").Create(context.Background(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name},
		Spec:       corev1.ServiceSpec{ClusterIP: vips[0], ClusterIPs: vips, Ports: []corev1.ServicePort{{Name: "m", Port: 1, Protocol: corev1.ProtocolTCP}}},
	}, metav1.CreateOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	return vips[len(vips)-1]
}

// settled waits for what set answered: a rule with the endpoint, which comes with or after everything before it. On IPVS,
// where a step's virtual services come one by one, a later Service's address tells that all of the step are there.
func (s *scene) settled(ready string) {
	s.t.Helper()
	if s.flavor != onIPVS {
		s.world.settled(ready)
		return
	}
	testns.Eventually(s.t, "the server "+ready, func() bool {
		return strings.Contains(testns.Sh(s.t, "ipvsadm -Sn"), " -r "+ready+" ")
	})
	kind := discoveryv1.AddressTypeIPv4
	if netip.MustParseAddrPort(ready).Addr().Is6() {
		kind = discoveryv1.AddressTypeIPv6
	}
	address := s.markService(fmt.Sprint("zz-later-", s.marks), 254, kind)
	testns.Eventually(s.t, "the address "+address, func() bool { return isLocal(s.t, address) })
}

// isLocal reports that an address is the node's.
func isLocal(t testing.TB, address string) bool {
	t.Helper()
	if a := netip.MustParseAddr(address); a.Is6() {
		routes, err := os.ReadFile("/proc/thread-self/net/ipv6_route")
		if err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(strings.Split(string(routes), "\n"), func(r string) bool {
			return strings.HasPrefix(r, fmt.Sprintf("%x 80 ", a.As16())) && strings.HasSuffix(r, "reeve-ipvs0")
		})
	}
	// It would be the source of what the node sends to it.
	c, err := net.Dial("udp", net.JoinHostPort(address, "1"))
	if err != nil {
		return false
	}
	defer c.Close()
	return c.LocalAddr().(*net.UDPAddr).IP.Equal(net.ParseIP(address))
}

const (
	// answerWait is how long an answer may take, silence how long none must come.
	answerWait = 8 * time.Second
	silence    = 250 * time.Millisecond
	// tries finds every one of a few endpoints: with three, all but one time in ten million.
	tries = 40
)

// check sends a packet for real, as often as it takes to see everything that it may reach.
func (s *scene) check(t *testing.T, p story.Packet) {
	t.Helper()
	from, ok := s.senders[p.From]
	if !ok {
		t.Fatalf("%s: nobody is called %q", p, p.From)
	}
	source, err := story.Source(p.From, p.To.Addr().Is6())
	if err != nil {
		t.Fatal(err)
	}
	bind := netip.Addr{}
	if p.From == "other" {
		bind = source
	}
	want := p.Want
	if s.flavor == onIPVS && p.To.Addr().IsLoopback() {
		want = story.Outcome{Fate: story.Untouched} // IPVS sends nothing on that comes from loopback
	}
	if want.Fate != story.Reaches {
		wait := silence
		if want.Fate == story.Rejected {
			wait = answerWait
		}
		said, err := from.AskFrom(p.Protocol, bind, p.To, wait)
		switch refused := err != nil && (strings.Contains(err.Error(), "refused") ||
			p.From == "node" && strings.Contains(err.Error(), "not permitted")); { // a datagram that OUTPUT rejects
		case err == nil:
			t.Errorf("%s: got %q", p, said)
		case want.Fate == story.Rejected && !refused, want.Fate == story.Dropped && refused:
			t.Errorf("%s: got %v", p, err)
		}
		return
	}
	seen := map[netip.AddrPort]bool{}
	for range tries {
		said, err := from.AskFrom(p.Protocol, bind, p.To, answerWait)
		if err != nil {
			t.Errorf("%s: %v", p, err)
			return
		}
		name, client, _ := strings.Cut(said, " ")
		e, err := netip.ParseAddrPort(name)
		if err != nil || !slices.Contains(want.Endpoints, e) {
			t.Errorf("%s: reached %q", p, said)
			return
		}
		seen[e] = true
		saw, err := netip.ParseAddr(client)
		ofNode := slices.Contains(story.NodeAddrs, saw)
		if p.From == "node" && !ofNode { // a Service's address, to which another node would send the answer to itself
			t.Errorf("%s: the endpoint saw %s, which is not the node's", p, client)
			return
		}
		if p.From != "node" && (err != nil || (saw != source) != want.Masqueraded || (saw != source && !ofNode)) {
			t.Errorf("%s: the endpoint saw %s, the client is %s", p, client, source)
			return
		}
		if len(want.Endpoints) == 1 || (!want.Sticky && len(seen) == len(want.Endpoints)) {
			break
		}
	}
	reached := len(want.Endpoints)
	if want.Sticky {
		reached = 1
	}
	if len(seen) != reached {
		t.Errorf("%s: reached %v", p, seen)
	}
}

// Every packet of every story, for real, through each backend's rules in the kernel.
func TestStoriesWithRealPackets(t *testing.T) {
	stories, err := story.Load("plan/testdata")
	if err != nil {
		t.Fatal(err)
	}
	each(t, func(t *testing.T, flavor string) {
		s := newScene(t, flavor)
		t.Cleanup(s.cleanup)
		for _, st := range stories {
			t.Run(st.Name, func(t *testing.T) {
				s.t = t
				s.begin(t, st)
				for i, step := range st.Steps {
					mark := s.set(t, step)
					s.settled(mark)
					for _, p := range step.Packets {
						s.check(t, p)
					}
					if t.Failed() {
						t.Fatalf("step %d of %s", i+1, st.Name)
					}
				}
			})
		}
	})
}
