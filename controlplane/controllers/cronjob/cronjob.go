package cronjob

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	batchlisters "k8s.io/client-go/listers/batch/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"

	"github.com/reevehq/reeve/controlplane/controllers/loop"
)

var kind = batchv1.SchemeGroupVersion.WithKind("CronJob")

const (
	// manyMissed is from how many missed times on the user is told (upstream's 100).
	manyMissed = 100
	// slack makes sure that a wake-up does not come just before its time.
	slack = 10 * time.Millisecond
)

// Controller is the CronJob controller.
type Controller struct {
	*loop.Loop
	client   kubernetes.Interface
	recorder record.EventRecorder
	crons    batchlisters.CronJobLister
	jobs     batchlisters.JobLister
}

// New makes the controller.
func New(env loop.Env) (*Controller, error) {
	batch := env.Informers.Batch().V1()
	c := &Controller{client: env.Client, recorder: env.Recorder("cronjob-controller"), crons: batch.CronJobs().Lister(), jobs: batch.Jobs().Lister()}
	c.Loop = loop.New("cronjob-controller", env.Log, 2, c.reconcile)
	c.Watch(batch.CronJobs().Informer())
	c.On(batch.Jobs().Informer(), loop.Each(func(obj any) {
		if d, ok := obj.(cache.DeletedFinalStateUnknown); ok {
			obj = d.Obj
		}
		if j, ok := obj.(*batchv1.Job); ok {
			if ref := metav1.GetControllerOfNoCopy(j); ref != nil && ref.Kind == kind.Kind {
				c.Add(j.Namespace + "/" + ref.Name)
			}
		}
	}))
	return c, nil
}

// due is the latest time that should have had a Job by now, how many were missed, and when the next one is.
func due(cj *batchv1.CronJob, s *schedule, now time.Time) (last time.Time, missed int, next time.Time) {
	from := cj.CreationTimestamp.Time
	if t := cj.Status.LastScheduleTime; t != nil {
		from = t.Time
	}
	if d := cj.Spec.StartingDeadlineSeconds; d != nil {
		if at := now.Add(-time.Duration(*d) * time.Second); at.After(from) {
			from = at // older ones are too late anyway
		}
	}
	from = from.In(now.Location())
	next = s.next(now)
	for t := s.next(from); !t.IsZero() && !t.After(now); t = s.next(t) {
		last = t
		if missed++; missed > 10*manyMissed { // a long stop with a dense schedule: jump close to now
			for span := time.Hour; ; span *= 24 {
				near := now.Add(-span)
				if near.Before(t) || span > 400*24*time.Hour {
					break
				}
				if k := s.next(near); !k.IsZero() && !k.After(now) {
					t = near
					break
				}
			}
		}
	}
	return last, missed, next
}

