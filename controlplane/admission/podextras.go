package admission

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/informers"
	corelisters "k8s.io/client-go/listers/core/v1"
)

// alwaysPullImages makes every container ask its registry again, so that an image on a node is no way around its pull
// secret.
type alwaysPullImages struct{ *admission.Handler }

func newAlwaysPullImages() admission.Interface {
	return &alwaysPullImages{admission.NewHandler(admission.Create, admission.Update)}
}

// Admit implements admission.MutationInterface.
func (p *alwaysPullImages) Admit(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	pod, err := p.podOf(a)
	if err != nil || pod == nil {
		return err
	}
	eachContainer(pod, func(c *corev1.Container) { c.ImagePullPolicy = corev1.PullAlways })
	for i := range pod.Spec.Volumes {
		if v := pod.Spec.Volumes[i].Image; v != nil && v.Reference != "" {
			v.PullPolicy = corev1.PullAlways
		}
	}
	return nil
}

// Validate implements admission.ValidationInterface: a webhook may not undo it.
func (p *alwaysPullImages) Validate(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	pod, err := p.podOf(a)
	if err != nil || pod == nil {
		return err
	}
	bad := sets.New[string]()
	eachContainer(pod, func(c *corev1.Container) {
		if c.ImagePullPolicy != corev1.PullAlways {
			bad.Insert(c.Name)
		}
	})
	if bad.Len() > 0 {
		return forbid(a, "imagePullPolicy of containers %v must be %q", sets.List(bad), corev1.PullAlways)
	}
	return nil
}

func (p *alwaysPullImages) podOf(a admission.Attributes) (*corev1.Pod, error) {
	if a.GetResource().GroupResource() != pods || (a.GetSubresource() != "" && a.GetSubresource() != "ephemeralcontainers") {
		return nil, nil
	}
	return objectOf[*corev1.Pod](a)
}

// podTopologyLabels copies the zone and region of a node onto the pods bound to it, where the downward API can show them.
type podTopologyLabels struct {
	*admission.Handler
	nodes corelisters.NodeLister
}

func newPodTopologyLabels() admission.Interface {
	return &podTopologyLabels{Handler: admission.NewHandler(admission.Create)}
}

// SetExternalKubeInformerFactory implements initializer.WantsExternalKubeInformerFactory.
func (p *podTopologyLabels) SetExternalKubeInformerFactory(f informers.SharedInformerFactory) {
	i := f.Core().V1().Nodes()
	p.nodes = i.Lister()
	p.SetReadyFunc(i.Informer().HasSynced)
}

// ValidateInitialization implements admission.InitializationValidator.
func (p *podTopologyLabels) ValidateInitialization() error {
	return required(PodTopologyLabelsName, map[string]bool{"node lister": p.nodes != nil})
}

// Admit implements admission.MutationInterface. It acts on bindings, whose metadata is merged into the pod, and on pods
// that are created with a node.
func (p *podTopologyLabels) Admit(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if a.GetResource().GroupResource() != pods {
		return nil
	}
	var target *metav1.ObjectMeta
	node := ""
	switch obj := a.GetObject().(type) {
	case *corev1.Binding:
		if a.GetSubresource() != "binding" || obj.Target.Kind != "" && obj.Target.Kind != "Node" {
			return nil
		}
		target, node = &obj.ObjectMeta, obj.Target.Name
	case *corev1.Pod:
		if a.GetSubresource() != "" {
			return nil
		}
		target, node = &obj.ObjectMeta, obj.Spec.NodeName
	}
	if node == "" {
		return nil
	}
	if !p.WaitForReady() {
		return notReady(a)
	}
	n, err := p.nodes.Get(node)
	if apierrors.IsNotFound(err) {
		return nil // The binding will fail, or the pod be collected; that is not for this plugin to say.
	}
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	for _, key := range []string{corev1.LabelTopologyZone, corev1.LabelTopologyRegion} {
		value, ok := n.Labels[key]
		if !ok {
			continue
		}
		if target.Labels == nil {
			target.Labels = map[string]string{}
		}
		target.Labels[key] = value
	}
	return nil
}

