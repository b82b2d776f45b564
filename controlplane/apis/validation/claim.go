package validation

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

var accessModes = []corev1.PersistentVolumeAccessMode{
	corev1.ReadWriteOnce, corev1.ReadOnlyMany, corev1.ReadWriteMany, corev1.ReadWriteOncePod,
}

func claimCreate(c *corev1.PersistentVolumeClaim) field.ErrorList {
	r := &report{}
	claimSpec(r, field.NewPath("spec"), &c.Spec)
	return r.list
}

func accessModeList(r *report, p *field.Path, modes []corev1.PersistentVolumeAccessMode, why string) {
	if len(modes) == 0 {
		r.required(p, why)
	}
	pod, other := false, false
	for _, m := range modes {
		if !slices.Contains(accessModes, m) {
			r.add(field.NotSupported(p, m, accessModes))
		}
		pod = pod || m == corev1.ReadWriteOncePod
		other = other || m != corev1.ReadWriteOncePod
	}
	if pod && other {
		r.forbidden(p, "may not use ReadWriteOncePod with other access modes")
	}
}

func claimSpec(r *report, p *field.Path, s *corev1.PersistentVolumeClaimSpec) {
	accessModeList(r, p.Child("accessModes"), s.AccessModes, "at least 1 access mode is required")
	selector(r, p.Child("selector"), s.Selector)
	at := p.Child("resources").Key(string(corev1.ResourceStorage))
	storage, ok := s.Resources.Requests[corev1.ResourceStorage]
	switch {
	case !ok:
		r.required(at, "")
	case storage.Sign() <= 0:
		r.invalid(at, storage.String(), "must be greater than zero")
	}
	if s.StorageClassName != nil && *s.StorageClassName != "" {
		dnsSubdomain(r, p.Child("storageClassName"), *s.StorageClassName)
	}
	optionalOneOf(r, p.Child("volumeMode"), s.VolumeMode, corev1.PersistentVolumeBlock, corev1.PersistentVolumeFilesystem)
	if s.VolumeAttributesClassName != nil && *s.VolumeAttributesClassName != "" {
		dnsSubdomain(r, p.Child("volumeAttributesClassName"), *s.VolumeAttributesClassName)
	}
	dataSources(r, p, s)
}

func dataSources(r *report, p *field.Path, s *corev1.PersistentVolumeClaimSpec) {
	if d := s.DataSource; d != nil {
		at := p.Child("dataSource")
		typedReference(r, at, d.APIGroup, d.Kind, d.Name)
	}
	if d := s.DataSourceRef; d != nil {
		at := p.Child("dataSourceRef")
		typedReference(r, at, d.APIGroup, d.Kind, d.Name)
		if d.Namespace != nil && *d.Namespace != "" {
			dnsLabel(r, at.Child("namespace"), *d.Namespace)
			if s.DataSource != nil {
				r.invalid(p, p.Child("dataSource"), "may not be specified when dataSourceRef.namespace is specified")
			}
			return
		}
	}
	if s.DataSource != nil && s.DataSourceRef != nil {
		a, b := s.DataSource, s.DataSourceRef
		if a.Kind != b.Kind || a.Name != b.Name || !equality.Semantic.DeepEqual(a.APIGroup, b.APIGroup) {
			r.invalid(p, p.Child("dataSource"), "must match dataSourceRef")
		}
	}
}

func typedReference(r *report, p *field.Path, group *string, kind, name string) {
	if name == "" {
		r.required(p.Child("name"), "")
	}
	if kind == "" {
		r.required(p.Child("kind"), "")
	}
	if group != nil && *group != "" {
		dnsSubdomain(r, p.Child("apiGroup"), *group)
	}
	if (group == nil || *group == "") && kind != "PersistentVolumeClaim" {
		r.invalid(p, kind, "must be 'PersistentVolumeClaim' when referencing the default apiGroup")
	}
}

// claimUpdate: a claim's spec is fixed but for being bound once, growing once bound, and its attributes class.
func claimUpdate(c, old *corev1.PersistentVolumeClaim) field.ErrorList {
	r := &report{}
	p := field.NewPath("spec")
	claimSpec(r, p, &c.Spec)
	rest, was := c.Spec.DeepCopy(), old.Spec.DeepCopy()
	if was.VolumeName == "" && rest.VolumeName != "" {
		was.VolumeName = rest.VolumeName
	}
	if was.StorageClassName == nil && rest.StorageClassName != nil {
		was.StorageClassName = rest.StorageClassName // A default class that came later.
	}
	rest.VolumeAttributesClassName, was.VolumeAttributesClassName = nil, nil
	storage, before := c.Spec.Resources.Requests[corev1.ResourceStorage], old.Spec.Resources.Requests[corev1.ResourceStorage]
	if old.Status.Phase == corev1.ClaimBound {
		if rest.Resources.Requests != nil {
			rest.Resources.Requests[corev1.ResourceStorage] = before
		}
		if storage.Cmp(before) < 0 {
			// A failed expansion may be taken back down to what the volume has.
			have := old.Status.Capacity[corev1.ResourceStorage]
			if storage.Cmp(have) < 0 {
				r.forbidden(p.Child("resources", "requests", "storage"), "field can not be less than status.capacity")
			}
		}
	}
	if !equality.Semantic.DeepEqual(rest, was) {
		r.forbidden(p, "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims")
	}
	if n, o := c.Spec.VolumeAttributesClassName, old.Spec.VolumeAttributesClassName; o != nil && *o != "" && (n == nil || *n == "") && old.Status.Phase == corev1.ClaimBound {
		r.forbidden(p.Child("volumeAttributesClassName"), "update to nil or empty is forbidden once set")
	}
	return r.list
}

func claimStatus(c, _ *corev1.PersistentVolumeClaim) field.ErrorList {
	r := &report{}
	p := field.NewPath("status")
	for _, m := range c.Status.AccessModes {
		if !slices.Contains(accessModes, m) {
			r.add(field.NotSupported(p.Child("accessModes"), m, accessModes))
		}
	}
	for _, name := range sortedNames(c.Status.Capacity) {
		q := c.Status.Capacity[name]
		if q.Sign() < 0 {
			r.invalid(p.Child("capacity").Key(string(name)), q.String(), "must be greater than or equal to 0")
		}
	}
	allowed := sets.New(corev1.PersistentVolumeClaimControllerResizeInProgress, corev1.PersistentVolumeClaimControllerResizeInfeasible,
		corev1.PersistentVolumeClaimNodeResizePending, corev1.PersistentVolumeClaimNodeResizeInProgress, corev1.PersistentVolumeClaimNodeResizeInfeasible)
	for name, state := range sorted(c.Status.AllocatedResourceStatuses) {
		if !allowed.Has(state) {
			r.add(field.NotSupported(p.Child("allocatedResourceStatuses").Key(string(name)), state, sortedSet(allowed)))
		}
	}
	return r.list
}
