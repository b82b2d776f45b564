package validation

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Bounds of the storage kinds.
const (
	maxParameterSize      = 256 * 1024
	maxParameters         = 512
	maxDriverNodeID       = 192
	maxAttachmentMetadata = 256 * 1024
	maxVolumeError        = 1024
)

func storageClassCreate(c *storagev1.StorageClass) field.ErrorList {
	r := &report{}
	provisioner(r, field.NewPath("provisioner"), c.Provisioner)
	parameters(r, field.NewPath("parameters"), c.Parameters, true)
	optionalOneOf(r, field.NewPath("reclaimPolicy"), c.ReclaimPolicy, corev1.PersistentVolumeReclaimDelete, corev1.PersistentVolumeReclaimRetain)
	if c.VolumeBindingMode == nil {
		r.required(field.NewPath("volumeBindingMode"), "")
	}
	optionalOneOf(r, field.NewPath("volumeBindingMode"), c.VolumeBindingMode, storagev1.VolumeBindingImmediate, storagev1.VolumeBindingWaitForFirstConsumer)
	topologies(r, field.NewPath("allowedTopologies"), c.AllowedTopologies)
	return r.list
}

func provisioner(r *report, p *field.Path, name string) {
	if name == "" {
		r.required(p, "")
		return
	}
	r.each(p, name, validation.IsQualifiedName(strings.ToLower(name)))
}

func parameters(r *report, p *field.Path, list map[string]string, mayBeEmpty bool) {
	total := 0
	if len(list) > maxParameters {
		r.add(field.TooLong(p, "", maxParameters))
		return
	}
	if !mayBeEmpty && len(list) == 0 {
		r.required(p, "must contain at least one key/value pair")
	}
	for key, value := range sorted(list) {
		if key == "" {
			r.invalid(p, key, "field can not be empty")
		}
		total += len(key) + len(value)
	}
	if total > maxParameterSize {
		r.add(field.TooLong(p, "", maxParameterSize))
	}
}

func topologies(r *report, p *field.Path, list []corev1.TopologySelectorTerm) {
	for i, term := range list {
		at := p.Index(i).Child("matchLabelExpressions")
		if len(term.MatchLabelExpressions) == 0 {
			r.required(at, "")
		}
		keys := sets.New[string]()
		for j, e := range term.MatchLabelExpressions {
			qualifiedName(r, at.Index(j).Child("key"), e.Key)
			if keys.Has(e.Key) {
				r.duplicate(at.Index(j).Child("key"), e.Key)
			}
			keys.Insert(e.Key)
			if len(e.Values) == 0 {
				r.required(at.Index(j).Child("values"), "")
			}
			values := sets.New[string]()
			for k, v := range e.Values {
				if values.Has(v) {
					r.duplicate(at.Index(j).Child("values").Index(k), v)
				}
				values.Insert(v)
			}
		}
	}
	for i := range list {
		for j := range i {
			if equality.Semantic.DeepEqual(list[i], list[j]) {
				r.duplicate(p.Index(i).Child("matchLabelExpressions"), "")
			}
		}
	}
}

// storageClassUpdate: volumes were made by what the class said.
func storageClassUpdate(c, old *storagev1.StorageClass) field.ErrorList {
	r := &report{list: storageClassCreate(c)}
	for name, pair := range sorted(map[string][2]any{"parameters": {c.Parameters, old.Parameters}, "provisioner": {c.Provisioner, old.Provisioner},
		"reclaimPolicy": {c.ReclaimPolicy, old.ReclaimPolicy}}) {
		if !equality.Semantic.DeepEqual(pair[0], pair[1]) {
			r.invalid(field.NewPath(name), pair[0], "field is immutable")
		}
	}
	immutable(r, field.NewPath("volumeBindingMode"), c.VolumeBindingMode, old.VolumeBindingMode, func(a, b *storagev1.VolumeBindingMode) bool { return equality.Semantic.DeepEqual(a, b) })
	return r.list
}

