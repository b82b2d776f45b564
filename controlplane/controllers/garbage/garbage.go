package garbage

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"

	"github.com/reevehq/reeve/controlplane/controllers/loop"
	"github.com/reevehq/reeve/internal/logkey"
)

// workers: deletions wait on the API, and one owner may have thousands of dependents.
const workers = 8

// Collector is the garbage collector.
type Collector struct {
	graph    graph
	monitors monitors
	mapper   *mapper
	client   metadata.Interface
	recorder record.EventRecorder
	env      loop.Env
	remove   *loop.Loop
	orphans  *loop.Loop

	mu     sync.Mutex
	absent map[ident]time.Time // what a live look did not find; by all its names, since a reference may name a living UID wrongly
}

// New makes the collector.
func New(env loop.Env) (*Collector, error) {
	c := &Collector{
		graph: graph{nodes: map[types.UID]*node{}}, mapper: newMapper(), client: env.Metadata, env: env,
		recorder: env.Recorder("garbage-collector-controller"), absent: map[ident]time.Time{},
	}
	c.monitors = monitors{
		typed: env.Informers, begin: env.StartInformers, metadata: env.Metadata, disco: env.Client.Discovery(), mapper: c.mapper,
		running: map[schema.GroupVersionResource]*monitor{}, changed: make(chan struct{}, 1),
		events: c.event, gone: c.kindGone,
	}
	c.remove = loop.New("garbage-collector-controller", env.Log, workers, c.attempt)
	c.orphans = loop.New("garbage-collector-orphans", env.Log, workers, c.release)
	return c, nil
}

// Run collects until ctx ends.
func (c *Collector) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := c.monitors.follow(ctx); err != nil {
		c.env.Log.Warn("Started collecting garbage without some kinds", logkey.Err, err)
		c.monitors.nudge()
	}
	var wg sync.WaitGroup
	wg.Go(func() { c.monitors.run(ctx, c.env.Log.Warn) })
	errs := make([]error, 2)
	wg.Go(func() { errs[0] = c.remove.Run(ctx); cancel() })
	wg.Go(func() { errs[1] = c.orphans.Run(ctx); cancel() })
	wg.Wait()
	return errors.Join(errs...)
}

func (c *Collector) queue(p pending) {
	for _, u := range p.remove {
		c.remove.Add(string(u))
	}
	for _, u := range p.orphan {
		c.orphans.Add(string(u))
	}
}

func (c *Collector) event(kind schema.GroupVersionKind, o metav1.Object, gone bool) {
	id := ident{kind, o.GetNamespace(), o.GetName(), o.GetUID()}
	if gone {
		c.note(id)
		c.queue(c.graph.remove(id.uid))
		return
	}
	c.queue(c.graph.set(id, o))
}

// kindGone drops the objects of a kind that is no longer served.
func (c *Collector) kindGone(k schema.GroupVersionKind) {
	c.graph.mu.Lock()
	var uids []types.UID
	for uid, n := range c.graph.nodes {
		if n.GroupVersionKind == k && !n.virtual {
			uids = append(uids, uid)
		}
	}
	c.graph.mu.Unlock()
	for _, u := range uids {
		c.queue(c.graph.remove(u))
	}
}

// absentFor is how long a confirmed absence is believed; UIDs never come back, so this only bounds memory.
const absentFor = 10 * time.Minute

func (c *Collector) note(id ident) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	c.absent[id] = now
	if len(c.absent) > 4096 {
		for u, at := range c.absent {
			if now.Sub(at) > absentFor {
				delete(c.absent, u)
			}
		}
		if len(c.absent) > 4096 {
			c.absent = map[ident]time.Time{}
		}
	}
}

func (c *Collector) knownAbsent(id ident) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.absent[id]
	return ok
}

func (c *Collector) at(id ident) (metadata.ResourceInterface, error) {
	m, err := c.mapper.resource(id.GroupVersionKind)
	if err != nil {
		return nil, err
	}
	if m.namespaced {
		return c.client.Resource(m.GroupVersionResource).Namespace(id.namespace), nil
	}
	return c.client.Resource(m.GroupVersionResource), nil
}

