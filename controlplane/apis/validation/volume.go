package validation

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func volumeCreate(v *corev1.PersistentVolume) field.ErrorList {
	r := &report{}
	p := field.NewPath("spec")
	s := &v.Spec
	accessModeList(r, p.Child("accessModes"), s.AccessModes, "")
	at := p.Child("capacity")
	if len(s.Capacity) == 0 {
		r.required(at, "")
	} else if _, ok := s.Capacity[corev1.ResourceStorage]; !ok || len(s.Capacity) > 1 {
		r.add(field.NotSupported(at, s.Capacity, []corev1.ResourceName{corev1.ResourceStorage}))
	}
	for _, n := range sortedNames(s.Capacity) {
		q := s.Capacity[n]
		r.each(at.Key(string(n)), string(n), validation.IsQualifiedName(string(n)))
		if q.Sign() <= 0 {
			r.invalid(at.Key(string(n)), q.String(), "must be greater than zero")
		}
	}
	oneOf(r, p.Child("persistentVolumeReclaimPolicy"), s.PersistentVolumeReclaimPolicy, false, corev1.PersistentVolumeReclaimDelete,
		corev1.PersistentVolumeReclaimRecycle, corev1.PersistentVolumeReclaimRetain)
	if s.NodeAffinity != nil {
		if s.NodeAffinity.Required == nil {
			r.required(p.Child("nodeAffinity", "required"), "must specify required node constraints")
		} else {
			nodeSelector(r, p.Child("nodeAffinity", "required"), s.NodeAffinity.Required)
		}
	}
	if s.StorageClassName != "" {
		dnsSubdomain(r, p.Child("storageClassName"), s.StorageClassName)
	}
	optionalOneOf(r, p.Child("volumeMode"), s.VolumeMode, corev1.PersistentVolumeBlock, corev1.PersistentVolumeFilesystem)
	if n := s.VolumeAttributesClassName; n != nil {
		if *n == "" {
			r.required(p.Child("volumeAttributesClassName"), "an empty string is disallowed")
		} else {
			dnsSubdomain(r, p.Child("volumeAttributesClassName"), *n)
		}
		if s.CSI == nil {
			r.required(p.Child("csi"), "has to be specified when using volumeAttributesClassName")
		}
	}
	persistentSource(r, p, s)
	return r.list
}

func persistentSource(r *report, p *field.Path, s *corev1.PersistentVolumeSpec) {
	source := oneSource(r, p, &s.PersistentVolumeSource)
	if source == "" {
		return
	}
	at := p.Child(source)
	switch source {
	case "hostPath":
		hostPath(r, at, s.HostPath)
		if s.HostPath.Path == "/" && s.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRecycle {
			r.forbidden(p.Child("persistentVolumeReclaimPolicy"), "may not be 'recycle' for a hostPath mount of '/'")
		}
	case "local":
		if s.Local.Path == "" {
			r.required(at.Child("path"), "")
		} else {
			noClimbing(r, at.Child("path"), s.Local.Path)
		}
		if s.NodeAffinity == nil {
			r.required(p.Child("nodeAffinity"), "Local volume requires node affinity")
		}
	case "csi":
		csiDriverName(r, at.Child("driver"), s.CSI.Driver)
		if s.CSI.VolumeHandle == "" {
			r.required(at.Child("volumeHandle"), "")
		}
		for name, ref := range sorted(map[string]*corev1.SecretReference{"controllerPublishSecretRef": s.CSI.ControllerPublishSecretRef,
			"controllerExpandSecretRef": s.CSI.ControllerExpandSecretRef, "nodePublishSecretRef": s.CSI.NodePublishSecretRef,
			"nodeExpandSecretRef": s.CSI.NodeExpandSecretRef, "nodeStageSecretRef": s.CSI.NodeStageSecretRef}) {
			if ref != nil {
				secretReference(r, at.Child(name), ref)
			}
		}
	case "nfs":
		remoteVolume(r, at, &corev1.VolumeSource{NFS: s.NFS})
	case "fc":
		fc(r, at, s.FC)
	case "iscsi":
		iscsi(r, at, s.ISCSI.TargetPortal, s.ISCSI.IQN, s.ISCSI.Lun, s.ISCSI.DiscoveryCHAPAuth || s.ISCSI.SessionCHAPAuth, s.ISCSI.SecretRef != nil, s.ISCSI.InitiatorName)
	case "gcePersistentDisk":
		remoteVolume(r, at, &corev1.VolumeSource{GCEPersistentDisk: s.GCEPersistentDisk})
	case "awsElasticBlockStore":
		remoteVolume(r, at, &corev1.VolumeSource{AWSElasticBlockStore: s.AWSElasticBlockStore})
	case "azureDisk":
		remoteVolume(r, at, &corev1.VolumeSource{AzureDisk: s.AzureDisk})
	case "vsphereVolume":
		remoteVolume(r, at, &corev1.VolumeSource{VsphereVolume: s.VsphereVolume})
	case "portworxVolume":
		remoteVolume(r, at, &corev1.VolumeSource{PortworxVolume: s.PortworxVolume})
	case "flocker":
		remoteVolume(r, at, &corev1.VolumeSource{Flocker: s.Flocker})
	case "quobyte":
		remoteVolume(r, at, &corev1.VolumeSource{Quobyte: s.Quobyte})
	}
}

func secretReference(r *report, p *field.Path, ref *corev1.SecretReference) {
	if ref.Name == "" {
		r.required(p.Child("name"), "")
	}
	if ref.Namespace == "" {
		r.required(p.Child("namespace"), "")
	}
}

// volumeUpdate: the storage behind a volume stays what it is, but for secrets to expand it with.
func volumeUpdate(v, old *corev1.PersistentVolume) field.ErrorList {
	r := &report{list: volumeCreate(v)}
	p := field.NewPath("spec")
	now, was := v.Spec.PersistentVolumeSource.DeepCopy(), old.Spec.PersistentVolumeSource.DeepCopy()
	if now.CSI != nil && was.CSI != nil {
		now.CSI.ControllerExpandSecretRef, was.CSI.ControllerExpandSecretRef = nil, nil
		now.CSI.NodeExpandSecretRef, was.CSI.NodeExpandSecretRef = nil, nil
	}
	if !equality.Semantic.DeepEqual(now, was) {
		r.forbidden(p.Child("persistentvolumesource"), "spec.persistentvolumesource is immutable after creation")
	}
	same := func(name string, a, b any) {
		if !equality.Semantic.DeepEqual(a, b) {
			r.invalid(p.Child(name), a, "field is immutable")
		}
	}
	same("volumeMode", v.Spec.VolumeMode, old.Spec.VolumeMode)
	if old.Spec.NodeAffinity != nil {
		same("nodeAffinity", v.Spec.NodeAffinity, old.Spec.NodeAffinity)
	}
	if o, n := old.Spec.VolumeAttributesClassName, v.Spec.VolumeAttributesClassName; o != nil && n == nil {
		r.forbidden(p.Child("volumeAttributesClassName"), "update from non-nil value to nil is forbidden")
	}
	return r.list
}
