package admission

import (
	"cmp"
	"context"
	"slices"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/client-go/informers"
	networkinglisters "k8s.io/client-go/listers/networking/v1"
)

// ingressClassAnnotation is how an Ingress named its class before there was a field.
const ingressClassAnnotation = "kubernetes.io/ingress.class"

// defaultIngressClass gives Ingresses that name no class the default one.
type defaultIngressClass struct {
	*admission.Handler
	classes networkinglisters.IngressClassLister
}

func newDefaultIngressClass() admission.Interface {
	return &defaultIngressClass{Handler: admission.NewHandler(admission.Create)}
}

// SetExternalKubeInformerFactory implements initializer.WantsExternalKubeInformerFactory.
func (p *defaultIngressClass) SetExternalKubeInformerFactory(f informers.SharedInformerFactory) {
	i := f.Networking().V1().IngressClasses()
	p.classes = i.Lister()
	p.SetReadyFunc(i.Informer().HasSynced)
}

// ValidateInitialization implements admission.InitializationValidator.
func (p *defaultIngressClass) ValidateInitialization() error {
	return required(DefaultIngressClassName, map[string]bool{"ingress class lister": p.classes != nil})
}

// Admit implements admission.MutationInterface.
func (p *defaultIngressClass) Admit(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if !is(a, networkingv1.Resource("ingresses")) {
		return nil
	}
	ingress, err := objectOf[*networkingv1.Ingress](a)
	if err != nil {
		return err
	}
	if ingress.Spec.IngressClassName != nil || ingress.Annotations[ingressClassAnnotation] != "" {
		return nil
	}
	if !p.WaitForReady() {
		return notReady(a)
	}
	all, err := p.classes.List(labels.Everything())
	if err != nil {
		return admission.NewForbidden(a, err)
	}
	var marked []*networkingv1.IngressClass
	for _, c := range all {
		if c.Annotations[networkingv1.AnnotationIsDefaultIngressClass] == "true" {
			marked = append(marked, c)
		}
	}
	if len(marked) == 0 {
		return nil
	}
	newest := slices.MinFunc(marked, func(a, b *networkingv1.IngressClass) int {
		if c := b.CreationTimestamp.Compare(a.CreationTimestamp.Time); c != 0 {
			return c
		}
		return cmp.Compare(a.Name, b.Name)
	})
	ingress.Spec.IngressClassName = &newest.Name
	return nil
}
