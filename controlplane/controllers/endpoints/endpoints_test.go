package endpoints

import (
	"fmt"
	"strings"
	"testing"

	"go.uber.org/goleak"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/reevehq/reeve/controlplane/controllers/looptest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func svc(change ...func(*v1.Service)) *v1.Service {
	s := &v1.Service{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default", Labels: map[string]string{"team": "a"}}, Spec: v1.ServiceSpec{
		ClusterIP: "10.96.0.5", IPFamilies: []v1.IPFamily{v1.IPv4Protocol}, Selector: map[string]string{"app": "web"},
		Ports: []v1.ServicePort{{Name: "http", Port: 80, Protocol: v1.ProtocolTCP, TargetPort: intstr.FromString("http")}},
	}}
	for _, f := range change {
		f(s)
	}
	return s
}

func pod(name, ip string, port int32, ready bool) *v1.Pod {
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: types.UID(name), Labels: map[string]string{"app": "web"}},
		Spec:   v1.PodSpec{NodeName: "n", Containers: []v1.Container{{Ports: []v1.ContainerPort{{Name: "http", ContainerPort: port, Protocol: v1.ProtocolTCP}}}}},
		Status: v1.PodStatus{Phase: v1.PodRunning, PodIP: ip}}
	if ip != "" {
		p.Status.PodIPs = []v1.PodIP{{IP: ip}, {IP: strings.Replace(ip, "10.0.0.", "fd00::", 1)}}
	}
	if ready {
		p.Status.Conditions = []v1.PodCondition{{Type: v1.PodReady, Status: v1.ConditionTrue}}
	}
	return p
}

func text(subs []v1.EndpointSubset) string {
	var b strings.Builder
	for _, s := range subs {
		for _, a := range s.Addresses {
			fmt.Fprintf(&b, "%s ", a.IP)
		}
		for _, a := range s.NotReadyAddresses {
			fmt.Fprintf(&b, "(%s) ", a.IP)
		}
		for _, p := range s.Ports {
			fmt.Fprintf(&b, "%s:%d", p.Name, p.Port)
		}
		b.WriteString("; ")
	}
	return b.String()
}

func TestSubsets(t *testing.T) {
	gone := pod("gone", "10.0.0.9", 80, true)
	gone.Status.Phase = v1.PodSucceeded
	leaving := pod("leaving", "10.0.0.8", 80, true)
	leaving.DeletionTimestamp = &metav1.Time{}
	named := pod("named", "10.0.0.7", 80, true)
	named.Spec.Containers[0].Ports[0].Name = "other"
	pods := []*v1.Pod{pod("b", "10.0.0.2", 8080, true), pod("a", "10.0.0.1", 8080, true), pod("c", "10.0.0.3", 9090, true), pod("sick", "10.0.0.4", 8080, false), pod("new", "", 8080, false), gone, leaving, named}
	for _, c := range []struct {
		name string
		s    *v1.Service
		want string
	}{
		{"by port, in order", svc(), "10.0.0.1 10.0.0.2 (10.0.0.4) http:8080; 10.0.0.3 http:9090; "},
		{"publish all, those leaving too", svc(func(s *v1.Service) { s.Spec.PublishNotReadyAddresses = true }), "10.0.0.8 http:80; 10.0.0.1 10.0.0.2 10.0.0.4 http:8080; 10.0.0.3 http:9090; "},
		{"IPv6", svc(func(s *v1.Service) { s.Spec.IPFamilies = []v1.IPFamily{v1.IPv6Protocol} }), "fd00::1 fd00::2 (fd00::4) http:8080; fd00::3 http:9090; "},
		{"headless without ports", svc(func(s *v1.Service) { s.Spec.Ports = nil }), "10.0.0.1 10.0.0.2 10.0.0.3 10.0.0.7 (10.0.0.4) ; "},
	} {
		got, cut := subsets(c.s, pods)
		if s := text(got); s != c.want || cut {
			t.Errorf("%s: %q, want %q", c.name, s, c.want)
		}
	}
	var many []*v1.Pod
	for i := range maxAddresses + 50 {
		many = append(many, pod(fmt.Sprint("p", i), fmt.Sprintf("10.1.%d.%d", i/250, i%250), 80, i >= 100))
	}
	got, cut := subsets(svc(), many)
	if !cut || len(got[0].Addresses) != maxAddresses-50 || len(got[0].NotReadyAddresses) != 50 {
		t.Errorf("cut %v: %d ready, %d not", cut, len(got[0].Addresses), len(got[0].NotReadyAddresses))
	}
}

func TestFollowsPodsAndService(t *testing.T) {
	c := looptest.New(t, svc(), pod("a", "10.0.0.1", 80, true))
	c.Run(New(c.Env))
	want := func(s string) {
		t.Helper()
		c.Eventually("endpoints "+s, func() error {
			e, err := c.CoreV1().Endpoints("default").Get(t.Context(), "web", metav1.GetOptions{})
			if err != nil {
				return err
			}
			if got := text(e.Subsets); got != s {
				return fmt.Errorf("%q", got)
			}
			if e.Labels["team"] != "a" || e.Labels[labelManagedBy] != managedBy {
				t.Fatalf("labels %v", e.Labels)
			}
			return nil
		})
	}
	want("10.0.0.1 http:80; ")
	if _, err := c.CoreV1().Pods("default").Create(t.Context(), pod("b", "10.0.0.2", 80, false), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	want("10.0.0.1 (10.0.0.2) http:80; ")
	if err := c.CoreV1().Pods("default").Delete(t.Context(), "a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	want("(10.0.0.2) http:80; ")
	if err := c.CoreV1().Services("default").Delete(t.Context(), "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	c.Eventually("no endpoints", func() error {
		if _, err := c.CoreV1().Endpoints("default").Get(t.Context(), "web", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("still there: %v", err)
		}
		return nil
	})
}
