package state

import (
	"fmt"
	"sync"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/klog/v2"
	"k8s.io/kube-scheduler/framework"
)

// A pod's way through the cache:
//
//	(unknown) ──Assume──→ assumed ──AddPod (watch)──→ bound ──RemovePod──→ (unknown)
//	                        └──Forget (bind failed)──→ (unknown)
type cachedPod struct {
	info    *PodInfo
	node    string
	assumed bool
}

// Cache holds all nodes and all bound or assumed pods. Safe for concurrent use.
type Cache struct {
	mu     sync.Mutex
	nodes  map[string]*NodeInfo // may hold a nil Node(): pods seen before their node
	pods   map[types.UID]*cachedPod
	images map[string]*framework.ImageStateSummary
	topo   int64 // raised when a node comes or goes
}

// NewCache returns an empty cache.
func NewCache() *Cache {
	return &Cache{nodes: map[string]*NodeInfo{}, pods: map[types.UID]*cachedPod{}, images: map[string]*framework.ImageStateSummary{}}
}

// AssumePod puts the pod on the node (spec.nodeName must be set) before the API knows.
func (c *Cache) AssumePod(pod *v1.Pod) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.pods[pod.UID]; ok {
		return fmt.Errorf("assume pod %q: already on a node", pod.Namespace+"/"+pod.Name)
	}
	c.add(pod, true)
	return nil
}

// ForgetPod takes an assumed pod away again; a pod confirmed by the watch stays.
func (c *Cache) ForgetPod(pod *v1.Pod) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p, ok := c.pods[pod.UID]; ok && p.assumed {
		c.remove(pod.UID)
	}
}

// IsAssumed reports whether the pod is assumed and not yet confirmed.
func (c *Cache) IsAssumed(uid types.UID) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	p, ok := c.pods[uid]
	return ok && p.assumed
}

// SetPod records a bound pod as the watch reports it, new or changed, and confirms an assumed one.
func (c *Cache) SetPod(pod *v1.Pod) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.pods[pod.UID]; ok {
		c.remove(pod.UID)
	}
	c.add(pod, false)
}

// RemovePod drops a pod; unknown ones are fine.
func (c *Cache) RemovePod(uid types.UID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.pods[uid]; ok {
		c.remove(uid)
	}
}

func (c *Cache) add(pod *v1.Pod, assumed bool) {
	n, ok := c.nodes[pod.Spec.NodeName]
	if !ok {
		n = NewNodeInfo()
		c.nodes[pod.Spec.NodeName] = n
	}
	pi, _ := NewPodInfo(pod) // bad terms were refused by the API; the rest of the pod still counts
	n.AddPodInfo(pi)
	c.pods[pod.UID] = &cachedPod{info: pi, node: pod.Spec.NodeName, assumed: assumed}
}

func (c *Cache) remove(uid types.UID) {
	p := c.pods[uid]
	delete(c.pods, uid)
	n := c.nodes[p.node]
	_ = n.RemovePod(klog.Background(), p.info.Pod)
	if n.Node() == nil && len(n.pods) == 0 {
		delete(c.nodes, p.node)
	}
}

// SetNode records a node, new or changed.
func (c *Cache) SetNode(node *v1.Node) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, ok := c.nodes[node.Name]
	if !ok {
		n = NewNodeInfo()
		c.nodes[node.Name] = n
	}
	if n.Node() == nil {
		c.topo++
	} else {
		c.dropImages(n)
	}
	c.addImages(n, node)
	n.SetNode(node)
}

// RemoveNode drops a node; its pods stay until their own deletions arrive.
func (c *Cache) RemoveNode(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, ok := c.nodes[name]
	if !ok || n.Node() == nil {
		return
	}
	c.dropImages(n)
	c.topo++
	if len(n.pods) == 0 {
		delete(c.nodes, name)
		return
	}
	n.node, n.gen = nil, generation.Add(1)
}

// NodeInfo returns a copy of one node as of now, or nil.
func (c *Cache) NodeInfo(name string) *NodeInfo {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n, ok := c.nodes[name]; ok && n.Node() != nil {
		return n.clone()
	}
	return nil
}

// Counts returns the numbers of nodes, pods and assumed pods, for metrics.
func (c *Cache) Counts() (nodes, pods, assumed int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.pods {
		if p.assumed {
			assumed++
		}
	}
	return len(c.nodes), len(c.pods), assumed
}

func (c *Cache) addImages(n *NodeInfo, node *v1.Node) {
	states := make(map[string]*framework.ImageStateSummary, len(node.Status.Images))
	for _, img := range node.Status.Images {
		for _, name := range img.Names {
			s, ok := c.images[name]
			if !ok {
				s = &framework.ImageStateSummary{Size: img.SizeBytes, Nodes: sets.New[string]()}
				c.images[name] = s
			}
			s.Nodes.Insert(node.Name)
			s.NumNodes = s.Nodes.Len()
			states[name] = &framework.ImageStateSummary{Size: s.Size, NumNodes: s.NumNodes}
		}
	}
	n.images = states
}

func (c *Cache) dropImages(n *NodeInfo) {
	for name := range n.images {
		if s, ok := c.images[name]; ok {
			if s.Nodes.Delete(n.node.Name); s.Nodes.Len() == 0 {
				delete(c.images, name)
			}
			s.NumNodes = s.Nodes.Len()
		}
	}
}
