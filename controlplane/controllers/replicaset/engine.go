package replicaset

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/cache"

	"github.com/reevehq/reeve/controlplane/controllers/loop"
	"github.com/reevehq/reeve/controlplane/controllers/owner"
	"github.com/reevehq/reeve/controlplane/controllers/podctl"
)

// Set is a ReplicaSet or ReplicationController as the engine sees it.
type Set struct {
	metav1.Object
	Runtime         runtime.Object // for events
	Generation      int64
	Replicas        int32
	MinReadySeconds int32
	Selector        labels.Selector
	Template        *v1.PodTemplateSpec
	Status          State
	// CountsTerminating says that the kind's status has a place for the number of pods on their way out.
	CountsTerminating bool
}

// State is the status of a Set.
type State struct {
	Replicas, FullyLabeled, Ready, Available int32
	Terminating                              *int32
	ObservedGeneration                       int64
	Conditions                               []Condition
}

// Condition has the fields that both kinds share.
type Condition struct {
	Type               string
	Status             v1.ConditionStatus
	LastTransitionTime metav1.Time
	Reason, Message    string
}

// Adapter gives the engine one kind.
type Adapter interface {
	Kind() schema.GroupVersionKind
	// Get reads from the cache; IsNotFound when gone.
	Get(namespace, name string) (*Set, error)
	// Live reads past the cache.
	Live(ctx context.Context, namespace, name string) (metav1.Object, error)
	// Matching lists the sets of the pod's namespace that select it.
	Matching(pod *v1.Pod) []*Set
	// Siblings lists the UIDs of sets with the same controller, the set itself included.
	Siblings(set *Set) []metav1.Object
	// WriteStatus stores the status of the version that the set was read at.
	WriteStatus(ctx context.Context, set *Set, status State) error
}

// Engine reconciles sets of one kind.
type Engine struct {
	*loop.Loop
	adapter Adapter
	pods    cache.Indexer
	control podctl.Control
	expect  owner.Expectations
}

// workers: sets are independent and wait on the API most of the time.
const workers = 5

// NewEngine makes the loop of the named controller over the adapter's kind; sets is its informer.
func NewEngine(env loop.Env, name string, a Adapter, sets cache.SharedIndexInformer) (*Engine, error) {
	pods := env.Informers.Core().V1().Pods().Informer()
	if err := podctl.Index(pods); err != nil {
		return nil, fmt.Errorf("index pods: %w", err)
	}
	e := &Engine{adapter: a, pods: pods.GetIndexer(), control: podctl.Control{Client: env.Client, Recorder: env.Recorder(name)}}
	e.Loop = loop.New(name, env.Log, workers, e.reconcile)
	e.On(sets, cache.ResourceEventHandlerFuncs{
		AddFunc:    e.Enqueue,
		UpdateFunc: func(_, obj any) { e.Enqueue(obj) },
		DeleteFunc: func(obj any) {
			if key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(obj); err == nil {
				e.expect.Forget(key)
				e.Add(key)
			}
		},
	})
	e.On(pods, loop.Typed[*v1.Pod]{Add: e.podAdded, Update: e.podChanged, Delete: e.podDeleted})
	return e, nil
}

func (e *Engine) ownerKey(pod *v1.Pod) string {
	ref := metav1.GetControllerOfNoCopy(pod)
	if ref == nil || ref.Kind != e.adapter.Kind().Kind {
		return ""
	}
	set, err := e.adapter.Get(pod.Namespace, ref.Name)
	if err != nil || set.GetUID() != ref.UID {
		return ""
	}
	return pod.Namespace + "/" + ref.Name
}

func (e *Engine) podAdded(pod *v1.Pod) {
	if pod.DeletionTimestamp != nil {
		e.podDeleted(pod)
		return
	}
	if key := e.ownerKey(pod); key != "" {
		e.expect.Created(key, 1)
		e.Add(key)
		return
	}
	e.orphan(pod)
}

func (e *Engine) orphan(pod *v1.Pod) {
	if metav1.GetControllerOfNoCopy(pod) != nil {
		return
	}
	for _, s := range e.adapter.Matching(pod) {
		e.Add(s.GetNamespace() + "/" + s.GetName())
	}
}

