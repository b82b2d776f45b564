package daemonset

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	appslisters "k8s.io/client-go/listers/apps/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/flowcontrol"
	"k8s.io/utils/ptr"

	"github.com/reevehq/reeve/controlplane/controllers/history"
	"github.com/reevehq/reeve/controlplane/controllers/loop"
	"github.com/reevehq/reeve/controlplane/controllers/owner"
	"github.com/reevehq/reeve/controlplane/controllers/podctl"
)

var kind = appsv1.SchemeGroupVersion.WithKind("DaemonSet")

const (
	// burst bounds creations of one reconciliation (upstream's 250).
	burst = 250
	// A pod that fails on a node is tried there again after 1 s, doubled up to 15 min.
	failMin, failMax = time.Second, 15 * time.Minute
)

// Controller is the DaemonSet controller.
type Controller struct {
	*loop.Loop
	client   kubernetes.Interface
	recorder record.EventRecorder
	sets     appslisters.DaemonSetLister
	nodes    corelisters.NodeLister
	pods     cache.Indexer
	control  podctl.Control
	history  history.Store
	expect   owner.Expectations
	backoff  *flowcontrol.Backoff
}

// New makes the controller.
func New(env loop.Env) (*Controller, error) {
	apps, core := env.Informers.Apps().V1(), env.Informers.Core().V1()
	pods := core.Pods().Informer()
	if err := podctl.Index(pods); err != nil {
		return nil, fmt.Errorf("index pods: %w", err)
	}
	rec := env.Recorder("daemonset-controller")
	c := &Controller{
		client: env.Client, recorder: rec, sets: apps.DaemonSets().Lister(), nodes: core.Nodes().Lister(), pods: pods.GetIndexer(),
		control: podctl.Control{Client: env.Client, Recorder: rec},
		history: history.Store{Client: env.Client, Lister: apps.ControllerRevisions().Lister()},
		backoff: flowcontrol.NewBackOff(failMin, failMax),
	}
	c.Loop = loop.New("daemonset-controller", env.Log, 2, c.reconcile)
	c.Watch(apps.DaemonSets().Informer())
	c.Needs(apps.ControllerRevisions().Informer())
	c.On(core.Nodes().Informer(), loop.Typed[*v1.Node]{
		Add: func(*v1.Node) { c.all() }, Delete: func(*v1.Node) { c.all() },
		Update: func(old, n *v1.Node) {
			if !maps.Equal(old.Labels, n.Labels) || !reflect.DeepEqual(old.Spec.Taints, n.Spec.Taints) {
				c.all()
			}
		},
	})
	c.On(pods, loop.Typed[*v1.Pod]{Add: c.podAdded, Update: c.podChanged, Delete: c.podDeleted})
	return c, nil
}

func (c *Controller) all() {
	list, err := c.sets.List(labels.Everything())
	if err != nil {
		return
	}
	for _, ds := range list {
		c.Enqueue(ds)
	}
}

func (c *Controller) ownerKey(p *v1.Pod) string {
	ref := metav1.GetControllerOfNoCopy(p)
	if ref == nil || ref.Kind != kind.Kind {
		return ""
	}
	ds, err := c.sets.DaemonSets(p.Namespace).Get(ref.Name)
	if err != nil || ds.UID != ref.UID {
		return ""
	}
	return p.Namespace + "/" + ref.Name
}

func (c *Controller) podAdded(p *v1.Pod) {
	if p.DeletionTimestamp != nil {
		c.podDeleted(p)
		return
	}
	if key := c.ownerKey(p); key != "" {
		c.expect.Created(key, 1)
		c.Add(key)
		return
	}
	if metav1.GetControllerOfNoCopy(p) != nil {
		return
	}
	list, err := c.sets.DaemonSets(p.Namespace).List(labels.Everything())
	if err != nil {
		return
	}
	for _, ds := range list {
		if s, err := metav1.LabelSelectorAsSelector(ds.Spec.Selector); err == nil && !s.Empty() && s.Matches(labels.Set(p.Labels)) {
			c.Enqueue(ds)
		}
	}
}

