package server

import (
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/registry/generic"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/client-go/kubernetes"

	"github.com/reevehq/reeve/controlplane/registry"
	"github.com/reevehq/reeve/controlplane/registry/authentication"
	"github.com/reevehq/reeve/controlplane/registry/authorization"
)

// builtinStorages makes everything that the built-in server serves.
func (s *Server) builtinStorages(options generic.RESTOptionsGetter, config *genericapiserver.Config, client kubernetes.Interface, rules authorizer.RuleResolver) (storages, error) {
	return buildStorages(options, func(stores map[schema.GroupResource]*registry.Store, out storages) error {
		auth := &config.Authentication
		authenticationGV, authorizationGV := authenticationv1.SchemeGroupVersion, authorizationv1.SchemeGroupVersion
		out.add(authenticationGV, "tokenreviews", authentication.NewTokenReview(auth.Authenticator, auth.APIAudiences))
		out.add(authenticationGV, "selfsubjectreviews", authentication.NewSelfSubjectReview())
		out.add(authorizationGV, "subjectaccessreviews", authorization.NewSubjectAccessReview(config.Authorization.Authorizer))
		out.add(authorizationGV, "localsubjectaccessreviews", authorization.NewLocalSubjectAccessReview(config.Authorization.Authorizer))
		out.add(authorizationGV, "selfsubjectaccessreviews", authorization.NewSelfSubjectAccessReview(config.Authorization.Authorizer))
		out.add(authorizationGV, "selfsubjectrulesreviews", authorization.NewSelfSubjectRulesReview(rules))
		return nil
	})
}
