package satoken

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/reevehq/reeve/controlplane/authn"
)

const issuer = "https://issuer"

type getter map[string]runtime.Object

func (g getter) Get(_ context.Context, name string, _ *metav1.GetOptions) (runtime.Object, error) {
	if o, ok := g[name]; ok {
		return o, nil
	}
	return nil, apierrors.NewNotFound(corev1.Resource("things"), name)
}

func endpoint(t *testing.T, change func(*Config)) *Token {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := authn.NewSigner(issuer, crypto.Signer(key))
	if err != nil {
		t.Fatal(err)
	}
	meta := func(name, uid string) metav1.ObjectMeta {
		return metav1.ObjectMeta{Namespace: "shop", Name: name, UID: types.UID("uid-" + uid)}
	}
	pod := func(name, node, account string) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: meta(name, name), Spec: corev1.PodSpec{NodeName: node, ServiceAccountName: account}}
	}
	c := Config{
		Signer:    signer,
		Accounts:  getter{"web": &corev1.ServiceAccount{ObjectMeta: meta("web", "sa")}},
		Pods:      getter{"p": pod("p", "n1", "web"), "orphan": pod("orphan", "gone", "web"), "other": pod("other", "n1", "someone")},
		Secrets:   getter{"s": &corev1.Secret{ObjectMeta: meta("s", "s")}},
		Nodes:     getter{"n1": &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", UID: "uid-n1"}}},
		Audiences: []string{issuer}, Extend: true,
	}
	if change != nil {
		change(&c)
	}
	e, err := New(c)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

type claims struct {
	Sub        string   `json:"sub"`
	Aud        []string `json:"aud"`
	Exp, Iat   int64
	Kubernetes struct {
		Pod, Node, Secret *struct{ Name, UID string }
		WarnAfter         int64
	} `json:"kubernetes.io"`
}

func request(change func(*authenticationv1.TokenRequest)) *authenticationv1.TokenRequest {
	r := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: ptr.To(int64(3600))}}
	if change != nil {
		change(r)
	}
	return r
}

func issue(t *testing.T, e *Token, change func(*authenticationv1.TokenRequest)) (claims, *authenticationv1.TokenRequest) {
	t.Helper()
	obj, err := e.Create(t.Context(), "web", request(change), nil, &metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	resp := obj.(*authenticationv1.TokenRequest)
	body, err := base64.RawURLEncoding.DecodeString(strings.Split(resp.Status.Token, ".")[1])
	if err != nil {
		t.Fatal(err)
	}
	var c claims
	if err := json.Unmarshal(body, &c); err != nil {
		t.Fatal(err)
	}
	return c, resp
}

func TestTokenForAPod(t *testing.T) {
	c, resp := issue(t, endpoint(t, nil), func(r *authenticationv1.TokenRequest) {
		r.Spec.BoundObjectRef = &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: "p", UID: "uid-p"}
	})
	if c.Sub != "system:serviceaccount:shop:web" || len(c.Aud) != 1 || c.Aud[0] != issuer {
		t.Errorf("sub %q, aud %v", c.Sub, c.Aud)
	}
	k := c.Kubernetes
	if k.Pod == nil || k.Pod.UID != "uid-p" || k.Node == nil || k.Node.UID != "uid-n1" || k.Secret != nil || k.WarnAfter != 0 {
		t.Errorf("bound to %+v", k)
	}
	if c.Exp-c.Iat != 3600 || resp.Status.ExpirationTimestamp.Unix() != c.Exp || resp.Name != "web" || resp.Namespace != "shop" {
		t.Errorf("lives %d s, answer %+v", c.Exp-c.Iat, resp)
	}
	c, _ = issue(t, endpoint(t, nil), func(r *authenticationv1.TokenRequest) {
		r.Spec.BoundObjectRef = &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: "orphan"}
	})
	if k := c.Kubernetes; k.Node == nil || k.Node.Name != "gone" || k.Node.UID != "" {
		t.Errorf("a pod whose node is gone names it: %+v", k.Node)
	}
}

