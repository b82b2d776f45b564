package deployment

import (
	"context"
	"fmt"
	"strconv"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	appslisters "k8s.io/client-go/listers/apps/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/reevehq/reeve/controlplane/controllers/loop"
	"github.com/reevehq/reeve/controlplane/controllers/owner"
	"github.com/reevehq/reeve/controlplane/controllers/podctl"
)

var kind = appsv1.SchemeGroupVersion.WithKind("Deployment")

const workers = 5

// Controller is the Deployment controller.
type Controller struct {
	*loop.Loop
	client      kubernetes.Interface
	recorder    record.EventRecorder
	deployments appslisters.DeploymentLister
	sets        appslisters.ReplicaSetLister
	pods        cache.Indexer
}

// New makes the controller.
func New(env loop.Env) (*Controller, error) {
	dInf, rInf := env.Informers.Apps().V1().Deployments(), env.Informers.Apps().V1().ReplicaSets()
	pods := env.Informers.Core().V1().Pods().Informer()
	if err := podctl.Index(pods); err != nil {
		return nil, fmt.Errorf("index pods: %w", err)
	}
	c := &Controller{
		client: env.Client, recorder: env.Recorder("deployment-controller"),
		deployments: dInf.Lister(), sets: rInf.Lister(), pods: pods.GetIndexer(),
	}
	c.Loop = loop.New("deployment-controller", env.Log, workers, c.reconcile)
	c.Watch(dInf.Informer())
	c.On(rInf.Informer(), loop.Typed[*appsv1.ReplicaSet]{
		Add: c.setChanged,
		Update: func(old, rs *appsv1.ReplicaSet) {
			if a, b := metav1.GetControllerOfNoCopy(old), metav1.GetControllerOfNoCopy(rs); a != nil && (b == nil || a.UID != b.UID) {
				c.setChanged(old)
			}
			c.setChanged(rs)
		},
		Delete: c.setChanged,
	})
	// Recreate waits for the last old pod to be gone.
	c.On(pods, loop.Typed[*v1.Pod]{Delete: c.podGone, Update: func(old, p *v1.Pod) {
		if !podctl.Finished(old) && podctl.Finished(p) {
			c.podGone(p)
		}
	}})
	return c, nil
}

func (c *Controller) setChanged(rs *appsv1.ReplicaSet) {
	if ref := metav1.GetControllerOfNoCopy(rs); ref != nil {
		if ref.Kind == kind.Kind {
			c.Add(rs.Namespace + "/" + ref.Name)
		}
		return
	}
	list, err := c.deployments.Deployments(rs.Namespace).List(labels.Everything())
	if err != nil {
		return
	}
	for _, d := range list {
		if s, err := metav1.LabelSelectorAsSelector(d.Spec.Selector); err == nil && !s.Empty() && s.Matches(labels.Set(rs.Labels)) {
			c.Enqueue(d)
		}
	}
}

func (c *Controller) podGone(p *v1.Pod) {
	ref := metav1.GetControllerOfNoCopy(p)
	if ref == nil || ref.Kind != "ReplicaSet" {
		return
	}
	rs, err := c.sets.ReplicaSets(p.Namespace).Get(ref.Name)
	if err != nil || rs.UID != ref.UID {
		return
	}
	dref := metav1.GetControllerOfNoCopy(rs)
	if dref == nil || dref.Kind != kind.Kind {
		return
	}
	if d, err := c.deployments.Deployments(p.Namespace).Get(dref.Name); err == nil && d.Spec.Strategy.Type == appsv1.RecreateDeploymentStrategyType {
		c.Enqueue(d)
	}
}

func (c *Controller) reconcile(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return nil
	}
	cached, err := c.deployments.Deployments(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	d := cached.DeepCopy()
	selector, err := metav1.LabelSelectorAsSelector(d.Spec.Selector)
	if err != nil || selector.Empty() {
		c.recorder.Event(d, v1.EventTypeWarning, "SelectingAll", "This deployment is selecting all pods. A non-empty selector is required.")
		return nil
	}
	sets, err := c.claim(ctx, d, selector)
	if err != nil {
		return err
	}
	if d.DeletionTimestamp != nil {
		newRS := findNew(d, sets)
		return c.writeStatus(ctx, d, calculate(d, sets, newRS, metav1.Now()))
	}
	if err := c.notePause(ctx, d); err != nil {
		return err
	}
	newRS := findNew(d, sets)
	if d.Spec.Paused || rescaled(d, sets) {
		return c.scaleOnly(ctx, d, sets)
	}
	switch d.Spec.Strategy.Type {
	case appsv1.RecreateDeploymentStrategyType:
		return c.recreate(ctx, d, newRS, sets)
	default:
		return c.rolling(ctx, key, d, sets)
	}
}

