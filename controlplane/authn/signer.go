package authn

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"

	"k8s.io/apiserver/pkg/authentication/serviceaccount"
)

// Signer signs service-account tokens. It is safe for concurrent use.
type Signer struct {
	issuer string
	key    crypto.Signer
	keyID  string
	method jwt.SigningMethod
	now    func() time.Time
}

// NewSigner returns a signer that writes iss and signs with key: RSA of 2048 bits or more (RS256), or ECDSA on P-256,
// P-384 or P-521 (ES256, ES384, ES512).
func NewSigner(issuer string, key crypto.Signer) (*Signer, error) {
	if issuer == "" {
		return nil, errors.New("service-account issuer is empty: give an https URL")
	}
	method, err := methodFor(key.Public())
	if err != nil {
		return nil, err
	}
	id, err := KeyID(key.Public())
	if err != nil {
		return nil, err
	}
	return &Signer{issuer: issuer, key: key, keyID: id, method: method, now: time.Now}, nil
}

// Issuer is the `iss` of every bound token signed here.
func (s *Signer) Issuer() string { return s.issuer }

// Public is the key that verifies what was signed here.
func (s *Signer) Public() crypto.PublicKey { return s.key.Public() }

// Signed is a new token, its identifier (`jti`) and when it ends.
type Signed struct {
	Token   string
	ID      string
	Expires time.Time
}

// Sign makes a bound token, valid from now for spec.Lifetime.
func (s *Signer) Sign(spec TokenSpec) (Signed, error) {
	now := s.now()
	expires := now.Add(spec.Lifetime)
	b := &bound{
		Namespace:      spec.Namespace,
		ServiceAccount: spec.ServiceAccount,
		Pod:            spec.Pod,
		Secret:         spec.Secret,
		Node:           spec.Node,
	}
	if spec.WarnAfter > 0 {
		b.WarnAfter = jwt.NewNumericDate(now.Add(spec.WarnAfter))
	}
	c := claims{
		RegisteredClaims: jwt.RegisteredClaims{
			Issuer:    s.issuer,
			Subject:   serviceaccount.MakeUsername(spec.Namespace, spec.ServiceAccount.Name),
			Audience:  spec.Audiences,
			ExpiresAt: jwt.NewNumericDate(expires),
			NotBefore: jwt.NewNumericDate(now),
			IssuedAt:  jwt.NewNumericDate(now),
			ID:        uuid.NewString(),
		},
		Kubernetes: b,
	}
	token, err := s.sign(c)
	if err != nil {
		return Signed{}, fmt.Errorf("sign token for service account \"%s/%s\": %w", spec.Namespace, spec.ServiceAccount.Name, err)
	}
	return Signed{Token: token, ID: c.ID, Expires: c.ExpiresAt.Time}, nil
}

// SignLegacy makes the token that is kept in a Secret of type kubernetes.io/service-account-token: it never expires and
// lives as long as Secret and account do.
func (s *Signer) SignLegacy(namespace, secretName string, account Ref) (string, error) {
	token, err := s.sign(claims{
		RegisteredClaims: jwt.RegisteredClaims{
			Issuer:  LegacyIssuer,
			Subject: serviceaccount.MakeUsername(namespace, account.Name),
		},
		LegacyNamespace:  namespace,
		LegacySecretName: secretName,
		LegacyName:       account.Name,
		LegacyUID:        account.UID,
	})
	if err != nil {
		return "", fmt.Errorf("sign legacy token for service account \"%s/%s\": %w", namespace, account.Name, err)
	}
	return token, nil
}

func (s *Signer) sign(c claims) (string, error) {
	t := jwt.NewWithClaims(s.method, c)
	delete(t.Header, "typ")
	t.Header["kid"] = s.keyID
	return t.SignedString(s.key)
}

// KeyID names a public key as kube-apiserver does: unpadded base64url of the SHA-256 of its PKIX DER form.
func KeyID(key crypto.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return "", fmt.Errorf("serialise public key: %w", err)
	}
	sum := sha256.Sum256(der)
	return base64.RawURLEncoding.EncodeToString(sum[:]), nil
}

// minRSABits: shorter RSA keys are refused, as NIST SP 800-131A disallows them.
const minRSABits = 2048

func methodFor(key crypto.PublicKey) (jwt.SigningMethod, error) {
	switch k := key.(type) {
	case *rsa.PublicKey:
		if k.N.BitLen() < minRSABits {
			return nil, fmt.Errorf("service-account key is RSA of %d bits: use at least %d", k.N.BitLen(), minRSABits)
		}
		return jwt.SigningMethodRS256, nil
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256():
			return jwt.SigningMethodES256, nil
		case elliptic.P384():
			return jwt.SigningMethodES384, nil
		case elliptic.P521():
			return jwt.SigningMethodES512, nil
		}
		return nil, fmt.Errorf("service-account key is on curve %s: use P-256, P-384 or P-521", k.Curve.Params().Name)
	}
	return nil, fmt.Errorf("service-account key is a %T: use RSA or ECDSA", key)
}
