package serviceaccount

import (
	"context"
	"fmt"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"

	"github.com/reevehq/reeve/controlplane/controllers/loop"
)

const name = "default"

// Controller is the service account controller.
type Controller struct {
	*loop.Loop
	client     kubernetes.Interface
	accounts   corelisters.ServiceAccountLister
	namespaces corelisters.NamespaceLister
}

// New makes the controller.
func New(env loop.Env) (*Controller, error) {
	core := env.Informers.Core().V1()
	c := &Controller{client: env.Client, accounts: core.ServiceAccounts().Lister(), namespaces: core.Namespaces().Lister()}
	c.Loop = loop.New("serviceaccount-controller", env.Log, 2, c.reconcile)
	c.On(core.Namespaces().Informer(), loop.Typed[*v1.Namespace]{
		Add:    func(ns *v1.Namespace) { c.Add(ns.Name) },
		Update: func(_, ns *v1.Namespace) { c.Add(ns.Name) },
	})
	c.On(core.ServiceAccounts().Informer(), loop.Typed[*v1.ServiceAccount]{Delete: func(sa *v1.ServiceAccount) {
		if sa.Name == name {
			c.Add(sa.Namespace)
		}
	}})
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
	if _, err := c.accounts.ServiceAccounts(namespace).Get(name); err == nil || !apierrors.IsNotFound(err) {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, loop.CallTimeout)
	defer cancel()
	_, err = c.client.CoreV1().ServiceAccounts(namespace).Create(ctx, &v1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}, metav1.CreateOptions{})
	if err == nil || apierrors.IsAlreadyExists(err) || apierrors.HasStatusCause(err, v1.NamespaceTerminatingCause) {
		return nil
	}
	return fmt.Errorf("create service account %q: %w", namespace+"/"+name, err)
}
