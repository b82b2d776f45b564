package plugins

import (
	"context"
	"fmt"
	"maps"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/sets"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/klog/v2"
	schedconfig "k8s.io/kube-scheduler/config/v1"
	"k8s.io/kube-scheduler/framework"

	"github.com/reevehq/reeve/controlplane/scheduler/state"
)

// InterPod honours spec.affinity.podAffinity and podAntiAffinity, of the pod and of those already placed.
type InterPod struct {
	handle         framework.Handle
	namespaces     corelisters.NamespaceLister
	hardWeight     int32
	ignoreExisting bool
}

// NewInterPod takes the plugin's arguments; nil means a weight of 1 for placed pods' required affinity.
func NewInterPod(h framework.Handle, args *schedconfig.InterPodAffinityArgs) *InterPod {
	p := &InterPod{handle: h, namespaces: h.SharedInformerFactory().Core().V1().Namespaces().Lister(), hardWeight: 1}
	if args != nil {
		if args.HardPodAffinityWeight != nil {
			p.hardWeight = *args.HardPodAffinityWeight
		}
		p.ignoreExisting = args.IgnorePreferredTermsOfExistingPods
	}
	return p
}

func (*InterPod) Name() string { return NameInterPod }

type domain struct{ key, value string }

type counts map[domain]int64

func (c counts) add(node *v1.Node, key string, by int64) {
	v, ok := node.Labels[key]
	if !ok {
		return
	}
	d := domain{key, v}
	if c[d] += by; c[d] == 0 {
		delete(c, d)
	}
}

type interPodState struct {
	info     *state.PodInfo
	nsLabels labels.Set
	existing counts // placed pods' anti-affinity that the pod matches
	affinity counts // placed pods that match all the pod's affinity terms
	anti     counts // placed pods that match a term of the pod's anti-affinity
}

func (s *interPodState) Clone() framework.StateData {
	return &interPodState{info: s.info, nsLabels: s.nsLabels, existing: maps.Clone(s.existing), affinity: maps.Clone(s.affinity), anti: maps.Clone(s.anti)}
}

// resolve turns each term's namespace selector into names, so that matching needs no labels of other namespaces.
func (p *InterPod) resolve(t *framework.AffinityTerm) error {
	if t.NamespaceSelector.Empty() {
		return nil // selects all: kept as is
	}
	list, err := p.namespaces.List(t.NamespaceSelector)
	if err != nil {
		return err
	}
	for _, ns := range list {
		t.Namespaces.Insert(ns.Name)
	}
	t.NamespaceSelector = labels.Nothing()
	return nil
}

func (p *InterPod) podInfo(pod *v1.Pod) (*state.PodInfo, error) {
	pi, err := state.NewPodInfo(pod)
	if err != nil {
		return nil, fmt.Errorf("parse pod affinity of %q: %w", pod.Name, err)
	}
	for i := range pi.RequiredAffinityTerms {
		err = p.resolve(&pi.RequiredAffinityTerms[i])
	}
	for i := range pi.RequiredAntiAffinityTerms {
		err = p.resolve(&pi.RequiredAntiAffinityTerms[i])
	}
	for i := range pi.PreferredAffinityTerms {
		err = p.resolve(&pi.PreferredAffinityTerms[i].AffinityTerm)
	}
	for i := range pi.PreferredAntiAffinityTerms {
		err = p.resolve(&pi.PreferredAntiAffinityTerms[i].AffinityTerm)
	}
	return pi, err
}

func matchesAll(terms []framework.AffinityTerm, pod *v1.Pod) bool {
	for i := range terms {
		if !terms[i].Matches(pod, nil) {
			return false
		}
	}
	return len(terms) > 0
}

func (s *interPodState) place(pi framework.PodInfo, node *v1.Node, by int64) {
	for i := range pi.GetRequiredAntiAffinityTerms() {
		t := &pi.GetRequiredAntiAffinityTerms()[i]
		if t.Matches(s.info.Pod, s.nsLabels) {
			s.existing.add(node, t.TopologyKey, by)
		}
	}
	if matchesAll(s.info.RequiredAffinityTerms, pi.GetPod()) {
		for i := range s.info.RequiredAffinityTerms {
			s.affinity.add(node, s.info.RequiredAffinityTerms[i].TopologyKey, by)
		}
	}
	for i := range s.info.RequiredAntiAffinityTerms {
		t := &s.info.RequiredAntiAffinityTerms[i]
		if t.Matches(pi.GetPod(), nil) {
			s.anti.add(node, t.TopologyKey, by)
		}
	}
}

