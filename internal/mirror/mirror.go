package mirror

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/tools/cache"
)

// Sink receives objects. Its functions are called one at a time; an object may be kept, or better, only what is needed
// of it.
type Sink[T runtime.Object] struct {
	// Replace is everything that exists now: at first, and after every loss of the watch.
	Replace func([]T)
	Set     func(T)
	Delete  func(T)
}

// Run lists and watches until ctx ends. client tells whether the real API is behind lw (a fake client cannot stream
// lists). Failures are retried after 0.1 s at first and at most 2 s: a node must notice soon that its API server is back.
func Run[T runtime.Object](ctx context.Context, name string, lw *cache.ListWatch, client any, sink Sink[T]) {
	var expected T
	cache.NewReflectorWithOptions(cache.ToListWatcherWithWatchListSemantics(lw, client), any(expected), store[T]{sink}, cache.ReflectorOptions{
		Name:    name,
		Backoff: &wait.Backoff{Duration: 100 * time.Millisecond, Factor: 2, Jitter: 0.2, Steps: 10, Cap: 2 * time.Second},
	}).RunWithContext(ctx)
}

type store[T runtime.Object] struct{ sink Sink[T] }

func (s store[T]) Add(obj any) error    { return s.each(obj, s.sink.Set) }
func (s store[T]) Update(obj any) error { return s.each(obj, s.sink.Set) }
func (s store[T]) Delete(obj any) error { return s.each(obj, s.sink.Delete) }
func (s store[T]) Resync() error        { return nil }

func (s store[T]) each(obj any, fn func(T)) error {
	o, ok := obj.(T)
	if !ok {
		return fmt.Errorf("watch: got a %T", obj)
	}
	fn(o)
	return nil
}

func (s store[T]) Replace(list []any, _ string) error {
	out := make([]T, 0, len(list))
	for _, obj := range list {
		o, ok := obj.(T)
		if !ok {
			return fmt.Errorf("list: got a %T", obj)
		}
		out = append(out, o)
	}
	s.sink.Replace(out)
	return nil
}
