package proxy

import (
	"net/netip"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/reevehq/reeve/proxy/plan"
)

// nodeFacts are what plans depend on of this node's object.
type nodeFacts struct {
	zone  string
	cidrs string // spec.podCIDRs, one a line: comparable
}

func (n nodeFacts) podCIDRs() []netip.Prefix {
	var out []netip.Prefix
	for _, s := range strings.Fields(n.cidrs) {
		if p, err := netip.ParsePrefix(s); err == nil {
			out = append(out, p.Masked())
		}
	}
	return out
}

// tracker is the desired state: compact copies of what the API has, and which Services changed since the last look.
// Watches write, the loop reads.
type tracker struct {
	nodeName string
	wake     chan struct{} // holds one token: something changed

	mu       sync.Mutex
	services map[plan.Name]plan.Service
	slices   map[plan.Name]plan.Slice              // by slice
	byOwner  map[plan.Name]map[plan.Name]struct{}  // Service → its slices
	dirty    map[plan.Name]time.Time               // Service → when its first pending change was made, zero if unknown
	synced   struct{ services, slices, node bool } // each watch has delivered its whole first list
	node     nodeFacts
	draining bool // the node is being deleted: load balancers should leave it
	needCIDR bool // nothing is told before the node has its pod ranges

	serviceChanges, endpointChanges int // since the last take, for the metrics
}

func newTracker(nodeName string) *tracker {
	return &tracker{
		nodeName: nodeName,
		wake:     make(chan struct{}, 1),
		services: map[plan.Name]plan.Service{},
		slices:   map[plan.Name]plan.Slice{},
		byOwner:  map[plan.Name]map[plan.Name]struct{}{},
		dirty:    map[plan.Name]time.Time{},
	}
}

func (t *tracker) notify() {
	select {
	case t.wake <- struct{}{}:
	default:
	}
}

// mark needs the lock.
func (t *tracker) mark(service plan.Name, trigger time.Time) {
	at, pending := t.dirty[service]
	if !pending || (at.IsZero() && !trigger.IsZero()) {
		t.dirty[service] = trigger
	}
}

func (t *tracker) setService(s *corev1.Service) {
	name := plan.Name{Namespace: s.Namespace, Name: s.Name}
	svc, ours := plan.FromService(s)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.putService(name, svc, ours) {
		t.notify()
	}
}

// putService needs the lock. It reports a change.
func (t *tracker) putService(name plan.Name, svc plan.Service, ours bool) bool {
	old, had := t.services[name]
	switch {
	case ours && had && old.Equal(svc), !ours && !had:
		return false
	case ours:
		t.services[name] = svc
	default:
		delete(t.services, name)
	}
	t.serviceChanges++
	t.mark(name, time.Time{})
	return true
}

func (t *tracker) deleteService(s *corev1.Service) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.putService(plan.Name{Namespace: s.Namespace, Name: s.Name}, plan.Service{}, false) {
		t.notify()
	}
}

func (t *tracker) replaceServices(all []*corev1.Service) {
	t.mu.Lock()
	defer t.mu.Unlock()
	seen := make(map[plan.Name]bool, len(all))
	for _, s := range all {
		name := plan.Name{Namespace: s.Namespace, Name: s.Name}
		seen[name] = true
		svc, ours := plan.FromService(s)
		t.putService(name, svc, ours)
	}
	for name := range t.services {
		if !seen[name] {
			t.putService(name, plan.Service{}, false)
		}
	}
	t.synced.services = true
	t.notify()
}

func (t *tracker) setSlice(s *discoveryv1.EndpointSlice) {
	sl, ours := plan.FromSlice(s)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.putSlice(plan.Name{Namespace: s.Namespace, Name: s.Name}, sl, ours) {
		t.notify()
	}
}

