package admission

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiserver/pkg/admission"
)

// unhealthyNodeSeconds is how long a pod stays on a node that is not ready or unreachable: 5 min.
const unhealthyNodeSeconds int64 = 300

// defaultTolerationSeconds lets pods stay on a node that is in trouble for a while before they are evicted.
type defaultTolerationSeconds struct{ *admission.Handler }

func newDefaultTolerationSeconds() admission.Interface {
	return &defaultTolerationSeconds{admission.NewHandler(admission.Create, admission.Update)}
}

// Admit implements admission.MutationInterface.
func (p *defaultTolerationSeconds) Admit(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if !is(a, pods) {
		return nil
	}
	pod, err := objectOf[*corev1.Pod](a)
	if err != nil {
		return err
	}
	for _, taint := range []string{corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable} {
		if slices.ContainsFunc(pod.Spec.Tolerations, func(t corev1.Toleration) bool { return toleratesEviction(t, taint) }) {
			continue
		}
		seconds := unhealthyNodeSeconds
		pod.Spec.Tolerations = append(pod.Spec.Tolerations, corev1.Toleration{
			Key: taint, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: &seconds,
		})
	}
	return nil
}

func toleratesEviction(t corev1.Toleration, key string) bool {
	return (t.Key == key || t.Key == "") && (t.Effect == corev1.TaintEffectNoExecute || t.Effect == "")
}

// taintNodesByCondition keeps pods off a new node until a controller has seen it ready.
type taintNodesByCondition struct{ *admission.Handler }

func newTaintNodesByCondition() admission.Interface {
	return &taintNodesByCondition{admission.NewHandler(admission.Create)}
}

// Admit implements admission.MutationInterface.
func (p *taintNodesByCondition) Admit(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if !is(a, nodes) {
		return nil
	}
	node, err := objectOf[*corev1.Node](a)
	if err != nil {
		return err
	}
	taint := corev1.Taint{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule}
	if !slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool { return t.MatchTaint(&taint) }) {
		node.Spec.Taints = append(node.Spec.Taints, taint)
	}
	return nil
}

// extendedResourceToleration tolerates a taint named like an extended resource that the pod asks for, so that nodes
// with rare devices can keep other pods away.
type extendedResourceToleration struct{ *admission.Handler }

func newExtendedResourceToleration() admission.Interface {
	return &extendedResourceToleration{admission.NewHandler(admission.Create, admission.Update)}
}

// Admit implements admission.MutationInterface.
func (p *extendedResourceToleration) Admit(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if !is(a, pods) {
		return nil
	}
	pod, err := objectOf[*corev1.Pod](a)
	if err != nil {
		return err
	}
	var names []string
	for _, c := range slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers) {
		for name := range c.Resources.Requests {
			if isExtendedResource(name) && !slices.Contains(names, string(name)) {
				names = append(names, string(name))
			}
		}
	}
	slices.Sort(names)
	for _, name := range names {
		t := corev1.Toleration{Key: name, Operator: corev1.TolerationOpExists}
		if !slices.ContainsFunc(pod.Spec.Tolerations, func(have corev1.Toleration) bool { return have.MatchToleration(&t) }) {
			pod.Spec.Tolerations = append(pod.Spec.Tolerations, t)
		}
	}
	return nil
}
