package bootstrap

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
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"k8s.io/client-go/util/keyutil"
)

// pair makes a client certificate that ends at a time, and its key, as PEM.
func pair(t *testing.T, cn string, until time.Time) (certPEM, keyPEM []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tpl := &x509.Certificate{
		SerialNumber: big.NewInt(until.UnixNano()), Subject: pkix.Name{CommonName: cn}, NotBefore: until.Add(-time.Hour), NotAfter: until,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, tpl, tpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	if keyPEM, err = keyutil.MarshalPrivateKeyToPEM(key); err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), keyPEM
}

// kubeconfig writes one with an embedded client certificate, or a token.
func kubeconfig(t *testing.T, path, server string, ca, cert, key []byte, token string) {
	t.Helper()
	kc := clientcmdapi.NewConfig()
	kc.Clusters["c"] = &clientcmdapi.Cluster{Server: server, CertificateAuthorityData: ca}
	kc.AuthInfos["u"] = &clientcmdapi.AuthInfo{ClientCertificateData: cert, ClientKeyData: key, Token: token}
	kc.Contexts["x"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "u"}
	kc.CurrentContext = "x"
	if err := clientcmd.WriteToFile(*kc, path); err != nil {
		t.Fatal(err)
	}
}

// api is a TLS server that tells which client certificate it was shown.
func api(t *testing.T) (*httptest.Server, []byte, func() string) {
	t.Helper()
	shown := make(chan string, 100)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		serial := "none"
		if len(r.TLS.PeerCertificates) > 0 {
			serial = r.TLS.PeerCertificates[0].SerialNumber.String()
		}
		shown <- serial
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write([]byte(`{"kind":"NodeList","apiVersion":"v1","items":[]}`))
	}))
	s.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	s.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	s.EnableHTTP2 = true
	s.StartTLS()
	t.Cleanup(s.Close)
	return s, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), func() string { return <-shown }
}

func open(t *testing.T, dir, bootstrap string) (*Credential, error) {
	t.Helper()
	return FromKubeconfig(t.Context(), KubeconfigConfig{
		Kubeconfig: filepath.Join(dir, "kubelet.conf"), Bootstrap: bootstrap, CertDir: filepath.Join(dir, "pki"), Rotate: true, NodeName: "n",
		Logger: slog.New(slog.DiscardHandler),
	})
}

func ask(t *testing.T, c *Credential) {
	t.Helper()
	client, err := kubernetes.NewForConfig(c.REST)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := client.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{}); err != nil {
		t.Fatal(err)
	}
}

// A renewed certificate is shown by clients that were made before, on a connection of its own.
func TestClientsShowTheNewestCertificate(t *testing.T) {
	s, ca, shown := api(t)
	dir := t.TempDir()
	cert, key := pair(t, "system:node:n", time.Now().Add(time.Hour))
	kubeconfig(t, filepath.Join(dir, "kubelet.conf"), s.URL, ca, cert, key, "")
	c, err := open(t, dir, "")
	if err != nil {
		t.Fatal(err)
	}
	client, err := kubernetes.NewForConfig(c.REST)
	if err != nil {
		t.Fatal(err)
	}
	list := func() string {
		if _, err := client.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{}); err != nil {
			t.Fatal(err)
		}
		return shown()
	}
	first := list()
	newCert, newKey := pair(t, "system:node:n", time.Now().Add(2*time.Hour))
	if _, err := (shownStore{c}).Update(newCert, newKey); err != nil {
		t.Fatal(err)
	}
	if second := list(); second == first || second == "none" {
		t.Errorf("the client shows certificate %s, before the renewal %s", second, first)
	}
	// The kubeconfig holds the first one for ever; the next start takes the newest.
	again, err := open(t, dir, "")
	if err != nil {
		t.Fatal(err)
	}
	if again.Expires() != c.Expires() {
		t.Errorf("the next start uses the one that ends at %s, want %s", again.Expires(), c.Expires())
	}
}

// kubeadm removes the bootstrap kubeconfig once a node has joined, and leaves the flag.
func TestBootstrapKubeconfigMayGoOnceTheNodeHasJoined(t *testing.T) {
	s, ca, shown := api(t)
	dir := t.TempDir()
	cert, key := pair(t, "system:node:n", time.Now().Add(time.Hour))
	kubeconfig(t, filepath.Join(dir, "kubelet.conf"), s.URL, ca, cert, key, "")
	c, err := open(t, dir, filepath.Join(dir, "gone"))
	if err != nil {
		t.Fatal(err)
	}
	ask(t, c)
	if got := shown(); got == "none" {
		t.Error("no certificate was shown")
	}
}

// With an expired certificate the node starts at once, whether or not it can be renewed, and takes a new one up from the
// folder.
func TestExpiredCertificateIsNoReasonNotToStart(t *testing.T) {
	s, ca, shown := api(t)
	dir := t.TempDir()
	cert, key := pair(t, "system:node:n", time.Now().Add(-time.Minute))
	kubeconfig(t, filepath.Join(dir, "kubelet.conf"), s.URL, ca, cert, key, "")
	c, err := open(t, dir, "")
	if err != nil {
		t.Fatal(err)
	}
	newCert, newKey := pair(t, "system:node:n", time.Now().Add(time.Hour))
	if _, err := c.store.Update(newCert, newKey); err != nil { // as an administrator would
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- c.Run(ctx) }()
	for deadline := time.Now().Add(30 * time.Second); time.Now().After(c.Expires()); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the new certificate was not taken up")
		}
	}
	ask(t, c)
	if got := shown(); got == "none" {
		t.Error("no certificate was shown")
	}
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestKubeconfigsThatCannotBeUsed(t *testing.T) {
	dir := t.TempDir()
	broken := filepath.Join(dir, "broken")
	if err := os.WriteFile(broken, []byte("kind: Pod"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := open(t, dir, ""); !errors.Is(err, ErrKubeconfig) || !strings.Contains(err.Error(), "no --bootstrap-kubeconfig is given") {
		t.Errorf("neither is there: %v", err)
	}
	if _, err := open(t, dir, broken); !errors.Is(err, ErrKubeconfig) || !strings.Contains(err.Error(), broken) {
		t.Errorf("a broken bootstrap kubeconfig: %v", err)
	}
	if _, err := open(t, dir, filepath.Join(dir, "none")); !errors.Is(err, ErrKubeconfig) {
		t.Errorf("a bootstrap kubeconfig that is not there: %v", err)
	}
	cert, _ := pair(t, "system:node:n", time.Now().Add(time.Hour))
	_, key := pair(t, "system:node:n", time.Now().Add(time.Hour))
	kubeconfig(t, filepath.Join(dir, "kubelet.conf"), "https://127.0.0.1:1", nil, cert, key, "")
	if _, err := open(t, dir, ""); !errors.Is(err, ErrKubeconfig) || !strings.Contains(err.Error(), "client certificate") {
		t.Errorf("a key that is another certificate's: %v", err)
	}
}

// A kubeconfig with a token, or a plugin, is used as it is.
func TestKubeconfigWithATokenIsUsedAsItIs(t *testing.T) {
	dir := t.TempDir()
	kubeconfig(t, filepath.Join(dir, "kubelet.conf"), "https://127.0.0.1:1", nil, nil, nil, "secret")
	c, err := open(t, dir, "")
	if err != nil || c.REST.BearerToken != "secret" || c.store != nil {
		t.Errorf("%+v, %v", c, err)
	}
	ctx, stop := context.WithCancel(t.Context())
	stop()
	if err := c.Run(ctx); err != nil {
		t.Error(err)
	}
}
