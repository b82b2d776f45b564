package garbage

import (
	"slices"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

// ident names an object of one incarnation.
type ident struct {
	schema.GroupVersionKind
	namespace, name string
	uid             types.UID
}

// node is an object of the graph. Fields are guarded by the graph's lock.
//
//	virtual (named by a dependent, never seen) ──event──→ seen ──delete event──→ gone
//	   └── not found by a live look ──→ gone
type node struct {
	ident
	virtual    bool
	owners     []metav1.OwnerReference
	dependents map[*node]struct{}
	deleting   bool // has a deletion timestamp
	foreground bool // waits for its dependents
	orphan     bool // wants its dependents released
}

// graph holds all objects by UID.
type graph struct {
	mu    sync.Mutex
	nodes map[types.UID]*node
}

// Queues that a change of the graph fills.
type pending struct {
	remove []types.UID // look whether these should go
	orphan []types.UID // release the dependents of these
}

// set takes in an object as it is now and returns what to look at.
func (g *graph) set(id ident, m metav1.Object) (p pending) {
	g.mu.Lock()
	defer g.mu.Unlock()
	n, ok := g.nodes[id.uid]
	if !ok {
		n = &node{ident: id, virtual: true, dependents: map[*node]struct{}{}}
		g.nodes[id.uid] = n
	}
	first := n.virtual
	if n.ident != id { // a dependent named it by other coordinates, or another version
		n.ident = id
	}
	n.virtual = false
	before := n.owners
	n.owners = slices.Clone(m.GetOwnerReferences())
	for _, o := range before {
		if !hasUID(n.owners, o.UID) {
			p.remove = append(p.remove, g.unlink(n, o.UID)...)
		}
	}
	blocked := false
	for _, o := range n.owners {
		if !hasUID(before, o.UID) {
			p.remove = append(p.remove, g.link(n, o)...)
		}
		blocked = blocked || !ptr.Deref(o.BlockOwnerDeletion, false)
	}
	if blocked { // it may have blocked an owner until now
		for _, o := range n.owners {
			if w := g.nodes[o.UID]; w != nil && w.foreground {
				p.remove = append(p.remove, o.UID)
			}
		}
	}
	finalizers := m.GetFinalizers()
	deleting := m.GetDeletionTimestamp() != nil
	foreground := deleting && slices.Contains(finalizers, metav1.FinalizerDeleteDependents)
	orphan := deleting && slices.Contains(finalizers, metav1.FinalizerOrphanDependents)
	if orphan && (first || !n.orphan) {
		p.orphan = append(p.orphan, id.uid)
	}
	if foreground && (first || !n.foreground) {
		for d := range n.dependents {
			p.remove = append(p.remove, d.uid)
		}
		p.remove = append(p.remove, id.uid)
	}
	n.deleting, n.foreground, n.orphan = deleting, foreground, orphan
	if first && len(n.owners) > 0 {
		p.remove = append(p.remove, id.uid)
	}
	return p
}

// link adds n to the dependents of the owner that ref names, making it up if it was not seen yet.
func (g *graph) link(n *node, ref metav1.OwnerReference) (look []types.UID) {
	owner, ok := g.nodes[ref.UID]
	if !ok {
		owner = &node{
			ident:   ident{schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind), n.namespace, ref.Name, ref.UID},
			virtual: true, dependents: map[*node]struct{}{},
		}
		g.nodes[ref.UID] = owner
		look = append(look, ref.UID) // it may not exist at all
	}
	owner.dependents[n] = struct{}{}
	return look
}

func (g *graph) unlink(n *node, owner types.UID) (look []types.UID) {
	o, ok := g.nodes[owner]
	if !ok {
		return nil
	}
	delete(o.dependents, n)
	if o.foreground {
		look = append(look, owner)
	}
	if o.virtual && len(o.dependents) == 0 {
		delete(g.nodes, owner)
	}
	return look
}

// remove takes an object out; its dependents and its waiting owners are to be looked at.
func (g *graph) remove(uid types.UID) (p pending) {
	g.mu.Lock()
	defer g.mu.Unlock()
	n, ok := g.nodes[uid]
	if !ok {
		return p
	}
	delete(g.nodes, uid)
	for _, o := range n.owners {
		p.remove = append(p.remove, g.unlink(n, o.UID)...)
	}
	for d := range n.dependents {
		p.remove = append(p.remove, d.uid)
	}
	return p
}

// view is a copy of a node for a worker.
type view struct {
	ident
	virtual, deleting, foreground, orphan bool
	owners                                []metav1.OwnerReference
	dependents                            []dependent
}

type dependent struct {
	ident
	foreground bool
	blocks     bool // keeps this owner from going
	owners     []metav1.OwnerReference
}

func (g *graph) view(uid types.UID) (v view, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	n, ok := g.nodes[uid]
	if !ok {
		return view{}, false
	}
	v = view{ident: n.ident, virtual: n.virtual, deleting: n.deleting, foreground: n.foreground, orphan: n.orphan, owners: n.owners}
	for d := range n.dependents {
		dep := dependent{ident: d.ident, foreground: d.foreground, owners: d.owners}
		for _, o := range d.owners {
			if o.UID == uid && ptr.Deref(o.BlockOwnerDeletion, false) {
				dep.blocks = true
			}
		}
		v.dependents = append(v.dependents, dep)
	}
	return v, true
}

func hasUID(refs []metav1.OwnerReference, uid types.UID) bool {
	return slices.ContainsFunc(refs, func(r metav1.OwnerReference) bool { return r.UID == uid })
}
