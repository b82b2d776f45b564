package scheduler

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/kube-scheduler/framework"

	"github.com/reevehq/reeve/controlplane/scheduler/plugins"
	"github.com/reevehq/reeve/controlplane/scheduler/state"
)

// decision is where a pod goes.
type decision struct {
	node      string
	evaluated int
	feasible  int
}

// misfit is the error of a pod that fits nowhere.
type misfit struct {
	nodes     int
	statuses  nodeStatuses
	rejectors sets.Set[string]
	pending   sets.Set[string]
	preFilter string
	post      string
}

// Error is the sentence of the FailedScheduling event.
func (m *misfit) Error() string {
	var s string
	switch {
	case m.nodes == 0:
		s = plugins.Explain(0, nil)
	case m.preFilter != "":
		s = fmt.Sprintf("0/%d nodes are available: %s.", m.nodes, m.preFilter)
	default:
		reasons := map[string]int{}
		for _, st := range m.statuses.byName {
			for _, r := range st.Reasons() {
				reasons[r]++
			}
		}
		if rest := m.nodes - len(m.statuses.byName); rest > 0 && m.statuses.absent != nil {
			for _, r := range m.statuses.absent.Reasons() {
				reasons[r] += rest
			}
		}
		s = plugins.Explain(m.nodes, reasons)
	}
	if m.post != "" {
		s += " " + m.post
	}
	return s
}

// nodeStatuses says why each node was refused; absent stands for nodes that were not looked at.
type nodeStatuses struct {
	byName map[string]*framework.Status
	absent *framework.Status
}

var _ framework.NodeToStatusReader = nodeStatuses{}

func (n nodeStatuses) Get(name string) *framework.Status {
	if s, ok := n.byName[name]; ok {
		return s
	}
	if n.absent != nil {
		return n.absent
	}
	return framework.NewStatus(framework.UnschedulableAndUnresolvable)
}

func (n nodeStatuses) NodesForStatusCode(l framework.NodeInfoLister, code framework.Code) ([]framework.NodeInfo, error) {
	all, err := l.List()
	if err != nil {
		return nil, err
	}
	var out []framework.NodeInfo
	for _, ni := range all {
		if n.Get(ni.Node().Name).Code() == code {
			out = append(out, ni)
		}
	}
	return out, nil
}

// decide picks a node from the snapshot. A pod that fits nowhere gets a *misfit.
func (s *Scheduler) decide(ctx context.Context, p *profile, cs *state.CycleState, pod *v1.Pod) (decision, error) {
	s.cache.UpdateSnapshot(s.snapshot)
	all, err := s.snapshot.List()
	if err != nil {
		return decision{}, err
	}
	m := &misfit{nodes: len(all), statuses: nodeStatuses{byName: map[string]*framework.Status{}}, rejectors: sets.New[string](), pending: sets.New[string]()}
	if len(all) == 0 {
		for _, pl := range p.filter { // any node that appears may help
			m.rejectors.Insert(pl.Name())
		}
		return decision{}, m
	}
	nodes, err := s.narrow(ctx, p, cs, pod, all, m)
	if err != nil {
		return decision{}, err
	}
	feasible, evaluated, err := s.filter(ctx, p, cs, pod, nodes, m)
	if err != nil {
		return decision{}, err
	}
	switch len(feasible) {
	case 0:
		return decision{}, m
	case 1:
		return decision{feasible[0].Node().Name, evaluated, 1}, nil
	}
	if st := p.RunPreScorePlugins(ctx, cs, pod, feasible); !st.IsSuccess() {
		return decision{}, st.AsError()
	}
	scores, st := p.RunScorePlugins(ctx, cs, pod, feasible)
	if !st.IsSuccess() {
		return decision{}, st.AsError()
	}
	best, ties := 0, 1
	for i := 1; i < len(scores); i++ {
		switch {
		case scores[i].TotalScore > scores[best].TotalScore:
			best, ties = i, 1
		case scores[i].TotalScore == scores[best].TotalScore:
			if ties++; rand.IntN(ties) == 0 { // each of n equals wins with 1/n
				best = i
			}
		}
	}
	return decision{scores[best].Name, evaluated, len(feasible)}, nil
}

