package statefulset

import (
	"context"
	"errors"
	"fmt"
	"maps"
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
	"k8s.io/utils/ptr"

	"github.com/reevehq/reeve/controlplane/controllers/history"
	"github.com/reevehq/reeve/controlplane/controllers/loop"
	"github.com/reevehq/reeve/controlplane/controllers/owner"
	"github.com/reevehq/reeve/controlplane/controllers/podctl"
)

var kind = appsv1.SchemeGroupVersion.WithKind("StatefulSet")

// Controller is the StatefulSet controller.
type Controller struct {
	*loop.Loop
	client   kubernetes.Interface
	recorder record.EventRecorder
	sets     appslisters.StatefulSetLister
	claims   corelisters.PersistentVolumeClaimLister
	pods     cache.Indexer
	control  podctl.Control
	history  history.Store
}

// New makes the controller.
func New(env loop.Env) (*Controller, error) {
	apps, core := env.Informers.Apps().V1(), env.Informers.Core().V1()
	pods := core.Pods().Informer()
	if err := podctl.Index(pods); err != nil {
		return nil, fmt.Errorf("index pods: %w", err)
	}
	rec := env.Recorder("statefulset-controller")
	c := &Controller{
		client: env.Client, recorder: rec, sets: apps.StatefulSets().Lister(), claims: core.PersistentVolumeClaims().Lister(),
		pods: pods.GetIndexer(), control: podctl.Control{Client: env.Client, Recorder: rec},
		history: history.Store{Client: env.Client, Lister: apps.ControllerRevisions().Lister()},
	}
	c.Loop = loop.New("statefulset-controller", env.Log, 5, c.reconcile)
	c.Watch(apps.StatefulSets().Informer())
	c.Needs(apps.ControllerRevisions().Informer(), core.PersistentVolumeClaims().Informer())
	c.On(pods, loop.Typed[*v1.Pod]{Add: c.podSeen, Delete: c.podSeen, Update: func(old, p *v1.Pod) {
		if a, b := metav1.GetControllerOfNoCopy(old), metav1.GetControllerOfNoCopy(p); a != nil && (b == nil || a.UID != b.UID) {
			c.podSeen(old)
		}
		if metav1.GetControllerOfNoCopy(p) != nil || metav1.GetControllerOfNoCopy(old) != nil || !maps.Equal(old.Labels, p.Labels) {
			c.podSeen(p)
		}
	}})
	return c, nil
}

func (c *Controller) podSeen(p *v1.Pod) {
	if ref := metav1.GetControllerOfNoCopy(p); ref != nil {
		if ref.Kind == kind.Kind {
			c.Add(p.Namespace + "/" + ref.Name)
		}
		return
	}
	if p.DeletionTimestamp != nil || !numbered.MatchString(p.Name) {
		return
	}
	list, err := c.sets.StatefulSets(p.Namespace).List(labels.Everything())
	if err != nil {
		return
	}
	for _, s := range list {
		if sel, err := metav1.LabelSelectorAsSelector(s.Spec.Selector); err == nil && !sel.Empty() && sel.Matches(labels.Set(p.Labels)) {
			c.Enqueue(s)
		}
	}
}

func (c *Controller) reconcile(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return nil
	}
	set, err := c.sets.StatefulSets(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	selector, err := metav1.LabelSelectorAsSelector(set.Spec.Selector)
	if err != nil {
		return nil // refused by validation; nothing to do
	}
	fresh := func(ctx context.Context) (metav1.Object, error) {
		return c.client.AppsV1().StatefulSets(namespace).Get(ctx, name, metav1.GetOptions{})
	}
	claimer := owner.Claimer[*v1.Pod]{
		Owner: set, Kind: kind, Selector: selector, Fresh: fresh, Patch: c.control.Patch,
		Match: func(p *v1.Pod) bool { return ordinal(set, p) >= 0 },
	}
	pods, err := claimer.Claim(ctx, podctl.OwnedAndOrphans(c.pods, namespace, set.UID))
	if err != nil {
		return err
	}
	revisions, err := c.history.Claim(ctx, set, kind, selector, fresh)
	if err != nil {
		return err
	}
	current, update, revisions, err := c.revisions(ctx, set, revisions)
	if err != nil {
		return err
	}
	w := &world{set: set, pods: pods, current: current.Name, update: update.Name, now: time.Now()}
	var failed error
	if set.DeletionTimestamp == nil {
		for _, a := range plan(w) {
			if failed = c.do(ctx, w, a, current, update); failed != nil {
				break
			}
		}
		if failed == nil {
			failed = c.retain(ctx, w)
		}
	}
	s, recheck := status(w)
	if recheck > 0 {
		c.AddAfter(key, recheck+time.Second)
	}
	if failed == nil {
		failed = c.history.Prune(ctx, revisions, int(ptr.Deref(set.Spec.RevisionHistoryLimit, 10)), func(r *appsv1.ControllerRevision) bool {
			for _, p := range pods {
				if revision(p) == r.Name {
					return true
				}
			}
			return r.Name == current.Name || r.Name == update.Name
		})
	}
	return errors.Join(failed, c.writeStatus(ctx, set, s))
}

