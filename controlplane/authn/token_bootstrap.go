package authn

import (
	"context"
	"crypto/subtle"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
)

// The names of bootstrap tokens: Kubernetes' bootstrap-token Secret format.
const (
	BootstrapGroup             = "system:bootstrappers"
	bootstrapUserPrefix        = "system:bootstrap:"
	bootstrapSecretPrefix      = "bootstrap-token-"
	bootstrapKeyID             = "token-id"
	bootstrapKeySecret         = "token-secret"
	bootstrapKeyExpiration     = "expiration"
	bootstrapKeyAuthentication = "usage-bootstrap-authentication"
	bootstrapKeyExtraGroups    = "auth-extra-groups"
)

var (
	bootstrapToken = regexp.MustCompile(`^([a-z0-9]{6})\.([a-z0-9]{16})$`)
	bootstrapExtra = regexp.MustCompile(`^system:bootstrappers:[a-z0-9:-]{0,255}[a-z0-9]$`)
)

// bootstrapAuthenticator takes tokens "<id>.<secret>" for which kube-system has a Secret bootstrap-token-<id>.
type bootstrapAuthenticator struct {
	secrets SecretGetter
	now     func() time.Time
}

func (b *bootstrapAuthenticator) AuthenticateToken(_ context.Context, token string) (*authenticator.Response, bool, error) {
	m := bootstrapToken.FindStringSubmatch(token)
	if m == nil {
		return nil, false, nil
	}
	id, secretPart := m[1], m[2]
	s, err := b.secrets.Get(bootstrapSecretPrefix + id)
	if err != nil {
		if gone(err) {
			return nil, false, nil
		}
		return nil, false, fmt.Errorf("look up bootstrap token %q: %w", id, err)
	}
	if !b.usable(s, id, secretPart) {
		return nil, false, nil
	}
	groups, ok := bootstrapGroups(s)
	if !ok {
		return nil, false, nil
	}
	return &authenticator.Response{User: &user.DefaultInfo{Name: bootstrapUserPrefix + id, Groups: groups}}, true, nil
}

// usable never says why not: whoever guesses tokens learns nothing.
func (b *bootstrapAuthenticator) usable(s *corev1.Secret, id, secretPart string) bool {
	want := string(s.Data[bootstrapKeySecret])
	if s.Type != corev1.SecretTypeBootstrapToken || s.DeletionTimestamp != nil || want == "" ||
		subtle.ConstantTimeCompare([]byte(want), []byte(secretPart)) != 1 ||
		string(s.Data[bootstrapKeyID]) != id ||
		string(s.Data[bootstrapKeyAuthentication]) != "true" {
		return false
	}
	expiration := string(s.Data[bootstrapKeyExpiration])
	if expiration == "" {
		return true
	}
	at, err := time.Parse(time.RFC3339, expiration)
	return err == nil && b.now().Before(at) // an unreadable expiry counts as expired
}

func bootstrapGroups(s *corev1.Secret) ([]string, bool) {
	groups := []string{BootstrapGroup}
	if extra := string(s.Data[bootstrapKeyExtraGroups]); extra != "" {
		for _, g := range strings.Split(extra, ",") {
			if !bootstrapExtra.MatchString(g) {
				return nil, false
			}
			groups = append(groups, g)
		}
	}
	slices.Sort(groups)
	return slices.Compact(groups), true
}
