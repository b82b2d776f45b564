package allocator

import (
	"context"
	"errors"
	"fmt"
	"math/big"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/utils/ptr"
)

const (
	clusterIP    = corev1.ServiceTypeClusterIP
	nodePort     = corev1.ServiceTypeNodePort
	loadBalancer = corev1.ServiceTypeLoadBalancer
	externalName = corev1.ServiceTypeExternalName
)

func TestBandsLeaveLowAddressesToPeople(t *testing.T) {
	for _, c := range []struct{ cidr, first, last, firstRandom string }{
		{"10.96.0.0/16", "10.96.0.1", "10.96.255.254", "10.96.1.0"},
		{"10.96.0.0/24", "10.96.0.1", "10.96.0.254", "10.96.0.16"},
		{"10.96.0.0/28", "10.96.0.1", "10.96.0.14", "10.96.0.1"},
		{"fd00::/112", "fd00::1", "fd00::ffff", "fd00::100"},
		{"fd00::/64", "fd00::1", "", "fd00::100"},
	} {
		s, err := newSpan(netip.MustParsePrefix(c.cidr))
		if err != nil {
			t.Fatal(err)
		}
		if s.first.String() != c.first || s.at(s.lower).String() != c.firstRandom {
			t.Errorf("%s: first %s, first random %s", c.cidr, s.first, s.at(s.lower))
		}
		if c.last != "" && s.at(s.size-1).String() != c.last {
			t.Errorf("%s: last is %s", c.cidr, s.at(s.size-1))
		}
	}
	for _, bad := range []string{"10.96.0.1/16", "10.96.0.1/32"} {
		if _, err := newSpan(netip.MustParsePrefix(bad)); err == nil {
			t.Errorf("%s must be refused", bad)
		}
	}
}

func TestServiceGetsAddressAndPortsAndGivesThemBack(t *testing.T) {
	c := newCluster(t)
	s := c.mustCreate(service("web", nodePort))
	if !netip.MustParsePrefix("10.96.0.0/16").Contains(netip.MustParseAddr(s.Spec.ClusterIP)) || !slices.Equal(s.Spec.ClusterIPs, []string{s.Spec.ClusterIP}) {
		t.Errorf("clusterIP %q, clusterIPs %v", s.Spec.ClusterIP, s.Spec.ClusterIPs)
	}
	if !slices.Equal(s.Spec.IPFamilies, []corev1.IPFamily{corev1.IPv4Protocol}) || *s.Spec.IPFamilyPolicy != corev1.IPFamilyPolicySingleStack {
		t.Errorf("families %v, policy %v", s.Spec.IPFamilies, *s.Spec.IPFamilyPolicy)
	}
	if p := s.Spec.Ports[0].NodePort; p < 30086 || p > 32767 {
		t.Errorf("node port %d is not in the upper band", p)
	}
	a := c.addresses.items["/"+s.Spec.ClusterIP]
	if !(owner{"shop", "web"}).holds(a) || a.Labels[networkingv1.LabelManagedBy] != managedBy || a.Labels[networkingv1.LabelIPAddressFamily] != "IPv4" {
		t.Errorf("address object is %+v", a)
	}
	c.consistent()
	c.delete("web")
	c.consistent()
}

func TestExplicitRequestsAndConflicts(t *testing.T) {
	c := newCluster(t)
	dns := service("dns", nodePort)
	dns.Spec.ClusterIP, dns.Spec.Ports[0].NodePort = "10.96.0.10", 30007
	c.mustCreate(dns)

	for name, change := range map[string]func(*corev1.Service){
		"spec.clusterIPs: Invalid value: [\"10.96.0.10\"]: failed to allocate IP 10.96.0.10: provided IP is already allocated": func(s *corev1.Service) {
			s.Spec.ClusterIP = "10.96.0.10"
		},
		"provided IP is not in the valid range. The range of valid IPs is 10.96.0.0/16": func(s *corev1.Service) { s.Spec.ClusterIP = "10.97.0.1" },
		"The range of valid IPs": func(s *corev1.Service) { s.Spec.ClusterIP = "10.96.0.0" },
		"spec.ports[0].nodePort: Invalid value: 30007: provided port is already allocated":                                            func(s *corev1.Service) { s.Spec.Ports[0].NodePort = 30007 },
		"spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range. The range of valid ports is 30000-32767": func(s *corev1.Service) { s.Spec.Ports[0].NodePort = 80 },
		"spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not configured for dual-stack services": func(s *corev1.Service) {
			s.Spec.IPFamilyPolicy = ptr.To(corev1.IPFamilyPolicyRequireDualStack)
		},
		"first value must match `clusterIP`": func(s *corev1.Service) {
			s.Spec.ClusterIP, s.Spec.ClusterIPs = "10.96.0.20", []string{"10.96.0.21"}
		},
		"spec.ipFamilies[0]: Invalid value: \"IPv6\": not configured on this cluster": func(s *corev1.Service) {
			s.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv6Protocol}
		},
	} {
		s := service("other", nodePort)
		change(s)
		_, err := c.create(s)
		if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), name) {
			t.Errorf("want %q, got %v", name, err)
		}
		c.consistent() // what was allocated before the failure is back
	}
}

