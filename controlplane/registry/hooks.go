package registry

import (
	"context"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/reevehq/reeve/controlplane/apis"
)

// hooks are what a kind does beyond its descriptor. Every field is optional.
type hooks struct {
	// keepStatusOnCreate lets creators set a status (Node: the agent registers with one).
	keepStatusOnCreate bool
	// returnDeleted answers a delete with the object that was deleted.
	returnDeleted bool

	create       func(ctx context.Context, obj runtime.Object)
	update       func(ctx context.Context, obj, old runtime.Object)
	updateStatus func(ctx context.Context, obj, old runtime.Object)
	canonicalize func(obj runtime.Object)
	// gracefulDelete fills the options' grace period and says whether deletion is graceful.
	gracefulDelete func(ctx context.Context, obj runtime.Object, options *metav1.DeleteOptions) bool
	// ttl gives the seconds that an object lives.
	ttl func(obj runtime.Object, existing uint64, update bool) (uint64, error)
}

// eventTTLSeconds is how long events live: 1 h, kube-apiserver's --event-ttl.
const eventTTLSeconds = 3600

func hooksFor(kind *apis.Kind) hooks {
	switch kind.GroupResource() {
	case schema.GroupResource{Resource: "pods"}:
		return hooks{
			returnDeleted: true, create: podCreate, update: podUpdate, updateStatus: podUpdateStatus,
			gracefulDelete: podGracefulDelete,
		}
	case schema.GroupResource{Resource: "nodes"}:
		return hooks{keepStatusOnCreate: true}
	case schema.GroupResource{Resource: "namespaces"}:
		return hooks{returnDeleted: true, create: namespaceCreate, update: namespaceUpdate}
	case schema.GroupResource{Resource: "services"}:
		return hooks{returnDeleted: true}
	case schema.GroupResource{Resource: "events"}:
		return hooks{ttl: func(runtime.Object, uint64, bool) (uint64, error) { return eventTTLSeconds, nil }}
	case schema.GroupResource{Resource: "persistentvolumes"}:
		return hooks{returnDeleted: true, create: func(_ context.Context, obj runtime.Object) {
			now := metav1.Now()
			obj.(*corev1.PersistentVolume).Status = corev1.PersistentVolumeStatus{Phase: corev1.VolumePending, LastPhaseTransitionTime: &now}
		}, updateStatus: persistentVolumeUpdateStatus}
	case schema.GroupResource{Resource: "persistentvolumeclaims"}:
		return hooks{returnDeleted: true, create: func(_ context.Context, obj runtime.Object) {
			obj.(*corev1.PersistentVolumeClaim).Status.Phase = corev1.ClaimPending
		}}
	case schema.GroupResource{Resource: "podtemplates"}, schema.GroupResource{Resource: "serviceaccounts"},
		schema.GroupResource{Resource: "resourcequotas"}:
		return hooks{returnDeleted: true}
	case schema.GroupResource{Group: batchv1.GroupName, Resource: "jobs"}:
		return hooks{create: jobCreate}
	case schema.GroupResource{Group: "certificates.k8s.io", Resource: "certificatesigningrequests"}:
		return hooks{create: csrCreate, update: csrUpdate, updateStatus: csrUpdateStatus}
	}
	return hooks{}
}

// persistentVolumeUpdateStatus records when the phase last changed.
func persistentVolumeUpdateStatus(_ context.Context, obj, old runtime.Object) {
	now, before := obj.(*corev1.PersistentVolume), old.(*corev1.PersistentVolume)
	switch {
	case now.Status.Phase == before.Status.Phase:
		if now.Status.LastPhaseTransitionTime == nil {
			now.Status.LastPhaseTransitionTime = before.Status.LastPhaseTransitionTime
		}
	case now.Status.LastPhaseTransitionTime == nil ||
		now.Status.LastPhaseTransitionTime.Equal(before.Status.LastPhaseTransitionTime):
		at := metav1.Now()
		now.Status.LastPhaseTransitionTime = &at
	}
}

// jobCreate gives a Job without a selector of the user's own the one that only its pods can match: its UID.
func jobCreate(_ context.Context, obj runtime.Object) {
	job := obj.(*batchv1.Job)
	if job.Spec.ManualSelector != nil && *job.Spec.ManualSelector {
		return
	}
	if job.Spec.Template.Labels == nil {
		job.Spec.Template.Labels = map[string]string{}
	}
	// Both the prefixed names and those from before the prefix, as upstream still sets both.
	for key, value := range map[string]string{
		batchv1.JobNameLabel: job.Name, "job-name": job.Name,
		batchv1.ControllerUidLabel: string(job.UID), "controller-uid": string(job.UID),
	} {
		if _, given := job.Spec.Template.Labels[key]; !given {
			job.Spec.Template.Labels[key] = value
		}
	}
	if job.Spec.Selector == nil {
		job.Spec.Selector = &metav1.LabelSelector{}
	}
	if job.Spec.Selector.MatchLabels == nil {
		job.Spec.Selector.MatchLabels = map[string]string{}
	}
	if _, given := job.Spec.Selector.MatchLabels[batchv1.ControllerUidLabel]; !given {
		job.Spec.Selector.MatchLabels[batchv1.ControllerUidLabel] = string(job.UID)
	}
}
