package server

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func testLogger(t *testing.T) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

type tlsLess struct{ net.Dialer }

func (d *tlsLess) dial(ctx context.Context, addr string) (net.Conn, error) {
	return d.DialContext(ctx, "tcp", addr)
}

type testCA struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pool *x509.CertPool
}

func newCA(t *testing.T) *testCA {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &testCA{cert, key, pool}
}

func (ca *testCA) leaf(t *testing.T, cn string, org []string, usage x509.ExtKeyUsage, life time.Duration) *x509.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: cn, Organization: org}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(life), ExtKeyUsage: []x509.ExtKeyUsage{usage}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca.cert, &key.PublicKey, ca.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

func writePair(t *testing.T, dir, host string) {
	t.Helper()
	c, err := SelfSigned(host)
	if err != nil {
		t.Fatal(err)
	}
	key, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{"tls.crt": {Type: "CERTIFICATE", Bytes: c.Certificate[0]}, "tls.key": {Type: "PRIVATE KEY", Bytes: key}} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// A renewed pair is served from the next look on; a broken one leaves the old one in force.
func TestFileCertificateReloads(t *testing.T) {
	dir := t.TempDir()
	crt, key := filepath.Join(dir, "tls.crt"), filepath.Join(dir, "tls.key")
	if _, err := FileCertificate(crt, key); err == nil {
		t.Fatal("files that do not exist were accepted")
	}
	writePair(t, dir, "one.example")
	w := &watched[*tls.Certificate]{files: []string{crt, key}, load: func(c [][]byte) (*tls.Certificate, error) {
		p, err := tls.X509KeyPair(c[0], c[1])
		return &p, err
	}}
	name := func() string {
		t.Helper()
		w.mu.Lock()
		w.checked = time.Time{} // as if checkEvery had passed
		w.mu.Unlock()
		c, err := w.get()
		if err != nil {
			t.Fatal(err)
		}
		return c.Leaf.DNSNames[0]
	}
	if got := name(); got != "one.example" {
		t.Errorf("first: %s", got)
	}
	if err := os.WriteFile(key, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := name(); got != "one.example" {
		t.Errorf("with a broken key: %s", got)
	}
	writePair(t, dir, "two.example")
	if got := name(); got != "two.example" {
		t.Errorf("renewed: %s", got)
	}
	if _, err := FilePool(key); err == nil {
		t.Error("a private key was accepted as client CA")
	}
	if f, err := FilePool(crt); err != nil || f() == nil {
		t.Errorf("a CA bundle was refused: %v", err)
	}
}

// The real listeners: plain healthz in the clear, the other one with TLS, both gone with their context; a taken port is
// an error that names it.
func TestRun(t *testing.T) {
	free := func() string {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		return ln.Addr().String()
	}
	cert, err := SelfSigned("127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{NodeName: "n", Address: free(), HealthzAddress: free(), Pods: &fakePods{}, Runtime: fakeRuntime{}, Logger: testLogger(t),
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return cert, nil }}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Run(ctx, cfg) }()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}, DisableKeepAlives: true}}
	get := func(u string) (int, string) {
		t.Helper()
		for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
			res, err := client.Get(u)
			if err != nil {
				if time.Now().After(deadline) {
					t.Fatal(err)
				}
				continue
			}
			defer res.Body.Close()
			body, err := io.ReadAll(res.Body)
			if err != nil {
				t.Fatal(err)
			}
			return res.StatusCode, string(body)
		}
	}
	if code, body := get("http://" + cfg.HealthzAddress + "/healthz"); code != 200 || body != "ok" {
		t.Errorf("plain healthz: %d %q", code, body)
	}
	if code, _ := get("http://" + cfg.HealthzAddress + "/pods"); code != 404 {
		t.Errorf("plain /pods: %d", code)
	}
	if code, _ := get("https://" + cfg.Address + "/healthz"); code != 401 {
		t.Errorf("anonymous on the TLS port: %d", code)
	}
	if err := Run(t.Context(), cfg); err == nil {
		t.Error("a taken port was no error")
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("after its context ended: %v", err)
	}
}
