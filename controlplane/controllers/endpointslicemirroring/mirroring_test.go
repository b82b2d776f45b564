package endpointslicemirroring

import (
	"fmt"
	"testing"

	"go.uber.org/goleak"
	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/reevehq/reeve/controlplane/controllers/looptest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func endpoints(ips ...string) *v1.Endpoints {
	e := &v1.Endpoints{ObjectMeta: metav1.ObjectMeta{Name: "db", Namespace: "default", UID: "e"}}
	s := v1.EndpointSubset{Ports: []v1.EndpointPort{{Port: 5432, Protocol: v1.ProtocolTCP}}}
	for _, ip := range ips {
		s.Addresses = append(s.Addresses, v1.EndpointAddress{IP: ip})
	}
	e.Subsets = []v1.EndpointSubset{s}
	return e
}

func TestMirrorsWhatUsersWrite(t *testing.T) {
	c := looptest.New(t, endpoints("10.9.0.1", "fd00::1"), &v1.Service{ObjectMeta: metav1.ObjectMeta{Name: "db", Namespace: "default"}})
	c.Run(New(c.Env))
	want := func(v4, v6 int) {
		t.Helper()
		c.Eventually(fmt.Sprintf("%d and %d endpoints", v4, v6), func() error {
			list, err := c.DiscoveryV1().EndpointSlices("default").List(t.Context(), metav1.ListOptions{})
			if err != nil {
				return err
			}
			got := map[discovery.AddressType]int{}
			for _, s := range list.Items {
				got[s.AddressType] += len(s.Endpoints)
			}
			if got[discovery.AddressTypeIPv4] != v4 || got[discovery.AddressTypeIPv6] != v6 {
				return fmt.Errorf("%v", got)
			}
			return nil
		})
	}
	want(1, 1)
	if _, err := c.CoreV1().Endpoints("default").Update(t.Context(), endpoints("10.9.0.1", "10.9.0.2"), metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	want(2, 0)
	svc := &v1.Service{ObjectMeta: metav1.ObjectMeta{Name: "db", Namespace: "default"}, Spec: v1.ServiceSpec{Selector: map[string]string{"a": "b"}}}
	if _, err := c.CoreV1().Services("default").Update(t.Context(), svc, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	want(0, 0) // with a selector they are no longer the user's
}

func TestWhatIsNotMirrored(t *testing.T) {
	svc := &v1.Service{}
	leader := endpoints("10.0.0.1")
	leader.Annotations = map[string]string{"control-plane.alpha.kubernetes.io/leader": "{}"}
	skipped := endpoints("10.0.0.1")
	skipped.Labels = map[string]string{discovery.LabelSkipMirror: "true"}
	for name, ok := range map[string]bool{
		"own": wanted(endpoints("10.0.0.1"), svc), "leader": wanted(leader, svc), "skipped": wanted(skipped, svc), "no Service": wanted(endpoints("10.0.0.1"), nil),
	} {
		if ok != (name == "own") {
			t.Errorf("%s: mirrored %v", name, ok)
		}
	}
}
