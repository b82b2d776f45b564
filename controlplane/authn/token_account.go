package authn

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	tokenjwt "k8s.io/apiserver/pkg/authentication/token/jwt"
	"k8s.io/utils/lru"
)

const (
	// deletionLeeway is how long after its deletion timestamp an object still backs its tokens: 60 s, as upstream, so
	// that a terminating pod can end its work.
	deletionLeeway = time.Minute
	// clockLeeway is tolerated between the signer's clock and ours (several servers sign).
	clockLeeway = 10 * time.Second
	// verifiedCap bounds the cache of checked signatures: a token each for 4096 pods, about 4 MB.
	verifiedCap = 4096

	staleTokenAnnotation  = "authentication.k8s.io/stale-token"
	legacyTokenAnnotation = "authentication.k8s.io/legacy-token"
)

// accountAuthenticator checks service-account tokens.
//
// Only the signature check is cached. What a token is bound to is looked up at every request, so a token dies with its
// pod at once, where a cache of whole answers (upstream's, 10 s) would keep it alive.
type accountAuthenticator struct {
	issuers   []string
	audiences authenticator.Audiences
	objects   Objects
	now       func() time.Time
	keys      map[string]crypto.PublicKey // by KeyID
	parser    *jwt.Parser
	verified  *lru.Cache // sha256 of the token → *claims
}

func newServiceAccountAuthenticator(c Config) (*accountAuthenticator, error) {
	if len(c.Issuers) == 0 {
		return nil, errors.New("Issuers is empty: give the service-account issuer")
	}
	if len(c.APIAudiences) == 0 {
		return nil, errors.New("APIAudiences is empty: give the issuer as audience at least")
	}
	if c.Objects == nil {
		return nil, errors.New("Objects is nil: tokens cannot be checked against live objects")
	}
	a := &accountAuthenticator{
		issuers:   append(slices.Clone(c.Issuers), LegacyIssuer),
		audiences: c.APIAudiences,
		objects:   c.Objects,
		now:       c.Now,
		keys:      map[string]crypto.PublicKey{},
		parser: jwt.NewParser(
			jwt.WithValidMethods([]string{"RS256", "RS384", "RS512", "ES256", "ES384", "ES512"}),
			jwt.WithoutClaimsValidation()),
		verified: lru.New(verifiedCap),
	}
	for _, k := range c.ServiceAccountKeys {
		if _, err := methodFor(k); err != nil {
			return nil, err
		}
		id, err := KeyID(k)
		if err != nil {
			return nil, err
		}
		a.keys[id] = k
	}
	return a, nil
}

// AuthenticateToken has no opinion on tokens that we did not issue, and refuses those of ours that do not hold.
func (a *accountAuthenticator) AuthenticateToken(ctx context.Context, token string) (*authenticator.Response, bool, error) {
	if !a.ours(token) {
		return nil, false, nil
	}
	c, err := a.verify(token)
	if err != nil {
		return nil, false, err
	}

	legacy := c.Issuer == LegacyIssuer
	tokenAudiences := authenticator.Audiences(c.Audience)
	if len(tokenAudiences) == 0 && legacy {
		tokenAudiences = a.audiences
	}
	wanted, ok := authenticator.AudiencesFrom(ctx)
	if !ok {
		wanted = a.audiences
	}
	audiences := tokenAudiences.Intersect(wanted)
	if len(audiences) == 0 && len(a.audiences) != 0 {
		return nil, false, fmt.Errorf("token audiences %q is invalid for the target audiences %q", tokenAudiences, wanted)
	}

	var info *serviceaccount.ServiceAccountInfo
	if legacy {
		info, err = a.checkLegacy(ctx, token, c)
	} else {
		info, err = a.checkBound(ctx, c)
	}
	if err != nil {
		return nil, false, err
	}
	return &authenticator.Response{User: info.UserInfo(), Audiences: audiences}, true, nil
}

// ours looks at the unverified issuer, so that foreign tokens cost no signature check and other authenticators get
// their turn.
func (a *accountAuthenticator) ours(token string) bool {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return false
	}
	body, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return false
	}
	var c struct {
		Issuer string `json:"iss"`
	}
	return json.Unmarshal(body, &c) == nil && slices.Contains(a.issuers, c.Issuer)
}

// verify returns the claims of a token with a good signature that is in force now.
func (a *accountAuthenticator) verify(token string) (*claims, error) {
	sum := sha256.Sum256([]byte(token))
	var c *claims
	if v, ok := a.verified.Get(sum); ok {
		c = v.(*claims)
	} else {
		c = &claims{}
		if _, err := a.parser.ParseWithClaims(token, c, a.keysFor); err != nil {
			return nil, fmt.Errorf("service account token is invalid: %w", err)
		}
		a.verified.Add(sum, c)
	}
	now := a.now()
	switch {
	case c.Issuer == LegacyIssuer:
	case c.ExpiresAt == nil:
		return nil, errors.New("service account token has no expiry")
	case now.After(c.ExpiresAt.Add(clockLeeway)):
		return nil, errors.New("service account token has expired")
	case c.NotBefore != nil && now.Add(clockLeeway).Before(c.NotBefore.Time):
		return nil, errors.New("service account token is not valid yet")
	}
	return c, nil
}