func (c *Controller) claim(ctx context.Context, d *appsv1.Deployment, selector labels.Selector) ([]*appsv1.ReplicaSet, error) {
	list, err := c.sets.ReplicaSets(d.Namespace).List(labels.Everything())
	if err != nil {
		return nil, err
	}
	claimer := owner.Claimer[*appsv1.ReplicaSet]{
		Owner: d, Kind: kind, Selector: selector,
		Fresh: func(ctx context.Context) (metav1.Object, error) {
			return c.client.AppsV1().Deployments(d.Namespace).Get(ctx, d.Name, metav1.GetOptions{})
		},
		Patch: func(ctx context.Context, rs *appsv1.ReplicaSet, patch []byte) error {
			_, err := c.client.AppsV1().ReplicaSets(rs.Namespace).Patch(ctx, rs.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
			return err
		},
	}
	ctx, cancel := context.WithTimeout(ctx, loop.CallTimeout)
	defer cancel()
	mine, err := claimer.Claim(ctx, list)
	for i, rs := range mine { // later steps write into these; the cache's own must stay as they are
		copied := *rs
		mine[i] = &copied
	}
	return mine, err
}

// notePause records in the Progressing condition that the clock stands still, or runs again.
func (c *Controller) notePause(ctx context.Context, d *appsv1.Deployment) error {
	if !hasDeadline(d) {
		return nil
	}
	cur := condition(&d.Status, appsv1.DeploymentProgressing)
	if cur != nil && cur.Reason == reasonTimedOut {
		return nil // not hidden by a pause
	}
	paused := cur != nil && cur.Reason == reasonPaused
	var next appsv1.DeploymentCondition
	switch {
	case d.Spec.Paused && !paused:
		next = newCondition(appsv1.DeploymentProgressing, v1.ConditionUnknown, reasonPaused, "Deployment is paused", metav1.Now())
	case !d.Spec.Paused && paused:
		next = newCondition(appsv1.DeploymentProgressing, v1.ConditionUnknown, reasonResumed, "Deployment is resumed", metav1.Now())
	default:
		return nil
	}
	s := d.Status.DeepCopy()
	setCondition(s, next)
	return c.storeStatus(ctx, d, *s)
}

// rescaled reports whether spec.replicas changed since the active ReplicaSets were last sized.
func rescaled(d *appsv1.Deployment, sets []*appsv1.ReplicaSet) bool {
	for _, rs := range active(sets) {
		if _, ok := rs.Annotations[annDesired]; ok && desiredOf(rs) != wanted(d) {
			return true
		}
	}
	return false
}

func (c *Controller) scaleOnly(ctx context.Context, d *appsv1.Deployment, sets []*appsv1.ReplicaSet) error {
	newRS, olds, err := c.ensureNew(ctx, d, sets, false)
	if err != nil {
		return err
	}
	if err := c.scaleAll(ctx, d, planScale(d, newRS, olds)); err != nil {
		return err
	}
	if d.Spec.Paused {
		if err := c.prune(ctx, d, olds); err != nil {
			return err
		}
	}
	all := append(present(newRS), olds...)
	return c.writeStatus(ctx, d, calculate(d, all, newRS, metav1.Now()))
}

func (c *Controller) rolling(ctx context.Context, key string, d *appsv1.Deployment, sets []*appsv1.ReplicaSet) error {
	newRS, olds, err := c.ensureNew(ctx, d, sets, true)
	if err != nil {
		return err
	}
	all := append(present(newRS), olds...)
	if s := planNew(d, newRS, all); s != nil {
		if err := c.scaleAll(ctx, d, []scaling{*s}); err != nil {
			return err
		}
		return c.progress(ctx, key, d, all, newRS)
	}
	if s := planOld(d, newRS, olds); len(s) > 0 {
		if err := c.scaleAll(ctx, d, s); err != nil {
			return err
		}
		return c.progress(ctx, key, d, all, newRS)
	}
	if complete(d, &d.Status) {
		if err := c.prune(ctx, d, olds); err != nil {
			return err
		}
	}
	return c.progress(ctx, key, d, all, newRS)
}

func (c *Controller) recreate(ctx context.Context, d *appsv1.Deployment, newRS *appsv1.ReplicaSet, sets []*appsv1.ReplicaSet) error {
	key := d.Namespace + "/" + d.Name
	newRS, olds, err := c.ensureNew(ctx, d, sets, false)
	if err != nil {
		return err
	}
	var down []scaling
	for _, rs := range active(olds) {
		down = append(down, scaling{rs, 0})
	}
	all := append(present(newRS), olds...)
	if len(down) > 0 {
		if err := c.scaleAll(ctx, d, down); err != nil {
			return err
		}
		return c.progress(ctx, key, d, all, newRS)
	}
	for _, rs := range olds {
		for _, p := range podctl.Owned(c.pods, rs.UID) {
			if !podctl.Finished(p) {
				return c.progress(ctx, key, d, all, newRS) // two generations never run together
			}
		}
	}
	if newRS == nil {
		if newRS, olds, err = c.ensureNew(ctx, d, sets, true); err != nil {
			return err
		}
		all = append(present(newRS), olds...)
	}
	if size(newRS) != wanted(d) {
		if err := c.scaleAll(ctx, d, []scaling{{newRS, wanted(d)}}); err != nil {
			return err
		}
	}
	if complete(d, &d.Status) {
		if err := c.prune(ctx, d, olds); err != nil {
			return err
		}
	}
	return c.progress(ctx, key, d, all, newRS)
}

// progress writes the rollout's status and comes back when its deadline ends.
func (c *Controller) progress(ctx context.Context, key string, d *appsv1.Deployment, all []*appsv1.ReplicaSet, newRS *appsv1.ReplicaSet) error {
	s := rollout(d, all, newRS, metav1.Now())
	if err := c.writeStatus(ctx, d, s); err != nil {
		return err
	}
	if late, left := timedOut(d, &s, time.Now()); !late && left > 0 && !complete(d, &s) {
		c.AddAfter(key, left+time.Second) // conditions carry whole seconds
	}
	return nil
}

func (c *Controller) writeStatus(ctx context.Context, d *appsv1.Deployment, s appsv1.DeploymentStatus) error {
	if equality.Semantic.DeepEqual(d.Status, s) {
		return nil
	}
	return c.storeStatus(ctx, d, s)
}

func (c *Controller) storeStatus(ctx context.Context, d *appsv1.Deployment, s appsv1.DeploymentStatus) error {
	next := d.DeepCopy()
	next.Status = s
	ctx, cancel := context.WithTimeout(ctx, loop.CallTimeout)
	defer cancel()
	out, err := c.client.AppsV1().Deployments(d.Namespace).UpdateStatus(ctx, next, metav1.UpdateOptions{})
	if err != nil {
		return fmt.Errorf("write status of Deployment %q: %w", d.Namespace+"/"+d.Name, err)
	}
	*d = *out
	return nil
}

// noteRevision copies the new ReplicaSet's revision to the Deployment, and stores the status if it differs. A server's
// status endpoint may keep annotations from changing, so these are patched on the object itself.
func (c *Controller) noteRevision(ctx context.Context, d *appsv1.Deployment, revision string, s appsv1.DeploymentStatus) error {
	if revision != "" && d.Annotations[annRevision] != revision {
		cctx, cancel := context.WithTimeout(ctx, loop.CallTimeout)
		defer cancel()
		patch := fmt.Sprintf(`{"metadata":{"uid":%q,"annotations":{%q:%s}}}`, d.UID, annRevision, strconv.Quote(revision))
		out, err := c.client.AppsV1().Deployments(d.Namespace).Patch(cctx, d.Name, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
		if err != nil {
			return fmt.Errorf("note revision of Deployment %q: %w", d.Namespace+"/"+d.Name, err)
		}
		*d = *out
	}
	return c.writeStatus(ctx, d, s)
}
