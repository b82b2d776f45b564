package admission

import (
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/utils/ptr"
)

const (
	ownNode   = `{apiVersion: v1, kind: Node, metadata: {name: mine, uid: u, labels: {a: b}}}`
	ownMirror = `{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: a, annotations: {kubernetes.io/config.mirror: x}}, spec: {nodeName: mine, containers: [{name: c}]}}`
)

func TestNodeRestriction(t *testing.T) {
	cluster := []string{
		ownNode,
		`{apiVersion: v1, kind: Pod, metadata: {name: own, namespace: a, uid: own-uid}, spec: {nodeName: mine, serviceAccountName: app,
		  volumes: [{name: t, projected: {sources: [{serviceAccountToken: {path: t}}, {serviceAccountToken: {path: u, audience: vault}}]}}, {name: c, persistentVolumeClaim: {claimName: c}}]}}`,
		`{apiVersion: v1, kind: Pod, metadata: {name: foreign, namespace: a, uid: foreign-uid}, spec: {nodeName: other, serviceAccountName: app}}`,
		`{apiVersion: v1, kind: PersistentVolumeClaim, metadata: {name: c, namespace: a}, spec: {volumeName: v}}`,
		`{apiVersion: v1, kind: PersistentVolume, metadata: {name: v}, spec: {csi: {driver: d.example, volumeHandle: h}}}`,
		`{apiVersion: storage.k8s.io/v1, kind: CSIDriver, metadata: {name: d.example}, spec: {tokenRequests: [{audience: cloud}]}}`,
	}
	var objects []runtime.Object
	for _, m := range cluster {
		objects = append(objects, parse[runtime.Object](t, tabs(m)))
	}
	granted := allow(func(a authorizer.Attributes) bool {
		return a.GetVerb() == "request-serviceaccounts-token-audience" && a.GetResource() == "granted"
	})
	pod := func(do func(*corev1.Pod)) *corev1.Pod {
		p := parse[*corev1.Pod](t, ownMirror)
		do(p)
		return p
	}
	node := func(do func(*corev1.Node)) *corev1.Node {
		n := parse[*corev1.Node](t, ownNode)
		do(n)
		return n
	}
	token := func(do func(*authenticationv1.TokenRequest)) *authenticationv1.TokenRequest {
		r := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: &authenticationv1.BoundObjectReference{
			APIVersion: "v1", Kind: "Pod", Name: "own", UID: "own-uid"}}}
		r.Namespace = "a"
		do(r)
		return r
	}
	accounts := corev1.SchemeGroupVersion.WithResource("serviceaccounts")
	leases := coordinationv1.SchemeGroupVersion.WithResource("leases")
	claimResource := corev1.SchemeGroupVersion.WithResource("persistentvolumeclaims")
	lease := func(namespace, name string) *coordinationv1.Lease {
		l := &coordinationv1.Lease{}
		l.Namespace, l.Name = namespace, name
		return l
	}
	claim := parse[*corev1.PersistentVolumeClaim](t, cluster[3])
	grown := claim.DeepCopy()
	grown.Status.Capacity = corev1.ResourceList{}
	moved := claim.DeepCopy()
	moved.Spec.VolumeName = "w"
	foreign, own := parse[*corev1.Pod](t, cluster[2]), parse[*corev1.Pod](t, tabs(cluster[1]))
	relabeled := own.DeepCopy()
	relabeled.Labels = map[string]string{"a": "b"}
	slice := func(node string) request {
		s := parse[runtime.Object](t, `{apiVersion: resource.k8s.io/v1, kind: ResourceSlice, metadata: {name: s}, spec: {nodeName: `+node+`, driver: d, pool: {name: p}}}`)
		return request{op: admission.Create, resource: schema.GroupVersionResource{Group: "resource.k8s.io", Version: "v1", Resource: "resourceslices"}, obj: s}
	}

	for _, tc := range []struct {
		name string
		r    request
		err  string
	}{
		{"mirror pod", request{op: admission.Create, resource: podResource, obj: pod(func(*corev1.Pod) {})}, ""},
		{"ordinary pod", request{op: admission.Create, resource: podResource, obj: pod(func(p *corev1.Pod) { p.Annotations = nil })}, "can only create mirror pods"},
		{"mirror pod of another node", request{op: admission.Create, resource: podResource, obj: pod(func(p *corev1.Pod) { p.Spec.NodeName = "other" })}, "spec.nodeName set to itself"},
		{"mirror pod with account", request{op: admission.Create, resource: podResource, obj: pod(func(p *corev1.Pod) { p.Spec.ServiceAccountName = "x" })}, "reference a service account"},
		{"mirror pod with secret", request{op: admission.Create, resource: podResource, obj: pod(func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "s"}}}}
		})}, "reference secrets"},
		{"mirror pod with config", request{op: admission.Create, resource: podResource, obj: pod(func(p *corev1.Pod) {
			p.Spec.Containers[0].EnvFrom = []corev1.EnvFromSource{{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "x"}}}}
		})}, "reference configmaps"},
		{"mirror pod with claim", request{op: admission.Create, resource: podResource, obj: pod(func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "s"}}}}
		})}, "reference persistentvolumeclaims"},
		{"mirror pod owned by its node", request{op: admission.Create, resource: podResource, obj: pod(owner("v1", "Node", "mine", "u"))}, ""},
		{"mirror pod owned by another", request{op: admission.Create, resource: podResource, obj: pod(owner("v1", "Node", "other", "u"))}, "owner reference set to itself"},
		{"mirror pod with wrong owner uid", request{op: admission.Create, resource: podResource, obj: pod(owner("v1", "Node", "mine", "z"))}, "UID mismatch"},
		{"update a pod", request{op: admission.Update, resource: podResource, obj: own, old: own}, "can only create and delete mirror pods"},
		{"delete own pod", request{op: admission.Delete, resource: podResource, old: own}, ""},
		{"delete foreign pod", request{op: admission.Delete, resource: podResource, old: foreign}, "spec.nodeName set to itself"},
		{"status of own pod", request{op: admission.Update, resource: podResource, sub: "status", obj: own, old: own}, ""},
		{"status of foreign pod", request{op: admission.Update, resource: podResource, sub: "status", obj: foreign, old: foreign}, "spec.nodeName set to itself"},
		{"labels through status", request{op: admission.Update, resource: podResource, sub: "status", obj: relabeled, old: own}, "cannot update labels"},
		{"resize", request{op: admission.Update, resource: podResource, sub: "resize", obj: own, old: own}, "unexpected pod subresource"},
		{"evict own pod", request{op: admission.Create, resource: podResource, sub: "eviction", obj: eviction("own")}, ""},
		{"evict foreign pod", request{op: admission.Create, resource: podResource, sub: "eviction", obj: eviction("foreign")}, "spec.nodeName set to itself"},

		{"register", request{op: admission.Create, resource: nodeResource, obj: node(func(n *corev1.Node) {
			n.Labels = map[string]string{"kubernetes.io/hostname": "x", "kubernetes.io/os": "linux", "node.kubernetes.io/instance-type": "a", "kubelet.kubernetes.io/x": "y", "mine.example/x": "y"}
		})}, ""},
		{"register another", request{op: admission.Create, resource: nodeResource, obj: node(func(n *corev1.Node) { n.Name = "other" })}, `not allowed to modify node "other"`},
		{"register with a role", request{op: admission.Create, resource: nodeResource, obj: node(func(n *corev1.Node) { n.Labels = map[string]string{"node-role.kubernetes.io/master": ""} })},
			"not allowed to set the following labels: node-role.kubernetes.io/master"},
		{"register restricted", request{op: admission.Create, resource: nodeResource, obj: node(func(n *corev1.Node) { n.Labels = map[string]string{"x.node-restriction.kubernetes.io/a": ""} })}, "x.node-restriction.kubernetes.io/a"},
		{"register with an owner", request{op: admission.Create, resource: nodeResource, obj: node(func(n *corev1.Node) { n.OwnerReferences = pod(owner("v1", "Pod", "x", "y")).OwnerReferences })}, "ownerReferences"},
		{"own status", request{op: admission.Update, resource: nodeResource, sub: "status", obj: node(func(n *corev1.Node) { n.Status.Phase = "x" }), old: node(func(*corev1.Node) {})}, ""},
		{"another's status", request{op: admission.Update, resource: nodeResource, sub: "status", name: "other", obj: node(func(*corev1.Node) {}), old: node(func(*corev1.Node) {})}, "not allowed to modify node"},
		{"own taints", request{op: admission.Update, resource: nodeResource, obj: node(func(n *corev1.Node) { n.Spec.Taints = []corev1.Taint{{Key: "a"}} }), old: node(func(*corev1.Node) {})}, "not allowed to modify taints"},
		{"own labels", request{op: admission.Update, resource: nodeResource, obj: node(func(n *corev1.Node) { n.Labels["x"] = "y" }), old: node(func(*corev1.Node) {})}, ""},
		{"role label", request{op: admission.Update, resource: nodeResource, obj: node(func(n *corev1.Node) { n.Labels["a.k8s.io/x"] = "y" }), old: node(func(*corev1.Node) {})}, "not allowed to modify labels: a.k8s.io/x"},
		{"new owner", request{op: admission.Update, resource: nodeResource, obj: node(func(n *corev1.Node) { n.OwnerReferences = pod(owner("v1", "Pod", "x", "y")).OwnerReferences }), old: node(func(*corev1.Node) {})}, "ownerReferences"},

		{"token", request{op: admission.Create, resource: accounts, sub: "token", name: "app", obj: token(func(*authenticationv1.TokenRequest) {})}, ""},
		{"unbound token", request{op: admission.Create, resource: accounts, sub: "token", name: "app", obj: token(func(r *authenticationv1.TokenRequest) { r.Spec.BoundObjectRef = nil })}, "not bound to a pod"},
		{"token without uid", request{op: admission.Create, resource: accounts, sub: "token", name: "app", obj: token(func(r *authenticationv1.TokenRequest) { r.Spec.BoundObjectRef.UID = "" })}, "without a uid"},
		{"token of an older pod", request{op: admission.Create, resource: accounts, sub: "token", name: "app", obj: token(func(r *authenticationv1.TokenRequest) { r.Spec.BoundObjectRef.UID = "z" })}, "does not match the UID"},
		{"token of a foreign pod", request{op: admission.Create, resource: accounts, sub: "token", name: "app", obj: token(func(r *authenticationv1.TokenRequest) {
			r.Spec.BoundObjectRef.Name, r.Spec.BoundObjectRef.UID = "foreign", "foreign-uid"
		})}, "different node"},
		{"token of another account", request{op: admission.Create, resource: accounts, sub: "token", name: "admin", obj: token(func(*authenticationv1.TokenRequest) {})}, "runs as another"},
		{"token of a projected audience", request{op: admission.Create, resource: accounts, sub: "token", name: "app", obj: token(audience("vault"))}, ""},
		{"token of a driver's audience", request{op: admission.Create, resource: accounts, sub: "token", name: "app", obj: token(audience("cloud"))}, ""},
		{"token of a granted audience", request{op: admission.Create, resource: accounts, sub: "token", name: "app", obj: token(audience("granted"))}, ""},
		{"token of any audience", request{op: admission.Create, resource: accounts, sub: "token", name: "app", obj: token(audience("x"))}, `audience "x" not found in pod spec volume`},

		{"own lease", request{op: admission.Create, resource: leases, obj: lease("kube-node-lease", "mine")}, ""},
		{"another's lease", request{op: admission.Update, resource: leases, obj: lease("kube-node-lease", "other")}, "same name as the requesting node"},
		{"lease elsewhere", request{op: admission.Create, resource: leases, obj: lease("kube-system", "mine")}, `"kube-node-lease" system namespace`},
		{"own CSI node", request{op: admission.Create, resource: storagev1.SchemeGroupVersion.WithResource("csinodes"), obj: csiNode("mine")}, ""},
		{"another's CSI node", request{op: admission.Update, resource: storagev1.SchemeGroupVersion.WithResource("csinodes"), obj: csiNode("other")}, "same name as the requesting node"},
		{"expansion", request{op: admission.Update, resource: claimResource, sub: "status", obj: grown, old: claim}, ""},
		{"claim's spec", request{op: admission.Update, resource: claimResource, sub: "status", obj: moved, old: claim}, "not allowed to update fields other than"},
		{"claim", request{op: admission.Update, resource: claimResource, obj: grown, old: claim}, "may only update the status"},
		{"own devices", slice("mine"), ""},
		{"another's devices", slice("other"), "same NodeName"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			plugin := newNodeRestriction()
			start(t, plugin, granted, objects...)
			tc.r.user = nodeUser("mine")
			wantErr(t, run(t, plugin, tc.r), tc.err)
			// Whoever is no node is no business of this plugin.
			tc.r.user = &user.DefaultInfo{Name: "admin"}
			wantErr(t, run(t, plugin, tc.r), "")
		})
	}
	t.Run("a node without a name", func(t *testing.T) {
		plugin := newNodeRestriction()
		start(t, plugin, granted, objects...)
		err := run(t, plugin, request{op: admission.Delete, resource: podResource, old: own, user: &user.DefaultInfo{Name: "system:node", Groups: []string{user.NodesGroup}}})
		wantErr(t, err, "could not determine node")
	})
}

func owner(version, kind, name, uid string) func(*corev1.Pod) {
	return func(p *corev1.Pod) {
		ref := parseOwner(version, kind, name, uid)
		p.OwnerReferences = append(p.OwnerReferences, ref)
	}
}

func audience(name string) func(*authenticationv1.TokenRequest) {
	return func(r *authenticationv1.TokenRequest) { r.Spec.Audiences = []string{name} }
}

func eviction(name string) *policyv1.Eviction {
	e := &policyv1.Eviction{}
	e.Namespace, e.Name = "a", name
	return e
}

func csiNode(name string) *storagev1.CSINode {
	n := &storagev1.CSINode{}
	n.Name = name
	return n
}

func parseOwner(version, kind, name, uid string) metav1.OwnerReference {
	return metav1.OwnerReference{APIVersion: version, Kind: kind, Name: name, UID: types.UID(uid), Controller: ptr.To(true)}
}

// tabs makes a manifest that is indented in Go's way readable as YAML.
func tabs(s string) string { return strings.ReplaceAll(s, "\t", " ") }
