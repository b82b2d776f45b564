package state

import (
	"maps"
	"sync"

	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/kube-scheduler/framework"
)

// CycleState is what plugins hand to each other within one scheduling attempt of one pod. Safe for concurrent use.
type CycleState struct {
	mu       sync.RWMutex
	data     map[framework.StateKey]framework.StateData
	filter   sets.Set[string]
	score    sets.Set[string]
	preBind  sets.Set[string]
	parallel sets.Set[string]
	group    framework.PodGroupCycleState
}

var _ framework.CycleState = (*CycleState)(nil)

// NewCycleState returns an empty state.
func NewCycleState() *CycleState {
	return &CycleState{data: map[framework.StateKey]framework.StateData{}}
}

func (c *CycleState) ShouldRecordPluginMetrics() bool                           { return false }
func (c *CycleState) GetSkipFilterPlugins() sets.Set[string]                    { return c.filter }
func (c *CycleState) SetSkipFilterPlugins(s sets.Set[string])                   { c.filter = s }
func (c *CycleState) GetSkipScorePlugins() sets.Set[string]                     { return c.score }
func (c *CycleState) SetSkipScorePlugins(s sets.Set[string])                    { c.score = s }
func (c *CycleState) GetSkipPreBindPlugins() sets.Set[string]                   { return c.preBind }
func (c *CycleState) SetSkipPreBindPlugins(s sets.Set[string])                  { c.preBind = s }
func (c *CycleState) GetParallelPreBindPlugins() sets.Set[string]               { return c.parallel }
func (c *CycleState) SetParallelPreBindPlugins(s sets.Set[string])              { c.parallel = s }
func (c *CycleState) ShouldSkipAllPostFilterPlugins() bool                      { return false }
func (c *CycleState) IsPodGroupSchedulingCycle() bool                           { return c.group != nil }
func (c *CycleState) GetPodGroupSchedulingCycle() framework.PodGroupCycleState  { return c.group }
func (c *CycleState) SetPodGroupSchedulingCycle(g framework.PodGroupCycleState) { c.group = g }

// Read returns framework.ErrNotFound for an unknown key.
func (c *CycleState) Read(key framework.StateKey) (framework.StateData, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if v, ok := c.data[key]; ok {
		return v, nil
	}
	return nil, framework.ErrNotFound
}

func (c *CycleState) Write(key framework.StateKey, val framework.StateData) {
	c.mu.Lock()
	c.data[key] = val
	c.mu.Unlock()
}

func (c *CycleState) Delete(key framework.StateKey) {
	c.mu.Lock()
	delete(c.data, key)
	c.mu.Unlock()
}

// Clone copies the state, each entry by its own Clone, so that preemption can try things on the copy.
func (c *CycleState) Clone() framework.CycleState {
	c.mu.RLock()
	defer c.mu.RUnlock()
	out := NewCycleState()
	for k, v := range c.data {
		out.data[k] = v.Clone()
	}
	out.filter, out.score = maps.Clone(c.filter), maps.Clone(c.score)
	out.preBind, out.parallel, out.group = maps.Clone(c.preBind), maps.Clone(c.parallel), c.group
	return out
}
