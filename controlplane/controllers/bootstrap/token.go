package bootstrap

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"regexp"
	"time"

	v1 "k8s.io/api/core/v1"
)

// A bootstrap token is a Secret of this type in kube-system, named "bootstrap-token-<id>".
const (
	secretType   = v1.SecretType("bootstrap.kubernetes.io/token")
	secretPrefix = "bootstrap-token-"
	keyID        = "token-id"
	keySecret    = "token-secret"
	keyExpires   = "expiration"
	keySigning   = "usage-bootstrap-signing"
)

// The ConfigMap that joining nodes read before they trust anyone, in kube-public.
const (
	infoName      = "cluster-info"
	infoKey       = "kubeconfig"
	infoSignature = "jws-kubeconfig-" // and the token's ID
)

var (
	idForm     = regexp.MustCompile(`^[a-z0-9]{6}$`)
	secretForm = regexp.MustCompile(`^[a-z0-9]{16}$`)
)

// expiry reads when the token ends; ok is false for tokens that do not. A form that cannot be read counts as expired: better
// no token than one that never ends by mistake.
func expiry(s *v1.Secret) (at time.Time, ok bool) {
	raw := string(s.Data[keyExpires])
	if raw == "" {
		return time.Time{}, false
	}
	at, err := time.Parse(time.RFC3339, raw)
	if err != nil {
		return time.Time{}, true
	}
	return at, true
}

// signing returns the token's ID and secret if it may sign the cluster-info now.
func signing(s *v1.Secret, now time.Time) (id, secret string, ok bool) {
	id, secret = string(s.Data[keyID]), string(s.Data[keySecret])
	if s.Type != secretType || s.Name != secretPrefix+id || !idForm.MatchString(id) || !secretForm.MatchString(secret) || string(s.Data[keySigning]) != "true" {
		return "", "", false
	}
	if at, expires := expiry(s); expires && !at.After(now) {
		return "", "", false
	}
	return id, secret, true
}

// sign makes a detached JWS (RFC 7515, appendix F) with HMAC-SHA256: whoever has the token can tell that the content is genuine.
func sign(content, id, secret string) string {
	enc := base64.RawURLEncoding
	header := enc.EncodeToString(fmt.Appendf(nil, `{"alg":"HS256","kid":%q}`, id))
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(header + "." + enc.EncodeToString([]byte(content))))
	return header + ".." + enc.EncodeToString(mac.Sum(nil))
}
