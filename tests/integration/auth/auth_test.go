package auth

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"

	"github.com/reevehq/reeve/tests/integration/apiserver"
)

func namespace(t *testing.T, name string) string {
	t.Helper()
	_, err := shared.Admin.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	must(t, "create namespace", err)
	return name
}

func account(t *testing.T, ns, name string) {
	t.Helper()
	_, err := shared.Admin.CoreV1().ServiceAccounts(ns).Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	must(t, "create service account", err)
}

func secret(t *testing.T, ns, name string) {
	t.Helper()
	_, err := shared.Admin.CoreV1().Secrets(ns).Create(t.Context(), &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{})
	must(t, "create secret", err)
}

// boundPod is a pod on the node that mounts the secret.
func boundPod(t *testing.T, ns, name, node, mounts string) *corev1.Pod {
	t.Helper()
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PodSpec{
		NodeName: node, ServiceAccountName: "web", TerminationGracePeriodSeconds: ptr.To(int64(0)),
		Containers: []corev1.Container{{Name: "c", Image: "i"}},
	}}
	if mounts != "" {
		p.Spec.Volumes = []corev1.Volume{{Name: "s", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: mounts}}}}
		p.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "s", MountPath: "/s"}}
	}
	out, err := shared.Admin.CoreV1().Pods(ns).Create(t.Context(), p, metav1.CreateOptions{})
	must(t, "create pod", err)
	return out
}

func nodeClient(t *testing.T, name string) kubernetes.Interface {
	t.Helper()
	return shared.User(t, "system:node:"+name, "system:nodes")
}

func node(name string) *corev1.Node { return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}} }

