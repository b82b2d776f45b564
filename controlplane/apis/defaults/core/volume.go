package core

import (
	corev1 "k8s.io/api/core/v1"

	"github.com/reevehq/reeve/controlplane/apis/defaults/fill"
)

// tokenExpirationSeconds is the lifetime of projected service account tokens: 1 h.
const tokenExpirationSeconds = 3600

// SetDefaults_Volume makes a volume without a source an emptyDir, and fills an image volume's pull policy.
func SetDefaults_Volume(v *corev1.Volume) {
	if v.VolumeSource == (corev1.VolumeSource{}) {
		v.EmptyDir = &corev1.EmptyDirVolumeSource{}
	}
	if v.Image != nil {
		fill.Zero(&v.Image.PullPolicy, pullPolicy(v.Image.Reference))
	}
}

// SetDefaults_SecretVolumeSource fills the mode of files that name none: 0644.
func SetDefaults_SecretVolumeSource(s *corev1.SecretVolumeSource) {
	fill.Nil(&s.DefaultMode, corev1.SecretVolumeSourceDefaultMode)
}

// SetDefaults_ConfigMapVolumeSource fills the mode of files that name none: 0644.
func SetDefaults_ConfigMapVolumeSource(s *corev1.ConfigMapVolumeSource) {
	fill.Nil(&s.DefaultMode, corev1.ConfigMapVolumeSourceDefaultMode)
}

// SetDefaults_DownwardAPIVolumeSource fills the mode of files that name none: 0644.
func SetDefaults_DownwardAPIVolumeSource(s *corev1.DownwardAPIVolumeSource) {
	fill.Nil(&s.DefaultMode, corev1.DownwardAPIVolumeSourceDefaultMode)
}

// SetDefaults_ProjectedVolumeSource fills the mode of files that name none: 0644.
func SetDefaults_ProjectedVolumeSource(s *corev1.ProjectedVolumeSource) {
	fill.Nil(&s.DefaultMode, corev1.ProjectedVolumeSourceDefaultMode)
}

// SetDefaults_ServiceAccountTokenProjection fills the lifetime of the token: 1 h.
func SetDefaults_ServiceAccountTokenProjection(p *corev1.ServiceAccountTokenProjection) {
	fill.Nil(&p.ExpirationSeconds, tokenExpirationSeconds)
}

// SetDefaults_HostPathVolumeSource fills the type: no check before mounting.
func SetDefaults_HostPathVolumeSource(s *corev1.HostPathVolumeSource) {
	fill.Nil(&s.Type, corev1.HostPathUnset)
}

// SetDefaults_PersistentVolume fills phase, reclaim policy and mode.
func SetDefaults_PersistentVolume(v *corev1.PersistentVolume) {
	fill.Zero(&v.Status.Phase, corev1.VolumePending)
	fill.Zero(&v.Spec.PersistentVolumeReclaimPolicy, corev1.PersistentVolumeReclaimRetain)
	fill.Nil(&v.Spec.VolumeMode, corev1.PersistentVolumeFilesystem)
}

// SetDefaults_PersistentVolumeClaim fills the phase.
func SetDefaults_PersistentVolumeClaim(c *corev1.PersistentVolumeClaim) {
	fill.Zero(&c.Status.Phase, corev1.ClaimPending)
}

// SetDefaults_PersistentVolumeClaimSpec fills the mode, in claims and in templates of claims.
func SetDefaults_PersistentVolumeClaimSpec(s *corev1.PersistentVolumeClaimSpec) {
	fill.Nil(&s.VolumeMode, corev1.PersistentVolumeFilesystem)
}
