package bootstrap

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509/pkix"
	"fmt"
	"log/slog"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/certificate/csr"
	"k8s.io/client-go/util/keyutil"

	"github.com/reevehq/reeve/internal/logkey"
)

const (
	// retryFirst doubles to retryMax while the server cannot be reached.
	retryFirst = 50 * time.Millisecond
	retryMax   = 2 * time.Second
	// tellAfter is how often a wait that goes on is told of.
	tellAfter = 30 * time.Second
	// signTimeout bounds the wait for somebody to approve and sign the request; then it is made anew.
	signTimeout = 15 * time.Minute
)

var clientUsages = []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth}

func nodeUser(name string) string { return "system:node:" + name }

func subject(node string) *pkix.Name {
	return &pkix.Name{CommonName: nodeUser(node), Organization: []string{"system:nodes"}}
}

// isRefused tells errors that another try does not heal.
func isRefused(err error) bool {
	return apierrors.IsUnauthorized(err) || apierrors.IsForbidden(err) || apierrors.IsInvalid(err)
}

// request has a client certificate for the node signed, asked for with client, and returns it and its key. It waits for a
// server that does not answer and for somebody who approves, until ctx ends; a refusal is an error at once.
func request(ctx context.Context, client kubernetes.Interface, node string, log *slog.Logger) (certPEM, keyPEM []byte, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make key: %w", err)
	}
	if keyPEM, err = keyutil.MarshalPrivateKeyToPEM(key); err != nil {
		return nil, nil, fmt.Errorf("encode key: %w", err)
	}
	req, err := cert.MakeCSR(key, subject(node), nil, nil)
	if err != nil {
		return nil, nil, fmt.Errorf("make certificate request: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, signTimeout)
	defer cancel()
	told := time.Now()
	for delay := retryFirst; ; delay = min(delay*2, retryMax) {
		name, uid, err := csr.RequestCertificateWithContext(ctx, client, req, "", certificatesv1.KubeAPIServerClientKubeletSignerName, nil, clientUsages, key)
		if err == nil {
			if certPEM, err = csr.WaitForCertificate(ctx, client, name, uid); err != nil {
				return nil, nil, fmt.Errorf("wait for certificate request %q of node %q to be approved and signed: %w", name, node, err)
			}
			return certPEM, keyPEM, nil
		}
		if ctx.Err() != nil || isRefused(err) {
			return nil, nil, fmt.Errorf("ask for a certificate for node %q: %w", node, err)
		}
		if time.Since(told) > tellAfter {
			told = time.Now()
			log.Warn("Waiting for the API server to take the request for a certificate", logkey.Err, err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(delay):
		}
	}
}
