package apps

import (
	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/reevehq/reeve/controlplane/apis/defaults/fill"
)

// revisionHistoryLimit is how many old revisions are kept to roll back to.
const revisionHistoryLimit = 10

// progressDeadlineSeconds is when a Deployment that does not progress is reported as failed.
const progressDeadlineSeconds = 600

// SetDefaults_Deployment fills replicas, a rolling update by quarters, history and deadline.
func SetDefaults_Deployment(d *appsv1.Deployment) {
	fill.Nil(&d.Spec.Replicas, 1)
	s := &d.Spec.Strategy
	fill.Zero(&s.Type, appsv1.RollingUpdateDeploymentStrategyType)
	if s.Type == appsv1.RollingUpdateDeploymentStrategyType {
		fill.Nil(&s.RollingUpdate, appsv1.RollingUpdateDeployment{})
		fill.Nil(&s.RollingUpdate.MaxUnavailable, intstr.FromString("25%"))
		fill.Nil(&s.RollingUpdate.MaxSurge, intstr.FromString("25%"))
	}
	fill.Nil(&d.Spec.RevisionHistoryLimit, revisionHistoryLimit)
	fill.Nil(&d.Spec.ProgressDeadlineSeconds, progressDeadlineSeconds)
}

// SetDefaults_ReplicaSet fills replicas.
func SetDefaults_ReplicaSet(rs *appsv1.ReplicaSet) {
	fill.Nil(&rs.Spec.Replicas, 1)
}

// SetDefaults_DaemonSet fills a rolling update of one node at a time, never two pods on a node, and history.
func SetDefaults_DaemonSet(ds *appsv1.DaemonSet) {
	s := &ds.Spec.UpdateStrategy
	fill.Zero(&s.Type, appsv1.RollingUpdateDaemonSetStrategyType)
	if s.Type == appsv1.RollingUpdateDaemonSetStrategyType {
		fill.Nil(&s.RollingUpdate, appsv1.RollingUpdateDaemonSet{})
		fill.Nil(&s.RollingUpdate.MaxUnavailable, intstr.FromInt32(1))
		fill.Nil(&s.RollingUpdate.MaxSurge, intstr.FromInt32(0))
	}
	fill.Nil(&ds.Spec.RevisionHistoryLimit, revisionHistoryLimit)
}

// SetDefaults_StatefulSet fills replicas, ordered pods, a rolling update from the last ordinal down, claims that
// outlive their pods, and history.
func SetDefaults_StatefulSet(ss *appsv1.StatefulSet) {
	fill.Nil(&ss.Spec.Replicas, 1)
	fill.Zero(&ss.Spec.PodManagementPolicy, appsv1.OrderedReadyPodManagement)
	s := &ss.Spec.UpdateStrategy
	fill.Zero(&s.Type, appsv1.RollingUpdateStatefulSetStrategyType)
	if s.Type == appsv1.RollingUpdateStatefulSetStrategyType {
		fill.Nil(&s.RollingUpdate, appsv1.RollingUpdateStatefulSetStrategy{})
		fill.Nil(&s.RollingUpdate.Partition, 0)
		fill.Nil(&s.RollingUpdate.MaxUnavailable, intstr.FromInt32(1))
	}
	fill.Nil(&ss.Spec.PersistentVolumeClaimRetentionPolicy, appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{})
	p := ss.Spec.PersistentVolumeClaimRetentionPolicy
	fill.Zero(&p.WhenDeleted, appsv1.RetainPersistentVolumeClaimRetentionPolicyType)
	fill.Zero(&p.WhenScaled, appsv1.RetainPersistentVolumeClaimRetentionPolicyType)
	fill.Nil(&ss.Spec.RevisionHistoryLimit, revisionHistoryLimit)
	for i := range ss.Spec.VolumeClaimTemplates {
		// Clients that take a template for an object of its own read its kind.
		fill.Zero(&ss.Spec.VolumeClaimTemplates[i].APIVersion, "v1")
		fill.Zero(&ss.Spec.VolumeClaimTemplates[i].Kind, "PersistentVolumeClaim")
	}
}
