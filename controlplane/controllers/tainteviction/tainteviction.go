package tainteviction

import (
	"context"
	"encoding/json"
	"fmt"
	"reflect"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/reevehq/reeve/controlplane/controllers/loop"
	"github.com/reevehq/reeve/controlplane/controllers/nodelifecycle"
	"github.com/reevehq/reeve/controlplane/controllers/podctl"
	"github.com/reevehq/reeve/internal/logkey"
)

// Controller is the taint eviction controller.
type Controller struct {
	*loop.Loop
	client   kubernetes.Interface
	recorder record.EventRecorder
	nodes    corelisters.NodeLister
	pods     corelisters.PodLister

	mu    sync.Mutex
	since map[types.UID]time.Time // when a pod's patience began to run
}

// New makes the controller.
func New(env loop.Env) (*Controller, error) {
	core := env.Informers.Core().V1()
	pods := core.Pods().Informer()
	if err := nodelifecycle.IndexPods(pods); err != nil {
		return nil, err
	}
	c := &Controller{
		client: env.Client, recorder: env.Recorder("taint-eviction-controller"),
		nodes: core.Nodes().Lister(), pods: core.Pods().Lister(), since: map[types.UID]time.Time{},
	}
	c.Loop = loop.New("taint-eviction-controller", env.Log, 4, c.reconcile)
	onNode := func(n *v1.Node) {
		for _, p := range nodelifecycle.PodsOn(pods.GetIndexer(), n.Name) {
			c.Enqueue(p)
		}
	}
	c.On(core.Nodes().Informer(), loop.Typed[*v1.Node]{
		Add: func(n *v1.Node) {
			if len(noExecute(n.Spec.Taints)) > 0 {
				onNode(n)
			}
		},
		Update: func(old, n *v1.Node) {
			if !reflect.DeepEqual(noExecute(old.Spec.Taints), noExecute(n.Spec.Taints)) {
				onNode(n)
			}
		},
	})
	c.On(pods, loop.Typed[*v1.Pod]{
		Add: func(p *v1.Pod) { c.tainted(p) },
		Update: func(old, p *v1.Pod) {
			if old.Spec.NodeName != p.Spec.NodeName || !reflect.DeepEqual(old.Spec.Tolerations, p.Spec.Tolerations) {
				c.tainted(p)
			}
		},
		Delete: func(p *v1.Pod) { c.forget(p.UID) },
	})
	return c, nil
}

// tainted queues the pod if its node has NoExecute taints: all others cost nothing.
func (c *Controller) tainted(p *v1.Pod) {
	if p.Spec.NodeName == "" {
		return
	}
	if n, err := c.nodes.Get(p.Spec.NodeName); err == nil && len(noExecute(n.Spec.Taints)) > 0 {
		c.Enqueue(p)
	}
}

func (c *Controller) forget(uid types.UID) (was bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, was = c.since[uid]
	delete(c.since, uid)
	return was
}

func (c *Controller) reconcile(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return nil
	}
	pod, err := c.pods.Pods(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	node, err := c.nodes.Get(pod.Spec.NodeName)
	if err != nil || pod.DeletionTimestamp != nil || podctl.Finished(pod) {
		c.forget(pod.UID)
		return nil
	}
	taints := noExecute(node.Spec.Taints)
	left, forever := patience(pod.Spec.Tolerations, taints)
	if len(taints) == 0 || forever {
		if c.forget(pod.UID) {
			c.recorder.Eventf(pod, v1.EventTypeNormal, "TaintManagerEviction", "Cancelling deletion of Pod %s", key)
		}
		return nil
	}
	c.mu.Lock()
	start, ok := c.since[pod.UID]
	if !ok {
		start = time.Now()
		c.since[pod.UID] = start
	}
	c.mu.Unlock()
	if wait := time.Until(start.Add(left)); wait > 0 {
		c.AddAfter(key, wait)
		return nil
	}
	return c.evict(ctx, pod, key)
}

func (c *Controller) evict(ctx context.Context, pod *v1.Pod, key string) error {
	c.recorder.Eventf(pod, v1.EventTypeNormal, "TaintManagerEviction", "Marking for deletion Pod %s", key)
	ctx, cancel := context.WithTimeout(ctx, loop.CallTimeout)
	defer cancel()
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": pod.UID},
		"status": map[string]any{"conditions": []v1.PodCondition{{
			Type: v1.DisruptionTarget, Status: v1.ConditionTrue, Reason: "DeletionByTaintManager", ObservedGeneration: pod.Generation,
			Message: "Taint manager: deleting due to NoExecute taint", LastTransitionTime: metav1.Now(),
		}}},
	})
	if err != nil {
		return fmt.Errorf("encode condition of pod %q: %w", key, err)
	}
	pods := c.client.CoreV1().Pods(pod.Namespace)
	if _, err := pods.Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status"); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("mark pod %q: %w", key, err)
	}
	err = pods.Delete(ctx, pod.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(pod.UID))})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete pod %q: %w", key, err)
	}
	c.Log().Info("Evicted pod from tainted node", logkey.Pod, key, logkey.Node, pod.Spec.NodeName)
	return nil
}
