package job

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	batchlisters "k8s.io/client-go/listers/batch/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"

	"github.com/reevehq/reeve/controlplane/controllers/loop"
	"github.com/reevehq/reeve/controlplane/controllers/owner"
	"github.com/reevehq/reeve/controlplane/controllers/podctl"
)

var kind = batchv1.SchemeGroupVersion.WithKind("Job")

const (
	workers = 5
	// burst bounds how many pods one reconciliation creates, and how many ends it counts (upstream's 500).
	burst = 500
)

// Controller is the Job controller.
type Controller struct {
	*loop.Loop
	client   kubernetes.Interface
	recorder record.EventRecorder
	jobs     batchlisters.JobLister
	pods     cache.Indexer
	control  podctl.Control
	expect   owner.Expectations

	mu sync.Mutex
	// freed are pods whose end is counted; the cache may show their finalizer for a while yet.
	freed map[types.UID]bool
	// written is the resource version of each Job's last status; an older picture of the Job is not acted on.
	written map[string]uint64
}

// New makes the controller.
func New(env loop.Env) (*Controller, error) {
	inf := env.Informers.Batch().V1().Jobs()
	pods := env.Informers.Core().V1().Pods().Informer()
	if err := podctl.Index(pods); err != nil {
		return nil, fmt.Errorf("index pods: %w", err)
	}
	rec := env.Recorder("job-controller")
	c := &Controller{client: env.Client, recorder: rec, jobs: inf.Lister(), pods: pods.GetIndexer(), control: podctl.Control{Client: env.Client, Recorder: rec}, freed: map[types.UID]bool{}, written: map[string]uint64{}}
	c.Loop = loop.New("job-controller", env.Log, workers, c.reconcile)
	c.Watch(inf.Informer())
	c.On(pods, loop.Typed[*v1.Pod]{Add: c.podAdded, Delete: func(p *v1.Pod) { c.settled(p); c.podGone(p) }, Update: func(old, p *v1.Pod) {
		if !hasFinalizer(p) {
			c.settled(p)
		}
		if p.DeletionTimestamp != nil && old.DeletionTimestamp == nil {
			c.podGone(p)
		}
		if a, b := metav1.GetControllerOfNoCopy(old), metav1.GetControllerOfNoCopy(p); a != nil && (b == nil || a.UID != b.UID) {
			c.podGone(old)
		}
		if key := ownerKey(p); key != "" {
			c.Add(key)
		}
	}})
	return c, nil
}

func (c *Controller) settled(p *v1.Pod) {
	c.mu.Lock()
	delete(c.freed, p.UID)
	c.mu.Unlock()
}

// stale reports whether the picture of the Job is older than what was last written.
func (c *Controller) stale(key string, j *batchv1.Job) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	rv, err := strconv.ParseUint(j.ResourceVersion, 10, 64)
	return err == nil && rv < c.written[key]
}

func ownerKey(p *v1.Pod) string {
	if ref := metav1.GetControllerOfNoCopy(p); ref != nil && ref.Kind == kind.Kind && ref.APIVersion == kind.GroupVersion().String() {
		return p.Namespace + "/" + ref.Name
	}
	return ""
}

func (c *Controller) podAdded(p *v1.Pod) {
	if key := ownerKey(p); key != "" {
		if p.DeletionTimestamp != nil {
			c.podGone(p)
			return
		}
		c.expect.Created(key, 1)
		c.Add(key)
		return
	}
	if metav1.GetControllerOfNoCopy(p) != nil {
		return
	}
	list, err := c.jobs.Jobs(p.Namespace).List(labels.Everything())
	if err != nil {
		return
	}
	for _, j := range list {
		if s, err := metav1.LabelSelectorAsSelector(j.Spec.Selector); err == nil && !s.Empty() && s.Matches(labels.Set(p.Labels)) {
			c.Enqueue(j)
		}
	}
}

func (c *Controller) podGone(p *v1.Pod) {
	if key := ownerKey(p); key != "" {
		c.expect.Deleted(key, string(p.UID))
		c.Add(key)
	} else if hasFinalizer(p) {
		c.Add(p.Namespace + "/") // an orphan: freed below
	}
}