func (p *InterPod) PreFilter(_ context.Context, cs framework.CycleState, pod *v1.Pod, nodes []framework.NodeInfo) (*framework.PreFilterResult, *framework.Status) {
	withAnti, err := p.handle.SnapshotSharedLister().NodeInfos().HavePodsWithRequiredAntiAffinityList()
	if err != nil {
		return nil, framework.AsStatus(err)
	}
	info, err := p.podInfo(pod)
	if err != nil {
		return nil, failForGood(err.Error())
	}
	own := len(info.RequiredAffinityTerms)+len(info.RequiredAntiAffinityTerms) > 0
	if !own && len(withAnti) == 0 {
		return nil, skip()
	}
	st := &interPodState{info: info, nsLabels: namespaceLabels(p.namespaces, pod.Namespace), existing: counts{}, affinity: counts{}, anti: counts{}}
	look, pods := withAnti, framework.NodeInfo.GetPodsWithRequiredAntiAffinity
	if own {
		look, pods = nodes, framework.NodeInfo.GetPods
	}
	for _, n := range look {
		for _, pi := range pods(n) {
			st.place(pi, n.Node(), 1)
		}
	}
	if own {
		// Anti-affinity of pods on nodes outside the narrowed list still holds for their domains.
		seen := sets.New[string]()
		for _, n := range nodes {
			seen.Insert(n.Node().Name)
		}
		for _, n := range withAnti {
			if seen.Has(n.Node().Name) {
				continue
			}
			for _, pi := range n.GetPodsWithRequiredAntiAffinity() {
				st.place(pi, n.Node(), 1)
			}
		}
	}
	if !own && len(st.existing) == 0 {
		return nil, skip()
	}
	cs.Write("PreFilter"+NameInterPod, st)
	return nil, nil
}

func (p *InterPod) PreFilterExtensions() framework.PreFilterExtensions { return p }

func (p *InterPod) AddPod(_ context.Context, cs framework.CycleState, _ *v1.Pod, add framework.PodInfo, n framework.NodeInfo) *framework.Status {
	return p.change(cs, add, n, 1)
}

func (p *InterPod) RemovePod(_ context.Context, cs framework.CycleState, _ *v1.Pod, gone framework.PodInfo, n framework.NodeInfo) *framework.Status {
	return p.change(cs, gone, n, -1)
}

func (p *InterPod) change(cs framework.CycleState, pi framework.PodInfo, n framework.NodeInfo, by int64) *framework.Status {
	st, err := read[*interPodState](cs, "PreFilter"+NameInterPod)
	if err != nil {
		return framework.AsStatus(err)
	}
	st.place(pi, n.Node(), by)
	return nil
}

func (p *InterPod) Filter(_ context.Context, cs framework.CycleState, pod *v1.Pod, n framework.NodeInfo) *framework.Status {
	st, err := read[*interPodState](cs, "PreFilter"+NameInterPod)
	if err != nil {
		return framework.AsStatus(err)
	}
	node := n.Node()
	if !st.affinityHolds(node) {
		return failForGood("node(s) didn't match pod affinity rules")
	}
	for i := range st.info.RequiredAntiAffinityTerms {
		key := st.info.RequiredAntiAffinityTerms[i].TopologyKey
		if v, ok := node.Labels[key]; ok && st.anti[domain{key, v}] > 0 {
			return fail("node(s) didn't match pod anti-affinity rules")
		}
	}
	if len(st.existing) > 0 {
		for key, v := range node.Labels {
			if st.existing[domain{key, v}] > 0 {
				return fail("node(s) didn't satisfy existing pods anti-affinity rules")
			}
		}
	}
	return nil
}

func (s *interPodState) affinityHolds(node *v1.Node) bool {
	held := true
	for i := range s.info.RequiredAffinityTerms {
		key := s.info.RequiredAffinityTerms[i].TopologyKey
		v, ok := node.Labels[key]
		if !ok {
			return false
		}
		if s.affinity[domain{key, v}] <= 0 {
			held = false
		}
	}
	if held {
		return true
	}
	// The first of a group that wants to be with its own kind may start anywhere.
	return len(s.affinity) == 0 && matchesAll(s.info.RequiredAffinityTerms, s.info.Pod)
}

type interPodScore struct {
	info     *state.PodInfo
	nsLabels labels.Set
	score    map[domain]int64
}

func (s *interPodScore) Clone() framework.StateData { return s }