func TestFailedCreateGivesEverythingBack(t *testing.T) {
	c := newCluster(t)
	c.mustCreate(service("web", nodePort))
	before := c.takenAddresses()
	if _, err := c.create(service("web", nodePort)); !apierrors.IsAlreadyExists(err) {
		t.Fatalf("err %v", err)
	}
	c.consistent()
	// Asking for the address that the live namesake holds must not take it from it when the create fails.
	again := service("web", clusterIP)
	again.Spec.ClusterIP = before[0]
	if _, err := c.create(again); !apierrors.IsAlreadyExists(err) {
		t.Fatalf("err %v", err)
	}
	c.consistent()

	c.addresses.fail = func(string) error { return errors.New("etcd is away") }
	if _, err := c.create(service("x", clusterIP)); !apierrors.IsInternalError(err) {
		t.Fatalf("err %v", err)
	}
	c.addresses.fail = nil
	c.consistent()
}

func TestOnePortForTwoProtocols(t *testing.T) {
	c := newCluster(t)
	dns := func(name string, nodePort int32) *corev1.Service {
		return service(name, corev1.ServiceTypeNodePort,
			corev1.ServicePort{Name: "u", Port: 53, Protocol: corev1.ProtocolUDP, NodePort: nodePort},
			corev1.ServicePort{Name: "t", Port: 53, Protocol: corev1.ProtocolTCP, NodePort: nodePort},
			corev1.ServicePort{Name: "m", Port: 9153, Protocol: corev1.ProtocolTCP})
	}
	for _, s := range []*corev1.Service{c.mustCreate(dns("given", 30053)), c.mustCreate(dns("random", 0))} {
		p := s.Spec.Ports
		if p[0].NodePort != p[1].NodePort || p[2].NodePort == p[0].NodePort || p[2].NodePort == 0 {
			t.Errorf("node ports are %d %d %d", p[0].NodePort, p[1].NodePort, p[2].NodePort)
		}
	}
	c.consistent()
	c.delete("given")
	c.delete("random")
	if got := c.takenPorts(); len(got) != 0 {
		t.Errorf("still allocated: %v", got)
	}
}

func TestTypesThatNeedNothing(t *testing.T) {
	c := newCluster(t)
	none := service("none", clusterIP)
	none.Spec.ClusterIP = corev1.ClusterIPNone
	s := c.mustCreate(none)
	if s.Spec.ClusterIP != "None" || !slices.Equal(s.Spec.ClusterIPs, []string{"None"}) || len(s.Spec.IPFamilies) != 1 {
		t.Errorf("headless: %q %v %v", s.Spec.ClusterIP, s.Spec.ClusterIPs, s.Spec.IPFamilies)
	}
	name := service("name", externalName)
	name.Spec.ExternalName = "example.com"
	s = c.mustCreate(name)
	if s.Spec.ClusterIP != "" || s.Spec.IPFamilyPolicy != nil {
		t.Errorf("external name: %+v", s.Spec)
	}
	free := service("free", clusterIP)
	free.Spec.ClusterIP, free.Spec.Selector = corev1.ClusterIPNone, nil
	if s = c.mustCreate(free); len(s.Spec.IPFamilies) != 2 {
		t.Errorf("headless without selector: families %v", s.Spec.IPFamilies)
	}
	c.consistent()
	if got := c.takenAddresses(); len(got) != 0 {
		t.Errorf("addresses %v", got)
	}
}

