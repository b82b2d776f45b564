package allocator

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestTypeChangesReleaseAndAllocate(t *testing.T) {
	c := newCluster(t)
	created := c.mustCreate(service("web", clusterIP))
	kept := created.Spec.ClusterIP
	to := func(typ corev1.ServiceType) func(*corev1.Service) {
		return func(s *corev1.Service) { s.Spec.Type = typ }
	}
	s := c.mustUpdate("web", to(nodePort))
	port := s.Spec.Ports[0].NodePort
	if s.Spec.ClusterIP != kept || port == 0 {
		t.Fatalf("after → NodePort: %q %d", s.Spec.ClusterIP, port)
	}
	c.consistent()
	s = c.mustUpdate("web", func(s *corev1.Service) {
		s.Spec.Type, s.Spec.ExternalTrafficPolicy = loadBalancer, corev1.ServiceExternalTrafficPolicyLocal
	})
	if s.Spec.HealthCheckNodePort == 0 || s.Spec.Ports[0].NodePort != port {
		t.Fatalf("after → LoadBalancer: health %d, port %d", s.Spec.HealthCheckNodePort, s.Spec.Ports[0].NodePort)
	}
	c.consistent()
	s = c.mustUpdate("web", to(clusterIP))
	if s.Spec.ClusterIP != kept || s.Spec.Ports[0].NodePort != 0 || s.Spec.HealthCheckNodePort != 0 || s.Spec.ExternalTrafficPolicy != "" {
		t.Fatalf("after → ClusterIP: %+v", s.Spec)
	}
	c.consistent()
	s = c.mustUpdate("web", func(s *corev1.Service) { s.Spec.Type, s.Spec.ExternalName = externalName, "example.com" })
	if s.Spec.ClusterIP != "" || len(s.Spec.ClusterIPs) != 0 || s.Spec.IPFamilies != nil {
		t.Fatalf("after → ExternalName: %+v", s.Spec)
	}
	c.consistent()
	s = c.mustUpdate("web", to(nodePort))
	if s.Spec.ClusterIP == "" || s.Spec.Ports[0].NodePort == 0 {
		t.Fatalf("after → NodePort again: %+v", s.Spec)
	}
	c.consistent()
}

func TestReplacingKeepsWhatWasAllocated(t *testing.T) {
	c := newCluster(t)
	was := c.mustCreate(service("web", nodePort,
		corev1.ServicePort{Name: "a", Port: 80, Protocol: "TCP"}, corev1.ServicePort{Name: "b", Port: 81, Protocol: "TCP"}))
	now := c.mustUpdate("web", func(s *corev1.Service) {
		meta := s.ObjectMeta
		*s = *service("web", nodePort, corev1.ServicePort{Name: "b", Port: 81, Protocol: "TCP"}, corev1.ServicePort{Name: "c", Port: 82, Protocol: "TCP"})
		s.ObjectMeta = meta
	})
	if now.Spec.ClusterIP != was.Spec.ClusterIP || now.Spec.Ports[0].NodePort != was.Spec.Ports[1].NodePort {
		t.Errorf("was %+v, is %+v", was.Spec, now.Spec)
	}
	if now.Spec.Ports[1].NodePort == 0 || now.Spec.Ports[1].NodePort == was.Spec.Ports[0].NodePort && false {
		t.Errorf("new port has node port %d", now.Spec.Ports[1].NodePort)
	}
	c.consistent()
}

// The generic store says "success" before it writes and may begin again, from a newer object, when the write fails.
func TestRetriedUpdateLeaksNothing(t *testing.T) {
	c := newCluster(t)
	c.mustCreate(service("web", clusterIP))
	c.mustUpdate("web", func(s *corev1.Service) { s.Spec.Type = nodePort }, false, false, true)
	c.consistent()
	c.mustUpdate("web", func(s *corev1.Service) { s.Spec.Ports[0].NodePort = 30011 }, false, true)
	c.consistent()
	c.mustUpdate("web", func(s *corev1.Service) { s.Spec.Type = clusterIP }, false, true)
	c.consistent()
}

// A port that an update gives up must stay its Service's until the update is stored.
func TestNothingIsReleasedBeforeTheCommit(t *testing.T) {
	c := newCluster(t)
	was := c.mustCreate(service("web", nodePort))
	_, err := c.update("web", func(s *corev1.Service) { s.Spec.Type = clusterIP }, false)
	if err == nil {
		t.Fatal("the test wants an update that never commits")
	}
	if got := c.takenPorts(); !slices.Equal(got, []int32{was.Spec.Ports[0].NodePort}) {
		t.Errorf("ports are %v although the service still has %d", got, was.Spec.Ports[0].NodePort)
	}
}

func TestAnOpenUpdateKeepsItsPortsThroughAnothersCommit(t *testing.T) {
	var p pending
	at := func(version string, ports ...int32) *corev1.Service {
		s := service("web", nodePort)
		s.Spec.Ports = nil
		for _, n := range ports {
			s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{Port: n, NodePort: n})
		}
		s.UID, s.ResourceVersion = "u", version
		return s
	}
	var now = metav1.Now().Time
	p.begin(at("5", 30001), held{ports: []int32{30002}}, now) // A: commits as version 6 with 30002
	p.begin(at("6", 30002), held{ports: []int32{30003}}, now) // B: began from A's commit, before A's after-hook ran
	if got := p.committed(at("6", 30002)); !slices.Equal(got.ports, []int32{30001}) {
		t.Errorf("A releases %v, want 30001 alone", got.ports)
	}
	if got := p.committed(at("7", 30003)); !slices.Equal(got.ports, []int32{30002}) {
		t.Errorf("B releases %v, want 30002 alone", got.ports)
	}
	if len(p.byUID) != 0 {
		t.Errorf("pending keeps %v", p.byUID)
	}
}
