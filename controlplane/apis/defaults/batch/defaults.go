package batch

import (
	"maps"
	"math"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/reevehq/reeve/controlplane/apis/defaults/fill"
)

// backoffLimit is how often a Job's pods may fail before the Job does.
const backoffLimit = 6

// SetDefaults_Job fills a Job of one pod, its retries, and the policies of completion and replacement.
func SetDefaults_Job(j *batchv1.Job) {
	s := &j.Spec
	if s.Completions == nil && s.Parallelism == nil {
		fill.Nil(&s.Completions, 1)
	}
	fill.Nil(&s.Parallelism, 1)
	if s.BackoffLimitPerIndex != nil {
		// Per-index limits decide; the Job-wide one must not get in their way.
		fill.Nil(&s.BackoffLimit, math.MaxInt32)
	}
	fill.Nil(&s.BackoffLimit, backoffLimit)
	fill.Nil(&s.CompletionMode, batchv1.NonIndexedCompletion)
	fill.Nil(&s.Suspend, false)
	if len(j.Labels) == 0 {
		j.Labels = maps.Clone(s.Template.Labels)
	}
	replacement := batchv1.TerminatingOrFailed
	if s.PodFailurePolicy != nil {
		replacement = batchv1.Failed
	}
	fill.Nil(&s.PodReplacementPolicy, replacement)
	// manualSelector stays as given: unset means that the Job's strategy makes the selector.
}

// SetDefaults_PodFailurePolicyOnPodConditionsPattern fills the status that a condition is matched with.
func SetDefaults_PodFailurePolicyOnPodConditionsPattern(p *batchv1.PodFailurePolicyOnPodConditionsPattern) {
	fill.Zero(&p.Status, corev1.ConditionTrue)
}

// SetDefaults_CronJob fills the concurrency policy and how many finished Jobs are kept.
func SetDefaults_CronJob(c *batchv1.CronJob) {
	fill.Zero(&c.Spec.ConcurrencyPolicy, batchv1.AllowConcurrent)
	fill.Nil(&c.Spec.Suspend, false)
	fill.Nil(&c.Spec.SuccessfulJobsHistoryLimit, 3)
	fill.Nil(&c.Spec.FailedJobsHistoryLimit, 1)
}
