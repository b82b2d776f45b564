package disruption

import (
	"context"
	"fmt"
	"time"

	v1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"
	appslisters "k8s.io/client-go/listers/apps/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	policylisters "k8s.io/client-go/listers/policy/v1"
	"k8s.io/client-go/scale"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"

	"github.com/reevehq/reeve/controlplane/controllers/loop"
)

// Controller is the disruption controller.
type Controller struct {
	*loop.Loop
	client   kubernetes.Interface
	recorder record.EventRecorder
	budgets  policylisters.PodDisruptionBudgetLister
	pods     corelisters.PodLister
	rcs      corelisters.ReplicationControllerLister
	rss      appslisters.ReplicaSetLister
	deps     appslisters.DeploymentLister
	sts      appslisters.StatefulSetLister
	scales   scale.ScalesGetter
	resource func(schema.GroupVersionKind) (schema.GroupVersionResource, error)
}

// New makes the controller. scales and resource reach the size of other workloads through their scale subresource; nil leaves
// those out.
func New(env loop.Env, scales scale.ScalesGetter, resource func(schema.GroupVersionKind) (schema.GroupVersionResource, error)) (*Controller, error) {
	core, apps, policy := env.Informers.Core().V1(), env.Informers.Apps().V1(), env.Informers.Policy().V1()
	c := &Controller{
		client: env.Client, recorder: env.Recorder("controllermanager"), budgets: policy.PodDisruptionBudgets().Lister(), pods: core.Pods().Lister(),
		rcs: core.ReplicationControllers().Lister(), rss: apps.ReplicaSets().Lister(), deps: apps.Deployments().Lister(), sts: apps.StatefulSets().Lister(),
		scales: scales, resource: resource,
	}
	c.Loop = loop.New("disruption-controller", env.Log, 2, c.reconcile)
	c.Watch(policy.PodDisruptionBudgets().Informer())
	c.On(core.Pods().Informer(), loop.Typed[*v1.Pod]{Add: c.podSeen, Delete: c.podSeen, Update: func(old, p *v1.Pod) {
		if !labels.Equals(old.Labels, p.Labels) {
			c.podSeen(old)
		}
		c.podSeen(p)
	}})
	c.Needs(core.ReplicationControllers().Informer(), apps.ReplicaSets().Informer(), apps.Deployments().Informer(), apps.StatefulSets().Informer())
	return c, nil
}

func (c *Controller) podSeen(p *v1.Pod) {
	list, err := c.budgets.PodDisruptionBudgets(p.Namespace).List(labels.Everything())
	if err != nil {
		return
	}
	for _, b := range list {
		if s, err := metav1.LabelSelectorAsSelector(b.Spec.Selector); err == nil && s.Matches(labels.Set(p.Labels)) {
			c.Enqueue(b)
		}
	}
}

func (c *Controller) reconcile(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return nil
	}
	b, err := c.budgets.PodDisruptionBudgets(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	sel, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
	if err != nil {
		return nil // refused by validation
	}
	pods, err := c.pods.Pods(namespace).List(sel)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, loop.CallTimeout)
	defer cancel()
	expected, err := c.expected(ctx, b, pods)
	if err != nil {
		// Fail safe: with unknown numbers nothing may be disrupted.
		c.recorder.Eventf(b, v1.EventTypeWarning, "CalculateExpectedPodCountFailed", "Failed to calculate the number of expected pods: %v", err)
		next := b.DeepCopy()
		next.Status.DisruptionsAllowed, next.Status.ObservedGeneration = 0, b.Generation
		if b.Status.DisruptionsAllowed != 0 || b.Status.ObservedGeneration != b.Generation {
			return c.write(ctx, next)
		}
		return nil
	}
	count, desired, err := numbers(b, pods, expected)
	if err != nil {
		return fmt.Errorf("calculate PodDisruptionBudget %q: %w", key, err)
	}
	if len(pods) == 0 && expected == 0 {
		c.recorder.Eventf(b, v1.EventTypeNormal, "NoPods", "No matching pods found")
	}
	disrupted, wait := pending(b, pods, time.Now())
	if wait > 0 {
		c.AddAfter(key, wait)
	}
	next := status(b, pods, count, desired, disrupted)
	if same(b, next) {
		return nil
	}
	return c.write(ctx, next)
}

func (c *Controller) write(ctx context.Context, b *policyv1.PodDisruptionBudget) error {
	if _, err := c.client.PolicyV1().PodDisruptionBudgets(b.Namespace).UpdateStatus(ctx, b, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("write status of PodDisruptionBudget %q: %w", b.Namespace+"/"+b.Name, err)
	}
	return nil
}

// expected is the sum of the sizes of the pods' workloads, needed for percentages and maxUnavailable.
func (c *Controller) expected(ctx context.Context, b *policyv1.PodDisruptionBudget, pods []*v1.Pod) (int32, error) {
	if b.Spec.MaxUnavailable == nil && (b.Spec.MinAvailable == nil || b.Spec.MinAvailable.Type == 0) {
		return int32(len(pods)), nil // absolute numbers need nobody's size
	}
	var sum int32
	seen := map[string]bool{}
	for _, p := range pods {
		ref := metav1.GetControllerOfNoCopy(p)
		if ref == nil {
			continue // nobody brings it back, so nobody expects it
		}
		uid, n, err := c.sizeOf(ctx, p.Namespace, ref)
		if err != nil {
			return 0, fmt.Errorf("size of %s %q, owner of pod %q: %w", ref.Kind, ref.Name, p.Name, err)
		}
		if !seen[uid] {
			seen[uid] = true
			sum += n
		}
	}
	return sum, nil
}

func (c *Controller) sizeOf(ctx context.Context, namespace string, ref *metav1.OwnerReference) (uid string, n int32, err error) {
	gvk := schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind)
	switch gvk.GroupKind() {
	case schema.GroupKind{Group: "apps", Kind: "ReplicaSet"}:
		rs, err := c.rss.ReplicaSets(namespace).Get(ref.Name)
		if err != nil {
			return "", 0, err
		}
		if up := metav1.GetControllerOfNoCopy(rs); up != nil && up.Kind == "Deployment" {
			d, err := c.deps.Deployments(namespace).Get(up.Name)
			if err != nil {
				return "", 0, err
			}
			return string(d.UID), ptr.Deref(d.Spec.Replicas, 1), nil
		}
		return string(rs.UID), ptr.Deref(rs.Spec.Replicas, 1), nil
	case schema.GroupKind{Group: "apps", Kind: "StatefulSet"}:
		s, err := c.sts.StatefulSets(namespace).Get(ref.Name)
		if err != nil {
			return "", 0, err
		}
		return string(s.UID), ptr.Deref(s.Spec.Replicas, 1), nil
	case schema.GroupKind{Kind: "ReplicationController"}:
		rc, err := c.rcs.ReplicationControllers(namespace).Get(ref.Name)
		if err != nil {
			return "", 0, err
		}
		return string(rc.UID), ptr.Deref(rc.Spec.Replicas, 1), nil
	}
	if c.scales == nil {
		return "", 0, fmt.Errorf("kind %s has no size that is known here", gvk)
	}
	gvr, err := c.resource(gvk)
	if err != nil {
		return "", 0, err
	}
	s, err := c.scales.Scales(namespace).Get(ctx, gvr.GroupResource(), ref.Name, metav1.GetOptions{})
	if err != nil {
		return "", 0, err
	}
	return string(s.UID), s.Spec.Replicas, nil
}
