package authz

import (
	"context"
	"log/slog"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/component-helpers/auth/rbac/validation"
)

// authorizerOver runs the whole authorizer over informers that hold objs.
func authorizerOver(t *testing.T, objs ...runtime.Object) (authorizer.Authorizer, *Rules) {
	t.Helper()
	shared := informers.NewSharedInformerFactory(fake.NewClientset(objs...), 0)
	a, rules, err := New(Config{Informers: shared})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(func() { cancel(); shared.Shutdown() })
	shared.StartWithContext(ctx)
	for kind, ok := range shared.WaitForCacheSync(ctx.Done()) {
		if !ok {
			t.Fatalf("informer of %v did not sync", kind)
		}
	}
	return a, rules
}

// policyObjects is the bootstrap policy as objects.
func policyObjects() []runtime.Object {
	p := BootstrapPolicy()
	seedAggregates(p.ClusterRoles)
	var out []runtime.Object
	for i := range p.ClusterRoles {
		out = append(out, &p.ClusterRoles[i])
	}
	for i := range p.ClusterRoleBindings {
		out = append(out, &p.ClusterRoleBindings[i])
	}
	for i := range p.Roles {
		out = append(out, &p.Roles[i])
	}
	for i := range p.RoleBindings {
		out = append(out, &p.RoleBindings[i])
	}
	return out
}

func who(name string, groups ...string) user.Info {
	return &user.DefaultInfo{Name: name, Groups: groups}
}

var nodeA = who("system:node:a", user.NodesGroup, user.AllAuthenticated)

// request reads "verb group/resource[/sub] [namespace/]name".
func request(u user.Info, verb, resource, object string) authorizer.AttributesRecord {
	a := authorizer.AttributesRecord{User: u, Verb: verb, ResourceRequest: true, APIVersion: "v1"}
	if g, rest, ok := strings.Cut(resource, ":"); ok {
		a.APIGroup, resource = g, rest
	}
	a.Resource, a.Subresource, _ = strings.Cut(resource, "/")
	if ns, name, ok := strings.Cut(object, "/"); ok {
		a.Namespace, a.Name = ns, name
	} else {
		a.Name = object
	}
	return a
}

func selecting(a authorizer.AttributesRecord, selector string) authorizer.AttributesRecord {
	a.FieldSelectorRequirements = fields.ParseSelectorOrDie(selector).Requirements()
	return a
}

func may(t *testing.T, a authorizer.Authorizer, r authorizer.AttributesRecord) bool {
	t.Helper()
	d, _, err := a.Authorize(context.Background(), r)
	if err != nil {
		t.Errorf("%+v: %v", r, err)
	}
	return d == authorizer.DecisionAllow
}

