package objects

import (
	"context"
	"fmt"
	"log/slog"
	"sync"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

// Kind is "ConfigMap" or "Secret".
type Kind string

const (
	ConfigMap Kind = "ConfigMap"
	Secret    Kind = "Secret"
)

// Ref names one object.
type Ref struct {
	Kind      Kind
	Namespace string
	Name      string
}

func (r Ref) String() string { return fmt.Sprintf("%s %s/%s", r.Kind, r.Namespace, r.Name) }

// Cache serves the objects that its owners retain. Safe for concurrent use.
type Cache struct {
	client kubernetes.Interface
	log    *slog.Logger

	mu      sync.Mutex
	ctx     context.Context // ends with Close
	cancel  context.CancelFunc
	wg      sync.WaitGroup
	entries map[Ref]*entry
	owners  map[types.UID]map[Ref]bool
}

// entry is one object's last known state.
type entry struct {
	ref    Ref
	stop   context.CancelFunc
	owners map[types.UID]func() // called on change, with no lock held; nil entries are allowed
	loaded chan struct{}        // closed once the object, or its absence, is known
	known  bool
	obj    runtime.Object // nil: does not exist
	err    error          // last failure while not known
}

// NewCache makes an empty cache. Close ends its watches.
func NewCache(client kubernetes.Interface, log *slog.Logger) *Cache {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	c := &Cache{client: client, log: log, entries: map[Ref]*entry{}, owners: map[types.UID]map[Ref]bool{}}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c
}

// Close ends every watch and waits for it.
func (c *Cache) Close() {
	c.cancel()
	c.wg.Wait()
}

// Retain says which objects the owner (a pod) needs from now on: fetching of new ones begins at once, and watches that
// nobody needs any more end. changed is called after every change of one of them, from a goroutine of the cache; it must
// not block. An empty refs releases the owner.
func (c *Cache) Retain(owner types.UID, refs []Ref, changed func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ctx.Err() != nil {
		return
	}
	want := make(map[Ref]bool, len(refs))
	for _, r := range refs {
		want[r] = true
		e := c.entries[r]
		if e == nil {
			ctx, stop := context.WithCancel(c.ctx)
			e = &entry{ref: r, stop: stop, owners: map[types.UID]func(){}, loaded: make(chan struct{})}
			c.entries[r] = e
			c.wg.Go(func() { c.follow(ctx, e) })
		}
		e.owners[owner] = changed
	}
	for r := range c.owners[owner] {
		if want[r] {
			continue
		}
		e := c.entries[r]
		delete(e.owners, owner)
		if len(e.owners) == 0 {
			e.stop()
			delete(c.entries, r)
		}
	}
	if len(want) == 0 {
		delete(c.owners, owner)
	} else {
		c.owners[owner] = want
	}
}

// ConfigMap answers a retained ConfigMap, waiting until it is first known. The answer is shared: read only. It is a
// NotFound error while the object does not exist; when ctx ends first, the error says what held the answer up.
func (c *Cache) ConfigMap(ctx context.Context, namespace, name string) (*corev1.ConfigMap, error) {
	obj, err := c.get(ctx, Ref{ConfigMap, namespace, name})
	if err != nil {
		return nil, err
	}
	return obj.(*corev1.ConfigMap), nil
}

// Secret is ConfigMap for Secrets.
func (c *Cache) Secret(ctx context.Context, namespace, name string) (*corev1.Secret, error) {
	obj, err := c.get(ctx, Ref{Secret, namespace, name})
	if err != nil {
		return nil, err
	}
	return obj.(*corev1.Secret), nil
}

func (c *Cache) get(ctx context.Context, ref Ref) (runtime.Object, error) {
	c.mu.Lock()
	e := c.entries[ref]
	c.mu.Unlock()
	if e == nil {
		return nil, fmt.Errorf("get %v: no pod on this node refers to it", ref)
	}
	select {
	case <-e.loaded:
	default:
		select {
		case <-e.loaded:
		case <-ctx.Done():
			c.mu.Lock()
			err := e.err
			c.mu.Unlock()
			if err == nil {
				err = ctx.Err()
			}
			return nil, fmt.Errorf("get %v: %w", ref, err)
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if e.obj == nil {
		return nil, apierrors.NewNotFound(schema.GroupResource{Resource: resourceOf(ref.Kind)}, ref.Name)
	}
	return e.obj, nil
}

// resourceOf is singular, for messages read as `configmap "x" not found`.
func resourceOf(k Kind) string {
	if k == Secret {
		return "secret"
	}
	return "configmap"
}

// set records the object (nil: absent) and tells the owners if that is news.
func (c *Cache) set(e *entry, obj runtime.Object) {
	c.mu.Lock()
	first := !e.known
	news := first || resourceVersion(e.obj) != resourceVersion(obj)
	e.obj, e.known, e.err = obj, true, nil
	if first {
		close(e.loaded)
	}
	var tell []func()
	if news {
		for _, f := range e.owners {
			if f != nil {
				tell = append(tell, f)
			}
		}
	}
	c.mu.Unlock()
	for _, f := range tell {
		f()
	}
}

func (c *Cache) fail(e *entry, err error) {
	c.mu.Lock()
	if !e.known {
		e.err = err
	}
	c.mu.Unlock()
}
