package authn

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
)

const issuer = "https://kubernetes.default.svc.cluster.local"

// world is a stateful fake of the live objects.
type world map[string]metav1.Object

func (w world) put(kind string, o metav1.Object) { w[kind+"/"+o.GetNamespace()+"/"+o.GetName()] = o }
func (w world) drop(kind, ns, name string)       { delete(w, kind+"/"+ns+"/"+name) }

func find[T metav1.Object](w world, kind, ns, name string) (T, error) {
	if o, ok := w[kind+"/"+ns+"/"+name]; ok {
		return o.(T), nil
	}
	var none T
	return none, apierrors.NewNotFound(corev1.Resource(kind), name)
}

func (w world) ServiceAccount(_ context.Context, ns, name string) (*corev1.ServiceAccount, error) {
	return find[*corev1.ServiceAccount](w, "sa", ns, name)
}
func (w world) Pod(_ context.Context, ns, name string) (*corev1.Pod, error) {
	return find[*corev1.Pod](w, "pod", ns, name)
}
func (w world) Secret(_ context.Context, ns, name string) (*corev1.Secret, error) {
	return find[*corev1.Secret](w, "secret", ns, name)
}
func (w world) Node(_ context.Context, name string) (*corev1.Node, error) {
	return find[*corev1.Node](w, "node", "", name)
}

// Get makes world a SecretGetter for kube-system.
func (w world) Get(name string) (*corev1.Secret, error) {
	return w.Secret(context.Background(), metav1.NamespaceSystem, name)
}

func meta(ns, name, uid string) metav1.ObjectMeta {
	return metav1.ObjectMeta{Namespace: ns, Name: name, UID: types.UID(uid)}
}

func newWorld() world {
	w := world{}
	w.put("sa", &corev1.ServiceAccount{ObjectMeta: meta("shop", "web", "sa-uid")})
	w.put("pod", &corev1.Pod{ObjectMeta: meta("shop", "web-0", "pod-uid")})
	w.put("node", &corev1.Node{ObjectMeta: meta("", "n1", "node-uid")})
	w.put("secret", &corev1.Secret{ObjectMeta: meta("shop", "s", "secret-uid")})
	return w
}

func ecKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

type fixture struct {
	world  world
	signer *Signer
	authn  authenticator.Request
	now    time.Time
}

func newFixture(t *testing.T, key crypto.Signer) *fixture {
	t.Helper()
	f := &fixture{world: newWorld(), now: time.Unix(1_800_000_000, 0)}
	clock := func() time.Time { return f.now }
	var err error
	if f.signer, err = NewSigner(issuer, key); err != nil {
		t.Fatal(err)
	}
	f.signer.now = clock
	f.authn, err = New(Config{
		ServiceAccountKeys: []crypto.PublicKey{key.Public()}, Issuers: []string{issuer},
		APIAudiences: authenticator.Audiences{issuer}, Objects: f.world, BootstrapTokens: f.world, Anonymous: true, Now: clock,
	})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *fixture) ask(token string, audiences ...string) (user.Info, error) {
	r := httptest.NewRequest(http.MethodGet, "/api", nil)
	if token != "" {
		r.Header.Set("Authorization", "Bearer "+token)
	}
	if len(audiences) > 0 {
		r = r.WithContext(authenticator.WithAudiences(r.Context(), audiences))
	}
	resp, ok, err := f.authn.AuthenticateRequest(r)
	if !ok {
		return nil, err
	}
	return resp.User, err
}

func (f *fixture) sign(t *testing.T, spec TokenSpec) string {
	t.Helper()
	if spec.Namespace == "" {
		spec.Namespace, spec.ServiceAccount = "shop", Ref{"web", "sa-uid"}
	}
	if spec.Audiences == nil {
		spec.Audiences = []string{issuer}
	}
	if spec.Lifetime == 0 {
		spec.Lifetime = time.Hour
	}
	s, err := f.signer.Sign(spec)
	if err != nil {
		t.Fatal(err)
	}
	return s.Token
}

