package core

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestPullPolicy(t *testing.T) {
	const digest = "@sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
	for image, want := range map[string]corev1.PullPolicy{
		"nginx":                          corev1.PullAlways,
		"nginx:latest":                   corev1.PullAlways,
		"nginx:1.27":                     corev1.PullIfNotPresent,
		"reg:5000/nginx":                 corev1.PullAlways,
		"reg:5000/nginx:1":               corev1.PullIfNotPresent,
		"nginx" + digest:                 corev1.PullIfNotPresent,
		"nginx:latest" + digest:          corev1.PullAlways,
		"localhost/reeve-hello:v1":       corev1.PullIfNotPresent,
		"":                               corev1.PullIfNotPresent,
		"reg.example/a/b/nginx:latest":   corev1.PullAlways,
		"reg.example:443/nginx" + digest: corev1.PullIfNotPresent,
	} {
		if got := pullPolicy(image); got != want {
			t.Errorf("pullPolicy(%q) = %s, want %s", image, got, want)
		}
	}
}
