package namespace

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/metadata"
	"k8s.io/utils/ptr"

	"github.com/reevehq/reeve/controlplane/controllers/loop"
	"github.com/reevehq/reeve/internal/logkey"
)

// A namespace that is not empty yet is looked at again after lookMin, doubled up to lookMax.
const (
	lookMin = 50 * time.Millisecond
	lookMax = 5 * time.Second
	// parallel kinds are listed at once.
	parallel = 8
)

// Controller is the namespace controller.
type Controller struct {
	*loop.Loop
	client     kubernetes.Interface
	metadata   metadata.Interface
	namespaces corelisters.NamespaceLister

	mu    sync.Mutex
	looks map[string]int // by UID
}

// New makes the controller.
func New(env loop.Env) (*Controller, error) {
	core := env.Informers.Core().V1()
	c := &Controller{client: env.Client, metadata: env.Metadata, namespaces: core.Namespaces().Lister(), looks: map[string]int{}}
	c.Loop = loop.New("namespace-controller", env.Log, 5, c.reconcile)
	terminating := func(ns *v1.Namespace) {
		if ns.DeletionTimestamp != nil {
			c.Add(ns.Name)
		}
	}
	c.On(core.Namespaces().Informer(), loop.Typed[*v1.Namespace]{Add: terminating, Update: func(_, ns *v1.Namespace) { terminating(ns) }})
	c.On(core.Pods().Informer(), loop.Typed[*v1.Pod]{Delete: func(p *v1.Pod) {
		if ns, err := c.namespaces.Get(p.Namespace); err == nil {
			terminating(ns)
		}
	}})
	return c, nil
}

func (c *Controller) reconcile(ctx context.Context, name string) error {
	cached, err := c.namespaces.Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if cached.DeletionTimestamp == nil {
		return nil
	}
	cctx, cancel := context.WithTimeout(ctx, loop.CallTimeout)
	defer cancel()
	ns, err := c.client.CoreV1().Namespaces().Get(cctx, name, metav1.GetOptions{}) // the cache may lag behind our own last write
	if apierrors.IsNotFound(err) || err == nil && ns.UID != cached.UID {
		return nil
	}
	if err != nil {
		return fmt.Errorf("get namespace %q: %w", name, err)
	}
	if ns.DeletionTimestamp == nil || !slices.Contains(ns.Spec.Finalizers, v1.FinalizerKubernetes) {
		return nil
	}
	if ns.Status.Phase != v1.NamespaceTerminating {
		ns = ns.DeepCopy()
		ns.Status.Phase = v1.NamespaceTerminating
		if ns, err = c.client.CoreV1().Namespaces().UpdateStatus(cctx, ns, metav1.UpdateOptions{}); err != nil {
			if apierrors.IsNotFound(err) {
				return nil
			}
			return fmt.Errorf("write phase of namespace %q: %w", name, err)
		}
	}
	found := c.empty(ctx, name)
	if err := c.report(ctx, ns, found); err != nil {
		return err
	}
	if err := found.err(); err != nil {
		return err
	}
	if found.left() > 0 {
		c.lookAgain(ns)
		return nil
	}
	c.mu.Lock()
	delete(c.looks, string(ns.UID))
	c.mu.Unlock()
	return c.finalize(ctx, ns)
}

func (c *Controller) lookAgain(ns *v1.Namespace) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.looks[string(ns.UID)]
	c.looks[string(ns.UID)]++
	c.AddAfter(ns.Name, min(lookMin<<min(n, 10), lookMax))
}