// The default projected token lives a year but is reported, to its holder and in audit, as one of an hour.
func TestDefaultProjectedTokenIsExtended(t *testing.T) {
	bound := func(r *authenticationv1.TokenRequest) {
		r.Spec.ExpirationSeconds = ptr.To(int64(extendableSeconds))
		r.Spec.BoundObjectRef = &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: "p"}
	}
	c, resp := issue(t, endpoint(t, nil), bound)
	if c.Exp-c.Iat != int64(extendedLifetime/time.Second) || c.Kubernetes.WarnAfter-c.Iat != extendableSeconds {
		t.Errorf("lives %d s, warns after %d s", c.Exp-c.Iat, c.Kubernetes.WarnAfter-c.Iat)
	}
	if got := resp.Status.ExpirationTimestamp.Unix() - c.Iat; got != extendableSeconds {
		t.Errorf("the holder is told %d s", got)
	}
	for name, change := range map[string]func(*authenticationv1.TokenRequest){
		"foreign audience": func(r *authenticationv1.TokenRequest) { bound(r); r.Spec.Audiences = []string{"vault"} },
		"no pod":           func(r *authenticationv1.TokenRequest) { bound(r); r.Spec.BoundObjectRef = nil },
	} {
		if c, _ := issue(t, endpoint(t, nil), change); c.Exp-c.Iat != extendableSeconds || c.Kubernetes.WarnAfter != 0 {
			t.Errorf("%s: lives %d s", name, c.Exp-c.Iat)
		}
	}
	if c, _ := issue(t, endpoint(t, func(c *Config) { c.Extend = false }), bound); c.Exp-c.Iat != extendableSeconds {
		t.Errorf("switched off: lives %d s", c.Exp-c.Iat)
	}
}

func TestLifetimeIsCapped(t *testing.T) {
	e := endpoint(t, func(c *Config) { c.MaxLifetime = 2 * time.Hour })
	c, resp := issue(t, e, func(r *authenticationv1.TokenRequest) { r.Spec.ExpirationSeconds = ptr.To(int64(86400)) })
	if c.Exp-c.Iat != 7200 || *resp.Spec.ExpirationSeconds != 7200 {
		t.Errorf("lives %d s, spec says %d", c.Exp-c.Iat, *resp.Spec.ExpirationSeconds)
	}
}

func TestWhatIsRefused(t *testing.T) {
	ref := func(kind, name, uid string) func(*authenticationv1.TokenRequest) {
		return func(r *authenticationv1.TokenRequest) {
			r.Spec.BoundObjectRef = &authenticationv1.BoundObjectReference{Kind: kind, APIVersion: "v1", Name: name}
			r.Spec.BoundObjectRef.UID = types.UID(uid)
		}
	}
	for name, c := range map[string]struct {
		change func(*authenticationv1.TokenRequest)
		is     func(error) bool
	}{
		"too short":        {func(r *authenticationv1.TokenRequest) { r.Spec.ExpirationSeconds = ptr.To(int64(599)) }, apierrors.IsInvalid},
		"too long":         {func(r *authenticationv1.TokenRequest) { r.Spec.ExpirationSeconds = ptr.To(int64(1<<32 + 1)) }, apierrors.IsInvalid},
		"another name":     {func(r *authenticationv1.TokenRequest) { r.Name = "admin" }, apierrors.IsInvalid},
		"another space":    {func(r *authenticationv1.TokenRequest) { r.Namespace = "bank" }, apierrors.IsInvalid},
		"another uid":      {func(r *authenticationv1.TokenRequest) { r.UID = "old" }, apierrors.IsConflict},
		"pod of another":   {ref("Pod", "other", ""), apierrors.IsBadRequest},
		"no such pod":      {ref("Pod", "none", ""), apierrors.IsNotFound},
		"replaced pod":     {ref("Pod", "p", "old"), apierrors.IsConflict},
		"replaced secret":  {ref("Secret", "s", "old"), apierrors.IsConflict},
		"unsupported kind": {ref("ConfigMap", "c", ""), apierrors.IsBadRequest},
	} {
		obj, err := endpoint(t, nil).Create(t.Context(), "web", request(c.change), nil, &metav1.CreateOptions{})
		if err == nil || !c.is(err) {
			t.Errorf("%s: %v, %v", name, obj, err)
		}
	}
	if _, err := endpoint(t, nil).Create(t.Context(), "nobody", request(nil), nil, &metav1.CreateOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("no such account: %v", err)
	}
}
