package bootstrap

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/certificate"
	"k8s.io/klog/v2"

	"github.com/reevehq/reeve/internal/logkey"
)

// ServingConfig of NewServing.
type ServingConfig struct {
	Client   kubernetes.Interface
	NodeName string
	Hostname string
	IPs      []netip.Addr
	Dir      string
	Logger   *slog.Logger
}

// Serving keeps the serving certificate of :10250, signed by the kubelet-serving signer.
type Serving struct {
	m   certificate.Manager
	log *slog.Logger
}

// NewServing opens the store; Run asks for the certificate.
func NewServing(cfg ServingConfig) (*Serving, error) {
	if err := os.MkdirAll(cfg.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("make folder for keys: %w", err)
	}
	store, err := certificate.NewFileStoreWithLogger(klog.Background().V(4), "kubelet-server", cfg.Dir, cfg.Dir, "", "")
	if err != nil {
		return nil, fmt.Errorf("open certificate store: %w", err)
	}
	var ips []net.IP
	for _, ip := range cfg.IPs {
		ips = append(ips, ip.AsSlice())
	}
	m, err := certificate.NewManager(&certificate.Config{
		ClientsetFn: func(*tls.Certificate) (kubernetes.Interface, error) { return cfg.Client, nil },
		GetTemplate: func() *x509.CertificateRequest {
			return &x509.CertificateRequest{Subject: *subject(cfg.NodeName), DNSNames: []string{cfg.Hostname}, IPAddresses: ips}
		},
		SignerName: certificatesv1.KubeletServingSignerName,
		GetUsages: func(any) []certificatesv1.KeyUsage {
			return []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageServerAuth}
		},
		CertificateStore: store,
		Name:             "serving",
	})
	if err != nil {
		return nil, fmt.Errorf("keep serving certificate: %w", err)
	}
	return &Serving{m: m, log: cfg.Logger}, nil
}

// Current is the certificate to serve, nil while there is none.
func (s *Serving) Current() *tls.Certificate { return s.m.Current() }

// Run asks for the certificate and renews it until ctx ends.
func (s *Serving) Run(ctx context.Context) error {
	s.m.Start()
	<-ctx.Done()
	s.m.Stop()
	s.log.Debug("Stopped keeping the serving certificate", logkey.Err, ctx.Err())
	return nil
}
