package dns

import (
	"context"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/reevehq/reeve/internal/mirror"
)

// watchAll keeps the records current until ctx ends.
func watchAll(ctx context.Context, client kubernetes.Interface, r *records) {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		api := client.CoreV1().Services(metav1.NamespaceAll)
		mirror.Run(ctx, "dns services", &cache.ListWatch{
			ListWithContextFunc:  func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return api.List(ctx, o) },
			WatchFuncWithContext: api.Watch,
		}, client, mirror.Sink[*corev1.Service]{Replace: r.replaceServices, Set: r.setService, Delete: r.deleteService})
	})
	wg.Go(func() {
		api := client.DiscoveryV1().EndpointSlices(metav1.NamespaceAll)
		mirror.Run(ctx, "dns endpointslices", &cache.ListWatch{
			ListWithContextFunc:  func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return api.List(ctx, o) },
			WatchFuncWithContext: api.Watch,
		}, client, mirror.Sink[*discoveryv1.EndpointSlice]{Replace: r.replaceSlices, Set: r.setSlice, Delete: r.deleteSlice})
	})
	wg.Go(func() {
		api := client.CoreV1().Namespaces()
		mirror.Run(ctx, "dns namespaces", &cache.ListWatch{
			ListWithContextFunc:  func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) { return api.List(ctx, o) },
			WatchFuncWithContext: api.Watch,
		}, client, mirror.Sink[*corev1.Namespace]{
			Replace: func(all []*corev1.Namespace) {
				names := make([]string, 0, len(all))
				for _, n := range all {
					names = append(names, n.Name)
				}
				r.replaceNamespaces(names)
			},
			Set:    func(n *corev1.Namespace) { r.setNamespace(n.Name) },
			Delete: func(n *corev1.Namespace) { r.deleteNamespace(n.Name) },
		})
	})
}
