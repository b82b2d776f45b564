package agent

import (
	"context"
	"crypto/tls"
	"fmt"
	"path/filepath"
	"sync"

	"github.com/reevehq/reeve/agent/bootstrap"
	"github.com/reevehq/reeve/agent/server"
	"github.com/reevehq/reeve/internal/logkey"
)

// servingCert answers for the certificate of :10250: the given files', else the API server's signer's once it is there,
// until then and without one a self-signed one.
type servingCert struct {
	cfg  *Config
	file func(*tls.ClientHelloInfo) (*tls.Certificate, error)

	mu   sync.Mutex
	own  *tls.Certificate
	from *bootstrap.Serving
}

func newServingCert(cfg *Config) (*servingCert, error) {
	s := &servingCert{cfg: cfg}
	if cfg.Port <= 0 {
		return s, nil
	}
	if cfg.TLSCertFile != "" {
		f, err := server.FileCertificate(cfg.TLSCertFile, cfg.TLSPrivateKeyFile)
		if err != nil {
			return nil, err
		}
		s.file = f
		return s, nil
	}
	if cfg.ServerTLSBootstrap && cfg.Client != nil {
		b, err := bootstrap.NewServing(bootstrap.ServingConfig{
			Client: cfg.Client, NodeName: cfg.NodeName, Hostname: cfg.Hostname, IPs: cfg.NodeIPs,
			Dir: cfg.CertDir, Logger: cfg.Logger,
		})
		if err != nil {
			return nil, err
		}
		s.from = b
	}
	hosts := []string{cfg.Hostname, cfg.NodeName}
	for _, ip := range cfg.NodeIPs {
		hosts = append(hosts, ip.String())
	}
	own, err := server.SelfSigned(hosts...)
	if err != nil {
		return nil, fmt.Errorf("make self-signed serving certificate: %w", err)
	}
	if s.from == nil {
		// Kept, so that who trusts it need not trust another after a restart. Where it cannot be, this one does.
		s.file, err = server.KeptSelfSigned(filepath.Join(cfg.CertDir, "kubelet.crt"), filepath.Join(cfg.CertDir, "kubelet.key"), own)
		if err != nil {
			cfg.Logger.Warn("Could not keep the self-signed serving certificate", logkey.Err, err)
		}
	}
	s.own = own
	return s, nil
}

func (s *servingCert) get(h *tls.ClientHelloInfo) (*tls.Certificate, error) {
	if s.file != nil {
		return s.file(h)
	}
	if s.from != nil {
		if c := s.from.Current(); c != nil {
			return c, nil
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.own, nil
}

// run asks for the certificate and renews it; without an API server's signer there is nothing to do.
func (s *servingCert) run(ctx context.Context) error {
	if s.from == nil {
		<-ctx.Done()
		return nil
	}
	if err := s.from.Run(ctx); err != nil {
		s.cfg.Logger.Warn("Stopped renewing the serving certificate", logkey.Err, err)
	}
	<-ctx.Done()
	return nil
}
