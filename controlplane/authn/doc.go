// Package authn says who a request is from.
//
// It owns the request authenticator of the API server (client certificates, front-proxy headers, service-account
// tokens, bootstrap tokens, anonymous), the signer of service-account tokens, and the OIDC documents by which others
// can verify those tokens.
//
// Goroutines: only Objects.Run, which watches the bootstrap-token Secrets; authenticators start none.
//
// It never decides what a caller may do (that is authz), never writes to the API, and never logs a token.
package authn