// revisions finds or makes the revision of the set's template, and finds the one that the set is coming from.
func (c *Controller) revisions(ctx context.Context, set *appsv1.StatefulSet, have []*appsv1.ControllerRevision) (current, update *appsv1.ControllerRevision, all []*appsv1.ControllerRevision, err error) {
	data, err := history.Data(&set.Spec.Template)
	if err != nil {
		return nil, nil, nil, err
	}
	hash := history.Hash(string(data), set.Status.CollisionCount)
	l := maps.Clone(set.Spec.Template.Labels)
	if l == nil {
		l = map[string]string{}
	}
	l[history.HashLabel] = hash
	want := history.New(set, kind, l, data, history.Next(have))
	want.Name, want.Annotations = set.Name+"-"+hash, maps.Clone(set.Annotations)
	for i := len(have) - 1; i >= 0; i-- {
		if !history.Same(have[i], want) {
			continue
		}
		update = have[i]
		if update.Revision < want.Revision-1 {
			if update, err = c.history.Renumber(ctx, update, want.Revision); err != nil {
				return nil, nil, nil, err
			}
		}
		break
	}
	if update == nil {
		update, err = c.history.Create(ctx, want)
		if errors.Is(err, history.ErrCollision) {
			s := set.Status.DeepCopy()
			s.CollisionCount = ptr.To(ptr.Deref(s.CollisionCount, 0) + 1)
			return nil, nil, nil, errors.Join(err, c.writeStatus(ctx, set, *s))
		}
		if err != nil {
			return nil, nil, nil, err
		}
		have = append(have, update)
	}
	for _, r := range have {
		if r.Name == set.Status.CurrentRevision {
			current = r
		}
	}
	if current == nil { // a new set: where it goes is where it comes from
		current = update
	}
	return current, update, have, nil
}

func (c *Controller) do(ctx context.Context, w *world, a action, current, update *appsv1.ControllerRevision) error {
	set := w.set
	switch a.verb {
	case create:
		r := update
		if a.old {
			r = current
		}
		t := &set.Spec.Template
		if r.Name != update.Name {
			var err error
			if t, err = history.Template(r); err != nil {
				return err
			}
		}
		if err := c.ensureClaims(ctx, set, a.ordinal); err != nil {
			return err
		}
		p := newPod(set, t, r.Name, a.ordinal)
		cctx, cancel := context.WithTimeout(ctx, loop.CallTimeout)
		defer cancel()
		_, err := c.client.CoreV1().Pods(set.Namespace).Create(cctx, p, metav1.CreateOptions{})
		switch {
		case err == nil:
			c.recorder.Eventf(set, v1.EventTypeNormal, "SuccessfulCreate", "create Pod %s in StatefulSet %s successful", p.Name, set.Name)
			return nil
		case apierrors.IsAlreadyExists(err), apierrors.HasStatusCause(err, v1.NamespaceTerminatingCause):
			return nil // the cache is behind; its event brings us back
		}
		c.recorder.Eventf(set, v1.EventTypeWarning, "FailedCreate", "create Pod %s in StatefulSet %s failed error: %v", p.Name, set.Name, err)
		return fmt.Errorf("create pod %q: %w", set.Namespace+"/"+p.Name, err)
	case recreate:
		if a.pod.Status.Phase == v1.PodFailed {
			c.recorder.Eventf(set, v1.EventTypeWarning, "RecreatingFailedPod", "StatefulSet %s/%s is recreating failed Pod %s", set.Namespace, set.Name, a.pod.Name)
		} else {
			c.recorder.Eventf(set, v1.EventTypeNormal, "RecreatingTerminatedPod", "StatefulSet %s/%s is recreating terminated Pod %s", set.Namespace, set.Name, a.pod.Name)
		}
		return c.delete(ctx, set, a.pod)
	case remove:
		return c.delete(ctx, set, a.pod)
	case claim:
		return c.ensureClaims(ctx, set, a.ordinal)
	case fix:
		p := a.pod.DeepCopy()
		if p.Labels == nil {
			p.Labels = map[string]string{}
		}
		p.Labels[appsv1.StatefulSetPodNameLabel] = podName(set, a.ordinal)
		p.Labels[appsv1.PodIndexLabel] = fmt.Sprint(a.ordinal)
		cctx, cancel := context.WithTimeout(ctx, loop.CallTimeout)
		defer cancel()
		if _, err := c.client.CoreV1().Pods(set.Namespace).Update(cctx, p, metav1.UpdateOptions{}); err != nil {
			return fmt.Errorf("label pod %q: %w", set.Namespace+"/"+p.Name, err)
		}
	}
	return nil
}

