package authz

import (
	"context"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/informers"
	corelisters "k8s.io/client-go/listers/core/v1"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	"k8s.io/client-go/tools/cache"
)

const (
	nodeUserPrefix = "system:node:"
	// podNodeIndex finds a node's pods. A node holds some hundred at most, so what they refer to is worked out at the
	// request; a graph of every reference in the cluster, kept up to date, would cost memory for the same answer.
	podNodeIndex = "reeve/node"
)

// Node is the Node authorizer: a node's agent may read only what the pods bound to its node need, and write only its own
// objects. It has no opinion on anybody else. What only admission can tell (whether a pod to be created is this node's
// mirror pod) is left to NodeRestriction.
type Node struct {
	rules []rbacv1.PolicyRule

	pods    cache.Indexer
	podOf   corelisters.PodLister
	claims  corelisters.PersistentVolumeClaimLister
	volumes corelisters.PersistentVolumeLister
	attach  storagelisters.VolumeAttachmentLister

	// lagSteps are the pauses after which a "no" is looked at again.
	lagSteps []time.Duration
}

// informerLag: an agent sees its new pod by its own watch, perhaps a moment before our informer does. Refusing then would
// cost the pod a retry with back-off, so a refusal (rare, and never in a hurry) is looked at again for 80 ms.
var informerLag = []time.Duration{5 * time.Millisecond, 15 * time.Millisecond, 60 * time.Millisecond}

// NewNode registers its informers and index; call it before they are started.
func NewNode(shared informers.SharedInformerFactory) (*Node, error) {
	core := shared.Core().V1()
	pods := core.Pods().Informer()
	if err := pods.AddIndexers(cache.Indexers{podNodeIndex: func(obj any) ([]string, error) {
		p, ok := obj.(*corev1.Pod)
		if !ok || p.Spec.NodeName == "" {
			return nil, nil
		}
		return []string{p.Spec.NodeName}, nil
	}}); err != nil {
		return nil, fmt.Errorf("index pods by node: %w", err)
	}
	core.PersistentVolumeClaims().Informer()
	core.PersistentVolumes().Informer()
	shared.Storage().V1().VolumeAttachments().Informer()
	return &Node{
		rules:   nodeRules(),
		pods:    pods.GetIndexer(),
		podOf:   core.Pods().Lister(),
		claims:  core.PersistentVolumeClaims().Lister(),
		volumes: core.PersistentVolumes().Lister(),
		attach:  shared.Storage().V1().VolumeAttachments().Lister(),

		lagSteps: informerLag,
	}, nil
}

// NodeName is the node that u is the agent of: user system:node:<name> in group system:nodes.
func NodeName(u user.Info) (string, bool) {
	if u == nil {
		return "", false
	}
	name, ok := strings.CutPrefix(u.GetName(), nodeUserPrefix)
	if !ok || name == "" {
		return "", false
	}
	for _, g := range u.GetGroups() {
		if g == user.NodesGroup {
			return name, true
		}
	}
	return "", false
}

const allowed, refused = authorizer.DecisionAllow, authorizer.DecisionNoOpinion

// Authorize never denies, it has no opinion: a cluster's owner may widen what nodes may do by RBAC.
func (n *Node) Authorize(ctx context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	node, ok := NodeName(a.GetUser())
	if !ok {
		return refused, "", nil
	}
	if !a.IsResourceRequest() {
		return n.byRules(a)
	}
	switch (groupResource{a.GetAPIGroup(), a.GetResource()}) {
	case groupResource{"", "secrets"}:
		return n.readReferenced(ctx, a, node, secretRef)
	case groupResource{"", "configmaps"}:
		return n.readReferenced(ctx, a, node, configMapRef)
	case groupResource{"", "persistentvolumeclaims"}:
		return n.claim(ctx, a, node)
	case groupResource{"", "persistentvolumes"}:
		return n.getReferenced(ctx, a, node, volumeRef)
	case groupResource{"resource.k8s.io", "resourceclaims"}:
		return n.getReferenced(ctx, a, node, resourceClaimRef)
	case groupResource{"resource.k8s.io", "resourceslices"}:
		return n.resourceSlice(a, node)
	case groupResource{"storage.k8s.io", "volumeattachments"}:
		return n.volumeAttachment(a, node)
	case groupResource{"", "serviceaccounts"}:
		return n.serviceAccount(ctx, a, node)
	case groupResource{"coordination.k8s.io", "leases"}:
		return n.lease(a, node)
	case groupResource{"storage.k8s.io", "csinodes"}:
		return n.csiNode(a, node)
	case groupResource{"", "nodes"}:
		return n.node(a, node)
	case groupResource{"", "pods"}:
		return n.pod(ctx, a, node)
	}
	return n.byRules(a)
}