// attempt decides about one object: whether it goes, loses owners, or may end its foreground deletion.
func (c *Collector) attempt(ctx context.Context, key string) error {
	v, ok := c.graph.view(types.UID(key))
	if !ok {
		return nil
	}
	if v.deleting && !v.foreground {
		return nil // on its way
	}
	ctx, cancel := context.WithTimeout(ctx, loop.CallTimeout)
	defer cancel()
	client, err := c.at(v.ident)
	if err != nil {
		return fmt.Errorf("find %s %q: %w", v.Kind, v.name, err)
	}
	live, err := client.Get(ctx, v.name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || err == nil && live.UID != v.uid {
		c.note(v.ident)
		if v.virtual {
			c.queue(c.graph.remove(v.uid)) // never seen, so no event will tell
		}
		return nil
	}
	if err != nil {
		return fmt.Errorf("get %s %q: %w", v.Kind, v.name, err)
	}
	if v.foreground {
		return c.awaitDependents(ctx, client, v, live)
	}
	if len(live.OwnerReferences) == 0 {
		return nil
	}
	solid, dangling, waiting, err := c.classify(ctx, v, live.OwnerReferences)
	if err != nil {
		return err
	}
	switch {
	case len(solid) > 0:
		if len(dangling)+len(waiting) == 0 {
			return nil
		}
		// Others still own it: it only loses those that are gone or going.
		return c.dropOwners(ctx, client, live, append(dangling, waiting...))
	case len(waiting) > 0 && len(v.dependents) > 0:
		for _, d := range v.dependents {
			if d.foreground { // a circle: nobody may block, or nobody ever goes
				if err := c.unblock(ctx, client, live); err != nil {
					return err
				}
				break
			}
		}
		return c.delete(ctx, client, v, live, metav1.DeletePropagationForeground)
	}
	policy := metav1.DeletePropagationBackground
	switch {
	case slices.Contains(live.Finalizers, metav1.FinalizerOrphanDependents):
		policy = metav1.DeletePropagationOrphan
	case slices.Contains(live.Finalizers, metav1.FinalizerDeleteDependents):
		policy = metav1.DeletePropagationForeground
	}
	return c.delete(ctx, client, v, live, policy)
}

// classify asks of each owner whether it exists, is gone, or is in foreground deletion and waits for this very object.
func (c *Collector) classify(ctx context.Context, v view, refs []metav1.OwnerReference) (solid, dangling, waiting []types.UID, err error) {
	for _, ref := range refs {
		id := ident{schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind), v.namespace, ref.Name, ref.UID}
		if c.knownAbsent(id) {
			dangling = append(dangling, ref.UID)
			continue
		}
		m, merr := c.mapper.resource(id.GroupVersionKind)
		if merr != nil {
			c.monitors.nudge()
			return nil, nil, nil, fmt.Errorf("find owner %s %q of %s %q: %w", ref.Kind, ref.Name, v.Kind, v.name, merr)
		}
		if m.namespaced && v.namespace == "" {
			// A cluster-wide object cannot be owned by one of a namespace: nobody knows which. Leave it alone.
			c.recorder.Eventf(&metav1.PartialObjectMetadata{
				TypeMeta:   metav1.TypeMeta{APIVersion: v.GroupVersion().String(), Kind: v.Kind},
				ObjectMeta: metav1.ObjectMeta{Name: v.name, UID: v.uid},
			}, "Warning", "OwnerRefInvalidNamespace", "ownerRef %s does not exist in namespace %q", ref.Kind+"/"+ref.Name, "")
			solid = append(solid, ref.UID)
			continue
		}
		client, cerr := c.at(id)
		if cerr != nil {
			return nil, nil, nil, cerr
		}
		owner, gerr := client.Get(ctx, ref.Name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(gerr), gerr == nil && owner.UID != ref.UID:
			c.note(id)
			dangling = append(dangling, ref.UID)
		case gerr != nil:
			return nil, nil, nil, fmt.Errorf("get owner %s %q: %w", ref.Kind, ref.Name, gerr)
		case owner.DeletionTimestamp != nil && slices.Contains(owner.Finalizers, metav1.FinalizerDeleteDependents):
			waiting = append(waiting, ref.UID)
		default:
			solid = append(solid, ref.UID)
		}
	}
	return solid, dangling, waiting, nil
}

// awaitDependents ends a foreground deletion once nothing blocks it; until then it sees to the dependents.
func (c *Collector) awaitDependents(ctx context.Context, client metadata.ResourceInterface, v view, live *metav1.PartialObjectMetadata) error {
	blocked := false
	for _, d := range v.dependents {
		if !d.blocks {
			continue
		}
		blocked = true
		if !d.foreground {
			c.remove.Add(string(d.uid))
		}
	}
	if blocked {
		return nil
	}
	return c.dropFinalizer(ctx, client, live, metav1.FinalizerDeleteDependents)
}

