package admission

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

func TestLimitRanger(t *testing.T) {
	limits := tabs(`{apiVersion: v1, kind: LimitRange, metadata: {name: l, namespace: a}, spec: {limits: [
	  {type: Container, default: {cpu: 200m}, defaultRequest: {cpu: 100m}, min: {cpu: 50m}, max: {cpu: 1}, maxLimitRequestRatio: {cpu: 4}},
	  {type: Pod, max: {cpu: 1500m}}, {type: PersistentVolumeClaim, min: {storage: 1Gi}, max: {storage: 2Gi}}]}}`)
	for _, tc := range []struct{ name, containers, err string }{
		{"defaults", `[{name: a}]`, ""},
		{"small enough", `[{name: a, resources: {requests: {cpu: 500m}, limits: {cpu: 1}}}]`, ""},
		{"too small", `[{name: a, resources: {requests: {cpu: 10m}, limits: {cpu: 20m}}}]`, "minimum cpu usage per Container is 50m, but request is 10m"},
		{"too large", `[{name: a, resources: {requests: {cpu: 2}, limits: {cpu: 2}}}]`, "maximum cpu usage per Container is 1, but limit is 2"},
		{"ratio", `[{name: a, resources: {requests: {cpu: 100m}, limits: {cpu: 1}}}]`, "cpu max limit to request ratio per Container is 4, but provided ratio is 10.000000"},
		{"too much together", `[{name: a, resources: {requests: {cpu: 1}, limits: {cpu: 1}}}, {name: b, resources: {requests: {cpu: 1}, limits: {cpu: 1}}}]`, "maximum cpu usage per Pod is 1500m, but limit is 2"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			plugin := newLimitRanger()
			start(t, plugin, nil, parse[runtime.Object](t, limits))
			p := parse[*corev1.Pod](t, `{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: a}, spec: {containers: `+tc.containers+`}}`)
			err := run(t, plugin, request{op: admission.Create, resource: podResource, obj: p})
			wantErr(t, err, tc.err)
			if tc.name == "defaults" {
				if d := cmp.Diff(corev1.ResourceRequirements{Requests: corev1.ResourceList{"cpu": resource.MustParse("100m")}, Limits: corev1.ResourceList{"cpu": resource.MustParse("200m")}},
					p.Spec.Containers[0].Resources, cmp.Comparer(func(a, b resource.Quantity) bool { return a.Cmp(b) == 0 })); d != "" {
					t.Error(d)
				}
				if want := "LimitRanger plugin set: cpu request for container a; cpu limit for container a"; p.Annotations["kubernetes.io/limit-ranger"] != want {
					t.Errorf("annotation %q", p.Annotations["kubernetes.io/limit-ranger"])
				}
			}
		})
	}
	for size, want := range map[string]string{"1Gi": "", "1Mi": "minimum storage usage", "3Gi": "maximum storage usage"} {
		plugin := newLimitRanger()
		start(t, plugin, nil, parse[runtime.Object](t, limits))
		c := parse[*corev1.PersistentVolumeClaim](t, `{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: c, namespace: a}, spec: {resources: {requests: {storage: `+size+`}}}}`)
		wantErr(t, run(t, plugin, request{op: admission.Create, resource: corev1.SchemeGroupVersion.WithResource("persistentvolumeclaims"), obj: c}), want)
	}
}

func TestDefaultStorageClass(t *testing.T) {
	const marked = `{apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {name: %s, annotations: {storageclass.kubernetes.io/is-default-class: "true"}, creationTimestamp: "%s"}, provisioner: x}`
	older := parse[runtime.Object](t, fmt.Sprintf(marked, "older", "2026-01-01T00:00:00Z"))
	newer := parse[runtime.Object](t, fmt.Sprintf(marked, "newer", "2026-02-01T00:00:00Z"))
	for _, tc := range []struct {
		name, spec string
		classes    []runtime.Object
		want       *string
	}{
		{"newest default", `{}`, []runtime.Object{older, newer}, str("newer")},
		{"no default", `{}`, nil, nil},
		{"named", `{storageClassName: own}`, []runtime.Object{newer}, str("own")},
		{"none wanted", `{storageClassName: ""}`, []runtime.Object{newer}, str("")},
	} {
		t.Run(tc.name, func(t *testing.T) {
			plugin := newDefaultStorageClass()
			start(t, plugin, nil, tc.classes...)
			c := parse[*corev1.PersistentVolumeClaim](t, `{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: c, namespace: a}, spec: `+tc.spec+`}`)
			wantErr(t, run(t, plugin, request{op: admission.Create, resource: corev1.SchemeGroupVersion.WithResource("persistentvolumeclaims"), obj: c}), "")
			if d := cmp.Diff(tc.want, c.Spec.StorageClassName); d != "" {
				t.Error(d)
			}
		})
	}
}