type groupResource struct{ group, resource string }

func (n *Node) byRules(a authorizer.Attributes) (authorizer.Decision, string, error) {
	if Allows(a, n.rules) {
		return allowed, "", nil
	}
	return refused, "", nil
}

func no(format string, args ...any) (authorizer.Decision, string, error) {
	return refused, "Node: " + fmt.Sprintf(format, args...), nil
}

// readReferenced: get, list and watch of one named object that a pod of the node refers to.
func (n *Node) readReferenced(ctx context.Context, a authorizer.Attributes, node string, kind refKind) (authorizer.Decision, string, error) {
	switch a.GetVerb() {
	case "get", "list", "watch":
	default:
		return no("only get, list and watch of named %s are for nodes", a.GetResource())
	}
	return n.referenced(ctx, a, node, kind)
}

func (n *Node) getReferenced(ctx context.Context, a authorizer.Attributes, node string, kind refKind) (authorizer.Decision, string, error) {
	if a.GetVerb() != "get" {
		return no("only get of named %s is for nodes", a.GetResource())
	}
	return n.referenced(ctx, a, node, kind)
}

func (n *Node) referenced(ctx context.Context, a authorizer.Attributes, node string, kind refKind) (authorizer.Decision, string, error) {
	if a.GetSubresource() != "" {
		return no("subresources of %s are not for nodes", a.GetResource())
	}
	if a.GetName() == "" {
		return no("no object name given: nodes read %s one by one", a.GetResource())
	}
	if !n.refersTo(ctx, node, kind, a.GetNamespace(), a.GetName()) {
		return no("no pod on node %q refers to this object", node)
	}
	return allowed, "", nil
}

func (n *Node) claim(ctx context.Context, a authorizer.Attributes, node string) (authorizer.Decision, string, error) {
	if a.GetSubresource() != "status" {
		return n.getReferenced(ctx, a, node, claimRef)
	}
	switch a.GetVerb() { // the agent reports how far a volume has been expanded
	case "get", "update", "patch":
	default:
		return no("only get, update and patch of a claim's status are for nodes")
	}
	if !n.refersTo(ctx, node, claimRef, a.GetNamespace(), a.GetName()) {
		return no("no pod on node %q refers to this claim", node)
	}
	return allowed, "", nil
}

func (n *Node) serviceAccount(ctx context.Context, a authorizer.Attributes, node string) (authorizer.Decision, string, error) {
	switch {
	case a.GetSubresource() == "token" && a.GetVerb() == "create":
	case a.GetSubresource() == "" && a.GetVerb() == "get":
	default:
		return no("only tokens and get of service accounts of its pods are for nodes")
	}
	if a.GetName() == "" || !n.refersTo(ctx, node, accountRef, a.GetNamespace(), a.GetName()) {
		return no("no pod on node %q runs as this service account", node)
	}
	return allowed, "", nil
}

func (n *Node) volumeAttachment(a authorizer.Attributes, node string) (authorizer.Decision, string, error) {
	if a.GetVerb() != "get" || a.GetSubresource() != "" || a.GetName() == "" {
		return no("only get of named volumeattachments is for nodes")
	}
	va, err := n.attach.Get(a.GetName())
	if err != nil || va.Spec.NodeName != node {
		return no("this volume attachment is not of node %q", node)
	}
	return allowed, "", nil
}

