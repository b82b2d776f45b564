package proxy

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/rest"
)

// Pod serves pods/proxy.
type Pod struct {
	pods      Getter
	transport http.RoundTripper
}

var _, _, _ rest.Connecter = (*Pod)(nil), (*Service)(nil), (*Node)(nil)

func NewPod(pods Getter, transport http.RoundTripper) *Pod { return &Pod{pods, transport} }

func (*Pod) New() runtime.Object      { return &corev1.PodProxyOptions{} }
func (*Pod) Destroy()                 {}
func (*Pod) ConnectMethods() []string { return methods }
func (*Pod) NewConnectOptions() (runtime.Object, bool, string) {
	return &corev1.PodProxyOptions{}, true, "path"
}

func (p *Pod) Connect(ctx context.Context, id string, options runtime.Object, responder rest.Responder) (http.Handler, error) {
	o, ok := options.(*corev1.PodProxyOptions)
	if !ok {
		return nil, fmt.Errorf("proxy to pod %q: options are a %T", id, options)
	}
	location, err := p.location(ctx, id)
	if err != nil {
		return nil, err
	}
	return handle(location, p.transport, o.Path, responder), nil
}

// location: without a port it is the first that a container declares, else the scheme's own.
func (p *Pod) location(ctx context.Context, id string) (*url.URL, error) {
	scheme, name, port, err := split("pod", id)
	if err != nil {
		return nil, err
	}
	obj, err := p.pods.Get(ctx, name, &metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return nil, fmt.Errorf("look up pod %q: got a %T", name, obj)
	}
	ip := pod.Status.PodIP
	if ip == "" && len(pod.Status.PodIPs) > 0 {
		ip = pod.Status.PodIPs[0].IP
	}
	if ip == "" {
		return nil, apierrors.NewServiceUnavailable(fmt.Sprintf("pod %q has no address yet", name))
	}
	if err := checkAddress(ip); err != nil {
		return nil, err
	}
	number, err := podPort(pod, port)
	if err != nil {
		return nil, err
	}
	loc := &url.URL{Scheme: scheme, Host: ip}
	if number != "" {
		loc.Host = net.JoinHostPort(ip, number)
	} else if ip6 := net.ParseIP(ip); ip6 != nil && ip6.To4() == nil {
		loc.Host = "[" + ip + "]"
	}
	return loc, nil
}

func podPort(pod *corev1.Pod, port string) (string, error) {
	if port == "" {
		for i := range pod.Spec.Containers {
			if ports := pod.Spec.Containers[i].Ports; len(ports) > 0 {
				return strconv.Itoa(int(ports[0].ContainerPort)), nil
			}
		}
		return "", nil
	}
	if _, err := strconv.ParseUint(port, 10, 16); err == nil {
		return port, nil
	}
	for i := range pod.Spec.Containers {
		for _, p := range pod.Spec.Containers[i].Ports {
			if p.Name == port {
				return strconv.Itoa(int(p.ContainerPort)), nil
			}
		}
	}
	return "", apierrors.NewBadRequest(fmt.Sprintf("no container of pod %q declares a port named %q", pod.Name, port))
}
