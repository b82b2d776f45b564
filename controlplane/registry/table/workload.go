package table

import (
	"fmt"
	"strings"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/duration"
)

// containersOf gives the names and images columns.
func containersOf(spec *corev1.PodSpec) (names, images string) {
	var n, i []string
	for _, c := range spec.Containers {
		n, i = append(n, c.Name), append(i, c.Image)
	}
	return strings.Join(n, ","), strings.Join(i, ",")
}

func deploymentCells(d *appsv1.Deployment, now time.Time) []any {
	names, images := containersOf(&d.Spec.Template.Spec)
	return []any{
		fmt.Sprintf("%d/%d", d.Status.ReadyReplicas, deref(d.Spec.Replicas)), int64(d.Status.UpdatedReplicas),
		int64(d.Status.AvailableReplicas), age(d.CreationTimestamp, now), names, images, selectorOf(d.Spec.Selector),
	}
}

func replicaSetCells(r *appsv1.ReplicaSet, now time.Time) []any {
	names, images := containersOf(&r.Spec.Template.Spec)
	return []any{
		int64(deref(r.Spec.Replicas)), int64(r.Status.Replicas), int64(r.Status.ReadyReplicas), age(r.CreationTimestamp, now),
		names, images, selectorOf(r.Spec.Selector),
	}
}

func replicationControllerCells(r *corev1.ReplicationController, now time.Time) []any {
	var names, images string
	if r.Spec.Template != nil {
		names, images = containersOf(&r.Spec.Template.Spec)
	}
	return []any{
		int64(deref(r.Spec.Replicas)), int64(r.Status.Replicas), int64(r.Status.ReadyReplicas), age(r.CreationTimestamp, now),
		names, images, labelsOf(r.Spec.Selector),
	}
}

func statefulSetCells(s *appsv1.StatefulSet, now time.Time) []any {
	names, images := containersOf(&s.Spec.Template.Spec)
	return []any{fmt.Sprintf("%d/%d", s.Status.ReadyReplicas, deref(s.Spec.Replicas)), age(s.CreationTimestamp, now), names, images}
}

func daemonSetCells(d *appsv1.DaemonSet, now time.Time) []any {
	names, images := containersOf(&d.Spec.Template.Spec)
	return []any{
		int64(d.Status.DesiredNumberScheduled), int64(d.Status.CurrentNumberScheduled), int64(d.Status.NumberReady),
		int64(d.Status.UpdatedNumberScheduled), int64(d.Status.NumberAvailable), labelsOf(d.Spec.Template.Spec.NodeSelector),
		age(d.CreationTimestamp, now), names, images, selectorOf(d.Spec.Selector),
	}
}

func podTemplateCells(p *corev1.PodTemplate, _ time.Time) []any {
	names, images := containersOf(&p.Template.Spec)
	return []any{names, images, labelsOf(p.Template.Labels)}
}

func controllerRevisionCells(r *appsv1.ControllerRevision, now time.Time) []any {
	owner := none
	if c := metav1.GetControllerOf(r); c != nil {
		group, _, _ := strings.Cut(c.APIVersion, "/")
		owner = strings.ToLower(c.Kind) + "." + group + "/" + c.Name
	}
	return []any{owner, r.Revision, age(r.CreationTimestamp, now)}
}

func jobCells(j *batchv1.Job, now time.Time) []any {
	completions := fmt.Sprintf("%d/1", j.Status.Succeeded)
	if j.Spec.Completions != nil {
		completions = fmt.Sprintf("%d/%d", j.Status.Succeeded, *j.Spec.Completions)
	} else if p := deref(j.Spec.Parallelism); p > 1 {
		completions = fmt.Sprintf("%d/1 of %d", j.Status.Succeeded, p)
	}
	took := ""
	switch {
	case j.Status.StartTime == nil:
	case j.Status.CompletionTime == nil:
		took = duration.HumanDuration(now.Sub(j.Status.StartTime.Time))
	default:
		took = duration.HumanDuration(j.Status.CompletionTime.Sub(j.Status.StartTime.Time))
	}
	names, images := containersOf(&j.Spec.Template.Spec)
	return []any{jobStatus(j), completions, took, age(j.CreationTimestamp, now), names, images, selectorOf(j.Spec.Selector)}
}

