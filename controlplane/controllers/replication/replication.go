package replication

import (
	"context"
	"fmt"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/utils/ptr"

	"github.com/reevehq/reeve/controlplane/controllers/loop"
	"github.com/reevehq/reeve/controlplane/controllers/replicaset"
)

// New makes the ReplicationController controller.
func New(env loop.Env) (*replicaset.Engine, error) {
	inf := env.Informers.Core().V1().ReplicationControllers()
	return replicaset.NewEngine(env, "replication-controller", &adapter{env.Client, inf.Lister()}, inf.Informer())
}

type adapter struct {
	client kubernetes.Interface
	lister corelisters.ReplicationControllerLister
}

func (*adapter) Kind() schema.GroupVersionKind {
	return v1.SchemeGroupVersion.WithKind("ReplicationController")
}

func wrap(rc *v1.ReplicationController) *replicaset.Set {
	template := rc.Spec.Template
	if template == nil {
		template = &v1.PodTemplateSpec{}
	}
	sel := labels.Set(rc.Spec.Selector).AsSelectorPreValidated()
	if len(rc.Spec.Selector) == 0 {
		sel = labels.Nothing()
	}
	s := &replicaset.Set{
		Object: rc, Runtime: rc, Generation: rc.Generation, Replicas: ptr.Deref(rc.Spec.Replicas, 1),
		MinReadySeconds: rc.Spec.MinReadySeconds, Selector: sel, Template: template,
		Status: replicaset.State{
			Replicas: rc.Status.Replicas, FullyLabeled: rc.Status.FullyLabeledReplicas, Ready: rc.Status.ReadyReplicas,
			Available: rc.Status.AvailableReplicas, ObservedGeneration: rc.Status.ObservedGeneration,
		},
	}
	for _, c := range rc.Status.Conditions {
		s.Status.Conditions = append(s.Status.Conditions, replicaset.Condition{
			Type: string(c.Type), Status: c.Status, LastTransitionTime: c.LastTransitionTime, Reason: c.Reason, Message: c.Message,
		})
	}
	return s
}

func (a *adapter) Get(namespace, name string) (*replicaset.Set, error) {
	rc, err := a.lister.ReplicationControllers(namespace).Get(name)
	if err != nil {
		return nil, err
	}
	return wrap(rc), nil
}

func (a *adapter) Live(ctx context.Context, namespace, name string) (metav1.Object, error) {
	ctx, cancel := context.WithTimeout(ctx, loop.CallTimeout)
	defer cancel()
	return a.client.CoreV1().ReplicationControllers(namespace).Get(ctx, name, metav1.GetOptions{})
}

func (a *adapter) Matching(pod *v1.Pod) (sets []*replicaset.Set) {
	list, err := a.lister.ReplicationControllers(pod.Namespace).List(labels.Everything())
	if err != nil {
		return nil
	}
	for _, rc := range list {
		if s := wrap(rc); s.Selector.Matches(labels.Set(pod.Labels)) {
			sets = append(sets, s)
		}
	}
	return sets
}

func (a *adapter) Siblings(set *replicaset.Set) []metav1.Object { return []metav1.Object{set} }

func (a *adapter) WriteStatus(ctx context.Context, set *replicaset.Set, s replicaset.State) error {
	rc := set.Runtime.(*v1.ReplicationController).DeepCopy()
	rc.Status = v1.ReplicationControllerStatus{
		Replicas: s.Replicas, FullyLabeledReplicas: s.FullyLabeled, ReadyReplicas: s.Ready, AvailableReplicas: s.Available,
		ObservedGeneration: s.ObservedGeneration,
	}
	for _, c := range s.Conditions {
		rc.Status.Conditions = append(rc.Status.Conditions, v1.ReplicationControllerCondition{
			Type: v1.ReplicationControllerConditionType(c.Type), Status: c.Status, LastTransitionTime: c.LastTransitionTime, Reason: c.Reason, Message: c.Message,
		})
	}
	ctx, cancel := context.WithTimeout(ctx, loop.CallTimeout)
	defer cancel()
	if _, err := a.client.CoreV1().ReplicationControllers(rc.Namespace).UpdateStatus(ctx, rc, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("write status of ReplicationController %q: %w", rc.Namespace+"/"+rc.Name, err)
	}
	return nil
}
