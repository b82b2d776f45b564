package auth

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"log/slog"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/go-logr/logr"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
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

// cluster is an API server on an etcd of its own; no controllers, no nodes. One serves all tests of the package.
type cluster struct {
	keys  *pki.PKI
	url   string
	admin kubernetes.Interface
}

var shared *cluster

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

// run keeps the folder short: the path of etcd's socket must be.
func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "rv")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	klog.SetLogger(logr.Discard()) // the libraries' own; ours goes to stderr from Warn on
	logger := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	store, err := etcd.Start(ctx, etcd.Config{Dir: filepath.Join(dir, "etcd"), Logger: logger})
	if err != nil {
		panic(err)
	}
	defer store.Stop()
	local := netip.MustParseAddr("127.0.0.1")
	keys, err := pki.Ensure(pki.Config{Dir: filepath.Join(dir, "pki"), Addresses: []netip.Addr{local}, ClusterDomain: "cluster.local"})
	if err != nil {
		panic(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	api, err := server.New(server.Config{
		Logger: logger, Listener: listener, AdvertiseIP: local, PKI: keys, Etcd: server.Etcd{Servers: store.Endpoints()},
		ServiceCIDRs: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")}, NodePorts: utilnet.PortRange{Base: 30000, Size: 2768},
	})
	if err != nil {
		panic(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- api.Run(ctx) }()
	select {
	case <-api.Ready():
	case err := <-ended:
		panic(err)
	case <-time.After(startTimeout):
		panic("the API server did not become ready")
	}
	shared = &cluster{keys: keys, url: "https://" + listener.Addr().String()}
	shared.admin = kubernetes.NewForConfigOrDie(api.Loopback())
	code := m.Run()
	cancel()
	<-ended
	return code
}

// config is a client configuration that trusts the server and shows nothing.
func (c *cluster) config() *rest.Config {
	return &rest.Config{Host: c.url, QPS: -1, TLSClientConfig: rest.TLSClientConfig{CAData: c.keys.CA.CertPEM}}
}

// user is a client with a certificate of its own, as the signer would give it.
func (c *cluster) user(t *testing.T, name string, groups ...string) kubernetes.Interface {
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
	config := c.config()
	config.CertData = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	config.KeyData = pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: raw})
	return client(t, config)
}

// bearer is a client with a token.
func (c *cluster) bearer(t *testing.T, token string) kubernetes.Interface {
	t.Helper()
	config := c.config()
	config.BearerToken = token
	return client(t, config)
}

func client(t *testing.T, config *rest.Config) kubernetes.Interface {
	t.Helper()
	k, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// eventually waits until check returns nil.
func eventually(t *testing.T, what string, check func(context.Context) error) {
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

func must(t *testing.T, what string, err error) {
	t.Helper()
	if err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

func forbidden(t *testing.T, what string, err error) {
	t.Helper()
	if !apierrors.IsForbidden(err) {
		t.Errorf("%s must be forbidden, got %v", what, err)
	}
}

func unauthorized(t *testing.T, what string, err error) {
	t.Helper()
	if !apierrors.IsUnauthorized(err) {
		t.Errorf("%s must be unauthorized, got %v", what, err)
	}
}
