package storage

import (
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"

	"github.com/reevehq/reeve/controlplane/apis/defaults/fill"
)

// SetDefaults_StorageClass fills what happens to released volumes and when claims are bound.
func SetDefaults_StorageClass(c *storagev1.StorageClass) {
	fill.Nil(&c.ReclaimPolicy, corev1.PersistentVolumeReclaimDelete)
	fill.Nil(&c.VolumeBindingMode, storagev1.VolumeBindingImmediate)
}

// SetDefaults_CSIDriver fills what a driver supports where it does not say.
func SetDefaults_CSIDriver(d *storagev1.CSIDriver) {
	s := &d.Spec
	fill.Nil(&s.AttachRequired, true)
	fill.Nil(&s.PodInfoOnMount, false)
	fill.Nil(&s.StorageCapacity, false)
	fill.Nil(&s.FSGroupPolicy, storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy)
	fill.Nil(&s.RequiresRepublish, false)
	fill.Nil(&s.SELinuxMount, false)
	if len(s.TokenRequests) > 0 {
		fill.Nil(&s.ServiceAccountTokenInSecrets, false)
	}
	if len(s.VolumeLifecycleModes) == 0 {
		s.VolumeLifecycleModes = []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecyclePersistent}
	}
}
