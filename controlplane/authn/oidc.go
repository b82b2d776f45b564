package authn

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

const (
	// DiscoveryPath and JWKSPath are where OIDC relying parties look.
	DiscoveryPath = "/.well-known/openid-configuration"
	JWKSPath      = "/openid/v1/jwks"
	// oidcCacheControl lets a relying party keep the documents for an hour, as kube-apiserver says.
	oidcCacheControl = "public, max-age=3600"
)

// Discovery serves the documents by which others verify our service-account tokens.
type Discovery struct {
	config, keys []byte
}

type jwk struct {
	Use string `json:"use"`
	Kty string `json:"kty"`
	Kid string `json:"kid"`
	Alg string `json:"alg"`
	Crv string `json:"crv,omitempty"`
	X   string `json:"x,omitempty"`
	Y   string `json:"y,omitempty"`
	N   string `json:"n,omitempty"`
	E   string `json:"e,omitempty"`
}

// NewDiscovery renders the documents once. jwksURI empty means <issuer>/openid/v1/jwks. The issuer must be an https URL,
// else relying parties refuse it.
func NewDiscovery(issuer, jwksURI string, keys []crypto.PublicKey) (*Discovery, error) {
	u, err := url.Parse(issuer)
	if err != nil || u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("service-account issuer %q is not an https URL: OIDC discovery needs one", issuer)
	}
	if jwksURI == "" {
		jwksURI = strings.TrimSuffix(issuer, "/") + JWKSPath
	}
	set := struct {
		Keys []jwk `json:"keys"`
	}{Keys: []jwk{}}
	var algorithms []string
	for _, k := range keys {
		j, err := jwkOf(k)
		if err != nil {
			return nil, err
		}
		set.Keys = append(set.Keys, j)
		algorithms = append(algorithms, j.Alg)
	}
	slices.Sort(algorithms)
	config, err := json.Marshal(map[string]any{
		"issuer":                                issuer,
		"jwks_uri":                              jwksURI,
		"response_types_supported":              []string{"id_token"},
		"subject_types_supported":               []string{"public"},
		"id_token_signing_alg_values_supported": slices.Compact(algorithms),
	})
	if err != nil {
		return nil, fmt.Errorf("render OIDC discovery document: %w", err)
	}
	jwks, err := json.Marshal(set)
	if err != nil {
		return nil, fmt.Errorf("render JWKS: %w", err)
	}
	return &Discovery{config: config, keys: jwks}, nil
}

// Install puts the two documents on mux, which has the shape of the API server's non-resource mux.
func (d *Discovery) Install(mux interface {
	Handle(path string, handler http.Handler)
}) {
	mux.Handle(DiscoveryPath, serveDocument("application/json", d.config))
	mux.Handle(JWKSPath, serveDocument("application/jwk-set+json", d.keys))
}

func serveDocument(contentType string, body []byte) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "only GET is served here", http.StatusMethodNotAllowed)
			return
		}
		w.Header().Set("Content-Type", contentType)
		w.Header().Set("Cache-Control", oidcCacheControl)
		_, _ = w.Write(body) // the client has gone: nobody is left to tell
	})
}

func jwkOf(key crypto.PublicKey) (jwk, error) {
	method, err := methodFor(key)
	if err != nil {
		return jwk{}, err
	}
	id, err := KeyID(key)
	if err != nil {
		return jwk{}, err
	}
	j := jwk{Use: "sig", Kid: id, Alg: method.Alg()}
	switch k := key.(type) {
	case *rsa.PublicKey:
		j.Kty = "RSA"
		j.N = base64.RawURLEncoding.EncodeToString(k.N.Bytes())
		j.E = base64.RawURLEncoding.EncodeToString(big.NewInt(int64(k.E)).Bytes())
	case *ecdsa.PublicKey:
		point, err := k.Bytes() // 0x04 ‖ X ‖ Y, both of the curve's length
		if err != nil {
			return jwk{}, fmt.Errorf("serialise ECDSA key: %w", err)
		}
		half := (len(point) - 1) / 2
		j.Kty, j.Crv = "EC", k.Curve.Params().Name
		j.X = base64.RawURLEncoding.EncodeToString(point[1 : 1+half])
		j.Y = base64.RawURLEncoding.EncodeToString(point[1+half:])
	}
	return j, nil
}
