package admission

import (
	"context"
	"maps"
	"slices"
	"strings"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	kubeletapis "k8s.io/kubelet/pkg/apis"
)

const (
	// nodeUserPrefix and user.NodesGroup together make a user a node.
	nodeUserPrefix = "system:node:"
	// restrictedLabelNamespace holds labels that only administrators set on nodes.
	restrictedLabelNamespace = "node-restriction.kubernetes.io"
)

// nodeRestriction keeps a node's credential to what concerns that node: what the Node authorizer cannot tell from the
// request's path alone.
type nodeRestriction struct {
	*admission.Handler
	pods     corelisters.PodLister
	nodes    corelisters.NodeLister
	claims   corelisters.PersistentVolumeClaimLister
	volumes  corelisters.PersistentVolumeLister
	drivers  storagelisters.CSIDriverLister
	authz    authorizer.Authorizer
	client   kubernetes.Interface
	identify func(user.Info) (name string, isNode bool)
}

func newNodeRestriction() admission.Interface {
	return &nodeRestriction{
		Handler:  admission.NewHandler(admission.Create, admission.Update, admission.Delete),
		identify: nodeIdentity,
	}
}

// nodeIdentity tells whether a user is a node, and which. A member of the nodes group without a node's name is a node
// without a name: it may do nothing that needs one.
func nodeIdentity(u user.Info) (string, bool) {
	if u == nil || !slices.Contains(u.GetGroups(), user.NodesGroup) {
		return "", false
	}
	name, ok := strings.CutPrefix(u.GetName(), nodeUserPrefix)
	if !ok {
		return "", strings.HasPrefix(u.GetName(), "system:node")
	}
	return name, true
}

// SetExternalKubeClientSet implements initializer.WantsExternalKubeClientSet.
func (p *nodeRestriction) SetExternalKubeClientSet(client kubernetes.Interface) { p.client = client }

// SetExternalKubeInformerFactory implements initializer.WantsExternalKubeInformerFactory.
func (p *nodeRestriction) SetExternalKubeInformerFactory(f informers.SharedInformerFactory) {
	podInformer, nodeInformer := f.Core().V1().Pods(), f.Core().V1().Nodes()
	claimInformer, volumeInformer := f.Core().V1().PersistentVolumeClaims(), f.Core().V1().PersistentVolumes()
	driverInformer := f.Storage().V1().CSIDrivers()
	p.pods, p.nodes = podInformer.Lister(), nodeInformer.Lister()
	p.claims, p.volumes, p.drivers = claimInformer.Lister(), volumeInformer.Lister(), driverInformer.Lister()
	synced := []func() bool{
		podInformer.Informer().HasSynced, nodeInformer.Informer().HasSynced, claimInformer.Informer().HasSynced,
		volumeInformer.Informer().HasSynced, driverInformer.Informer().HasSynced,
	}
	p.SetReadyFunc(func() bool {
		return !slices.ContainsFunc(synced, func(ok func() bool) bool { return !ok() })
	})
}

// SetAuthorizer implements initializer.WantsAuthorizer: it answers which token audiences a node may ask for.
func (p *nodeRestriction) SetAuthorizer(a authorizer.Authorizer) { p.authz = a }

// ValidateInitialization implements admission.InitializationValidator.
func (p *nodeRestriction) ValidateInitialization() error {
	return required(NodeRestrictionName, map[string]bool{"listers": p.pods != nil, "authorizer": p.authz != nil})
}

// Admit implements admission.MutationInterface. It changes nothing; it runs early so that later plugins cannot leak
// what a node may not read.
func (p *nodeRestriction) Admit(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	name, isNode := p.identify(a.GetUserInfo())
	if !isNode {
		return nil
	}
	if name == "" {
		return forbid(a, "could not determine node from user %q", a.GetUserInfo().GetName())
	}
	switch a.GetResource().GroupResource() {
	case pods:
		return p.admitPod(a, name)
	case nodes:
		return p.admitNode(a, name)
	case claims:
		return p.admitClaim(a, name)
	case serviceaccount:
		if a.GetSubresource() == "token" {
			return p.admitToken(ctx, a, name)
		}
		return nil
	case coordinationv1.Resource("leases"):
		return admitLease(a, name)
	case storagev1.Resource("csinodes"):
		return admitCSINode(a, name)
	case resourcev1.Resource("resourceslices"):
		return admitResourceSlice(a, name)
	}
	return nil
}

func (p *nodeRestriction) admitNode(a admission.Attributes, self string) error {
	if a.GetName() != "" && a.GetName() != self {
		return forbid(a, "node %q is not allowed to modify node %q", self, a.GetName())
	}
	switch a.GetOperation() {
	case admission.Create:
		node, err := objectOf[*corev1.Node](a)
		if err != nil {
			return err
		}
		// The name in the path is empty on create; the object's counts.
		if node.Name != self {
			return forbid(a, "node %q is not allowed to modify node %q", self, node.Name)
		}
		if node.Spec.ConfigSource != nil {
			return forbid(a, "node %q is not allowed to create pods with a non-nil configSource", self)
		}
		if len(node.OwnerReferences) > 0 {
			return forbid(a, "node %q is not allowed to set metadata.ownerReferences", self)
		}
		return allowedLabels(a, self, node.Labels, nil)
	case admission.Update:
		node, err := objectOf[*corev1.Node](a)
		if err != nil {
			return err
		}
		old, err := oldObjectOf[*corev1.Node](a)
		if err != nil {
			return err
		}
		if node.Spec.ConfigSource != nil && !equality.Semantic.DeepEqual(node.Spec.ConfigSource, old.Spec.ConfigSource) {
			return forbid(a, "node %q is not allowed to update configSource to a new non-nil configSource", self)
		}
		if !equality.Semantic.DeepEqual(node.Spec.Taints, old.Spec.Taints) {
			return forbid(a, "node %q is not allowed to modify taints", self)
		}
		// An owner that does not exist would have the garbage collector delete the node.
		if !equality.Semantic.DeepEqual(node.OwnerReferences, old.OwnerReferences) {
			return forbid(a, "node %q is not allowed to modify metadata.ownerReferences", self)
		}
		return allowedLabels(a, self, node.Labels, old.Labels)
	}
	return nil
}

