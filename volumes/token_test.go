package volumes

import (
	"testing"
	"testing/synctest"
	"time"

	corev1 "k8s.io/api/core/v1"
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