// finalize takes our finalizer away, upon which the API removes the namespace.
func (c *Controller) finalize(ctx context.Context, ns *v1.Namespace) error {
	ctx, cancel := context.WithTimeout(ctx, loop.CallTimeout)
	defer cancel()
	live, err := c.client.CoreV1().Namespaces().Get(ctx, ns.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || err == nil && live.UID != ns.UID {
		return nil
	}
	if err != nil {
		return fmt.Errorf("get namespace %q: %w", ns.Name, err)
	}
	live = live.DeepCopy()
	live.Spec.Finalizers = slices.DeleteFunc(live.Spec.Finalizers, func(f v1.FinalizerName) bool { return f == v1.FinalizerKubernetes })
	if _, err := c.client.CoreV1().Namespaces().Finalize(ctx, live, metav1.UpdateOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("finalize namespace %q: %w", ns.Name, err)
	}
	c.Log().Info("Emptied namespace", "namespace", ns.Name)
	return nil
}

// findings is what a look at a namespace brought.
type findings struct {
	discovery  error
	deletion   []error
	remaining  map[string]int // kinds, "pods." or "certificates.cert-manager.io"
	finalizers map[string]int
}

func (f *findings) left() (n int) {
	for _, k := range f.remaining {
		n += k
	}
	return n
}

func (f *findings) err() error {
	return errors.Join(append([]error{f.discovery}, f.deletion...)...)
}

// empty deletes what it finds, pods first, and says what remains.
func (c *Controller) empty(ctx context.Context, namespace string) *findings {
	f := &findings{remaining: map[string]int{}, finalizers: map[string]int{}}
	kinds, err := c.kinds()
	if err != nil {
		f.discovery = err
	}
	pods := slices.IndexFunc(kinds, func(r kind) bool { return r.Resource == "pods" && r.Group == "" })
	if pods >= 0 {
		c.emptyKind(ctx, namespace, kinds[pods], f, &sync.Mutex{})
		if f.left() > 0 || len(f.deletion) > 0 {
			return f // what pods need to end well (their ConfigMaps, accounts, …) stays as long as they do
		}
		kinds = slices.Delete(kinds, pods, pods+1)
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	slots := make(chan struct{}, parallel)
	for _, k := range kinds {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			c.emptyKind(ctx, namespace, k, f, &mu)
		})
	}
	wg.Wait()
	return f
}

type kind struct {
	schema.GroupVersionResource
	collection bool // can be deleted as a whole
}

// kinds lists the namespaced kinds that can be listed and deleted. With an error, the ones known are returned too.
func (c *Controller) kinds() ([]kind, error) {
	lists, err := discovery.ServerPreferredNamespacedResources(c.client.Discovery())
	var out []kind
	for _, l := range lists {
		gv, perr := schema.ParseGroupVersion(l.GroupVersion)
		if perr != nil {
			err = errors.Join(err, perr)
			continue
		}
		for _, r := range l.APIResources {
			if strings.Contains(r.Name, "/") || !slices.Contains(r.Verbs, "list") || !slices.Contains(r.Verbs, "delete") {
				continue
			}
			if r.Name == "events" && gv.Group == "events.k8s.io" {
				continue // the same objects as core events
			}
			out = append(out, kind{gv.WithResource(r.Name), slices.Contains(r.Verbs, "deletecollection")})
		}
	}
	if err != nil {
		return out, fmt.Errorf("discover kinds: %w", err)
	}
	return out, nil
}

