package validation

import (
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func cronJobCreate(c *batchv1.CronJob) field.ErrorList {
	r := &report{}
	p := field.NewPath("spec")
	// The controller appends a time of 11 characters to the name, and Jobs' names become labels.
	if len(c.Name) > maxCronJobName {
		r.invalid(field.NewPath("metadata", "name"), c.Name, "must be no more than 52 characters")
	}
	cronJobSpec(r, p, c, c.Spec.TimeZone != nil)
	return r.list
}

func cronJobUpdate(c, old *batchv1.CronJob) field.ErrorList {
	r := &report{}
	// A zone that was stored is not checked again: the server's zone data may be another.
	cronJobSpec(r, field.NewPath("spec"), c, !equality.Semantic.DeepEqual(c.Spec.TimeZone, old.Spec.TimeZone))
	return r.list
}

func cronJobSpec(r *report, p *field.Path, c *batchv1.CronJob, checkZone bool) {
	s := &c.Spec
	at := p.Child("schedule")
	switch {
	case s.Schedule == "":
		r.required(at, "")
	default:
		if err := parseSchedule(s.Schedule); err != nil {
			r.invalid(at, s.Schedule, err.Error())
		}
		if strings.Contains(s.Schedule, "TZ") {
			r.invalid(at, s.Schedule, "cannot use TZ or CRON_TZ in schedule, use timeZone field instead")
		}
	}
	if s.StartingDeadlineSeconds != nil {
		r.nonNegative(p.Child("startingDeadlineSeconds"), *s.StartingDeadlineSeconds)
	}
	if z := s.TimeZone; z != nil && checkZone {
		at := p.Child("timeZone")
		switch {
		case *z == "":
			r.invalid(at, *z, "timeZone must be nil or non-empty string")
		case strings.EqualFold(*z, "Local"):
			r.invalid(at, *z, "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones")
		default:
			if _, err := time.LoadLocation(*z); err != nil || strings.TrimSpace(*z) != *z {
				r.invalid(at, *z, "unknown time zone "+*z)
			}
		}
	}
	oneOf(r, p.Child("concurrencyPolicy"), s.ConcurrencyPolicy, true, batchv1.AllowConcurrent, batchv1.ForbidConcurrent, batchv1.ReplaceConcurrent)
	for name, n := range sorted(map[string]*int32{"successfulJobsHistoryLimit": s.SuccessfulJobsHistoryLimit, "failedJobsHistoryLimit": s.FailedJobsHistoryLimit}) {
		if n != nil {
			r.nonNegative(p.Child(name), int64(*n))
		}
	}
	t := p.Child("jobTemplate")
	labelMap(r, t.Child("metadata", "labels"), s.JobTemplate.Labels)
	annotationMap(r, t.Child("metadata", "annotations"), s.JobTemplate.Annotations)
	jobSpec(r, t.Child("spec"), &s.JobTemplate.Spec)
	if s.JobTemplate.Spec.ManualSelector != nil && *s.JobTemplate.Spec.ManualSelector {
		r.add(field.NotSupported(t.Child("spec", "manualSelector"), *s.JobTemplate.Spec.ManualSelector, []string{"nil", "false"}))
	}
}
