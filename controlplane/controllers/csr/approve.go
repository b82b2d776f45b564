package csr

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	authzv1 "k8s.io/api/authorization/v1"
	certv1 "k8s.io/api/certificates/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	certlisters "k8s.io/client-go/listers/certificates/v1"
	corelisters "k8s.io/client-go/listers/core/v1"

	"github.com/reevehq/reeve/controlplane/controllers/loop"
	"github.com/reevehq/reeve/internal/logkey"
)

// Approver approves nodes' requests: client certificates where RBAC allows the sender to have them approved by itself, and
// serving certificates that name only the node which asks.
type Approver struct {
	*loop.Loop
	client   kubernetes.Interface
	requests certlisters.CertificateSigningRequestLister
	nodes    corelisters.NodeLister
	guarded  Guarded
}

// Guarded are the names and addresses of the API server's own certificate. A node writes its own addresses: one that was
// broken into could claim the API server's and stand in for it. So only LocalNode, which shares the API server's host,
// has a serving certificate for one of them approved by itself; an empty name is no node.
type Guarded struct {
	Names     []string
	IPs       []net.IP
	LocalNode string
}

// NewApprover makes the controller.
func NewApprover(env loop.Env, guarded Guarded) (*Approver, error) {
	inf, nodes := env.Informers.Certificates().V1().CertificateSigningRequests(), env.Informers.Core().V1().Nodes()
	a := &Approver{client: env.Client, requests: inf.Lister(), nodes: nodes.Lister(), guarded: guarded}
	a.Loop = loop.New("certificatesigningrequest-approving-controller", env.Log, 2, a.reconcile)
	a.Watch(inf.Informer())
	// A serving request may come before the Node has the addresses that it names.
	a.On(nodes.Informer(), loop.Typed[*v1.Node]{
		Add: func(n *v1.Node) { a.waiting(n.Name) },
		Update: func(old, n *v1.Node) {
			if !slices.Equal(old.Status.Addresses, n.Status.Addresses) {
				a.waiting(n.Name)
			}
		},
		Delete: func(*v1.Node) { a.waiting("") }, // it may have held an address that another asks for
	})
	return a, nil
}

// waiting looks again at a node's open requests, or at every node's.
func (a *Approver) waiting(node string) {
	list, err := a.requests.List(labels.Everything())
	if err != nil {
		return
	}
	for _, r := range list {
		if (node == "" || r.Spec.Username == nodeUserPrefix+node) && !decided(r) {
			a.Add(r.Name)
		}
	}
}

func decided(r *certv1.CertificateSigningRequest) bool {
	return len(r.Status.Certificate) > 0 || has(r, certv1.CertificateApproved) || has(r, certv1.CertificateDenied) || has(r, certv1.CertificateFailed)
}

func (a *Approver) reconcile(ctx context.Context, name string) error {
	r, err := a.requests.Get(name)
	if apierrors.IsNotFound(err) || err == nil && decided(r) {
		return nil
	}
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, loop.CallTimeout)
	defer cancel()
	var message string
	switch r.Spec.SignerName {
	case certv1.KubeAPIServerClientKubeletSignerName:
		message, err = a.clientCert(ctx, r)
	case certv1.KubeletServingSignerName:
		message, err = a.serving(r)
	default:
		return nil
	}
	if err != nil || message == "" {
		return err
	}
	next := r.DeepCopy()
	next.Status.Conditions = append(next.Status.Conditions, certv1.CertificateSigningRequestCondition{
		Type: certv1.CertificateApproved, Status: v1.ConditionTrue, Reason: "AutoApproved", Message: message,
	})
	if _, err := a.client.CertificatesV1().CertificateSigningRequests().UpdateApproval(ctx, name, next, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("approve request %q: %w", name, err)
	}
	a.Log().Info("Approved certificate request", "request", name, "user", r.Spec.Username, "signer", r.Spec.SignerName)
	return nil
}

// clientCert asks the authorizer whether the sender may have such a request approved.
func (a *Approver) clientCert(ctx context.Context, r *certv1.CertificateSigningRequest) (string, error) {
	req, err := parse(r.Spec.Request)
	if err != nil || nodeClient(req, r.Spec.Usages) != nil {
		return "", nil // not for us; a person may decide
	}
	subresource, message := "nodeclient", "Auto approving kubelet client certificate after SubjectAccessReview."
	if r.Spec.Username == req.Subject.CommonName {
		subresource, message = "selfnodeclient", "Auto approving self kubelet client certificate after SubjectAccessReview."
	}
	extra := map[string]authzv1.ExtraValue{}
	for k, v := range r.Spec.Extra {
		extra[k] = authzv1.ExtraValue(v)
	}
	review, err := a.client.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authzv1.SubjectAccessReview{Spec: authzv1.SubjectAccessReviewSpec{
		User: r.Spec.Username, UID: r.Spec.UID, Groups: r.Spec.Groups, Extra: extra,
		ResourceAttributes: &authzv1.ResourceAttributes{Group: certv1.GroupName, Resource: "certificatesigningrequests", Verb: "create", Subresource: subresource, Version: "*"},
	}}, metav1.CreateOptions{})
	if err != nil {
		return "", fmt.Errorf("review access of %q: %w", r.Spec.Username, err)
	}
	if !review.Status.Allowed {
		a.Log().Warn("Left certificate request to be approved by hand", "request", r.Name, "user", r.Spec.Username, logkey.Err, review.Status.Reason)
		return "", nil
	}
	return message, nil
}

// serving approves what names only the node that asks. An address that the Node does not have yet means: later.
func (a *Approver) serving(r *certv1.CertificateSigningRequest) (string, error) {
	req, err := parse(r.Spec.Request)
	if err != nil || nodeServing(req, r.Spec.Usages) != nil || r.Spec.Username != req.Subject.CommonName || !slices.Contains(r.Spec.Groups, nodesGroup) {
		return "", nil
	}
	node, err := a.nodes.Get(strings.TrimPrefix(r.Spec.Username, nodeUserPrefix))
	if apierrors.IsNotFound(err) {
		return "", nil // its creation brings us back
	}
	if err != nil {
		return "", err
	}
	others, err := a.nodes.List(labels.Everything())
	if err != nil {
		return "", err
	}
	if err := errors.Join(namesOf(req, node), a.guarded.check(req, node.Name), notOthers(req, node, others)); err != nil {
		a.Log().Warn("Left certificate request to be approved by hand", "request", r.Name, logkey.Node, node.Name, logkey.Err, err)
		return "", nil
	}
	return "Auto approving kubelet serving certificate: it names only its own node.", nil
}
