package job

import (
	"fmt"
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/reevehq/reeve/controlplane/controllers/podctl"
)

// The pause after a pod's failure before the next is made: 10 s, doubled with each in a row, at most 10 min (upstream's).
const (
	backoffMin = 10 * time.Second
	backoffMax = 10 * time.Minute
)

// outcome is what the pods that ended mean for the Job.
type outcome struct {
	succeeded, failed int32 // in all, whether already in the status or not
	completed         indexes
	failedIndexes     indexes
	// endedGood and endedBad are pods that still carry the finalizer and are to be counted.
	endedGood, endedBad []*v1.Pod
	active              []*v1.Pod
	terminating         int32
	ready               int32
	failNow             string // the pod failure policy's message if it ends the Job
	failures            []time.Time
}

func hasFinalizer(p *v1.Pod) bool { return slices.Contains(p.Finalizers, batchv1.JobTrackingFinalizer) }

// failed says whether the pod counts as failed now. Terminating ones do at once, unless replacements wait for the end.
func failed(j *batchv1.Job, p *v1.Pod) bool {
	if p.Status.Phase == v1.PodFailed {
		return true
	}
	return p.DeletionTimestamp != nil && p.Status.Phase != v1.PodSucceeded && !onlyFailed(j)
}

func onlyFailed(j *batchv1.Job) bool {
	return j.Spec.PodReplacementPolicy != nil && *j.Spec.PodReplacementPolicy == batchv1.Failed || j.Spec.PodFailurePolicy != nil
}

// look weighs the pods against the status that was last written.
func look(j *batchv1.Job, pods []*v1.Pod) (o outcome) {
	completions := int(ptr.Deref(j.Spec.Completions, 0))
	o.completed = parseIndexes(j.Status.CompletedIndexes, completions)
	if j.Status.FailedIndexes != nil {
		o.failedIndexes = parseIndexes(*j.Status.FailedIndexes, completions)
	}
	good, bad := uncounted(j)
	o.succeeded, o.failed = j.Status.Succeeded+int32(len(good)), j.Status.Failed+int32(len(bad))
	for _, p := range pods {
		if indexed(j) {
			if i := indexOf(p); i < 0 || i >= completions {
				if podctl.Active(p) {
					o.active = append(o.active, p) // to be deleted by whoever plans
				}
				continue
			}
		}
		switch {
		case p.Status.Phase == v1.PodSucceeded:
			if !hasFinalizer(p) || good[p.UID] {
				continue
			}
			o.endedGood = append(o.endedGood, p)
			if indexed(j) {
				o.completed = o.completed.with(indexOf(p))
			} else {
				o.succeeded++
			}
		case failed(j, p):
			if p.DeletionTimestamp != nil && p.Status.Phase != v1.PodFailed {
				o.terminating++
			}
			if at := endedAt(p); !at.IsZero() {
				o.failures = append(o.failures, at)
			}
			if !hasFinalizer(p) || bad[p.UID] {
				continue
			}
			action, message := judge(j, p)
			if action == batchv1.PodFailurePolicyActionFailJob && o.failNow == "" {
				o.failNow = message
			}
			o.endedBad = append(o.endedBad, p)
			if indexed(j) && j.Spec.BackoffLimitPerIndex != nil &&
				(action == batchv1.PodFailurePolicyActionFailIndex || action != batchv1.PodFailurePolicyActionIgnore && failuresOf(p) >= *j.Spec.BackoffLimitPerIndex) {
				o.failedIndexes = o.failedIndexes.with(indexOf(p))
			}
			if action != batchv1.PodFailurePolicyActionIgnore {
				o.failed++
			}
		case p.DeletionTimestamp != nil:
			o.terminating++
		default:
			o.active = append(o.active, p)
			if podctl.Ready(p) {
				o.ready++
			}
		}
	}
	if indexed(j) {
		o.succeeded = int32(len(o.completed))
	}
	return o
}

func uncounted(j *batchv1.Job) (good, bad map[types.UID]bool) {
	good, bad = map[types.UID]bool{}, map[types.UID]bool{}
	if u := j.Status.UncountedTerminatedPods; u != nil {
		for _, id := range u.Succeeded {
			good[id] = true
		}
		for _, id := range u.Failed {
			bad[id] = true
		}
	}
	return good, bad
}

func endedAt(p *v1.Pod) (at time.Time) {
	for _, c := range append(slices.Clone(p.Status.InitContainerStatuses), p.Status.ContainerStatuses...) {
		if t := c.State.Terminated; t != nil && t.FinishedAt.After(at) {
			at = t.FinishedAt.Time
		}
	}
	if at.IsZero() && p.DeletionTimestamp != nil {
		at = p.DeletionTimestamp.Time
	}
	if at.IsZero() {
		if c := podctl.Condition(p, v1.PodReady); c != nil {
			at = c.LastTransitionTime.Time
		}
	}
	return at
}

