package server

import (
	"crypto"
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/authenticatorfactory"
	"k8s.io/apiserver/pkg/authentication/request/headerrequest"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/client-go/kubernetes"

	"github.com/reevehq/reeve/controlplane/authn"
	"github.com/reevehq/reeve/controlplane/authz"
)

// requestHeader names the headers by which a front proxy tells who asks. Aggregated API servers learn them from the
// extension-apiserver-authentication ConfigMap.
var (
	userHeaders  = headerrequest.StaticStringSlice{"X-Remote-User"}
	uidHeaders   = headerrequest.StaticStringSlice{"X-Remote-Uid"}
	groupHeaders = headerrequest.StaticStringSlice{"X-Remote-Group"}
	extraHeaders = headerrequest.StaticStringSlice{"X-Remote-Extra-"}
	proxyNames   = headerrequest.StaticStringSlice{"front-proxy-client"}
)

// applyAuth sets authentication and authorization, and returns the resolver of users' rules.
func (s *Server) applyAuth(base *genericapiserver.Config, client kubernetes.Interface) (*authz.Rules, error) {
	clientCA, err := dynamiccertificates.NewDynamicCAContentFromFile("client-ca", s.config.PKI.CA.CertFile)
	if err != nil {
		return nil, fmt.Errorf("read client authority: %w", err)
	}
	proxyCA, err := dynamiccertificates.NewDynamicCAContentFromFile("front-proxy-ca", s.config.PKI.FrontProxyCA.CertFile)
	if err != nil {
		return nil, fmt.Errorf("read front-proxy authority: %w", err)
	}
	for _, ca := range []dynamiccertificates.CAContentProvider{clientCA, proxyCA} {
		if err := base.Authentication.ApplyClientCert(ca, base.SecureServing); err != nil {
			return nil, fmt.Errorf("trust authority %q: %w", ca.Name(), err)
		}
	}
	header := &authenticatorfactory.RequestHeaderConfig{
		UsernameHeaders: userHeaders, UIDHeaders: uidHeaders, GroupHeaders: groupHeaders, ExtraHeaderPrefixes: extraHeaders,
		CAContentProvider: proxyCA, AllowedClientNames: proxyNames,
	}
	base.Authentication.RequestHeaderConfig = header
	base.Authentication.APIAudiences = []string{s.config.Issuer}

	s.signer, err = authn.NewSigner(s.config.Issuer, s.config.PKI.ServiceAccount)
	if err != nil {
		return nil, fmt.Errorf("configure service-account tokens: %w", err)
	}
	s.objects = authn.NewClusterObjects(client, s.informers)
	base.Authentication.Authenticator, err = authn.New(authn.Config{
		ClientCA: clientCA, RequestHeader: header,
		ServiceAccountKeys: []crypto.PublicKey{s.signer.Public()},
		Issuers:            []string{s.config.Issuer},
		APIAudiences:       base.Authentication.APIAudiences,
		Objects:            s.objects,
		BootstrapTokens:    s.objects.BootstrapTokens(),
		Anonymous:          true,
	})
	if err != nil {
		return nil, fmt.Errorf("configure authentication: %w", err)
	}

	authorize, rules, err := authz.New(authz.Config{Informers: s.informers})
	if err != nil {
		return nil, fmt.Errorf("configure authorization: %w", err)
	}
	base.Authorization.Authorizer = authorize
	base.RuleResolver = rules
	return rules, nil
}

// dropManagedFields halves what informers hold of small objects; nothing in the server reads it.
func dropManagedFields(obj any) (any, error) {
	if m, ok := obj.(metav1.Object); ok {
		m.SetManagedFields(nil)
	}
	return obj, nil
}