func (c *Controller) podChanged(old, p *v1.Pod) {
	if p.DeletionTimestamp != nil {
		c.podDeleted(p)
		return
	}
	a, b := c.ownerKey(old), c.ownerKey(p)
	if a != "" && a != b {
		c.Add(a)
	}
	if b != "" {
		c.Add(b)
		return
	}
	if !maps.Equal(old.Labels, p.Labels) || a != "" {
		c.podAdded(p)
	}
}

func (c *Controller) podDeleted(p *v1.Pod) {
	if key := c.ownerKey(p); key != "" {
		c.expect.Deleted(key, string(p.UID))
		c.Add(key)
	}
}

func (c *Controller) reconcile(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return nil
	}
	ds, err := c.sets.DaemonSets(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		c.expect.Forget(key)
		return nil
	}
	if err != nil {
		return err
	}
	selector, err := metav1.LabelSelectorAsSelector(ds.Spec.Selector)
	if err != nil || selector.Empty() {
		c.recorder.Event(ds, v1.EventTypeWarning, "SelectingAll", "This daemon set is selecting all pods. A non-empty selector is required.")
		return nil
	}
	if ds.DeletionTimestamp != nil {
		return nil
	}
	nodes, err := c.nodes.List(labels.Everything())
	if err != nil {
		return err
	}
	fresh := func(ctx context.Context) (metav1.Object, error) {
		return c.client.AppsV1().DaemonSets(namespace).Get(ctx, name, metav1.GetOptions{})
	}
	claimer := owner.Claimer[*v1.Pod]{Owner: ds, Kind: kind, Selector: selector, Fresh: fresh, Patch: c.control.Patch}
	pods, err := claimer.Claim(ctx, podctl.OwnedAndOrphans(c.pods, namespace, ds.UID))
	if err != nil {
		return err
	}
	revisions, err := c.history.Claim(ctx, ds, kind, selector, fresh)
	if err != nil {
		return err
	}
	current, revisions, err := c.current(ctx, ds, revisions)
	if err != nil {
		return err
	}
	hash := current.Labels[appsv1.DefaultDaemonSetUniqueLabelKey]
	placed := byNode(pods)
	var failed error
	if c.expect.Met(key) {
		failed = c.execute(ctx, key, ds, hash, c.hold(key, manage(ds, nodes, placed, hash, time.Now())))
		if failed == nil && c.expect.Met(key) && ds.Spec.UpdateStrategy.Type == appsv1.RollingUpdateDaemonSetStrategyType {
			failed = c.execute(ctx, key, ds, hash, roll(ds, nodes, placed, hash, time.Now()))
		}
	}
	if failed == nil {
		failed = c.history.Prune(ctx, revisions, int(ptr.Deref(ds.Spec.RevisionHistoryLimit, 10)), func(r *appsv1.ControllerRevision) bool {
			h := r.Labels[appsv1.DefaultDaemonSetUniqueLabelKey]
			for _, p := range pods {
				if p.Labels[appsv1.DefaultDaemonSetUniqueLabelKey] == h {
					return true
				}
			}
			return r.Name == current.Name
		})
	}
	s, recheck := status(ds, nodes, placed, hash, time.Now())
	if recheck > 0 {
		c.AddAfter(key, recheck+time.Second) // conditions carry whole seconds
	}
	return errors.Join(failed, c.writeStatus(ctx, ds, s))
}

// current finds or makes the revision of the DaemonSet's template.
func (c *Controller) current(ctx context.Context, ds *appsv1.DaemonSet, have []*appsv1.ControllerRevision) (*appsv1.ControllerRevision, []*appsv1.ControllerRevision, error) {
	data, err := history.Data(&ds.Spec.Template)
	if err != nil {
		return nil, nil, err
	}
	hash := history.Hash(ds.Spec.Template, ds.Status.CollisionCount)
	l := maps.Clone(ds.Spec.Template.Labels)
	if l == nil {
		l = map[string]string{}
	}
	l[appsv1.DefaultDaemonSetUniqueLabelKey] = hash
	want := history.New(ds, kind, l, data, history.Next(have))
	want.Name, want.Annotations = ds.Name+"-"+hash, ds.Annotations
	for i := len(have) - 1; i >= 0; i-- {
		if !history.Same(have[i], want) {
			continue
		}
		r := have[i]
		if r.Revision < want.Revision-1 { // rolled back to: newest again
			if r, err = c.history.Renumber(ctx, r, want.Revision); err != nil {
				return nil, nil, err
			}
		}
		return r, have, nil
	}
	made, err := c.history.Create(ctx, want)
	if errors.Is(err, history.ErrCollision) {
		next := ds.DeepCopy()
		next.Status.CollisionCount = ptr.To(ptr.Deref(ds.Status.CollisionCount, 0) + 1)
		cctx, cancel := context.WithTimeout(ctx, loop.CallTimeout)
		defer cancel()
		_, uerr := c.client.AppsV1().DaemonSets(ds.Namespace).UpdateStatus(cctx, next, metav1.UpdateOptions{})
		return nil, nil, errors.Join(err, uerr)
	}
	if err != nil {
		return nil, nil, err
	}
	return made, append(have, made), nil
}