func (c *Controller) reconcile(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return nil
	}
	cached, err := c.jobs.Jobs(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		c.expect.Forget(key)
		c.mu.Lock()
		delete(c.written, key)
		c.mu.Unlock()
		return c.freeOrphans(ctx, namespace, name)
	}
	if err != nil {
		return err
	}
	j := cached.DeepCopy()
	if by := j.Spec.ManagedBy; by != nil && *by != batchv1.JobControllerName {
		return nil
	}
	if c.stale(key, j) {
		return fmt.Errorf("reconcile Job %q: the cache has not seen the last status: %w", key, loop.ErrLater)
	}
	pods, err := c.claim(ctx, j)
	if err != nil {
		return err
	}
	pods = c.masked(pods)
	if finished(j) {
		return c.free(ctx, pods) // pods that ended late
	}
	if j.DeletionTimestamp != nil {
		return nil
	}
	met := c.expect.Met(key)
	o := look(j, pods)
	v, left := decide(j, o, time.Now())
	if left > 0 {
		c.AddAfter(key, left)
	}
	c.begin(j, key)
	var failed error
	switch {
	case !met:
	case v.kind != "":
		failed = c.remove(ctx, key, j, o.active)
		if failed == nil && len(o.active) > 0 {
			o.terminating += int32(len(o.active))
			o.active, o.ready = nil, 0
		}
	default:
		n := plan(j, o, time.Now())
		if n.wait > 0 {
			c.AddAfter(key, n.wait)
		}
		made := 0
		if failed = c.remove(ctx, key, j, n.delete); failed == nil {
			made, failed = c.create(ctx, key, j, n, pods)
		}
		if failed == nil {
			o.active = slices.DeleteFunc(slices.Clone(o.active), func(p *v1.Pod) bool { return slices.Contains(n.delete, p) })
			o.terminating += int32(len(n.delete))
		}
		j.Status.Active = int32(len(o.active) + made)
		return errors.Join(failed, c.count(ctx, cached, j, pods, o, v))
	}
	j.Status.Active = int32(len(o.active))
	return errors.Join(failed, c.count(ctx, cached, j, pods, o, v))
}

func (c *Controller) claim(ctx context.Context, j *batchv1.Job) ([]*v1.Pod, error) {
	sel, err := metav1.LabelSelectorAsSelector(j.Spec.Selector)
	if err != nil {
		return nil, fmt.Errorf("parse selector of Job %q: %w", j.Name, err)
	}
	claimer := owner.Claimer[*v1.Pod]{
		Owner: j, Kind: kind, Selector: sel, Patch: c.control.Patch, Match: podctl.Active,
		Fresh: func(ctx context.Context) (metav1.Object, error) {
			return c.client.BatchV1().Jobs(j.Namespace).Get(ctx, j.Name, metav1.GetOptions{})
		},
	}
	return claimer.Claim(ctx, podctl.OwnedAndOrphans(c.pods, j.Namespace, j.UID))
}

// masked shows pods that were freed without their finalizer, though the cache still has it.
func (c *Controller) masked(pods []*v1.Pod) []*v1.Pod {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := slices.Clone(pods)
	for i, p := range out {
		if c.freed[p.UID] && hasFinalizer(p) {
			p = p.DeepCopy()
			p.Finalizers = slices.DeleteFunc(p.Finalizers, func(f string) bool { return f == batchv1.JobTrackingFinalizer })
			out[i] = p
		}
	}
	return out
}

// begin keeps the start time and the Suspended condition.
func (c *Controller) begin(j *batchv1.Job, key string) {
	cond := condition(j, batchv1.JobSuspended)
	was := cond != nil && cond.Status == v1.ConditionTrue
	if suspended(j) {
		if !was {
			setCondition(j, batchv1.JobSuspended, v1.ConditionTrue, "JobSuspended", "Job suspended")
			c.recorder.Event(j, v1.EventTypeNormal, "Suspended", "Job suspended")
		}
		j.Status.StartTime = nil
		return
	}
	if was {
		setCondition(j, batchv1.JobSuspended, v1.ConditionFalse, "JobResumed", "Job resumed")
		c.recorder.Event(j, v1.EventTypeNormal, "Resumed", "Job resumed")
	}
	if j.Status.StartTime == nil {
		j.Status.StartTime = ptr.To(metav1.Now())
		if d := j.Spec.ActiveDeadlineSeconds; d != nil {
			c.AddAfter(key, time.Duration(*d)*time.Second)
		}
	}
}

func setCondition(j *batchv1.Job, t batchv1.JobConditionType, s v1.ConditionStatus, reason, message string) {
	now := metav1.Now()
	next := batchv1.JobCondition{Type: t, Status: s, Reason: reason, Message: message, LastProbeTime: now, LastTransitionTime: now}
	if c := condition(j, t); c != nil {
		if c.Status != s || c.Reason != reason || c.Message != message {
			*c = next
		}
		return
	}
	j.Status.Conditions = append(j.Status.Conditions, next)
}