// ownerReferences refuses owner references that would block the deletion of an owner that the user may not delete.
type ownerReferences struct {
	*admission.Handler
	authz  authorizer.Authorizer
	mapper meta.RESTMapper
}

func newOwnerReferences() admission.Interface {
	return &ownerReferences{Handler: admission.NewHandler(admission.Create, admission.Update)}
}

// SetAuthorizer implements initializer.WantsAuthorizer.
func (p *ownerReferences) SetAuthorizer(a authorizer.Authorizer) { p.authz = a }

// SetRESTMapper implements initializer.WantsRESTMapper.
func (p *ownerReferences) SetRESTMapper(m meta.RESTMapper) { p.mapper = m }

// ValidateInitialization implements admission.InitializationValidator.
func (p *ownerReferences) ValidateInitialization() error {
	return required(OwnerReferencesPermissionEnforcementName, map[string]bool{"authorizer": p.authz != nil, "REST mapper": p.mapper != nil})
}

// Validate implements admission.ValidationInterface.
func (p *ownerReferences) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if is(a, pods) && a.GetUserInfo() != nil {
		if _, isNode := nodeIdentity(a.GetUserInfo()); isNode {
			return nil // Mirror pods; NodeRestriction checks their owner.
		}
	}
	if a.GetSubresource() == "status" {
		return nil
	}
	now, err := meta.Accessor(a.GetObject())
	if err != nil {
		return nil // Not an object with metadata.
	}
	known := map[types.UID]metav1.OwnerReference{}
	if a.GetOldObject() != nil {
		if old, err := meta.Accessor(a.GetOldObject()); err == nil {
			for _, ref := range old.GetOwnerReferences() {
				known[ref.UID] = ref
			}
		}
	}
	changed, blocking := false, []metav1.OwnerReference{}
	for _, ref := range now.GetOwnerReferences() {
		was, had := known[ref.UID]
		delete(known, ref.UID)
		changed = changed || !had
		if blocks(ref) && !(had && blocks(was)) {
			blocking = append(blocking, ref)
		}
	}
	changed = changed || len(known) > 0
	// Who creates an object may own it out to anyone; who changes its owners must be allowed to delete it.
	if changed && a.GetOperation() == admission.Update {
		if !p.allowed(ctx, a.GetUserInfo(), "delete", a.GetResource(), "", a.GetNamespace(), a.GetName()) {
			return forbid(a, "cannot set an ownerRef on a resource you can't delete")
		}
	}
	for _, ref := range blocking {
		gv, err := schema.ParseGroupVersion(ref.APIVersion)
		if err != nil {
			return forbid(a, "parse owner reference %q: %w", ref.Name, err)
		}
		mapping, err := p.mapper.RESTMapping(schema.GroupKind{Group: gv.Group, Kind: ref.Kind}, gv.Version)
		if err != nil {
			return forbid(a, "cannot set blockOwnerDeletion in this case because cannot find RESTMapping for APIVersion %s Kind %s: %w", ref.APIVersion, ref.Kind, err)
		}
		namespace := ""
		if mapping.Scope.Name() == meta.RESTScopeNameNamespace {
			namespace = a.GetNamespace()
		}
		if !p.allowed(ctx, a.GetUserInfo(), "update", mapping.Resource, "finalizers", namespace, ref.Name) {
			return forbid(a, "cannot set blockOwnerDeletion if an ownerReference refers to a resource you can't set finalizers on")
		}
	}
	return nil
}

func blocks(ref metav1.OwnerReference) bool {
	return ref.BlockOwnerDeletion != nil && *ref.BlockOwnerDeletion
}

func (p *ownerReferences) allowed(ctx context.Context, who user.Info, verb string, r schema.GroupVersionResource, sub, namespace, name string) bool {
	decision, _, err := p.authz.Authorize(ctx, authorizer.AttributesRecord{
		User: who, Verb: verb, Namespace: namespace, APIGroup: r.Group, APIVersion: r.Version, Resource: r.Resource,
		Subresource: sub, Name: name, ResourceRequest: true,
	})
	return err == nil && decision == authorizer.DecisionAllow
}