func jobStatus(j *batchv1.Job) string {
	is := func(t batchv1.JobConditionType) bool {
		for _, c := range j.Status.Conditions {
			if c.Type == t {
				return c.Status == corev1.ConditionTrue
			}
		}
		return false
	}
	switch {
	case is(batchv1.JobComplete):
		return "Complete"
	case is(batchv1.JobFailed):
		return "Failed"
	case j.DeletionTimestamp != nil:
		return "Terminating"
	case is(batchv1.JobSuspended):
		return "Suspended"
	case is(batchv1.JobFailureTarget):
		return "FailureTarget"
	case is(batchv1.JobSuccessCriteriaMet):
		return "SuccessCriteriaMet"
	default:
		return "Running"
	}
}

func cronJobCells(c *batchv1.CronJob, now time.Time) []any {
	last := none
	if c.Status.LastScheduleTime != nil {
		last = age(*c.Status.LastScheduleTime, now)
	}
	names, images := containersOf(&c.Spec.JobTemplate.Spec.Template.Spec)
	suspend := "False"
	if deref(c.Spec.Suspend) {
		suspend = "True"
	}
	zone := none
	if c.Spec.TimeZone != nil {
		zone = *c.Spec.TimeZone
	}
	return []any{
		c.Spec.Schedule, zone, suspend, int64(len(c.Status.Active)), last, age(c.CreationTimestamp, now),
		names, images, selectorOf(c.Spec.JobTemplate.Spec.Selector),
	}
}

func hpaCells(h *autoscalingv2.HorizontalPodAutoscaler, now time.Time) []any {
	minimum := unset
	if h.Spec.MinReplicas != nil {
		minimum = fmt.Sprint(*h.Spec.MinReplicas)
	}
	return []any{
		h.Spec.ScaleTargetRef.Kind + "/" + h.Spec.ScaleTargetRef.Name, hpaTargets(h), minimum,
		int64(h.Spec.MaxReplicas), int64(h.Status.CurrentReplicas), age(h.CreationTimestamp, now),
	}
}

// shownTargets is how many metrics are spelled out before "n more".
const shownTargets = 2

func hpaTargets(h *autoscalingv2.HorizontalPodAutoscaler) string {
	if len(h.Spec.Metrics) == 0 {
		return none
	}
	var parts []string
	for i, m := range h.Spec.Metrics {
		var now autoscalingv2.MetricValueStatus
		if i < len(h.Status.CurrentMetrics) {
			now = currentOf(&h.Status.CurrentMetrics[i])
		}
		name, target := targetOf(&m)
		parts = append(parts, name+metricText(now, target))
	}
	more := ""
	if len(parts) > shownTargets {
		more = fmt.Sprintf(" + %d more...", len(parts)-shownTargets)
		parts = parts[:shownTargets]
	}
	return strings.Join(parts, ", ") + more
}

func targetOf(m *autoscalingv2.MetricSpec) (string, autoscalingv2.MetricTarget) {
	switch {
	case m.Resource != nil:
		return string(m.Resource.Name) + ": ", m.Resource.Target
	case m.ContainerResource != nil:
		return string(m.ContainerResource.Name) + ": ", m.ContainerResource.Target
	case m.Pods != nil:
		return "", m.Pods.Target
	case m.Object != nil:
		return "", m.Object.Target
	case m.External != nil:
		return "", m.External.Target
	}
	return "", autoscalingv2.MetricTarget{}
}

func currentOf(m *autoscalingv2.MetricStatus) autoscalingv2.MetricValueStatus {
	switch {
	case m.Resource != nil:
		return m.Resource.Current
	case m.ContainerResource != nil:
		return m.ContainerResource.Current
	case m.Pods != nil:
		return m.Pods.Current
	case m.Object != nil:
		return m.Object.Current
	case m.External != nil:
		return m.External.Current
	}
	return autoscalingv2.MetricValueStatus{}
}

func metricText(now autoscalingv2.MetricValueStatus, target autoscalingv2.MetricTarget) string {
	quantity := func(q *resource.Quantity) string {
		if q == nil {
			return unknown
		}
		return q.String()
	}
	switch {
	case target.AverageUtilization != nil:
		current := unknown
		if now.AverageUtilization != nil {
			current = fmt.Sprintf("%d%%", *now.AverageUtilization)
		}
		return fmt.Sprintf("%s/%d%%", current, *target.AverageUtilization)
	case target.AverageValue != nil:
		return quantity(now.AverageValue) + "/" + target.AverageValue.String() + " (avg)"
	default:
		return quantity(now.Value) + "/" + quantity(target.Value)
	}
}