// hold leaves failed pods alone until their back-off ends, so that a daemon that cannot run does not spin.
func (c *Controller) hold(key string, a actions) actions {
	held := map[*v1.Pod]bool{}
	for _, p := range a.failed {
		id := key + "/" + nodeOf(p)
		now := c.backoff.Clock.Now()
		if c.backoff.IsInBackOffSinceUpdate(id, now) {
			held[p] = true
			c.AddAfter(key, c.backoff.Get(id))
			continue
		}
		c.backoff.Next(id, now)
	}
	if len(held) == 0 {
		return a
	}
	var del []*v1.Pod
	for _, p := range a.delete {
		if !held[p] {
			del = append(del, p)
		}
	}
	a.delete = del
	return a
}

func (c *Controller) execute(ctx context.Context, key string, ds *appsv1.DaemonSet, hash string, a actions) error {
	if len(a.create) > burst {
		a.create = a.create[:burst]
	}
	if len(a.create)+len(a.delete) == 0 {
		return nil
	}
	for _, p := range a.failed {
		c.recorder.Eventf(ds, v1.EventTypeWarning, "FailedDaemonPod", "Found failed daemon pod %s/%s on node %s, will try to kill it", p.Namespace, p.Name, nodeOf(p))
	}
	uids := make([]string, len(a.delete))
	for i, p := range a.delete {
		uids[i] = string(p.UID)
	}
	c.expect.Expect(key, len(a.create), uids...)
	ref := metav1.NewControllerRef(ds, kind)
	n, err := owner.SlowStart(len(a.create), func(i int) error {
		p := podctl.FromTemplate(&ds.Spec.Template, ds.Namespace, ds.Name, ref)
		withTolerations(&p.Spec)
		p.Spec.Affinity = pinned(p.Spec.Affinity, a.create[i])
		if p.Labels == nil {
			p.Labels = map[string]string{}
		}
		p.Labels[appsv1.DefaultDaemonSetUniqueLabelKey] = hash
		if g := ds.Annotations[appsv1.DeprecatedTemplateGeneration]; g != "" {
			p.Labels["pod-template-generation"] = g
		}
		_, err := c.control.Create(ctx, p, ds)
		if apierrors.HasStatusCause(err, v1.NamespaceTerminatingCause) {
			c.expect.Created(key, 1)
			return nil
		}
		return err
	})
	c.expect.Created(key, len(a.create)-n)
	errs := make([]error, len(a.delete))
	var wg sync.WaitGroup
	for i, p := range a.delete {
		wg.Go(func() {
			gone, err := c.control.Delete(ctx, p, ds)
			if gone || err != nil {
				c.expect.Deleted(key, string(p.UID))
			}
			errs[i] = err
		})
	}
	wg.Wait()
	return errors.Join(append(errs, err)...)
}

func (c *Controller) writeStatus(ctx context.Context, ds *appsv1.DaemonSet, s appsv1.DaemonSetStatus) error {
	if equality.Semantic.DeepEqual(ds.Status, s) {
		return nil
	}
	next := ds.DeepCopy()
	next.Status = s
	ctx, cancel := context.WithTimeout(ctx, loop.CallTimeout)
	defer cancel()
	if _, err := c.client.AppsV1().DaemonSets(ds.Namespace).UpdateStatus(ctx, next, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("write status of DaemonSet %q: %w", ds.Namespace+"/"+ds.Name, err)
	}
	return nil
}