// ownNamed: objects of which each node has one, named after it. A create may come without a name; NodeRestriction
// checks it.
func ownNamed(a authorizer.Attributes, node string) (authorizer.Decision, string, error) {
	if a.GetSubresource() != "" {
		return no("subresources of %s are not for nodes", a.GetResource())
	}
	switch a.GetVerb() {
	case "create":
		if a.GetName() == "" || a.GetName() == node {
			return allowed, "", nil
		}
	case "get", "update", "patch", "delete":
		if a.GetName() == node {
			return allowed, "", nil
		}
	}
	return no("node %q may only get, create, update, patch and delete its own of %s", node, a.GetResource())
}

func (n *Node) lease(a authorizer.Attributes, node string) (authorizer.Decision, string, error) {
	if a.GetNamespace() != corev1.NamespaceNodeLease {
		return no("only leases in namespace %q are for nodes", corev1.NamespaceNodeLease)
	}
	return ownNamed(a, node)
}

func (n *Node) csiNode(a authorizer.Attributes, node string) (authorizer.Decision, string, error) {
	return ownNamed(a, node)
}

func (n *Node) node(a authorizer.Attributes, node string) (authorizer.Decision, string, error) {
	switch a.GetSubresource() {
	case "":
		switch a.GetVerb() {
		case "create":
			if a.GetName() == "" || a.GetName() == node {
				return allowed, "", nil
			}
		case "get", "update", "patch":
			if a.GetName() == node {
				return allowed, "", nil
			}
		case "list", "watch":
			if a.GetName() == node || selectsOnly(a, "metadata.name", node) {
				return allowed, "", nil
			}
		}
	case "status":
		switch a.GetVerb() {
		case "get", "update", "patch":
			if a.GetName() == node {
				return allowed, "", nil
			}
		}
	}
	return no("node %q may only read and write its own Node object", node)
}

func (n *Node) pod(ctx context.Context, a authorizer.Attributes, node string) (authorizer.Decision, string, error) {
	switch a.GetSubresource() {
	case "":
		switch a.GetVerb() {
		case "create", "delete": // whose pod it is, NodeRestriction checks
			return allowed, "", nil
		case "get":
			if n.runs(ctx, node, a.GetNamespace(), a.GetName()) {
				return allowed, "", nil
			}
			return no("this pod is not on node %q", node)
		case "list", "watch":
			if selectsOnly(a, "spec.nodeName", node) || (a.GetName() != "" && n.runs(ctx, node, a.GetNamespace(), a.GetName())) {
				return allowed, "", nil
			}
			return no("nodes list and watch pods with the field selector spec.nodeName=%s", node)
		}
	case "status":
		switch a.GetVerb() {
		case "get", "update", "patch":
			return allowed, "", nil
		}
	case "eviction":
		if a.GetVerb() == "create" {
			return allowed, "", nil
		}
	}
	return no("this is not among what nodes do with pods")
}

func (n *Node) resourceSlice(a authorizer.Attributes, node string) (authorizer.Decision, string, error) {
	if a.GetSubresource() != "" {
		return no("subresources of resourceslices are not for nodes")
	}
	switch a.GetVerb() {
	case "create", "get", "update", "patch", "delete": // whose slice it is, NodeRestriction checks
		return allowed, "", nil
	case "list", "watch", "deletecollection":
		if selectsOnly(a, "spec.nodeName", node) {
			return allowed, "", nil
		}
	}
	return no("nodes list, watch and delete resourceslices with the field selector spec.nodeName=%s", node)
}

// selectsOnly says whether the request's field selector demands field == value.
func selectsOnly(a authorizer.Attributes, field, value string) bool {
	reqs, err := a.GetFieldSelector()
	if err != nil {
		return false
	}
	for _, r := range reqs {
		if r.Field == field && (r.Operator == selection.Equals || r.Operator == selection.DoubleEquals) && r.Value == value {
			return true
		}
	}
	return false
}