func TestStorageProtection(t *testing.T) {
	c, v := &corev1.PersistentVolumeClaim{}, &corev1.PersistentVolume{}
	for range 2 {
		wantErr(t, run(t, newStorageProtection(), request{op: admission.Create, resource: corev1.SchemeGroupVersion.WithResource("persistentvolumeclaims"), obj: c}), "")
		wantErr(t, run(t, newStorageProtection(), request{op: admission.Create, resource: corev1.SchemeGroupVersion.WithResource("persistentvolumes"), obj: v}), "")
	}
	if d := cmp.Diff([]string{"kubernetes.io/pvc-protection", "kubernetes.io/pv-protection"}, append(c.Finalizers, v.Finalizers...)); d != "" {
		t.Error(d)
	}
}

func TestClaimResize(t *testing.T) {
	classes := []runtime.Object{
		parse[runtime.Object](t, `{apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {name: grows}, provisioner: x, allowVolumeExpansion: true}`),
		parse[runtime.Object](t, `{apiVersion: storage.k8s.io/v1, kind: StorageClass, metadata: {name: fixed}, provisioner: x}`),
	}
	claim := func(class, size, phase string) *corev1.PersistentVolumeClaim {
		return parse[*corev1.PersistentVolumeClaim](t, `{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: c, namespace: a}, spec: {storageClassName: `+class+`, resources: {requests: {storage: `+size+`}}}, status: {phase: `+phase+`}}`)
	}
	for _, tc := range []struct{ name, class, to, phase, err string }{
		{"grows", "grows", "2Gi", "Bound", ""},
		{"same", "fixed", "1Gi", "Bound", ""},
		{"fixed", "fixed", "2Gi", "Bound", "must support resize"},
		{"unknown class", "other", "2Gi", "Bound", "must support resize"},
		{"unbound", "grows", "2Gi", "Pending", "Only bound persistent volume claims"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			plugin := newClaimResize()
			start(t, plugin, nil, classes...)
			err := run(t, plugin, request{op: admission.Update, resource: corev1.SchemeGroupVersion.WithResource("persistentvolumeclaims"),
				obj: claim(tc.class, tc.to, tc.phase), old: claim(tc.class, "1Gi", tc.phase)})
			wantErr(t, err, tc.err)
		})
	}
}

func TestDefaultIngressClass(t *testing.T) {
	class := parse[runtime.Object](t, `{apiVersion: networking.k8s.io/v1, kind: IngressClass, metadata: {name: nginx, annotations: {ingressclass.kubernetes.io/is-default-class: "true"}}}`)
	for annotation, want := range map[string]*string{"": str("nginx"), "kubernetes.io/ingress.class": nil} {
		plugin := newDefaultIngressClass()
		start(t, plugin, nil, class)
		i := &networkingv1.Ingress{}
		if annotation != "" {
			i.Annotations = map[string]string{annotation: "other"}
		}
		wantErr(t, run(t, plugin, request{op: admission.Create, resource: networkingv1.SchemeGroupVersion.WithResource("ingresses"), obj: i}), "")
		if d := cmp.Diff(want, i.Spec.IngressClassName); d != "" {
			t.Error(d)
		}
	}
}

func TestCertificates(t *testing.T) {
	csr := func(signer string, organization ...string) *certificatesv1.CertificateSigningRequest {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "x", Organization: organization}}, key)
		if err != nil {
			t.Fatal(err)
		}
		c := &certificatesv1.CertificateSigningRequest{}
		c.Name, c.Spec.SignerName = "c", signer
		c.Spec.Request = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
		return c
	}
	resource := certificatesv1.SchemeGroupVersion.WithResource("certificatesigningrequests")
	on := func(verb, signer string) allow {
		return func(a authorizer.Attributes) bool {
			return a.GetResource() == "signers" && a.GetVerb() == verb && a.GetName() == signer
		}
	}
	client := certificatesv1.KubeAPIServerClientSignerName
	wantErr(t, run(t, newCertificateSubject(), request{op: admission.Create, resource: resource, obj: csr(client, "system:masters")}), "with system:masters group is not allowed")
	wantErr(t, run(t, newCertificateSubject(), request{op: admission.Create, resource: resource, obj: csr(client, "system:nodes")}), "")
	wantErr(t, run(t, newCertificateSubject(), request{op: admission.Create, resource: resource, obj: csr("a.example/x", "system:masters")}), "")

	old := csr("a.example/x")
	signed := old.DeepCopy()
	signed.Status.Certificate = []byte("x")
	for _, tc := range []struct {
		name   string
		plugin func() admission.Interface
		sub    string
		obj    runtime.Object
		authz  allow
		err    string
	}{
		{"approve", newCertificateApproval, "approval", old, on("approve", "a.example/x"), ""},
		{"approve by domain", newCertificateApproval, "approval", old, on("approve", "a.example/*"), ""},
		{"approve without right", newCertificateApproval, "approval", old, on("sign", "a.example/x"), "not permitted to approve requests"},
		{"sign", newCertificateSigning, "status", signed, on("sign", "a.example/x"), ""},
		{"sign without right", newCertificateSigning, "status", signed, on("approve", "a.example/x"), "not permitted to sign requests"},
		{"nothing changed", newCertificateSigning, "status", old, nil, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			plugin := tc.plugin()
			start(t, plugin, tc.authz)
			wantErr(t, run(t, plugin, request{op: admission.Update, resource: resource, sub: tc.sub, obj: tc.obj, old: old}), tc.err)
		})
	}
}