func TestDualStack(t *testing.T) {
	c := newCluster(t, "10.96.0.0/16", "fd00:96::/112")
	s := c.mustCreate(service("single", clusterIP))
	if len(s.Spec.ClusterIPs) != 1 {
		t.Errorf("one family is the default: %v", s.Spec.ClusterIPs)
	}
	both := service("both", clusterIP)
	both.Spec.IPFamilyPolicy = ptr.To(corev1.IPFamilyPolicyPreferDualStack)
	s = c.mustCreate(both)
	if len(s.Spec.ClusterIPs) != 2 || !strings.HasPrefix(s.Spec.ClusterIPs[1], "fd00:96::") || s.Spec.ClusterIP != s.Spec.ClusterIPs[0] {
		t.Errorf("PreferDualStack: %v", s.Spec.ClusterIPs)
	}
	six := service("six", clusterIP)
	six.Spec.ClusterIP = "fd00:96::5"
	if s = c.mustCreate(six); !slices.Equal(s.Spec.IPFamilies, []corev1.IPFamily{corev1.IPv6Protocol}) {
		t.Errorf("families follow the address: %v", s.Spec.IPFamilies)
	}
	c.consistent()
	s = c.mustUpdate("single", func(s *corev1.Service) { s.Spec.IPFamilyPolicy = ptr.To(corev1.IPFamilyPolicyRequireDualStack) })
	if len(s.Spec.ClusterIPs) != 2 || len(s.Spec.IPFamilies) != 2 {
		t.Errorf("upgrade: %v %v", s.Spec.ClusterIPs, s.Spec.IPFamilies)
	}
	c.consistent()
	s = c.mustUpdate("single", func(s *corev1.Service) { s.Spec.IPFamilyPolicy = ptr.To(corev1.IPFamilyPolicySingleStack) })
	if len(s.Spec.ClusterIPs) != 1 || len(s.Spec.IPFamilies) != 1 {
		t.Errorf("downgrade: %v %v", s.Spec.ClusterIPs, s.Spec.IPFamilies)
	}
	c.consistent()
	bad := service("bad", clusterIP)
	bad.Spec.IPFamilyPolicy, bad.Spec.IPFamilies = ptr.To(corev1.IPFamilyPolicySingleStack), []corev1.IPFamily{"IPv4", "IPv6"}
	if _, err := c.create(bad); !apierrors.IsInvalid(err) {
		t.Errorf("two families with SingleStack: %v", err)
	}
}

func TestDryRunTakesNothing(t *testing.T) {
	c := newCluster(t)
	dry := []string{metav1.DryRunAll}
	s := service("web", nodePort, corev1.ServicePort{Name: "a", Port: 1, Protocol: "TCP"}, corev1.ServicePort{Name: "b", Port: 2, Protocol: "TCP"})
	s.Namespace = "shop"
	finish, err := c.alloc.BeginCreate(ns, s, &metav1.CreateOptions{DryRun: dry})
	if err != nil {
		t.Fatal(err)
	}
	finish(ns, true)
	if s.Spec.ClusterIP == "" || s.Spec.Ports[0].NodePort == 0 || s.Spec.Ports[0].NodePort == s.Spec.Ports[1].NodePort {
		t.Errorf("dry run answers %+v", s.Spec)
	}
	c.consistent()

	live := c.mustCreate(service("live", nodePort))
	c.alloc.AfterDelete(live, &metav1.DeleteOptions{DryRun: dry})
	c.consistent()
	taken := service("x", nodePort)
	taken.Spec.Ports[0].NodePort = live.Spec.Ports[0].NodePort
	if _, err := c.alloc.BeginCreate(ns, taken, &metav1.CreateOptions{DryRun: dry}); !apierrors.IsInvalid(err) {
		t.Errorf("a dry run must still find conflicts: %v", err)
	}
}

