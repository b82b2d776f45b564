package garbage

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/tools/cache"

	"github.com/reevehq/reeve/internal/logkey"
)

const (
	// rediscover is how often the kinds are looked at without a reason; new CRDs and APIServices give one.
	rediscover = time.Minute
	// settle is how long after such a change discovery is believed to have followed.
	settle = 200 * time.Millisecond
)

// shared kinds have a typed informer anyway, for other controllers: watching their metadata besides would cost memory twice.
var shared = map[schema.GroupResource]bool{
	{Resource: "pods"}: true, {Resource: "services"}: true, {Resource: "endpoints"}: true, {Resource: "nodes"}: true,
	{Resource: "namespaces"}: true, {Resource: "serviceaccounts"}: true, {Resource: "replicationcontrollers"}: true,
	{Resource: "persistentvolumes"}: true, {Resource: "persistentvolumeclaims"}: true,
	{Group: "apps", Resource: "deployments"}: true, {Group: "apps", Resource: "replicasets"}: true,
	{Group: "apps", Resource: "statefulsets"}: true, {Group: "apps", Resource: "daemonsets"}: true,
	{Group: "apps", Resource: "controllerrevisions"}: true, {Group: "batch", Resource: "jobs"}: true,
	{Group: "batch", Resource: "cronjobs"}: true, {Group: "discovery.k8s.io", Resource: "endpointslices"}: true,
	{Group: "policy", Resource: "poddisruptionbudgets"}: true, {Group: "storage.k8s.io", Resource: "storageclasses"}: true,
}

// ignored kinds own nothing and are owned by nobody, and change all the time.
var ignored = map[schema.GroupResource]bool{{Resource: "events"}: true, {Group: "events.k8s.io", Resource: "events"}: true}

// monitor watches one kind.
type monitor struct {
	stop   context.CancelFunc
	synced cache.DoneChecker
	done   chan struct{} // closed when an informer of its own has ended; nil for shared ones
}

// monitors start and stop the watching of kinds as they come and go.
type monitors struct {
	typed    informers.SharedInformerFactory
	begin    func() // starts what was asked of typed
	metadata metadata.Interface
	disco    discovery.DiscoveryInterface
	mapper   *mapper
	events   func(k schema.GroupVersionKind, obj metav1.Object, gone bool)
	gone     func(k schema.GroupVersionKind)

	mu      sync.Mutex
	running map[schema.GroupVersionResource]*monitor
	changed chan struct{} // buffered, one: look at discovery
}

// kinds are those that can be listed, watched and deleted, at their preferred version.
func (m *monitors) kinds() (map[schema.GroupVersionResource]schema.GroupVersionKind, error) {
	lists, err := discovery.ServerPreferredResources(m.disco)
	if len(lists) == 0 && err != nil {
		return nil, fmt.Errorf("discover kinds: %w", err)
	}
	out := map[schema.GroupVersionResource]schema.GroupVersionKind{}
	for _, l := range lists {
		gv, perr := schema.ParseGroupVersion(l.GroupVersion)
		if perr != nil {
			continue
		}
		for _, r := range l.APIResources {
			can := func(v string) bool { return slices.Contains(r.Verbs, v) }
			gvr := gv.WithResource(r.Name)
			if strings.Contains(r.Name, "/") || !can("list") || !can("watch") || !can("delete") || ignored[gvr.GroupResource()] {
				continue
			}
			out[gvr] = gv.WithKind(r.Kind)
		}
	}
	// Groups that failed keep what is running for them.
	var failed *discovery.ErrGroupDiscoveryFailed
	if errors.As(err, &failed) {
		m.mu.Lock()
		for gvr := range m.running {
			if _, bad := failed.Groups[gvr.GroupVersion()]; bad {
				if k, ok := m.mapper.kind(gvr); ok {
					out[gvr] = k
				}
			}
		}
		m.mu.Unlock()
	}
	return out, nil
}

