package pki

import (
	"crypto/x509"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"
)

func config(dir string, now time.Time) Config {
	return Config{
		Dir: dir, Addresses: []netip.Addr{netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("10.96.0.1")},
		Names: []string{"node1"}, ClusterDomain: "cluster.local", Now: func() time.Time { return now },
	}
}

func TestCertificatesVerifyAndKeysArePrivate(t *testing.T) {
	dir := t.TempDir()
	now := time.Now()
	p, err := Ensure(config(dir, now))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(p.CA.Cert)
	for _, name := range []string{"192.0.2.7", "10.96.0.1", "127.0.0.1", "node1", "kubernetes.default.svc.cluster.local"} {
		if _, err := p.Serving.Cert.Verify(x509.VerifyOptions{Roots: roots, DNSName: name}); err != nil {
			t.Errorf("serving certificate for %s: %v", name, err)
		}
	}
	clients := x509.NewCertPool()
	clients.AddCert(p.CA.Cert)
	if _, err := p.Admin.Cert.Verify(x509.VerifyOptions{Roots: clients, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Errorf("admin certificate: %v", err)
	}
	if _, err := p.FrontProxy.Cert.Verify(x509.VerifyOptions{Roots: clients, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err == nil {
		t.Error("the front proxy's certificate passes as an ordinary client's")
	}
	err = filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode().Perm() != 0o600 {
			t.Errorf("%s has mode %v, want 0600", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestRenewsOnlyWhatMustBeRenewed(t *testing.T) {
	dir := t.TempDir()
	now := time.Now()
	first, err := Ensure(config(dir, now))
	if err != nil {
		t.Fatal(err)
	}
	same, err := Ensure(config(dir, now.Add(24*time.Hour)))
	if err != nil {
		t.Fatal(err)
	}
	if same.Renewed || !same.Serving.Cert.Equal(first.Serving.Cert) {
		t.Error("renewed certificates that were good")
	}

	moved := config(dir, now.Add(24*time.Hour))
	moved.Addresses = append(moved.Addresses, netip.MustParseAddr("198.51.100.1"))
	p, err := Ensure(moved)
	if err != nil {
		t.Fatal(err)
	}
	if p.Serving.Cert.Equal(first.Serving.Cert) || !p.Admin.Cert.Equal(first.Admin.Cert) {
		t.Error("a new address must renew the serving certificate and nothing else")
	}

	late, err := Ensure(config(dir, now.Add(leafLifetime-renewBefore+time.Hour)))
	if err != nil {
		t.Fatal(err)
	}
	if late.Admin.Cert.Equal(first.Admin.Cert) {
		t.Error("a certificate near its end was not renewed")
	}
	if !late.CA.Cert.Equal(first.CA.Cert) || late.CAHash() != first.CAHash() {
		t.Error("an authority was replaced")
	}
	if _, err := Ensure(config(dir, now.Add(authorityLifetime+time.Hour))); err == nil {
		t.Error("an authority past its end was accepted")
	}
}

func TestADamagedLeafIsReplacedAndADamagedAuthorityIsNot(t *testing.T) {
	dir := t.TempDir()
	if _, err := Ensure(config(dir, time.Now())); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "admin.crt"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Ensure(config(dir, time.Now())); err != nil {
		t.Errorf("damaged leaf: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "ca.key"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Ensure(config(dir, time.Now())); err == nil {
		t.Error("a damaged authority was accepted or replaced")
	}
}

func TestKubeconfig(t *testing.T) {
	dir := t.TempDir()
	p, err := Ensure(config(filepath.Join(dir, "pki"), time.Now()))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "admin.kubeconfig")
	if err := p.WriteKubeconfig(path, "https://127.0.0.1:6443", "reeve", p.Admin); err != nil {
		t.Fatal(err)
	}
	c, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil || c.Host != "https://127.0.0.1:6443" || len(c.CertData) == 0 {
		t.Errorf("kubeconfig = %+v, %v", c, err)
	}
}
