package podstream

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/registry/rest"
	streamproxy "k8s.io/apiserver/pkg/util/proxy"
	"k8s.io/streaming/pkg/httpstream/wsstream"
)

// PortForward serves pods/portforward.
type PortForward struct{ stream }

func NewPortForward(pods PodGetter, nodes Nodes, authz authorizer.Authorizer) *PortForward {
	return &PortForward{stream{pods, nodes, authz}}
}

func (*PortForward) New() runtime.Object { return &corev1.PodPortForwardOptions{} }
func (*PortForward) NewConnectOptions() (runtime.Object, bool, string) {
	return &corev1.PodPortForwardOptions{}, false, ""
}

func (p *PortForward) Connect(ctx context.Context, name string, options runtime.Object, responder rest.Responder) (http.Handler, error) {
	o, ok := options.(*corev1.PodPortForwardOptions)
	if !ok {
		return nil, fmt.Errorf("forward ports of pod %q: options are a %T", name, options)
	}
	if err := p.mayCreate(ctx, name, "portforward"); err != nil {
		return nil, err
	}
	pod, err := getPod(ctx, p.pods, name)
	if err != nil {
		return nil, err
	}
	agent, err := onNode(ctx, p.nodes, pod)
	if err != nil {
		return nil, err
	}
	q := url.Values{}
	for _, port := range o.Ports { // old WebSocket clients name the ports here, all others on each stream
		q.Add("port", strconv.Itoa(int(port)))
	}
	pass := upgraded(agent.URL(path("portForward", pod), q), agent.Transport, responder)
	// Today's WebSocket clients carry SPDY frames inside the WebSocket; unwrap them for the agent.
	return streamproxy.NewTranslatingHandler(pass, streamproxy.NewTunnelingHandler(pass),
		wsstream.IsWebSocketRequestWithTunnelingProtocol), nil
}
