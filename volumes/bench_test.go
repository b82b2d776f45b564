package volumes

import (
	"context"
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/reevehq/reeve/internal/testns"
)

// BenchmarkPod is what volumes add to the way from creation to Running, and from deletion to gone: a service account
// token volume, its objects at hand.
func BenchmarkPod(b *testing.B) {
	testns.Need(b)
	objs := newFakeObjects()
	objs.setConfigMap("kube-root-ca.crt", map[string]string{"ca.crt": "x"})
	m, err := NewManager(Config{RootDir: b.TempDir(), Objects: objs, Tokens: &fakeTokens{life: time.Hour}})
	if err != nil {
		b.Fatal(err)
	}
	defer m.Close()
	var up, down time.Duration
	for i := 0; b.Loop(); i++ {
		pod := &corev1.Pod{}
		pod.Namespace, pod.Name, pod.UID = "ns", "p", types.UID(fmt.Sprint("u", i))
		pod.Spec.Containers = []corev1.Container{{Name: "c", VolumeMounts: mounts("kube-api-access")}}
		pod.Spec.Volumes = []corev1.Volume{{Name: "kube-api-access", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Path: "token"}},
			{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "kube-root-ca.crt"}}},
			{DownwardAPI: &corev1.DownwardAPIProjection{Items: []corev1.DownwardAPIVolumeFile{{Path: "namespace", FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.namespace"}}}}},
		}}}}}
		t0 := time.Now()
		m.SetPod(pod)
		if err := m.WaitMounted(context.Background(), pod.UID); err != nil {
			b.Fatal(err)
		}
		t1 := time.Now()
		m.ReleasePod(pod.UID)
		if err := m.WaitUnmounted(context.Background(), pod.UID); err != nil {
			b.Fatal(err)
		}
		up += t1.Sub(t0)
		down += time.Since(t1)
	}
	b.ReportMetric(float64(up.Microseconds())/float64(b.N), "µs/up")
	b.ReportMetric(float64(down.Microseconds())/float64(b.N), "µs/down")
}