func TestNodeReachesOnlyItsOwn(t *testing.T) {
	ctx := t.Context()
	ns := namespace(t, "nodes")
	account(t, ns, "web")
	account(t, ns, "other")
	secret(t, ns, "mine")
	secret(t, ns, "theirs")
	boundPod(t, ns, "here", "node-a", "mine")
	there := boundPod(t, ns, "there", "node-b", "theirs")
	a, b := nodeClient(t, "node-a"), nodeClient(t, "node-b")

	_, err := a.CoreV1().Nodes().Create(ctx, node("node-a"), metav1.CreateOptions{})
	must(t, "a node registers itself", err)
	_, err = b.CoreV1().Nodes().Create(ctx, node("node-b"), metav1.CreateOptions{})
	must(t, "another node registers itself", err)
	_, err = a.CoreV1().Nodes().Create(ctx, node("node-c"), metav1.CreateOptions{})
	forbidden(t, "registering another node", err)

	_, err = a.CoreV1().Secrets(ns).Get(ctx, "mine", metav1.GetOptions{})
	must(t, "read the secret of its pod", err)
	_, err = a.CoreV1().Secrets(ns).Get(ctx, "theirs", metav1.GetOptions{})
	forbidden(t, "reading an unrelated secret", err)
	_, err = a.CoreV1().Secrets(ns).List(ctx, metav1.ListOptions{})
	forbidden(t, "listing secrets", err)
	_, err = a.CoreV1().Secrets(ns).List(ctx, metav1.ListOptions{FieldSelector: "metadata.name=mine"})
	must(t, "list the one secret by name", err)
	_, err = a.CoreV1().Secrets(ns).Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "new"}}, metav1.CreateOptions{})
	forbidden(t, "creating a secret", err)

	// The other node's objects.
	patch := []byte(`{"metadata":{"labels":{"x":"y"}}}`)
	_, err = a.CoreV1().Nodes().Patch(ctx, "node-b", types.MergePatchType, patch, metav1.PatchOptions{})
	forbidden(t, "writing another node", err)
	_, err = a.CoreV1().Nodes().Patch(ctx, "node-b", types.MergePatchType, []byte(`{"status":{"phase":"x"}}`), metav1.PatchOptions{}, "status")
	forbidden(t, "writing another node's status", err)
	forbidden(t, "deleting another node", a.CoreV1().Nodes().Delete(ctx, "node-b", metav1.DeleteOptions{}))
	_, err = a.CoreV1().Nodes().Patch(ctx, "node-a", types.MergePatchType, patch, metav1.PatchOptions{})
	must(t, "label itself", err)
	_, err = a.CoreV1().Nodes().Patch(ctx, "node-a", types.MergePatchType, []byte(`{"spec":{"taints":[]},"metadata":{"labels":{"node-restriction.kubernetes.io/x":"y"}}}`), metav1.PatchOptions{})
	forbidden(t, "giving itself a restricted label", err)
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: "node-b"}}
	_, err = a.CoordinationV1().Leases(corev1.NamespaceNodeLease).Update(ctx, lease, metav1.UpdateOptions{})
	forbidden(t, "renewing another node's lease", err)

	// Pods.
	_, err = a.CoreV1().Pods("").List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=node-a"})
	must(t, "list its pods", err)
	_, err = a.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
	forbidden(t, "listing all pods", err)
	_, err = a.CoreV1().Pods(ns).Get(ctx, "there", metav1.GetOptions{})
	forbidden(t, "reading another node's pod", err)
	there.Status.Phase = corev1.PodFailed
	_, err = a.CoreV1().Pods(ns).UpdateStatus(ctx, there, metav1.UpdateOptions{})
	forbidden(t, "failing another node's pod", err)
	forbidden(t, "deleting another node's pod", a.CoreV1().Pods(ns).Delete(ctx, "there", metav1.DeleteOptions{}))
	_, err = a.CoreV1().Pods(ns).Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "own"}, Spec: corev1.PodSpec{
		NodeName: "node-a", Containers: []corev1.Container{{Name: "c", Image: "i"}}}}, metav1.CreateOptions{})
	forbidden(t, "creating a pod that is no mirror", err)

	// Tokens: only of accounts of its pods, only bound to them.
	_, err = a.CoreV1().ServiceAccounts(ns).CreateToken(ctx, "other", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	forbidden(t, "a token of an account that runs elsewhere", err)
	_, err = a.CoreV1().ServiceAccounts(ns).CreateToken(ctx, "web", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	forbidden(t, "a token that is bound to no pod", err)
	_, err = a.CoreV1().ServiceAccounts(ns).CreateToken(ctx, "web", tokenFor(there), metav1.CreateOptions{})
	forbidden(t, "a token for another node's pod", err)
}

func tokenFor(p *corev1.Pod) *authenticationv1.TokenRequest {
	return &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{ExpirationSeconds: ptr.To(int64(3607)),
		BoundObjectRef: &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: p.Name, UID: p.UID}}}
}

func TestBoundTokenDiesWithItsPod(t *testing.T) {
	ctx := t.Context()
	ns := namespace(t, "bound")
	account(t, ns, "web")
	pod := boundPod(t, ns, "p", "node-a", "")
	resp, err := nodeClient(t, "node-a").CoreV1().ServiceAccounts(ns).CreateToken(ctx, "web", tokenFor(pod), metav1.CreateOptions{})
	must(t, "the node asks for its pod's token", err)
	if in := time.Until(resp.Status.ExpirationTimestamp.Time); in > 2*time.Hour {
		t.Errorf("the holder is told %v", in)
	}
	holder := shared.Bearer(t, resp.Status.Token)
	self, err := holder.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	must(t, "use the token", err)
	u := self.Status.UserInfo
	if u.Username != "system:serviceaccount:bound:web" || !slices.Contains(u.Groups, "system:serviceaccounts:bound") ||
		u.Extra["authentication.kubernetes.io/pod-uid"][0] != string(pod.UID) {
		t.Errorf("user is %+v", u)
	}
	review, err := shared.Admin.AuthenticationV1().TokenReviews().Create(ctx,
		&authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: resp.Status.Token}}, metav1.CreateOptions{})
	if err != nil || !review.Status.Authenticated {
		t.Errorf("TokenReview: %+v, %v", review.Status, err)
	}
	review, err = shared.Admin.AuthenticationV1().TokenReviews().Create(ctx,
		&authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: resp.Status.Token, Audiences: []string{"vault"}}}, metav1.CreateOptions{})
	if err != nil || review.Status.Authenticated {
		t.Errorf("TokenReview for a foreign audience: %+v, %v", review.Status, err)
	}

	must(t, "delete the pod", shared.Admin.CoreV1().Pods(ns).Delete(ctx, "p", metav1.DeleteOptions{GracePeriodSeconds: ptr.To(int64(0))}))
	apiserver.Eventually(t, "the token must end with its pod", func(ctx context.Context) error {
		_, err := holder.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
		if apierrors.IsUnauthorized(err) {
			return nil
		}
		return fmt.Errorf("got %v", err)
	})

	// A namesake does not bring it back.
	boundPod(t, ns, "p", "node-a", "")
	_, err = holder.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	unauthorized(t, "the old pod's token with a namesake", err)
}

