package server

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"sync"
	"time"

	"k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/keyutil"
)

// checkEvery bounds how often the files behind a certificate are looked at; handshakes in between use what was read.
const checkEvery = 2 * time.Second

// watched re-reads a set of files when their content changed, at most every checkEvery, and keeps the last good value.
type watched[T any] struct {
	files []string
	load  func([][]byte) (T, error)

	mu      sync.Mutex
	checked time.Time
	content [][]byte
	value   T
	ok      bool
}

func (w *watched[T]) get() (T, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ok && time.Since(w.checked) < checkEvery {
		return w.value, nil
	}
	w.checked = time.Now()
	content := make([][]byte, len(w.files))
	same := w.ok
	for i, f := range w.files {
		data, err := os.ReadFile(f)
		if err != nil {
			return w.value, w.fall(err)
		}
		content[i] = data
		same = same && bytes.Equal(data, w.content[i])
	}
	if same {
		return w.value, nil
	}
	v, err := w.load(content)
	if err != nil {
		return w.value, w.fall(err)
	}
	w.content, w.value, w.ok = content, v, true
	return v, nil
}

// fall keeps serving the last good value: a certificate that is half written must not break handshakes.
func (w *watched[T]) fall(err error) error {
	if w.ok {
		return nil
	}
	return err
}

// FileCertificate answers GetCertificate from a pair of PEM files, read again when they change. It fails at once when
// they cannot be used now.
func FileCertificate(certFile, keyFile string) (func(*tls.ClientHelloInfo) (*tls.Certificate, error), error) {
	w := &watched[*tls.Certificate]{files: []string{certFile, keyFile}, load: func(c [][]byte) (*tls.Certificate, error) {
		cert, err := tls.X509KeyPair(c[0], c[1])
		return &cert, err
	}}
	if _, err := w.get(); err != nil {
		return nil, fmt.Errorf("load serving certificate %q with key %q: %w", certFile, keyFile, err)
	}
	return func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return w.get() }, nil
}

// FilePool answers ClientCAs from a PEM bundle, read again when it changes. It fails at once when it cannot be used now.
func FilePool(file string) (func() *x509.CertPool, error) {
	w := &watched[*x509.CertPool]{files: []string{file}, load: func(c [][]byte) (*x509.CertPool, error) {
		pool := x509.NewCertPool()
		if !pool.AppendCertsFromPEM(c[0]) {
			return nil, fmt.Errorf("it holds no PEM certificate")
		}
		return pool, nil
	}}
	if _, err := w.get(); err != nil {
		return nil, fmt.Errorf("load client CA %q: %w", file, err)
	}
	return func() *x509.CertPool {
		p, err := w.get()
		if err != nil {
			return nil
		}
		return p
	}, nil
}

// SelfSigned makes a serving certificate in memory, good for a year, for the names and addresses given. It is what
// :10250 shows until a signer gave it a better one.
func SelfSigned(hosts ...string) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make serving key: %w", err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, fmt.Errorf("make serving certificate: %w", err)
	}
	now := time.Now()
	tmpl := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: "reeve-self-signed"},
		NotBefore:    now.Add(-time.Hour), // clocks differ
		NotAfter:     now.AddDate(1, 0, 0),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			tmpl.IPAddresses = append(tmpl.IPAddresses, ip)
		} else if h != "" {
			tmpl.DNSNames = append(tmpl.DNSNames, h)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("make serving certificate: %w", err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

// KeptSelfSigned serves the self-signed pair in the files, and writes fresh there when there is none or when it expires
// within a month.
func KeptSelfSigned(certFile, keyFile string, fresh *tls.Certificate) (func(*tls.ClientHelloInfo) (*tls.Certificate, error), error) {
	if pair, err := tls.LoadX509KeyPair(certFile, keyFile); err == nil && pair.Leaf != nil && time.Until(pair.Leaf.NotAfter) > 30*24*time.Hour {
		return FileCertificate(certFile, keyFile)
	}
	keyPEM, err := keyutil.MarshalPrivateKeyToPEM(fresh.PrivateKey)
	if err != nil {
		return nil, fmt.Errorf("encode serving key: %w", err)
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: fresh.Certificate[0]})
	if err := keyutil.WriteKey(keyFile, keyPEM); err != nil { // makes the folder, 0600
		return nil, fmt.Errorf("write serving key: %w", err)
	}
	if err := cert.WriteCert(certFile, certPEM); err != nil {
		return nil, fmt.Errorf("write serving certificate: %w", err)
	}
	return FileCertificate(certFile, keyFile)
}
