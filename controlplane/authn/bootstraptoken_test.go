package authn

import (
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func bootstrapSecret(change func(*corev1.Secret)) *corev1.Secret {
	s := &corev1.Secret{
		ObjectMeta: meta(metav1.NamespaceSystem, "bootstrap-token-abcdef", "b"), Type: corev1.SecretTypeBootstrapToken,
		Data: map[string][]byte{
			bootstrapKeyID: []byte("abcdef"), bootstrapKeySecret: []byte("0123456789abcdef"), bootstrapKeyAuthentication: []byte("true"),
			bootstrapKeyExtraGroups: []byte("system:bootstrappers:reeve:default-node-token"),
		},
	}
	change(s)
	return s
}

func TestBootstrapTokens(t *testing.T) {
	const token = "abcdef.0123456789abcdef"
	f := newFixture(t, ecKey(t))
	f.world.put("secret", bootstrapSecret(func(*corev1.Secret) {}))
	u, err := f.ask(token)
	if err != nil || u.GetName() != "system:bootstrap:abcdef" {
		t.Fatalf("user %v, err %v", u, err)
	}
	for _, g := range []string{BootstrapGroup, "system:bootstrappers:reeve:default-node-token"} {
		if !slices.Contains(u.GetGroups(), g) {
			t.Errorf("groups %v lack %s", u.GetGroups(), g)
		}
	}
	if _, err := f.ask("abcdef.0123456789abcdee"); err == nil {
		t.Error("a wrong secret must be refused")
	}

	past := f.now.Add(-time.Second).Format(time.RFC3339)
	for name, change := range map[string]func(*corev1.Secret){
		"wrong type":       func(s *corev1.Secret) { s.Type = corev1.SecretTypeOpaque },
		"not for auth":     func(s *corev1.Secret) { s.Data[bootstrapKeyAuthentication] = []byte("false") },
		"other id inside":  func(s *corev1.Secret) { s.Data[bootstrapKeyID] = []byte("fedcba") },
		"empty secret":     func(s *corev1.Secret) { delete(s.Data, bootstrapKeySecret) },
		"expired":          func(s *corev1.Secret) { s.Data[bootstrapKeyExpiration] = []byte(past) },
		"unreadable date":  func(s *corev1.Secret) { s.Data[bootstrapKeyExpiration] = []byte("soon") },
		"privileged group": func(s *corev1.Secret) { s.Data[bootstrapKeyExtraGroups] = []byte("system:masters") },
		"being deleted":    func(s *corev1.Secret) { now := metav1.Now(); s.DeletionTimestamp = &now },
	} {
		f.world.put("secret", bootstrapSecret(change))
		if u, err := f.ask(token); err == nil {
			t.Errorf("%s: authenticates as %v", name, u)
		}
	}
}