// putSlice needs the lock. It reports a change.
func (t *tracker) putSlice(name plan.Name, sl plan.Slice, ours bool) bool {
	old, had := t.slices[name]
	if (ours && had && old.Equal(sl)) || (!ours && !had) {
		return false
	}
	t.endpointChanges++
	if had {
		delete(t.byOwner[old.Service], name)
		if len(t.byOwner[old.Service]) == 0 {
			delete(t.byOwner, old.Service)
		}
		delete(t.slices, name)
		t.mark(old.Service, sl.Trigger)
	}
	if ours {
		t.slices[name] = sl
		if t.byOwner[sl.Service] == nil {
			t.byOwner[sl.Service] = map[plan.Name]struct{}{}
		}
		t.byOwner[sl.Service][name] = struct{}{}
		t.mark(sl.Service, sl.Trigger)
	}
	return true
}

func (t *tracker) deleteSlice(s *discoveryv1.EndpointSlice) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.putSlice(plan.Name{Namespace: s.Namespace, Name: s.Name}, plan.Slice{}, false) {
		t.notify()
	}
}

func (t *tracker) replaceSlices(all []*discoveryv1.EndpointSlice) {
	t.mu.Lock()
	defer t.mu.Unlock()
	seen := make(map[plan.Name]bool, len(all))
	for _, s := range all {
		name := plan.Name{Namespace: s.Namespace, Name: s.Name}
		seen[name] = true
		sl, ours := plan.FromSlice(s)
		if !t.synced.slices {
			sl.Trigger = time.Time{} // happened before this process: no latency of ours
		}
		t.putSlice(name, sl, ours)
	}
	for name := range t.slices {
		if !seen[name] {
			t.putSlice(name, plan.Slice{}, false)
		}
	}
	t.synced.slices = true
	t.notify()
}

// toBeDeletedTaint is set by the cluster autoscaler on a node that it is about to remove.
const toBeDeletedTaint = "ToBeDeletedByClusterAutoscaler"

func (t *tracker) setNode(n *corev1.Node) {
	if n.Name != t.nodeName {
		return
	}
	draining := n.DeletionTimestamp != nil
	for _, taint := range n.Spec.Taints {
		draining = draining || taint.Key == toBeDeletedTaint
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.draining = draining
	if now := (nodeFacts{n.Labels[corev1.LabelTopologyZone], strings.Join(n.Spec.PodCIDRs, "\n")}); now != t.node {
		t.node = now
		t.notify()
	}
}

func (t *tracker) replaceNode(all []*corev1.Node) {
	for _, n := range all {
		t.setNode(n)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.synced.node = true
	t.notify()
}

func (t *tracker) nodeDraining() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.draining
}

// batch is what changed since the last take.
type batch struct {
	synced   bool
	node     nodeFacts
	services map[plan.Name]change

	serviceChanges, endpointChanges int
}

// change is one Service as it is now; gone when it is not (or not ours).
type change struct {
	service plan.Service
	slices  []plan.Slice
	gone    bool
	trigger time.Time
}

// take answers what changed, or with all every Service, and begins anew. Before every watch has delivered its first list
// it takes nothing.
func (t *tracker) take(all bool) batch {
	t.mu.Lock()
	defer t.mu.Unlock()
	b := batch{
		synced: t.synced.services && t.synced.slices && t.synced.node && (!t.needCIDR || t.node.cidrs != ""),
		node:   t.node, services: map[plan.Name]change{},
	}
	if !b.synced {
		return b
	}
	for name, trigger := range t.dirty {
		b.services[name] = t.changeOf(name, trigger)
	}
	if all {
		for name := range t.services {
			if _, done := b.services[name]; !done {
				b.services[name] = t.changeOf(name, time.Time{})
			}
		}
	}
	b.serviceChanges, b.endpointChanges = t.serviceChanges, t.endpointChanges
	t.serviceChanges, t.endpointChanges = 0, 0
	clear(t.dirty)
	return b
}

// changeOf needs the lock.
func (t *tracker) changeOf(name plan.Name, trigger time.Time) change {
	svc, ok := t.services[name]
	c := change{service: svc, gone: !ok, trigger: trigger}
	for s := range t.byOwner[name] {
		c.slices = append(c.slices, t.slices[s])
	}
	return c
}
