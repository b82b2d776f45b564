package volumes

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	authv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestRenewAt(t *testing.T) {
	t0 := time.Unix(0, 0)
	if got := renewAt(t0, t0.Add(100*time.Minute), 10*time.Second); got != t0.Add(80*time.Minute-10*time.Second) {
		t.Errorf("an hour's token: %v", got.Sub(t0))
	}
	if got := renewAt(t0, t0.Add(365*24*time.Hour), 0); got != t0.Add(24*time.Hour) {
		t.Errorf("a year's token: %v", got.Sub(t0))
	}
	if got := renewAt(t0, t0.Add(-time.Hour), 0); got.Before(t0) {
		t.Errorf("a token that has ended: %v", got.Sub(t0))
	}
}

// A token is asked for once, renewed when due, and while that fails the old one is served as long as it is valid.
func TestTokenLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &fakeTokens{life: 100 * time.Minute}
		c := newTokenCache(src)
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "u"}}
		ask := func() (string, time.Time, error) {
			return c.get(t.Context(), pod, &corev1.ServiceAccountTokenProjection{Path: "token"})
		}
		first, renew, err := ask()
		if err != nil || first != "ns/default#1" {
			t.Fatalf("first token %q, %v", first, err)
		}
		time.Sleep(time.Until(renew) - time.Second)
		if tok, _, _ := ask(); tok != first {
			t.Errorf("renewed before it was due: %q", tok)
		}
		time.Sleep(2 * time.Second)
		src.fail.Store(true)
		tok, again, err := ask()
		if err != nil || tok != first || time.Until(again) > time.Minute {
			t.Errorf("while renewal fails: %q, next in %v, %v", tok, time.Until(again), err)
		}
		time.Sleep(25 * time.Minute)
		if _, _, err := ask(); err == nil {
			t.Error("an expired token was served")
		}
		src.fail.Store(false)
		if tok, _, err := ask(); err != nil || tok == first {
			t.Errorf("after the API server came back: %q, %v", tok, err)
		}
	})
}

// The first refusals of a node's request are a cache that lags, not the answer.
func TestTokenRefusedAtFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &refusing{n: 4}
		c := newTokenCache(src)
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "u"}}
		ask := func() error {
			_, _, err := c.get(t.Context(), pod, &corev1.ServiceAccountTokenProjection{Path: "token"})
			return err
		}
		if err := ask(); err != nil {
			t.Errorf("after 4 refusals: %v", err)
		}
		src.n = 1000
		c.forget("u")
		start := time.Now()
		if err := ask(); !apierrors.IsForbidden(err) || time.Since(start) > time.Second {
			t.Errorf("refused for good: %v after %v", err, time.Since(start))
		}
	})
}

type refusing struct{ n int }

func (r *refusing) CreateToken(_ context.Context, _, sa string, tr *authv1.TokenRequest) (*authv1.TokenRequest, error) {
	if r.n--; r.n >= 0 {
		return nil, apierrors.NewForbidden(corev1.Resource("serviceaccounts"), sa, errors.New("node requested token bound to a pod scheduled on a different node"))
	}
	tr.Status = authv1.TokenRequestStatus{Token: "t", ExpirationTimestamp: metav1.NewTime(time.Now().Add(time.Hour))}
	return tr, nil
}

func jwt(t *testing.T, claims map[string]any) string {
	t.Helper()
	raw, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	return "h." + base64.RawURLEncoding.EncodeToString(raw) + ".s"
}

// After a restart a pod's token is taken from its file while it is the pod's own and not due.
func TestTokenAdopted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "u"}, Spec: corev1.PodSpec{ServiceAccountName: "sa"}}
		now := time.Now().Unix()
		claims := func(change func(m, k map[string]any)) map[string]any {
			k := map[string]any{"namespace": "ns", "pod": map[string]any{"uid": "u"}, "serviceaccount": map[string]any{"name": "sa"}}
			m := map[string]any{"iat": now - 600, "exp": now + 3000, "aud": []string{"api"}, "kubernetes.io": k}
			if change != nil {
				change(m, k)
			}
			return m
		}
		for name, tc := range map[string]struct {
			token    string
			audience string
			adopted  bool
		}{
			"ours":                     {jwt(t, claims(nil)), "", true},
			"ours, audience":           {jwt(t, claims(nil)), "api", true},
			"ours, audience as string": {jwt(t, claims(func(m, _ map[string]any) { m["aud"] = "api" })), "api", true},
			"another audience":         {jwt(t, claims(nil)), "vault", false},
			"another pod's":            {jwt(t, claims(func(_, k map[string]any) { k["pod"] = map[string]any{"uid": "x"} })), "", false},
			"another account's":        {jwt(t, claims(func(_, k map[string]any) { k["serviceaccount"] = map[string]any{"name": "x"} })), "", false},
			"due":                      {jwt(t, claims(func(m, _ map[string]any) { m["iat"] = now - 50*60; m["exp"] = now + 600 })), "", false},
			"extended, not due":        {jwt(t, claims(func(m, k map[string]any) { m["exp"] = now + 365*24*3600; k["warnafter"] = now + 3000 })), "", true},
			"extended, due":            {jwt(t, claims(func(m, k map[string]any) { m["exp"] = now + 365*24*3600; k["warnafter"] = now + 10 })), "", false},
			"half a file":              {"h.eyJ", "", false},
			"no token":                 {"h.bm8.s", "", false},
		} {
			c := newTokenCache(&fakeTokens{life: time.Hour})
			src := &corev1.ServiceAccountTokenProjection{Path: "token", Audience: tc.audience}
			c.adopt(pod, src, func() ([]byte, error) { return []byte(tc.token), nil })
			got, _, err := c.get(t.Context(), pod, src)
			if err != nil || (got == tc.token) != tc.adopted {
				t.Errorf("%s: %q, %v; adopted should be %v", name, got, err, tc.adopted)
			}
		}
	})
}