func finished(j *batchv1.Job) (batchv1.JobConditionType, *metav1.Time) {
	for _, c := range j.Status.Conditions {
		if (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == v1.ConditionTrue {
			return c.Type, &c.LastTransitionTime
		}
	}
	return "", nil
}

func (c *Controller) reconcile(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return nil
	}
	cached, err := c.crons.CronJobs(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	all, err := c.jobs.Jobs(namespace).List(labels.Everything())
	if err != nil {
		return err
	}
	var jobs []*batchv1.Job
	for _, j := range all {
		if metav1.IsControlledBy(j, cached) {
			jobs = append(jobs, j)
		}
	}
	cj := cached.DeepCopy()
	if err := c.prune(ctx, cj, jobs); err != nil {
		return err
	}
	c.observe(cj, jobs)
	var failed error
	if cj.DeletionTimestamp == nil && !ptr.Deref(cj.Spec.Suspend, false) {
		failed = c.start(ctx, cj, jobs, key)
	}
	return errors.Join(failed, c.store(ctx, cached, cj))
}

// observe brings status.active and the last success up to date.
func (c *Controller) observe(cj *batchv1.CronJob, jobs []*batchv1.Job) {
	byUID := map[string]*batchv1.Job{}
	for _, j := range jobs {
		byUID[string(j.UID)] = j
	}
	var active []v1.ObjectReference
	for _, ref := range cj.Status.Active {
		j, ok := byUID[string(ref.UID)]
		if !ok {
			if len(jobs) == 0 || time.Since(ptr.Deref(cj.Status.LastScheduleTime, metav1.Time{}).Time) > 10*time.Second {
				c.recorder.Eventf(cj, v1.EventTypeNormal, "MissingJob", "Active job went missing: %v", ref.Name)
				continue
			}
			active = append(active, ref) // just made: the cache has not seen it
			continue
		}
		t, at := finished(j)
		if t == "" {
			active = append(active, ref)
			continue
		}
		c.recorder.Eventf(cj, v1.EventTypeNormal, "SawCompletedJob", "Saw completed job: %s, condition: %v", j.Name, t)
		if t == batchv1.JobComplete && (cj.Status.LastSuccessfulTime == nil || cj.Status.LastSuccessfulTime.Before(at)) {
			done := j.Status.CompletionTime
			if done == nil {
				done = at
			}
			cj.Status.LastSuccessfulTime = done
		}
	}
	cj.Status.Active = active
}

func (c *Controller) start(ctx context.Context, cj *batchv1.CronJob, jobs []*batchv1.Job, key string) error {
	s, err := parse(cj.Spec.Schedule)
	if err != nil {
		c.recorder.Eventf(cj, v1.EventTypeWarning, "UnparseableSchedule", "unparseable schedule: %v", err)
		return nil
	}
	now := time.Now()
	if tz := cj.Spec.TimeZone; tz != nil {
		loc, err := time.LoadLocation(*tz)
		if err != nil {
			c.recorder.Eventf(cj, v1.EventTypeWarning, "UnknownTimeZone", "invalid timeZone: %q: %v", *tz, err)
			return nil
		}
		now = now.In(loc)
	}
	at, missed, next := due(cj, s, now)
	if !next.IsZero() {
		c.AddAfter(key, next.Sub(now)+slack)
	}
	if missed == 0 {
		return nil
	}
	if missed > manyMissed {
		c.recorder.Eventf(cj, v1.EventTypeWarning, "TooManyMissedTimes", "too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew")
	}
	if d := cj.Spec.StartingDeadlineSeconds; d != nil && at.Add(time.Duration(*d)*time.Second).Before(now) {
		c.recorder.Eventf(cj, v1.EventTypeWarning, "MissSchedule", "Missed scheduled time to start a job: %s", at.UTC().Format(time.RFC1123Z))
		return nil
	}
	name := fmt.Sprintf("%s-%d", cj.Name, at.Unix()/60)
	if slices.ContainsFunc(jobs, func(j *batchv1.Job) bool { return j.Name == name }) || slices.ContainsFunc(cj.Status.Active, func(r v1.ObjectReference) bool { return r.Name == name }) {
		cj.Status.LastScheduleTime = ptr.To(metav1.NewTime(at))
		return nil
	}
	if len(cj.Status.Active) > 0 {
		switch cj.Spec.ConcurrencyPolicy {
		case batchv1.ForbidConcurrent:
			c.recorder.Eventf(cj, v1.EventTypeNormal, "JobAlreadyActive", "Not starting job because prior execution is running and concurrency policy is Forbid")
			return nil
		case batchv1.ReplaceConcurrent:
			for _, ref := range cj.Status.Active {
				if err := c.deleteJob(ctx, cj, ref.Namespace, ref.Name); err != nil {
					return err
				}
			}
			cj.Status.Active = nil
		}
	}
	j := newJob(cj, name, at)
	cctx, cancel := context.WithTimeout(ctx, loop.CallTimeout)
	defer cancel()
	made, err := c.client.BatchV1().Jobs(cj.Namespace).Create(cctx, j, metav1.CreateOptions{})
	switch {
	case apierrors.IsAlreadyExists(err):
		have, gerr := c.client.BatchV1().Jobs(cj.Namespace).Get(cctx, name, metav1.GetOptions{})
		if gerr != nil {
			return fmt.Errorf("get Job %q: %w", name, gerr)
		}
		if !metav1.IsControlledBy(have, cj) {
			return fmt.Errorf("create Job %q: one of that name belongs to somebody else", name)
		}
		made = have
	case apierrors.HasStatusCause(err, v1.NamespaceTerminatingCause):
		return nil
	case err != nil:
		c.recorder.Eventf(cj, v1.EventTypeWarning, "FailedCreate", "Error creating job: %v", err)
		return fmt.Errorf("create Job %q: %w", name, err)
	default:
		c.recorder.Eventf(cj, v1.EventTypeNormal, "SuccessfulCreate", "Created job %v", made.Name)
	}
	if t, _ := finished(made); t == "" {
		cj.Status.Active = append(cj.Status.Active, v1.ObjectReference{
			APIVersion: "batch/v1", Kind: "Job", Namespace: made.Namespace, Name: made.Name, UID: made.UID, ResourceVersion: made.ResourceVersion,
		})
	}
	cj.Status.LastScheduleTime = ptr.To(metav1.NewTime(at))
	return nil
}

func newJob(cj *batchv1.CronJob, name string, at time.Time) *batchv1.Job {
	annotations := maps.Clone(cj.Spec.JobTemplate.Annotations)
	if annotations == nil {
		annotations = map[string]string{}
	}
	annotations[batchv1.CronJobScheduledTimestampAnnotation] = at.Format(time.RFC3339)
	return &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: cj.Namespace, Name: name, Labels: maps.Clone(cj.Spec.JobTemplate.Labels), Annotations: annotations,
			CreationTimestamp: metav1.NewTime(at), OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(cj, kind)},
		},
		Spec: *cj.Spec.JobTemplate.Spec.DeepCopy(),
	}
}

