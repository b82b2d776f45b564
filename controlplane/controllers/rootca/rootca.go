package rootca

import (
	"context"
	"fmt"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"

	"github.com/reevehq/reeve/controlplane/controllers/loop"
)

const (
	name       = "kube-root-ca.crt"
	key        = "ca.crt"
	annotation = "kubernetes.io/description"
	text       = "Contains a CA bundle that can be used to verify the kube-apiserver when using internal endpoints such as the internal service IP or kubernetes.default.svc. No other usage is guaranteed across distributions of Kubernetes clusters."
)

// Controller is the root CA publisher.
type Controller struct {
	*loop.Loop
	client     kubernetes.Interface
	bundle     string
	maps       corelisters.ConfigMapLister
	namespaces corelisters.NamespaceLister
}

// New makes the controller for a PEM bundle.
func New(env loop.Env, bundle []byte) (*Controller, error) {
	own := informers.NewSharedInformerFactoryWithOptions(env.Client, 0, informers.WithTweakListOptions(func(o *metav1.ListOptions) {
		o.FieldSelector = "metadata.name=" + name
	}))
	maps := own.Core().V1().ConfigMaps()
	nsInf := env.Informers.Core().V1().Namespaces()
	c := &Controller{client: env.Client, bundle: string(bundle), maps: maps.Lister(), namespaces: nsInf.Lister()}
	c.Loop = loop.New("root-ca-certificate-publisher-controller", env.Log, 2, c.reconcile)
	c.On(nsInf.Informer(), loop.Typed[*v1.Namespace]{
		Add:    func(ns *v1.Namespace) { c.Add(ns.Name) },
		Update: func(_, ns *v1.Namespace) { c.Add(ns.Name) },
	})
	again := func(m *v1.ConfigMap) {
		if m.Name == name {
			c.Add(m.Namespace)
		}
	}
	c.On(maps.Informer(), loop.Typed[*v1.ConfigMap]{Update: func(_, m *v1.ConfigMap) { again(m) }, Delete: again})
	c.First(func(ctx context.Context) { own.Start(ctx.Done()) })
	return c, nil
}

func (c *Controller) reconcile(ctx context.Context, namespace string) error {
	ns, err := c.namespaces.Get(namespace)
	if apierrors.IsNotFound(err) || err == nil && ns.Status.Phase == v1.NamespaceTerminating {
		return nil
	}
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, loop.CallTimeout)
	defer cancel()
	have, err := c.maps.ConfigMaps(namespace).Get(name)
	switch {
	case apierrors.IsNotFound(err):
		_, err = c.client.CoreV1().ConfigMaps(namespace).Create(ctx, &v1.ConfigMap{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Annotations: map[string]string{annotation: text}},
			Data:       map[string]string{key: c.bundle},
		}, metav1.CreateOptions{})
		if err == nil || apierrors.IsAlreadyExists(err) || apierrors.HasStatusCause(err, v1.NamespaceTerminatingCause) {
			return nil
		}
		return fmt.Errorf("create ConfigMap %q: %w", namespace+"/"+name, err)
	case err != nil:
		return err
	case len(have.Data) == 1 && have.Data[key] == c.bundle && have.Annotations[annotation] != "":
		return nil
	}
	next := have.DeepCopy()
	next.Data = map[string]string{key: c.bundle}
	if next.Annotations == nil {
		next.Annotations = map[string]string{}
	}
	next.Annotations[annotation] = text
	if _, err := c.client.CoreV1().ConfigMaps(namespace).Update(ctx, next, metav1.UpdateOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("update ConfigMap %q: %w", namespace+"/"+name, err)
	}
	return nil
}
