package csr

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"time"

	certv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	certlisters "k8s.io/client-go/listers/certificates/v1"

	"github.com/reevehq/reeve/controlplane/controllers/loop"
)

// How long requests are kept: upstream's times.
const (
	keepDecided = time.Hour
	keepPending = 24 * time.Hour
)

// Cleaner deletes requests that have served their purpose.
type Cleaner struct {
	*loop.Loop
	client   kubernetes.Interface
	requests certlisters.CertificateSigningRequestLister
}

// NewCleaner makes the controller.
func NewCleaner(env loop.Env) (*Cleaner, error) {
	inf := env.Informers.Certificates().V1().CertificateSigningRequests()
	c := &Cleaner{client: env.Client, requests: inf.Lister()}
	c.Loop = loop.New("certificatesigningrequest-cleaner-controller", env.Log, 1, c.reconcile)
	c.Watch(inf.Informer())
	return c, nil
}

// deadline is when the request is to be deleted.
func deadline(r *certv1.CertificateSigningRequest) time.Time {
	at := r.CreationTimestamp.Add(keepPending)
	for _, cond := range r.Status.Conditions {
		since := cond.LastUpdateTime
		if since.IsZero() {
			since = r.CreationTimestamp
		}
		switch cond.Type {
		case certv1.CertificateApproved, certv1.CertificateDenied, certv1.CertificateFailed:
			at = since.Add(keepDecided)
		}
	}
	if block, _ := pem.Decode(r.Status.Certificate); block != nil {
		if cert, err := x509.ParseCertificate(block.Bytes); err == nil && cert.NotAfter.Before(at) {
			at = cert.NotAfter
		}
	}
	return at
}

func (c *Cleaner) reconcile(ctx context.Context, name string) error {
	r, err := c.requests.Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if left := time.Until(deadline(r)); left > 0 {
		c.AddAfter(name, left)
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, loop.CallTimeout)
	defer cancel()
	err = c.client.CertificatesV1().CertificateSigningRequests().Delete(ctx, name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(r.UID))})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete old request %q: %w", name, err)
	}
	return nil
}
