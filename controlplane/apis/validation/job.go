package validation

import (
	"fmt"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Bounds of Jobs.
const (
	maxIndexedParallelism = 100000
	maxIndexedCompletions = 100000
	maxFailurePolicyRules = 20
	maxFailureExitCodes   = 255
	maxFailureConditions  = 20
	maxSuccessPolicyRules = 20
	maxSuccessIndexes     = 64 * 1024
	maxManagedBy          = 63
	maxCronJobName        = 52
)

func jobCreate(j *batchv1.Job) field.ErrorList {
	r := &report{}
	p := field.NewPath("spec")
	jobSpec(r, p, &j.Spec)
	// Controllers fill the selector; by hand it must match the template, else pods of others would be adopted.
	if j.Spec.Selector == nil {
		r.required(p.Child("selector"), "")
	} else {
		selector(r, p.Child("selector"), j.Spec.Selector)
		s, err := metav1.LabelSelectorAsSelector(j.Spec.Selector)
		if err == nil {
			selectsTemplate(r, p.Child("template"), s, j.Spec.Template.Labels)
		}
	}
	generated := j.Spec.ManualSelector == nil || !*j.Spec.ManualSelector
	if generated && j.UID != "" {
		for _, key := range []string{"batch.kubernetes.io/controller-uid", "batch.kubernetes.io/job-name"} {
			want := string(j.UID)
			if strings.HasSuffix(key, "job-name") {
				want = j.Name
			}
			if have := j.Spec.Template.Labels[key]; have != want && want != "" {
				at := p.Child("template", "metadata", "labels").Key(key)
				if have == "" {
					r.required(at, "must be '"+want+"'")
				} else {
					r.invalid(at, j.Spec.Template.Labels, "must be '"+want+"'")
				}
			}
		}
	}
	return r.list
}

func jobSpec(r *report, p *field.Path, s *batchv1.JobSpec) {
	for name, n := range sorted(map[string]*int32{"parallelism": s.Parallelism, "completions": s.Completions, "backoffLimit": s.BackoffLimit,
		"ttlSecondsAfterFinished": s.TTLSecondsAfterFinished, "backoffLimitPerIndex": s.BackoffLimitPerIndex, "maxFailedIndexes": s.MaxFailedIndexes}) {
		if n != nil {
			r.nonNegative(p.Child(name), int64(*n))
		}
	}
	if s.ActiveDeadlineSeconds != nil {
		r.nonNegative(p.Child("activeDeadlineSeconds"), *s.ActiveDeadlineSeconds)
	}
	indexed := s.CompletionMode != nil && *s.CompletionMode == batchv1.IndexedCompletion
	optionalOneOf(r, p.Child("completionMode"), s.CompletionMode, batchv1.NonIndexedCompletion, batchv1.IndexedCompletion)
	if indexed {
		indexedJob(r, p, s)
	}
	if s.BackoffLimitPerIndex != nil && !indexed {
		r.invalid(p.Child("backoffLimitPerIndex"), *s.BackoffLimitPerIndex, "requires indexed completion mode")
	}
	if s.MaxFailedIndexes != nil {
		switch {
		case s.BackoffLimitPerIndex == nil:
			r.required(p.Child("backoffLimitPerIndex"), "when maxFailedIndexes is specified")
		case s.Completions != nil && *s.MaxFailedIndexes > *s.Completions:
			r.invalid(p.Child("maxFailedIndexes"), *s.MaxFailedIndexes, "must be less than or equal to completions")
		}
	}
	if m := s.ManagedBy; m != nil {
		at := p.Child("managedBy")
		r.list = append(r.list, domainPath(at, *m)...)
		if len(*m) > maxManagedBy {
			r.add(field.TooLong(at, *m, maxManagedBy))
		}
	}
	if s.PodFailurePolicy != nil {
		failurePolicy(r, p.Child("podFailurePolicy"), s)
	}
	if s.SuccessPolicy != nil {
		successPolicy(r, p.Child("successPolicy"), s, indexed)
	}
	optionalOneOf(r, p.Child("podReplacementPolicy"), s.PodReplacementPolicy, batchv1.Failed, batchv1.TerminatingOrFailed)
	if s.PodFailurePolicy != nil && s.PodReplacementPolicy != nil && *s.PodReplacementPolicy == batchv1.TerminatingOrFailed {
		r.add(field.NotSupported(p.Child("podReplacementPolicy"), *s.PodReplacementPolicy, []batchv1.PodReplacementPolicy{batchv1.Failed}))
	}
	podTemplate(r, p.Child("template"), &s.Template)
	at := p.Child("template", "spec", "restartPolicy")
	switch policy := s.Template.Spec.RestartPolicy; {
	case policy == "" || policy == corev1.RestartPolicyAlways:
		r.required(at, fmt.Sprintf("valid values: %q, %q", corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever))
	case policy != corev1.RestartPolicyOnFailure && policy != corev1.RestartPolicyNever:
		r.add(field.NotSupported(at, policy, []corev1.RestartPolicy{corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever}))
	case s.PodFailurePolicy != nil && policy != corev1.RestartPolicyNever:
		r.invalid(at, policy, "only \"Never\" is supported when podFailurePolicy is specified")
	}
}

func indexedJob(r *report, p *field.Path, s *batchv1.JobSpec) {
	if s.Completions == nil {
		r.required(p.Child("completions"), "when completion mode is Indexed")
		return
	}
	if *s.Completions > maxIndexedCompletions && s.BackoffLimitPerIndex == nil && s.Parallelism != nil && *s.Parallelism > maxIndexedParallelism {
		r.invalid(p.Child("parallelism"), *s.Parallelism, fmt.Sprintf("must be less than or equal to %d when completion mode is Indexed", maxIndexedParallelism))
		return
	}
	if s.Parallelism != nil && *s.Parallelism > maxIndexedParallelism {
		r.invalid(p.Child("parallelism"), *s.Parallelism, fmt.Sprintf("must be less than or equal to %d when completion mode is Indexed", maxIndexedParallelism))
	}
}

func failurePolicy(r *report, p *field.Path, s *batchv1.JobSpec) {
	rules := p.Child("rules")
	if len(s.PodFailurePolicy.Rules) > maxFailurePolicyRules {
		r.add(field.TooMany(rules, len(s.PodFailurePolicy.Rules), maxFailurePolicyRules))
	}
	containers := sets.New[string]()
	for _, c := range s.Template.Spec.Containers {
		containers.Insert(c.Name)
	}
	for _, c := range s.Template.Spec.InitContainers {
		containers.Insert(c.Name)
	}
	for i := range s.PodFailurePolicy.Rules {
		rule, at := &s.PodFailurePolicy.Rules[i], rules.Index(i)
		oneOf(r, at.Child("action"), rule.Action, true, batchv1.PodFailurePolicyActionCount, batchv1.PodFailurePolicyActionFailIndex,
			batchv1.PodFailurePolicyActionFailJob, batchv1.PodFailurePolicyActionIgnore)
		if rule.Action == batchv1.PodFailurePolicyActionFailIndex && s.BackoffLimitPerIndex == nil {
			r.invalid(at.Child("action"), rule.Action, "requires the backoffLimitPerIndex to be set")
		}
		switch {
		case rule.OnExitCodes != nil && len(rule.OnPodConditions) > 0:
			r.invalid(at, field.OmitValueType{}, "specifying both OnExitCodes and OnPodConditions is not supported")
		case rule.OnExitCodes == nil && len(rule.OnPodConditions) == 0:
			r.invalid(at, field.OmitValueType{}, "specifying one of OnExitCodes and OnPodConditions is required")
		}
		if rule.OnExitCodes != nil {
			exitCodes(r, at.Child("onExitCodes"), rule.OnExitCodes, containers)
		}
		if len(rule.OnPodConditions) > maxFailureConditions {
			r.add(field.TooMany(at.Child("onPodConditions"), len(rule.OnPodConditions), maxFailureConditions))
		}
		for j, c := range rule.OnPodConditions {
			in := at.Child("onPodConditions").Index(j)
			qualifiedName(r, in.Child("type"), string(c.Type))
			oneOf(r, in.Child("status"), c.Status, true, corev1.ConditionFalse, corev1.ConditionTrue, corev1.ConditionUnknown)
		}
	}
}

func exitCodes(r *report, p *field.Path, e *batchv1.PodFailurePolicyOnExitCodesRequirement, containers sets.Set[string]) {
	oneOf(r, p.Child("operator"), e.Operator, true, batchv1.PodFailurePolicyOnExitCodesOpIn, batchv1.PodFailurePolicyOnExitCodesOpNotIn)
	if e.ContainerName != nil && !containers.Has(*e.ContainerName) {
		r.invalid(p.Child("containerName"), *e.ContainerName, "must be one of the container or initContainer names in the pod template")
	}
	at := p.Child("values")
	switch {
	case len(e.Values) == 0:
		r.invalid(at, e.Values, "at least one value is required")
	case len(e.Values) > maxFailureExitCodes:
		r.add(field.TooMany(at, len(e.Values), maxFailureExitCodes))
	}
	seen := sets.New[int32]()
	for i, v := range e.Values {
		if e.Operator == batchv1.PodFailurePolicyOnExitCodesOpIn && v == 0 {
			r.invalid(at.Index(i), v, "must not be 0 for the In operator")
		}
		if seen.Has(v) {
			r.duplicate(at.Index(i), v)
		}
		if i > 0 && v < e.Values[i-1] {
			r.invalid(at, e.Values, "must be ordered")
		}
		seen.Insert(v)
	}
}

func successPolicy(r *report, p *field.Path, s *batchv1.JobSpec, indexed bool) {
	if !indexed {
		r.invalid(p, *s.SuccessPolicy, "requires indexed completion mode")
		return
	}
	rules := p.Child("rules")
	switch n := len(s.SuccessPolicy.Rules); {
	case n == 0:
		r.required(rules, "at least one rules must be specified when successPolicy is specified")
	case n > maxSuccessPolicyRules:
		r.add(field.TooMany(rules, n, maxSuccessPolicyRules))
	}
	for i, rule := range s.SuccessPolicy.Rules {
		at := rules.Index(i)
		if rule.SucceededCount == nil && rule.SucceededIndexes == nil {
			r.required(at, "at least one of succeededCount or succeededIndexes must be specified")
		}
		listed := int32(0)
		if x := rule.SucceededIndexes; x != nil {
			in := at.Child("succeededIndexes")
			if len(*x) > maxSuccessIndexes {
				r.add(field.TooLong(in, *x, maxSuccessIndexes))
			}
			n, err := countIndexes(*x, s.Completions)
			if err != nil {
				r.invalid(in, *x, "error parsing succeededIndexes: "+err.Error())
			}
			listed = n
		}
		if c := rule.SucceededCount; c != nil {
			in := at.Child("succeededCount")
			r.nonNegative(in, int64(*c))
			if s.Completions != nil && *c > *s.Completions {
				r.invalid(in, *c, fmt.Sprintf("must be less than or equal to %d (the number of specified completions)", *s.Completions))
			}
			if rule.SucceededIndexes != nil && *c > listed {
				r.invalid(in, *c, fmt.Sprintf("must be less than or equal to %d (the number of indexes in the specified succeededIndexes field)", listed))
			}
		}
	}
}

// countIndexes parses "0,2-4" and returns how many indexes it holds. They must rise, and stay below completions.
func countIndexes(text string, completions *int32) (int32, error) {
	if text == "" {
		return 0, nil
	}
	total, last := int32(0), int32(-1)
	for _, part := range strings.Split(text, ",") {
		var from, to int32
		a, b, isRange := strings.Cut(part, "-")
		if _, err := fmt.Sscanf(a, "%d", &from); err != nil || fmt.Sprint(from) != a {
			return 0, fmt.Errorf("cannot convert string to integer for index: %q", a)
		}
		to = from
		if isRange {
			if _, err := fmt.Sscanf(b, "%d", &to); err != nil || fmt.Sprint(to) != b {
				return 0, fmt.Errorf("cannot convert string to integer for index: %q", b)
			}
		}
		switch {
		case from <= last || to < from:
			return 0, fmt.Errorf("non-increasing order, previous: %d, current: %d", last, from)
		case completions != nil && to >= *completions:
			return 0, fmt.Errorf("too large index: %q", part)
		}
		total += to - from + 1
		last = to
	}
	return total, nil
}

// jobUpdate: what a Job's pods were made from stays, but for a suspended Job's scheduling.
func jobUpdate(j, old *batchv1.Job) field.ErrorList {
	r := &report{list: jobCreate(j)}
	p := field.NewPath("spec")
	same := func(path string, now, was any) {
		if !equality.Semantic.DeepEqual(now, was) {
			r.invalid(p.Child(path), now, "field is immutable")
		}
	}
	s, o := &j.Spec, &old.Spec
	completions(r, p, s, o)
	same("selector", s.Selector, o.Selector)
	same("completionMode", s.CompletionMode, o.CompletionMode)
	same("podFailurePolicy", s.PodFailurePolicy, o.PodFailurePolicy)
	same("backoffLimitPerIndex", s.BackoffLimitPerIndex, o.BackoffLimitPerIndex)
	same("managedBy", s.ManagedBy, o.ManagedBy)
	same("successPolicy", s.SuccessPolicy, o.SuccessPolicy)
	now, was := s.Template.DeepCopy(), o.Template.DeepCopy()
	notStarted := old.Status.StartTime == nil
	if notStarted && o.Suspend != nil && *o.Suspend {
		// A queue may still decide where a suspended Job that never ran will run, and how large its pods are.
		now.Spec.NodeSelector, now.Spec.Tolerations, now.Spec.SchedulingGates = was.Spec.NodeSelector, was.Spec.Tolerations, was.Spec.SchedulingGates
		now.Labels, now.Annotations = was.Labels, was.Annotations
		switch {
		case was.Spec.Affinity != nil && now.Spec.Affinity != nil:
			now.Spec.Affinity.NodeAffinity = was.Spec.Affinity.NodeAffinity
		case was.Spec.Affinity == nil && now.Spec.Affinity != nil && now.Spec.Affinity.PodAffinity == nil && now.Spec.Affinity.PodAntiAffinity == nil:
			now.Spec.Affinity = nil
		}
	}
	same("template", *now, *was)
	return r.list
}

// completions may change together with parallelism in an indexed Job: that is how it is scaled.
func completions(r *report, p *field.Path, s, o *batchv1.JobSpec) {
	if equality.Semantic.DeepEqual(s.Completions, o.Completions) {
		return
	}
	indexed := s.CompletionMode != nil && *s.CompletionMode == batchv1.IndexedCompletion
	switch {
	case !indexed || o.Completions == nil || s.Completions == nil:
		r.invalid(p.Child("completions"), s.Completions, "field is immutable")
	case s.Parallelism == nil || *s.Completions != *s.Parallelism:
		r.invalid(p.Child("completions"), s.Completions, "can only be modified in tandem with parallelism")
	}
}

func jobStatus(j, old *batchv1.Job) field.ErrorList {
	r := &report{}
	p := field.NewPath("status")
	s := &j.Status
	counts(r, p, map[string]int64{"active": int64(s.Active), "succeeded": int64(s.Succeeded), "failed": int64(s.Failed)})
	for name, n := range sorted(map[string]*int32{"ready": s.Ready, "terminating": s.Terminating}) {
		if n != nil {
			r.nonNegative(p.Child(name), int64(*n))
		}
	}
	finished := func(s *batchv1.JobStatus, which batchv1.JobConditionType) bool {
		for _, c := range s.Conditions {
			if c.Type == which && c.Status == corev1.ConditionTrue {
				return true
			}
		}
		return false
	}
	complete, failed := finished(s, batchv1.JobComplete), finished(s, batchv1.JobFailed)
	if complete && failed {
		r.invalid(p.Child("conditions"), field.OmitValueType{}, "cannot set Complete=True and Failed=true conditions")
	}
	if s.CompletionTime != nil && !complete {
		r.invalid(p.Child("completionTime"), s.CompletionTime, "cannot set completionTime when there is no Complete=True condition")
	}
	if complete && s.CompletionTime == nil {
		r.required(p.Child("completionTime"), "completionTime is required for Complete jobs")
	}
	if s.CompletionTime != nil && s.StartTime != nil && s.CompletionTime.Before(s.StartTime) {
		r.invalid(p.Child("completionTime"), s.CompletionTime, "completionTime cannot be set before startTime")
	}
	if finished(&old.Status, batchv1.JobComplete) && !complete {
		r.invalid(p.Child("conditions"), field.OmitValueType{}, "cannot disable the terminal Complete=True condition")
	}
	if finished(&old.Status, batchv1.JobFailed) && !failed {
		r.invalid(p.Child("conditions"), field.OmitValueType{}, "cannot disable the terminal Failed=True condition")
	}
	return r.list
}
