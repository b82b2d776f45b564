package pki

import (
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"k8s.io/apiserver/pkg/authentication/user"
)

// Config says where the files lie and what the serving certificate must be good for.
type Config struct {
	Dir string
	// Addresses and Names that clients reach the API server by. The loopback address and the names of the kubernetes
	// Service are added.
	Addresses []netip.Addr
	Names     []string
	// ClusterDomain ends the Service's full name, "cluster.local".
	ClusterDomain string
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// PKI is the complete set, on disk and in memory.
type PKI struct {
	// CA is the cluster's authority, as kubeadm's: it signs what servers show (the API server and, through CSRs, the
	// kubelets) and what clients show (nodes, through CSRs, and the control plane's own). Certificates carry the
	// purpose that they are good for.
	CA *Pair
	// FrontProxyCA signs who may speak for other users to aggregated API servers.
	FrontProxyCA *Pair

	// Serving is the API server's own certificate.
	Serving *Pair
	// KubeletClient is what the API server shows to kubelets.
	KubeletClient *Pair
	// FrontProxy is what the aggregator shows to aggregated API servers.
	FrontProxy *Pair
	// Admin is a cluster administrator (system:masters).
	Admin *Pair

	// ServiceAccount signs service-account tokens.
	ServiceAccount crypto.Signer
	// Renewed is true when Ensure made any certificate anew.
	Renewed bool
}

// Ensure reads the set from c.Dir, makes what is missing and renews what nears its end. It may be called again at any
// time, by one process at once; a file is replaced in one step.
func Ensure(c Config) (*PKI, error) {
	now := time.Now
	if c.Now != nil {
		now = c.Now
	}
	at := now()
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("create certificate folder %q: %w", c.Dir, err)
	}
	if err := os.Chmod(c.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("close certificate folder %q to others: %w", c.Dir, err)
	}
	p := &PKI{}
	// An authority's name holds the day it was made, so that two clusters' authorities can be told apart.
	stamp := fmt.Sprintf("@%d", at.Unix())
	for _, a := range []struct {
		into             **Pair
		file, commonName string
	}{
		{&p.CA, "ca", "reeve-ca" + stamp},
		{&p.FrontProxyCA, "front-proxy-ca", "reeve-front-proxy-ca" + stamp},
	} {
		pair, err := ensureAuthority(c.Dir, a.file, a.commonName, at)
		if err != nil {
			return nil, err
		}
		*a.into = pair
	}

	client := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	for _, l := range []struct {
		into *(*Pair)
		file string
		ca   *Pair
		request
	}{
		{&p.Serving, "apiserver", p.CA, servingRequest(c)},
		{&p.KubeletClient, "apiserver-kubelet-client", p.CA, request{subject: pkix.Name{
			CommonName: "kube-apiserver-kubelet-client", Organization: []string{"system:kubelet-api-admins"}}, usages: client}},
		{&p.FrontProxy, "front-proxy-client", p.FrontProxyCA, request{subject: pkix.Name{CommonName: "front-proxy-client"}, usages: client}},
		{&p.Admin, "admin", p.CA, request{subject: pkix.Name{
			CommonName: "kubernetes-admin", Organization: []string{user.SystemPrivilegedGroup}}, usages: client}},
	} {
		pair, changed, err := ensureLeaf(c.Dir, l.file, l.ca, l.request, at)
		if err != nil {
			return nil, err
		}
		*l.into = pair
		p.Renewed = p.Renewed || changed
	}

	key, err := ensureServiceAccountKey(filepath.Join(c.Dir, "service-account.key"))
	if err != nil {
		return nil, err
	}
	p.ServiceAccount = key
	return p, nil
}

func servingRequest(c Config) request {
	r := request{
		subject: pkix.Name{CommonName: "kube-apiserver"},
		usages:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		dns: append([]string{
			"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc." + c.ClusterDomain,
		}, c.Names...),
		ips: []net.IP{net.IPv4(127, 0, 0, 1).To4(), net.IPv6loopback},
	}
	for _, a := range c.Addresses {
		if a.IsValid() && !a.IsUnspecified() {
			r.ips = append(r.ips, a.Unmap().AsSlice())
		}
	}
	return r
}

func ensureServiceAccountKey(file string) (crypto.Signer, error) {
	raw, err := os.ReadFile(file)
	if err == nil {
		return parseKey(file, raw)
	}
	if !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("read service-account key: %w", err)
	}
	key, keyPEM, err := newKey()
	if err != nil {
		return nil, fmt.Errorf("make service-account key: %w", err)
	}
	return key, writeFile(file, keyPEM)
}

// CAHash is the hex SHA-256 of the cluster authority's certificate (DER): what a node joins by.
func (p *PKI) CAHash() string {
	sum := sha256.Sum256(p.CA.Cert.Raw)
	return hex.EncodeToString(sum[:])
}

// PublicKeyPEM is the service-account public key.
func (p *PKI) PublicKeyPEM() ([]byte, error) {
	der, err := x509.MarshalPKIXPublicKey(p.ServiceAccount.Public())
	if err != nil {
		return nil, fmt.Errorf("serialise service-account key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), nil
}
