package bootstrap

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"

	"github.com/reevehq/reeve/controlplane/controllers/loop"
)

// tokens is an informer factory that sees bootstrap tokens only.
func tokens(client kubernetes.Interface) informers.SharedInformerFactory {
	return informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(metav1.NamespaceSystem),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.FieldSelector = "type=" + string(secretType) }))
}

// Cleaner deletes expired tokens.
type Cleaner struct {
	*loop.Loop
	client  kubernetes.Interface
	secrets corelisters.SecretLister
}

// NewCleaner makes the controller.
func NewCleaner(env loop.Env) (*Cleaner, error) {
	own := tokens(env.Client)
	inf := own.Core().V1().Secrets()
	c := &Cleaner{client: env.Client, secrets: inf.Lister()}
	c.Loop = loop.New("token-cleaner-controller", env.Log, 1, c.reconcile)
	c.Watch(inf.Informer())
	c.First(func(ctx context.Context) { own.Start(ctx.Done()) })
	return c, nil
}

func (c *Cleaner) reconcile(ctx context.Context, key string) error {
	_, name, _ := strings.Cut(key, "/")
	s, err := c.secrets.Secrets(metav1.NamespaceSystem).Get(name)
	if apierrors.IsNotFound(err) || err == nil && s.Type != secretType {
		return nil
	}
	if err != nil {
		return err
	}
	at, expires := expiry(s)
	if !expires {
		return nil
	}
	if left := time.Until(at); left > 0 {
		c.AddAfter(key, left)
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, loop.CallTimeout)
	defer cancel()
	err = c.client.CoreV1().Secrets(s.Namespace).Delete(ctx, name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(s.UID))})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete expired bootstrap token %q: %w", name, err)
	}
	c.Log().Info("Deleted expired bootstrap token", "secret", name)
	return nil
}

// Signer keeps the cluster-info signed by every token made for it.
type Signer struct {
	*loop.Loop
	client  kubernetes.Interface
	secrets corelisters.SecretLister
	maps    corelisters.ConfigMapLister
}

// NewSigner makes the controller.
func NewSigner(env loop.Env) (*Signer, error) {
	toks := tokens(env.Client)
	infos := informers.NewSharedInformerFactoryWithOptions(env.Client, 0, informers.WithNamespace(metav1.NamespacePublic),
		informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.FieldSelector = "metadata.name=" + infoName }))
	sec, cm := toks.Core().V1().Secrets(), infos.Core().V1().ConfigMaps()
	s := &Signer{client: env.Client, secrets: sec.Lister(), maps: cm.Lister()}
	s.Loop = loop.New("bootstrap-signer-controller", env.Log, 1, s.reconcile)
	again := loop.Each(func(any) { s.Add(infoName) })
	s.On(sec.Informer(), again)
	s.On(cm.Informer(), again)
	s.First(func(ctx context.Context) { toks.Start(ctx.Done()); infos.Start(ctx.Done()) })
	return s, nil
}

// signed is the ConfigMap's data with exactly the signatures that the tokens call for.
func signed(data map[string]string, secrets []*v1.Secret, now time.Time) map[string]string {
	out := maps.Clone(data)
	maps.DeleteFunc(out, func(k, _ string) bool { return strings.HasPrefix(k, infoSignature) })
	for _, s := range secrets {
		if id, secret, ok := signing(s, now); ok {
			out[infoSignature+id] = sign(data[infoKey], id, secret)
		}
	}
	return out
}

func (s *Signer) reconcile(ctx context.Context, _ string) error {
	info, err := s.maps.ConfigMaps(metav1.NamespacePublic).Get(infoName)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if info.Data[infoKey] == "" {
		return nil
	}
	secrets, err := s.secrets.Secrets(metav1.NamespaceSystem).List(labels.Everything())
	if err != nil {
		return err
	}
	data := signed(info.Data, secrets, time.Now())
	if maps.Equal(data, info.Data) {
		return nil
	}
	next := info.DeepCopy()
	next.Data = data
	ctx, cancel := context.WithTimeout(ctx, loop.CallTimeout)
	defer cancel()
	if _, err := s.client.CoreV1().ConfigMaps(info.Namespace).Update(ctx, next, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("sign ConfigMap %q: %w", infoName, err)
	}
	return nil
}
