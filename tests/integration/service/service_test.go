package service

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/reevehq/reeve/tests/integration/apiserver"
)

var shared *apiserver.Cluster

func TestMain(m *testing.M) { os.Exit(apiserver.Main(m, &shared)) }

func namespace(t *testing.T, name string) string {
	t.Helper()
	if _, err := shared.Admin.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	return name
}

func service(name string, typ corev1.ServiceType) *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{Type: typ, Selector: map[string]string{"app": name},
		Ports: []corev1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080)}}}}
}

// holder is the IPAddress object's parent, "" when there is none.
func holder(t *testing.T, address string) string {
	t.Helper()
	a, err := shared.Admin.NetworkingV1().IPAddresses().Get(t.Context(), address, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return ""
	}
	if err != nil {
		t.Fatal(err)
	}
	return a.Spec.ParentRef.Resource + "/" + a.Spec.ParentRef.Namespace + "/" + a.Spec.ParentRef.Name
}

func TestLifeOfAService(t *testing.T) {
	ctx := t.Context()
	ns := namespace(t, "life")
	services := shared.Admin.CoreV1().Services(ns)
	s, err := services.Create(ctx, service("web", corev1.ServiceTypeNodePort), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got := holder(t, s.Spec.ClusterIP); got != "services/life/web" {
		t.Errorf("address %s is held by %q", s.Spec.ClusterIP, got)
	}
	port := s.Spec.Ports[0].NodePort
	if port < 30000 || port > 32767 {
		t.Errorf("node port is %d", port)
	}

	taken := service("taken", corev1.ServiceTypeNodePort)
	taken.Spec.Ports[0].NodePort = port
	if _, err := services.Create(ctx, taken, metav1.CreateOptions{}); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "provided port is already allocated") {
		t.Errorf("a taken port: %v", err)
	}
	taken = service("taken", corev1.ServiceTypeClusterIP)
	taken.Spec.ClusterIP = s.Spec.ClusterIP
	if _, err := services.Create(ctx, taken, metav1.CreateOptions{}); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "provided IP is already allocated") {
		t.Errorf("a taken address: %v", err)
	}

	// The same file applied again and again, as kubectl and helm do.
	applied, err := json.Marshal(map[string]any{"apiVersion": "v1", "kind": "Service", "metadata": map[string]any{"name": "web"},
		"spec": map[string]any{"type": "ClusterIP", "selector": map[string]any{"app": "web"}, "ports": []any{map[string]any{"port": 80, "protocol": "TCP"}}}})
	if err != nil {
		t.Fatal(err)
	}
	force := true
	for range 2 {
		after, err := services.Patch(ctx, "web", types.ApplyPatchType, applied, metav1.PatchOptions{FieldManager: "test", Force: &force})
		if err != nil {
			t.Fatal(err)
		}
		if after.Spec.ClusterIP != s.Spec.ClusterIP || after.Spec.Ports[0].NodePort != 0 {
			t.Errorf("applied: %+v", after.Spec)
		}
	}
	again := service("again", corev1.ServiceTypeNodePort)
	again.Spec.Ports[0].NodePort = port
	if _, err := services.Create(ctx, again, metav1.CreateOptions{}); err != nil {
		t.Errorf("the port that was given up: %v", err)
	}

	if err := services.Delete(ctx, "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := holder(t, s.Spec.ClusterIP); got != "" {
		t.Errorf("after the delete %s is held by %q", s.Spec.ClusterIP, got)
	}
}

func TestDryRunTakesNothing(t *testing.T) {
	ctx := t.Context()
	ns := namespace(t, "dry")
	all := []string{metav1.DryRunAll}
	s, err := shared.Admin.CoreV1().Services(ns).Create(ctx, service("web", corev1.ServiceTypeNodePort), metav1.CreateOptions{DryRun: all})
	if err != nil {
		t.Fatal(err)
	}
	if s.Spec.ClusterIP == "" || holder(t, s.Spec.ClusterIP) != "" {
		t.Errorf("address %q is held by %q", s.Spec.ClusterIP, holder(t, s.Spec.ClusterIP))
	}
	real := service("web", corev1.ServiceTypeNodePort)
	real.Spec.Ports[0].NodePort = s.Spec.Ports[0].NodePort
	if _, err := shared.Admin.CoreV1().Services(ns).Create(ctx, real, metav1.CreateOptions{}); err != nil {
		t.Errorf("the port that was only promised: %v", err)
	}
}

func TestManyAtOnce(t *testing.T) {
	ns := namespace(t, "many")
	const n = 60
	var mu sync.Mutex
	var addresses []string
	var ports []int32
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			s, err := shared.Admin.CoreV1().Services(ns).Create(context.Background(), service(fmt.Sprint("s-", i), corev1.ServiceTypeNodePort), metav1.CreateOptions{})
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			addresses, ports = append(addresses, s.Spec.ClusterIP), append(ports, s.Spec.Ports[0].NodePort)
		})
	}
	wg.Wait()
	slices.Sort(addresses)
	slices.Sort(ports)
	if a, p := len(slices.Compact(addresses)), len(slices.Compact(ports)); a != n || p != n {
		t.Errorf("%d services share %d addresses and %d ports", n, a, p)
	}
	if err := shared.Admin.CoreV1().Namespaces().Delete(t.Context(), ns, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
}
