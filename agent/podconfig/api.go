package podconfig

import (
	"context"
	"fmt"
	"maps"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// Receiver takes what sources tell. Its methods are called from the sources' goroutines, in order per source, and may
// block the source but nothing else. Pods are shared: read only.
type Receiver interface {
	SetPod(source Source, pod *v1.Pod)
	DropPod(source Source, pod *v1.Pod)
	Synced(source Source)
}

// Source is where a pod comes from, as in the annotation kubernetes.io/config.source.
type Source string

const (
	API  Source = "api"
	File Source = "file"
)

// RunAPI tells of the pods bound to node until ctx ends.
func RunAPI(ctx context.Context, client kubernetes.Interface, node string, to Receiver) error {
	sel := fields.OneTermEqualSelector("spec.nodeName", node).String()
	lw := cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.FieldSelector = sel
			return client.CoreV1().Pods("").List(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.FieldSelector = sel
			return client.CoreV1().Pods("").Watch(ctx, o)
		},
	}, client)
	pod := func(obj any) *v1.Pod {
		if d, ok := obj.(cache.DeletedFinalStateUnknown); ok {
			obj = d.Obj
		}
		p, _ := obj.(*v1.Pod)
		return p
	}
	_, inf := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: lw, ObjectType: &v1.Pod{}, Transform: trim,
		Handler: cache.ResourceEventHandlerDetailedFuncs{
			AddFunc: func(obj any, _ bool) { to.SetPod(API, pod(obj)) },
			UpdateFunc: func(_, obj any) {
				to.SetPod(API, pod(obj))
			},
			DeleteFunc: func(obj any) {
				if p := pod(obj); p != nil {
					to.DropPod(API, p)
				}
			},
		},
	})
	go func() {
		if cache.WaitForCacheSync(ctx.Done(), inf.HasSynced) {
			to.Synced(API)
		}
	}()
	inf.RunWithContext(ctx)
	return nil
}

// trim drops what the agent never reads and every pod carries.
func trim(obj any) (any, error) {
	p, ok := obj.(*v1.Pod)
	if !ok {
		return obj, fmt.Errorf("watch pods: got a %T", obj)
	}
	c := *p
	c.ManagedFields = nil
	if _, ok := c.Annotations[v1.LastAppliedConfigAnnotation]; ok {
		c.Annotations = maps.Clone(c.Annotations)
		delete(c.Annotations, v1.LastAppliedConfigAnnotation)
	}
	return &c, nil
}
