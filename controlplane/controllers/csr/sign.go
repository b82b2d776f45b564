package csr

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"time"

	certv1 "k8s.io/api/certificates/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	certlisters "k8s.io/client-go/listers/certificates/v1"

	"github.com/reevehq/reeve/controlplane/controllers/loop"
)

const (
	// backdate forgives clocks that are behind. Certificates that hold for less than fifty minutes are backdated by a tenth
	// of their time: who renews at a share of a certificate's whole life would else renew a short one without end.
	backdate = 5 * time.Minute
	// shortest is the least that spec.expirationSeconds may ask for.
	shortest = 10 * time.Minute
)

// Signer signs approved requests.
type Signer struct {
	*loop.Loop
	client   kubernetes.Interface
	requests certlisters.CertificateSigningRequestLister
	ca       *x509.Certificate
	key      crypto.Signer
	most     time.Duration
}

// NewSigner makes the controller; certificates hold for at most that long, and never longer than the authority's own.
func NewSigner(env loop.Env, ca *x509.Certificate, key crypto.Signer, most time.Duration) (*Signer, error) {
	inf := env.Informers.Certificates().V1().CertificateSigningRequests()
	s := &Signer{client: env.Client, requests: inf.Lister(), ca: ca, key: key, most: most}
	s.Loop = loop.New("certificatesigningrequest-signing-controller", env.Log, 2, s.reconcile)
	s.Watch(inf.Informer())
	return s, nil
}

func (s *Signer) reconcile(ctx context.Context, name string) error {
	r, err := s.requests.Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if !has(r, certv1.CertificateApproved) || has(r, certv1.CertificateDenied) || has(r, certv1.CertificateFailed) || len(r.Status.Certificate) > 0 {
		return nil
	}
	switch r.Spec.SignerName {
	case certv1.KubeAPIServerClientSignerName, certv1.KubeAPIServerClientKubeletSignerName, certv1.KubeletServingSignerName, "kubernetes.io/legacy-unknown":
	default:
		return nil // somebody else's
	}
	next := r.DeepCopy()
	cert, err := s.sign(r, time.Now())
	if err != nil {
		next.Status.Conditions = append(next.Status.Conditions, certv1.CertificateSigningRequestCondition{
			Type: certv1.CertificateFailed, Status: v1.ConditionTrue, Reason: "SignerValidationFailure", Message: err.Error(),
		})
	} else {
		next.Status.Certificate = cert
	}
	ctx, cancel := context.WithTimeout(ctx, loop.CallTimeout)
	defer cancel()
	if _, err := s.client.CertificatesV1().CertificateSigningRequests().UpdateStatus(ctx, next, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("write certificate of request %q: %w", name, err)
	}
	return nil
}

// sign makes the certificate that the request describes, PEM encoded.
func (s *Signer) sign(r *certv1.CertificateSigningRequest, now time.Time) ([]byte, error) {
	req, err := parse(r.Spec.Request)
	if err != nil {
		return nil, err
	}
	if err := signable(r.Spec.SignerName, req, r.Spec.Usages); err != nil {
		return nil, err
	}
	key, ext, err := usages(r.Spec.Usages)
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("draw serial number: %w", err)
	}
	life := lifetime(r.Spec.ExpirationSeconds, s.most)
	until := now.Add(life)
	if until.After(s.ca.NotAfter) {
		until = s.ca.NotAfter
	}
	if !until.After(now) {
		return nil, fmt.Errorf("the signing authority expired at %s", s.ca.NotAfter)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: serial, Subject: req.Subject, DNSNames: req.DNSNames, IPAddresses: req.IPAddresses,
		EmailAddresses: req.EmailAddresses, URIs: req.URIs, NotBefore: now.Add(-min(backdate, life/10)), NotAfter: until,
		KeyUsage: key, ExtKeyUsage: ext, BasicConstraintsValid: true,
	}, s.ca, req.PublicKey, s.key)
	if err != nil {
		return nil, fmt.Errorf("sign certificate: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}

func lifetime(asked *int32, most time.Duration) time.Duration {
	if asked == nil {
		return most
	}
	return min(max(time.Duration(*asked)*time.Second, shortest), most)
}

var keyUsages = map[certv1.KeyUsage]x509.KeyUsage{
	certv1.UsageSigning: x509.KeyUsageDigitalSignature, certv1.UsageDigitalSignature: x509.KeyUsageDigitalSignature,
	certv1.UsageContentCommitment: x509.KeyUsageContentCommitment, certv1.UsageKeyEncipherment: x509.KeyUsageKeyEncipherment,
	certv1.UsageKeyAgreement: x509.KeyUsageKeyAgreement, certv1.UsageDataEncipherment: x509.KeyUsageDataEncipherment,
	certv1.UsageCertSign: x509.KeyUsageCertSign, certv1.UsageCRLSign: x509.KeyUsageCRLSign,
	certv1.UsageEncipherOnly: x509.KeyUsageEncipherOnly, certv1.UsageDecipherOnly: x509.KeyUsageDecipherOnly,
}

var extUsages = map[certv1.KeyUsage]x509.ExtKeyUsage{
	certv1.UsageAny: x509.ExtKeyUsageAny, certv1.UsageServerAuth: x509.ExtKeyUsageServerAuth, certv1.UsageClientAuth: x509.ExtKeyUsageClientAuth,
	certv1.UsageCodeSigning: x509.ExtKeyUsageCodeSigning, certv1.UsageEmailProtection: x509.ExtKeyUsageEmailProtection,
	certv1.UsageSMIME: x509.ExtKeyUsageEmailProtection, certv1.UsageIPsecEndSystem: x509.ExtKeyUsageIPSECEndSystem,
	certv1.UsageIPsecTunnel: x509.ExtKeyUsageIPSECTunnel, certv1.UsageIPsecUser: x509.ExtKeyUsageIPSECUser,
	certv1.UsageTimestamping: x509.ExtKeyUsageTimeStamping, certv1.UsageOCSPSigning: x509.ExtKeyUsageOCSPSigning,
	certv1.UsageMicrosoftSGC: x509.ExtKeyUsageMicrosoftServerGatedCrypto, certv1.UsageNetscapeSGC: x509.ExtKeyUsageNetscapeServerGatedCrypto,
}

func usages(list []certv1.KeyUsage) (key x509.KeyUsage, ext []x509.ExtKeyUsage, err error) {
	for _, u := range list {
		if k, ok := keyUsages[u]; ok {
			key |= k
		} else if e, ok := extUsages[u]; ok {
			ext = append(ext, e)
		} else {
			return 0, nil, fmt.Errorf("spec.usages: unknown usage %q", u)
		}
	}
	return key, ext, nil
}