func TestSmallRangeFillsUpAndFreesAgain(t *testing.T) {
	c := newCluster(t, "10.0.0.0/29")
	for i := range 6 {
		c.mustCreate(service(fmt.Sprint("s", i), clusterIP))
	}
	_, err := c.create(service("one-too-many", clusterIP))
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "range is full") {
		t.Fatalf("err %v", err)
	}
	c.delete("s3")
	c.mustCreate(service("again", clusterIP))
	c.consistent()

	c.cidrs.put(&networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "more"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.1.0.0/24"}}})
	s := c.mustCreate(service("from-more", clusterIP))
	if !strings.HasPrefix(s.Spec.ClusterIP, "10.1.0.") {
		t.Errorf("address %s is not of the added range", s.Spec.ClusterIP)
	}
	named := service("named", clusterIP)
	named.Spec.ClusterIP = "10.1.0.5"
	c.mustCreate(named)
	c.consistent()
}

func TestParallelCreatesNeverShare(t *testing.T) {
	c := newCluster(t, "10.0.0.0/25")
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			if _, err := c.create(service(fmt.Sprint("s", i), nodePort)); err != nil {
				t.Errorf("create %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	c.consistent()
}

func TestRepairAfterACrash(t *testing.T) {
	c := newCluster(t)
	ctx := context.Background()
	kept := c.mustCreate(service("kept", nodePort))
	// Allocated, and the process died before the Service was stored.
	lost := service("lost", nodePort)
	lost.Namespace = "shop"
	if _, err := c.alloc.BeginCreate(ns, lost, &metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	// Somebody else's address object is none of our business.
	c.addresses.put(&networkingv1.IPAddress{ObjectMeta: metav1.ObjectMeta{Name: "10.96.0.99"}, Spec: networkingv1.IPAddressSpec{
		ParentRef: &networkingv1.ParentReference{Group: "gw", Resource: "gateways", Name: "g"}}})
	// Restored from a backup without its allocations.
	missing := service("missing", nodePort)
	missing.Namespace = "shop"
	missing.Spec.ClusterIP, missing.Spec.ClusterIPs, missing.Spec.Ports[0].NodePort = "10.96.0.77", []string{"10.96.0.77"}, 30017
	c.services.put(missing)

	c.restart([]netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")})
	for pass := 1; pass <= leakPasses; pass++ {
		if pass < leakPasses+1 && pass > 1 && !slices.Contains(c.takenAddresses(), lost.Spec.ClusterIP) {
			t.Fatalf("pass %d released an address that might still be in the making", pass)
		}
		if _, err := c.alloc.Repair(ctx); err != nil {
			t.Fatal(err)
		}
	}
	got := c.takenAddresses()
	want := []string{kept.Spec.ClusterIP, "10.96.0.77", "10.96.0.99"}
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("addresses %v, want %v", got, want)
	}
	ports := []int32{kept.Spec.Ports[0].NodePort, 30017}
	slices.Sort(ports)
	if got := c.takenPorts(); !slices.Equal(got, ports) {
		t.Errorf("ports %v, want %v", got, ports)
	}
	suspects, err := c.alloc.Repair(ctx)
	if err != nil || suspects {
		t.Errorf("suspects %v, err %v after everything was repaired", suspects, err)
	}
}

func TestNodePortRangeMayChange(t *testing.T) {
	c := newCluster(t)
	s := service("web", nodePort)
	s.Spec.Ports[0].NodePort = 30500
	c.mustCreate(s)
	moved := &ports{store: c.ranges, r: utilnet.PortRange{Base: 30400, Size: 200}, rand: c.alloc.ports.rand}
	if err := moved.allocate(context.Background(), 30500, false); !errors.Is(err, errPortTaken) {
		t.Errorf("a port taken under the old range must stay taken: %v", err)
	}
	if err := moved.allocate(context.Background(), 30501, false); err != nil {
		t.Error(err)
	}
}

// The stored form is upstream's, so that data can move either way: a big-endian number, bit i for port base+i.
func TestStoredFormOfNodePorts(t *testing.T) {
	c := newCluster(t)
	if err := c.alloc.ports.allocate(context.Background(), 30009, false); err != nil {
		t.Fatal(err)
	}
	want := new(big.Int).SetBit(new(big.Int), 9, 1).Bytes()
	if c.ranges.a.Range != "30000-32767" || !slices.Equal(c.ranges.a.Data, want) {
		t.Errorf("stored %q % x", c.ranges.a.Range, c.ranges.a.Data)
	}
}
