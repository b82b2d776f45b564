package admission

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

var signingRequests = certificatesv1.Resource("certificatesigningrequests")

// certificateApproval lets only those approve or deny a request who hold the verb approve on its signer.
type certificateApproval struct {
	*admission.Handler
	authz authorizer.Authorizer
}

func newCertificateApproval() admission.Interface {
	return &certificateApproval{Handler: admission.NewHandler(admission.Update)}
}

// SetAuthorizer implements initializer.WantsAuthorizer.
func (p *certificateApproval) SetAuthorizer(a authorizer.Authorizer) { p.authz = a }

// ValidateInitialization implements admission.InitializationValidator.
func (p *certificateApproval) ValidateInitialization() error {
	return required(CertificateApprovalName, map[string]bool{"authorizer": p.authz != nil})
}

// Validate implements admission.ValidationInterface.
func (p *certificateApproval) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if a.GetSubresource() != "approval" || a.GetResource().GroupResource() != signingRequests {
		return nil
	}
	if _, err := objectOf[*certificatesv1.CertificateSigningRequest](a); err != nil {
		return err
	}
	old, err := oldObjectOf[*certificatesv1.CertificateSigningRequest](a)
	if err != nil {
		return err
	}
	if !mayUseSigner(ctx, p.authz, a.GetUserInfo(), "approve", old.Spec.SignerName) {
		return forbid(a, "user not permitted to approve requests with signerName %q", old.Spec.SignerName)
	}
	return nil
}

// certificateSigning lets only those put a certificate or a failure into a request who hold the verb sign on its signer.
type certificateSigning struct {
	*admission.Handler
	authz authorizer.Authorizer
}

func newCertificateSigning() admission.Interface {
	return &certificateSigning{Handler: admission.NewHandler(admission.Update)}
}

// SetAuthorizer implements initializer.WantsAuthorizer.
func (p *certificateSigning) SetAuthorizer(a authorizer.Authorizer) { p.authz = a }

// ValidateInitialization implements admission.InitializationValidator.
func (p *certificateSigning) ValidateInitialization() error {
	return required(CertificateSigningName, map[string]bool{"authorizer": p.authz != nil})
}

// Validate implements admission.ValidationInterface.
func (p *certificateSigning) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if a.GetSubresource() != "status" || a.GetResource().GroupResource() != signingRequests {
		return nil
	}
	csr, err := objectOf[*certificatesv1.CertificateSigningRequest](a)
	if err != nil {
		return err
	}
	old, err := oldObjectOf[*certificatesv1.CertificateSigningRequest](a)
	if err != nil {
		return err
	}
	if equality.Semantic.DeepEqual(old.Status, csr.Status) {
		return nil
	}
	if !mayUseSigner(ctx, p.authz, a.GetUserInfo(), "sign", old.Spec.SignerName) {
		return forbid(a, "user not permitted to sign requests with signerName %q", old.Spec.SignerName)
	}
	return nil
}

// mayUseSigner asks for the verb on the signer itself, then on all signers of its domain.
func mayUseSigner(ctx context.Context, authz authorizer.Authorizer, who user.Info, verb, signer string) bool {
	domain, _, _ := strings.Cut(signer, "/")
	for _, name := range []string{signer, domain + "/*"} {
		decision, _, err := authz.Authorize(ctx, authorizer.AttributesRecord{
			User: who, Verb: verb, Name: name, APIGroup: certificatesv1.GroupName, APIVersion: "*", Resource: "signers",
			ResourceRequest: true,
		})
		if err == nil && decision == authorizer.DecisionAllow {
			return true
		}
	}
	return false
}

// certificateSubject refuses client certificates for the group that is beyond authorization.
type certificateSubject struct{ *admission.Handler }

func newCertificateSubject() admission.Interface {
	return &certificateSubject{admission.NewHandler(admission.Create)}
}

// Validate implements admission.ValidationInterface.
func (p *certificateSubject) Validate(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if !is(a, signingRequests) {
		return nil
	}
	csr, err := objectOf[*certificatesv1.CertificateSigningRequest](a)
	if err != nil {
		return err
	}
	if csr.Spec.SignerName != certificatesv1.KubeAPIServerClientSignerName {
		return nil
	}
	block, _ := pem.Decode(csr.Spec.Request)
	if block == nil {
		return forbid(a, "unable to parse CSR: PEM block type must be CERTIFICATE REQUEST")
	}
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return forbid(a, "unable to parse CSR: %w", err)
	}
	if slices.Contains(request.Subject.Organization, user.SystemPrivilegedGroup) {
		return forbid(a, "use of %s signer with %s group is not allowed", certificatesv1.KubeAPIServerClientSignerName, user.SystemPrivilegedGroup)
	}
	return nil
}
