package admission

import (
	"context"
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	resourcehelper "k8s.io/component-helpers/resource"
	"k8s.io/utils/lru"
)

const (
	// limiterAnnotation tells what was defaulted, as upstream's does.
	limiterAnnotation = "kubernetes.io/limit-ranger"
	// limitLookupTTL bounds live look-ups for a namespace that the lister shows no limits in: a quickstart that makes
	// namespace, limits and pods in one go would slip through else.
	limitLookupTTL = 30 * time.Second
	// limitLookupSize bounds the namespaces remembered.
	limitLookupSize = 10000
)

// limitRanger applies a namespace's LimitRanges: defaults for containers that ask for nothing, bounds for all.
type limitRanger struct {
	*admission.Handler
	client kubernetes.Interface
	limits corelisters.LimitRangeLister
	recent *lru.Cache
	now    func() time.Time
}

func newLimitRanger() admission.Interface {
	return &limitRanger{
		Handler: admission.NewHandler(admission.Create, admission.Update),
		recent:  lru.New(limitLookupSize), now: time.Now,
	}
}

type liveLimits struct {
	until time.Time
	items []*corev1.LimitRange
}

// SetExternalKubeClientSet implements initializer.WantsExternalKubeClientSet.
func (p *limitRanger) SetExternalKubeClientSet(c kubernetes.Interface) { p.client = c }

// SetExternalKubeInformerFactory implements initializer.WantsExternalKubeInformerFactory.
func (p *limitRanger) SetExternalKubeInformerFactory(f informers.SharedInformerFactory) {
	i := f.Core().V1().LimitRanges()
	p.limits = i.Lister()
	p.SetReadyFunc(i.Informer().HasSynced)
}

// ValidateInitialization implements admission.InitializationValidator.
func (p *limitRanger) ValidateInitialization() error {
	return required(LimitRangerName, map[string]bool{"limit range lister": p.limits != nil, "client": p.client != nil})
}

// Admit implements admission.MutationInterface: defaults are for new pods only.
func (p *limitRanger) Admit(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if !is(a, pods) || a.GetOperation() != admission.Create {
		return nil
	}
	pod, err := objectOf[*corev1.Pod](a)
	if err != nil {
		return err
	}
	return p.each(ctx, a, func(l *corev1.LimitRange) error {
		applyLimitDefaults(pod, l)
		return nil
	})
}

// Validate implements admission.ValidationInterface.
func (p *limitRanger) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	switch {
	case a.GetResource().GroupResource() == pods && (a.GetSubresource() == "" || a.GetSubresource() == "resize"):
		// Requests of a running pod change only through resize.
		if a.GetSubresource() == "" && a.GetOperation() == admission.Update {
			return nil
		}
		pod, err := objectOf[*corev1.Pod](a)
		if err != nil {
			return err
		}
		return p.each(ctx, a, func(l *corev1.LimitRange) error { return violations(a, podViolations(pod, l)) })
	case is(a, claims):
		claim, err := objectOf[*corev1.PersistentVolumeClaim](a)
		if err != nil {
			return err
		}
		if a.GetOperation() == admission.Update {
			// A claim that is being deleted, or whose size stays, must be able to lose its finalizers.
			old, err := oldObjectOf[*corev1.PersistentVolumeClaim](a)
			if err != nil {
				return err
			}
			now, was := claim.Spec.Resources.Requests[corev1.ResourceStorage], old.Spec.Resources.Requests[corev1.ResourceStorage]
			if claim.DeletionTimestamp != nil || now.Cmp(was) == 0 {
				return nil
			}
		}
		return p.each(ctx, a, func(l *corev1.LimitRange) error { return violations(a, claimViolations(claim, l)) })
	}
	return nil
}

func violations(a admission.Attributes, list []string) error {
	switch len(list) {
	case 0:
		return nil
	case 1:
		return forbid(a, "%s", list[0])
	}
	return forbid(a, "[%s]", strings.Join(list, ", "))
}