// allowedLabels refuses changes to labels of Kubernetes' own namespaces except those that a kubelet sets.
func allowedLabels(a admission.Attributes, self string, now, old map[string]string) error {
	bad := sets.New[string]()
	for key := range maps.Keys(union(now, old)) {
		nowValue, nowSet := now[key]
		oldValue, oldSet := old[key]
		if nowSet == oldSet && nowValue == oldValue {
			continue
		}
		if !nodeMaySetLabel(key) {
			bad.Insert(key)
		}
	}
	if bad.Len() == 0 {
		return nil
	}
	if a.GetOperation() == admission.Create {
		return forbid(a, "node %q is not allowed to set the following labels: %s", self, strings.Join(sets.List(bad), ", "))
	}
	return forbid(a, "node %q is not allowed to modify labels: %s", self, strings.Join(sets.List(bad), ", "))
}

func union(a, b map[string]string) map[string]string {
	out := maps.Clone(a)
	if out == nil {
		out = map[string]string{}
	}
	maps.Copy(out, b)
	return out
}

func nodeMaySetLabel(key string) bool {
	domain, _, qualified := strings.Cut(key, "/")
	if !qualified {
		return true
	}
	if within(domain, restrictedLabelNamespace) {
		return false
	}
	if within(domain, "kubernetes.io") || within(domain, "k8s.io") {
		return kubeletapis.IsKubeletLabel(key)
	}
	return true
}

func within(domain, parent string) bool {
	return domain == parent || strings.HasSuffix(domain, "."+parent)
}

// admitClaim lets a node report the progress of a volume's expansion, nothing else.
func (p *nodeRestriction) admitClaim(a admission.Attributes, self string) error {
	if a.GetOperation() != admission.Update || a.GetSubresource() != "status" {
		return forbid(a, "node %q may only update the status of persistent volume claims", self)
	}
	claim, err := objectOf[*corev1.PersistentVolumeClaim](a)
	if err != nil {
		return err
	}
	old, err := oldObjectOf[*corev1.PersistentVolumeClaim](a)
	if err != nil {
		return err
	}
	now, was := claim.DeepCopy(), old.DeepCopy()
	for _, c := range []*corev1.PersistentVolumeClaim{now, was} {
		c.ResourceVersion, c.ManagedFields = "", nil
		c.Status.Capacity, c.Status.Conditions = nil, nil
		c.Status.AllocatedResources, c.Status.AllocatedResourceStatuses = nil, nil
		c.Status.CurrentVolumeAttributesClassName, c.Status.ModifyVolumeStatus = nil, nil
	}
	if !equality.Semantic.DeepEqual(now, was) {
		return forbid(a, "node %q is not allowed to update fields other than status.capacity, status.conditions, status.allocatedResources, status.allocatedResourceStatuses, status.currentVolumeAttributesClassName and status.modifyVolumeStatus", self)
	}
	return nil
}

func admitLease(a admission.Attributes, self string) error {
	if a.GetNamespace() != corev1.NamespaceNodeLease {
		return forbid(a, "can only access leases in the %q system namespace", corev1.NamespaceNodeLease)
	}
	name := a.GetName()
	if a.GetOperation() == admission.Create {
		lease, err := objectOf[*coordinationv1.Lease](a)
		if err != nil {
			return err
		}
		name = lease.Name
	}
	if name != self {
		return forbid(a, "can only access node lease with the same name as the requesting node")
	}
	return nil
}

func admitCSINode(a admission.Attributes, self string) error {
	name := a.GetName()
	if a.GetOperation() == admission.Create {
		c, err := objectOf[*storagev1.CSINode](a)
		if err != nil {
			return err
		}
		name = c.Name
	}
	if name != self {
		return forbid(a, "can only access CSINode with the same name as the requesting node")
	}
	return nil
}

func admitResourceSlice(a admission.Attributes, self string) error {
	var slice *resourcev1.ResourceSlice
	var err error
	switch a.GetOperation() {
	case admission.Create:
		slice, err = objectOf[*resourcev1.ResourceSlice](a)
	case admission.Update, admission.Delete:
		// The node name cannot change, so the stored one decides. A collection delete comes item by item.
		if a.GetOldObject() == nil {
			return nil
		}
		slice, err = oldObjectOf[*resourcev1.ResourceSlice](a)
	default:
		return nil
	}
	if err != nil {
		return err
	}
	if slice.Spec.NodeName == nil || *slice.Spec.NodeName != self {
		return forbid(a, "can only access ResourceSlice with the same NodeName as the requesting node")
	}
	return nil
}
