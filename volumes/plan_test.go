package volumes

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

func mounts(names ...string) []corev1.VolumeMount {
	var out []corev1.VolumeMount
	for _, n := range names {
		out = append(out, corev1.VolumeMount{Name: n, MountPath: "/" + n})
	}
	return out
}

func TestPlanSetUp(t *testing.T) {
	pod := &corev1.Pod{Spec: corev1.PodSpec{
		InitContainers: []corev1.Container{{Name: "i", VolumeMounts: mounts("cm")}},
		Containers:     []corev1.Container{{Name: "c", VolumeMounts: mounts("tmp", "bare", "nfs", "nowhere")}},
		Volumes: []corev1.Volume{
			{Name: "tmp", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
			{Name: "unused", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "absent"}}},
			{Name: "cm", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{}}},
			{Name: "bare"},
			{Name: "nfs", VolumeSource: corev1.VolumeSource{NFS: &corev1.NFSVolumeSource{}}},
		},
	}}
	steps, errs := planSetUp(pod)
	got := map[string]string{}
	for _, s := range steps {
		got[s.Name] = s.Dir
	}
	want := map[string]string{"tmp": "kubernetes.io~empty-dir/tmp", "cm": "kubernetes.io~configmap/cm", "bare": "kubernetes.io~empty-dir/bare"}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("steps (-want +got):\n%s", d)
	}
	if len(errs) != 2 || errs["nfs"] == nil || errs["nowhere"] == nil {
		t.Errorf("errors = %v, want one for nfs and one for nowhere", errs)
	}
}

func TestPlanTearDown(t *testing.T) {
	roots := []string{"/r/pods/u/volume-subpaths", "/r/pods/u/volumes"}
	td := planTearDown(roots, []string{
		"/r/pods/u/volumes/kubernetes.io~secret/s",
		"/r/pods/u/volumes/kubernetes.io~secret/s", // mounted twice
		"/r/pods/u/volume-subpaths/v/c/0",
		"/r/pods/u/volumes/kubernetes.io~secret/s/deep/er",
		"/r/pods/u/containers/c/1",    // not ours
		"/r/pods/u/volumes-elsewhere", // a prefix in letters only
	})
	want := tearDown{
		Unmount: []string{
			"/r/pods/u/volumes/kubernetes.io~secret/s/deep/er",
			"/r/pods/u/volume-subpaths/v/c/0",
			"/r/pods/u/volumes/kubernetes.io~secret/s",
			"/r/pods/u/volumes/kubernetes.io~secret/s",
		},
		Remove: roots,
	}
	if d := cmp.Diff(want, td); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
}

func TestMemorySize(t *testing.T) {
	limit := func(s string) corev1.Container {
		c := corev1.Container{}
		if s != "" {
			c.Resources.Limits = corev1.ResourceList{corev1.ResourceMemory: resource.MustParse(s)}
		}
		return c
	}
	q := func(s string) *resource.Quantity { q := resource.MustParse(s); return &q }
	for _, tc := range []struct {
		name       string
		containers []corev1.Container
		sizeLimit  *resource.Quantity
		node       string
		want       int64
	}{
		{"nothing known", []corev1.Container{limit("")}, nil, "", 0},
		{"node only", []corev1.Container{limit("")}, nil, "1Gi", 1 << 30},
		{"one container without a limit", []corev1.Container{limit("1Mi"), limit("")}, nil, "1Gi", 1 << 30},
		{"all limited", []corev1.Container{limit("1Mi"), limit("3Mi")}, nil, "1Gi", 4 << 20},
		{"sizeLimit is least", []corev1.Container{limit("8Mi")}, q("2Mi"), "1Gi", 2 << 20},
		{"sizeLimit above the pod's limit", []corev1.Container{limit("8Mi")}, q("9Mi"), "1Gi", 8 << 20},
	} {
		t.Run(tc.name, func(t *testing.T) {
			pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: tc.containers}}
			alloc := corev1.ResourceList{}
			if tc.node != "" {
				alloc[corev1.ResourceMemory] = resource.MustParse(tc.node)
			}
			if got := memorySize(pod, &corev1.EmptyDirVolumeSource{SizeLimit: tc.sizeLimit}, alloc); got != tc.want {
				t.Errorf("size = %d, want %d", got, tc.want)
			}
		})
	}
}