func nodeWorld() []runtime.Object {
	secretName := "from-env"
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"},
		Spec: corev1.PodSpec{
			NodeName: "a", ServiceAccountName: "web-sa",
			ImagePullSecrets: []corev1.LocalObjectReference{{Name: "pull"}},
			Volumes: []corev1.Volume{
				{Name: "s", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "mounted"}}},
				{Name: "p", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
					{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "kube-root-ca.crt"}}}}}}},
				{Name: "d", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "data"}}},
				{Name: "scratch", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{}}},
			},
			InitContainers: []corev1.Container{{Name: "i", EnvFrom: []corev1.EnvFromSource{
				{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "settings"}}}}}},
			Containers: []corev1.Container{{Name: "c", Env: []corev1.EnvVar{{Name: "X", ValueFrom: &corev1.EnvVarSource{
				SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: secretName}, Key: "k"}}}}}},
		},
	}
	elsewhere := pod.DeepCopy()
	elsewhere.Name, elsewhere.Spec.NodeName, elsewhere.Spec.ServiceAccountName = "other", "b", "other-sa"
	elsewhere.Spec.Volumes = []corev1.Volume{{Name: "s", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "others"}}}}
	elsewhere.Spec.ImagePullSecrets, elsewhere.Spec.InitContainers = nil, nil
	mirror := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "mirror", Annotations: map[string]string{corev1.MirrorPodAnnotationKey: "x"}},
		Spec: corev1.PodSpec{NodeName: "a", Volumes: []corev1.Volume{
			{Name: "s", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "crown-jewels"}}}}},
	}
	claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "data"},
		Spec: corev1.PersistentVolumeClaimSpec{VolumeName: "pv1"}}
	volume := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv1"}, Spec: corev1.PersistentVolumeSpec{
		ClaimRef: &corev1.ObjectReference{Namespace: "shop", Name: "data"},
		PersistentVolumeSource: corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{
			NodeStageSecretRef:        &corev1.SecretReference{Namespace: "storage", Name: "stage"},
			ControllerExpandSecretRef: &corev1.SecretReference{Namespace: "storage", Name: "controller"}}}}}
	grab := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv2"}, Spec: corev1.PersistentVolumeSpec{
		ClaimRef: &corev1.ObjectReference{Namespace: "bank", Name: "data"}}}
	attached := func(name, node string) *storagev1.VolumeAttachment {
		return &storagev1.VolumeAttachment{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: storagev1.VolumeAttachmentSpec{NodeName: node}}
	}
	return []runtime.Object{pod, elsewhere, mirror, claim, volume, grab, attached("va-a", "a"), attached("va-b", "b")}
}

func TestNodeMayOnlyWhatItsPodsNeed(t *testing.T) {
	a, _ := authorizerOver(t, append(policyObjects(), nodeWorld()...)...)
	const lease = "coordination.k8s.io:leases"
	cases := []struct {
		want bool
		r    authorizer.AttributesRecord
	}{
		{true, request(nodeA, "get", "secrets", "shop/mounted")},
		{true, request(nodeA, "watch", "secrets", "shop/pull")},
		{true, request(nodeA, "list", "secrets", "shop/from-env")},
		{true, request(nodeA, "get", "secrets", "storage/stage")},
		{false, request(nodeA, "get", "secrets", "storage/controller")},
		{false, request(nodeA, "get", "secrets", "shop/others")},
		{false, request(nodeA, "get", "secrets", "bank/mounted")},
		{false, request(nodeA, "get", "secrets", "kube-system/crown-jewels")},
		{false, request(nodeA, "list", "secrets", "shop/")},
		{false, request(nodeA, "list", "secrets", "")},
		{false, request(nodeA, "update", "secrets", "shop/mounted")},
		{false, request(nodeA, "delete", "secrets", "shop/mounted")},
		{true, request(nodeA, "get", "configmaps", "shop/settings")},
		{true, request(nodeA, "get", "configmaps", "shop/kube-root-ca.crt")},
		{false, request(nodeA, "get", "configmaps", "kube-system/extension-apiserver-authentication")},

		{true, request(nodeA, "get", "persistentvolumeclaims", "shop/data")},
		{true, request(nodeA, "get", "persistentvolumeclaims", "shop/web-scratch")},
		{false, request(nodeA, "get", "persistentvolumeclaims", "shop/unrelated")},
		{true, request(nodeA, "patch", "persistentvolumeclaims/status", "shop/data")},
		{true, request(nodeA, "get", "persistentvolumes", "pv1")},
		{false, request(nodeA, "get", "persistentvolumes", "pv2")},
		{true, request(nodeA, "get", "storage.k8s.io:volumeattachments", "va-a")},
		{false, request(nodeA, "get", "storage.k8s.io:volumeattachments", "va-b")},

		{true, request(nodeA, "create", "serviceaccounts/token", "shop/web-sa")},
		{false, request(nodeA, "create", "serviceaccounts/token", "shop/other-sa")},
		{false, request(nodeA, "create", "serviceaccounts/token", "kube-system/web-sa")},

		{true, request(nodeA, "create", "nodes", "")},
		{true, request(nodeA, "get", "nodes", "a")},
		{true, request(nodeA, "patch", "nodes/status", "a")},
		{false, request(nodeA, "patch", "nodes/status", "b")},
		{false, request(nodeA, "update", "nodes", "b")},
		{false, request(nodeA, "delete", "nodes", "a")},
		{false, request(nodeA, "delete", "nodes", "b")},

		{true, request(nodeA, "update", lease, "kube-node-lease/a")},
		{false, request(nodeA, "update", lease, "kube-node-lease/b")},
		{false, request(nodeA, "update", lease, "kube-system/a")},
		{true, request(nodeA, "create", "storage.k8s.io:csinodes", "")},
		{false, request(nodeA, "get", "storage.k8s.io:csinodes", "b")},

		{true, selecting(request(nodeA, "list", "pods", ""), "spec.nodeName=a")},
		{false, selecting(request(nodeA, "list", "pods", ""), "spec.nodeName=b")},
		{false, selecting(request(nodeA, "list", "pods", ""), "spec.nodeName!=b")},
		{false, request(nodeA, "list", "pods", "")},
		{true, request(nodeA, "get", "pods", "shop/web")},
		{false, request(nodeA, "get", "pods", "shop/other")},
		{true, request(nodeA, "patch", "pods/status", "shop/web")},
		{false, request(nodeA, "create", "pods/exec", "shop/web")},
		{false, request(nodeA, "deletecollection", "pods", "shop/")},

		{true, request(nodeA, "list", "services", "")},
		{true, request(nodeA, "watch", "discovery.k8s.io:endpointslices", "")},
		{true, request(nodeA, "create", "authentication.k8s.io:tokenreviews", "")},
		{false, request(nodeA, "create", "certificates.k8s.io:certificatesigningrequests/selfnodeclient", "")},
		{false, request(nodeA, "create", "certificates.k8s.io:certificatesigningrequests/nodeclient", "")},
		{false, request(nodeA, "create", "rbac.authorization.k8s.io:clusterrolebindings", "x")},
		{false, request(nodeA, "update", "services", "shop/x")},

		// The name alone does not make a node.
		{false, request(who("system:node:a", user.AllAuthenticated), "get", "secrets", "shop/mounted")},
	}
	for _, c := range cases {
		if got := may(t, a, c.r); got != c.want {
			t.Errorf("%s %s/%s %s/%s: allowed %v, want %v", c.r.Verb, c.r.Resource, c.r.Subresource, c.r.Namespace, c.r.Name, got, c.want)
		}
	}
}

