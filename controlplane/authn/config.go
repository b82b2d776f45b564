package authn

import (
	"crypto"
	"errors"
	"fmt"
	"time"

	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/authenticatorfactory"
	"k8s.io/apiserver/pkg/authentication/group"
	"k8s.io/apiserver/pkg/authentication/request/anonymous"
	"k8s.io/apiserver/pkg/authentication/request/bearertoken"
	"k8s.io/apiserver/pkg/authentication/request/headerrequest"
	requestunion "k8s.io/apiserver/pkg/authentication/request/union"
	"k8s.io/apiserver/pkg/authentication/request/websocket"
	"k8s.io/apiserver/pkg/authentication/request/x509"
	tokenunion "k8s.io/apiserver/pkg/authentication/token/union"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
)

// Config says which proofs of identity the API server accepts. A zero field switches its proof off.
type Config struct {
	// ClientCA verifies client certificates: CN is the user name, each O a group.
	ClientCA dynamiccertificates.CAContentProvider
	// RequestHeader trusts the X-Remote-* headers of a front proxy that proves itself by certificate.
	RequestHeader *authenticatorfactory.RequestHeaderConfig

	// ServiceAccountKeys are the public keys that may have signed a service-account token (the signer's and retired
	// ones). Needs Issuers, APIAudiences and Objects.
	ServiceAccountKeys []crypto.PublicKey
	// Issuers are the accepted `iss` values; the first is the one that the Signer writes.
	Issuers []string
	// APIAudiences are the names of this API server; a token must be meant for one of them unless the caller of
	// TokenReview names others.
	APIAudiences authenticator.Audiences
	// Objects finds the live objects that tokens are bound to.
	Objects Objects

	// BootstrapTokens finds the Secrets of bootstrap tokens, by name, in kube-system.
	BootstrapTokens SecretGetter

	// Anonymous lets requests without any credential through as system:anonymous in system:unauthenticated. A request
	// with a bad credential is still refused.
	Anonymous bool

	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// New builds the request authenticator. Every authenticated user is also put in system:authenticated.
// Order: front proxy, certificate, service-account token, bootstrap token, anonymous.
func New(c Config) (authenticator.Request, error) {
	if c.Now == nil {
		c.Now = time.Now
	}
	var requests []authenticator.Request
	if h := c.RequestHeader; h != nil {
		requests = append(requests, headerrequest.NewDynamicVerifyOptionsSecure(
			h.CAContentProvider.VerifyOptions, h.AllowedClientNames,
			h.UsernameHeaders, h.UIDHeaders, h.GroupHeaders, h.ExtraHeaderPrefixes))
	}
	if c.ClientCA != nil {
		requests = append(requests, x509.NewDynamic(c.ClientCA.VerifyOptions, x509.CommonNameUserConversion))
	}

	var tokens []authenticator.Token
	if len(c.ServiceAccountKeys) > 0 {
		sa, err := newServiceAccountAuthenticator(c)
		if err != nil {
			return nil, fmt.Errorf("build service-account token authenticator: %w", err)
		}
		tokens = append(tokens, sa)
	}
	if c.BootstrapTokens != nil {
		tokens = append(tokens, authenticator.WrapAudienceAgnosticToken(c.APIAudiences,
			&bootstrapAuthenticator{secrets: c.BootstrapTokens, now: c.Now}))
	}
	if len(tokens) > 0 {
		t := tokenunion.New(tokens...)
		requests = append(requests, bearertoken.New(t), websocket.NewProtocolAuthenticator(t))
	}

	if len(requests) == 0 {
		if !c.Anonymous {
			return nil, errors.New("no way to authenticate is configured: set ClientCA, ServiceAccountKeys, BootstrapTokens or Anonymous")
		}
		return anonymous.NewAuthenticator(nil), nil
	}
	known := group.NewAuthenticatedGroupAdder(requestunion.New(requests...))
	if !c.Anonymous {
		return known, nil
	}
	return requestunion.NewFailOnError(known, anonymous.NewAuthenticator(nil)), nil
}
