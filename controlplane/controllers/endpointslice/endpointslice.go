package endpointslice

import (
	"context"
	"fmt"

	v1 "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	corelisters "k8s.io/client-go/listers/core/v1"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/endpointslice"
	"k8s.io/endpointslice/metrics"
	"k8s.io/endpointslice/topologycache"
	endpointsliceutil "k8s.io/endpointslice/util"
	"k8s.io/klog/v2"

	"github.com/reevehq/reeve/controlplane/controllers/loop"
)

const (
	// managedBy is the label's value by which everyone knows whose slices these are.
	managedBy = "endpointslice-controller.k8s.io"
	// maxPerSlice is upstream's default.
	maxPerSlice = 100
)

// Controller is the EndpointSlice controller.
type Controller struct {
	*loop.Loop
	recorder   record.EventRecorder
	reconciler *endpointslice.Reconciler
	tracker    *endpointsliceutil.EndpointSliceTracker
	topology   *topologycache.TopologyCache
	triggers   *endpointsliceutil.TriggerTimeTracker
	services   corelisters.ServiceLister
	pods       corelisters.PodLister
	slices     discoverylisters.EndpointSliceLister
	nodes      corelisters.NodeLister
}

// New makes the controller.
func New(env loop.Env) (*Controller, error) {
	metrics.RegisterMetrics()
	core, slices := env.Informers.Core().V1(), env.Informers.Discovery().V1().EndpointSlices()
	c := &Controller{
		recorder: env.Recorder("endpoint-slice-controller"), tracker: endpointsliceutil.NewEndpointSliceTracker(),
		topology: topologycache.NewTopologyCache(), triggers: endpointsliceutil.NewTriggerTimeTracker(),
		services: core.Services().Lister(), pods: core.Pods().Lister(), slices: slices.Lister(), nodes: core.Nodes().Lister(),
	}
	c.reconciler = endpointslice.NewReconciler(env.Client, c.nodes, maxPerSlice, c.tracker, c.topology, c.recorder, managedBy,
		endpointslice.WithPreferSameTrafficDistributionEnabled(true))
	c.Loop = loop.New("endpointslice-controller", env.Log, 5, c.reconcile)
	c.Watch(core.Services().Informer())
	c.On(core.Pods().Informer(), cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { c.podChanged(nil, obj) },
		UpdateFunc: c.podChanged,
		DeleteFunc: func(obj any) {
			if d, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = d.Obj
			}
			c.podChanged(nil, obj)
		},
	})
	c.On(slices.Informer(), loop.Typed[*discovery.EndpointSlice]{
		Add: func(s *discovery.EndpointSlice) {
			if c.reconciler.ManagedByController(s) && c.tracker.ShouldSync(s) {
				c.own(s)
			}
		},
		Update: func(old, s *discovery.EndpointSlice) {
			// A slice moved to another Service must leave the first one too.
			if a, b := old.Labels[discovery.LabelServiceName], s.Labels[discovery.LabelServiceName]; a != b {
				c.own(old)
				c.own(s)
				return
			}
			if c.reconciler.ManagedByChanged(old, s) || c.reconciler.ManagedByController(s) && c.tracker.ShouldSync(s) {
				c.own(s)
			}
		},
		Delete: func(s *discovery.EndpointSlice) {
			if c.reconciler.ManagedByController(s) && c.tracker.Has(s) && !c.tracker.HandleDeletion(s) {
				c.own(s) // not by us
			}
		},
	})
	c.On(core.Nodes().Informer(), loop.Typed[*v1.Node]{
		Add: func(*v1.Node) { c.nodesChanged() }, Delete: func(*v1.Node) { c.nodesChanged() },
		Update: func(old, n *v1.Node) {
			if old.Labels[v1.LabelTopologyZone] != n.Labels[v1.LabelTopologyZone] || nodeReady(old) != nodeReady(n) ||
				!old.Status.Allocatable.Cpu().Equal(*n.Status.Allocatable.Cpu()) {
				c.nodesChanged()
			}
		},
	})
	return c, nil
}

func nodeReady(n *v1.Node) bool {
	for _, c := range n.Status.Conditions {
		if c.Type == v1.NodeReady {
			return c.Status == v1.ConditionTrue
		}
	}
	return false
}

func (c *Controller) own(s *discovery.EndpointSlice) {
	if key, err := endpointslice.ServiceControllerKey(s); err == nil {
		c.Add(key)
	}
}

func (c *Controller) nodesChanged() {
	nodes, err := c.nodes.List(labels.Everything())
	if err != nil {
		return
	}
	c.topology.SetNodes(klog.Background(), nodes)
	for _, key := range c.topology.GetOverloadedServices() {
		c.Add(key)
	}
}

func (c *Controller) podChanged(old, obj any) {
	key := endpointsliceutil.GetPodUpdateProjectionKey(old, obj)
	if old == nil {
		key = endpointsliceutil.GetPodUpdateProjectionKey(nil, obj)
	}
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

func (c *Controller) reconcile(_ context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return nil
	}
	svc, err := c.services.Services(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		c.triggers.DeleteService(namespace, name)
		c.reconciler.DeleteService(namespace, name)
		c.tracker.DeleteService(namespace, name) // the slices go with their owner
		return nil
	}
	if err != nil {
		return err
	}
	if svc.Spec.Type == v1.ServiceTypeExternalName || svc.Spec.Selector == nil {
		return nil // ExternalName has none; without selector they are the user's
	}
	pods, err := c.pods.Pods(namespace).List(labels.Set(svc.Spec.Selector).AsSelectorPreValidated())
	if err != nil {
		return err
	}
	slices, err := c.slices.EndpointSlices(namespace).List(labels.Set{
		discovery.LabelServiceName: name, discovery.LabelManagedBy: managedBy,
	}.AsSelectorPreValidated())
	if err != nil {
		return err
	}
	existing := slices[:0:0]
	for _, s := range slices {
		if s.DeletionTimestamp == nil {
			existing = append(existing, s)
		}
	}
	if c.tracker.StaleSlices(svc, existing) {
		return fmt.Errorf("reconcile EndpointSlices of Service %q: the cache has not seen the last write: %w", key, loop.ErrLater)
	}
	changed := c.triggers.ComputeEndpointLastChangeTriggerTime(namespace, svc, pods)
	if err := c.reconciler.Reconcile(klog.Background(), svc, pods, existing, changed); err != nil {
		c.recorder.Eventf(svc, v1.EventTypeWarning, "FailedToUpdateEndpointSlices", "Error updating Endpoint Slices for Service %s: %v", key, err)
		return fmt.Errorf("reconcile EndpointSlices of Service %q: %w", key, err)
	}
	return nil
}