func bootstrapToken(t *testing.T, id string, change func(map[string]string)) string {
	t.Helper()
	data := map[string]string{"token-id": id, "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true",
		"auth-extra-groups": "system:bootstrappers:test"}
	if change != nil {
		change(data)
	}
	_, err := shared.Admin.CoreV1().Secrets(metav1.NamespaceSystem).Create(t.Context(), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "bootstrap-token-" + id}, Type: corev1.SecretTypeBootstrapToken, StringData: data}, metav1.CreateOptions{})
	must(t, "create bootstrap token", err)
	return id + ".0123456789abcdef"
}

func TestBootstrapTokenOpensLittleAndEnds(t *testing.T) {
	ctx := t.Context()
	joiner := shared.Bearer(t, bootstrapToken(t, "aaaaaa", nil))
	who := func(ctx context.Context) error {
		_, err := joiner.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
		return err
	}
	apiserver.Eventually(t, "the token holds", who)
	_, err := joiner.CoreV1().Secrets(metav1.NamespaceSystem).List(ctx, metav1.ListOptions{})
	forbidden(t, "reading secrets", err)
	_, err = joiner.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	forbidden(t, "listing nodes", err)
	_, err = joiner.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
	forbidden(t, "listing pods", err)
	_, err = joiner.CertificatesV1().CertificateSigningRequests().List(ctx, metav1.ListOptions{})
	forbidden(t, "certificate requests, without the group that the node token has", err)

	expired := shared.Bearer(t, bootstrapToken(t, "bbbbbb", func(d map[string]string) {
		d["expiration"] = time.Now().Add(-time.Minute).UTC().Format(time.RFC3339)
	}))
	_, err = expired.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	unauthorized(t, "an expired token", err)
	wrong := shared.Bearer(t, "aaaaaa.ffffffffffffffff")
	_, err = wrong.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
	unauthorized(t, "a wrong secret", err)

	must(t, "revoke", shared.Admin.CoreV1().Secrets(metav1.NamespaceSystem).Delete(ctx, "bootstrap-token-aaaaaa", metav1.DeleteOptions{}))
	apiserver.Eventually(t, "a revoked token ends", func(ctx context.Context) error {
		if err := who(ctx); !apierrors.IsUnauthorized(err) {
			return fmt.Errorf("got %v", err)
		}
		return nil
	})
}

func TestAnonymousSeesHealthOnly(t *testing.T) {
	ctx := t.Context()
	anonymous := shared.Anonymous(t)
	for _, path := range []string{"/readyz", "/healthz", "/livez", "/version"} {
		must(t, "anonymous "+path, anonymous.Discovery().RESTClient().Get().AbsPath(path).Do(ctx).Error())
	}
	forbidden(t, "anonymous /metrics", anonymous.Discovery().RESTClient().Get().AbsPath("/metrics").Do(ctx).Error())
	forbidden(t, "anonymous /api", anonymous.Discovery().RESTClient().Get().AbsPath("/api").Do(ctx).Error())
	_, err := anonymous.CoreV1().Pods("").List(ctx, metav1.ListOptions{})
	forbidden(t, "anonymous pods", err)
	_, err = shared.Bearer(t, "nonsense").CoreV1().Pods("").List(ctx, metav1.ListOptions{})
	unauthorized(t, "a nonsense token", err)
}