// count brings the ends of pods into the status, in steps that survive a crash between any two: note the UIDs, take the
// finalizers away, add the numbers and drop the UIDs.
func (c *Controller) count(ctx context.Context, cached, j *batchv1.Job, pods []*v1.Pod, o outcome, v verdict) error {
	if len(o.endedGood)+len(o.endedBad) > burst { // the rest comes with the next look
		o.endedGood = o.endedGood[:min(len(o.endedGood), burst)]
		o.endedBad = o.endedBad[:min(len(o.endedBad), burst-len(o.endedGood))]
		defer c.Add(j.Namespace + "/" + j.Name)
	}
	u := j.Status.UncountedTerminatedPods
	if u == nil {
		u = &batchv1.UncountedTerminatedPods{}
	}
	for _, p := range o.endedGood {
		u.Succeeded = append(u.Succeeded, p.UID)
	}
	for _, p := range o.endedBad {
		u.Failed = append(u.Failed, p.UID)
	}
	j.Status.UncountedTerminatedPods = u
	j.Status.Ready = ptr.To(o.ready)
	j.Status.Terminating = ptr.To(o.terminating)
	if indexed(j) {
		j.Status.CompletedIndexes = o.completed.String()
		if j.Spec.BackoffLimitPerIndex != nil {
			j.Status.FailedIndexes = ptr.To(o.failedIndexes.String())
		}
	}
	if v.kind != "" {
		setCondition(j, v.kind, v1.ConditionTrue, v.reason, v.message)
	}
	j, err := c.store(ctx, cached, j)
	if err != nil {
		return err
	}
	if err := c.free(ctx, slices.Concat(o.endedGood, o.endedBad)); err != nil {
		return err
	}
	// Ends noted earlier, whose pods are free by now, are final.
	freed := map[string]bool{}
	for _, p := range slices.Concat(o.endedGood, o.endedBad) {
		freed[string(p.UID)] = true
	}
	var stuck []*v1.Pod
	good, bad := uncounted(j)
	for _, p := range pods {
		if hasFinalizer(p) && !freed[string(p.UID)] {
			if good[p.UID] || bad[p.UID] {
				stuck = append(stuck, p)
			}
		}
	}
	if err := c.free(ctx, stuck); err != nil { // noted, but a crash came before
		return err
	}
	next := j.DeepCopy()
	next.Status.Succeeded += int32(len(u.Succeeded))
	next.Status.Failed += int32(len(u.Failed))
	if indexed(next) {
		next.Status.Succeeded = int32(len(o.completed))
	}
	next.Status.UncountedTerminatedPods = &batchv1.UncountedTerminatedPods{}
	c.conclude(next, o, v)
	_, err = c.store(ctx, j, next)
	return err
}

// conclude sets the terminal condition once nothing of the Job runs any more.
func (c *Controller) conclude(j *batchv1.Job, o outcome, v verdict) {
	if v.kind == "" || len(o.active) > 0 || o.terminating > 0 {
		return
	}
	j.Status.Active, j.Status.Ready, j.Status.Terminating = 0, ptr.To[int32](0), ptr.To[int32](0)
	if v.kind == batchv1.JobFailureTarget {
		setCondition(j, batchv1.JobFailed, v1.ConditionTrue, v.reason, v.message)
		c.recorder.Event(j, v1.EventTypeWarning, v.reason, v.message)
		return
	}
	j.Status.CompletionTime = ptr.To(metav1.Now())
	setCondition(j, batchv1.JobComplete, v1.ConditionTrue, v.reason, v.message)
	c.recorder.Event(j, v1.EventTypeNormal, "Completed", "Job completed")
}

func (c *Controller) store(ctx context.Context, before, j *batchv1.Job) (*batchv1.Job, error) {
	if equality.Semantic.DeepEqual(before.Status, j.Status) {
		return j, nil
	}
	ctx, cancel := context.WithTimeout(ctx, loop.CallTimeout)
	defer cancel()
	out, err := c.client.BatchV1().Jobs(j.Namespace).UpdateStatus(ctx, j, metav1.UpdateOptions{})
	if err != nil {
		return nil, fmt.Errorf("write status of Job %q: %w", j.Namespace+"/"+j.Name, err)
	}
	if rv, err := strconv.ParseUint(out.ResourceVersion, 10, 64); err == nil {
		c.mu.Lock()
		c.written[j.Namespace+"/"+j.Name] = rv
		c.mu.Unlock()
	}
	return out, nil
}

