package endpointslice

import (
	"fmt"
	"testing"

	"go.uber.org/goleak"
	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/reevehq/reeve/controlplane/controllers/looptest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestPodsAppearAndLeave(t *testing.T) {
	c := looptest.New(t,
		&v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}},
		&v1.Service{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default", UID: "svc"}, Spec: v1.ServiceSpec{
			ClusterIP: "10.96.0.5", ClusterIPs: []string{"10.96.0.5"}, IPFamilies: []v1.IPFamily{v1.IPv4Protocol}, Selector: map[string]string{"app": "web"},
			Ports: []v1.ServicePort{{Port: 80, Protocol: v1.ProtocolTCP, TargetPort: intstr.FromInt32(8080)}},
		}})
	c.Run(New(c.Env))
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "a", Namespace: "default", Labels: map[string]string{"app": "web"}}, Spec: v1.PodSpec{NodeName: "n"},
		Status: v1.PodStatus{Phase: v1.PodRunning, PodIP: "10.0.0.1", PodIPs: []v1.PodIP{{IP: "10.0.0.1"}}}}
	want := func(what string, ok func([]discovery.Endpoint) bool) {
		t.Helper()
		c.Eventually(what, func() error {
			list, err := c.DiscoveryV1().EndpointSlices("default").List(t.Context(), metav1.ListOptions{})
			if err != nil {
				return err
			}
			var all []discovery.Endpoint
			for _, s := range list.Items {
				if s.Labels[discovery.LabelServiceName] != "web" || s.Labels[discovery.LabelManagedBy] != managedBy || len(s.Endpoints) > 0 && *s.Ports[0].Port != 8080 {
					t.Fatalf("slice %+v", s)
				}
				all = append(all, s.Endpoints...)
			}
			if !ok(all) {
				return fmt.Errorf("%+v", all)
			}
			return nil
		})
	}
	if _, err := c.CoreV1().Pods("default").Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	want("the pod, not ready", func(e []discovery.Endpoint) bool { return len(e) == 1 && !*e[0].Conditions.Ready })
	pod, _ = c.CoreV1().Pods("default").Get(t.Context(), "a", metav1.GetOptions{})
	pod.Status.Conditions = []v1.PodCondition{{Type: v1.PodReady, Status: v1.ConditionTrue}}
	if _, err := c.CoreV1().Pods("default").UpdateStatus(t.Context(), pod, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	want("the pod, ready", func(e []discovery.Endpoint) bool {
		return len(e) == 1 && *e[0].Conditions.Ready && e[0].Addresses[0] == "10.0.0.1"
	})
	if err := c.CoreV1().Pods("default").Delete(t.Context(), "a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	want("nobody", func(e []discovery.Endpoint) bool { return len(e) == 0 })
}
