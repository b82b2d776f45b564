package proxy

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
)

// Lister lists objects of the request's namespace: a registry store.
type Lister interface {
	List(ctx context.Context, options *internalversion.ListOptions) (runtime.Object, error)
}

// Service serves services/proxy: to one ready pod behind the Service, chosen at random.
type Service struct {
	services  Getter
	slices    Lister
	pods      Getter
	transport http.RoundTripper
}

func NewService(services Getter, endpointSlices Lister, pods Getter, transport http.RoundTripper) *Service {
	return &Service{services, endpointSlices, pods, transport}
}

func (*Service) New() runtime.Object      { return &corev1.ServiceProxyOptions{} }
func (*Service) Destroy()                 {}
func (*Service) ConnectMethods() []string { return methods }
func (*Service) NewConnectOptions() (runtime.Object, bool, string) {
	return &corev1.ServiceProxyOptions{}, true, "path"
}

func (s *Service) Connect(ctx context.Context, id string, options runtime.Object, responder rest.Responder) (http.Handler, error) {
	o, ok := options.(*corev1.ServiceProxyOptions)
	if !ok {
		return nil, fmt.Errorf("proxy to service %q: options are a %T", id, options)
	}
	location, err := s.location(ctx, id)
	if err != nil {
		return nil, err
	}
	return handle(location, s.transport, o.Path, responder), nil
}

func (s *Service) location(ctx context.Context, id string) (*url.URL, error) {
	scheme, name, port, err := split("service", id)
	if err != nil {
		return nil, err
	}
	obj, err := s.services.Get(ctx, name, &metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	svc, ok := obj.(*corev1.Service)
	if !ok {
		return nil, fmt.Errorf("look up service %q: got a %T", name, obj)
	}
	portName, err := servicePort(svc, port)
	if err != nil {
		return nil, err
	}
	selector := labels.SelectorFromSet(labels.Set{discoveryv1.LabelServiceName: name})
	listed, err := s.slices.List(ctx, &internalversion.ListOptions{LabelSelector: selector})
	if err != nil {
		return nil, fmt.Errorf("list endpoint slices of service %q: %w", name, err)
	}
	list, ok := listed.(*discoveryv1.EndpointSliceList)
	if !ok {
		return nil, fmt.Errorf("list endpoint slices of service %q: got a %T", name, listed)
	}
	for _, c := range candidates(list.Items, portName) {
		if s.ownPod(ctx, c) {
			return &url.URL{Scheme: scheme, Host: net.JoinHostPort(c.address, strconv.Itoa(int(c.port)))}, nil
		}
	}
	return nil, apierrors.NewServiceUnavailable(fmt.Sprintf("no endpoints available for service %q", id))
}

// servicePort is the name of the Service's port that is asked for by number or name.
func servicePort(svc *corev1.Service, port string) (string, error) {
	if port == "" {
		if len(svc.Spec.Ports) == 1 {
			return svc.Spec.Ports[0].Name, nil
		}
		return "", nil // the unnamed port, if there is one
	}
	number, err := strconv.ParseInt(port, 10, 32)
	for i := range svc.Spec.Ports {
		p := &svc.Spec.Ports[i]
		if (err == nil && int64(p.Port) == number) || (p.Name == port && port != "") {
			return p.Name, nil
		}
	}
	return "", apierrors.NewServiceUnavailable(fmt.Sprintf("no service port %s found for service %q", port, svc.Name))
}

type candidate struct {
	address string
	port    int32
	target  *corev1.ObjectReference
}

// candidates are the ready endpoints that serve the port, in random order.
func candidates(list []discoveryv1.EndpointSlice, portName string) []candidate {
	var out []candidate
	for i := range list {
		slice := &list[i]
		if slice.AddressType == discoveryv1.AddressTypeFQDN {
			continue
		}
		at := slices.IndexFunc(slice.Ports, func(p discoveryv1.EndpointPort) bool {
			return p.Port != nil && (p.Name == nil && portName == "" || p.Name != nil && *p.Name == portName)
		})
		if at < 0 {
			continue
		}
		for j := range slice.Endpoints {
			e := &slice.Endpoints[j]
			if len(e.Addresses) > 0 && (e.Conditions.Ready == nil || *e.Conditions.Ready) {
				out = append(out, candidate{e.Addresses[0], *slice.Ports[at].Port, e.TargetRef})
			}
		}
	}
	rand.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}

// ownPod says whether the endpoint really is a pod of the namespace with that address: whoever can write endpoints must
// not reach through the API server what he cannot reach himself.
func (s *Service) ownPod(ctx context.Context, c candidate) bool {
	if c.target == nil || c.target.Kind != "Pod" || c.target.Namespace != request.NamespaceValue(ctx) || checkAddress(c.address) != nil {
		return false
	}
	obj, err := s.pods.Get(ctx, c.target.Name, &metav1.GetOptions{})
	if err != nil {
		return false
	}
	pod, ok := obj.(*corev1.Pod)
	return ok && (pod.Status.PodIP == c.address || slices.ContainsFunc(pod.Status.PodIPs, func(ip corev1.PodIP) bool { return ip.IP == c.address }))
}

var _ rest.Storage = (*Service)(nil)