func TestPodTokenNamesAccountPodAndNode(t *testing.T) {
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	for name, key := range map[string]crypto.Signer{"ecdsa": ecKey(t), "rsa": rsaKey} {
		t.Run(name, func(t *testing.T) {
			f := newFixture(t, key)
			token := f.sign(t, TokenSpec{Pod: &Ref{"web-0", "pod-uid"}, Node: &Ref{"n1", "node-uid"}})
			for range 2 { // the second time from the cache of signatures
				u, err := f.ask(token)
				if err != nil {
					t.Fatal(err)
				}
				if u.GetName() != "system:serviceaccount:shop:web" || u.GetUID() != "sa-uid" {
					t.Errorf("user is %v", u)
				}
				for _, g := range []string{"system:serviceaccounts", "system:serviceaccounts:shop", user.AllAuthenticated} {
					if !slices.Contains(u.GetGroups(), g) {
						t.Errorf("groups %v lack %s", u.GetGroups(), g)
					}
				}
				extra := u.GetExtra()
				for key, want := range map[string]string{
					serviceaccount.PodNameKey: "web-0", serviceaccount.PodUIDKey: "pod-uid",
					serviceaccount.NodeNameKey: "n1", serviceaccount.NodeUIDKey: "node-uid",
				} {
					if got := extra[key]; len(got) != 1 || got[0] != want {
						t.Errorf("extra %s is %v, want %s", key, got, want)
					}
				}
				if id := extra[user.CredentialIDKey]; len(id) != 1 || !strings.HasPrefix(id[0], "JTI=") {
					t.Errorf("credential id is %v", id)
				}
			}
		})
	}
}

// A token must die with what it is bound to, at once, even though its signature is cached.
func TestTokenDiesWithItsObjects(t *testing.T) {
	bound := map[string]TokenSpec{
		"sa":     {},
		"pod":    {Pod: &Ref{"web-0", "pod-uid"}},
		"node":   {Node: &Ref{"n1", "node-uid"}},
		"secret": {Secret: &Ref{"s", "secret-uid"}},
	}
	names := map[string][2]string{"sa": {"shop", "web"}, "pod": {"shop", "web-0"}, "node": {"", "n1"}, "secret": {"shop", "s"}}
	for kind, spec := range bound {
		for how, kill := range map[string]func(*fixture){
			"gone": func(f *fixture) { f.world.drop(kind, names[kind][0], names[kind][1]) },
			"replaced": func(f *fixture) {
				f.world[kind+"/"+names[kind][0]+"/"+names[kind][1]].SetUID("another")
			},
			"long deleted": func(f *fixture) {
				at := metav1.NewTime(f.now.Add(-2 * time.Minute))
				f.world[kind+"/"+names[kind][0]+"/"+names[kind][1]].SetDeletionTimestamp(&at)
			},
		} {
			t.Run(kind+" "+how, func(t *testing.T) {
				f := newFixture(t, ecKey(t))
				token := f.sign(t, spec)
				if _, err := f.ask(token); err != nil {
					t.Fatalf("before: %v", err)
				}
				kill(f)
				if u, err := f.ask(token); err == nil {
					t.Fatalf("still authenticates as %v", u)
				}
			})
		}
		t.Run(kind+" terminating", func(t *testing.T) {
			f := newFixture(t, ecKey(t))
			at := metav1.NewTime(f.now.Add(-30 * time.Second))
			f.world[kind+"/"+names[kind][0]+"/"+names[kind][1]].SetDeletionTimestamp(&at)
			if _, err := f.ask(f.sign(t, spec)); err != nil {
				t.Fatalf("a terminating object must back its tokens for a minute: %v", err)
			}
		})
	}
}

