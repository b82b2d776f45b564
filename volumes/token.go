package volumes

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	authv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
)

const (
	// A token is renewed after this part of its life, or after tokenMaxAge, whichever comes first, as kubelet does. The
	// jitter keeps the tokens of pods that were made together from all being renewed at once.
	tokenLifePart = 0.8
	tokenMaxAge   = 24 * time.Hour
	tokenJitter   = 10 * time.Second
	// tokenRetryFirst doubles to tokenRetryMax between requests that were refused: some 600 ms in all.
	tokenRetryFirst = 5 * time.Millisecond
	tokenRetryMax   = 320 * time.Millisecond
	// defaultTokenSeconds of core/v1.
	defaultTokenSeconds int64 = 3600
)

// tokenCache holds the tokens in use, so that a pass for another reason does not ask for new ones.
type tokenCache struct {
	src Tokens

	mu     sync.Mutex
	tokens map[tokenKey]heldToken
}

type tokenKey struct {
	pod      types.UID
	audience string
	seconds  int64
	path     string
}

type heldToken struct {
	token   string
	renewAt time.Time
	expires time.Time
}

func newTokenCache(src Tokens) *tokenCache {
	return &tokenCache{src: src, tokens: map[tokenKey]heldToken{}}
}

// get answers a token that is bound to the pod, and when it is to be renewed. While a renewal fails, a token that is
// still valid is served, and the next try is due soon.
func (c *tokenCache) get(ctx context.Context, pod *corev1.Pod, src *corev1.ServiceAccountTokenProjection) (string, time.Time, error) {
	if c.src == nil {
		return "", time.Time{}, errors.New("this node runs without an API server, which makes service account tokens")
	}
	seconds := secondsOf(src)
	k := keyOf(pod, src)
	now := time.Now()
	c.mu.Lock()
	held, ok := c.tokens[k]
	c.mu.Unlock()
	if ok && now.Before(held.renewAt) {
		return held.token, held.renewAt, nil
	}
	name := pod.Spec.ServiceAccountName
	if name == "" {
		name = "default"
	}
	tr := &authv1.TokenRequest{Spec: authv1.TokenRequestSpec{
		ExpirationSeconds: &seconds,
		BoundObjectRef:    &authv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID},
	}}
	if src.Audience != "" {
		tr.Spec.Audiences = []string{src.Audience}
	}
	got, err := c.create(ctx, pod.Namespace, name, tr)
	if err != nil {
		if ok && now.Before(held.expires) {
			return held.token, now.Add(tokenJitter + rand.N(tokenJitter)), nil
		}
		return "", time.Time{}, err
	}
	if got.Status.Token == "" {
		return "", time.Time{}, errors.New("the API server answered an empty token")
	}
	held = heldToken{token: got.Status.Token, expires: got.Status.ExpirationTimestamp.Time,
		renewAt: renewAt(now, got.Status.ExpirationTimestamp.Time, rand.N(tokenJitter))}
	c.mu.Lock()
	c.tokens[k] = held
	c.mu.Unlock()
	return held.token, held.renewAt, nil
}

func secondsOf(src *corev1.ServiceAccountTokenProjection) int64 {
	if src.ExpirationSeconds != nil {
		return *src.ExpirationSeconds
	}
	return defaultTokenSeconds
}

func keyOf(pod *corev1.Pod, src *corev1.ServiceAccountTokenProjection) tokenKey {
	return tokenKey{pod.UID, src.Audience, secondsOf(src), src.Path}
}

// adopt takes over the token that an earlier process left in the volume, so that a restart of the agent neither asks the
// API server for a token a pod nor changes a file. A token that is not this pod's, or is due, is left for get to replace.
func (c *tokenCache) adopt(pod *corev1.Pod, src *corev1.ServiceAccountTokenProjection, read func() ([]byte, error)) {
	k := keyOf(pod, src)
	c.mu.Lock()
	_, known := c.tokens[k]
	c.mu.Unlock()
	if known || c.src == nil {
		return
	}
	data, err := read()
	if err != nil {
		return // no volume yet
	}
	held, ok := parseToken(string(data), pod, src)
	if !ok || !time.Now().Before(held.renewAt) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.tokens[k] = held
}

// claims are those of a service account token that say whose it is and how long it lasts.
type claims struct {
	IssuedAt   int64           `json:"iat"`
	Expires    int64           `json:"exp"`
	Audience   json.RawMessage `json:"aud"`
	Kubernetes struct {
		Namespace string `json:"namespace"`
		Pod       struct {
			UID string `json:"uid"`
		} `json:"pod"`
		ServiceAccount struct {
			Name string `json:"name"`
		} `json:"serviceaccount"`
		// WarnAfter is the expiry that was asked for, where the API server extended it.
		WarnAfter int64 `json:"warnafter"`
	} `json:"kubernetes.io"`
}

// parseToken reads a token's claims. The signature is not looked at: the file is ours, and the API server looks.
func parseToken(token string, pod *corev1.Pod, src *corev1.ServiceAccountTokenProjection) (heldToken, bool) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return heldToken{}, false
	}
	raw, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return heldToken{}, false
	}
	var cl claims
	if err := json.Unmarshal(raw, &cl); err != nil || cl.IssuedAt == 0 || cl.Expires <= cl.IssuedAt {
		return heldToken{}, false
	}
	account := pod.Spec.ServiceAccountName
	if account == "" {
		account = "default"
	}
	k := &cl.Kubernetes
	if k.Pod.UID != string(pod.UID) || k.Namespace != pod.Namespace || k.ServiceAccount.Name != account {
		return heldToken{}, false
	}
	if src.Audience != "" {
		var many []string
		var one string
		if json.Unmarshal(cl.Audience, &many) != nil && json.Unmarshal(cl.Audience, &one) == nil {
			many = []string{one}
		}
		if len(many) != 1 || many[0] != src.Audience {
			return heldToken{}, false
		}
	}
	end := cl.Expires
	if k.WarnAfter > cl.IssuedAt && k.WarnAfter < end {
		end = k.WarnAfter
	}
	expires := time.Unix(end, 0)
	return heldToken{token: token, expires: expires, renewAt: renewAt(time.Unix(cl.IssuedAt, 0), expires, rand.N(tokenJitter))}, true
}

// create asks for a token, and again for a moment when it is refused: the pod may have reached this node before it reached
// the caches from which the API server's admission judges what a node may ask for.
func (c *tokenCache) create(ctx context.Context, namespace, name string, tr *authv1.TokenRequest) (*authv1.TokenRequest, error) {
	for delay := tokenRetryFirst; ; delay *= 2 {
		got, err := c.src.CreateToken(ctx, namespace, name, tr.DeepCopy())
		if err == nil || delay > tokenRetryMax || !apierrors.IsForbidden(err) && !apierrors.IsNotFound(err) {
			return got, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(delay):
		}
	}
}

// renewAt is when a token that was issued now and ends at expires is to be renewed. Pure.
func renewAt(now, expires time.Time, jitter time.Duration) time.Time {
	age := min(time.Duration(float64(expires.Sub(now))*tokenLifePart), tokenMaxAge)
	return now.Add(max(age-jitter, 0))
}

func (c *tokenCache) forget(uid types.UID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for k := range c.tokens {
		if k.pod == uid {
			delete(c.tokens, k)
		}
	}
}
