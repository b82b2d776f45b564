package proxy

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/url"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/registry/rest"

	"github.com/reevehq/reeve/controlplane/kubeletclient"
)

// Nodes finds the agent of a node: a *kubeletclient.Client.
type Nodes interface {
	Connection(ctx context.Context, node types.NodeName) (*kubeletclient.Connection, error)
}

// Node serves nodes/proxy: to the node's agent, with the API server's own credential, or to another port of the node,
// without any.
type Node struct {
	nodes     Nodes
	transport http.RoundTripper
}

func NewNode(nodes Nodes, transport http.RoundTripper) *Node { return &Node{nodes, transport} }

func (*Node) New() runtime.Object      { return &corev1.NodeProxyOptions{} }
func (*Node) Destroy()                 {}
func (*Node) ConnectMethods() []string { return methods }
func (*Node) NewConnectOptions() (runtime.Object, bool, string) {
	return &corev1.NodeProxyOptions{}, true, "path"
}

func (n *Node) Connect(ctx context.Context, id string, options runtime.Object, responder rest.Responder) (http.Handler, error) {
	o, ok := options.(*corev1.NodeProxyOptions)
	if !ok {
		return nil, fmt.Errorf("proxy to node %q: options are a %T", id, options)
	}
	location, transport, err := n.location(ctx, id)
	if err != nil {
		return nil, err
	}
	return handle(location, transport, o.Path, responder), nil
}

func (n *Node) location(ctx context.Context, id string) (*url.URL, http.RoundTripper, error) {
	scheme, name, port, err := split("node", id)
	if err != nil {
		return nil, nil, err
	}
	agent, err := n.nodes.Connection(ctx, types.NodeName(name))
	if err != nil {
		return nil, nil, err
	}
	if port == "" || port == agent.Port {
		return agent.URL("", nil), agent.Transport, nil
	}
	if err := checkHost(ctx, agent.Host); err != nil {
		return nil, nil, err
	}
	return &url.URL{Scheme: scheme, Host: net.JoinHostPort(agent.Host, port)}, n.transport, nil
}

var _ rest.Storage = (*Node)(nil)
