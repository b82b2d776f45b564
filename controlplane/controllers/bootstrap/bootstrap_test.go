package bootstrap

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/reevehq/reeve/controlplane/controllers/looptest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func token(id string, expires time.Time, change map[string]string) *v1.Secret {
	s := &v1.Secret{ObjectMeta: metav1.ObjectMeta{Name: secretPrefix + id, Namespace: "kube-system"}, Type: secretType,
		Data: map[string][]byte{keyID: []byte(id), keySecret: []byte("0123456789abcdef"), keySigning: []byte("true")}}
	if !expires.IsZero() {
		s.Data[keyExpires] = []byte(expires.Format(time.RFC3339))
	}
	for k, v := range change {
		s.Data[k] = []byte(v)
	}
	return s
}

func TestSignaturesAreThoseOfLivingSigningTokens(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	data := map[string]string{infoKey: "content", infoSignature + "gone00": "stale", "other": "kept"}
	got := signed(data, []*v1.Secret{
		token("aaaaaa", time.Time{}, nil), token("bbbbbb", now.Add(time.Hour), nil), token("cccccc", now.Add(-time.Hour), nil),
		token("dddddd", time.Time{}, map[string]string{keySigning: "false"}), token("eeeeee", time.Time{}, map[string]string{keySecret: "short"}),
		token("ffffff", time.Time{}, map[string]string{keyExpires: "tomorrow"}),
	}, now)
	want := []string{infoKey, infoSignature + "aaaaaa", infoSignature + "bbbbbb", "other"}
	for _, k := range want {
		if _, ok := got[k]; !ok {
			t.Errorf("no key %q", k)
		}
	}
	if len(got) != len(want) {
		t.Errorf("keys %v", maps.Keys(got))
	}
	// Anyone with the token checks it like this.
	parts := strings.Split(got[infoSignature+"aaaaaa"], ".")
	if len(parts) != 3 || parts[1] != "" {
		t.Fatalf("not a detached signature: %v", parts)
	}
	mac := hmac.New(sha256.New, []byte("0123456789abcdef"))
	mac.Write([]byte(parts[0] + "." + base64.RawURLEncoding.EncodeToString([]byte("content"))))
	if sum := base64.RawURLEncoding.EncodeToString(mac.Sum(nil)); sum != parts[2] {
		t.Errorf("signature %s, want %s", parts[2], sum)
	}
	if head, _ := base64.RawURLEncoding.DecodeString(parts[0]); string(head) != `{"alg":"HS256","kid":"aaaaaa"}` {
		t.Errorf("header %s", head)
	}
}

func TestExpiredTokensGo(t *testing.T) {
	now := time.Now()
	c := looptest.New(t, token("aaaaaa", now.Add(-time.Minute), nil), token("bbbbbb", now.Add(time.Hour), nil), token("cccccc", time.Time{}, nil))
	c.Run(NewCleaner(c.Env))
	c.Eventually("the expired token's end", func() error {
		if _, err := c.CoreV1().Secrets("kube-system").Get(t.Context(), secretPrefix+"aaaaaa", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			return fmt.Errorf("%v", err)
		}
		return nil
	})
	if list, _ := c.CoreV1().Secrets("kube-system").List(t.Context(), metav1.ListOptions{}); len(list.Items) != 2 {
		t.Errorf("%d tokens are left, want 2", len(list.Items))
	}
}
