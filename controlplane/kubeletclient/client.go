package kubeletclient

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/transport"
)

const (
	// DefaultPort is kubelet's.
	DefaultPort = 10250
	// dialTimeout bounds reaching a node: it is on the cluster's own network, so it answers soon or is gone.
	dialTimeout = 10 * time.Second
	// keepAlive finds peers that vanished under long streams.
	keepAlive = 30 * time.Second
)

// DefaultAddressTypes is the order in which a node's addresses are tried: what a cluster's servers can reach first.
var DefaultAddressTypes = []corev1.NodeAddressType{
	corev1.NodeInternalIP, corev1.NodeHostName, corev1.NodeExternalIP, corev1.NodeInternalDNS, corev1.NodeExternalDNS,
}

// NodeGetter finds Nodes: the registry's store for nodes, which is the freshest there is.
type NodeGetter interface {
	Get(ctx context.Context, name string, options *metav1.GetOptions) (runtime.Object, error)
}

// Config of a Client.
type Config struct {
	Nodes NodeGetter
	// CertFile and KeyFile prove the API server to nodes (user kube-apiserver-kubelet-client). They are read again when
	// they change.
	CertFile, KeyFile string
	// CAFile verifies the nodes' serving certificates.
	CAFile string
	// Port is used when the Node names none; 0 means DefaultPort.
	Port int
	// AddressTypes is the order of preference; nil means DefaultAddressTypes.
	AddressTypes []corev1.NodeAddressType
	// Dial replaces the dialer, for tests and tunnels; nil means plain TCP.
	Dial func(ctx context.Context, network, address string) (net.Conn, error)
}

// Client finds nodes' agents. Safe for concurrent use.
type Client struct {
	nodes        NodeGetter
	port         int
	addressTypes []corev1.NodeAddressType
	secure       http.RoundTripper
	insecure     http.RoundTripper
}

// Connection is how to reach one node's agent.
type Connection struct {
	Scheme    string
	Host      string // address without port
	Port      string
	Transport http.RoundTripper
	// InsecureTransport does not verify the agent's certificate; only pods/log with
	// insecureSkipTLSVerifyBackend=true, a privilege of who may read logs, uses it.
	InsecureTransport http.RoundTripper
}

// URL is the agent's address with path and query.
func (c *Connection) URL(path string, query url.Values) *url.URL {
	return &url.URL{Scheme: c.Scheme, Host: net.JoinHostPort(c.Host, c.Port), Path: path, RawQuery: query.Encode()}
}

// New reads the certificates once, so that a wrong path is an error at start.
func New(c Config) (*Client, error) {
	if c.Nodes == nil {
		return nil, errors.New("kubelet client: Nodes is nil")
	}
	if c.Port == 0 {
		c.Port = DefaultPort
	}
	if c.AddressTypes == nil {
		c.AddressTypes = DefaultAddressTypes
	}
	if c.Dial == nil {
		c.Dial = (&net.Dialer{Timeout: dialTimeout, KeepAlive: keepAlive}).DialContext
	}
	base := transport.Config{
		TLS: transport.TLSConfig{
			CAFile: c.CAFile, CertFile: c.CertFile, KeyFile: c.KeyFile, ReloadTLSFiles: true,
			// SPDY and WebSocket upgrades, and streams that must not share one TCP window, need HTTP/1.1.
			NextProtos: []string{"http/1.1"},
		},
		DialHolder: &transport.DialHolder{Dial: c.Dial},
		// A node is never behind the environment's HTTP proxy.
		Proxy: func(*http.Request) (*url.URL, error) { return nil, nil },
	}
	loose := base // before New, which loads files into the configuration that it is given
	loose.TLS.Insecure, loose.TLS.CAFile = true, ""
	secure, err := transport.New(&base)
	if err != nil {
		return nil, fmt.Errorf("build transport to nodes: %w", err)
	}
	insecure, err := transport.New(&loose)
	if err != nil {
		return nil, fmt.Errorf("build unverified transport to nodes: %w", err)
	}
	return &Client{nodes: c.Nodes, port: c.Port, addressTypes: c.AddressTypes, secure: secure, insecure: insecure}, nil
}

// Connection looks the node up and says how to reach its agent. NotFound API error when there is no such node.
func (c *Client) Connection(ctx context.Context, node types.NodeName) (*Connection, error) {
	obj, err := c.nodes.Get(ctx, string(node), &metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	n, ok := obj.(*corev1.Node)
	if !ok {
		return nil, fmt.Errorf("look up node %q: got a %T", node, obj)
	}
	host, err := c.address(n)
	if err != nil {
		return nil, err
	}
	port := int(n.Status.DaemonEndpoints.KubeletEndpoint.Port)
	if port <= 0 {
		port = c.port
	}
	return &Connection{Scheme: "https", Host: host, Port: strconv.Itoa(port), Transport: c.secure, InsecureTransport: c.insecure}, nil
}

func (c *Client) address(n *corev1.Node) (string, error) {
	for _, t := range c.addressTypes {
		for _, a := range n.Status.Addresses {
			if a.Type == t && a.Address != "" {
				return a.Address, nil
			}
		}
	}
	return "", fmt.Errorf("node %q has no address of any of the types %v: its agent has not reported yet", n.Name, c.addressTypes)
}
