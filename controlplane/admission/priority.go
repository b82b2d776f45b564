package admission

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/client-go/informers"
	schedulinglisters "k8s.io/client-go/listers/scheduling/v1"
)

// The classes that every cluster has, with their values. A pod that names one is admitted even before the objects are
// bootstrapped: the first static pods of a control plane may come earlier.
var systemClasses = map[string]int32{
	"system-cluster-critical": 2000000000,
	"system-node-critical":    2000001000,
}

// defaultPriority is the priority of pods without a class while no class is the default.
const defaultPriority = 0

// priority resolves a pod's priority class into a number and a preemption policy, and keeps the default class unique.
type priority struct {
	*admission.Handler
	classes schedulinglisters.PriorityClassLister
}

func newPriority() admission.Interface {
	return &priority{Handler: admission.NewHandler(admission.Create, admission.Update, admission.Delete)}
}

// SetExternalKubeInformerFactory implements initializer.WantsExternalKubeInformerFactory.
func (p *priority) SetExternalKubeInformerFactory(f informers.SharedInformerFactory) {
	i := f.Scheduling().V1().PriorityClasses()
	p.classes = i.Lister()
	p.SetReadyFunc(i.Informer().HasSynced)
}

// ValidateInitialization implements admission.InitializationValidator.
func (p *priority) ValidateInitialization() error {
	return required(PriorityName, map[string]bool{"priority class lister": p.classes != nil})
}

// Admit implements admission.MutationInterface.
func (p *priority) Admit(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if !is(a, pods) || a.GetOperation() == admission.Delete {
		return nil
	}
	if !p.WaitForReady() {
		return notReady(a)
	}
	pod, err := objectOf[*corev1.Pod](a)
	if err != nil {
		return err
	}
	if a.GetOperation() == admission.Create {
		return p.resolve(a, pod)
	}
	old, err := oldObjectOf[*corev1.Pod](a)
	if err != nil {
		return err
	}
	// What was resolved at creation stays, whatever the class says today: clients that do not know the fields may
	// leave them out of an update.
	if pod.Spec.Priority == nil {
		pod.Spec.Priority = old.Spec.Priority
	}
	if pod.Spec.PreemptionPolicy == nil {
		pod.Spec.PreemptionPolicy = old.Spec.PreemptionPolicy
	}
	return nil
}

func (p *priority) resolve(a admission.Attributes, pod *corev1.Pod) error {
	class, err := p.classOf(a, pod)
	if err != nil {
		return err
	}
	if class.Name != "" {
		pod.Spec.PriorityClassName = class.Name
	}
	if given := pod.Spec.Priority; given != nil && *given != class.Value {
		return forbid(a, "the integer value of priority (%d) must not be provided in pod spec; priority admission controller computed %d from the given PriorityClass name", *given, class.Value)
	}
	pod.Spec.Priority = &class.Value
	policy := corev1.PreemptLowerPriority
	if class.PreemptionPolicy != nil {
		policy = *class.PreemptionPolicy
	}
	if given := pod.Spec.PreemptionPolicy; given != nil && *given != policy {
		return forbid(a, "the string value of PreemptionPolicy (%s) must not be provided in pod spec; priority admission controller computed %s from the given PriorityClass name", *given, policy)
	}
	pod.Spec.PreemptionPolicy = &policy
	return nil
}

func (p *priority) classOf(a admission.Attributes, pod *corev1.Pod) (schedulingv1.PriorityClass, error) {
	name := pod.Spec.PriorityClassName
	if name == "" {
		return p.defaultClass()
	}
	class, err := p.classes.Get(name)
	switch {
	case err == nil:
		return *class, nil
	case !apierrors.IsNotFound(err):
		return schedulingv1.PriorityClass{}, apierrors.NewInternalError(err)
	}
	if value, ok := systemClasses[name]; ok {
		class := schedulingv1.PriorityClass{Value: value}
		class.Name = name
		return class, nil
	}
	return schedulingv1.PriorityClass{}, forbid(a, "no PriorityClass with name %s was found", name)
}

// defaultClass returns the default class with the lowest value: two can exist for the moment in which the default is
// moved from one to another on several servers.
func (p *priority) defaultClass() (schedulingv1.PriorityClass, error) {
	all, err := p.classes.List(labels.Everything())
	if err != nil {
		return schedulingv1.PriorityClass{}, apierrors.NewInternalError(err)
	}
	var found *schedulingv1.PriorityClass
	for _, c := range all {
		if c.GlobalDefault && (found == nil || c.Value < found.Value) {
			found = c
		}
	}
	if found == nil {
		return schedulingv1.PriorityClass{Value: defaultPriority}, nil
	}
	return *found, nil
}

// Validate implements admission.ValidationInterface: only one class may be the default.
func (p *priority) Validate(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if !is(a, schedulingv1.Resource("priorityclasses")) || a.GetOperation() == admission.Delete {
		return nil
	}
	if !p.WaitForReady() {
		return notReady(a)
	}
	class, err := objectOf[*schedulingv1.PriorityClass](a)
	if err != nil {
		return err
	}
	if !class.GlobalDefault {
		return nil
	}
	all, err := p.classes.List(labels.Everything())
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	for _, c := range all {
		if c.GlobalDefault && (a.GetOperation() == admission.Create || c.Name != class.Name) {
			return forbid(a, "PriorityClass %s is already marked as default. Only one default can exist", c.Name)
		}
	}
	return nil
}