func csiDriverCreate(d *storagev1.CSIDriver) field.ErrorList {
	r := &report{}
	csiDriverName(r, field.NewPath("metadata", "name"), d.Name)
	p := field.NewPath("spec")
	s := &d.Spec
	for name, unset := range sorted(map[string]bool{"attachedRequired": s.AttachRequired == nil, "podInfoOnMount": s.PodInfoOnMount == nil, "storageCapacity": s.StorageCapacity == nil}) {
		if unset {
			r.required(p.Child(name), "")
		}
	}
	optionalOneOf(r, p.Child("fsGroupPolicy"), s.FSGroupPolicy, storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy, storagev1.FileFSGroupPolicy, storagev1.NoneFSGroupPolicy)
	audiences := sets.New[string]()
	for i, t := range s.TokenRequests {
		at := p.Child("tokenRequests").Index(i)
		if audiences.Has(t.Audience) {
			r.duplicate(at.Child("audience"), t.Audience)
		}
		audiences.Insert(t.Audience)
		if t.ExpirationSeconds != nil {
			switch {
			case *t.ExpirationSeconds < minTokenSeconds:
				r.invalid(at.Child("expirationSeconds"), *t.ExpirationSeconds, "may not specify a duration less than 10 minutes")
			case *t.ExpirationSeconds > maxTokenSeconds:
				r.invalid(at.Child("expirationSeconds"), *t.ExpirationSeconds, "may not specify a duration larger than 2^32 seconds")
			}
		}
	}
	for i, m := range s.VolumeLifecycleModes {
		oneOf(r, p.Child("volumeLifecycleModes").Index(i), m, true, storagev1.VolumeLifecyclePersistent, storagev1.VolumeLifecycleEphemeral)
	}
	if s.SELinuxMount == nil {
		r.required(p.Child("seLinuxMount"), "")
	}
	if n := s.NodeAllocatableUpdatePeriodSeconds; n != nil && *n < 10 {
		r.invalid(p.Child("nodeAllocatableUpdatePeriodSeconds"), *n, "must be greater than or equal to 10 seconds")
	}
	return r.list
}

func csiDriverUpdate(d, old *storagev1.CSIDriver) field.ErrorList {
	r := &report{list: csiDriverCreate(d)}
	p := field.NewPath("spec")
	if !equality.Semantic.DeepEqual(d.Spec.AttachRequired, old.Spec.AttachRequired) {
		r.invalid(p.Child("attachRequired"), d.Spec.AttachRequired, "field is immutable")
	}
	if !equality.Semantic.DeepEqual(d.Spec.VolumeLifecycleModes, old.Spec.VolumeLifecycleModes) {
		r.invalid(p.Child("volumeLifecycleModes"), d.Spec.VolumeLifecycleModes, "field is immutable")
	}
	return r.list
}

func csiNodeCreate(n *storagev1.CSINode) field.ErrorList {
	r := &report{}
	seen := sets.New[string]()
	for i := range n.Spec.Drivers {
		d, at := &n.Spec.Drivers[i], field.NewPath("spec", "drivers").Index(i)
		csiDriverName(r, at.Child("name"), d.Name)
		if seen.Has(d.Name) {
			r.duplicate(at.Child("name"), d.Name)
		}
		seen.Insert(d.Name)
		switch {
		case d.NodeID == "":
			r.required(at.Child("nodeID"), "")
		case len(d.NodeID) > maxDriverNodeID:
			r.invalid(at.Child("nodeID"), d.NodeID, "must be 192 characters or less")
		}
		if d.Allocatable != nil && d.Allocatable.Count != nil {
			r.nonNegative(at.Child("allocatable", "count"), int64(*d.Allocatable.Count))
		}
		keys := sets.New[string]()
		for _, k := range d.TopologyKeys {
			if k == "" {
				r.required(at.Child("topologyKeys"), "")
			}
			if keys.Has(k) {
				r.duplicate(at.Child("topologyKeys"), k)
			}
			keys.Insert(k)
			r.each(at.Child("topologyKeys"), d.TopologyKeys, validation.IsQualifiedName(k))
		}
	}
	return r.list
}

// csiNodeUpdate: what a driver says of a node changes only with the driver's registration.
func csiNodeUpdate(n, old *storagev1.CSINode) field.ErrorList {
	r := &report{list: csiNodeCreate(n)}
	for i, d := range n.Spec.Drivers {
		at := slices.IndexFunc(old.Spec.Drivers, func(o storagev1.CSINodeDriver) bool { return o.Name == d.Name })
		if at < 0 {
			continue
		}
		now, was := d.DeepCopy(), old.Spec.Drivers[at].DeepCopy()
		now.Allocatable, was.Allocatable = nil, nil // The node counts again when the driver asks for it.
		if !equality.Semantic.DeepEqual(now, was) {
			r.invalid(field.NewPath("CSINodeDriver").Index(i), n.Spec.Drivers, "field is immutable")
		}
	}
	return r.list
}

