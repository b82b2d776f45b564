package bootstrap

import (
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/big"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// extensionAuthentication publishes what extension API servers need to believe the aggregator.
func extensionAuthentication(ctx context.Context, c Config) error {
	list := func(values ...string) string {
		raw, _ := json.Marshal(values) // strings always marshal
		return string(raw)
	}
	return configMap(ctx, c, metav1.NamespaceSystem, "extension-apiserver-authentication", map[string]string{
		"client-ca-file":                     string(c.PKI.CA.CertPEM),
		"requestheader-client-ca-file":       string(c.PKI.FrontProxyCA.CertPEM),
		"requestheader-allowed-names":        list("front-proxy-client"),
		"requestheader-username-headers":     list("X-Remote-User"),
		"requestheader-uid-headers":          list("X-Remote-Uid"),
		"requestheader-group-headers":        list("X-Remote-Group"),
		"requestheader-extra-headers-prefix": list("X-Remote-Extra-"),
	})
}

// configMap makes the ConfigMap or puts the given keys right; other keys are left alone.
func configMap(ctx context.Context, c Config, namespace, name string, data map[string]string) error {
	client := c.Client.CoreV1().ConfigMaps(namespace)
	got, err := client.Get(ctx, name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		_, err = client.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}, Data: data}, metav1.CreateOptions{})
		err = ignoreExists(err)
	case err == nil:
		before := got.DeepCopy()
		if got.Data == nil {
			got.Data = map[string]string{}
		}
		for k, v := range data {
			got.Data[k] = v
		}
		if apiequality.Semantic.DeepEqual(before.Data, got.Data) {
			return nil
		}
		_, err = client.Update(ctx, got, metav1.UpdateOptions{})
	}
	return wrap(err, fmt.Sprintf("set ConfigMap \"%s/%s\"", namespace, name))
}

// tokenForm is the node token: format, hash of the server authority, a reserved field, the bootstrap token.
var tokenForm = regexp.MustCompile(`^R1([0-9a-f]{64})::([a-z0-9]{6})\.([a-z0-9]{16})$`)

// bootstrappers is the group that the token's holders are in.
const bootstrappers = "system:bootstrappers:reeve:default-node-token"

// nodeToken keeps the token by which nodes join: in a file for the administrator and as a bootstrap token Secret. The
// file is the source: deleting the file and restarting makes a new token, and the old one ends.
func nodeToken(ctx context.Context, c Config) error {
	id, secret, err := readOrMakeToken(c)
	if err != nil {
		return err
	}
	client := c.Client.CoreV1().Secrets(metav1.NamespaceSystem)
	name := "bootstrap-token-" + id
	_, err = client.Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = client.Create(ctx, &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Type:       corev1.SecretTypeBootstrapToken,
			StringData: map[string]string{
				"description": "Lets nodes join. Written to the server's node-token file.",
				"token-id":    id, "token-secret": secret,
				"usage-bootstrap-authentication": "true", "usage-bootstrap-signing": "true",
				"auth-extra-groups": bootstrappers,
			},
		}, metav1.CreateOptions{})
		err = ignoreExists(err)
	}
	if err != nil {
		return wrap(err, fmt.Sprintf("create Secret \"kube-system/%s\"", name))
	}
	return bootstrapBindings(ctx, c)
}

// bootstrapBindings lets the token's holders ask for a node's client certificate and have it approved, and nodes renew
// theirs. The roles are upstream's bootstrap roles.
func bootstrapBindings(ctx context.Context, c Config) error {
	var errs []error
	for _, b := range []struct{ name, role, group string }{
		{"reeve:node-bootstrapper", "system:node-bootstrapper", bootstrappers},
		{"reeve:node-autoapprove-bootstrap", "system:certificates.k8s.io:certificatesigningrequests:nodeclient", bootstrappers},
		{"reeve:node-autoapprove-renewal", "system:certificates.k8s.io:certificatesigningrequests:selfnodeclient", user.NodesGroup},
	} {
		client := c.Client.RbacV1().ClusterRoleBindings()
		_, err := client.Get(ctx, b.name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			_, err = client.Create(ctx, &rbacv1.ClusterRoleBinding{
				ObjectMeta: metav1.ObjectMeta{Name: b.name},
				RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: b.role},
				Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: b.group}},
			}, metav1.CreateOptions{})
			err = ignoreExists(err)
		}
		errs = append(errs, wrap(err, fmt.Sprintf("create ClusterRoleBinding %q", b.name)))
	}
	return errors.Join(errs...)
}