func (p *limitRanger) each(ctx context.Context, a admission.Attributes, do func(*corev1.LimitRange) error) error {
	if !p.WaitForReady() {
		return notReady(a)
	}
	list, err := p.inNamespace(ctx, a.GetNamespace())
	if err != nil {
		return admission.NewForbidden(a, fmt.Errorf("unable to %s %v at this time because there was an error enforcing limit ranges: %w",
			a.GetOperation(), a.GetResource().Resource, err))
	}
	for _, l := range list {
		if err := do(l); err != nil {
			return err
		}
	}
	return nil
}

func (p *limitRanger) inNamespace(ctx context.Context, namespace string) ([]*corev1.LimitRange, error) {
	list, err := p.limits.LimitRanges(namespace).List(labels.Everything())
	if err != nil || len(list) > 0 {
		list = slices.Clone(list)
		sort.Slice(list, func(i, j int) bool { return list[i].Name < list[j].Name })
		return list, err
	}
	if cached, ok := p.recent.Get(namespace); ok && p.now().Before(cached.(liveLimits).until) {
		return cached.(liveLimits).items, nil
	}
	live, err := p.client.CoreV1().LimitRanges(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		if apierrors.IsNotFound(err) {
			return nil, nil
		}
		return nil, err
	}
	for i := range live.Items {
		list = append(list, &live.Items[i])
	}
	p.recent.Add(namespace, liveLimits{p.now().Add(limitLookupTTL), list})
	return list, nil
}

// applyLimitDefaults fills requests and limits that a container left out. A pod with resources of its own is left alone
// for those resources: its containers share them.
func applyLimitDefaults(pod *corev1.Pod, l *corev1.LimitRange) {
	limits, requests := corev1.ResourceList{}, corev1.ResourceList{}
	for _, item := range l.Spec.Limits {
		if item.Type != corev1.LimitTypeContainer {
			continue
		}
		for name, q := range item.Default {
			limits[name] = q.DeepCopy()
		}
		for name, q := range item.DefaultRequest {
			requests[name] = q.DeepCopy()
		}
	}
	var notes []string
	for kind, group := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		word := []string{"container", "init container"}[kind]
		for i := range group {
			c := &group[i]
			if set := fillMissing(&c.Resources.Requests, requests); len(set) > 0 {
				notes = append(notes, fmt.Sprintf("%s request for %s %s", strings.Join(set, ", "), word, c.Name))
			}
			if set := fillMissing(&c.Resources.Limits, limits); len(set) > 0 {
				notes = append(notes, fmt.Sprintf("%s limit for %s %s", strings.Join(set, ", "), word, c.Name))
			}
		}
	}
	if len(notes) > 0 {
		if pod.Annotations == nil {
			pod.Annotations = map[string]string{}
		}
		pod.Annotations[limiterAnnotation] = "LimitRanger plugin set: " + strings.Join(notes, "; ")
	}
}

func fillMissing(dst *corev1.ResourceList, src corev1.ResourceList) []string {
	var set []string
	for name, q := range src {
		if _, ok := (*dst)[name]; ok {
			continue
		}
		if *dst == nil {
			*dst = corev1.ResourceList{}
		}
		(*dst)[name] = q.DeepCopy()
		set = append(set, string(name))
	}
	slices.Sort(set)
	return set
}

func claimViolations(c *corev1.PersistentVolumeClaim, l *corev1.LimitRange) []string {
	var out []string
	for _, item := range l.Spec.Limits {
		if item.Type != corev1.LimitTypePersistentVolumeClaim {
			continue
		}
		for _, name := range namesOf(item.Min) {
			out = append(out, atLeast(item.Type, name, item.Min[name], c.Spec.Resources.Requests, c.Spec.Resources.Limits)...)
		}
		for _, name := range namesOf(item.Max) {
			// A claim's request is what it gets, so the maximum bounds the request.
			out = append(out, requestAtMost(item.Type, name, item.Max[name], c.Spec.Resources.Requests)...)
		}
	}
	return out
}

func podViolations(pod *corev1.Pod, l *corev1.LimitRange) []string {
	var out []string
	for _, item := range l.Spec.Limits {
		switch item.Type {
		case corev1.LimitTypeContainer:
			for _, group := range [][]corev1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
				for i := range group {
					out = append(out, itemViolations(item, group[i].Resources.Requests, group[i].Resources.Limits)...)
				}
			}
		case corev1.LimitTypePod:
			requests, limits := podTotals(pod)
			out = append(out, itemViolations(item, requests, limits)...)
		}
	}
	return out
}

