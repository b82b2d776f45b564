package plugins

import (
	"context"
	"fmt"
	"maps"
	"math"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	appslisters "k8s.io/client-go/listers/apps/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"
	schedconfig "k8s.io/kube-scheduler/config/v1"
	"k8s.io/kube-scheduler/framework"
)

// Spread honours spec.topologySpreadConstraints. Pods without any that belong to a Service or workload are spread softly
// over hosts and zones.
type Spread struct {
	handle   framework.Handle
	defaults []v1.TopologySpreadConstraint
	system   bool
	services corelisters.ServiceLister
	rcs      corelisters.ReplicationControllerLister
	rss      appslisters.ReplicaSetLister
	sss      appslisters.StatefulSetLister
}

// NewSpread takes the plugin's arguments; nil means the system's defaults.
func NewSpread(h framework.Handle, args *schedconfig.PodTopologySpreadArgs) *Spread {
	inf := h.SharedInformerFactory()
	p := &Spread{
		handle: h, system: true,
		defaults: []v1.TopologySpreadConstraint{
			{TopologyKey: v1.LabelHostname, WhenUnsatisfiable: v1.ScheduleAnyway, MaxSkew: 3},
			{TopologyKey: v1.LabelTopologyZone, WhenUnsatisfiable: v1.ScheduleAnyway, MaxSkew: 5},
		},
		services: inf.Core().V1().Services().Lister(),
		rcs:      inf.Core().V1().ReplicationControllers().Lister(),
		rss:      inf.Apps().V1().ReplicaSets().Lister(),
		sss:      inf.Apps().V1().StatefulSets().Lister(),
	}
	if args != nil && args.DefaultingType == schedconfig.ListDefaulting {
		p.system, p.defaults = false, args.DefaultConstraints
	}
	return p
}

func (*Spread) Name() string { return NameSpread }

type constraint struct {
	key        string
	maxSkew    int32
	minDomains int32
	selector   labels.Selector
	honorAff   bool
	honorTaint bool
}

func (p *Spread) constraints(pod *v1.Pod, action v1.UnsatisfiableConstraintAction) ([]constraint, error) {
	from := pod.Spec.TopologySpreadConstraints
	var fallback labels.Selector
	if len(from) == 0 && len(p.defaults) > 0 {
		if fallback = p.workloadSelector(pod); fallback == nil {
			return nil, nil
		}
		from = p.defaults
	}
	var out []constraint
	for _, c := range from {
		if c.WhenUnsatisfiable != action {
			continue
		}
		sel := fallback
		if sel == nil {
			var err error
			if sel, err = metav1.LabelSelectorAsSelector(c.LabelSelector); err != nil {
				return nil, fmt.Errorf("parse topologySpreadConstraints of pod %q: %w", pod.Name, err)
			}
		}
		if len(c.MatchLabelKeys) > 0 {
			match := labels.Set{}
			for _, k := range c.MatchLabelKeys {
				if v, ok := pod.Labels[k]; ok {
					match[k] = v
				}
			}
			reqs, _ := match.AsSelector().Requirements()
			sel = sel.Add(reqs...)
		}
		minDomains := int32(1)
		if c.MinDomains != nil {
			minDomains = *c.MinDomains
		}
		out = append(out, constraint{
			key: c.TopologyKey, maxSkew: c.MaxSkew, minDomains: minDomains, selector: sel,
			honorAff:   c.NodeAffinityPolicy == nil || *c.NodeAffinityPolicy == v1.NodeInclusionPolicyHonor,
			honorTaint: c.NodeTaintsPolicy != nil && *c.NodeTaintsPolicy == v1.NodeInclusionPolicyHonor,
		})
	}
	return out, nil
}

// workloadSelector selects the pod's siblings: by its Services and by its controller.
func (p *Spread) workloadSelector(pod *v1.Pod) labels.Selector {
	set := labels.Set{}
	if svcs, err := p.services.Services(pod.Namespace).List(labels.Everything()); err == nil {
		for _, s := range svcs {
			if len(s.Spec.Selector) > 0 && labels.SelectorFromSet(s.Spec.Selector).Matches(labels.Set(pod.Labels)) {
				maps.Copy(set, s.Spec.Selector)
			}
		}
	}
	sel := labels.NewSelector()
	if reqs, ok := set.AsSelector().Requirements(); ok {
		sel = sel.Add(reqs...)
	}
	add := func(ls *metav1.LabelSelector) {
		if s, err := metav1.LabelSelectorAsSelector(ls); err == nil {
			if reqs, ok := s.Requirements(); ok {
				sel = sel.Add(reqs...)
			}
		}
	}
	if ref := metav1.GetControllerOfNoCopy(pod); ref != nil {
		switch ref.Kind {
		case "ReplicaSet":
			if rs, err := p.rss.ReplicaSets(pod.Namespace).Get(ref.Name); err == nil {
				add(rs.Spec.Selector)
			}
		case "StatefulSet":
			if ss, err := p.sss.StatefulSets(pod.Namespace).Get(ref.Name); err == nil {
				add(ss.Spec.Selector)
			}
		case "ReplicationController":
			if rc, err := p.rcs.ReplicationControllers(pod.Namespace).Get(ref.Name); err == nil {
				add(metav1.SetAsLabelSelector(rc.Spec.Selector))
			}
		}
	}
	if sel.Empty() {
		return nil
	}
	return sel
}

// includes reports whether the node counts for the constraint, given what it honours.
func (c *constraint) includes(node *v1.Node, aff nodeaffinity.RequiredNodeAffinity, pod *v1.Pod) bool {
	if c.honorAff {
		if ok, err := aff.Match(node); err != nil || !ok {
			return false
		}
	}
	if c.honorTaint {
		if _, found := untolerated(node, pod); found {
			return false
		}
	}
	return true
}