func bind(t *testing.T, ns, role string, subject rbacv1.Subject) {
	t.Helper()
	_, err := shared.Admin.RbacV1().RoleBindings(ns).Create(t.Context(), &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{GenerateName: "b-"},
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role}, Subjects: []rbacv1.Subject{subject}}, metav1.CreateOptions{})
	must(t, "bind "+role, err)
}

func userSubject(name string) rbacv1.Subject {
	return rbacv1.Subject{APIGroup: rbacv1.GroupName, Kind: "User", Name: name}
}

// canI is kubectl auth can-i.
func canI(ctx context.Context, k kubernetes.Interface, ns, verb, group, resource, sub string) (bool, error) {
	r, err := k.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{
		ResourceAttributes: &authorizationv1.ResourceAttributes{Namespace: ns, Verb: verb, Group: group, Resource: resource, Subresource: sub}}}, metav1.CreateOptions{})
	if err != nil {
		return false, err
	}
	return r.Status.Allowed, nil
}

func TestBootstrapRolesByCanI(t *testing.T) {
	ns := namespace(t, "roles")
	for _, role := range []string{"view", "edit", "admin"} {
		bind(t, ns, role, userSubject(role+"er"))
	}
	viewer, editor, admin := shared.User(t, "viewer"), shared.User(t, "editer"), shared.User(t, "adminer")
	apiserver.Eventually(t, "the last binding has arrived", func(ctx context.Context) error {
		if ok, err := canI(ctx, admin, ns, "create", rbacv1.GroupName, "roles", ""); !ok {
			return fmt.Errorf("not yet: %v", err)
		}
		return nil
	})
	for _, c := range []struct {
		who                         kubernetes.Interface
		name, verb, group, res, sub string
		want                        bool
	}{
		{viewer, "view", "list", "", "pods", "", true},
		{viewer, "view", "get", "", "pods", "log", true},
		{viewer, "view", "get", "", "secrets", "", false},
		{viewer, "view", "create", "", "pods", "", false},
		{viewer, "view", "create", "", "pods", "exec", false},
		{editor, "edit", "delete", "apps", "deployments", "", true},
		{editor, "edit", "get", "", "secrets", "", true},
		{editor, "edit", "create", "", "pods", "exec", true},
		{editor, "edit", "create", rbacv1.GroupName, "roles", "", false},
		{editor, "edit", "update", "discovery.k8s.io", "endpointslices", "", false},
		{admin, "admin", "create", rbacv1.GroupName, "rolebindings", "", true},
		{admin, "admin", "update", "", "resourcequotas", "", false},
		{admin, "admin", "list", "", "nodes", "", false},
	} {
		got, err := canI(t.Context(), c.who, ns, c.verb, c.group, c.res, c.sub)
		if err != nil || got != c.want {
			t.Errorf("%s: can %s %s/%s is %v (%v), want %v", c.name, c.verb, c.res, c.sub, got, err, c.want)
		}
		if other, err := canI(t.Context(), c.who, "default", c.verb, c.group, c.res, c.sub); err != nil || other {
			t.Errorf("%s reaches the namespace default: %v, %v", c.name, other, err)
		}
	}
}