// narrow runs the PreFilter plugins and leaves the nodes that they allow.
func (s *Scheduler) narrow(ctx context.Context, p *profile, cs *state.CycleState, pod *v1.Pod, all []framework.NodeInfo, m *misfit) ([]framework.NodeInfo, error) {
	skipped := sets.New[string]()
	var result *framework.PreFilterResult
	var narrowed []string
	for _, pl := range p.preFilter {
		r, st := pl.PreFilter(ctx, cs, pod, all)
		switch {
		case st.IsSkip():
			skipped.Insert(pl.Name())
			continue
		case st.IsRejected():
			m.reject(st.WithPlugin(pl.Name()))
			m.preFilter = st.Message()
			m.statuses.absent = st
			return nil, m
		case !st.IsSuccess():
			return nil, fmt.Errorf("run PreFilter of %s: %w", pl.Name(), st.AsError())
		}
		if !r.AllNodes() {
			narrowed = append(narrowed, pl.Name())
		}
		result = result.Merge(r)
	}
	cs.SetSkipFilterPlugins(skipped)
	if result.AllNodes() {
		return all, nil
	}
	// Nodes outside are refused by the plugins that narrowed the search.
	m.statuses.absent = framework.NewStatus(framework.UnschedulableAndUnresolvable, fmt.Sprintf("node(s) didn't satisfy plugin(s) %v", narrowed))
	m.rejectors.Insert(narrowed...)
	var nodes []framework.NodeInfo
	for _, n := range all {
		if result.NodeNames.Has(n.Node().Name) {
			nodes = append(nodes, n)
		}
	}
	return nodes, nil
}

func (m *misfit) reject(st *framework.Status) {
	if st.Code() == framework.Pending {
		m.pending.Insert(st.Plugin())
		return
	}
	m.rejectors.Insert(st.Plugin())
}

// filter looks for enough fitting nodes, starting after where the last search ended, so that all get their turn.
func (s *Scheduler) filter(ctx context.Context, p *profile, cs *state.CycleState, pod *v1.Pod, nodes []framework.NodeInfo, m *misfit) ([]framework.NodeInfo, int, error) {
	if len(nodes) == 0 {
		return nil, 0, nil
	}
	// A pod that preemption made room for goes there if it can.
	if nom := pod.Status.NominatedNodeName; nom != "" {
		if n, err := s.snapshot.Get(nom); err == nil && p.RunFilterPluginsWithNominatedPods(ctx, cs, pod, n).IsSuccess() {
			return []framework.NodeInfo{n}, 1, nil
		}
	}
	want := int32(enough(len(nodes), p.percentage))
	found := make([]framework.NodeInfo, len(nodes))
	var count atomic.Int32
	var mu sync.Mutex
	var broken error
	fctx, cancel := context.WithCancel(ctx)
	defer cancel()
	looked := 0
	p.Parallelizer().Until(fctx, len(nodes), func(i int) {
		n := nodes[(s.nextNode+i)%len(nodes)]
		st := p.RunFilterPluginsWithNominatedPods(ctx, cs, pod, n)
		if st.IsSuccess() {
			k := count.Add(1)
			if k > want {
				return
			}
			found[k-1] = n
			if k == want {
				cancel()
			}
			mu.Lock()
			looked++
			mu.Unlock()
			return
		}
		mu.Lock()
		defer mu.Unlock()
		looked++
		if st.IsError() {
			broken = fmt.Errorf("run Filter of %s on node %q: %w", st.Plugin(), n.Node().Name, st.AsError())
			cancel()
			return
		}
		m.statuses.byName[n.Node().Name] = st
		m.reject(st)
	}, "filter")
	if broken != nil {
		return nil, looked, broken
	}
	s.nextNode = (s.nextNode + looked) % len(nodes)
	return found[:min(count.Load(), want)], looked, nil
}

// enough is how many fitting nodes end the search: all up to 100; beyond, a share that falls with the cluster's size
// (50 % minus one for every 125 nodes, at least 5 %), never fewer than 100.
func enough(nodes int, percentage int32) int {
	const least = 100
	if nodes <= least || percentage >= 100 {
		return nodes
	}
	if percentage == 0 {
		percentage = max(int32(50-nodes/125), 5)
	}
	return max(nodes*int(percentage)/100, least)
}
