package podctl

import (
	"context"
	"fmt"
	"maps"
	"slices"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"

	"github.com/reevehq/reeve/controlplane/controllers/loop"
)

// Control creates and deletes pods and tells of it by events on their owner.
type Control struct {
	Client   kubernetes.Interface
	Recorder record.EventRecorder
}

// FromTemplate is the pod that a workload's template describes. The name is generated from the owner's.
func FromTemplate(t *v1.PodTemplateSpec, namespace, ownerName string, ref *metav1.OwnerReference) *v1.Pod {
	prefix := ownerName + "-"
	if len(validation.NameIsDNSSubdomain(prefix, true)) != 0 {
		prefix = ownerName
	}
	p := &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: namespace, GenerateName: prefix,
			Labels: maps.Clone(t.Labels), Annotations: maps.Clone(t.Annotations), Finalizers: slices.Clone(t.Finalizers),
		},
		Spec: *t.Spec.DeepCopy(),
	}
	if ref != nil {
		p.OwnerReferences = []metav1.OwnerReference{*ref}
	}
	return p
}

// Create sends the pod. A namespace on its way out is not worth an event.
func (c *Control) Create(ctx context.Context, pod *v1.Pod, of runtime.Object) (*v1.Pod, error) {
	ctx, cancel := context.WithTimeout(ctx, loop.CallTimeout)
	defer cancel()
	made, err := c.Client.CoreV1().Pods(pod.Namespace).Create(ctx, pod, metav1.CreateOptions{})
	if err != nil {
		if !apierrors.HasStatusCause(err, v1.NamespaceTerminatingCause) {
			c.Recorder.Eventf(of, v1.EventTypeWarning, "FailedCreate", "Error creating: %v", err)
		}
		return nil, fmt.Errorf("create pod: %w", err)
	}
	c.Recorder.Eventf(of, v1.EventTypeNormal, "SuccessfulCreate", "Created pod: %v", made.Name)
	return made, nil
}

// Delete removes the very pod given; one already gone is no error, and says so with gone.
func (c *Control) Delete(ctx context.Context, pod *v1.Pod, of runtime.Object) (gone bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, loop.CallTimeout)
	defer cancel()
	err = c.Client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(pod.UID))})
	switch {
	case apierrors.IsNotFound(err), apierrors.IsConflict(err):
		return true, nil
	case err != nil:
		c.Recorder.Eventf(of, v1.EventTypeWarning, "FailedDelete", "Error deleting: %v", err)
		return false, fmt.Errorf("delete pod %q: %w", pod.Namespace+"/"+pod.Name, err)
	}
	c.Recorder.Eventf(of, v1.EventTypeNormal, "SuccessfulDelete", "Deleted pod: %v", pod.Name)
	return false, nil
}

// Patch sends a strategic merge patch.
func (c *Control) Patch(ctx context.Context, pod *v1.Pod, patch []byte) error {
	ctx, cancel := context.WithTimeout(ctx, loop.CallTimeout)
	defer cancel()
	_, err := c.Client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
	return err
}
