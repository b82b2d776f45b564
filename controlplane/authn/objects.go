package authn

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
)

// lookupTimeout bounds one live read of an object that a token names: authentication must not hang on a slow store.
const lookupTimeout = 5 * time.Second

// Objects finds the live objects that service-account tokens are bound to. Each method returns a NotFound API error for
// an object that does not exist; what it returns is shared and must not be changed.
type Objects interface {
	ServiceAccount(ctx context.Context, namespace, name string) (*corev1.ServiceAccount, error)
	Pod(ctx context.Context, namespace, name string) (*corev1.Pod, error)
	Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error)
	Node(ctx context.Context, name string) (*corev1.Node, error)
}

// SecretGetter finds one Secret of kube-system by name; NotFound API error when there is none.
type SecretGetter interface {
	Get(name string) (*corev1.Secret, error)
}

// ClusterObjects answers Objects from informers, asking the API only for what they have not seen yet (an object made a
// moment ago), and holds the bootstrap-token Secrets, the only Secrets kept in memory here.
type ClusterObjects struct {
	client   kubernetes.Interface
	accounts corelisters.ServiceAccountLister
	pods     corelisters.PodLister
	nodes    corelisters.NodeLister

	bootstrap       informers.SharedInformerFactory
	bootstrapLister corelisters.SecretNamespaceLister
}

// NewClusterObjects registers its informers with shared, so call it before shared is started. client reads live.
func NewClusterObjects(client kubernetes.Interface, shared informers.SharedInformerFactory) *ClusterObjects {
	bootstrap := informers.NewSharedInformerFactoryWithOptions(client, 0,
		informers.WithNamespace(metav1.NamespaceSystem),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) {
			o.FieldSelector = "type=" + string(corev1.SecretTypeBootstrapToken)
		}),
		informers.WithTransform(stripManagedFields))
	core := shared.Core().V1()
	o := &ClusterObjects{
		client:    client,
		accounts:  core.ServiceAccounts().Lister(),
		pods:      core.Pods().Lister(),
		nodes:     core.Nodes().Lister(),
		bootstrap: bootstrap,
	}
	// Asking for the informer, not only the lister, is what registers it with the factory.
	core.ServiceAccounts().Informer()
	core.Pods().Informer()
	core.Nodes().Informer()
	o.bootstrapLister = bootstrap.Core().V1().Secrets().Lister().Secrets(metav1.NamespaceSystem)
	bootstrap.Core().V1().Secrets().Informer()
	return o
}

func stripManagedFields(obj any) (any, error) {
	if m, ok := obj.(metav1.Object); ok {
		m.SetManagedFields(nil)
	}
	return obj, nil
}

// Run watches the bootstrap-token Secrets until ctx ends; it returns when the watch has stopped.
func (o *ClusterObjects) Run(ctx context.Context) {
	o.bootstrap.StartWithContext(ctx)
	<-ctx.Done()
	o.bootstrap.Shutdown()
}

// BootstrapTokens is the SecretGetter for Config.BootstrapTokens. It knows nothing until Run has listed once.
func (o *ClusterObjects) BootstrapTokens() SecretGetter { return o.bootstrapLister }

// ServiceAccount asks the informer, and the API where that does not know the account (yet), so that a token of a new one
// works at once. The error is the API's: NotFound where there is none.
func (o *ClusterObjects) ServiceAccount(ctx context.Context, namespace, name string) (*corev1.ServiceAccount, error) {
	if sa, err := o.accounts.ServiceAccounts(namespace).Get(name); err == nil {
		return sa, nil
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	return o.client.CoreV1().ServiceAccounts(namespace).Get(ctx, name, metav1.GetOptions{})
}

// Pod is looked up as ServiceAccount is.
func (o *ClusterObjects) Pod(ctx context.Context, namespace, name string) (*corev1.Pod, error) {
	if pod, err := o.pods.Pods(namespace).Get(name); err == nil {
		return pod, nil
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	return o.client.CoreV1().Pods(namespace).Get(ctx, name, metav1.GetOptions{})
}

// Secret always reads live: no informer holds the cluster's Secrets here, and only tokens with a good signature get
// this far.
func (o *ClusterObjects) Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error) {
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	return o.client.CoreV1().Secrets(namespace).Get(ctx, name, metav1.GetOptions{})
}

// Node is looked up as ServiceAccount is.
func (o *ClusterObjects) Node(ctx context.Context, name string) (*corev1.Node, error) {
	if node, err := o.nodes.Get(name); err == nil {
		return node, nil
	}
	ctx, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	return o.client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
}

var _ Objects = (*ClusterObjects)(nil)

// gone says whether err means that the object does not exist, as opposed to that it could not be looked up.
func gone(err error) bool { return apierrors.IsNotFound(err) }
