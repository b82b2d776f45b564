package validation

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"sigs.k8s.io/yaml"
)

// TestKinds states, for each kind, one valid object and the ways in which it can be wrong, as JSON merge patches.
func TestKinds(t *testing.T) {
	for _, k := range kindCases {
		t.Run(k.kind, func(t *testing.T) {
			if errs := Create(t.Context(), parse[runtime.Object](t, k.valid)); len(errs) > 0 {
				t.Fatalf("the valid object is refused: %v", errs)
			}
			for _, c := range k.create {
				t.Run(c.patch, func(t *testing.T) {
					compare(t, Create(t.Context(), patched(t, k.valid, c.patch)), c.want)
				})
			}
			for _, c := range k.update {
				t.Run("update "+c.patch, func(t *testing.T) {
					const version = "metadata: {resourceVersion: '1'}"
					old, now := patched(t, k.valid, version), patched(t, k.valid, version, c.patch)
					compare(t, Update(t.Context(), now, old), c.want)
				})
			}
		})
	}
}

// patched applies JSON merge patches, written in YAML, to a manifest. Lists are replaced whole.
func patched(t *testing.T, manifest string, patches ...string) runtime.Object {
	t.Helper()
	var doc any
	if err := yaml.Unmarshal([]byte(manifest), &doc); err != nil {
		t.Fatal(err)
	}
	for _, p := range patches {
		var patch any
		if err := yaml.Unmarshal([]byte(p), &patch); err != nil {
			t.Fatal(err)
		}
		doc = mergePatch(doc, patch)
	}
	raw, err := yaml.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	return parse[runtime.Object](t, string(raw))
}

func mergePatch(doc, patch any) any {
	p, ok := patch.(map[string]any)
	if !ok {
		return patch
	}
	d, ok := doc.(map[string]any)
	if !ok {
		d = map[string]any{}
	}
	for key, value := range p {
		if value == nil {
			delete(d, key)
		} else {
			d[key] = mergePatch(d[key], value)
		}
	}
	return d
}

type patchCase struct {
	patch string
	want  []string
}

var kindCases = slices.Concat(coreKinds, workloadKinds, otherKinds)

// kindCase is one kind: a valid object, and what patches of it give, at its creation and as updates.
type kindCase struct {
	kind, valid    string
	create, update []patchCase
}

func TestServiceStatus(t *testing.T) {
	old := parse[*corev1.Service](t, `{apiVersion: v1, kind: Service, metadata: {name: a, namespace: b, resourceVersion: "1"}, spec: {type: LoadBalancer, ports: [{port: 1}]}}`)
	now := old.DeepCopy()
	now.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "x"}, {Hostname: "1.2.3.4"}}
	compare(t, UpdateStatus(t.Context(), now, old), []string{
		"invalid status.loadBalancer.ingress[0].ip", "required status.loadBalancer.ingress[0].ipMode", "invalid status.loadBalancer.ingress[1].hostname"})
	now.Spec.Type = corev1.ServiceTypeClusterIP
	compare(t, UpdateStatus(t.Context(), now, old), []string{"forbidden status.loadBalancer.ingress"})
}
