package state

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/component-helpers/node/topology"
	"k8s.io/kube-scheduler/framework"
)

// Snapshot is the cluster as of the start of a scheduling cycle. Read by many, written only by Cache.Update between cycles.
type Snapshot struct {
	byName   map[string]*NodeInfo
	list     []framework.NodeInfo // zones taken in turn, names sorted within
	affinity []framework.NodeInfo
	anti     []framework.NodeInfo
	claims   sets.Set[string]
	topo     int64
}

var (
	_ framework.SharedLister   = (*Snapshot)(nil)
	_ framework.NodeInfoLister = (*Snapshot)(nil)
)

// NewSnapshot returns an empty snapshot, or one of the given pods and nodes (tests and trials).
func NewSnapshot(pods []*v1.Pod, nodes []*v1.Node) *Snapshot {
	c := NewCache()
	for _, n := range nodes {
		c.SetNode(n)
	}
	for _, p := range pods {
		if p.Spec.NodeName != "" {
			c.SetPod(p)
		}
	}
	s := &Snapshot{byName: map[string]*NodeInfo{}, topo: -1}
	c.UpdateSnapshot(s)
	return s
}

// UpdateSnapshot brings s up to date, copying only nodes that changed since s was last updated.
func (c *Cache) UpdateSnapshot(s *Snapshot) {
	c.mu.Lock()
	defer c.mu.Unlock()
	changed := s.topo != c.topo
	if s.byName == nil {
		s.byName = map[string]*NodeInfo{}
	}
	for name, n := range c.nodes {
		old, ok := s.byName[name]
		if n.Node() == nil || (ok && old.gen == n.gen) {
			continue
		}
		s.byName[name] = n.clone()
		changed = true
	}
	if !changed {
		return
	}
	if len(s.byName) > 0 && s.topo != c.topo {
		for name := range s.byName {
			if n, ok := c.nodes[name]; !ok || n.Node() == nil {
				delete(s.byName, name)
			}
		}
	}
	s.topo = c.topo
	s.order()
}

func (s *Snapshot) order() {
	zones := map[string][]*NodeInfo{}
	for _, n := range s.byName {
		z := topology.GetZoneKey(n.node)
		zones[z] = append(zones[z], n)
	}
	names := make([]string, 0, len(zones))
	for z, list := range zones {
		names = append(names, z)
		slices.SortFunc(list, func(a, b *NodeInfo) int { return strings.Compare(a.node.Name, b.node.Name) })
	}
	slices.Sort(names)
	s.list, s.affinity, s.anti, s.claims = make([]framework.NodeInfo, 0, len(s.byName)), nil, nil, sets.New[string]()
	for i := 0; len(s.list) < len(s.byName); i++ {
		for _, z := range names {
			if i >= len(zones[z]) {
				continue
			}
			n := zones[z][i]
			s.list = append(s.list, n)
			if len(n.affinity) > 0 {
				s.affinity = append(s.affinity, n)
			}
			if len(n.anti) > 0 {
				s.anti = append(s.anti, n)
			}
			for k := range n.pvcs {
				s.claims.Insert(k)
			}
		}
	}
}

func (s *Snapshot) NodeInfos() framework.NodeInfoLister                     { return s }
func (s *Snapshot) StorageInfos() framework.StorageInfoLister               { return s }
func (s *Snapshot) PodGroupStates() framework.PodGroupStateLister           { return noGroups{} }
func (s *Snapshot) List() ([]framework.NodeInfo, error)                     { return s.list, nil }
func (s *Snapshot) HavePodsWithAffinityList() ([]framework.NodeInfo, error) { return s.affinity, nil }
func (s *Snapshot) HavePodsWithRequiredAntiAffinityList() ([]framework.NodeInfo, error) {
	return s.anti, nil
}

// Get returns the node, or an error that names it.
func (s *Snapshot) Get(name string) (framework.NodeInfo, error) {
	if n, ok := s.byName[name]; ok {
		return n, nil
	}
	return nil, fmt.Errorf("node %q is not in the scheduler's snapshot", name)
}

// IsPVCUsedByPods reports whether a pod on any node uses the claim "namespace/name".
func (s *Snapshot) IsPVCUsedByPods(key string) bool { return s.claims.Has(key) }

type noGroups struct{}

func (noGroups) Get(namespace, name string) (framework.PodGroupState, error) {
	return nil, errors.New("pod groups are not scheduled by reeve")
}