func attachmentCreate(a *storagev1.VolumeAttachment) field.ErrorList {
	r := &report{}
	p := field.NewPath("spec")
	csiDriverName(r, p.Child("attacher"), a.Spec.Attacher)
	source := p.Child("source")
	switch s := a.Spec.Source; {
	case s.InlineVolumeSpec == nil && s.PersistentVolumeName == nil:
		r.required(source, "must specify exactly one of inlineVolumeSpec and persistentVolumeName")
	case s.InlineVolumeSpec != nil && s.PersistentVolumeName != nil:
		r.forbidden(source, "must specify exactly one of inlineVolumeSpec and persistentVolumeName")
	case s.PersistentVolumeName != nil:
		requiredSubdomain(r, source.Child("persistentVolumeName"), *s.PersistentVolumeName)
	default:
		inline := &corev1.PersistentVolume{Spec: *s.InlineVolumeSpec}
		if inline.Spec.CSI == nil {
			r.required(source.Child("inlineVolumeSpec", "csi"), "")
		}
	}
	requiredSubdomain(r, p.Child("nodeName"), a.Spec.NodeName)
	attachmentResult(r, &a.Status)
	return r.list
}

func attachmentResult(r *report, s *storagev1.VolumeAttachmentStatus) {
	at := field.NewPath("status")
	total := 0
	for k, v := range s.AttachmentMetadata {
		total += len(k) + len(v)
	}
	if total > maxAttachmentMetadata {
		r.add(field.TooLong(at.Child("attachmentMetadata"), "", maxAttachmentMetadata))
	}
	for name, e := range sorted(map[string]*storagev1.VolumeError{"attachError": s.AttachError, "detachError": s.DetachError}) {
		if e != nil && len(e.Message) > maxVolumeError {
			r.add(field.TooLong(at.Child(name, "message"), "", maxVolumeError))
		}
	}
}

func attachmentUpdate(a, old *storagev1.VolumeAttachment) field.ErrorList {
	r := &report{list: attachmentCreate(a)}
	if !equality.Semantic.DeepEqual(a.Spec, old.Spec) {
		r.invalid(field.NewPath("spec"), a.Spec, "field is immutable")
	}
	return r.list
}

func capacityCreate(c *storagev1.CSIStorageCapacity) field.ErrorList {
	r := &report{}
	selector(r, field.NewPath("nodeTopology"), c.NodeTopology)
	requiredSubdomain(r, field.NewPath("storageClassName"), c.StorageClassName)
	if c.Capacity != nil && c.Capacity.Sign() < 0 {
		r.invalid(field.NewPath("capacity"), textOf(*c.Capacity), "must be greater than or equal to 0")
	}
	if c.MaximumVolumeSize != nil && c.MaximumVolumeSize.Sign() < 0 {
		r.invalid(field.NewPath("maximumVolumeSize"), textOf(*c.MaximumVolumeSize), "must be greater than or equal to 0")
	}
	return r.list
}

func capacityUpdate(c, old *storagev1.CSIStorageCapacity) field.ErrorList {
	r := &report{list: capacityCreate(c)}
	if !equality.Semantic.DeepEqual(c.NodeTopology, old.NodeTopology) {
		r.invalid(field.NewPath("nodeTopology"), c.NodeTopology, "field is immutable")
	}
	if c.StorageClassName != old.StorageClassName {
		r.invalid(field.NewPath("storageClassName"), c.StorageClassName, "field is immutable")
	}
	return r.list
}

func attributesClassCreate(c *storagev1.VolumeAttributesClass) field.ErrorList {
	r := &report{}
	provisioner(r, field.NewPath("driverName"), c.DriverName)
	parameters(r, field.NewPath("parameters"), c.Parameters, false)
	return r.list
}

func attributesClassUpdate(c, old *storagev1.VolumeAttributesClass) field.ErrorList {
	r := &report{}
	if c.DriverName != old.DriverName {
		r.forbidden(field.NewPath("driverName"), "updates to driverName are forbidden.")
	}
	if !equality.Semantic.DeepEqual(c.Parameters, old.Parameters) {
		r.forbidden(field.NewPath("parameters"), "updates to parameters are forbidden.")
	}
	return r.list
}