// judge applies the pod failure policy: the first rule that matches decides.
func judge(j *batchv1.Job, p *v1.Pod) (batchv1.PodFailurePolicyAction, string) {
	if j.Spec.PodFailurePolicy == nil || p.Status.Phase != v1.PodFailed {
		return batchv1.PodFailurePolicyActionCount, ""
	}
	for i, r := range j.Spec.PodFailurePolicy.Rules {
		if r.OnExitCodes != nil {
			for _, c := range append(slices.Clone(p.Status.InitContainerStatuses), p.Status.ContainerStatuses...) {
				t := c.State.Terminated
				if t == nil || t.ExitCode == 0 || r.OnExitCodes.ContainerName != nil && *r.OnExitCodes.ContainerName != c.Name {
					continue
				}
				in := slices.Contains(r.OnExitCodes.Values, t.ExitCode)
				if in == (r.OnExitCodes.Operator == batchv1.PodFailurePolicyOnExitCodesOpIn) {
					return r.Action, fmt.Sprintf("Container %s for pod %s/%s failed with exit code %v matching %v rule at index %d", c.Name, p.Namespace, p.Name, t.ExitCode, r.Action, i)
				}
			}
			continue
		}
		for _, want := range r.OnPodConditions {
			if c := podctl.Condition(p, want.Type); c != nil && c.Status == want.Status {
				return r.Action, fmt.Sprintf("Pod %s/%s has condition %v matching %v rule at index %d", p.Namespace, p.Name, want.Type, r.Action, i)
			}
		}
	}
	return batchv1.PodFailurePolicyActionCount, ""
}

// verdict is how the Job stands: "" while it goes on.
type verdict struct {
	kind            batchv1.JobConditionType // JobSuccessCriteriaMet, JobFailureTarget or ""
	reason, message string
}