func TestBootstrapPolicyServesEachUser(t *testing.T) {
	a, _ := authorizerOver(t, policyObjects()...)
	anonymous := who(user.Anonymous, user.AllUnauthenticated)
	person := who("jane", user.AllAuthenticated)
	apiserver := who("system:kube-apiserver", KubeletClientGroup, user.AllAuthenticated)
	url := func(u user.Info, path string) authorizer.AttributesRecord {
		return authorizer.AttributesRecord{User: u, Verb: "get", Path: path}
	}
	cases := []struct {
		want bool
		r    authorizer.AttributesRecord
	}{
		{true, url(anonymous, "/readyz")},
		{true, url(anonymous, "/version")},
		{false, url(anonymous, "/metrics")},
		{false, url(anonymous, "/api")},
		{true, url(person, "/apis/apps/v1")},
		{false, url(person, "/metrics")},
		{true, url(who("m", user.MonitoringGroup), "/metrics")},
		{true, request(person, "create", "authorization.k8s.io:selfsubjectaccessreviews", "")},
		{false, request(person, "create", "authorization.k8s.io:subjectaccessreviews", "")},
		{false, request(person, "list", "pods", "shop/")},
		{true, request(apiserver, "create", "nodes/proxy", "a")},
		{false, request(apiserver, "get", "secrets", "kube-system/x")},
		{true, request(who("system:kube-scheduler"), "create", "pods/binding", "shop/p")},
		{true, request(who("system:serviceaccount:kube-system:deployment-controller"), "create", "apps:replicasets", "shop/r")},
		{false, request(who("system:serviceaccount:shop:deployment-controller"), "create", "apps:replicasets", "shop/r")},
		{true, request(who("root", user.SystemPrivilegedGroup), "delete", "anything", "x")},
	}
	for _, c := range cases {
		if got := may(t, a, c.r); got != c.want {
			t.Errorf("%s: %s %s%s %s/%s: allowed %v, want %v", c.r.User.GetName(), c.r.Verb, c.r.Resource, c.r.Path, c.r.Namespace, c.r.Name, got, c.want)
		}
	}
}

