package podgc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/utils/ptr"

	"github.com/reevehq/reeve/controlplane/controllers/loop"
	"github.com/reevehq/reeve/controlplane/controllers/podctl"
	"github.com/reevehq/reeve/internal/logkey"
)

const (
	// quarantine is how long a node must be missing before its pods go: it may be re-registering (upstream's 40 s).
	quarantine = 40 * time.Second
	// sweepEvery is the safety net under the events.
	sweepEvery = 3 * time.Minute
	sweep      = "sweep"
)

// Controller is the pod garbage collector.
type Controller struct {
	*loop.Loop
	client    kubernetes.Interface
	nodes     corelisters.NodeLister
	pods      corelisters.PodLister
	threshold int

	mu      sync.Mutex
	missing map[string]time.Time
}

// New makes the controller; more finished pods than threshold are too many.
func New(env loop.Env, threshold int) (*Controller, error) {
	core := env.Informers.Core().V1()
	c := &Controller{client: env.Client, nodes: core.Nodes().Lister(), pods: core.Pods().Lister(), threshold: threshold, missing: map[string]time.Time{}}
	c.Loop = loop.New("pod-garbage-collector-controller", env.Log, 1, c.reconcile)
	c.On(core.Nodes().Informer(), loop.Typed[*v1.Node]{
		Delete: func(*v1.Node) { c.Add(sweep) },
		Update: func(old, n *v1.Node) {
			if !outOfService(old) && outOfService(n) {
				c.Add(sweep)
			}
		},
	})
	c.On(core.Pods().Informer(), loop.Typed[*v1.Pod]{Update: func(old, p *v1.Pod) {
		if old.DeletionTimestamp == nil && p.DeletionTimestamp != nil && p.Spec.NodeName == "" {
			c.Add(sweep)
		}
	}})
	c.Add(sweep)
	return c, nil
}

func outOfService(n *v1.Node) bool {
	return slices.ContainsFunc(n.Spec.Taints, func(t v1.Taint) bool { return t.Key == v1.TaintNodeOutOfService })
}

// doomed is a pod to remove and what to write into it first.
type doomed struct {
	pod             *v1.Pod
	why             string
	reason, message string // of the DisruptionTarget condition; empty: none
}

// plan names the pods that must go. gone tells of a pod's node whether it has been missing for long enough.
func plan(pods []*v1.Pod, node func(string) *v1.Node, gone func(string) bool, threshold int) (out []doomed) {
	var done []*v1.Pod
	for _, p := range pods {
		n := node(p.Spec.NodeName)
		switch {
		case p.Spec.NodeName == "" && p.DeletionTimestamp != nil:
			out = append(out, doomed{pod: p, why: "deleted before it got a node"})
		case p.Spec.NodeName != "" && n == nil && gone(p.Spec.NodeName):
			out = append(out, doomed{p, "node no longer exists", "DeletionByPodGC", "PodGC: node no longer exists"})
		case n != nil && p.DeletionTimestamp != nil && outOfService(n) && !nodeReady(n):
			out = append(out, doomed{pod: p, why: "node is out of service"})
		case podctl.Finished(p) && p.DeletionTimestamp == nil:
			done = append(done, p)
		}
	}
	if extra := len(done) - threshold; extra > 0 && threshold > 0 {
		slices.SortStableFunc(done, func(a, b *v1.Pod) int { return a.CreationTimestamp.Compare(b.CreationTimestamp.Time) })
		for _, p := range done[:extra] {
			out = append(out, doomed{pod: p, why: "too many finished pods"})
		}
	}
	return out
}

func nodeReady(n *v1.Node) bool {
	for _, c := range n.Status.Conditions {
		if c.Type == v1.NodeReady {
			return c.Status == v1.ConditionTrue
		}
	}
	return false
}

func (c *Controller) reconcile(ctx context.Context, _ string) error {
	defer c.AddAfter(sweep, sweepEvery)
	pods, err := c.pods.List(labels.Everything())
	if err != nil {
		return err
	}
	node := func(name string) *v1.Node {
		n, err := c.nodes.Get(name)
		if err != nil {
			return nil
		}
		return n
	}
	var errs []error
	for _, d := range plan(pods, node, func(name string) bool { return c.confirmedGone(ctx, name) }, c.threshold) {
		if err := c.remove(ctx, d); err != nil {
			errs = append(errs, err)
		}
	}
	c.mu.Lock()
	for name := range c.missing {
		if node(name) != nil {
			delete(c.missing, name)
		}
	}
	c.mu.Unlock()
	return errors.Join(errs...)
}

func (c *Controller) confirmedGone(ctx context.Context, name string) bool {
	c.mu.Lock()
	since, ok := c.missing[name]
	if !ok {
		since = time.Now()
		c.missing[name] = since
	}
	c.mu.Unlock()
	if left := time.Until(since.Add(quarantine)); left > 0 {
		c.AddAfter(sweep, left)
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, loop.CallTimeout)
	defer cancel()
	_, err := c.client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{}) // past the cache, before anything is lost
	return apierrors.IsNotFound(err)
}

func (c *Controller) remove(ctx context.Context, d doomed) error {
	key := d.pod.Namespace + "/" + d.pod.Name
	ctx, cancel := context.WithTimeout(ctx, loop.CallTimeout)
	defer cancel()
	pods := c.client.CoreV1().Pods(d.pod.Namespace)
	if !podctl.Finished(d.pod) {
		status := map[string]any{"phase": v1.PodFailed}
		if d.reason != "" {
			status["conditions"] = []v1.PodCondition{{
				Type: v1.DisruptionTarget, Status: v1.ConditionTrue, Reason: d.reason, Message: d.message, LastTransitionTime: metav1.Now(),
				ObservedGeneration: d.pod.Generation,
			}}
		}
		patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": d.pod.UID}, "status": status})
		if err != nil {
			return fmt.Errorf("encode status of pod %q: %w", key, err)
		}
		if _, err := pods.Patch(ctx, d.pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status"); err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("mark pod %q failed: %w", key, err)
		}
	}
	err := pods.Delete(ctx, d.pod.Name, metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0), Preconditions: metav1.NewUIDPreconditions(string(d.pod.UID))})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("delete pod %q: %w", key, err)
	}
	c.Log().Info("Removed pod", logkey.Pod, key, "reason", d.why)
	return nil
}
