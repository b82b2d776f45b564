package replicaset

import (
	"context"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"
	appslisters "k8s.io/client-go/listers/apps/v1"
	"k8s.io/utils/ptr"

	"github.com/reevehq/reeve/controlplane/controllers/loop"
)

// New makes the ReplicaSet controller.
func New(env loop.Env) (*Engine, error) {
	inf := env.Informers.Apps().V1().ReplicaSets()
	return NewEngine(env, "replicaset-controller", &adapter{env.Client, inf.Lister()}, inf.Informer())
}

type adapter struct {
	client kubernetes.Interface
	lister appslisters.ReplicaSetLister
}

func (*adapter) Kind() schema.GroupVersionKind {
	return appsv1.SchemeGroupVersion.WithKind("ReplicaSet")
}

func wrap(rs *appsv1.ReplicaSet) *Set {
	sel, err := metav1.LabelSelectorAsSelector(rs.Spec.Selector)
	if err != nil {
		sel = labels.Nothing()
	}
	s := &Set{
		Object: rs, Runtime: rs, Generation: rs.Generation, Replicas: ptr.Deref(rs.Spec.Replicas, 1),
		MinReadySeconds: rs.Spec.MinReadySeconds, Selector: sel, Template: &rs.Spec.Template,
		CountsTerminating: true,
		Status: State{
			Replicas: rs.Status.Replicas, FullyLabeled: rs.Status.FullyLabeledReplicas, Ready: rs.Status.ReadyReplicas,
			Available: rs.Status.AvailableReplicas, Terminating: rs.Status.TerminatingReplicas, ObservedGeneration: rs.Status.ObservedGeneration,
		},
	}
	for _, c := range rs.Status.Conditions {
		s.Status.Conditions = append(s.Status.Conditions, Condition{string(c.Type), c.Status, c.LastTransitionTime, c.Reason, c.Message})
	}
	return s
}

func (a *adapter) Get(namespace, name string) (*Set, error) {
	rs, err := a.lister.ReplicaSets(namespace).Get(name)
	if err != nil {
		return nil, err
	}
	return wrap(rs), nil
}

func (a *adapter) Live(ctx context.Context, namespace, name string) (metav1.Object, error) {
	ctx, cancel := context.WithTimeout(ctx, loop.CallTimeout)
	defer cancel()
	return a.client.AppsV1().ReplicaSets(namespace).Get(ctx, name, metav1.GetOptions{})
}

func (a *adapter) Matching(pod *v1.Pod) (sets []*Set) {
	list, err := a.lister.ReplicaSets(pod.Namespace).List(labels.Everything())
	if err != nil {
		return nil
	}
	for _, rs := range list {
		if s := wrap(rs); !s.Selector.Empty() && s.Selector.Matches(labels.Set(pod.Labels)) {
			sets = append(sets, s)
		}
	}
	return sets
}

func (a *adapter) Siblings(set *Set) []metav1.Object {
	own := []metav1.Object{set}
	ref := metav1.GetControllerOfNoCopy(set)
	if ref == nil {
		return own
	}
	list, err := a.lister.ReplicaSets(set.GetNamespace()).List(labels.Everything())
	if err != nil {
		return own
	}
	for _, rs := range list {
		if r := metav1.GetControllerOfNoCopy(rs); r != nil && r.UID == ref.UID && rs.UID != set.GetUID() {
			own = append(own, rs)
		}
	}
	return own
}

func (a *adapter) WriteStatus(ctx context.Context, set *Set, s State) error {
	rs := set.Runtime.(*appsv1.ReplicaSet).DeepCopy()
	rs.Status = appsv1.ReplicaSetStatus{
		Replicas: s.Replicas, FullyLabeledReplicas: s.FullyLabeled, ReadyReplicas: s.Ready, AvailableReplicas: s.Available,
		TerminatingReplicas: s.Terminating, ObservedGeneration: s.ObservedGeneration,
	}
	for _, c := range s.Conditions {
		rs.Status.Conditions = append(rs.Status.Conditions, appsv1.ReplicaSetCondition{
			Type: appsv1.ReplicaSetConditionType(c.Type), Status: c.Status, LastTransitionTime: c.LastTransitionTime, Reason: c.Reason, Message: c.Message,
		})
	}
	ctx, cancel := context.WithTimeout(ctx, loop.CallTimeout)
	defer cancel()
	if _, err := a.client.AppsV1().ReplicaSets(rs.Namespace).UpdateStatus(ctx, rs, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("write status of ReplicaSet %q: %w", rs.Namespace+"/"+rs.Name, err)
	}
	return nil
}
