package controlplane

import (
	"context"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// TestQuotaIsCountedAndKept runs the controllers too: a quota's usage is counted, what exceeds it is refused with a message
// that names quota and figures, and what goes makes room.
func TestQuotaIsCountedAndKept(t *testing.T) {
	c, _ := start(t, shortDir(t), func(config *Config) { config.DisableControllers = false })
	ns, ctx := c.namespace(t, "quota"), within(t)
	hard := corev1.ResourceList{"pods": quantity("2"), "requests.cpu": quantity("1"), "count/configmaps": quantity("2"), "services.nodeports": quantity("1")}
	besteffort := &corev1.ResourceQuota{
		ObjectMeta: metav1.ObjectMeta{Name: "besteffort"},
		Spec:       corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{"pods": quantity("1")}, Scopes: []corev1.ResourceQuotaScope{corev1.ResourceQuotaScopeBestEffort}},
	}
	for _, q := range []*corev1.ResourceQuota{{ObjectMeta: metav1.ObjectMeta{Name: "team"}, Spec: corev1.ResourceQuotaSpec{Hard: hard}}, besteffort} {
		if _, err := c.client.CoreV1().ResourceQuotas(ns).Create(ctx, q, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	// kube-root-ca.crt is one of the two ConfigMaps.
	c.wantUsed(t, ns, "team", corev1.ResourceList{"pods": quantity("0"), "requests.cpu": quantity("0"), "count/configmaps": quantity("1"), "services.nodeports": quantity("0")})

	asking := func(name, cpu string) *corev1.Pod {
		p := pod(name)
		p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{"cpu": quantity(cpu)}
		return p
	}
	refused := func(what string, err error, parts ...string) {
		t.Helper()
		if !apierrors.IsForbidden(err) {
			t.Errorf("%s: %v, want it forbidden", what, err)
			return
		}
		for _, part := range parts {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%s: %q does not say %q", what, err, part)
			}
		}
	}
	pods := c.client.CoreV1().Pods(ns)
	c.createPod(t, ns, asking("a", "600m"))
	_, err := pods.Create(ctx, pod("silent"), metav1.CreateOptions{})
	refused("a pod without a request", err, "team", "must specify requests.cpu")
	_, err = pods.Create(ctx, asking("big", "500m"), metav1.CreateOptions{})
	refused("a pod above the CPU", err, "exceeded quota: team", "requested: requests.cpu=500m", "used: requests.cpu=600m", "limited: requests.cpu=1")
	c.createPod(t, ns, asking("b", "400m"))
	_, err = pods.Create(ctx, asking("c", "0"), metav1.CreateOptions{})
	refused("a third pod", err, "exceeded quota: team", "limited: pods=2")
	if err := pods.Delete(ctx, "a", metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)}); err != nil {
		t.Fatal(err)
	}
	c.wantUsed(t, ns, "team", corev1.ResourceList{"pods": quantity("1"), "requests.cpu": quantity("400m")})
	c.createPod(t, ns, asking("c", "600m"))

	configs := c.client.CoreV1().ConfigMaps(ns)
	if _, err := configs.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "one"}}, metav1.CreateOptions{}); err != nil {
		t.Error(err)
	}
	_, err = configs.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "two"}}, metav1.CreateOptions{})
	refused("a third ConfigMap", err, "exceeded quota: team", "count/configmaps=2")

	services := c.client.CoreV1().Services(ns)
	for i, name := range []string{"one", "two"} {
		_, err := services.Create(ctx, &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeNodePort, Ports: []corev1.ServicePort{{Port: 80}}},
		}, metav1.CreateOptions{})
		if i == 0 && err != nil {
			t.Error(err)
		} else if i == 1 {
			refused("a second node port", err, "exceeded quota: team", "services.nodeports=1")
		}
	}
	c.wantUsed(t, ns, "besteffort", corev1.ResourceList{"pods": quantity("0")})
}

// wantUsed waits until a quota's status says used.
func (c *cluster) wantUsed(t testing.TB, namespace, name string, used corev1.ResourceList) {
	t.Helper()
	eventually(t, "usage of quota "+name, func(ctx context.Context) error {
		q, err := c.client.CoreV1().ResourceQuotas(namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for resource, want := range used {
			if got, ok := q.Status.Used[resource]; !ok || got.Cmp(want) != 0 {
				return fmt.Errorf("%s: used %s (known: %t), want %s", resource, got.String(), ok, want.String())
			}
		}
		return nil
	})
}
