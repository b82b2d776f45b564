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
