package bootstrap

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	certificatesv1 "k8s.io/api/certificates/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/util/certificate"
	"k8s.io/client-go/util/connrotation"
	"k8s.io/klog/v2"

	"github.com/reevehq/reeve/internal/logkey"
)

const (
	// dialTimeout and keepAlive are http.DefaultTransport's.
	dialTimeout = 30 * time.Second
	keepAlive   = 30 * time.Second
	// handshakeTimeout bounds what a server that accepts and never answers can take.
	handshakeTimeout = 10 * time.Second
	// look is how often a certificate is looked at: has somebody put another one in its place, has it expired.
	look = 10 * time.Second
	// tellEvery is how often an expired certificate is told of.
	tellEvery = 5 * time.Minute
	// pairName is the prefix of the client certificate's files, as kubelet's.
	pairName = "kubelet-client"
)

// Credential is a node's own way into the API server.
type Credential struct {
	// REST authenticates as system:node:<name>. A renewed certificate is used from the next handshake on, without a restart.
	REST *rest.Config
	// CAFile is the cluster's CA, empty where a kubeconfig holds it.
	CAFile string

	node  string
	log   *slog.Logger
	store certificate.FileStore // nil: the kubeconfig is used as it is, nothing is renewed
	// renewer answers a client to ask for a certificate with when the own one cannot any more; nil: there is none.
	renewer func() (kubernetes.Interface, error)
	// mend says what a person can do about an expired certificate.
	mend string

	current  atomic.Pointer[tls.Certificate]
	dialer   *connrotation.Dialer
	failures prometheus.Counter
	ttl      prometheus.GaugeFunc
}

// use makes the rest.Config that shows the current certificate to the server that base names.
func (c *Credential) use(base *rest.Config) error {
	anonymous := rest.AnonymousClientConfig(base)
	config, err := rest.TLSConfigFor(anonymous)
	if err != nil {
		return fmt.Errorf("use the API server's CA: %w", err)
	}
	if config == nil {
		config = &tls.Config{MinVersion: tls.VersionTLS12}
	}
	config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		if pair := c.current.Load(); pair != nil {
			return pair, nil
		}
		return &tls.Certificate{}, nil // none: the server answers 401
	}
	c.dialer = connrotation.NewDialer((&net.Dialer{Timeout: dialTimeout, KeepAlive: keepAlive}).DialContext)
	proxy := http.ProxyFromEnvironment
	if base.Proxy != nil {
		proxy = base.Proxy
	}
	anonymous.Transport = utilnet.SetTransportDefaults(&http.Transport{
		Proxy: proxy, TLSClientConfig: config, TLSHandshakeTimeout: handshakeTimeout, MaxIdleConnsPerHost: 25, DialContext: c.dialer.DialContext,
	})
	anonymous.TLSClientConfig, anonymous.Proxy, anonymous.Dial = rest.TLSClientConfig{}, nil, nil
	c.REST = anonymous
	c.failures = prometheus.NewCounter(prometheus.CounterOpts{
		Name: "kubelet_certificate_manager_client_expiration_renew_errors", Help: "Failed renewals of the client certificate.",
	})
	c.ttl = prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "kubelet_certificate_manager_client_ttl_seconds", Help: "Time until the client certificate expires, negative since it has.",
	}, func() float64 { return time.Until(c.Expires()).Seconds() })
	return nil
}

// Describe implements prometheus.Collector.
func (c *Credential) Describe(ch chan<- *prometheus.Desc) {
	if c.store != nil {
		c.failures.Describe(ch)
		c.ttl.Describe(ch)
	}
}

// Collect implements prometheus.Collector.
func (c *Credential) Collect(ch chan<- prometheus.Metric) {
	if c.store != nil {
		c.failures.Collect(ch)
		c.ttl.Collect(ch)
	}
}

// Expires is when the current certificate does; zero without one.
func (c *Credential) Expires() time.Time {
	if pair := c.current.Load(); pair != nil && pair.Leaf != nil {
		return pair.Leaf.NotAfter
	}
	return time.Time{}
}

// show has every connection from now on show the pair, and closes those that showed another.
func (c *Credential) show(pair *tls.Certificate) {
	if old := c.current.Swap(pair); old != nil && c.dialer != nil {
		c.dialer.CloseAll()
	}
}

// Run renews the client certificate in good time, until ctx ends. One that has expired is renewed with what the node once
// joined with, as soon as the API server can be reached. Nothing to renew: it only waits.
func (c *Credential) Run(ctx context.Context) error {
	if c.store == nil {
		<-ctx.Done()
		return nil
	}
	m, err := certificate.NewManager(&certificate.Config{
		ClientsetFn: c.asker,
		GetTemplate: func() *x509.CertificateRequest {
			return &x509.CertificateRequest{Subject: *subject(c.node)}
		},
		SignerName:              certificatesv1.KubeAPIServerClientKubeletSignerName,
		GetUsages:               func(any) []certificatesv1.KeyUsage { return clientUsages },
		CertificateStore:        shownStore{c},
		CertificateRenewFailure: c.failures,
		Name:                    "client",
	})
	if err != nil {
		return fmt.Errorf("renew client certificate: %w", err)
	}
	m.Start()
	defer m.Stop()
	tick := time.NewTicker(look)
	defer tick.Stop()
	var told time.Time
	for {
		c.lookAgain()
		if expires := c.Expires(); time.Now().After(expires) && time.Since(told) > tellEvery {
			told = time.Now()
			c.log.Error("The node's client certificate has expired: the API server does not hear this node; its pods run on",
				"expired", expires, "fix", c.mend)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// asker is the client that asks for the next certificate: the node's own while its certificate holds, wherever it lies.
func (c *Credential) asker(*tls.Certificate) (kubernetes.Interface, error) {
	if time.Now().Before(c.Expires()) || c.renewer == nil {
		return kubernetes.NewForConfig(c.REST)
	}
	return c.renewer()
}

// lookAgain takes a pair that somebody else put in the place of an expired one.
func (c *Credential) lookAgain() {
	if time.Now().Before(c.Expires()) {
		return
	}
	pair, err := c.store.Current()
	if err == nil && pair.Leaf != nil && pair.Leaf.NotAfter.After(c.Expires()) {
		c.show(pair)
		c.log.Info("Took up a new client certificate", "expires", pair.Leaf.NotAfter)
	}
}

// shownStore is the file store of a manager whose certificates are in use at once.
type shownStore struct{ c *Credential }

func (s shownStore) Current() (*tls.Certificate, error) { return s.c.store.Current() }

func (s shownStore) Update(cert, key []byte) (*tls.Certificate, error) {
	pair, err := s.c.store.Update(cert, key)
	if err == nil {
		s.c.show(pair)
		s.c.log.Info("Renewed the client certificate", logkey.Node, s.c.node, "expires", pair.Leaf.NotAfter)
	}
	return pair, err
}

func openStore(dir string) (certificate.FileStore, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make folder for keys: %w", err)
	}
	store, err := certificate.NewFileStoreWithLogger(klog.Background().V(4), pairName, dir, dir, "", "")
	if err != nil {
		return nil, fmt.Errorf("open certificate store: %w", err)
	}
	return store, nil
}
