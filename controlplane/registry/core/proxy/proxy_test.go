package proxy

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/utils/ptr"

	"github.com/reevehq/reeve/controlplane/kubeletclient"
)

type getter map[string]runtime.Object

func (g getter) Get(_ context.Context, name string, _ *metav1.GetOptions) (runtime.Object, error) {
	if o, ok := g[name]; ok {
		return o, nil
	}
	return nil, apierrors.NewNotFound(corev1.Resource("things"), name)
}

type slicesOf []discoveryv1.EndpointSlice

func (s slicesOf) List(_ context.Context, o *internalversion.ListOptions) (runtime.Object, error) {
	out := &discoveryv1.EndpointSliceList{}
	for _, e := range s {
		if o.LabelSelector.Matches(labelSet(e.Labels)) {
			out.Items = append(out.Items, e)
		}
	}
	return out, nil
}

type labelSet map[string]string

func (l labelSet) Has(k string) bool              { _, ok := l[k]; return ok }
func (l labelSet) Get(k string) string            { return l[k] }
func (l labelSet) Lookup(k string) (string, bool) { v, ok := l[k]; return v, ok }

var ctx = request.WithNamespace(context.Background(), "shop")

func webPod(name, ip string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name},
		Spec: corev1.PodSpec{Containers: []corev1.Container{
			{Name: "side"}, {Name: "app", Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}, {Name: "metrics", ContainerPort: 9090}}}}},
		Status: corev1.PodStatus{PodIP: ip, PodIPs: []corev1.PodIP{{IP: ip}}}}
}

func TestPodLocation(t *testing.T) {
	p := NewPod(getter{"web": webPod("web", "10.244.0.5"), "six": webPod("six", "fd00::5"), "new": webPod("new", ""),
		"self": webPod("self", "127.0.0.1"), "meta": webPod("meta", "169.254.169.254"), "bare": &corev1.Pod{Status: corev1.PodStatus{PodIP: "fd00::9"}}}, nil)
	for id, want := range map[string]string{
		"web":               "http://10.244.0.5:8080",
		"web:81":            "http://10.244.0.5:81",
		"web:metrics":       "http://10.244.0.5:9090",
		"https:web:metrics": "https://10.244.0.5:9090",
		"six":               "http://[fd00::5]:8080",
		"bare":              "http://[fd00::9]",
	} {
		u, err := p.location(ctx, id)
		if err != nil || u.String() != want {
			t.Errorf("%s: %v, %v; want %s", id, u, err, want)
		}
	}
	for id, is := range map[string]func(error) bool{
		"self": apierrors.IsBadRequest, "meta": apierrors.IsBadRequest, "web:nope": apierrors.IsBadRequest, "ftp:web:1": apierrors.IsBadRequest,
		"a:b:c:d": apierrors.IsBadRequest, "new": apierrors.IsServiceUnavailable, "none": apierrors.IsNotFound,
	} {
		if u, err := p.location(ctx, id); err == nil || !is(err) {
			t.Errorf("%s: %v, %v", id, u, err)
		}
	}
}

