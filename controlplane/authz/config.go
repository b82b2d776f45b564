package authz

import (
	"errors"
	"fmt"

	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	"k8s.io/apiserver/pkg/authorization/union"
	"k8s.io/client-go/informers"
)

// Config of the authorizers.
type Config struct {
	// Informers feed RBAC and the Node authorizer: roles, bindings, pods, claims, volumes. New registers what it needs,
	// so call it before they are started. Until they have synced, only system:masters may do anything.
	Informers informers.SharedInformerFactory
}

// New builds the API server's authorizer: system:masters may do everything, then the Node authorizer, then RBAC; the
// first opinion counts. The Rules resolve what a user may do by RBAC.
func New(c Config) (authorizer.Authorizer, *Rules, error) {
	if c.Informers == nil {
		return nil, nil, errors.New("authz: Informers is nil")
	}
	rules, err := NewRules(c.Informers.Rbac().V1())
	if err != nil {
		return nil, nil, fmt.Errorf("build RBAC authorizer: %w", err)
	}
	node, err := NewNode(c.Informers)
	if err != nil {
		return nil, nil, fmt.Errorf("build Node authorizer: %w", err)
	}
	return union.New(
		authorizerfactory.NewPrivilegedGroups(user.SystemPrivilegedGroup),
		node,
		rules,
	), rules, nil
}