// keysFor offers the key that the header names, or all of them: older tokens name none.
func (a *accountAuthenticator) keysFor(t *jwt.Token) (any, error) {
	if id, _ := t.Header["kid"].(string); id != "" {
		k, ok := a.keys[id]
		if !ok {
			return nil, errors.New("signed by an unknown key")
		}
		return k, nil
	}
	set := jwt.VerificationKeySet{}
	for _, k := range a.keys {
		set.Keys = append(set.Keys, k)
	}
	return set, nil
}

func (a *accountAuthenticator) checkBound(ctx context.Context, c *claims) (*serviceaccount.ServiceAccountInfo, error) {
	b := c.Kubernetes
	if b == nil || b.Namespace == "" || b.ServiceAccount.Name == "" || b.ServiceAccount.UID == "" {
		return nil, errors.New("service account token lacks its kubernetes.io claim")
	}
	if want := serviceaccount.MakeUsername(b.Namespace, b.ServiceAccount.Name); c.Subject != want {
		return nil, fmt.Errorf("service account token is of subject %q but claims %q", c.Subject, want)
	}
	info := &serviceaccount.ServiceAccountInfo{
		Namespace:    b.Namespace,
		Name:         b.ServiceAccount.Name,
		UID:          b.ServiceAccount.UID,
		CredentialID: tokenjwt.CredentialIDForJTI(c.ID),
	}
	sa, err := a.objects.ServiceAccount(ctx, b.Namespace, b.ServiceAccount.Name)
	if err := a.alive("service account", b.ServiceAccount, sa, err); err != nil {
		return nil, err
	}
	if b.Secret != nil {
		secret, err := a.objects.Secret(ctx, b.Namespace, b.Secret.Name)
		if err := a.alive("secret", *b.Secret, secret, err); err != nil {
			return nil, err
		}
	}
	switch {
	case b.Pod != nil:
		pod, err := a.objects.Pod(ctx, b.Namespace, b.Pod.Name)
		if err := a.alive("pod", *b.Pod, pod, err); err != nil {
			return nil, err
		}
		info.PodName, info.PodUID = b.Pod.Name, b.Pod.UID
		if b.Node != nil {
			info.NodeName, info.NodeUID = b.Node.Name, b.Node.UID
		}
	case b.Node != nil:
		node, err := a.objects.Node(ctx, b.Node.Name)
		if err := a.alive("node", *b.Node, node, err); err != nil {
			return nil, err
		}
		info.NodeName, info.NodeUID = b.Node.Name, b.Node.UID
	}
	if b.WarnAfter != nil && a.now().After(b.WarnAfter.Time) {
		audit.AddAuditAnnotation(ctx, staleTokenAnnotation, fmt.Sprintf("subject: %s, seconds after warning threshold: %d",
			c.Subject, int64(a.now().Sub(b.WarnAfter.Time).Seconds())))
	}
	return info, nil
}

// alive says whether the object that a token is bound to still backs it.
func (a *accountAuthenticator) alive(kind string, ref Ref, obj metav1.Object, err error) error {
	switch {
	case err != nil && gone(err):
		return fmt.Errorf("service account token has been invalidated: %s %q does not exist", kind, ref.Name)
	case err != nil:
		return fmt.Errorf("look up %s %q of a service account token: %w", kind, ref.Name, err)
	case ref.UID != "" && string(obj.GetUID()) != ref.UID:
		return fmt.Errorf("service account token has been invalidated: %s %q has another UID than the token claims", kind, ref.Name)
	}
	if d := obj.GetDeletionTimestamp(); d != nil && a.now().After(d.Add(deletionLeeway)) {
		return fmt.Errorf("service account token has been invalidated: %s %q has been deleted", kind, ref.Name)
	}
	return nil
}

func (a *accountAuthenticator) checkLegacy(ctx context.Context, token string, c *claims) (*serviceaccount.ServiceAccountInfo, error) {
	ns, ref := c.LegacyNamespace, Ref{Name: c.LegacyName, UID: c.LegacyUID}
	if ns == "" || ref.Name == "" || ref.UID == "" || c.LegacySecretName == "" {
		return nil, errors.New("service account token lacks its legacy claims")
	}
	if c.Subject != serviceaccount.MakeUsername(ns, ref.Name) {
		return nil, fmt.Errorf("service account token is of subject %q but claims account \"%s/%s\"", c.Subject, ns, ref.Name)
	}
	secret, err := a.objects.Secret(ctx, ns, c.LegacySecretName)
	if err := a.alive("secret", Ref{Name: c.LegacySecretName}, secret, err); err != nil {
		return nil, err
	}
	if secret.DeletionTimestamp != nil ||
		subtle.ConstantTimeCompare(secret.Data[corev1.ServiceAccountTokenKey], []byte(token)) != 1 {
		return nil, errors.New("service account token has been invalidated: its secret no longer holds it")
	}
	sa, err := a.objects.ServiceAccount(ctx, ns, ref.Name)
	if err := a.alive("service account", ref, sa, err); err != nil {
		return nil, err
	}
	audit.AddAuditAnnotation(ctx, legacyTokenAnnotation, c.Subject)
	return &serviceaccount.ServiceAccountInfo{Namespace: ns, Name: ref.Name, UID: ref.UID}, nil
}