func (c *Controller) deleteJob(ctx context.Context, cj *batchv1.CronJob, namespace, name string) error {
	ctx, cancel := context.WithTimeout(ctx, loop.CallTimeout)
	defer cancel()
	err := c.client.BatchV1().Jobs(namespace).Delete(ctx, name, metav1.DeleteOptions{PropagationPolicy: ptr.To(metav1.DeletePropagationBackground)})
	if err != nil && !apierrors.IsNotFound(err) {
		c.recorder.Eventf(cj, v1.EventTypeWarning, "FailedDelete", "Deleted job: %v", err)
		return fmt.Errorf("delete Job %q: %w", namespace+"/"+name, err)
	}
	c.recorder.Eventf(cj, v1.EventTypeNormal, "SuccessfulDelete", "Deleted job %v", name)
	return nil
}

// prune deletes the oldest ended Jobs beyond the history limits.
func (c *Controller) prune(ctx context.Context, cj *batchv1.CronJob, jobs []*batchv1.Job) error {
	for t, limit := range map[batchv1.JobConditionType]*int32{batchv1.JobComplete: cj.Spec.SuccessfulJobsHistoryLimit, batchv1.JobFailed: cj.Spec.FailedJobsHistoryLimit} {
		if limit == nil {
			continue
		}
		var ended []*batchv1.Job
		for _, j := range jobs {
			if k, _ := finished(j); k == t && j.DeletionTimestamp == nil {
				ended = append(ended, j)
			}
		}
		slices.SortFunc(ended, func(a, b *batchv1.Job) int {
			if n := a.CreationTimestamp.Compare(b.CreationTimestamp.Time); n != 0 {
				return n
			}
			return strings.Compare(a.Name, b.Name)
		})
		for _, j := range ended[:max(len(ended)-int(*limit), 0)] {
			if err := c.deleteJob(ctx, cj, j.Namespace, j.Name); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *Controller) store(ctx context.Context, before, cj *batchv1.CronJob) error {
	if equality.Semantic.DeepEqual(before.Status, cj.Status) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, loop.CallTimeout)
	defer cancel()
	if _, err := c.client.BatchV1().CronJobs(cj.Namespace).UpdateStatus(ctx, cj, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("write status of CronJob %q: %w", cj.Namespace+"/"+cj.Name, err)
	}
	return nil
}