func finished(j *batchv1.Job) bool {
	return slices.ContainsFunc(j.Status.Conditions, func(c batchv1.JobCondition) bool {
		return (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == v1.ConditionTrue
	})
}

func condition(j *batchv1.Job, t batchv1.JobConditionType) *batchv1.JobCondition {
	for i := range j.Status.Conditions {
		if j.Status.Conditions[i].Type == t {
			return &j.Status.Conditions[i]
		}
	}
	return nil
}

func suspended(j *batchv1.Job) bool { return ptr.Deref(j.Spec.Suspend, false) }

// decide says whether the Job has come to its end. left is how long until its deadline, zero if it has none.
func decide(j *batchv1.Job, o outcome, now time.Time) (v verdict, left time.Duration) {
	for _, t := range []batchv1.JobConditionType{batchv1.JobFailureTarget, batchv1.JobSuccessCriteriaMet} {
		if c := condition(j, t); c != nil && c.Status == v1.ConditionTrue {
			return verdict{t, c.Reason, c.Message}, 0 // decided before; only its pods have to end
		}
	}
	limit := ptr.Deref(j.Spec.BackoffLimit, 6)
	if o.failNow != "" {
		return verdict{batchv1.JobFailureTarget, batchv1.JobReasonPodFailurePolicy, o.failNow}, 0
	}
	if o.failed > limit || restartsExceed(j, o.active, limit) {
		return verdict{batchv1.JobFailureTarget, batchv1.JobReasonBackoffLimitExceeded, "Job has reached the specified backoff limit"}, 0
	}
	if d := j.Spec.ActiveDeadlineSeconds; d != nil && j.Status.StartTime != nil && !suspended(j) {
		left = j.Status.StartTime.Add(time.Duration(*d) * time.Second).Sub(now)
		if left <= 0 {
			return verdict{batchv1.JobFailureTarget, batchv1.JobReasonDeadlineExceeded, "Job was active longer than specified deadline"}, 0
		}
	}
	if m := j.Spec.MaxFailedIndexes; m != nil && len(o.failedIndexes) > int(*m) {
		return verdict{batchv1.JobFailureTarget, batchv1.JobReasonMaxFailedIndexesExceeded, "Job has exceeded the specified maximal number of failed indexes"}, 0
	}
	if msg, ok := successPolicy(j, o); ok {
		return verdict{batchv1.JobSuccessCriteriaMet, batchv1.JobReasonSuccessPolicy, msg}, 0
	}
	if c := j.Spec.Completions; c != nil && indexed(j) && j.Spec.BackoffLimitPerIndex != nil && len(o.completed)+len(o.failedIndexes) >= int(*c) && len(o.failedIndexes) > 0 {
		return verdict{batchv1.JobFailureTarget, batchv1.JobReasonFailedIndexes, "Job has failed indexes"}, 0
	}
	done := false
	if j.Spec.Completions == nil {
		done = o.succeeded > 0 && len(o.active) == 0
	} else {
		done = o.succeeded >= *j.Spec.Completions
	}
	if done {
		return verdict{batchv1.JobSuccessCriteriaMet, batchv1.JobReasonCompletionsReached, "Reached expected number of succeeded pods"}, left
	}
	return verdict{}, left
}

func successPolicy(j *batchv1.Job, o outcome) (string, bool) {
	if j.Spec.SuccessPolicy == nil {
		return "", false
	}
	for i, r := range j.Spec.SuccessPolicy.Rules {
		among := o.completed
		if r.SucceededIndexes != nil {
			want := parseIndexes(*r.SucceededIndexes, int(ptr.Deref(j.Spec.Completions, 0)))
			among = nil
			for _, k := range want {
				if o.completed.has(k) {
					among = append(among, k)
				}
			}
			if r.SucceededCount == nil && len(among) < len(want) {
				continue
			}
		}
		if r.SucceededCount != nil && len(among) < int(*r.SucceededCount) {
			continue
		}
		return fmt.Sprintf("Matched rules at index %d", i), true
	}
	return "", false
}

// restartsExceed counts restarts in place against the limit, for pods that restart on failure.
func restartsExceed(j *batchv1.Job, active []*v1.Pod, limit int32) bool {
	if j.Spec.Template.Spec.RestartPolicy != v1.RestartPolicyOnFailure {
		return false
	}
	var n int32
	for _, p := range active {
		if p.Status.Phase != v1.PodRunning && p.Status.Phase != v1.PodPending {
			continue
		}
		for _, c := range append(slices.Clone(p.Status.InitContainerStatuses), p.Status.ContainerStatuses...) {
			n += c.RestartCount
		}
	}
	if limit == 0 {
		return n > 0
	}
	return n >= limit
}

// need is what the Job wants done with pods.
type need struct {
	create int
	index  []int         // indexes of the pods to create, for indexed Jobs
	delete []*v1.Pod     // active ones
	wait   time.Duration // before anything is created
}

// pods plans creations and deletions of a Job that goes on.
func plan(j *batchv1.Job, o outcome, now time.Time) (n need) {
	if suspended(j) {
		n.delete = o.active
		return n
	}
	want := ptr.Deref(j.Spec.Parallelism, 1)
	if j.Spec.Completions == nil {
		if o.succeeded > 0 {
			want = int32(len(o.active)) // one success is enough: no new ones
		}
	} else {
		want = min(want, *j.Spec.Completions-o.succeeded-int32(len(o.failedIndexes)))
	}
	want = max(want, 0)
	active := o.active
	if indexed(j) {
		var dup []*v1.Pod
		active, dup = unique(j, o)
		n.delete = dup
	}
	if extra := len(active) - int(want); extra > 0 {
		n.delete = append(n.delete, podctl.Victims(active, nil, now)[:extra]...)
		return n
	}
	n.create = int(want) - len(active)
	if onlyFailed(j) {
		n.create -= int(o.terminating)
	}
	if n.create <= 0 {
		n.create = 0
		return n
	}
	if n.wait = pause(o.failures, now); n.wait > 0 {
		n.create = 0
		return n
	}
	if indexed(j) {
		busy := indexes{}
		for _, p := range active {
			busy = busy.with(indexOf(p))
		}
		for i := 0; i < int(ptr.Deref(j.Spec.Completions, 0)) && len(n.index) < n.create; i++ {
			if !busy.has(i) && !o.completed.has(i) && !o.failedIndexes.has(i) {
				n.index = append(n.index, i)
			}
		}
		n.create = len(n.index)
	}
	return n
}

// unique leaves one active pod an index, and none for indexes that are out of range or done.
func unique(j *batchv1.Job, o outcome) (keep, drop []*v1.Pod) {
	seen := map[int]bool{}
	for _, p := range o.active {
		i := indexOf(p)
		if i < 0 || i >= int(ptr.Deref(j.Spec.Completions, 0)) || seen[i] || o.completed.has(i) || o.failedIndexes.has(i) {
			drop = append(drop, p)
			continue
		}
		seen[i] = true
		keep = append(keep, p)
	}
	return keep, drop
}

// pause is how much longer to wait after the failures.
func pause(failures []time.Time, now time.Time) time.Duration {
	if len(failures) == 0 {
		return 0
	}
	last := slices.MaxFunc(failures, func(a, b time.Time) int { return a.Compare(b) })
	d := backoffMin
	for range len(failures) - 1 {
		if d *= 2; d >= backoffMax {
			d = backoffMax
			break
		}
	}
	return max(last.Add(d).Sub(now), 0)
}
