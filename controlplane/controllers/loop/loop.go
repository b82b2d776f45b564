package loop

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"

	"github.com/reevehq/reeve/internal/logkey"
)

// Retry delays of a key whose reconciliation failed: doubled each time.
const (
	retryMin = 5 * time.Millisecond
	retryMax = 5 * time.Minute
)

// Reconcile brings one object, named by its "namespace/name" or "name", to what it should be. An error means: again, later.
type Reconcile func(ctx context.Context, key string) error

// ErrLater wraps what is no failure: the key is tried again after a short and growing while, and nobody is bothered.
var ErrLater = errors.New("not yet")

// Loop runs a Reconcile for keys, never the same key twice at once.
type Loop struct {
	name    string
	workers int
	sync    Reconcile
	log     *slog.Logger
	queue   workqueue.TypedRateLimitingInterface[string]
	synced  []cache.DoneChecker
	undo    []func()
	errs    []error
	also    []func(ctx context.Context)
	first   []func(ctx context.Context)
}

// New makes a loop; nothing runs yet. name is the controller's, as metrics and logs show it.
func New(name string, log *slog.Logger, workers int, sync Reconcile) *Loop {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Loop{
		name: name, workers: workers, sync: sync, log: log.With("controller", name),
		queue: workqueue.NewTypedRateLimitingQueueWithConfig(
			workqueue.NewTypedItemExponentialFailureRateLimiter[string](retryMin, retryMax),
			workqueue.TypedRateLimitingQueueConfig[string]{Name: name}),
	}
}

// Log is the loop's logger.
func (l *Loop) Log() *slog.Logger { return l.log }

// On has handler called for the informer's events until Run ends; Run waits until it has seen everything that existed.
func (l *Loop) On(informer cache.SharedInformer, handler cache.ResourceEventHandler) {
	reg, err := informer.AddEventHandler(handler)
	if err != nil {
		l.errs = append(l.errs, err)
		return
	}
	l.synced = append(l.synced, reg.HasSyncedChecker())
	l.undo = append(l.undo, func() { _ = informer.RemoveEventHandler(reg) })
}

// Watch queues the key of every object of the informer that changes.
func (l *Loop) Watch(informer cache.SharedInformer) { l.On(informer, Each(l.Enqueue)) }

// Needs has Run wait for informers that the reconciliation reads but does not react to.
func (l *Loop) Needs(informers ...cache.SharedInformer) {
	for _, i := range informers {
		l.synced = append(l.synced, i.HasSyncedChecker())
	}
}

// NeedsSynced has Run wait for other things too.
func (l *Loop) NeedsSynced(c ...cache.DoneChecker) { l.synced = append(l.synced, c...) }

// Also runs f beside the workers, from when everything is synced until the context ends.
func (l *Loop) Also(f func(ctx context.Context)) { l.also = append(l.also, f) }

// Enqueue queues the object's key; tombstones count.
func (l *Loop) Enqueue(obj any) {
	if key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(obj); err == nil {
		l.queue.Add(key)
	}
}

// Add queues a key now.
func (l *Loop) Add(key string) { l.queue.Add(key) }

// AddAfter queues a key once d has passed.
func (l *Loop) AddAfter(key string, d time.Duration) { l.queue.AddAfter(key, d) }

// Forget clears the key's retry delay.
func (l *Loop) Forget(key string) { l.queue.Forget(key) }

// Retries is how often the key failed in a row.
func (l *Loop) Retries(key string) int { return l.queue.NumRequeues(key) }

// First runs f as soon as Run is called, before anything is waited for: the place to start informers of the loop's own.
func (l *Loop) First(f func(ctx context.Context)) { l.first = append(l.first, f) }

// Run waits for the informers, then works until ctx ends. It returns once everything it started has ended. A panic in a
// reconciliation counts as its error.
func (l *Loop) Run(ctx context.Context) error {
	defer func() {
		for _, f := range l.undo {
			f()
		}
	}()
	defer l.queue.ShutDown()
	if err := errors.Join(l.errs...); err != nil {
		return fmt.Errorf("watch for %s: %w", l.name, err)
	}
	for _, f := range l.first {
		f(ctx)
	}
	if !cache.WaitFor(ctx, l.name, l.synced...) {
		return nil
	}
	var wg sync.WaitGroup
	for _, f := range l.also {
		wg.Go(func() { f(ctx) })
	}
	for range l.workers {
		wg.Go(func() {
			for l.next(ctx) {
			}
		})
	}
	<-ctx.Done()
	l.queue.ShutDown()
	wg.Wait()
	return nil
}

func (l *Loop) next(ctx context.Context) bool {
	key, stop := l.queue.Get()
	if stop {
		return false
	}
	defer l.queue.Done(key)
	start := time.Now()
	err := l.guarded(ctx, key)
	observe(l.name, time.Since(start), err)
	switch {
	case err == nil:
		l.queue.Forget(key)
		return true
	case ctx.Err() != nil:
		return true
	case apierrors.IsConflict(err), apierrors.IsNotFound(err), errors.Is(err, ErrLater):
		// The cache is behind: it had not seen a change or a deletion yet.
		l.log.Debug("Retried with a newer picture", "key", key, logkey.Err, err)
	default:
		l.log.Warn("Failed to reconcile", "key", key, "retries", l.queue.NumRequeues(key), logkey.Err, err)
	}
	l.queue.AddRateLimited(key)
	return true
}

func (l *Loop) guarded(ctx context.Context, key string) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("panic: %v\n%s", r, debug.Stack())
		}
	}()
	return l.sync(ctx, key)
}

// Each calls f for every added, changed and deleted object (deleted ones perhaps as cache.DeletedFinalStateUnknown).
func Each(f func(obj any)) cache.ResourceEventHandler {
	return cache.ResourceEventHandlerFuncs{AddFunc: f, UpdateFunc: func(_, obj any) { f(obj) }, DeleteFunc: f}
}

// Typed handlers get objects as they are, tombstones opened. Nil functions are left out.
type Typed[T any] struct {
	Add    func(obj T)
	Update func(old, obj T)
	Delete func(obj T)
}

var _ cache.ResourceEventHandler = Typed[int]{}

func (h Typed[T]) OnAdd(obj any, _ bool) {
	if t, ok := obj.(T); ok && h.Add != nil {
		h.Add(t)
	}
}

func (h Typed[T]) OnUpdate(old, obj any) {
	o, ok1 := old.(T)
	n, ok2 := obj.(T)
	if ok1 && ok2 && h.Update != nil {
		h.Update(o, n)
	}
}

func (h Typed[T]) OnDelete(obj any) {
	if d, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = d.Obj
	}
	if t, ok := obj.(T); ok && h.Delete != nil {
		h.Delete(t)
	}
}