// free takes the tracking finalizer from pods.
func (c *Controller) free(ctx context.Context, pods []*v1.Pod) error {
	errs := make([]error, len(pods))
	var wg sync.WaitGroup
	slots := make(chan struct{}, 16)
	for i, p := range pods {
		if !hasFinalizer(p) {
			continue
		}
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			patch := fmt.Sprintf(`{"metadata":{"uid":%q,"$deleteFromPrimitiveList/finalizers":[%q]}}`, p.UID, batchv1.JobTrackingFinalizer)
			err := c.control.Patch(ctx, p, []byte(patch))
			if err == nil {
				c.mu.Lock()
				c.freed[p.UID] = true
				c.mu.Unlock()
			}
			if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
				errs[i] = fmt.Errorf("free pod %q: %w", p.Namespace+"/"+p.Name, err)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// freeOrphans lets the pods of a Job that is gone go.
func (c *Controller) freeOrphans(ctx context.Context, namespace, name string) error {
	var free []*v1.Pod
	for _, obj := range c.pods.List() {
		p, ok := obj.(*v1.Pod)
		if !ok || p.Namespace != namespace || !hasFinalizer(p) {
			continue
		}
		ref := metav1.GetControllerOfNoCopy(p)
		if ref == nil || ref.Kind == kind.Kind && ref.Name == name {
			free = append(free, p)
		}
	}
	return c.free(ctx, free)
}

func (c *Controller) remove(ctx context.Context, key string, j *batchv1.Job, pods []*v1.Pod) error {
	if len(pods) == 0 {
		return nil
	}
	uids := make([]string, len(pods))
	for i, p := range pods {
		uids[i] = string(p.UID)
	}
	c.expect.Expect(key, 0, uids...)
	errs := make([]error, len(pods))
	var wg sync.WaitGroup
	for i, p := range pods {
		wg.Go(func() {
			gone, err := c.control.Delete(ctx, p, j)
			if gone || err != nil {
				c.expect.Deleted(key, string(p.UID))
			}
			errs[i] = err
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (c *Controller) create(ctx context.Context, key string, j *batchv1.Job, n need, pods []*v1.Pod) (int, error) {
	n.create = min(n.create, burst)
	if n.create == 0 {
		return 0, nil
	}
	c.expect.Expect(key, n.create)
	made, err := owner.SlowStart(n.create, func(i int) error {
		index := -1
		if len(n.index) > i {
			index = n.index[i]
		}
		_, err := c.control.Create(ctx, newPod(j, index, lastFailures(j, index, pods)), j)
		if apierrors.HasStatusCause(err, v1.NamespaceTerminatingCause) {
			c.expect.Created(key, 1)
			return nil
		}
		return err
	})
	c.expect.Created(key, n.create-made)
	return made, err
}

func lastFailures(j *batchv1.Job, index int, pods []*v1.Pod) int32 {
	if j.Spec.BackoffLimitPerIndex == nil || index < 0 {
		return -1
	}
	n := int32(0)
	for _, p := range pods {
		if indexOf(p) == index && failed(j, p) {
			n = max(n, failuresOf(p)+1)
		}
	}
	return n
}

// newPod is a pod of the Job; index is -1 for Jobs that are not indexed, failures -1 where they are not counted by index.
func newPod(j *batchv1.Job, index int, failures int32) *v1.Pod {
	p := podctl.FromTemplate(&j.Spec.Template, j.Namespace, j.Name, metav1.NewControllerRef(j, kind))
	p.Finalizers = append(p.Finalizers, batchv1.JobTrackingFinalizer)
	if index < 0 {
		return p
	}
	if p.Annotations == nil {
		p.Annotations = map[string]string{}
	}
	if p.Labels == nil {
		p.Labels = map[string]string{}
	}
	num := strconv.Itoa(index)
	p.Annotations[batchv1.JobCompletionIndexAnnotation] = num
	p.Labels[batchv1.JobCompletionIndexAnnotation] = num
	if failures >= 0 {
		p.Annotations[batchv1.JobIndexFailureCountAnnotation] = strconv.Itoa(int(failures))
	}
	p.GenerateName = fmt.Sprintf("%s-%d-", j.Name, index)
	p.Spec.Hostname = fmt.Sprintf("%s-%d", j.Name, index)
	env := v1.EnvVar{Name: "JOB_COMPLETION_INDEX", ValueFrom: &v1.EnvVarSource{
		FieldRef: &v1.ObjectFieldSelector{APIVersion: "v1", FieldPath: fmt.Sprintf("metadata.labels['%s']", batchv1.JobCompletionIndexAnnotation)},
	}}
	for _, list := range [][]v1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			if !slices.ContainsFunc(list[i].Env, func(e v1.EnvVar) bool { return e.Name == env.Name }) {
				list[i].Env = append(list[i].Env, env)
			}
		}
	}
	return p
}
