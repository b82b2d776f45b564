package validation

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/runtime"
)

func TestWarnings(t *testing.T) {
	const pod = `{apiVersion: v1, kind: Pod, metadata: {name: a, namespace: b}, spec: {containers: [{name: a, image: b}]}}`
	for _, tc := range []struct {
		patch string
		want  []string
	}{
		{`{}`, nil},
		{`metadata: {name: a.b}`, []string{`metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: [must not contain dots]`}},
		{`spec: {nodeSelector: {beta.kubernetes.io/os: linux}}`, []string{`spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use "kubernetes.io/os" instead`}},
		{`metadata: {annotations: {seccomp.security.alpha.kubernetes.io/pod: x}}`,
			[]string{`metadata.annotations[seccomp.security.alpha.kubernetes.io/pod]: non-functional in v1.27+; use the "seccompProfile" field instead`}},
		{`spec: {containers: [{name: a, image: b, resources: {limits: {memory: 100m}}}]}`, []string{
			`spec.containers[0].resources.limits[memory]: fractional byte value "100m" is invalid, must be an integer`,
			`spec.containers[0].resources.requests[memory]: fractional byte value "100m" is invalid, must be an integer`}},
		{`spec: {containers: [{name: a, image: b, env: [{name: A, value: b}, {name: A, value: c}]}]}`, []string{`spec.containers[0].env[1]: hides previous definition of "A", which may be dropped when using apply`}},
		{`spec: {containers: [{name: a, image: b, env: [{name: A, value: b}, {name: A, value: $(A)c}]}]}`, nil},
		{`spec: {containers: [{name: a, image: b, ports: [{containerPort: 1}, {containerPort: 1}]}]}`, []string{`spec.containers[0].ports[1]: duplicate port definition with spec.containers[0].ports[0]`}},
		{`spec: {terminationGracePeriodSeconds: -1}`, []string{`spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1`}},
		{`spec: {volumes: [{name: g, gitRepo: {repository: x}}]}`, []string{`spec.volumes[0].gitRepo: deprecated in v1.11, and disabled by default in v1.33+`}},
	} {
		t.Run(tc.patch, func(t *testing.T) {
			if d := cmp.Diff(tc.want, Warnings(patched(t, pod, tc.patch), nil)); d != "" {
				t.Error(d)
			}
		})
	}
}

// TestTemplateIsWarnedAboutOnce: a scale or a label says nothing new of the template.
func TestTemplateIsWarnedAboutOnce(t *testing.T) {
	d := parse[*appsv1.Deployment](t, `{apiVersion: apps/v1, kind: Deployment, metadata: {name: a, namespace: b, generation: 1}, spec: {selector: {matchLabels: {a: b}},
   template: {metadata: {labels: {a: b}}, spec: {nodeSelector: {beta.kubernetes.io/arch: x}, containers: [{name: a, image: b}]}}}}`)
	want := []string{`spec.template.spec.nodeSelector[beta.kubernetes.io/arch]: deprecated since v1.14; use "kubernetes.io/arch" instead`}
	if diff := cmp.Diff(want, Warnings(d, nil)); diff != "" {
		t.Error(diff)
	}
	now := d.DeepCopy()
	if got := Warnings(now, runtime.Object(d)); got != nil {
		t.Error(got)
	}
	now.Generation = 2
	if diff := cmp.Diff(want, Warnings(now, runtime.Object(d))); diff != "" {
		t.Error(diff)
	}
}
