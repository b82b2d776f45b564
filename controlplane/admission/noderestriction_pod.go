package admission

import (
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/admission"
)

func (p *nodeRestriction) admitPod(a admission.Attributes, self string) error {
	switch a.GetSubresource() {
	case "":
		switch a.GetOperation() {
		case admission.Create:
			return p.admitMirror(a, self)
		case admission.Delete:
			return p.admitPodDelete(a, self)
		}
		return forbid(a, "unexpected operation %q, node %q can only create and delete mirror pods", a.GetOperation(), self)
	case "status":
		return admitPodStatus(a, self)
	case "eviction":
		return p.admitEviction(a, self)
	}
	return forbid(a, "unexpected pod subresource %q, only 'status' and 'eviction' are allowed", a.GetSubresource())
}

// admitMirror lets a node create the picture of a static pod of its own, which may name nothing that it could then read.
func (p *nodeRestriction) admitMirror(a admission.Attributes, self string) error {
	pod, err := objectOf[*corev1.Pod](a)
	if err != nil {
		return err
	}
	if !isMirror(pod) {
		return forbid(a, "pod does not have %q annotation, node %q can only create mirror pods", corev1.MirrorPodAnnotationKey, self)
	}
	if pod.Spec.NodeName != self {
		return forbid(a, "node %q can only create pods with spec.nodeName set to itself", self)
	}
	if err := p.mirrorOwner(a, pod, self); err != nil {
		return err
	}
	if pod.Spec.ServiceAccountName != "" {
		return forbid(a, "node %q can not create pods that reference a service account", self)
	}
	refs := referencesOf(pod)
	for what, names := range map[string]sets.Set[string]{"secrets": refs.secrets, "configmaps": refs.configMaps, "persistentvolumeclaims": refs.claims} {
		if names.Len() > 0 {
			return forbid(a, "node %q can not create pods that reference %s", self, what)
		}
	}
	if len(pod.Spec.ResourceClaims) > 0 {
		return forbid(a, "node %q can not create pods that reference resourceclaims", self)
	}
	for _, v := range pod.Spec.Volumes {
		if v.Ephemeral != nil {
			return forbid(a, "node %q can not create pods that reference ephemeral volumes", self)
		}
		if v.Projected == nil {
			continue
		}
		for _, s := range v.Projected.Sources {
			if s.ClusterTrustBundle != nil {
				return forbid(a, "node %q can not create pods that reference clustertrustbundles", self)
			}
			if s.PodCertificate != nil {
				return forbid(a, "node %q can not create pods that reference podcertificates", self)
			}
			if s.ServiceAccountToken != nil {
				return forbid(a, "node %q can not create pods that reference service account tokens", self)
			}
		}
	}
	return nil
}

func (p *nodeRestriction) mirrorOwner(a admission.Attributes, pod *corev1.Pod, self string) error {
	if len(pod.OwnerReferences) == 0 {
		return nil
	}
	if len(pod.OwnerReferences) > 1 {
		return forbid(a, "node %q can only create pods with a single owner reference set to itself", self)
	}
	owner := pod.OwnerReferences[0]
	if owner.APIVersion != corev1.SchemeGroupVersion.String() || owner.Kind != "Node" || owner.Name != self {
		return forbid(a, "node %q can only create pods with an owner reference set to itself", self)
	}
	if owner.Controller == nil || !*owner.Controller {
		return forbid(a, "node %q can only create pods with a controller owner reference set to itself", self)
	}
	if owner.BlockOwnerDeletion != nil && *owner.BlockOwnerDeletion {
		return forbid(a, "node %q must not set blockOwnerDeletion on an owner reference", self)
	}
	if !p.WaitForReady() {
		return notReady(a)
	}
	node, err := p.nodes.Get(self)
	if apierrors.IsNotFound(err) {
		return err
	}
	if err != nil {
		return forbid(a, "looking up node %s to validate uid: %w", self, err)
	}
	if owner.UID != node.UID {
		return forbid(a, "node %s UID mismatch: expected %s got %s", self, owner.UID, node.UID)
	}
	return nil
}

func (p *nodeRestriction) admitPodDelete(a admission.Attributes, self string) error {
	pod, err := p.pod(a, a.GetNamespace(), a.GetName())
	if err != nil {
		return err
	}
	if pod.Spec.NodeName != self {
		return forbid(a, "node %q can only delete pods with spec.nodeName set to itself", self)
	}
	return nil
}

func admitPodStatus(a admission.Attributes, self string) error {
	if a.GetOperation() != admission.Update {
		return forbid(a, "unexpected operation %q", a.GetOperation())
	}
	pod, err := objectOf[*corev1.Pod](a)
	if err != nil {
		return err
	}
	old, err := oldObjectOf[*corev1.Pod](a)
	if err != nil {
		return err
	}
	if old.Spec.NodeName != self {
		return forbid(a, "node %q can only update pod status for pods with spec.nodeName set to itself", self)
	}
	if !equality.Semantic.DeepEqual(pod.Labels, old.Labels) {
		return forbid(a, "node %q cannot update labels through pod status", self)
	}
	if !equality.Semantic.DeepEqual(pod.Status.ResourceClaimStatuses, old.Status.ResourceClaimStatuses) {
		return forbid(a, "node %q cannot update resource claim statuses", self)
	}
	return nil
}

func (p *nodeRestriction) admitEviction(a admission.Attributes, self string) error {
	if a.GetOperation() != admission.Create {
		return forbid(a, "unexpected operation %s", a.GetOperation())
	}
	eviction, ok := a.GetObject().(*policyv1.Eviction)
	if !ok {
		return wrongType[*policyv1.Eviction](a.GetObject())
	}
	// The body may leave the name out: the path names the pod then.
	name := eviction.Name
	if name == "" {
		name = a.GetName()
	}
	if name == "" {
		return forbid(a, "could not determine pod from request data")
	}
	pod, err := p.pod(a, a.GetNamespace(), name)
	if err != nil {
		return err
	}
	if pod.Spec.NodeName != self {
		return forbid(a, "node %s can only evict pods with spec.nodeName set to itself", self)
	}
	return nil
}

func (p *nodeRestriction) pod(a admission.Attributes, namespace, name string) (*corev1.Pod, error) {
	if !p.WaitForReady() {
		return nil, notReady(a)
	}
	pod, err := p.pods.Pods(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return nil, err
	}
	if err != nil {
		return nil, admission.NewForbidden(a, err)
	}
	return pod, nil
}
