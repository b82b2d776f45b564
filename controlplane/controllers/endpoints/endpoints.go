package endpoints

import (
	"context"
	"fmt"
	"maps"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	endpointsliceutil "k8s.io/endpointslice/util"

	"github.com/reevehq/reeve/controlplane/controllers/loop"
)

const (
	labelManagedBy = "endpoints.kubernetes.io/managed-by"
	managedBy      = "endpoint-controller"
)

// Controller is the Endpoints controller.
type Controller struct {
	*loop.Loop
	client    kubernetes.Interface
	recorder  record.EventRecorder
	triggers  *endpointsliceutil.TriggerTimeTracker
	services  corelisters.ServiceLister
	pods      corelisters.PodLister
	endpoints corelisters.EndpointsLister
}

// New makes the controller.
func New(env loop.Env) (*Controller, error) {
	core := env.Informers.Core().V1()
	c := &Controller{
		client: env.Client, recorder: env.Recorder("endpoint-controller"), triggers: endpointsliceutil.NewTriggerTimeTracker(),
		services: core.Services().Lister(), pods: core.Pods().Lister(), endpoints: core.Endpoints().Lister(),
	}
	c.Loop = loop.New("endpoints-controller", env.Log, 5, c.reconcile)
	c.Watch(core.Services().Informer())
	pod := func(old, obj any) {
		if d, ok := obj.(cache.DeletedFinalStateUnknown); ok {
			obj = d.Obj
		}
		key := endpointsliceutil.GetPodUpdateProjectionKey(old, obj)
		if key == nil {
			return
		}
		services, err := endpointsliceutil.GetServicesToUpdate(c.services, key)
		if err != nil {
			return
		}
		for s := range services {
			c.Add(s)
		}
	}
	c.On(core.Pods().Informer(), cache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) { pod(nil, obj) }, UpdateFunc: pod, DeleteFunc: func(obj any) { pod(nil, obj) },
	})
	c.On(core.Endpoints().Informer(), loop.Typed[*v1.Endpoints]{Delete: func(e *v1.Endpoints) { c.Enqueue(e) }})
	return c, nil
}

func (c *Controller) reconcile(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, loop.CallTimeout)
	defer cancel()
	svc, err := c.services.Services(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		c.triggers.DeleteService(namespace, name)
		err := c.client.CoreV1().Endpoints(namespace).Delete(ctx, name, metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete Endpoints %q: %w", key, err)
		}
		return nil
	}
	if err != nil {
		return err
	}
	if svc.Spec.Selector == nil || svc.Spec.Type == v1.ServiceTypeExternalName {
		return nil
	}
	pods, err := c.pods.Pods(namespace).List(labels.Set(svc.Spec.Selector).AsSelectorPreValidated())
	if err != nil {
		return err
	}
	changed := c.triggers.ComputeEndpointLastChangeTriggerTime(namespace, svc, pods)
	have, err := c.endpoints.Endpoints(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		have = &v1.Endpoints{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace}}
	} else if err != nil {
		return err
	}
	next := desired(svc, pods, have, changed)
	if have.ResourceVersion == "" {
		_, err = c.client.CoreV1().Endpoints(namespace).Create(ctx, next, metav1.CreateOptions{})
		if apierrors.HasStatusCause(err, v1.NamespaceTerminatingCause) {
			return nil
		}
	} else {
		if equality.Semantic.DeepEqual(have.Subsets, next.Subsets) && equality.Semantic.DeepEqual(have.Labels, next.Labels) &&
			have.Annotations[v1.EndpointsOverCapacity] == next.Annotations[v1.EndpointsOverCapacity] {
			return nil
		}
		_, err = c.client.CoreV1().Endpoints(namespace).Update(ctx, next, metav1.UpdateOptions{})
	}
	if err != nil {
		if !apierrors.IsConflict(err) && !apierrors.IsAlreadyExists(err) {
			c.recorder.Eventf(svc, v1.EventTypeWarning, "FailedToUpdateEndpoint", "Failed to update endpoint %s: %v", key, err)
		}
		return fmt.Errorf("write Endpoints %q: %w", key, err)
	}
	return nil
}

// desired is the object as it should be, built on the one that exists.
func desired(svc *v1.Service, pods []*v1.Pod, have *v1.Endpoints, changed time.Time) *v1.Endpoints {
	next := have.DeepCopy()
	var cut bool
	next.Subsets, cut = subsets(svc, pods)
	next.Labels = maps.Clone(svc.Labels)
	if next.Labels == nil {
		next.Labels = map[string]string{}
	}
	delete(next.Labels, v1.IsHeadlessService)
	if svc.Spec.ClusterIP == v1.ClusterIPNone {
		next.Labels[v1.IsHeadlessService] = ""
	}
	next.Labels[labelManagedBy] = managedBy
	if next.Annotations == nil {
		next.Annotations = map[string]string{}
	}
	delete(next.Annotations, v1.EndpointsLastChangeTriggerTime)
	if !changed.IsZero() {
		next.Annotations[v1.EndpointsLastChangeTriggerTime] = changed.UTC().Format(time.RFC3339Nano)
	}
	delete(next.Annotations, v1.EndpointsOverCapacity)
	if cut {
		next.Annotations[v1.EndpointsOverCapacity] = "truncated"
	}
	return next
}