func (p *InterPod) PreScore(_ context.Context, cs framework.CycleState, pod *v1.Pod, nodes []framework.NodeInfo) *framework.Status {
	if len(nodes) < 2 {
		return skip()
	}
	info, err := p.podInfo(pod)
	if err != nil {
		return framework.AsStatus(err)
	}
	own := len(info.PreferredAffinityTerms)+len(info.PreferredAntiAffinityTerms) > 0
	lister := p.handle.SnapshotSharedLister().NodeInfos()
	look, pods := lister.HavePodsWithAffinityList, framework.NodeInfo.GetPodsWithAffinity
	if own {
		look, pods = lister.List, framework.NodeInfo.GetPods
	}
	all, err := look()
	if err != nil {
		return framework.AsStatus(err)
	}
	st := &interPodScore{info: info, nsLabels: namespaceLabels(p.namespaces, pod.Namespace), score: map[domain]int64{}}
	for _, n := range all {
		for _, pi := range pods(n) {
			st.weigh(pi, n.Node(), p.hardWeight, p.ignoreExisting && !own)
		}
	}
	if len(st.score) == 0 {
		return skip()
	}
	cs.Write("PreScore"+NameInterPod, st)
	return nil
}

func (s *interPodScore) weigh(pi framework.PodInfo, node *v1.Node, hard int32, ignoreExisting bool) {
	add := func(key string, w int64) {
		if v, ok := node.Labels[key]; ok {
			s.score[domain{key, v}] += w
		}
	}
	for i := range s.info.PreferredAffinityTerms {
		if t := &s.info.PreferredAffinityTerms[i]; t.Matches(pi.GetPod(), nil) {
			add(t.TopologyKey, int64(t.Weight))
		}
	}
	for i := range s.info.PreferredAntiAffinityTerms {
		if t := &s.info.PreferredAntiAffinityTerms[i]; t.Matches(pi.GetPod(), nil) {
			add(t.TopologyKey, -int64(t.Weight))
		}
	}
	for i := range pi.GetRequiredAffinityTerms() {
		if t := &pi.GetRequiredAffinityTerms()[i]; hard > 0 && t.Matches(s.info.Pod, s.nsLabels) {
			add(t.TopologyKey, int64(hard))
		}
	}
	if ignoreExisting {
		return
	}
	for i := range pi.GetPreferredAffinityTerms() {
		if t := &pi.GetPreferredAffinityTerms()[i]; t.Matches(s.info.Pod, s.nsLabels) {
			add(t.TopologyKey, int64(t.Weight))
		}
	}
	for i := range pi.GetPreferredAntiAffinityTerms() {
		if t := &pi.GetPreferredAntiAffinityTerms()[i]; t.Matches(s.info.Pod, s.nsLabels) {
			add(t.TopologyKey, -int64(t.Weight))
		}
	}
}

func (p *InterPod) Score(_ context.Context, cs framework.CycleState, _ *v1.Pod, n framework.NodeInfo) (int64, *framework.Status) {
	st, err := read[*interPodScore](cs, "PreScore"+NameInterPod)
	if err != nil {
		return 0, framework.AsStatus(err)
	}
	var score int64
	for key, v := range n.Node().Labels {
		score += st.score[domain{key, v}]
	}
	return score, nil
}

func (p *InterPod) ScoreExtensions() framework.ScoreExtensions { return p }

func (p *InterPod) NormalizeScore(_ context.Context, _ framework.CycleState, _ *v1.Pod, scores framework.NodeScoreList) *framework.Status {
	low, high := scores[0].Score, scores[0].Score
	for _, s := range scores {
		low, high = min(low, s.Score), max(high, s.Score)
	}
	for i := range scores {
		if high == low {
			scores[i].Score = 0
			continue
		}
		scores[i].Score = framework.MaxNodeScore * (scores[i].Score - low) / (high - low)
	}
	return nil
}

func (p *InterPod) EventsToRegister(context.Context) ([]framework.ClusterEventWithHint, error) {
	return []framework.ClusterEventWithHint{
		on(framework.Pod, framework.Add|framework.Delete|framework.UpdatePodLabel, func(_ klog.Logger, pod *v1.Pod, old, obj any) (framework.QueueingHint, error) {
			info, err := p.podInfo(pod)
			if err != nil {
				return framework.Queue, nil
			}
			ns := namespaceLabels(p.namespaces, pod.Namespace)
			for _, other := range []*v1.Pod{podOf(old), podOf(obj)} {
				if other == nil {
					continue
				}
				if other.UID == pod.UID {
					return framework.Queue, nil
				}
				oi, _ := state.NewPodInfo(other)
				for i := range oi.RequiredAntiAffinityTerms {
					if oi.RequiredAntiAffinityTerms[i].Matches(pod, ns) {
						return framework.Queue, nil
					}
				}
				for _, terms := range [][]framework.AffinityTerm{info.RequiredAffinityTerms, info.RequiredAntiAffinityTerms} {
					for i := range terms {
						if terms[i].Matches(other, nil) {
							return framework.Queue, nil
						}
					}
				}
			}
			return framework.QueueSkip, nil
		}),
		on(framework.Node, framework.Add|framework.UpdateNodeLabel, nil),
	}, nil
}
