package validation

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// mounts checks where a container sees the pod's volumes: as files and as devices, never both at one path.
func mounts(r *report, p *field.Path, c *corev1.Container, s *podScope) {
	devices, devicePaths := sets.New[string](), sets.New[string]()
	for _, d := range c.VolumeDevices {
		devices.Insert(d.Name)
		devicePaths.Insert(d.DevicePath)
	}
	paths := sets.New[string]()
	for i := range c.VolumeMounts {
		m, at := &c.VolumeMounts[i], p.Child("volumeMounts").Index(i)
		_, known := s.volumes[m.Name]
		switch {
		case m.Name == "":
			r.required(at.Child("name"), "")
		case !known:
			r.notFound(at.Child("name"), m.Name)
		}
		if m.MountPath == "" {
			r.required(at.Child("mountPath"), "")
		}
		if paths.Has(m.MountPath) {
			r.invalid(at.Child("mountPath"), m.MountPath, "must be unique")
		}
		paths.Insert(m.MountPath)
		if devices.Has(m.Name) {
			r.invalid(at.Child("name"), m.Name, "must not already exist in volumeDevices")
		}
		if devicePaths.Has(m.MountPath) {
			r.invalid(at.Child("mountPath"), m.MountPath, "must not already exist as a path in volumeDevices")
		}
		if m.SubPath != "" {
			relativePath(r, at.Child("subPath"), m.SubPath)
		}
		if m.SubPathExpr != "" {
			if m.SubPath != "" {
				r.invalid(at.Child("subPathExpr"), m.SubPathExpr, "subPathExpr and subPath are mutually exclusive")
			}
			relativePath(r, at.Child("subPathExpr"), m.SubPathExpr)
		}
		propagation(r, at, m, c)
		recursiveReadOnly(r, at, m)
	}
	volumeDevices(r, p.Child("volumeDevices"), c, s, paths)
}

func propagation(r *report, p *field.Path, m *corev1.VolumeMount, c *corev1.Container) {
	if m.MountPropagation == nil {
		return
	}
	at := p.Child("mountPropagation")
	optionalOneOf(r, at, m.MountPropagation, corev1.MountPropagationBidirectional, corev1.MountPropagationHostToContainer, corev1.MountPropagationNone)
	privileged := c.SecurityContext != nil && c.SecurityContext.Privileged != nil && *c.SecurityContext.Privileged
	if *m.MountPropagation == corev1.MountPropagationBidirectional && !privileged {
		r.forbidden(at, "Bidirectional mount propagation is available only to privileged containers")
	}
}

func recursiveReadOnly(r *report, p *field.Path, m *corev1.VolumeMount) {
	if m.RecursiveReadOnly == nil {
		return
	}
	at := p.Child("recursiveReadOnly")
	switch *m.RecursiveReadOnly {
	case corev1.RecursiveReadOnlyDisabled:
	case corev1.RecursiveReadOnlyEnabled, corev1.RecursiveReadOnlyIfPossible:
		if !m.ReadOnly {
			r.forbidden(at, "may only be specified when readOnly is true")
		}
		if m.MountPropagation != nil && *m.MountPropagation != corev1.MountPropagationNone {
			r.forbidden(at, "may only be specified when mountPropagation is None or not specified")
		}
	default:
		optionalOneOf(r, at, m.RecursiveReadOnly, corev1.RecursiveReadOnlyDisabled, corev1.RecursiveReadOnlyIfPossible, corev1.RecursiveReadOnlyEnabled)
	}
}

func volumeDevices(r *report, p *field.Path, c *corev1.Container, s *podScope, mountPaths sets.Set[string]) {
	mounted := sets.New[string]()
	for _, m := range c.VolumeMounts {
		mounted.Insert(m.Name)
	}
	paths, names := sets.New[string](), sets.New[string]()
	for i, d := range c.VolumeDevices {
		at := p.Index(i)
		volume, known := s.volumes[d.Name]
		switch {
		case d.Name == "":
			r.required(at.Child("name"), "")
		case !known:
			r.notFound(at.Child("name"), d.Name)
		case volume.PersistentVolumeClaim == nil && volume.Ephemeral == nil:
			r.invalid(at.Child("name"), d.Name, "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode")
		}
		if names.Has(d.Name) {
			r.invalid(at.Child("name"), d.Name, "must be unique")
		}
		names.Insert(d.Name)
		if d.DevicePath == "" {
			r.required(at.Child("devicePath"), "")
		} else {
			noClimbing(r, at.Child("devicePath"), d.DevicePath)
			if paths.Has(d.DevicePath) {
				r.invalid(at.Child("devicePath"), d.DevicePath, "must be unique")
			}
			if mountPaths.Has(d.DevicePath) {
				r.invalid(at.Child("devicePath"), d.DevicePath, "must not already exist as a path in volumeMounts")
			}
		}
		paths.Insert(d.DevicePath)
		if mounted.Has(d.Name) {
			r.invalid(at.Child("name"), d.Name, "must not already exist in volumeMounts")
		}
	}
}
