package server

import (
	"crypto"
	"fmt"

	genericapiserver "k8s.io/apiserver/pkg/server"

	"github.com/reevehq/reeve/controlplane/authn"
)

// serveIssuer serves the OIDC documents by which others verify service-account tokens. Who may read them, RBAC says.
func (s *Server) serveIssuer(server *genericapiserver.GenericAPIServer) error {
	keysURI := ""
	if s.config.Issuer == "https://kubernetes.default.svc."+s.config.ClusterDomain {
		// That name is known to pods only, which reach the server by it; the address serves both.
		keysURI = "https://" + server.ExternalAddress + authn.JWKSPath
	}
	documents, err := authn.NewDiscovery(s.config.Issuer, keysURI, []crypto.PublicKey{s.signer.Public()})
	if err != nil {
		return fmt.Errorf("serve the token issuer's documents: %w", err)
	}
	documents.Install(server.Handler.NonGoRestfulMux)
	return nil
}
