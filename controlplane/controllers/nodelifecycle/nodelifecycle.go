package nodelifecycle

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/reevehq/reeve/controlplane/controllers/loop"
	"github.com/reevehq/reeve/controlplane/controllers/podctl"
	"github.com/reevehq/reeve/internal/logkey"
)

// byNode finds the pods of a node.
const byNode = "reeve.nodeName"

// Controller is the node lifecycle controller.
type Controller struct {
	*loop.Loop
	client   kubernetes.Interface
	recorder record.EventRecorder
	nodes    corelisters.NodeLister
	pods     cache.Indexer
	grace    time.Duration

	mu      sync.Mutex
	seen    map[string]time.Time // last sign of life, by our clock
	drained map[string]bool      // nodes whose pods were marked since the node went down
	evicted time.Time            // when a node last got a NoExecute taint
}

// New makes the controller; a node may be silent for grace.
func New(env loop.Env, grace time.Duration) (*Controller, error) {
	nodes, pods := env.Informers.Core().V1().Nodes(), env.Informers.Core().V1().Pods().Informer()
	if err := IndexPods(pods); err != nil {
		return nil, err
	}
	own := informers.NewSharedInformerFactoryWithOptions(env.Client, 0, informers.WithNamespace(v1.NamespaceNodeLease),
		informers.WithTransform(func(obj any) (any, error) {
			if l, ok := obj.(*coordinationv1.Lease); ok {
				l.ManagedFields, l.OwnerReferences, l.Labels, l.Annotations = nil, nil, nil, nil
			}
			return obj, nil
		}))
	c := &Controller{
		client: env.Client, recorder: env.Recorder("node-controller"), nodes: nodes.Lister(), pods: pods.GetIndexer(), grace: grace,
		seen: map[string]time.Time{}, drained: map[string]bool{},
	}
	c.Loop = loop.New("node-lifecycle-controller", env.Log, 4, c.reconcile)
	c.On(nodes.Informer(), loop.Typed[*v1.Node]{
		Add: func(n *v1.Node) {
			c.alive(n.Name)
			c.recorder.Eventf(n, v1.EventTypeNormal, "RegisteredNode", "Node %s event: Registered Node %s in Controller", n.Name, n.Name)
			c.Add(n.Name)
		},
		Update: func(old, n *v1.Node) {
			if heartbeat(old) != heartbeat(n) {
				c.alive(n.Name)
			}
			c.Add(n.Name)
			if status(old, v1.NodeReady) != status(n, v1.NodeReady) {
				c.all() // whether others may be evicted depends on how many are up
			}
		},
		Delete: func(n *v1.Node) {
			c.recorder.Eventf(n, v1.EventTypeNormal, "RemovingNode", "Node %s event: Removing Node %s from Controller", n.Name, n.Name)
			c.Add(n.Name)
		},
	})
	renewed := func(l *coordinationv1.Lease) {
		if l.Namespace != v1.NamespaceNodeLease {
			return
		}
		c.alive(l.Name)
		if n, err := c.nodes.Get(l.Name); err == nil && status(n, v1.NodeReady) == v1.ConditionUnknown {
			c.Add(l.Name)
		}
	}
	c.On(own.Coordination().V1().Leases().Informer(), loop.Typed[*coordinationv1.Lease]{
		Add: renewed, Update: func(old, l *coordinationv1.Lease) {
			if !old.Spec.RenewTime.Equal(l.Spec.RenewTime) {
				renewed(l)
			}
		},
	})
	c.Needs(pods)
	c.First(func(ctx context.Context) { own.Start(ctx.Done()) })
	return c, nil
}

// IndexPods has the informer find pods by node. Safe to repeat.
func IndexPods(informer cache.SharedIndexInformer) error {
	if _, ok := informer.GetIndexer().GetIndexers()[byNode]; ok {
		return nil
	}
	err := informer.AddIndexers(cache.Indexers{byNode: func(obj any) ([]string, error) {
		if p, ok := obj.(*v1.Pod); ok && p.Spec.NodeName != "" {
			return []string{p.Spec.NodeName}, nil
		}
		return nil, nil
	}})
	if _, ok := informer.GetIndexer().GetIndexers()[byNode]; ok {
		return nil
	}
	return fmt.Errorf("index pods by node: %w", err)
}

// PodsOn lists the pods of a node from an indexer that IndexPods prepared.
func PodsOn(indexer cache.Indexer, node string) (pods []*v1.Pod) {
	objs, err := indexer.ByIndex(byNode, node)
	if err != nil {
		return nil
	}
	for _, o := range objs {
		if p, ok := o.(*v1.Pod); ok {
			pods = append(pods, p)
		}
	}
	return pods
}

func heartbeat(n *v1.Node) metav1.Time {
	for _, c := range n.Status.Conditions {
		if c.Type == v1.NodeReady {
			return c.LastHeartbeatTime
		}
	}
	return metav1.Time{}
}

func (c *Controller) alive(node string) {
	c.mu.Lock()
	c.seen[node] = time.Now()
	c.mu.Unlock()
}

