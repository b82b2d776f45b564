package proxy

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	utilproxy "k8s.io/apimachinery/pkg/util/proxy"
	"k8s.io/apiserver/pkg/registry/rest"
)

// dialTimeout bounds reaching a pod or node: it is near or gone.
const dialTimeout = 10 * time.Second

// Getter finds one object of the request's namespace: a registry store.
type Getter interface {
	Get(ctx context.Context, name string, options *metav1.GetOptions) (runtime.Object, error)
}

// NewTransport is the transport to pods and to ports of nodes other than the agent's. Their certificates, if any, are
// their own affair: nothing verifies them, as upstream.
func NewTransport() *http.Transport {
	return &http.Transport{
		DialContext:         (&net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}).DialContext,
		TLSClientConfig:     &tls.Config{InsecureSkipVerify: true}, //nolint:gosec // see above
		TLSHandshakeTimeout: dialTimeout,
		IdleConnTimeout:     90 * time.Second,
		MaxIdleConnsPerHost: 4,
	}
}

var methods = []string{"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"}

// handle proxies to location + the rest of the path.
func handle(location *url.URL, transport http.RoundTripper, path string, responder rest.Responder) http.Handler {
	location.Path = utilnet.JoinPreservingTrailingSlash(location.Path, path)
	return utilproxy.NewUpgradeAwareHandler(location, transport, true, false, utilproxy.NewErrorResponder(responder))
}

// checkAddress refuses addresses that are the server's own.
func checkAddress(address string) error {
	ip, err := netip.ParseAddr(address)
	if err != nil {
		return apierrors.NewBadRequest(fmt.Sprintf("address %q is not an IP address", address))
	}
	ip = ip.Unmap()
	if ip.IsLoopback() || ip.IsUnspecified() || ip.IsLinkLocalUnicast() || ip.IsMulticast() || ip.IsInterfaceLocalMulticast() {
		return apierrors.NewBadRequest(fmt.Sprintf("address %s is not allowed: it is the server's own, link-local or multicast", ip))
	}
	return nil
}

// checkHost is checkAddress for a host that may be a name: every address that it resolves to must be allowed.
func checkHost(ctx context.Context, host string) error {
	if _, err := netip.ParseAddr(host); err == nil {
		return checkAddress(host)
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	ips, err := net.DefaultResolver.LookupHost(ctx, host)
	if err != nil {
		return apierrors.NewBadRequest(fmt.Sprintf("host %q cannot be resolved: %v", host, err))
	}
	for _, ip := range ips {
		if err := checkAddress(ip); err != nil {
			return err
		}
	}
	return nil
}

// split takes a target apart and defaults its scheme.
func split(kind, id string) (scheme, name, port string, err error) {
	scheme, name, port, valid := utilnet.SplitSchemeNamePort(id)
	if !valid {
		return "", "", "", apierrors.NewBadRequest(fmt.Sprintf("invalid %s request %q: use <name>, <name>:<port> or <scheme>:<name>:<port>", kind, id))
	}
	if scheme == "" {
		scheme = "http"
	}
	return scheme, name, port, nil
}
