package authentication

import (
	authenticationv1 "k8s.io/api/authentication/v1"

	"github.com/reevehq/reeve/controlplane/apis/defaults/fill"
)

// tokenExpirationSeconds is the lifetime of a requested service account token: 1 h.
const tokenExpirationSeconds = 3600

// SetDefaults_TokenRequestSpec fills the lifetime.
func SetDefaults_TokenRequestSpec(s *authenticationv1.TokenRequestSpec) {
	fill.Nil(&s.ExpirationSeconds, tokenExpirationSeconds)
}
