package server

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

const (
	// reviewTimeout bounds one TokenReview or SubjectAccessReview.
	reviewTimeout = 10 * time.Second
	// tokenTTL is KubeletConfiguration's authentication.webhook.cacheTTL; refusals are kept shorter, so that a token
	// which becomes valid works soon.
	tokenTTL        = 2 * time.Minute
	tokenRefusalTTL = 10 * time.Second
	// cacheSize bounds each cache; a full one is emptied.
	cacheSize = 1024
)

// user is who asks.
type user struct {
	Name   string
	UID    string
	Groups []string
	Extra  map[string]authenticationv1.ExtraValue
}

var errNoCredentials = errors.New("the request carries neither a client certificate nor a bearer token")

// authenticator finds out who asks: by client certificate first, then by bearer token.
type authenticator struct {
	roots     func() *x509.CertPool
	client    kubernetes.Interface
	anonymous bool
	noTokens  bool
	tokens    *cache[[sha256.Size]byte, tokenAnswer]
}

type tokenAnswer struct {
	user user
	ok   bool
}

func newAuthenticator(cfg Config) *authenticator {
	return &authenticator{
		roots: cfg.ClientCAs, client: cfg.Client, anonymous: cfg.Anonymous, noTokens: cfg.NoTokens,
		tokens: newCache[[sha256.Size]byte, tokenAnswer](),
	}
}

// anonymousUser is who asks without credentials, where that is allowed.
var anonymousUser = user{Name: "system:anonymous", Groups: []string{"system:unauthenticated"}}

// authenticate answers who asks. No credentials, and credentials that prove nothing, are errors; with anonymous, no
// credentials and an unknown certificate are the anonymous user, and a wrong token stays an error, as in kubelet.
func (a *authenticator) authenticate(r *http.Request) (user, error) {
	err := errNoCredentials
	if r.TLS != nil && len(r.TLS.PeerCertificates) > 0 && a.roots != nil {
		u, cerr := a.byCertificate(r.TLS.PeerCertificates)
		if cerr == nil {
			return u, nil
		}
		err = cerr
	}
	scheme, token, ok := strings.Cut(strings.TrimSpace(r.Header.Get("Authorization")), " ")
	token = strings.TrimSpace(token)
	if !ok || !strings.EqualFold(scheme, "Bearer") || token == "" {
		if a.anonymous {
			return anonymousUser, nil
		}
		return user{}, err
	}
	if a.noTokens {
		return user{}, errors.New("bearer tokens are turned off (authentication.webhook.enabled)")
	}
	return a.byToken(r.Context(), token)
}

func (a *authenticator) byCertificate(chain []*x509.Certificate) (user, error) {
	opts := x509.VerifyOptions{Roots: a.roots(), Intermediates: x509.NewCertPool(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	if opts.Roots == nil {
		return user{}, errors.New("verify client certificate: no client CA is loaded") // a nil pool would mean the system's
	}
	for _, c := range chain[1:] {
		opts.Intermediates.AddCert(c)
	}
	leaf := chain[0]
	if _, err := leaf.Verify(opts); err != nil {
		return user{}, fmt.Errorf("verify client certificate of %q: %w", leaf.Subject.CommonName, err)
	}
	if leaf.Subject.CommonName == "" {
		return user{}, errors.New("verify client certificate: its subject has no common name")
	}
	return user{Name: leaf.Subject.CommonName, Groups: append(leaf.Subject.Organization[:len(leaf.Subject.Organization):len(leaf.Subject.Organization)], "system:authenticated")}, nil
}

func (a *authenticator) byToken(ctx context.Context, token string) (user, error) {
	if a.client == nil {
		return user{}, errors.New("bearer tokens need an API server to review them, and this node runs without one")
	}
	key := sha256.Sum256([]byte(token))
	if got, ok := a.tokens.get(key); ok {
		if !got.ok {
			return user{}, errors.New("the bearer token is not valid")
		}
		return got.user, nil
	}
	ctx, cancel := context.WithTimeout(ctx, reviewTimeout)
	defer cancel()
	res, err := a.client.AuthenticationV1().TokenReviews().Create(ctx,
		&authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token}}, metav1.CreateOptions{})
	if err != nil {
		return user{}, fmt.Errorf("review bearer token: %w", err)
	}
	if !res.Status.Authenticated {
		a.tokens.put(key, tokenAnswer{}, tokenRefusalTTL)
		return user{}, fmt.Errorf("the bearer token is not valid: %s", res.Status.Error)
	}
	u := user{Name: res.Status.User.Username, UID: res.Status.User.UID, Groups: res.Status.User.Groups, Extra: res.Status.User.Extra}
	a.tokens.put(key, tokenAnswer{u, true}, tokenTTL)
	return u, nil
}

// cache keeps answers for a while. Its values are small and its keys bounded; expiry is looked at on reading.
type cache[K comparable, V any] struct {
	mu sync.Mutex
	m  map[K]cached[V]
}

type cached[V any] struct {
	v     V
	until time.Time
}

func newCache[K comparable, V any]() *cache[K, V] { return &cache[K, V]{m: map[K]cached[V]{}} }

func (c *cache[K, V]) get(k K) (V, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e, ok := c.m[k]
	if !ok || time.Now().After(e.until) {
		delete(c.m, k)
		var zero V
		return zero, false
	}
	return e.v, true
}

func (c *cache[K, V]) put(k K, v V, ttl time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.m) >= cacheSize {
		clear(c.m)
	}
	c.m[k] = cached[V]{v, time.Now().Add(ttl)}
}
