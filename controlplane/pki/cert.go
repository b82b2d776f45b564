package pki

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"time"
)

const (
	// authorityLifetime is 10 years, as kubeadm's.
	authorityLifetime = 10 * 365 * 24 * time.Hour
	// leafLifetime is one year, as kubeadm's; renewBefore leaves a third of it for a host that is seldom restarted.
	leafLifetime = 365 * 24 * time.Hour
	renewBefore  = 120 * 24 * time.Hour
	// backdate tolerates clocks that are a little behind.
	backdate = 5 * time.Minute
)

// Pair is a certificate and its key, in memory and as PEM files.
type Pair struct {
	Cert              *x509.Certificate
	Key               crypto.Signer
	CertFile, KeyFile string
	CertPEM, KeyPEM   []byte
}

// readPair returns nil, nil when neither file exists.
func readPair(certFile, keyFile string) (*Pair, error) {
	certPEM, certErr := os.ReadFile(certFile)
	keyPEM, keyErr := os.ReadFile(keyFile)
	if errors.Is(certErr, os.ErrNotExist) && errors.Is(keyErr, os.ErrNotExist) {
		return nil, nil
	}
	if err := errors.Join(certErr, keyErr); err != nil {
		return nil, fmt.Errorf("read certificate and key: %w", err)
	}
	block, _ := pem.Decode(certPEM)
	if block == nil || block.Type != "CERTIFICATE" {
		return nil, fmt.Errorf("read certificate %q: no CERTIFICATE block in it", certFile)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("read certificate %q: %w", certFile, err)
	}
	key, err := parseKey(keyFile, keyPEM)
	if err != nil {
		return nil, err
	}
	if public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(cert.PublicKey) {
		return nil, fmt.Errorf("read key %q: it is not the key of %q", keyFile, certFile)
	}
	return &Pair{cert, key, certFile, keyFile, certPEM, keyPEM}, nil
}

func parseKey(file string, raw []byte) (crypto.Signer, error) {
	block, _ := pem.Decode(raw)
	if block == nil {
		return nil, fmt.Errorf("read key %q: no PEM block in it", file)
	}
	var key any
	var err error
	switch block.Type {
	case "EC PRIVATE KEY":
		key, err = x509.ParseECPrivateKey(block.Bytes)
	case "RSA PRIVATE KEY":
		key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	default:
		key, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	}
	if err != nil {
		return nil, fmt.Errorf("read key %q: %w", file, err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("read key %q: a %T cannot sign", file, key)
	}
	return signer, nil
}

// request says what a leaf certificate is to prove.
type request struct {
	subject pkix.Name
	usages  []x509.ExtKeyUsage
	dns     []string
	ips     []net.IP
}

// fits says whether an existing leaf still does what r asks, signed by ca and good for a while after now.
func (r request) fits(cert *x509.Certificate, ca *Pair, now time.Time) bool {
	if cert.CheckSignatureFrom(ca.Cert) != nil || now.Add(renewBefore).After(cert.NotAfter) || now.Before(cert.NotBefore) {
		return false
	}
	if cert.Subject.CommonName != r.subject.CommonName || !slices.Equal(cert.Subject.Organization, r.subject.Organization) ||
		!slices.Equal(cert.ExtKeyUsage, r.usages) {
		return false
	}
	for _, name := range r.dns {
		if !slices.Contains(cert.DNSNames, name) {
			return false
		}
	}
	for _, ip := range r.ips {
		if !slices.ContainsFunc(cert.IPAddresses, ip.Equal) {
			return false
		}
	}
	return true
}

func newKey() (crypto.Signer, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, nil, err
	}
	return key, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), nil
}

func serial() (*big.Int, error) {
	// 159 bits: positive and at most 20 bytes, as RFC 5280 asks.
	return rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 159))
}

// ensureAuthority reads the authority's files or makes them.
func ensureAuthority(dir, name, commonName string, now time.Time) (*Pair, error) {
	certFile, keyFile := filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key")
	pair, err := readPair(certFile, keyFile)
	if err != nil || pair != nil {
		if pair != nil && now.After(pair.Cert.NotAfter) {
			return nil, fmt.Errorf("certificate authority %q ended on %s: check the host's clock, or make a new cluster",
				certFile, pair.Cert.NotAfter.Format(time.DateOnly))
		}
		return pair, err
	}
	key, keyPEM, err := newKey()
	if err != nil {
		return nil, fmt.Errorf("make key %q: %w", keyFile, err)
	}
	number, err := serial()
	if err != nil {
		return nil, fmt.Errorf("make serial number: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: number, Subject: pkix.Name{CommonName: commonName},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(authorityLifetime),
		IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature,
	}
	return sign(template, template, key, key, keyPEM, certFile, keyFile)
}

// ensureLeaf reads the leaf's files, or makes them anew if they no longer fit. changed says that it made them.
func ensureLeaf(dir, name string, ca *Pair, r request, now time.Time) (pair *Pair, changed bool, err error) {
	certFile, keyFile := filepath.Join(dir, name+".crt"), filepath.Join(dir, name+".key")
	pair, err = readPair(certFile, keyFile)
	if err == nil && pair != nil && r.fits(pair.Cert, ca, now) {
		return pair, false, nil
	}
	// A leaf that cannot be read (a crash between two writes) is as good as none: nothing hangs on its key.
	key, keyPEM, err := newKey()
	if err != nil {
		return nil, false, fmt.Errorf("make key %q: %w", keyFile, err)
	}
	number, err := serial()
	if err != nil {
		return nil, false, fmt.Errorf("make serial number: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: number, Subject: r.subject,
		NotBefore: now.Add(-backdate), NotAfter: now.Add(leafLifetime),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: r.usages,
		DNSNames: r.dns, IPAddresses: r.ips, BasicConstraintsValid: true,
	}
	if template.NotAfter.After(ca.Cert.NotAfter) {
		template.NotAfter = ca.Cert.NotAfter
	}
	pair, err = sign(template, ca.Cert, key, ca.Key, keyPEM, certFile, keyFile)
	return pair, true, err
}

func sign(template, parent *x509.Certificate, key, parentKey crypto.Signer, keyPEM []byte, certFile, keyFile string) (*Pair, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), parentKey)
	if err != nil {
		return nil, fmt.Errorf("sign certificate %q: %w", certFile, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("sign certificate %q: %w", certFile, err)
	}
	certPEM := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	if err := errors.Join(writeFile(keyFile, keyPEM), writeFile(certFile, certPEM)); err != nil {
		return nil, err
	}
	return &Pair{cert, key, certFile, keyFile, certPEM, keyPEM}, nil
}

// writeFile writes atomically, readable by the owner only, and leaves a file that already holds data alone.
func writeFile(path string, data []byte) error {
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, data) {
		return os.Chmod(path, 0o600)
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*") // 0600
	if err != nil {
		return fmt.Errorf("write %q: %w", path, err)
	}
	_, err = tmp.Write(data)
	err = errors.Join(err, tmp.Sync(), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err != nil {
		os.Remove(tmp.Name())
		return fmt.Errorf("write %q: %w", path, err)
	}
	return nil
}
