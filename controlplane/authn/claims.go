package authn

import (
	"time"

	"github.com/golang-jwt/jwt/v5"
)

// LegacyIssuer is the `iss` of tokens kept in Secrets of type kubernetes.io/service-account-token.
const LegacyIssuer = "kubernetes/serviceaccount"

// Ref names an object that a token is bound to. UID is what binds: a namesake made later does not revive the token.
type Ref struct {
	Name string `json:"name"`
	UID  string `json:"uid,omitempty"`
}

// bound is the `kubernetes.io` claim: what the token is bound to.
type bound struct {
	Namespace      string           `json:"namespace,omitempty"`
	ServiceAccount Ref              `json:"serviceaccount,omitzero"`
	Pod            *Ref             `json:"pod,omitempty"`
	Secret         *Ref             `json:"secret,omitempty"`
	Node           *Ref             `json:"node,omitempty"`
	WarnAfter      *jwt.NumericDate `json:"warnafter,omitempty"`
}

// claims is the body of a service-account token: bound ones carry Kubernetes, legacy ones the flat fields.
type claims struct {
	jwt.RegisteredClaims
	Kubernetes *bound `json:"kubernetes.io,omitempty"`

	LegacyNamespace  string `json:"kubernetes.io/serviceaccount/namespace,omitempty"`
	LegacySecretName string `json:"kubernetes.io/serviceaccount/secret.name,omitempty"`
	LegacyName       string `json:"kubernetes.io/serviceaccount/service-account.name,omitempty"`
	LegacyUID        string `json:"kubernetes.io/serviceaccount/service-account.uid,omitempty"`
}

// TokenSpec says what a bound service-account token is to claim.
type TokenSpec struct {
	Namespace      string
	ServiceAccount Ref
	// Pod, Secret and Node are what the token is bound to; Node beside Pod only tells where the pod runs.
	Pod, Secret, Node *Ref
	Audiences         []string
	// Lifetime from now to expiry.
	Lifetime time.Duration
	// WarnAfter, when not zero, is the age from which use of the token is reported as stale.
	WarnAfter time.Duration
}
