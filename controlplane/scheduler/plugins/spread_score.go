package plugins

import (
	"context"
	"math"

	v1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/kube-scheduler/framework"
)

// softState: for each soft constraint, pods by domain and the domain's weight.
type softState struct {
	constraints []constraint
	domains     []map[string]int
	weights     []float64
	ignored     map[string]bool
}

func (s *softState) Clone() framework.StateData { return s }

func (p *Spread) PreScore(_ context.Context, cs framework.CycleState, pod *v1.Pod, nodes []framework.NodeInfo) *framework.Status {
	if len(nodes) < 2 {
		return skip()
	}
	soft, err := p.constraints(pod, v1.ScheduleAnyway)
	if err != nil {
		return framework.AsStatus(err)
	}
	if len(soft) == 0 {
		return skip()
	}
	all, err := p.handle.SnapshotSharedLister().NodeInfos().List()
	if err != nil {
		return framework.AsStatus(err)
	}
	// The system's defaults must not rule out nodes that lack a zone label.
	needKeys := len(pod.Spec.TopologySpreadConstraints) > 0 || !p.system
	st := &softState{constraints: soft, ignored: map[string]bool{}}
	aff := nodeaffinity.GetRequiredNodeAffinity(pod)
	for i := range soft {
		c := &soft[i]
		d := map[string]int{}
		for _, n := range nodes {
			if needKeys && !hasKeys(n.Node(), soft) {
				st.ignored[n.Node().Name] = true
				continue
			}
			if v, ok := n.Node().Labels[c.key]; ok {
				d[v] = 0
			}
		}
		for _, n := range all {
			v, ok := n.Node().Labels[c.key]
			if _, candidate := d[v]; !ok || !candidate || needKeys && !hasKeys(n.Node(), soft) || !c.includes(n.Node(), aff, pod) {
				continue
			}
			d[v] += countPods(n, c.selector, pod.Namespace)
		}
		st.domains = append(st.domains, d)
		st.weights = append(st.weights, math.Log(float64(len(d)+2)))
	}
	cs.Write("PreScore"+NameSpread, st)
	return nil
}

func (p *Spread) Score(_ context.Context, cs framework.CycleState, _ *v1.Pod, n framework.NodeInfo) (int64, *framework.Status) {
	st, err := read[*softState](cs, "PreScore"+NameSpread)
	if err != nil {
		return 0, framework.AsStatus(err)
	}
	if st.ignored[n.Node().Name] {
		return 0, nil
	}
	var score float64
	for i := range st.constraints {
		if v, ok := n.Node().Labels[st.constraints[i].key]; ok {
			score += float64(st.domains[i][v])*st.weights[i] + float64(st.constraints[i].maxSkew-1)
		}
	}
	return int64(math.Round(score)), nil
}

func (p *Spread) ScoreExtensions() framework.ScoreExtensions { return p }

// NormalizeScore turns "fewer pods in the domain" into "higher".
func (p *Spread) NormalizeScore(_ context.Context, cs framework.CycleState, _ *v1.Pod, scores framework.NodeScoreList) *framework.Status {
	st, err := read[*softState](cs, "PreScore"+NameSpread)
	if err != nil {
		return framework.AsStatus(err)
	}
	low, high := int64(math.MaxInt64), int64(0)
	for _, s := range scores {
		if !st.ignored[s.Name] {
			low, high = min(low, s.Score), max(high, s.Score)
		}
	}
	for i := range scores {
		switch {
		case st.ignored[scores[i].Name]:
			scores[i].Score = 0
		case high == 0:
			scores[i].Score = framework.MaxNodeScore
		default:
			scores[i].Score = framework.MaxNodeScore * (high + low - scores[i].Score) / high
		}
	}
	return nil
}
