package ttlafterfinished

import (
	"context"
	"fmt"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	batchlisters "k8s.io/client-go/listers/batch/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"

	"github.com/reevehq/reeve/controlplane/controllers/loop"
)

// Controller is the TTL-after-finished controller.
type Controller struct {
	*loop.Loop
	client kubernetes.Interface
	jobs   batchlisters.JobLister
}

// New makes the controller.
func New(env loop.Env) (*Controller, error) {
	inf := env.Informers.Batch().V1().Jobs()
	c := &Controller{client: env.Client, jobs: inf.Lister()}
	c.Loop = loop.New("ttl-after-finished-controller", env.Log, 2, c.reconcile)
	c.On(inf.Informer(), loop.Typed[*batchv1.Job]{
		Add:    func(j *batchv1.Job) { c.Enqueue(j) },
		Update: func(_, j *batchv1.Job) { c.Enqueue(j) },
	})
	return c, nil
}

// due is when the Job is to be deleted; ok is false for Jobs that stay.
func due(j *batchv1.Job) (at time.Time, ok bool) {
	if j.Spec.TTLSecondsAfterFinished == nil || j.DeletionTimestamp != nil {
		return time.Time{}, false
	}
	for _, c := range j.Status.Conditions {
		if (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == v1.ConditionTrue && !c.LastTransitionTime.IsZero() {
			return c.LastTransitionTime.Add(time.Duration(*j.Spec.TTLSecondsAfterFinished) * time.Second), true
		}
	}
	return time.Time{}, false
}

func (c *Controller) reconcile(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return nil
	}
	j, err := c.jobs.Jobs(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	at, ok := due(j)
	if !ok {
		return nil
	}
	if left := time.Until(at); left > 0 {
		c.AddAfter(key, left)
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, loop.CallTimeout)
	defer cancel()
	fresh, err := c.client.BatchV1().Jobs(namespace).Get(ctx, name, metav1.GetOptions{}) // its time may have been prolonged
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("get Job %q: %w", key, err)
	}
	if at, ok := due(fresh); !ok || time.Until(at) > 0 {
		return nil
	}
	err = c.client.BatchV1().Jobs(namespace).Delete(ctx, name, metav1.DeleteOptions{
		PropagationPolicy: ptr.To(metav1.DeletePropagationForeground), Preconditions: &metav1.Preconditions{UID: &fresh.UID, ResourceVersion: &fresh.ResourceVersion},
	})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete finished Job %q: %w", key, err)
	}
	return nil
}