func readOrMakeToken(c Config) (id, secret string, err error) {
	raw, err := os.ReadFile(c.TokenFile)
	if err == nil {
		m := tokenForm.FindStringSubmatch(strings.TrimSpace(string(raw)))
		if m == nil {
			return "", "", fmt.Errorf("read node token %q: not of the form R1<hash>::<id>.<secret>: delete the file to have a new one made", c.TokenFile)
		}
		if m[1] != c.PKI.CAHash() {
			return "", "", fmt.Errorf("read node token %q: it names another certificate authority than this server's: delete the file to have a new one made", c.TokenFile)
		}
		return m[2], m[3], nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return "", "", fmt.Errorf("read node token: %w", err)
	}
	if id, err = randomText(6); err != nil {
		return "", "", err
	}
	if secret, err = randomText(16); err != nil {
		return "", "", err
	}
	tmp, err := os.CreateTemp(filepath.Dir(c.TokenFile), ".node-token-*") // 0600
	if err != nil {
		return "", "", fmt.Errorf("write node token: %w", err)
	}
	_, err = io.WriteString(tmp, "R1"+c.PKI.CAHash()+"::"+id+"."+secret+"\n")
	err = errors.Join(err, tmp.Sync(), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), c.TokenFile)
	}
	if err != nil {
		os.Remove(tmp.Name())
		return "", "", fmt.Errorf("write node token: %w", err)
	}
	return id, secret, nil
}

func randomText(n int) (string, error) {
	const alphabet = "abcdefghijklmnopqrstuvwxyz0123456789"
	out := make([]byte, n)
	for i := range out {
		k, err := rand.Int(rand.Reader, big.NewInt(int64(len(alphabet))))
		if err != nil {
			return "", fmt.Errorf("make random token: %w", err)
		}
		out[i] = alphabet[k.Int64()]
	}
	return string(out), nil
}

// clusterInfo publishes where the API is and how to trust it, signed with the node token, for `kubeadm join` and other
// tools that discover by token. Anyone may read it.
func clusterInfo(ctx context.Context, c Config) error {
	id, secret, err := readOrMakeToken(c)
	if err != nil {
		return err
	}
	kubeconfig := clientcmdapi.NewConfig()
	kubeconfig.Clusters[""] = &clientcmdapi.Cluster{Server: c.ServerURL, CertificateAuthorityData: c.PKI.CA.CertPEM}
	content, err := clientcmd.Write(*kubeconfig)
	if err != nil {
		return fmt.Errorf("serialise cluster-info: %w", err)
	}
	if err := configMap(ctx, c, metav1.NamespacePublic, "cluster-info", map[string]string{
		"kubeconfig": string(content), "jws-kubeconfig-" + id: detachedSignature(content, id, secret),
	}); err != nil {
		return err
	}
	role := &rbacv1.Role{
		ObjectMeta: metav1.ObjectMeta{Name: "reeve:cluster-info"},
		Rules:      []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"configmaps"}, ResourceNames: []string{"cluster-info"}, Verbs: []string{"get"}}},
	}
	binding := &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: role.Name},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: role.Name},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: user.Anonymous}},
	}
	rbac := c.Client.RbacV1()
	if _, err := rbac.Roles(metav1.NamespacePublic).Get(ctx, role.Name, metav1.GetOptions{}); apierrors.IsNotFound(err) {
		if _, err := rbac.Roles(metav1.NamespacePublic).Create(ctx, role, metav1.CreateOptions{}); ignoreExists(err) != nil {
			return fmt.Errorf("create Role \"kube-public/%s\": %w", role.Name, err)
		}
	}
	if _, err := rbac.RoleBindings(metav1.NamespacePublic).Get(ctx, role.Name, metav1.GetOptions{}); apierrors.IsNotFound(err) {
		if _, err := rbac.RoleBindings(metav1.NamespacePublic).Create(ctx, binding, metav1.CreateOptions{}); ignoreExists(err) != nil {
			return fmt.Errorf("create RoleBinding \"kube-public/%s\": %w", role.Name, err)
		}
	}
	return nil
}

// detachedSignature is a JWS (RFC 7515) over content by HS256 with its payload left out, as kubeadm's discovery checks.
func detachedSignature(content []byte, id, secret string) string {
	encode := base64.RawURLEncoding.EncodeToString
	header := encode([]byte(`{"alg":"HS256","kid":"` + id + `"}`))
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte(header + "." + encode(content)))
	return header + ".." + encode(mac.Sum(nil))
}