func (c *Controller) emptyKind(ctx context.Context, namespace string, k kind, f *findings, mu *sync.Mutex) {
	ctx, cancel := context.WithTimeout(ctx, loop.CallTimeout)
	defer cancel()
	client := c.metadata.Resource(k.GroupVersionResource).Namespace(namespace)
	fail := func(verb string, err error) {
		if apierrors.IsNotFound(err) || apierrors.IsMethodNotSupported(err) {
			return // the kind went away meanwhile
		}
		mu.Lock()
		f.deletion = append(f.deletion, fmt.Errorf("%s %s in namespace %q: %w", verb, k.GroupResource(), namespace, err))
		mu.Unlock()
	}
	items, err := client.List(ctx, metav1.ListOptions{})
	if err != nil {
		fail("list", err)
		return
	}
	if len(items.Items) == 0 {
		return
	}
	background := metav1.DeleteOptions{PropagationPolicy: ptr.To(metav1.DeletePropagationBackground)}
	fresh := slices.ContainsFunc(items.Items, func(o metav1.PartialObjectMetadata) bool { return o.DeletionTimestamp == nil })
	if fresh {
		if k.collection {
			err = client.DeleteCollection(ctx, background, metav1.ListOptions{})
		}
		if !k.collection || apierrors.IsMethodNotSupported(err) {
			err = nil
			for _, o := range items.Items {
				if o.DeletionTimestamp != nil {
					continue
				}
				if derr := client.Delete(ctx, o.Name, background); derr != nil && !apierrors.IsNotFound(derr) {
					err = derr
				}
			}
		}
		if err != nil {
			fail("delete", err)
			return
		}
		if items, err = client.List(ctx, metav1.ListOptions{}); err != nil {
			fail("list", err)
			return
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if n := len(items.Items); n > 0 {
		f.remaining[k.GroupResource().String()] += n
	}
	for _, o := range items.Items {
		for _, fin := range o.Finalizers {
			f.finalizers[fin]++
		}
	}
}

// conditions says in the namespace's status what a look brought.
func conditions(have []v1.NamespaceCondition, f *findings, now metav1.Time) []v1.NamespaceCondition {
	out := slices.Clone(have)
	set := func(t v1.NamespaceConditionType, bad bool, badReason, goodReason, badMsg, goodMsg string) {
		c := v1.NamespaceCondition{Type: t, Status: v1.ConditionFalse, Reason: goodReason, Message: goodMsg, LastTransitionTime: now}
		if bad {
			c.Status, c.Reason, c.Message = v1.ConditionTrue, badReason, badMsg
		}
		i := slices.IndexFunc(out, func(o v1.NamespaceCondition) bool { return o.Type == t })
		if i < 0 {
			out = append(out, c)
			return
		}
		if out[i].Status == c.Status {
			c.LastTransitionTime = out[i].LastTransitionTime
		}
		out[i] = c
	}
	text := func(err error) string {
		if err == nil {
			return ""
		}
		return err.Error()
	}
	counts := func(m map[string]int, format string) string {
		var parts []string
		for k, n := range m {
			parts = append(parts, fmt.Sprintf(format, k, n))
		}
		slices.Sort(parts)
		return strings.Join(parts, ", ")
	}
	set(v1.NamespaceDeletionDiscoveryFailure, f.discovery != nil, "DiscoveryFailed", "ResourcesDiscovered",
		"Discovery failed for some groups: "+text(f.discovery), "All resources successfully discovered")
	set(v1.NamespaceDeletionGVParsingFailure, false, "GroupVersionParsingFailed", "ParsedGroupVersions", "", "All legacy kube types successfully parsed")
	set(v1.NamespaceDeletionContentFailure, len(f.deletion) > 0, "ContentDeletionFailed", "ContentDeleted",
		"Failed to delete all resource types, remaining: "+text(errors.Join(f.deletion...)), "All content successfully deleted, may be waiting on finalization")
	set(v1.NamespaceContentRemaining, len(f.remaining) > 0, "SomeResourcesRemain", "ContentRemoved",
		"Some resources are remaining: "+counts(f.remaining, "%s has %d resource instances"), "All content successfully removed")
	set(v1.NamespaceFinalizersRemaining, len(f.finalizers) > 0, "SomeFinalizersRemain", "ContentHasNoFinalizers",
		"Some content in the namespace has finalizers remaining: "+counts(f.finalizers, "%s in %d resource instances"), "All content-preserving finalizers finished")
	return out
}

// report writes conditions when something holds the namespace up; an emptied one is about to go and needs no words.
func (c *Controller) report(ctx context.Context, ns *v1.Namespace, f *findings) error {
	if f.err() == nil && f.left() == 0 {
		return nil
	}
	next := ns.DeepCopy()
	next.Status.Conditions = conditions(ns.Status.Conditions, f, metav1.Now())
	if equality.Semantic.DeepEqual(ns.Status.Conditions, next.Status.Conditions) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, loop.CallTimeout)
	defer cancel()
	_, err := c.client.CoreV1().Namespaces().UpdateStatus(ctx, next, metav1.UpdateOptions{})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("write conditions of namespace %q: %w", ns.Name, err)
	}
	c.Log().Debug("Waited for content to go", "namespace", ns.Name, "remaining", f.remaining, logkey.Err, f.err())
	return nil
}