func TestAggregatedRolesNest(t *testing.T) {
	p := BootstrapPolicy()
	seedAggregates(p.ClusterRoles)
	rules := map[string][]rbacv1.PolicyRule{}
	for _, r := range p.ClusterRoles {
		if rules[r.Name] != nil {
			t.Errorf("role %q is there twice", r.Name)
		}
		rules[r.Name] = r.Rules
	}
	for _, pair := range [][2]string{{"cluster-admin", "admin"}, {"admin", "edit"}, {"edit", "view"}} {
		if ok, missing := validation.Covers(rules[pair[0]], rules[pair[1]]); !ok {
			t.Errorf("%s does not cover %s: %v", pair[0], pair[1], missing)
		}
		if ok, _ := validation.Covers(rules[pair[1]], rules[pair[0]]); ok {
			t.Errorf("%s covers %s", pair[1], pair[0])
		}
	}
	secrets := []rbacv1.PolicyRule{on("get", "", "secrets")}
	if ok, _ := validation.Covers(rules["view"], secrets); ok {
		t.Error("view must not read secrets")
	}
	for _, b := range p.ClusterRoleBindings {
		if _, ok := rules[b.RoleRef.Name]; !ok {
			t.Errorf("binding %q refers to role %q, which is not there", b.Name, b.RoleRef.Name)
		}
	}
}

func TestRoleBindingReachesItsNamespaceOnly(t *testing.T) {
	a, rules := authorizerOver(t,
		&rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "reader"}, Rules: []rbacv1.PolicyRule{on("get", "", "pods,pods/log"), onURL("get", "/x")}},
		&rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "b"},
			RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "reader"},
			Subjects: []rbacv1.Subject{asUser("jane"), {Kind: "ServiceAccount", Name: "bot"}, {Kind: "User", APIGroup: "elsewhere", Name: "mallory"}}},
		&rbacv1.RoleBinding{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "dangling"},
			RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: "nowhere"},
			Subjects: []rbacv1.Subject{asUser("jane")}},
	)
	jane := who("jane")
	for _, c := range []struct {
		want bool
		r    authorizer.AttributesRecord
	}{
		{true, request(jane, "get", "pods", "shop/p")},
		{true, request(jane, "get", "pods/log", "shop/p")},
		{false, request(jane, "get", "pods/exec", "shop/p")},
		{false, request(jane, "get", "pods", "bank/p")},
		{false, request(jane, "get", "pods", "")},
		{true, request(who("system:serviceaccount:shop:bot"), "get", "pods", "shop/p")},
		{false, request(who("system:serviceaccount:bank:bot"), "get", "pods", "shop/p")},
		{false, request(who("mallory"), "get", "pods", "shop/p")},
		{false, authorizer.AttributesRecord{User: jane, Verb: "get", Path: "/x"}},
	} {
		if got := may(t, a, c.r); got != c.want {
			t.Errorf("%s: %s %s/%s in %q: allowed %v, want %v", c.r.User.GetName(), c.r.Verb, c.r.Resource, c.r.Subresource, c.r.Namespace, got, c.want)
		}
	}
	resource, _, incomplete, err := rules.RulesFor(context.Background(), jane, "shop")
	if len(resource) != 1 || !incomplete || err == nil {
		t.Errorf("rules %v, incomplete %v, err %v: the dangling binding must show", resource, incomplete, err)
	}
	if _, _, incomplete, err := rules.RulesFor(context.Background(), nodeA, "shop"); !incomplete || err == nil {
		t.Errorf("a node's rules: incomplete %v, err %v", incomplete, err)
	}
}