func itemViolations(item corev1.LimitRangeItem, requests, limits corev1.ResourceList) []string {
	var out []string
	for _, name := range namesOf(item.Min) {
		out = append(out, atLeast(item.Type, name, item.Min[name], requests, limits)...)
	}
	for _, name := range namesOf(item.Max) {
		out = append(out, atMost(item.Type, name, item.Max[name], requests, limits)...)
	}
	for _, name := range namesOf(item.MaxLimitRequestRatio) {
		out = append(out, withinRatio(item.Type, name, item.MaxLimitRequestRatio[name], requests, limits)...)
	}
	return out
}

func namesOf(list corev1.ResourceList) []corev1.ResourceName {
	out := make([]corev1.ResourceName, 0, len(list))
	for name := range list {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

func atLeast(t corev1.LimitType, name corev1.ResourceName, bound resource.Quantity, requests, limits corev1.ResourceList) []string {
	request, asked := requests[name]
	limit, limited := limits[name]
	switch {
	case !asked:
		return []string{fmt.Sprintf("minimum %s usage per %s is %s.  No request is specified", name, t, bound.String())}
	case request.Cmp(bound) < 0:
		return []string{fmt.Sprintf("minimum %s usage per %s is %s, but request is %s", name, t, bound.String(), request.String())}
	case limited && limit.Cmp(bound) < 0:
		return []string{fmt.Sprintf("minimum %s usage per %s is %s, but limit is %s", name, t, bound.String(), limit.String())}
	}
	return nil
}

func requestAtMost(t corev1.LimitType, name corev1.ResourceName, bound resource.Quantity, requests corev1.ResourceList) []string {
	request, asked := requests[name]
	switch {
	case !asked:
		return []string{fmt.Sprintf("maximum %s usage per %s is %s.  No request is specified", name, t, bound.String())}
	case request.Cmp(bound) > 0:
		return []string{fmt.Sprintf("maximum %s usage per %s is %s, but request is %s", name, t, bound.String(), request.String())}
	}
	return nil
}

func atMost(t corev1.LimitType, name corev1.ResourceName, bound resource.Quantity, requests, limits corev1.ResourceList) []string {
	request, asked := requests[name]
	limit, limited := limits[name]
	switch {
	case !limited:
		return []string{fmt.Sprintf("maximum %s usage per %s is %s.  No limit is specified", name, t, bound.String())}
	case limit.Cmp(bound) > 0:
		return []string{fmt.Sprintf("maximum %s usage per %s is %s, but limit is %s", name, t, bound.String(), limit.String())}
	case asked && request.Cmp(bound) > 0:
		return []string{fmt.Sprintf("maximum %s usage per %s is %s, but request is %s", name, t, bound.String(), request.String())}
	}
	return nil
}

func withinRatio(t corev1.LimitType, name corev1.ResourceName, bound resource.Quantity, requests, limits corev1.ResourceList) []string {
	request, asked := requests[name]
	limit, limited := limits[name]
	switch {
	case !asked || request.IsZero():
		return []string{fmt.Sprintf("%s max limit to request ratio per %s is %s, but no request is specified or request is 0", name, t, bound.String())}
	case !limited || limit.IsZero():
		return []string{fmt.Sprintf("%s max limit to request ratio per %s is %s, but no limit is specified or limit is 0", name, t, bound.String())}
	}
	ratio := limit.AsApproximateFloat64() / request.AsApproximateFloat64()
	if ratio > bound.AsApproximateFloat64() {
		return []string{fmt.Sprintf("%s max limit to request ratio per %s is %s, but provided ratio is %f", name, t, bound.String(), ratio)}
	}
	return nil
}

// podTotals sums a pod as the scheduler does, without the runtime's overhead, which its author cannot choose.
func podTotals(pod *corev1.Pod) (requests, limits corev1.ResourceList) {
	o := resourcehelper.PodResourcesOptions{ExcludeOverhead: true}
	return resourcehelper.PodRequests(pod, o), resourcehelper.PodLimits(pod, o)
}