func (c *Controller) all() {
	nodes, err := c.nodes.List(labels.Everything())
	if err != nil {
		return
	}
	for _, n := range nodes {
		if status(n, v1.NodeReady) != v1.ConditionTrue {
			c.Add(n.Name)
		}
	}
}

func (c *Controller) reconcile(ctx context.Context, name string) error {
	node, err := c.nodes.Get(name)
	if apierrors.IsNotFound(err) {
		c.mu.Lock()
		delete(c.seen, name)
		delete(c.drained, name)
		c.mu.Unlock()
		return nil
	}
	if err != nil {
		return err
	}
	c.mu.Lock()
	last, ok := c.seen[name]
	if !ok {
		last = time.Now()
		c.seen[name] = last
	}
	c.mu.Unlock()
	left := time.Until(last.Add(c.grace))
	if left > 0 {
		c.AddAfter(name, left+time.Millisecond)
	} else if node, err = c.markUnknown(ctx, node); err != nil {
		return err
	}
	return errors.Join(c.taint(ctx, node), c.markPods(ctx, node))
}

func (c *Controller) markUnknown(ctx context.Context, node *v1.Node) (*v1.Node, error) {
	conditions, changed := unknown(node.Status.Conditions, metav1.Now())
	if !changed {
		return node, nil
	}
	next := node.DeepCopy()
	next.Status.Conditions = conditions
	ctx, cancel := context.WithTimeout(ctx, loop.CallTimeout)
	defer cancel()
	// An update, not a patch: should the node report at this very moment, the conflict shows it.
	out, err := c.client.CoreV1().Nodes().UpdateStatus(ctx, next, metav1.UpdateOptions{})
	if err != nil {
		return nil, fmt.Errorf("mark node %q unknown: %w", node.Name, err)
	}
	c.Log().Info("Marked silent node", logkey.Node, node.Name, "grace", c.grace)
	c.recorder.Eventf(node, v1.EventTypeNormal, "NodeNotReady", "Node %s status is now: NodeNotReady", node.Name)
	return out, nil
}

func (c *Controller) taint(ctx context.Context, node *v1.Node) error {
	nodes, err := c.nodes.List(labels.Everything())
	if err != nil {
		return err
	}
	want, changed := taints(node, c.evict(node, nodes), metav1.Now())
	if !changed {
		return nil
	}
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"resourceVersion": node.ResourceVersion}, // taints of others must not be lost
		"spec":     map[string]any{"taints": want},
	})
	if err != nil {
		return fmt.Errorf("encode taints of node %q: %w", node.Name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, loop.CallTimeout)
	defer cancel()
	if _, err := c.client.CoreV1().Nodes().Patch(ctx, node.Name, types.MergePatchType, patch, metav1.PatchOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("taint node %q: %w", node.Name, err)
	}
	return nil
}

// evict decides whether the node may have a NoExecute taint now; if only the pace forbids it, the node is looked at later.
func (c *Controller) evict(node *v1.Node, nodes []*v1.Node) bool {
	if status(node, v1.NodeReady) == v1.ConditionTrue || !mayEvict(nodes) {
		return false
	}
	for _, t := range node.Spec.Taints {
		if ours(&t) && t.Effect == v1.TaintEffectNoExecute {
			return true // it stays, perhaps under the other key
		}
	}
	step := pace(nodes)
	if step < 0 {
		return false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if wait := time.Until(c.evicted.Add(step)); wait > 0 && !c.evicted.IsZero() {
		c.AddAfter(node.Name, wait)
		return false
	}
	c.evicted = time.Now()
	return true
}

// markPods has the pods of a node that went down leave their Services.
func (c *Controller) markPods(ctx context.Context, node *v1.Node) error {
	ready := status(node, v1.NodeReady)
	c.mu.Lock()
	done := c.drained[node.Name]
	if ready == v1.ConditionTrue || ready == "" {
		delete(c.drained, node.Name)
		c.mu.Unlock()
		return nil
	}
	c.mu.Unlock()
	if done {
		return nil
	}
	var errs []error
	for _, p := range PodsOn(c.pods, node.Name) {
		if !podctl.Ready(p) {
			continue
		}
		c.recorder.Event(p, v1.EventTypeWarning, "NodeNotReady", "Node is not ready")
		patch, err := json.Marshal(map[string]any{
			"metadata": map[string]any{"uid": p.UID},
			"status": map[string]any{"conditions": []v1.PodCondition{{
				Type: v1.PodReady, Status: v1.ConditionFalse, LastTransitionTime: metav1.Now(), ObservedGeneration: p.Generation,
			}}},
		})
		if err != nil {
			return fmt.Errorf("encode condition of pod %q: %w", p.Name, err)
		}
		cctx, cancel := context.WithTimeout(ctx, loop.CallTimeout)
		_, err = c.client.CoreV1().Pods(p.Namespace).Patch(cctx, p.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
		cancel()
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			errs = append(errs, fmt.Errorf("mark pod %q not ready: %w", p.Namespace+"/"+p.Name, err))
		}
	}
	if len(errs) == 0 {
		c.mu.Lock()
		c.drained[node.Name] = true
		c.mu.Unlock()
	}
	return errors.Join(errs...)
}