func TestServiceLocation(t *testing.T) {
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"}, Spec: corev1.ServiceSpec{
		Ports: []corev1.ServicePort{{Name: "http", Port: 80}, {Name: "metrics", Port: 9090}}}}
	single := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "one"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}
	slice := func(service string, ports []discoveryv1.EndpointPort, endpoints ...discoveryv1.Endpoint) discoveryv1.EndpointSlice {
		return discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{discoveryv1.LabelServiceName: service}},
			AddressType: discoveryv1.AddressTypeIPv4, Ports: ports, Endpoints: endpoints}
	}
	endpoint := func(pod, ip string, ready bool) discoveryv1.Endpoint {
		return discoveryv1.Endpoint{Addresses: []string{ip}, Conditions: discoveryv1.EndpointConditions{Ready: &ready},
			TargetRef: &corev1.ObjectReference{Kind: "Pod", Namespace: "shop", Name: pod}}
	}
	ports := []discoveryv1.EndpointPort{{Name: ptr.To("http"), Port: ptr.To(int32(8080))}, {Name: ptr.To("metrics"), Port: ptr.To(int32(9091))}}
	forged := endpoint("web-0", "10.0.0.1", true) // not that pod's address
	foreign := endpoint("web-0", "10.244.0.5", true)
	foreign.TargetRef.Namespace = "bank"
	s := NewService(getter{"web": svc, "one": single, "bad": &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "bad"}, Spec: svc.Spec}},
		slicesOf{
			slice("web", ports, endpoint("web-0", "10.244.0.5", true), endpoint("web-1", "10.244.0.6", false)),
			slice("one", []discoveryv1.EndpointPort{{Name: ptr.To(""), Port: ptr.To(int32(8080))}}, endpoint("web-0", "10.244.0.5", true)),
			slice("bad", ports, forged, foreign, discoveryv1.Endpoint{Addresses: []string{"10.244.0.5"}}, endpoint("evil", "127.0.0.1", true)),
		},
		getter{"web-0": webPod("web-0", "10.244.0.5"), "web-1": webPod("web-1", "10.244.0.6"), "evil": webPod("evil", "127.0.0.1")}, nil)
	for id, want := range map[string]string{
		"web:80":         "http://10.244.0.5:8080",
		"web:http":       "http://10.244.0.5:8080",
		"https:web:9090": "https://10.244.0.5:9091",
		"one":            "http://10.244.0.5:8080",
		"one:80":         "http://10.244.0.5:8080",
	} {
		for range 4 { // at random, but never the one that is not ready
			u, err := s.location(ctx, id)
			if err != nil || u.String() != want {
				t.Errorf("%s: %v, %v; want %s", id, u, err, want)
			}
		}
	}
	for _, id := range []string{"web", "web:81", "web:nope", "bad:http"} {
		if u, err := s.location(ctx, id); !apierrors.IsServiceUnavailable(err) {
			t.Errorf("%s: %v, %v", id, u, err)
		}
	}
}

type nodes struct{ c *kubeletclient.Connection }

func (n nodes) Connection(context.Context, types.NodeName) (*kubeletclient.Connection, error) {
	return n.c, nil
}

func TestNodeLocation(t *testing.T) {
	agentTransport, plain := &http.Transport{}, &http.Transport{}
	n := NewNode(nodes{&kubeletclient.Connection{Scheme: "https", Host: "192.0.2.7", Port: "10250", Transport: agentTransport}}, plain)
	for id, want := range map[string]struct {
		url  string
		with *http.Transport
	}{
		"a":            {"https://192.0.2.7:10250", agentTransport},
		"a:10250":      {"https://192.0.2.7:10250", agentTransport},
		"http:a:9100":  {"http://192.0.2.7:9100", plain},
		"https:a:9100": {"https://192.0.2.7:9100", plain},
	} {
		u, transport, err := n.location(ctx, id)
		if err != nil || u.String() != want.url || transport != want.with {
			t.Errorf("%s: %v %v, want %s", id, u, err, want.url)
		}
	}
	local := NewNode(nodes{&kubeletclient.Connection{Scheme: "https", Host: "127.0.0.1", Port: "10250"}}, plain)
	if u, _, err := local.location(ctx, "a:2379"); err == nil {
		t.Errorf("a port of the server's own host must not be reachable: %v", u)
	}
}

type responder struct{ t *testing.T }

func (r responder) Object(int, runtime.Object) {}
func (r responder) Error(err error)            { r.t.Error(err) }

func TestRequestReachesThePod(t *testing.T) {
	backend := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %s", r.Method, r.URL, body)
	}))
	defer backend.Close()
	u, _ := url.Parse(backend.URL)
	api := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		handle(&url.URL{Scheme: u.Scheme, Host: u.Host}, NewTransport(), strings.TrimPrefix(r.URL.Path, "/proxy"), responder{t}).ServeHTTP(w, r)
	}))
	defer api.Close()
	resp, err := http.Post(api.URL+"/proxy/a/b/?q=1", "text/plain", strings.NewReader("body"))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if b, _ := io.ReadAll(resp.Body); string(b) != "POST /a/b/?q=1 body" {
		t.Errorf("the pod saw %q", b)
	}
}

func FuzzCheckAddress(f *testing.F) {
	for _, s := range []string{"10.0.0.1", "127.0.0.1", "::1", "::ffff:127.0.0.1", "fe80::1%eth0", "0.0.0.0", "224.0.0.1", "x"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if checkAddress(s) != nil {
			return
		}
		ip, err := netip.ParseAddr(s)
		if err != nil {
			t.Fatalf("%q passed and is no address", s)
		}
		if ip.Unmap().IsLoopback() || ip.Unmap().IsLinkLocalUnicast() {
			t.Errorf("%q passed", s)
		}
	})
}