func countPods(n framework.NodeInfo, sel labels.Selector, namespace string) (count int) {
	if sel.Empty() {
		return 0
	}
	for _, pi := range n.GetPods() {
		p := pi.GetPod()
		if p.DeletionTimestamp == nil && p.Namespace == namespace && sel.Matches(labels.Set(p.Labels)) {
			count++
		}
	}
	return count
}

func hasKeys(node *v1.Node, cs []constraint) bool {
	for i := range cs {
		if _, ok := node.Labels[cs[i].key]; !ok {
			return false
		}
	}
	return true
}

// spreadState: for each hard constraint, pods by domain.
type spreadState struct {
	constraints []constraint
	domains     []map[string]int
}

func (s *spreadState) Clone() framework.StateData {
	c := &spreadState{constraints: s.constraints, domains: make([]map[string]int, len(s.domains))}
	for i := range s.domains {
		c.domains[i] = maps.Clone(s.domains[i])
	}
	return c
}

func (p *Spread) PreFilter(_ context.Context, cs framework.CycleState, pod *v1.Pod, nodes []framework.NodeInfo) (*framework.PreFilterResult, *framework.Status) {
	st := &spreadState{}
	if len(pod.Spec.TopologySpreadConstraints) > 0 || !p.system {
		var err error
		if st.constraints, err = p.constraints(pod, v1.DoNotSchedule); err != nil {
			return nil, framework.AsStatus(err)
		}
	}
	if len(st.constraints) == 0 {
		return nil, skip()
	}
	aff := nodeaffinity.GetRequiredNodeAffinity(pod)
	st.domains = make([]map[string]int, len(st.constraints))
	for i := range st.domains {
		st.domains[i] = map[string]int{}
	}
	for _, n := range nodes {
		if !hasKeys(n.Node(), st.constraints) {
			continue
		}
		for i := range st.constraints {
			c := &st.constraints[i]
			if c.includes(n.Node(), aff, pod) {
				st.domains[i][n.Node().Labels[c.key]] += countPods(n, c.selector, pod.Namespace)
			}
		}
	}
	cs.Write("PreFilter"+NameSpread, st)
	return nil, nil
}

func (p *Spread) PreFilterExtensions() framework.PreFilterExtensions { return p }

func (p *Spread) AddPod(_ context.Context, cs framework.CycleState, pod *v1.Pod, add framework.PodInfo, n framework.NodeInfo) *framework.Status {
	return p.change(cs, pod, add.GetPod(), n.Node(), 1)
}

func (p *Spread) RemovePod(_ context.Context, cs framework.CycleState, pod *v1.Pod, gone framework.PodInfo, n framework.NodeInfo) *framework.Status {
	return p.change(cs, pod, gone.GetPod(), n.Node(), -1)
}

func (p *Spread) change(cs framework.CycleState, pod, other *v1.Pod, node *v1.Node, by int) *framework.Status {
	st, err := read[*spreadState](cs, "PreFilter"+NameSpread)
	if err != nil {
		return framework.AsStatus(err)
	}
	if other.Namespace != pod.Namespace || !hasKeys(node, st.constraints) {
		return nil
	}
	aff := nodeaffinity.GetRequiredNodeAffinity(pod)
	for i := range st.constraints {
		c := &st.constraints[i]
		if c.selector.Matches(labels.Set(other.Labels)) && c.includes(node, aff, pod) {
			st.domains[i][node.Labels[c.key]] += by
		}
	}
	return nil
}

func (p *Spread) Filter(_ context.Context, cs framework.CycleState, pod *v1.Pod, n framework.NodeInfo) *framework.Status {
	st, err := read[*spreadState](cs, "PreFilter"+NameSpread)
	if err != nil {
		return framework.AsStatus(err)
	}
	for i := range st.constraints {
		c := &st.constraints[i]
		value, ok := n.Node().Labels[c.key]
		if !ok {
			return failForGood("node(s) didn't match pod topology spread constraints (missing required label)")
		}
		low := math.MaxInt
		for _, count := range st.domains[i] {
			low = min(low, count)
		}
		if len(st.domains[i]) < int(c.minDomains) || len(st.domains[i]) == 0 {
			low = 0
		}
		self := 0
		if c.selector.Matches(labels.Set(pod.Labels)) {
			self = 1
		}
		if st.domains[i][value]+self-low > int(c.maxSkew) {
			return fail("node(s) didn't match pod topology spread constraints")
		}
	}
	return nil
}

func (p *Spread) EventsToRegister(context.Context) ([]framework.ClusterEventWithHint, error) {
	return []framework.ClusterEventWithHint{
		on(framework.Pod, framework.Add|framework.Delete|framework.UpdatePodLabel, func(_ klog.Logger, pod *v1.Pod, old, obj any) (framework.QueueingHint, error) {
			hard, err := p.constraints(pod, v1.DoNotSchedule)
			if err != nil {
				return framework.Queue, nil
			}
			for _, other := range []*v1.Pod{podOf(old), podOf(obj)} {
				if other == nil || other.Namespace != pod.Namespace {
					continue
				}
				for i := range hard {
					if hard[i].selector.Matches(labels.Set(other.Labels)) {
						return framework.Queue, nil
					}
				}
				if other.UID == pod.UID {
					return framework.Queue, nil
				}
			}
			return framework.QueueSkip, nil
		}),
		on(framework.Node, framework.Add|framework.Delete|framework.UpdateNodeLabel|framework.UpdateNodeTaint, nil),
	}, nil
}
