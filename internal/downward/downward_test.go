package downward

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestField(t *testing.T) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns", UID: "u", Labels: map[string]string{"b": "2", "a": `x"y`},
		Annotations: map[string]string{"example.com/k": "line\nbreak"}}, Spec: corev1.PodSpec{NodeName: "n", ServiceAccountName: "sa"}}
	addr := Addresses{PodIPs: []string{"10.0.0.1", "fd00::1"}, HostIPs: []string{"192.0.2.1"}}
	for path, want := range map[string]string{
		"metadata.name": "p", "metadata.namespace": "ns", "metadata.uid": "u", "spec.nodeName": "n", "spec.serviceAccountName": "sa",
		"metadata.labels": "a=\"x\\\"y\"\nb=\"2\"", "metadata.annotations": `example.com/k="line\nbreak"`,
		"metadata.labels['b']": "2", "metadata.labels['none']": "", "metadata.annotations['example.com/k']": "line\nbreak",
		"status.podIP": "10.0.0.1", "status.podIPs": "10.0.0.1,fd00::1", "status.hostIP": "192.0.2.1", "status.hostIPs": "192.0.2.1",
	} {
		if got, err := Field(pod, path, addr); err != nil || got != want {
			t.Errorf("%s = %q, %v, want %q", path, got, err, want)
		}
	}
	for _, path := range []string{"", "status.phase", "spec.nodeName['x']", "metadata.labels['x"} {
		if got, err := Field(pod, path, addr); err == nil {
			t.Errorf("%q answered %q", path, got)
		}
	}
	if got, err := Field(pod, "status.podIP", Addresses{}); err != nil || got != "" {
		t.Errorf("an address that is not known: %q, %v", got, err)
	}
}

func TestResource(t *testing.T) {
	c := &corev1.Container{Resources: corev1.ResourceRequirements{
		Limits:   corev1.ResourceList{"cpu": resource.MustParse("250m"), "hugepages-2Mi": resource.MustParse("4Mi")},
		Requests: corev1.ResourceList{"memory": resource.MustParse("100M")},
	}}
	alloc := corev1.ResourceList{"cpu": resource.MustParse("4"), "memory": resource.MustParse("1Gi")}
	for _, tc := range []struct{ res, divisor, want string }{
		{"limits.cpu", "0", "1"}, {"limits.cpu", "1m", "250"}, {"limits.memory", "1Mi", "1024"}, {"limits.memory", "0", "1073741824"},
		{"requests.memory", "1Mi", "96"}, {"requests.cpu", "0", "0"}, {"limits.hugepages-2Mi", "1Mi", "4"}, {"limits.hugepages-1Gi", "0", "0"},
		{"limits.ephemeral-storage", "0", "0"},
	} {
		if got, err := Resource(c, tc.res, resource.MustParse(tc.divisor), alloc); err != nil || got != tc.want {
			t.Errorf("%s / %s = %q, %v, want %q", tc.res, tc.divisor, got, err, tc.want)
		}
	}
	for _, res := range []string{"cpu", "limits.gpu", "usage.cpu", ""} {
		if got, err := Resource(c, res, resource.Quantity{}, alloc); err == nil {
			t.Errorf("%q answered %q", res, got)
		}
	}
}
