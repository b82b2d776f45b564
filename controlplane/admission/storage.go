package admission

import (
	"cmp"
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/client-go/informers"
	corelisters "k8s.io/client-go/listers/core/v1"
	storagelisters "k8s.io/client-go/listers/storage/v1"
)

const (
	defaultStorageClassAnnotation = "storageclass.kubernetes.io/is-default-class"
	betaDefaultStorageClass       = "storageclass.beta.kubernetes.io/is-default-class"
	claimProtectionFinalizer      = "kubernetes.io/pvc-protection"
	volumeProtectionFinalizer     = "kubernetes.io/pv-protection"
)

// defaultStorageClass gives claims that name no class the default one.
type defaultStorageClass struct {
	*admission.Handler
	classes storagelisters.StorageClassLister
}

func newDefaultStorageClass() admission.Interface {
	return &defaultStorageClass{Handler: admission.NewHandler(admission.Create)}
}

// SetExternalKubeInformerFactory implements initializer.WantsExternalKubeInformerFactory.
func (p *defaultStorageClass) SetExternalKubeInformerFactory(f informers.SharedInformerFactory) {
	i := f.Storage().V1().StorageClasses()
	p.classes = i.Lister()
	p.SetReadyFunc(i.Informer().HasSynced)
}

// ValidateInitialization implements admission.InitializationValidator.
func (p *defaultStorageClass) ValidateInitialization() error {
	return required(DefaultStorageClassName, map[string]bool{"storage class lister": p.classes != nil})
}

// Admit implements admission.MutationInterface.
func (p *defaultStorageClass) Admit(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if !is(a, claims) {
		return nil
	}
	claim, err := objectOf[*corev1.PersistentVolumeClaim](a)
	if err != nil {
		return err
	}
	if claim.Spec.StorageClassName != nil || hasKey(claim.Annotations, corev1.BetaStorageClassAnnotation) {
		return nil
	}
	if !p.WaitForReady() {
		return notReady(a)
	}
	all, err := p.classes.List(labels.Everything())
	if err != nil {
		return admission.NewForbidden(a, err)
	}
	if class := defaultClassOf(all); class != nil {
		claim.Spec.StorageClassName = &class.Name
	}
	return nil
}

// defaultClassOf picks the newest of the classes marked as default, of equally old ones the first by name.
func defaultClassOf(all []*storagev1.StorageClass) *storagev1.StorageClass {
	var marked []*storagev1.StorageClass
	for _, c := range all {
		if c.Annotations[defaultStorageClassAnnotation] == "true" || c.Annotations[betaDefaultStorageClass] == "true" {
			marked = append(marked, c)
		}
	}
	if len(marked) == 0 {
		return nil
	}
	return slices.MinFunc(marked, func(a, b *storagev1.StorageClass) int {
		if c := b.CreationTimestamp.Compare(a.CreationTimestamp.Time); c != 0 {
			return c
		}
		return cmp.Compare(a.Name, b.Name)
	})
}

// storageProtection puts the finalizer on claims and volumes that keeps them while they are in use.
type storageProtection struct{ *admission.Handler }

func newStorageProtection() admission.Interface {
	return &storageProtection{admission.NewHandler(admission.Create)}
}

// Admit implements admission.MutationInterface.
func (p *storageProtection) Admit(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	switch {
	case is(a, claims):
		claim, err := objectOf[*corev1.PersistentVolumeClaim](a)
		if err != nil {
			return err
		}
		claim.Finalizers = withFinalizer(claim.Finalizers, claimProtectionFinalizer)
	case is(a, volumes):
		volume, err := objectOf[*corev1.PersistentVolume](a)
		if err != nil {
			return err
		}
		volume.Finalizers = withFinalizer(volume.Finalizers, volumeProtectionFinalizer)
	}
	return nil
}

func withFinalizer(list []string, name string) []string {
	if slices.Contains(list, name) {
		return list
	}
	return append(list, name)
}

// claimResize lets a bound claim grow only where its class allows it.
type claimResize struct {
	*admission.Handler
	classes storagelisters.StorageClassLister
	volumes corelisters.PersistentVolumeLister
}

func newClaimResize() admission.Interface {
	return &claimResize{Handler: admission.NewHandler(admission.Update)}
}

// SetExternalKubeInformerFactory implements initializer.WantsExternalKubeInformerFactory.
func (p *claimResize) SetExternalKubeInformerFactory(f informers.SharedInformerFactory) {
	i := f.Storage().V1().StorageClasses()
	p.classes = i.Lister()
	p.SetReadyFunc(i.Informer().HasSynced)
}

// ValidateInitialization implements admission.InitializationValidator.
func (p *claimResize) ValidateInitialization() error {
	return required(PersistentVolumeClaimResizeName, map[string]bool{"storage class lister": p.classes != nil})
}

// Validate implements admission.ValidationInterface.
func (p *claimResize) Validate(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if !is(a, claims) {
		return nil
	}
	claim, err := objectOf[*corev1.PersistentVolumeClaim](a)
	if err != nil {
		return err
	}
	old, err := oldObjectOf[*corev1.PersistentVolumeClaim](a)
	if err != nil {
		return err
	}
	now, was := claim.Spec.Resources.Requests[corev1.ResourceStorage], old.Spec.Resources.Requests[corev1.ResourceStorage]
	if now.Cmp(was) <= 0 {
		return nil
	}
	if old.Status.Phase != corev1.ClaimBound {
		return forbid(a, "Only bound persistent volume claims can be expanded")
	}
	if !p.WaitForReady() {
		return notReady(a)
	}
	name := claimClass(claim)
	if name == "" {
		return forbid(a, "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize")
	}
	class, err := p.classes.Get(name)
	if err != nil && !apierrors.IsNotFound(err) {
		return admission.NewForbidden(a, err)
	}
	if err != nil || class.AllowVolumeExpansion == nil || !*class.AllowVolumeExpansion {
		return forbid(a, "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize")
	}
	return nil
}

func claimClass(c *corev1.PersistentVolumeClaim) string {
	if name, ok := c.Annotations[corev1.BetaStorageClassAnnotation]; ok {
		return name
	}
	if c.Spec.StorageClassName == nil {
		return ""
	}
	return *c.Spec.StorageClassName
}

func hasKey(m map[string]string, key string) bool {
	_, ok := m[key]
	return ok
}