func (c *Collector) delete(ctx context.Context, client metadata.ResourceInterface, v view, live *metav1.PartialObjectMetadata, policy metav1.DeletionPropagation) error {
	if live.DeletionTimestamp != nil {
		return nil
	}
	err := client.Delete(ctx, v.name, metav1.DeleteOptions{
		PropagationPolicy: &policy,
		// Had it changed meanwhile, it may have got a new owner.
		Preconditions: &metav1.Preconditions{UID: &live.UID, ResourceVersion: &live.ResourceVersion},
	})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete %s %q: %w", v.Kind, v.namespace+"/"+v.name, err)
	}
	c.env.Log.Debug("Collected object", "kind", v.Kind, "name", v.namespace+"/"+v.name, "policy", policy)
	return nil
}

func (c *Collector) dropOwners(ctx context.Context, client metadata.ResourceInterface, live *metav1.PartialObjectMetadata, uids []types.UID) error {
	keep := slices.DeleteFunc(slices.Clone(live.OwnerReferences), func(r metav1.OwnerReference) bool { return slices.Contains(uids, r.UID) })
	return c.patchOwners(ctx, client, live, keep)
}

func (c *Collector) unblock(ctx context.Context, client metadata.ResourceInterface, live *metav1.PartialObjectMetadata) error {
	refs := slices.Clone(live.OwnerReferences)
	for i := range refs {
		refs[i].BlockOwnerDeletion = ptr.To(false)
	}
	if err := c.patchOwners(ctx, client, live, refs); err != nil {
		return err
	}
	fresh, err := client.Get(ctx, live.Name, metav1.GetOptions{})
	if err == nil {
		*live = *fresh
	}
	return err
}

// patchOwners replaces the list; the resource version in it makes sure that nobody changed it since.
func (c *Collector) patchOwners(ctx context.Context, client metadata.ResourceInterface, live *metav1.PartialObjectMetadata, refs []metav1.OwnerReference) error {
	if refs == nil {
		refs = []metav1.OwnerReference{}
	}
	return c.patch(ctx, client, live, map[string]any{"ownerReferences": refs})
}

func (c *Collector) dropFinalizer(ctx context.Context, client metadata.ResourceInterface, live *metav1.PartialObjectMetadata, name string) error {
	if !slices.Contains(live.Finalizers, name) {
		return nil
	}
	keep := slices.DeleteFunc(slices.Clone(live.Finalizers), func(f string) bool { return f == name })
	if keep == nil {
		keep = []string{}
	}
	return c.patch(ctx, client, live, map[string]any{"finalizers": keep})
}

func (c *Collector) patch(ctx context.Context, client metadata.ResourceInterface, live *metav1.PartialObjectMetadata, m map[string]any) error {
	m["uid"], m["resourceVersion"] = live.UID, live.ResourceVersion
	body, err := json.Marshal(map[string]any{"metadata": m})
	if err != nil {
		return fmt.Errorf("encode patch of %q: %w", live.Name, err)
	}
	_, err = client.Patch(ctx, live.Name, types.MergePatchType, body, metav1.PatchOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("patch %q: %w", live.Namespace+"/"+live.Name, err)
	}
	return nil
}

// release takes an owner that is deleted with orphaning out of its dependents, then lets it go.
func (c *Collector) release(ctx context.Context, key string) error {
	v, ok := c.graph.view(types.UID(key))
	if !ok {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, loop.CallTimeout)
	defer cancel()
	errs := make([]error, len(v.dependents))
	var wg sync.WaitGroup
	slots := make(chan struct{}, workers)
	for i, d := range v.dependents {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			errs[i] = c.releaseOne(ctx, d.ident, v.uid)
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("orphan dependents of %s %q: %w", v.Kind, v.name, err)
	}
	client, err := c.at(v.ident)
	if err != nil {
		return err
	}
	live, err := client.Get(ctx, v.name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || err == nil && live.UID != v.uid {
		return nil
	}
	if err != nil {
		return fmt.Errorf("get %s %q: %w", v.Kind, v.name, err)
	}
	return c.dropFinalizer(ctx, client, live, metav1.FinalizerOrphanDependents)
}

func (c *Collector) releaseOne(ctx context.Context, id ident, owner types.UID) error {
	client, err := c.at(id)
	if err != nil {
		return err
	}
	for {
		live, err := client.Get(ctx, id.name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) || err == nil && (live.UID != id.uid || !hasUID(live.OwnerReferences, owner)) {
			return nil
		}
		if err != nil {
			return err
		}
		if err = c.dropOwners(ctx, client, live, []types.UID{owner}); !apierrors.IsConflict(err) {
			return err
		}
	}
}