// follow brings the running monitors to what discovery says, and waits until new ones have seen everything.
func (m *monitors) follow(ctx context.Context) error {
	want, err := m.kinds()
	if err != nil {
		return err
	}
	m.mapper.learn(m.disco)
	m.mu.Lock()
	for gvr, mon := range m.running {
		if _, ok := want[gvr]; !ok {
			mon.stop()
			if mon.done != nil {
				<-mon.done
			}
			delete(m.running, gvr)
			if k, known := m.mapper.kind(gvr); known {
				m.gone(k)
			}
		}
	}
	var fresh []cache.DoneChecker
	for gvr, kind := range want {
		m.mapper.note(gvr, kind)
		if _, ok := m.running[gvr]; ok {
			continue
		}
		mon, err := m.start(ctx, gvr, kind)
		if err != nil {
			m.mu.Unlock()
			return err
		}
		m.running[gvr] = mon
		fresh = append(fresh, mon.synced)
	}
	m.mu.Unlock()
	if len(fresh) == 0 {
		return nil
	}
	wctx, cancel := context.WithTimeout(ctx, syncTimeout)
	defer cancel()
	if !cache.WaitFor(wctx, "garbage collector", fresh...) && ctx.Err() == nil {
		return fmt.Errorf("watch new kinds: not all could be listed in %s", syncTimeout)
	}
	return nil
}

// syncTimeout bounds the wait for kinds that were just discovered; one that cannot be listed (a broken aggregated API) must
// not stop collection of all others.
const syncTimeout = 30 * time.Second

func (m *monitors) start(ctx context.Context, gvr schema.GroupVersionResource, kind schema.GroupVersionKind) (*monitor, error) {
	ctx, cancel := context.WithCancel(ctx)
	handler := cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { m.send(kind, obj, false) },
		UpdateFunc: func(_, obj any) { m.send(kind, obj, false) },
		DeleteFunc: func(obj any) { m.send(kind, obj, true) },
	}
	if shared[gvr.GroupResource()] {
		if gi, err := m.typed.ForResource(gvr); err == nil {
			informer := gi.Informer()
			reg, err := informer.AddEventHandler(handler)
			if err != nil {
				cancel()
				return nil, fmt.Errorf("watch %s: %w", gvr, err)
			}
			m.begin()
			return &monitor{stop: func() { cancel(); _ = informer.RemoveEventHandler(reg) }, synced: reg.HasSyncedChecker()}, nil
		}
	}
	informer := metadatainformer.NewFilteredMetadataInformer(m.metadata, gvr, metav1.NamespaceAll, 0, cache.Indexers{}, nil).Informer()
	if err := informer.SetTransform(slim); err != nil {
		cancel()
		return nil, fmt.Errorf("watch %s: %w", gvr, err)
	}
	reg, err := informer.AddEventHandler(handler)
	if err != nil {
		cancel()
		return nil, fmt.Errorf("watch %s: %w", gvr, err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		informer.RunWithContext(ctx)
	}()
	return &monitor{stop: cancel, synced: reg.HasSyncedChecker(), done: done}, nil
}

// slim keeps of an object what the graph reads.
func slim(obj any) (any, error) {
	if o, ok := obj.(*metav1.PartialObjectMetadata); ok {
		o.ManagedFields, o.Annotations, o.Labels = nil, nil, nil
	}
	return obj, nil
}

func (m *monitors) send(kind schema.GroupVersionKind, obj any, gone bool) {
	if d, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = d.Obj
	}
	if o, err := meta.Accessor(obj); err == nil {
		m.events(kind, o, gone)
	}
	if kind.Kind == "CustomResourceDefinition" || kind.Kind == "APIService" {
		m.nudge()
	}
}

func (m *monitors) nudge() {
	select {
	case m.changed <- struct{}{}:
	default:
	}
}

// run follows discovery until ctx ends, then stops every monitor and waits for those of its own.
func (m *monitors) run(ctx context.Context, log func(msg string, args ...any)) {
	defer func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		for gvr, mon := range m.running {
			mon.stop()
			if mon.done != nil {
				<-mon.done
			}
			delete(m.running, gvr)
		}
	}()
	wait := rediscover
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-m.changed:
			select {
			case <-ctx.Done():
				return
			case <-time.After(settle):
			}
		}
		wait = rediscover
		if err := m.follow(ctx); err != nil && ctx.Err() == nil {
			log("Failed to follow the kinds", logkey.Err, err)
			wait = 5 * time.Second
		}
		timer.Reset(wait)
	}
}