func (e *Engine) podChanged(old, pod *v1.Pod) {
	was, is := e.ownerKey(old), e.ownerKey(pod)
	if pod.DeletionTimestamp != nil {
		// Going counts as gone: a replacement must not wait for the end of the grace period.
		e.podDeleted(pod)
		if was != "" && was != is {
			e.podDeleted(old)
		}
		return
	}
	if was != "" && was != is {
		e.Add(was)
	}
	if is == "" {
		e.orphan(pod)
		return
	}
	e.Add(is)
	if !podctl.Ready(old) && podctl.Ready(pod) {
		if set, err := e.adapter.Get(pod.Namespace, metav1.GetControllerOfNoCopy(pod).Name); err == nil && set.MinReadySeconds > 0 {
			// A second more, since conditions carry whole seconds.
			e.AddAfter(is, time.Duration(set.MinReadySeconds)*time.Second+time.Second)
		}
	}
}

func (e *Engine) podDeleted(pod *v1.Pod) {
	if key := e.ownerKey(pod); key != "" {
		e.expect.Deleted(key, string(pod.UID))
		e.Add(key)
	}
}

func (e *Engine) reconcile(ctx context.Context, key string) error {
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return nil
	}
	set, err := e.adapter.Get(namespace, name)
	if apierrors.IsNotFound(err) {
		e.expect.Forget(key)
		return nil
	}
	if err != nil {
		return err
	}
	met := e.expect.Met(key)
	claimer := owner.Claimer[*v1.Pod]{
		Owner: set, Kind: e.adapter.Kind(), Selector: set.Selector, Match: podctl.Active,
		Fresh: func(ctx context.Context) (metav1.Object, error) { return e.adapter.Live(ctx, namespace, name) },
		Patch: e.control.Patch,
	}
	all, err := claimer.Claim(ctx, podctl.OwnedAndOrphans(e.pods, namespace, set.GetUID()))
	if err != nil {
		return err
	}
	var active, terminating []*v1.Pod
	for _, p := range all {
		switch {
		case podctl.Active(p):
			active = append(active, p)
		case p.DeletionTimestamp != nil && !podctl.Finished(p):
			terminating = append(terminating, p)
		}
	}
	var failed error
	if met && set.GetDeletionTimestamp() == nil {
		failed = e.execute(ctx, key, set, Plan(set.Replicas, active, e.related(set), time.Now()))
	}
	status, recheck := Status(set, active, terminating, failed, time.Now())
	var written error
	if !status.equal(set.Status) {
		written = e.adapter.WriteStatus(ctx, set, status)
	}
	if recheck > 0 && failed == nil {
		e.AddAfter(key, recheck)
	}
	return errors.Join(failed, written)
}

func (e *Engine) related(set *Set) (pods []*v1.Pod) {
	for _, s := range e.adapter.Siblings(set) {
		pods = append(pods, podctl.Owned(e.pods, s.GetUID())...)
	}
	return pods
}

func (e *Engine) execute(ctx context.Context, key string, set *Set, a Actions) error {
	if a.Create > 0 {
		e.expect.Expect(key, a.Create)
		ref := metav1.NewControllerRef(set, e.adapter.Kind())
		n, err := owner.SlowStart(a.Create, func(int) error {
			_, err := e.control.Create(ctx, podctl.FromTemplate(set.Template, set.GetNamespace(), set.GetName(), ref), set.Runtime)
			if apierrors.HasStatusCause(err, v1.NamespaceTerminatingCause) {
				e.expect.Created(key, 1)
				return nil // nothing can live here any more
			}
			return err
		})
		e.expect.Created(key, a.Create-n)
		return err
	}
	if len(a.Delete) == 0 {
		return nil
	}
	uids := make([]string, len(a.Delete))
	for i, p := range a.Delete {
		uids[i] = string(p.UID)
	}
	e.expect.Expect(key, 0, uids...)
	errs := make([]error, len(a.Delete))
	var wg sync.WaitGroup
	for i, p := range a.Delete {
		wg.Go(func() {
			gone, err := e.control.Delete(ctx, p, set.Runtime)
			if gone || err != nil {
				e.expect.Deleted(key, string(p.UID))
			}
			errs[i] = err
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}