func TestAccessReviews(t *testing.T) {
	ctx := t.Context()
	ns := namespace(t, "reviews")
	bind(t, ns, "view", userSubject("jane"))
	pods := &authorizationv1.ResourceAttributes{Namespace: ns, Verb: "list", Resource: "pods"}
	apiserver.Eventually(t, "SubjectAccessReview sees the binding", func(ctx context.Context) error {
		r, err := shared.Admin.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{
			Spec: authorizationv1.SubjectAccessReviewSpec{User: "jane", ResourceAttributes: pods}}, metav1.CreateOptions{})
		if err != nil || !r.Status.Allowed {
			return fmt.Errorf("%+v, %v", r.Status, err)
		}
		return nil
	})
	local, err := shared.Admin.AuthorizationV1().LocalSubjectAccessReviews(ns).Create(ctx, &authorizationv1.LocalSubjectAccessReview{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns}, Spec: authorizationv1.SubjectAccessReviewSpec{User: "jane", ResourceAttributes: pods}}, metav1.CreateOptions{})
	if err != nil || !local.Status.Allowed {
		t.Errorf("LocalSubjectAccessReview: %+v, %v", local, err)
	}
	jane := shared.User(t, "jane")
	rules, err := jane.AuthorizationV1().SelfSubjectRulesReviews().Create(ctx, &authorizationv1.SelfSubjectRulesReview{
		Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: ns}}, metav1.CreateOptions{})
	must(t, "SelfSubjectRulesReview", err)
	if !slices.ContainsFunc(rules.Status.ResourceRules, func(r authorizationv1.ResourceRule) bool { return slices.Contains(r.Resources, "pods/log") }) || rules.Status.Incomplete {
		t.Errorf("rules are %+v", rules.Status)
	}
	_, err = jane.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{
		Spec: authorizationv1.SubjectAccessReviewSpec{User: "x", ResourceAttributes: pods}}, metav1.CreateOptions{})
	forbidden(t, "asking for others without the right to", err)
}

func TestEscalationIsRefused(t *testing.T) {
	ctx := t.Context()
	ns := namespace(t, "escalation")
	bind(t, ns, "admin", userSubject("owner"))
	owner := shared.User(t, "owner")
	apiserver.Eventually(t, "the owner may write roles", func(ctx context.Context) error {
		if ok, err := canI(ctx, owner, ns, "create", rbacv1.GroupName, "roles", ""); !ok {
			return fmt.Errorf("not yet: %v", err)
		}
		return nil
	})
	roles := owner.RbacV1().Roles(ns)
	rule := func(verb, resource string) []rbacv1.PolicyRule {
		return []rbacv1.PolicyRule{{Verbs: []string{verb}, APIGroups: []string{""}, Resources: []string{resource}}}
	}
	_, err := roles.Create(ctx, &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "fine"}, Rules: rule("get", "pods")}, metav1.CreateOptions{})
	must(t, "grant what one holds", err)
	_, err = roles.Create(ctx, &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "more"}, Rules: rule("update", "resourcequotas")}, metav1.CreateOptions{})
	forbidden(t, "granting more than one holds", err)
	_, err = roles.Patch(ctx, "fine", types.JSONPatchType, []byte(`[{"op":"replace","path":"/rules/0/resources","value":["*"]}]`), metav1.PatchOptions{})
	forbidden(t, "widening a role by patch", err)
	_, err = roles.Patch(ctx, "applied", types.ApplyPatchType, []byte(`{"apiVersion":"rbac.authorization.k8s.io/v1","kind":"Role","metadata":{"name":"applied"},"rules":[{"apiGroups":["*"],"resources":["*"],"verbs":["*"]}]}`),
		metav1.PatchOptions{FieldManager: "test"})
	forbidden(t, "creating a wide role by server-side apply", err)

	bindings := owner.RbacV1().RoleBindings(ns)
	to := func(role string) *rbacv1.RoleBinding {
		return &rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{GenerateName: "b-"},
			RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: role}, Subjects: []rbacv1.Subject{userSubject("friend")}}
	}
	_, err = bindings.Create(ctx, to("edit"), metav1.CreateOptions{})
	must(t, "bind a role that one holds", err)
	_, err = bindings.Create(ctx, to("cluster-admin"), metav1.CreateOptions{})
	forbidden(t, "binding cluster-admin", err)
	_, err = owner.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "x"},
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "view"}}, metav1.CreateOptions{})
	forbidden(t, "binding cluster-wide", err)

	// Who may impersonate nobody cannot become somebody.
	_, err = owner.CoreV1().RESTClient().Get().Resource("nodes").SetHeader("Impersonate-User", "system:admin").SetHeader("Impersonate-Group", "system:masters").DoRaw(ctx)
	forbidden(t, "impersonating an administrator", err)
}