func TestBadTokensAreRefused(t *testing.T) {
	f := newFixture(t, ecKey(t))
	stranger, err := NewSigner(issuer, ecKey(t))
	if err != nil {
		t.Fatal(err)
	}
	stranger.now = func() time.Time { return f.now }
	forged, err := stranger.Sign(TokenSpec{Namespace: "shop", ServiceAccount: Ref{"web", "sa-uid"}, Audiences: []string{issuer}, Lifetime: time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	good := f.sign(t, TokenSpec{})
	parts := strings.Split(good, ".")
	none := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"none"}`)) + "." + parts[1] + "."
	var body map[string]any
	raw, _ := base64.RawURLEncoding.DecodeString(parts[1])
	if err := json.Unmarshal(raw, &body); err != nil {
		t.Fatal(err)
	}
	body["sub"] = "system:serviceaccount:kube-system:admin"
	changed, _ := json.Marshal(body)
	tampered := parts[0] + "." + base64.RawURLEncoding.EncodeToString(changed) + "." + parts[2]

	cases := map[string]string{
		"forged":         forged.Token,
		"alg none":       none,
		"tampered":       tampered,
		"other audience": f.sign(t, TokenSpec{Audiences: []string{"vault"}}),
		"garbage":        "a.b.c",
		"unknown issuer": func() string {
			s, _ := NewSigner("https://elsewhere", ecKey(t))
			x, _ := s.Sign(TokenSpec{Namespace: "shop", ServiceAccount: Ref{"web", "sa-uid"}, Audiences: []string{issuer}, Lifetime: time.Hour})
			return x.Token
		}(),
	}
	for name, token := range cases {
		if u, err := f.ask(token); err == nil {
			t.Errorf("%s: authenticates as %v", name, u)
		}
	}

	token := f.sign(t, TokenSpec{})
	f.now = f.now.Add(2 * time.Hour)
	if u, err := f.ask(token); err == nil {
		t.Errorf("expired: authenticates as %v", u)
	}
}

func TestAudienceOfReviewIsHonoured(t *testing.T) {
	f := newFixture(t, ecKey(t))
	token := f.sign(t, TokenSpec{Audiences: []string{"vault"}})
	if _, err := f.ask(token, "vault"); err != nil {
		t.Errorf("a token for vault must hold for vault: %v", err)
	}
	if _, err := f.ask(token, "other"); err == nil {
		t.Error("a token for vault must not hold for another audience")
	}
}

func TestLegacyTokenLivesInItsSecret(t *testing.T) {
	f := newFixture(t, ecKey(t))
	token, err := f.signer.SignLegacy("shop", "s", Ref{"web", "sa-uid"})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.ask(token); err == nil {
		t.Fatal("the secret does not hold the token yet")
	}
	f.world.put("secret", &corev1.Secret{ObjectMeta: meta("shop", "s", "x"), Data: map[string][]byte{corev1.ServiceAccountTokenKey: []byte(token)}})
	f.now = f.now.Add(10 * 365 * 24 * time.Hour)
	u, err := f.ask(token)
	if err != nil || u.GetName() != "system:serviceaccount:shop:web" {
		t.Fatalf("user %v, err %v", u, err)
	}
	f.world.drop("secret", "shop", "s")
	if _, err := f.ask(token); err == nil {
		t.Fatal("a legacy token must die with its secret")
	}
}

func TestWithoutCredentialOneIsAnonymous(t *testing.T) {
	f := newFixture(t, ecKey(t))
	u, err := f.ask("")
	if err != nil || u.GetName() != user.Anonymous || !slices.Contains(u.GetGroups(), user.AllUnauthenticated) {
		t.Fatalf("user %v, err %v", u, err)
	}
}

func TestDiscoveryVerifiesTokens(t *testing.T) {
	key := ecKey(t)
	d, err := NewDiscovery(issuer, "", []crypto.PublicKey{key.Public()})
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	d.Install(mux)
	get := func(path string, into any) *httptest.ResponseRecorder {
		w := httptest.NewRecorder()
		mux.ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		if err := json.Unmarshal(w.Body.Bytes(), into); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		return w
	}
	var config struct {
		Issuer  string `json:"issuer"`
		JWKSURI string `json:"jwks_uri"`
	}
	get(DiscoveryPath, &config)
	if config.Issuer != issuer || config.JWKSURI != issuer+JWKSPath {
		t.Errorf("config is %+v", config)
	}
	var set struct{ Keys []jwk }
	if w := get(JWKSPath, &set); w.Header().Get("Content-Type") != "application/jwk-set+json" {
		t.Errorf("content type is %q", w.Header().Get("Content-Type"))
	}
	id, _ := KeyID(key.Public())
	if len(set.Keys) != 1 || set.Keys[0].Kid != id || set.Keys[0].Alg != "ES256" {
		t.Fatalf("keys are %+v", set.Keys)
	}
	x, _ := base64.RawURLEncoding.DecodeString(set.Keys[0].X)
	if len(x) != 32 || key.X.FillBytes(make([]byte, 32))[0] != x[0] {
		t.Error("X is not the key's")
	}
	if _, err := NewDiscovery("http://plain", "", nil); err == nil {
		t.Error("a plain http issuer must be refused")
	}
}

func TestWeakKeysAreRefused(t *testing.T) {
	weak, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := NewSigner(issuer, weak); err == nil {
		t.Error("P-224 must be refused")
	}
}
