package apiserver

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/go-logr/logr"

	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"

	"github.com/reevehq/reeve/controlplane/etcd"
	"github.com/reevehq/reeve/controlplane/pki"
	"github.com/reevehq/reeve/controlplane/server"
)

const (
	// startTimeout is far above the second or two that a start takes.
	startTimeout = time.Minute
	// settle bounds waits for what follows by watch.
	settle = 15 * time.Second
)

// Cluster is a running API server.
type Cluster struct {
	// Admin may do everything.
	Admin kubernetes.Interface
	// URL is where it serves.
	URL string

	keys *pki.PKI
}

// Main is for TestMain: it starts a server, runs the tests with it in *into, stops it, and returns the exit code.
func Main(m *testing.M, into **Cluster) int {
	c, stop, err := Start()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer stop()
	*into = c
	return m.Run()
}

// Start starts a server; stop ends it and removes its folder.
func Start() (c *Cluster, stop func(), err error) {
	// Not a test's own folder: the path of etcd's socket must stay short.
	dir, err := os.MkdirTemp("", "rv")
	if err != nil {
		return nil, nil, err
	}
	undo := []func(){func() { os.RemoveAll(dir) }}
	stop = func() {
		for i := len(undo) - 1; i >= 0; i-- {
			undo[i]()
		}
	}
	defer func() {
		if err != nil {
			stop()
		}
	}()
	klog.SetLogger(logr.Discard()) // the libraries' own; ours goes to stderr from Warn on
	logger := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	ctx, cancel := context.WithCancel(context.Background())
	undo = append(undo, cancel)
	store, err := etcd.Start(ctx, etcd.Config{Dir: filepath.Join(dir, "etcd"), Logger: logger})
	if err != nil {
		return nil, nil, err
	}
	undo = append(undo, func() { store.Stop() })
	local := netip.MustParseAddr("127.0.0.1")
	keys, err := pki.Ensure(pki.Config{Dir: filepath.Join(dir, "pki"), Addresses: []netip.Addr{local}, ClusterDomain: "cluster.local"})
	if err != nil {
		return nil, nil, err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	api, err := server.New(server.Config{
		Logger: logger, Listener: listener, AdvertiseIP: local, PKI: keys, Etcd: server.Etcd{Servers: store.Endpoints()},
		ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")}, NodePorts: utilnet.PortRange{Base: 30000, Size: 2768},
	})
	if err != nil {
		return nil, nil, err
	}
	ended := make(chan error, 1)
	go func() { ended <- api.Run(ctx) }()
	undo = append(undo, func() { cancel(); <-ended })
	select {
	case <-api.Ready():
	case err := <-ended:
		ended <- err
		return nil, nil, err
	case <-time.After(startTimeout):
		return nil, nil, errors.New("the API server did not become ready")
	}
	admin, err := kubernetes.NewForConfig(api.Loopback())
	if err != nil {
		return nil, nil, err
	}
	return &Cluster{Admin: admin, URL: "https://" + listener.Addr().String(), keys: keys}, stop, nil
}

// Config is a client configuration that trusts the server and shows nothing.
func (c *Cluster) Config() *rest.Config {
	return &rest.Config{Host: c.URL, QPS: -1, TLSClientConfig: rest.TLSClientConfig{CAData: c.keys.CA.CertPEM}}
}

// Anonymous is a client without a credential.
func (c *Cluster) Anonymous(t testing.TB) kubernetes.Interface {
	t.Helper()
	return client(t, c.Config())
}

// User is a client with a certificate of its own, as the signer would give it.
func (c *Cluster) User(t testing.TB, name string, groups ...string) kubernetes.Interface {
	t.Helper()
	return client(t, c.UserConfig(t, name, groups...))
}

// Serving is a certificate for a node's agent at ip, and the authority that signs what the API server shows to it.
func (c *Cluster) Serving(t testing.TB, node string, ip net.IP) (tls.Certificate, *x509.CertPool) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "system:node:" + node, Organization: []string{"system:nodes"}},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{ip}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, c.keys.CA.Cert, key.Public(), c.keys.CA.Key)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(c.keys.CA.Cert)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, pool
}

// UserConfig is the configuration behind User.
func (c *Cluster) UserConfig(t testing.TB, name string, groups ...string) *rest.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name, Organization: groups},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, c.keys.CA.Cert, key.Public(), c.keys.CA.Key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	config := c.Config()
	config.CertData = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	config.KeyData = pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: raw})
	return config
}

// Bearer is a client with a token.
func (c *Cluster) Bearer(t testing.TB, token string) kubernetes.Interface {
	t.Helper()
	config := c.Config()
	config.BearerToken = token
	return client(t, config)
}

func client(t testing.TB, config *rest.Config) kubernetes.Interface {
	t.Helper()
	k, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// Eventually waits until check returns nil, and fails the test with its last error.
func Eventually(t testing.TB, what string, check func(context.Context) error) {
	t.Helper()
	var last error
	err := wait.PollUntilContextTimeout(t.Context(), 20*time.Millisecond, settle, true, func(ctx context.Context) (bool, error) {
		last = check(ctx)
		return last == nil, nil
	})
	if err != nil {
		t.Fatalf("%s: %v", what, last)
	}
}