func TestRuleMatching(t *testing.T) {
	for _, c := range []struct {
		rule rbacv1.PolicyRule
		r    authorizer.AttributesRecord
		want bool
	}{
		{on("*", "*", "*"), request(who("u"), "get", "apps:deployments/scale", "ns/x"), true},
		{on("*", "*", "*"), authorizer.AttributesRecord{Verb: "get", Path: "/healthz"}, false},
		{on("get", "", "pods"), request(who("u"), "get", "pods/log", "ns/x"), false},
		{on("get", "", "*/scale"), request(who("u"), "get", "pods/scale", "ns/x"), true},
		{on("get", "", "*/scale"), request(who("u"), "get", "pods", "ns/x"), false},
		{on("get", "apps", "deployments"), request(who("u"), "get", "deployments", "ns/x"), false},
		{onNamed("get", "", "secrets", "a,b"), request(who("u"), "get", "secrets", "ns/b"), true},
		{onNamed("get", "", "secrets", "a,b"), request(who("u"), "get", "secrets", "ns/c"), false},
		{onNamed("list", "", "secrets", "a"), request(who("u"), "list", "secrets", "ns/"), false},
		{onURL("get", "/healthz/*"), authorizer.AttributesRecord{Verb: "get", Path: "/healthz/etcd"}, true},
		{onURL("get", "/healthz/*"), authorizer.AttributesRecord{Verb: "get", Path: "/healthz"}, false},
		{onURL("get", "*"), request(who("u"), "get", "pods", "ns/x"), false},
	} {
		if got := Allows(c.r, []rbacv1.PolicyRule{c.rule}); got != c.want {
			t.Errorf("%v on %s %s/%s %q: %v, want %v", c.rule, c.r.Verb, c.r.Resource, c.r.Subresource, c.r.Path, got, c.want)
		}
	}
}

func TestReconcileIsAdditiveAndRepeats(t *testing.T) {
	ctx := t.Context()
	viewless := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "system:discovery"}, Rules: []rbacv1.PolicyRule{onURL("get", "/mine")}}
	locked := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "system:basic-user", Annotations: map[string]string{rbacv1.AutoUpdateAnnotationKey: "false"}}}
	moved := &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "system:node-proxier"},
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "view"}, Subjects: []rbacv1.Subject{asUser("extra")}}
	client := fake.NewClientset(viewless, locked, moved)
	logger := slog.New(slog.DiscardHandler)
	if err := Reconcile(ctx, client, logger); err != nil {
		t.Fatal(err)
	}
	role, err := client.RbacV1().ClusterRoles().Get(ctx, "system:discovery", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if ok, missing := validation.Covers(role.Rules, []rbacv1.PolicyRule{onURL("get", "/mine,/apis/*")}); !ok {
		t.Errorf("role lacks %v", missing)
	}
	kept, _ := client.RbacV1().ClusterRoles().Get(ctx, "system:basic-user", metav1.GetOptions{})
	if len(kept.Rules) != 0 {
		t.Errorf("a role with autoupdate=false was changed: %v", kept.Rules)
	}
	binding, _ := client.RbacV1().ClusterRoleBindings().Get(ctx, "system:node-proxier", metav1.GetOptions{})
	if binding.RoleRef.Name != "system:node-proxier" || len(binding.Subjects) != 2 {
		t.Errorf("binding is %v %v", binding.RoleRef, binding.Subjects)
	}
	want := BootstrapPolicy()
	if roles, _ := client.RbacV1().Roles("").List(ctx, metav1.ListOptions{}); len(roles.Items) != len(want.Roles) {
		t.Errorf("%d roles, want %d", len(roles.Items), len(want.Roles))
	}

	client.ClearActions()
	if err := Reconcile(ctx, client, logger); err != nil {
		t.Fatal(err)
	}
	for _, a := range client.Actions() {
		if a.GetVerb() != "list" && a.GetVerb() != "get" {
			t.Errorf("the second pass still writes: %v", a)
		}
	}
}
