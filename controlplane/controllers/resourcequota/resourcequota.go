package resourcequota

import (
	"context"
	"fmt"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	quotav1 "k8s.io/apiserver/pkg/quota/v1"
	"k8s.io/apiserver/pkg/quota/v1/generic"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/cache"

	"github.com/reevehq/reeve/controlplane/admission/quota"
	"github.com/reevehq/reeve/controlplane/controllers/loop"
	"github.com/reevehq/reeve/controlplane/controllers/podctl"
)

// recalculate is how often a quota is counted anew without an event: kinds other than pods, services and claims are not
// watched for it, and their deletion shows only then.
const recalculate = 15 * time.Second

// Controller is the resource quota controller.
type Controller struct {
	*loop.Loop
	client   kubernetes.Interface
	quotas   corelisters.ResourceQuotaLister
	registry quotav1.Registry
	metadata metadata.Interface
}

// New makes the controller.
func New(env loop.Env) (*Controller, error) {
	core := env.Informers.Core().V1()
	watched := map[schema.GroupVersionResource]cache.GenericLister{}
	for gvr, inf := range map[string]cache.SharedIndexInformer{"pods": core.Pods().Informer(), "services": core.Services().Informer(), "persistentvolumeclaims": core.PersistentVolumeClaims().Informer()} {
		r := v1.SchemeGroupVersion.WithResource(gvr)
		watched[r] = cache.NewGenericLister(inf.GetIndexer(), r.GroupResource())
	}
	config := quota.NewConfiguration(func(r schema.GroupVersionResource) (cache.GenericLister, error) {
		if l, ok := watched[r]; ok {
			return l, nil
		}
		return live{env.Metadata, r}, nil
	}, time.Now)
	c := &Controller{client: env.Client, quotas: core.ResourceQuotas().Lister(), registry: generic.NewRegistry(config.Evaluators()), metadata: env.Metadata}
	c.Loop = loop.New("resourcequota-controller", env.Log, 2, c.reconcile)
	c.On(core.ResourceQuotas().Informer(), loop.Typed[*v1.ResourceQuota]{
		Add: func(q *v1.ResourceQuota) { c.Enqueue(q) },
		Update: func(old, q *v1.ResourceQuota) {
			if !equality.Semantic.DeepEqual(old.Spec, q.Spec) {
				c.Enqueue(q)
			}
		},
	})
	c.On(core.Pods().Informer(), loop.Typed[*v1.Pod]{
		Delete: func(p *v1.Pod) { c.in(p.Namespace) },
		Update: func(old, p *v1.Pod) {
			if podctl.Finished(p) && !podctl.Finished(old) {
				c.in(p.Namespace)
			}
		},
	})
	c.On(core.Services().Informer(), loop.Typed[*v1.Service]{
		Delete: func(s *v1.Service) { c.in(s.Namespace) },
		Update: func(old, s *v1.Service) {
			if old.Spec.Type != s.Spec.Type {
				c.in(s.Namespace)
			}
		},
	})
	c.On(core.PersistentVolumeClaims().Informer(), loop.Typed[*v1.PersistentVolumeClaim]{Delete: func(p *v1.PersistentVolumeClaim) { c.in(p.Namespace) }})
	return c, nil
}

func (c *Controller) in(namespace string) {
	list, err := c.quotas.ResourceQuotas(namespace).List(labels.Everything())
	if err != nil {
		return
	}
	for _, q := range list {
		c.Enqueue(q)
	}
}

func (c *Controller) reconcile(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return nil
	}
	q, err := c.quotas.ResourceQuotas(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	defer c.AddAfter(key, recalculate)
	// What cannot be counted is left out; the rest is still right.
	used, cerr := quotav1.CalculateUsage(namespace, q.Spec.Scopes, q.Spec.Hard, c.registry, q.Spec.ScopeSelector)
	next := q.DeepCopy()
	next.Status.Hard = q.Spec.Hard.DeepCopy()
	next.Status.Used = c.complete(namespace, q, used)
	if !equality.Semantic.DeepEqual(q.Status, next.Status) {
		ctx, cancel := context.WithTimeout(ctx, loop.CallTimeout)
		defer cancel()
		if _, err := c.client.CoreV1().ResourceQuotas(namespace).UpdateStatus(ctx, next, metav1.UpdateOptions{}); err != nil {
			return fmt.Errorf("write status of ResourceQuota %q: %w", key, err)
		}
	}
	if cerr != nil {
		return fmt.Errorf("calculate usage of ResourceQuota %q: %w", key, cerr)
	}
	return nil
}

// complete gives every hard resource its usage: as calculated, else, for "count/deployments.apps" and the like, as listed; what
// neither knows keeps the number that admission has counted so far.
func (c *Controller) complete(namespace string, q *v1.ResourceQuota, used v1.ResourceList) v1.ResourceList {
	out := v1.ResourceList{}
	for name := range q.Spec.Hard {
		if n, ok := used[name]; ok {
			out[name] = n
			continue
		}
		if kind, ok := strings.CutPrefix(string(name), "count/"); ok {
			gr := schema.ParseGroupResource(kind)
			if objs, err := (live{c.metadata, gr.WithVersion("v1")}).list(namespace, labels.Everything()); err == nil {
				out[name] = *resource.NewQuantity(int64(len(objs)), resource.DecimalSI)
				continue
			}
		}
		out[name] = q.Status.Used[name]
	}
	return out
}

// live lists a kind's metadata from the API whenever it is asked.
type live struct {
	client   metadata.Interface
	resource schema.GroupVersionResource
}

func (l live) List(sel labels.Selector) ([]runtime.Object, error) { return l.list("", sel) }

func (l live) Get(name string) (runtime.Object, error) {
	ctx, cancel := context.WithTimeout(context.Background(), loop.CallTimeout)
	defer cancel()
	return l.client.Resource(l.resource).Get(ctx, name, metav1.GetOptions{})
}

func (l live) ByNamespace(namespace string) cache.GenericNamespaceLister { return liveIn{l, namespace} }

func (l live) list(namespace string, sel labels.Selector) ([]runtime.Object, error) {
	ctx, cancel := context.WithTimeout(context.Background(), loop.CallTimeout)
	defer cancel()
	items, err := l.client.Resource(l.resource).Namespace(namespace).List(ctx, metav1.ListOptions{LabelSelector: sel.String()})
	if err != nil {
		return nil, fmt.Errorf("list %s in namespace %q: %w", l.resource.GroupResource(), namespace, err)
	}
	out := make([]runtime.Object, len(items.Items))
	for i := range items.Items {
		out[i] = &items.Items[i]
	}
	return out, nil
}

type liveIn struct {
	live
	namespace string
}

func (l liveIn) List(sel labels.Selector) ([]runtime.Object, error) { return l.list(l.namespace, sel) }

func (l liveIn) Get(name string) (runtime.Object, error) {
	ctx, cancel := context.WithTimeout(context.Background(), loop.CallTimeout)
	defer cancel()
	return l.client.Resource(l.resource).Namespace(l.namespace).Get(ctx, name, metav1.GetOptions{})
}
