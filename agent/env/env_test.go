package env

import (
	"context"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/reevehq/reeve/internal/downward"
)

type fakeObjects struct {
	cms     map[string]*corev1.ConfigMap
	secrets map[string]*corev1.Secret
}

func (f fakeObjects) ConfigMap(_ context.Context, ns, name string) (*corev1.ConfigMap, error) {
	if cm := f.cms[ns+"/"+name]; cm != nil {
		return cm, nil
	}
	return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "configmaps"}, name)
}

func (f fakeObjects) Secret(_ context.Context, ns, name string) (*corev1.Secret, error) {
	if s := f.secrets[ns+"/"+name]; s != nil {
		return s, nil
	}
	return nil, apierrors.NewNotFound(schema.GroupResource{Resource: "secrets"}, name)
}

func service(ns, name, ip string, ports ...corev1.ServicePort) *corev1.Service {
	return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}, Spec: corev1.ServiceSpec{ClusterIP: ip, Ports: ports}}
}

func yes() *bool { b := true; return &b }
func no() *bool  { b := false; return &b }

func TestMake(t *testing.T) {
	objs := fakeObjects{
		cms: map[string]*corev1.ConfigMap{"ns/cm": {Data: map[string]string{"B": "b$(A)", "A": "a", "bad=key": "x"}}},
		secrets: map[string]*corev1.Secret{"ns/s": {Data: map[string][]byte{
			"PW": []byte("p"),
		}}},
	}
	services := []*corev1.Service{
		service("ns", "my-web", "10.96.0.5", corev1.ServicePort{Name: "http", Port: 80}, corev1.ServicePort{Name: "dns", Port: 53, Protocol: corev1.ProtocolUDP}),
		service("default", "kubernetes", "10.96.0.1", corev1.ServicePort{Name: "https", Port: 443, Protocol: corev1.ProtocolTCP}),
		service("ns", "headless", "None", corev1.ServicePort{Port: 1}),
		service("other", "far", "10.96.0.9", corev1.ServicePort{Port: 1}),
	}
	ref := func(path string) *corev1.EnvVarSource {
		return &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: path}}
	}
	cmKey := func(name, key string, opt *bool) *corev1.EnvVarSource {
		return &corev1.EnvVarSource{ConfigMapKeyRef: &corev1.ConfigMapKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: name}, Key: key, Optional: opt}}
	}
	secretKey := func(name, key string, opt *bool) *corev1.EnvVarSource {
		return &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: name}, Key: key, Optional: opt}}
	}
	res := func(name, divisor string) *corev1.EnvVarSource {
		s := &corev1.ResourceFieldSelector{Resource: name}
		if divisor != "" {
			s.Divisor = resource.MustParse(divisor)
		}
		return &corev1.EnvVarSource{ResourceFieldRef: s}
	}
	master := []Var{
		{"KUBERNETES_PORT", "tcp://10.96.0.1:443"}, {"KUBERNETES_PORT_443_TCP", "tcp://10.96.0.1:443"},
		{"KUBERNETES_PORT_443_TCP_ADDR", "10.96.0.1"}, {"KUBERNETES_PORT_443_TCP_PORT", "443"}, {"KUBERNETES_PORT_443_TCP_PROTO", "tcp"},
		{"KUBERNETES_SERVICE_HOST", "10.96.0.1"}, {"KUBERNETES_SERVICE_PORT", "443"}, {"KUBERNETES_SERVICE_PORT_HTTPS", "443"},
	}
	for _, tc := range []struct {
		name    string
		links   *bool
		from    []corev1.EnvFromSource
		env     []corev1.EnvVar
		want    []Var
		skipped []string
		err     string
	}{
		{name: "references see what came before, envFrom and Services", links: no(),
			from: []corev1.EnvFromSource{{Prefix: "X_", ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "cm"}}}},
			env:  []corev1.EnvVar{{Name: "ONE", Value: "$(X_A)-$(LATER)-$$(X_A)"}, {Name: "LATER", Value: "$(ONE)!$(KUBERNETES_SERVICE_HOST)"}},
			want: append([]Var{{"X_A", "a"}, {"X_B", "b$(A)"}, {"ONE", "a-$(LATER)-$(X_A)"},
				{"LATER", "a-$(LATER)-$(X_A)!10.96.0.1"}}, master...),
			skipped: []string{"X_bad=key"}},
		{name: "the pod's own word wins over a Service's variable", links: no(),
			env:  []corev1.EnvVar{{Name: "KUBERNETES_SERVICE_HOST", Value: "me"}},
			want: append([]Var{{"KUBERNETES_SERVICE_HOST", "me"}}, append(append([]Var{}, master[:5]...), master[6:]...)...)},
		{name: "fields and resources", links: no(),
			env: []corev1.EnvVar{{Name: "N", ValueFrom: ref("metadata.name")}, {Name: "L", ValueFrom: ref("metadata.labels['app.kubernetes.io/name']")},
				{Name: "IPS", ValueFrom: ref("status.podIPs")}, {Name: "HOST", ValueFrom: ref("status.hostIP")},
				{Name: "CPU", ValueFrom: res("limits.cpu", "")}, {Name: "MILLI", ValueFrom: res("limits.cpu", "1m")}, {Name: "MEM", ValueFrom: res("limits.memory", "1Mi")},
				{Name: "REQ", ValueFrom: res("requests.memory", "")}},
			want: append([]Var{{"N", "p"}, {"L", "v"}, {"IPS", "10.0.0.1,fd00::1"}, {"HOST", "192.0.2.1"},
				{"CPU", "2"}, {"MILLI", "1500"}, {"MEM", "2048"}, {"REQ", "0"}}, master...)},
		{name: "keys, optional ones and a missing optional object", links: no(),
			env: []corev1.EnvVar{{Name: "K", ValueFrom: cmKey("cm", "A", nil)}, {Name: "GONE", ValueFrom: cmKey("cm", "nope", yes())},
				{Name: "AWAY", ValueFrom: secretKey("nope", "x", yes())}, {Name: "PW", ValueFrom: secretKey("s", "PW", nil)}},
			want: append([]Var{{"K", "a"}, {"PW", "p"}}, master...)},
		{name: "missing ConfigMap", env: []corev1.EnvVar{{Name: "K", ValueFrom: cmKey("nope", "A", nil)}}, err: `configmaps "nope" not found`},
		{name: "missing key", env: []corev1.EnvVar{{Name: "K", ValueFrom: secretKey("s", "A", nil)}}, err: "couldn't find key A in Secret ns/s"},
		{name: "service links", want: append(append([]Var{}, master...), []Var{
			{"MY_WEB_PORT", "tcp://10.96.0.5:80"}, {"MY_WEB_PORT_53_UDP", "udp://10.96.0.5:53"}, {"MY_WEB_PORT_53_UDP_ADDR", "10.96.0.5"},
			{"MY_WEB_PORT_53_UDP_PORT", "53"}, {"MY_WEB_PORT_53_UDP_PROTO", "udp"}, {"MY_WEB_PORT_80_TCP", "tcp://10.96.0.5:80"},
			{"MY_WEB_PORT_80_TCP_ADDR", "10.96.0.5"}, {"MY_WEB_PORT_80_TCP_PORT", "80"}, {"MY_WEB_PORT_80_TCP_PROTO", "tcp"},
			{"MY_WEB_SERVICE_HOST", "10.96.0.5"}, {"MY_WEB_SERVICE_PORT", "80"}, {"MY_WEB_SERVICE_PORT_DNS", "53"}, {"MY_WEB_SERVICE_PORT_HTTP", "80"}}...)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			c := &corev1.Container{Name: "c", EnvFrom: tc.from, Env: tc.env,
				Resources: corev1.ResourceRequirements{Limits: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1500m")}}}
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "u", Labels: map[string]string{"app.kubernetes.io/name": "v"}},
				Spec: corev1.PodSpec{Containers: []corev1.Container{*c}, EnableServiceLinks: tc.links}}
			got, skipped, err := Make(context.Background(), Input{Pod: pod, Container: c, Services: services, Objects: objs,
				Addresses:   downward.Addresses{PodIPs: []string{"10.0.0.1", "fd00::1"}, HostIPs: []string{"192.0.2.1"}},
				Allocatable: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("2Gi")}})
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Fatalf("error %v, want one that says %q", err, tc.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tc.want, got); d != "" {
				t.Errorf("environment (-want +got):\n%s", d)
			}
			if d := cmp.Diff(tc.skipped, skipped); d != "" {
				t.Errorf("skipped (-want +got):\n%s", d)
			}
		})
	}
}
