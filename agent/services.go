package agent

import (
	"context"
	"errors"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/reevehq/reeve/agent/container"
)

// services are all Services of the cluster, cut down to what environment variables are made of.
type services struct {
	index  cache.Indexer
	run    func(ctx context.Context)
	synced func() bool
}

func newServices(client kubernetes.Interface) *services {
	lw := cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			return client.CoreV1().Services("").List(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return client.CoreV1().Services("").Watch(ctx, o)
		},
	}, client)
	store, inf := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: lw, ObjectType: &v1.Service{}, Transform: trimService, Handler: cache.ResourceEventHandlerFuncs{},
		Indexers: cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc},
	})
	return &services{index: store.(cache.Indexer), run: inf.RunWithContext, synced: inf.HasSynced}
}

func trimService(obj any) (any, error) {
	s, ok := obj.(*v1.Service)
	if !ok {
		return obj, nil
	}
	out := &v1.Service{ObjectMeta: metav1.ObjectMeta{Name: s.Name, Namespace: s.Namespace, UID: s.UID, ResourceVersion: s.ResourceVersion}}
	out.Spec.ClusterIP, out.Spec.ClusterIPs, out.Spec.Type = s.Spec.ClusterIP, s.Spec.ClusterIPs, s.Spec.Type
	for _, p := range s.Spec.Ports {
		out.Spec.Ports = append(out.Spec.Ports, v1.ServicePort{Name: p.Name, Protocol: p.Protocol, Port: p.Port})
	}
	return out, nil
}

// syncPoll is how often a first list that is still on its way is asked for.
const syncPoll = 10 * time.Millisecond

// of returns the Services whose variables a pod may see. It waits for the first list: a container whose environment lacks
// what is there would lack it for life. A static pod does not wait: it may be the API server that has the list.
func (s *services) of(ctx context.Context, pod *v1.Pod) ([]*v1.Service, error) {
	namespace := pod.Namespace
	for !s.synced() && !container.IsStatic(pod) {
		select {
		case <-ctx.Done():
			return nil, errors.New("services have not yet been read at least once, cannot construct envvars")
		case <-time.After(syncPoll):
		}
	}
	var out []*v1.Service
	for _, ns := range []string{namespace, metav1.NamespaceDefault} {
		objs, err := s.index.ByIndex(cache.NamespaceIndex, ns)
		if err != nil {
			continue
		}
		for _, o := range objs {
			if svc := o.(*v1.Service); ns == namespace || svc.Name == "kubernetes" {
				out = append(out, svc)
			}
		}
		if namespace == metav1.NamespaceDefault {
			break
		}
	}
	return out, nil
}