func (c *Controller) delete(ctx context.Context, set *appsv1.StatefulSet, p *v1.Pod) error {
	ctx, cancel := context.WithTimeout(ctx, loop.CallTimeout)
	defer cancel()
	err := c.client.CoreV1().Pods(p.Namespace).Delete(ctx, p.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(p.UID))})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil
	}
	if err != nil {
		c.recorder.Eventf(set, v1.EventTypeWarning, "FailedDelete", "delete Pod %s in StatefulSet %s failed error: %v", p.Name, set.Name, err)
		return fmt.Errorf("delete pod %q: %w", p.Namespace+"/"+p.Name, err)
	}
	c.recorder.Eventf(set, v1.EventTypeNormal, "SuccessfulDelete", "delete Pod %s in StatefulSet %s successful", p.Name, set.Name)
	return nil
}

func (c *Controller) ensureClaims(ctx context.Context, set *appsv1.StatefulSet, n int) error {
	var errs []error
	for _, pvc := range claims(set, n) {
		have, err := c.claims.PersistentVolumeClaims(set.Namespace).Get(pvc.Name)
		if err == nil {
			if have.DeletionTimestamp != nil {
				errs = append(errs, fmt.Errorf("use claim %q: it is being deleted: %w", pvc.Name, loop.ErrLater))
			}
			continue
		}
		if !apierrors.IsNotFound(err) {
			return err
		}
		pvc.OwnerReferences, _ = retention(set, nil, false, nil)
		cctx, cancel := context.WithTimeout(ctx, loop.CallTimeout)
		_, err = c.client.CoreV1().PersistentVolumeClaims(set.Namespace).Create(cctx, pvc, metav1.CreateOptions{})
		cancel()
		switch {
		case err == nil:
			c.recorder.Eventf(set, v1.EventTypeNormal, "SuccessfulCreate", "create Claim %s Pod %s in StatefulSet %s success", pvc.Name, podName(set, n), set.Name)
		case apierrors.IsAlreadyExists(err), apierrors.HasStatusCause(err, v1.NamespaceTerminatingCause):
		default:
			c.recorder.Eventf(set, v1.EventTypeWarning, "FailedCreate", "create Claim %s for Pod %s in StatefulSet %s failed error: %v", pvc.Name, podName(set, n), set.Name, err)
			errs = append(errs, fmt.Errorf("create claim %q: %w", set.Namespace+"/"+pvc.Name, err))
		}
	}
	return errors.Join(errs...)
}

// retain has each pod's claims owned as the retention policy says.
func (c *Controller) retain(ctx context.Context, w *world) error {
	if len(w.set.Spec.VolumeClaimTemplates) == 0 {
		return nil
	}
	start, n := first(w.set), int(ptr.Deref(w.set.Spec.Replicas, 1))
	for _, p := range w.pods {
		o := ordinal(w.set, p)
		for _, pvc := range claims(w.set, o) {
			have, err := c.claims.PersistentVolumeClaims(w.set.Namespace).Get(pvc.Name)
			if apierrors.IsNotFound(err) {
				continue
			}
			if err != nil {
				return err
			}
			refs, changed := retention(w.set, p, o < start || o >= start+n, have.OwnerReferences)
			if !changed {
				continue
			}
			next := have.DeepCopy()
			next.OwnerReferences = refs
			cctx, cancel := context.WithTimeout(ctx, loop.CallTimeout)
			_, err = c.client.CoreV1().PersistentVolumeClaims(next.Namespace).Update(cctx, next, metav1.UpdateOptions{})
			cancel()
			if err != nil {
				return fmt.Errorf("set owners of claim %q: %w", next.Namespace+"/"+next.Name, err)
			}
		}
	}
	return nil
}

func (c *Controller) writeStatus(ctx context.Context, set *appsv1.StatefulSet, s appsv1.StatefulSetStatus) error {
	if equality.Semantic.DeepEqual(set.Status, s) {
		return nil
	}
	next := set.DeepCopy()
	next.Status = s
	ctx, cancel := context.WithTimeout(ctx, loop.CallTimeout)
	defer cancel()
	if _, err := c.client.AppsV1().StatefulSets(set.Namespace).UpdateStatus(ctx, next, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("write status of StatefulSet %q: %w", set.Namespace+"/"+set.Name, err)
	}
	return nil
}
