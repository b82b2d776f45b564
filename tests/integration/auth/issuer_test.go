package auth

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/base64"
	"encoding/json"
	"math/big"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// A relying party finds the keys and verifies a token with them, as any OIDC library does.
func TestOthersCanVerifyTokens(t *testing.T) {
	ctx := t.Context()
	ns := namespace(t, "issuer")
	account(t, ns, "web")
	resp, err := shared.Admin.CoreV1().ServiceAccounts(ns).CreateToken(ctx, "web", &authenticationv1.TokenRequest{
		Spec: authenticationv1.TokenRequestSpec{Audiences: []string{"vault", "https://kubernetes.default.svc.cluster.local"}}}, metav1.CreateOptions{})
	must(t, "create token", err)
	token := resp.Status.Token
	forbidden(t, "discovery by nobody", shared.Anonymous(t).Discovery().RESTClient().Get().AbsPath("/openid/v1/jwks").Do(ctx).Error())

	get := func(path string, into any) {
		t.Helper()
		raw, err := shared.Bearer(t, token).Discovery().RESTClient().Get().AbsPath(path).DoRaw(ctx)
		must(t, path, err)
		must(t, path, json.Unmarshal(raw, into))
	}
	var config struct {
		Issuer  string `json:"issuer"`
		JWKSURI string `json:"jwks_uri"`
	}
	get("/.well-known/openid-configuration", &config)
	if config.Issuer != "https://kubernetes.default.svc.cluster.local" || config.JWKSURI != shared.URL+"/openid/v1/jwks" {
		t.Errorf("configuration is %+v", config)
	}
	var set struct {
		Keys []struct{ Kid, Alg, Crv, X, Y string }
	}
	get("/openid/v1/jwks", &set)
	if len(set.Keys) != 1 || set.Keys[0].Alg != "ES256" {
		t.Fatalf("keys are %+v", set.Keys)
	}
	number := func(s string) *big.Int {
		b, err := base64.RawURLEncoding.DecodeString(s)
		must(t, "decode", err)
		return new(big.Int).SetBytes(b)
	}
	part := strings.Split(token, ".")
	signature, err := base64.RawURLEncoding.DecodeString(part[2])
	must(t, "decode signature", err)
	hash := crypto.SHA256.New()
	hash.Write([]byte(part[0] + "." + part[1]))
	key := &ecdsa.PublicKey{Curve: elliptic.P256(), X: number(set.Keys[0].X), Y: number(set.Keys[0].Y)}
	if !ecdsa.Verify(key, hash.Sum(nil), new(big.Int).SetBytes(signature[:32]), new(big.Int).SetBytes(signature[32:])) {
		t.Error("the published key does not verify the token")
	}
}
