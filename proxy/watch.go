package proxy

import (
	"context"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/reevehq/reeve/internal/mirror"
	"github.com/reevehq/reeve/proxy/plan"
)

// watchAll keeps the tracker current until ctx ends, with one watch each for Services, EndpointSlices and this Node.
// What no proxy or another proxy looks after is left out by the server.
func watchAll(ctx context.Context, client kubernetes.Interface, t *tracker) {
	notForeign := "!" + plan.ServiceProxyNameLabel
	notHeadless := notForeign + ",!" + corev1.IsHeadlessService
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		api := client.CoreV1().Services(metav1.NamespaceAll)
		mirror.Run(ctx, "proxy services", listWatch(
			func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return api.List(ctx, o) },
			api.Watch, func(o *metav1.ListOptions) { o.LabelSelector = notForeign },
		), client, mirror.Sink[*corev1.Service]{Replace: t.replaceServices, Set: t.setService, Delete: t.deleteService})
	})
	wg.Go(func() {
		api := client.DiscoveryV1().EndpointSlices(metav1.NamespaceAll)
		mirror.Run(ctx, "proxy endpointslices", listWatch(
			func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return api.List(ctx, o) },
			api.Watch, func(o *metav1.ListOptions) { o.LabelSelector = notHeadless },
		), client, mirror.Sink[*discoveryv1.EndpointSlice]{Replace: t.replaceSlices, Set: t.setSlice, Delete: t.deleteSlice})
	})
	wg.Go(func() {
		api := client.CoreV1().Nodes()
		mirror.Run(ctx, "proxy node", listWatch(
			func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return api.List(ctx, o) },
			api.Watch, func(o *metav1.ListOptions) { o.FieldSelector = "metadata.name=" + t.nodeName },
		), client, mirror.Sink[*corev1.Node]{Replace: t.replaceNode, Set: t.setNode, Delete: func(*corev1.Node) {}})
	})
}

func listWatch(
	list func(context.Context, metav1.ListOptions) (runtime.Object, error),
	watchFn func(context.Context, metav1.ListOptions) (watch.Interface, error),
	narrow func(*metav1.ListOptions),
) *cache.ListWatch {
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			narrow(&o)
			return list(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			narrow(&o)
			return watchFn(ctx, o)
		},
	}
}
