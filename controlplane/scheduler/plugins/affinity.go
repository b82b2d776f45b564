package plugins

import (
	"context"
	"fmt"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"
	"k8s.io/kube-scheduler/framework"
)

// NodeAffinity honours spec.nodeSelector and spec.affinity.nodeAffinity.
type NodeAffinity struct {
	added  *nodeaffinity.NodeSelector
	prefer *nodeaffinity.PreferredSchedulingTerms
}

// NewNodeAffinity takes the profile's extra affinity, which holds for all its pods, or nil.
func NewNodeAffinity(added *v1.NodeAffinity) (*NodeAffinity, error) {
	p := &NodeAffinity{}
	if added == nil {
		return p, nil
	}
	var err error
	if r := added.RequiredDuringSchedulingIgnoredDuringExecution; r != nil {
		if p.added, err = nodeaffinity.NewNodeSelector(r); err != nil {
			return nil, fmt.Errorf("parse addedAffinity of NodeAffinity: %w", err)
		}
	}
	if t := added.PreferredDuringSchedulingIgnoredDuringExecution; len(t) > 0 {
		if p.prefer, err = nodeaffinity.NewPreferredSchedulingTerms(t); err != nil {
			return nil, fmt.Errorf("parse addedAffinity of NodeAffinity: %w", err)
		}
	}
	return p, nil
}

func (*NodeAffinity) Name() string { return NameNodeAffinity }

type requiredAffinity struct {
	nodeaffinity.RequiredNodeAffinity
}

func (r *requiredAffinity) Clone() framework.StateData { return r }

func requiredTerms(pod *v1.Pod) *v1.NodeSelector {
	if a := pod.Spec.Affinity; a != nil && a.NodeAffinity != nil {
		return a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution
	}
	return nil
}

// PreFilter narrows the search when every term names its nodes, as DaemonSet pods do.
func (p *NodeAffinity) PreFilter(_ context.Context, cs framework.CycleState, pod *v1.Pod, _ []framework.NodeInfo) (*framework.PreFilterResult, *framework.Status) {
	terms := requiredTerms(pod)
	if terms == nil && len(pod.Spec.NodeSelector) == 0 && p.added == nil {
		return nil, skip()
	}
	cs.Write("PreFilter"+NameNodeAffinity, &requiredAffinity{nodeaffinity.GetRequiredNodeAffinity(pod)})
	if terms == nil || len(terms.NodeSelectorTerms) == 0 {
		return nil, nil
	}
	var names sets.Set[string]
	for _, t := range terms.NodeSelectorTerms {
		var inTerm sets.Set[string]
		for _, f := range t.MatchFields {
			if f.Key != "metadata.name" || f.Operator != v1.NodeSelectorOpIn {
				continue
			}
			s := sets.New(f.Values...)
			if inTerm == nil {
				inTerm = s
			} else {
				inTerm = inTerm.Intersection(s)
			}
		}
		if inTerm == nil {
			return nil, nil // this term may match any node
		}
		names = names.Union(inTerm)
	}
	if names.Len() == 0 {
		return nil, failForGood("pod affinity terms conflict")
	}
	return &framework.PreFilterResult{NodeNames: names}, nil
}

func (*NodeAffinity) PreFilterExtensions() framework.PreFilterExtensions { return nil }

func (p *NodeAffinity) Filter(_ context.Context, cs framework.CycleState, pod *v1.Pod, n framework.NodeInfo) *framework.Status {
	if p.added != nil && !p.added.Match(n.Node()) {
		return failForGood("node(s) didn't match scheduler-enforced node affinity")
	}
	r, err := read[*requiredAffinity](cs, "PreFilter"+NameNodeAffinity)
	if err != nil {
		r = &requiredAffinity{nodeaffinity.GetRequiredNodeAffinity(pod)}
	}
	if ok, err := r.Match(n.Node()); err != nil || !ok {
		return failForGood("node(s) didn't match Pod's node affinity/selector")
	}
	return nil
}

type preferredAffinity struct {
	terms *nodeaffinity.PreferredSchedulingTerms
}

func (r *preferredAffinity) Clone() framework.StateData { return r }

func (p *NodeAffinity) PreScore(_ context.Context, cs framework.CycleState, pod *v1.Pod, _ []framework.NodeInfo) *framework.Status {
	var terms []v1.PreferredSchedulingTerm
	if a := pod.Spec.Affinity; a != nil && a.NodeAffinity != nil {
		terms = a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution
	}
	if len(terms) == 0 && p.prefer == nil {
		return skip()
	}
	t, err := nodeaffinity.NewPreferredSchedulingTerms(terms)
	if err != nil {
		return framework.AsStatus(fmt.Errorf("parse preferred node affinity: %w", err))
	}
	cs.Write("PreScore"+NameNodeAffinity, &preferredAffinity{t})
	return nil
}

func (p *NodeAffinity) Score(_ context.Context, cs framework.CycleState, _ *v1.Pod, n framework.NodeInfo) (int64, *framework.Status) {
	var score int64
	if p.prefer != nil {
		score = p.prefer.Score(n.Node())
	}
	if r, err := read[*preferredAffinity](cs, "PreScore"+NameNodeAffinity); err == nil {
		score += r.terms.Score(n.Node())
	}
	return score, nil
}

func (p *NodeAffinity) ScoreExtensions() framework.ScoreExtensions { return p }

func (*NodeAffinity) NormalizeScore(_ context.Context, _ framework.CycleState, _ *v1.Pod, s framework.NodeScoreList) *framework.Status {
	normalize(s, false)
	return nil
}

func (p *NodeAffinity) EventsToRegister(context.Context) ([]framework.ClusterEventWithHint, error) {
	return []framework.ClusterEventWithHint{
		on(framework.Node, framework.Add|framework.UpdateNodeLabel, func(_ klog.Logger, pod *v1.Pod, _, obj any) (framework.QueueingHint, error) {
			n := nodeOf(obj)
			if n == nil {
				return framework.Queue, nil
			}
			if p.added != nil && !p.added.Match(n) {
				return framework.QueueSkip, nil
			}
			if ok, err := nodeaffinity.GetRequiredNodeAffinity(pod).Match(n); err == nil && !ok {
				return framework.QueueSkip, nil
			}
			return framework.Queue, nil
		}),
	}, nil
}
