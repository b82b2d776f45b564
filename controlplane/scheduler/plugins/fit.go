package plugins

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"
	schedconfig "k8s.io/kube-scheduler/config/v1"
	"k8s.io/kube-scheduler/framework"

	"github.com/reevehq/reeve/controlplane/scheduler/state"
)

// Fit keeps pods off nodes without room for their requests, and scores by what would be left.
type Fit struct {
	ignored  map[string]bool // resource names
	groups   map[string]bool // prefixes before the slash
	strategy schedconfig.ScoringStrategy
}

// NewFit takes the plugin's arguments; nil fields mean LeastAllocated over cpu and memory, weight 1 each.
func NewFit(args *schedconfig.NodeResourcesFitArgs) (*Fit, error) {
	f := &Fit{ignored: map[string]bool{}, groups: map[string]bool{}}
	f.strategy = schedconfig.ScoringStrategy{Type: schedconfig.LeastAllocated}
	if args != nil {
		for _, r := range args.IgnoredResources {
			f.ignored[r] = true
		}
		for _, g := range args.IgnoredResourceGroups {
			f.groups[g] = true
		}
		if args.ScoringStrategy != nil {
			f.strategy = *args.ScoringStrategy.DeepCopy()
		}
	}
	if len(f.strategy.Resources) == 0 {
		f.strategy.Resources = []schedconfig.ResourceSpec{{Name: "cpu", Weight: 1}, {Name: "memory", Weight: 1}}
	}
	for i := range f.strategy.Resources {
		if f.strategy.Resources[i].Weight == 0 {
			f.strategy.Resources[i].Weight = 1
		}
	}
	switch f.strategy.Type {
	case schedconfig.LeastAllocated, schedconfig.MostAllocated:
	case schedconfig.RequestedToCapacityRatio:
		if p := f.strategy.RequestedToCapacityRatio; p == nil || len(p.Shape) == 0 {
			return nil, fmt.Errorf("args of NodeResourcesFit: scoringStrategy.requestedToCapacityRatio.shape: give at least one point")
		}
	default:
		return nil, fmt.Errorf("args of NodeResourcesFit: scoringStrategy.type: %q is none of LeastAllocated, MostAllocated, RequestedToCapacityRatio", f.strategy.Type)
	}
	return f, nil
}

func (*Fit) Name() string { return NameFit }

type fitState struct{ *state.Resource }

func (s *fitState) Clone() framework.StateData { return s }

func (*Fit) PreFilter(_ context.Context, cs framework.CycleState, pod *v1.Pod, _ []framework.NodeInfo) (*framework.PreFilterResult, *framework.Status) {
	cs.Write("PreFilter"+NameFit, &fitState{state.PodRequest(pod)})
	return nil, nil
}

func (*Fit) PreFilterExtensions() framework.PreFilterExtensions { return nil }

func (f *Fit) Filter(_ context.Context, cs framework.CycleState, pod *v1.Pod, n framework.NodeInfo) *framework.Status {
	want, err := read[*fitState](cs, "PreFilter"+NameFit)
	if err != nil {
		want = &fitState{state.PodRequest(pod)}
	}
	reasons, never := f.insufficient(want.Resource, n.GetRequested(), n.GetAllocatable(), len(n.GetPods()))
	switch {
	case len(reasons) == 0:
		return nil
	case never:
		return failForGood(reasons...)
	}
	return fail(reasons...)
}

// insufficient names what is missing; never says that an empty node would not do either.
func (f *Fit) insufficient(want *state.Resource, used, total framework.Resource, pods int) (reasons []string, never bool) {
	if pods+1 > total.GetAllowedPodNumber() {
		reasons = append(reasons, "Too many pods")
	}
	check := func(name string, want, used, total int64) {
		if want == 0 || want <= total-used {
			return
		}
		reasons = append(reasons, "Insufficient "+name)
		never = never || want > total
	}
	check("cpu", want.MilliCPU, used.GetMilliCPU(), total.GetMilliCPU())
	check("memory", want.Memory, used.GetMemory(), total.GetMemory())
	check("ephemeral-storage", want.EphemeralStorage, used.GetEphemeralStorage(), total.GetEphemeralStorage())
	names := make([]string, 0, len(want.Scalar))
	for name := range want.Scalar {
		group, _, ok := strings.Cut(string(name), "/")
		if f.ignored[string(name)] || ok && f.groups[group] {
			continue
		}
		names = append(names, string(name))
	}
	slices.Sort(names)
	for _, name := range names {
		r := v1.ResourceName(name)
		check(name, want.Scalar[r], used.GetScalarResources()[r], total.GetScalarResources()[r])
	}
	return reasons, never
}

func (f *Fit) EventsToRegister(context.Context) ([]framework.ClusterEventWithHint, error) {
	return []framework.ClusterEventWithHint{
		on(framework.Pod, framework.Delete|framework.UpdatePodScaleDown, func(_ klog.Logger, pod *v1.Pod, old, obj any) (framework.QueueingHint, error) {
			gone := podOf(old)
			if gone == nil || gone.Spec.NodeName != "" || gone.UID == pod.UID {
				return framework.Queue, nil
			}
			return framework.QueueSkip, nil
		}),
		on(framework.Node, framework.Add|framework.UpdateNodeAllocatable, func(_ klog.Logger, pod *v1.Pod, _, obj any) (framework.QueueingHint, error) {
			n := nodeOf(obj)
			if n == nil {
				return framework.Queue, nil
			}
			if _, never := f.insufficient(state.PodRequest(pod), &state.Resource{}, state.NewResource(n.Status.Allocatable), 0); never {
				return framework.QueueSkip, nil
			}
			return framework.Queue, nil
		}),
	}, nil
}

// Score rates the node by the strategy, each resource by its weight.
func (f *Fit) Score(_ context.Context, _ framework.CycleState, pod *v1.Pod, n framework.NodeInfo) (int64, *framework.Status) {
	var sum, weights int64
	pi, _ := state.NewPodInfo(pod)
	want := pi.CalculateResource()
	for _, r := range f.strategy.Resources {
		used, total := usage(v1.ResourceName(r.Name), n, want)
		if total == 0 {
			continue
		}
		var s int64
		switch f.strategy.Type {
		case schedconfig.LeastAllocated:
			if used <= total {
				s = (total - used) * framework.MaxNodeScore / total
			}
		case schedconfig.MostAllocated:
			s = min(used, total) * framework.MaxNodeScore / total
		case schedconfig.RequestedToCapacityRatio:
			s = shape(f.strategy.RequestedToCapacityRatio.Shape, min(used*100/total, 100))
		}
		sum += s * r.Weight
		weights += r.Weight
	}
	if weights == 0 {
		return 0, nil
	}
	return sum / weights, nil
}

func (*Fit) ScoreExtensions() framework.ScoreExtensions { return nil }

// usage is what would be requested of the node with the pod on it, and what the node has. CPU and memory count pods
// without requests at the defaults.
func usage(name v1.ResourceName, n framework.NodeInfo, want framework.PodResource) (used, total int64) {
	have, req := n.GetAllocatable(), n.GetRequested()
	switch name {
	case v1.ResourceCPU:
		return n.GetNonZeroRequested().GetMilliCPU() + want.Non0CPU, have.GetMilliCPU()
	case v1.ResourceMemory:
		return n.GetNonZeroRequested().GetMemory() + want.Non0Mem, have.GetMemory()
	case v1.ResourceEphemeralStorage:
		return req.GetEphemeralStorage() + want.Resource.GetEphemeralStorage(), have.GetEphemeralStorage()
	}
	w := want.Resource.GetScalarResources()[name]
	if w == 0 {
		return 0, 0
	}
	return req.GetScalarResources()[name] + w, have.GetScalarResources()[name]
}

// shape interpolates the score (0–10 in the configuration) for a utilization in percent.
func shape(points []schedconfig.UtilizationShapePoint, util int64) int64 {
	scale := framework.MaxNodeScore / 10
	for i, p := range points {
		if util <= int64(p.Utilization) {
			if i == 0 {
				return int64(p.Score) * scale
			}
			a := points[i-1]
			return (int64(a.Score) + (int64(p.Score)-int64(a.Score))*(util-int64(a.Utilization))/int64(p.Utilization-a.Utilization)) * scale
		}
	}
	return int64(points[len(points)-1].Score) * scale
}

// Balanced prefers nodes whose resources would be used evenly.
type Balanced struct{ resources []schedconfig.ResourceSpec }

// NewBalanced takes the plugin's arguments; nil means cpu and memory.
func NewBalanced(args *schedconfig.NodeResourcesBalancedAllocationArgs) *Balanced {
	b := &Balanced{resources: []schedconfig.ResourceSpec{{Name: "cpu"}, {Name: "memory"}}}
	if args != nil && len(args.Resources) > 0 {
		b.resources = args.Resources
	}
	return b
}

func (*Balanced) Name() string { return NameBalanced }

// PreScore skips pods that request nothing: no node is better balanced by them.
func (b *Balanced) PreScore(_ context.Context, _ framework.CycleState, pod *v1.Pod, _ []framework.NodeInfo) *framework.Status {
	r := state.PodRequest(pod)
	if r.MilliCPU == 0 && r.Memory == 0 && r.EphemeralStorage == 0 && len(r.Scalar) == 0 {
		return skip()
	}
	return nil
}

func (b *Balanced) Score(_ context.Context, _ framework.CycleState, pod *v1.Pod, n framework.NodeInfo) (int64, *framework.Status) {
	pi, _ := state.NewPodInfo(pod)
	want := pi.CalculateResource()
	with, without := b.spread(n, want), b.spread(n, framework.PodResource{Resource: &state.Resource{}})
	// A pod that makes the node more even scores above 50, one that makes it less even below.
	return int64(math.Round(50 * (1 + without - with))), nil
}

// spread is the standard deviation of the fractions used.
func (b *Balanced) spread(n framework.NodeInfo, want framework.PodResource) float64 {
	var fractions []float64
	var sum float64
	for _, r := range b.resources {
		used, total := actual(v1.ResourceName(r.Name), n, want)
		if total == 0 {
			continue
		}
		f := min(float64(used)/float64(total), 1)
		fractions = append(fractions, f)
		sum += f
	}
	if len(fractions) < 2 {
		return 0
	}
	mean := sum / float64(len(fractions))
	var dev float64
	for _, f := range fractions {
		dev += (f - mean) * (f - mean)
	}
	return math.Sqrt(dev / float64(len(fractions)))
}

func actual(name v1.ResourceName, n framework.NodeInfo, want framework.PodResource) (used, total int64) {
	have, req, w := n.GetAllocatable(), n.GetRequested(), want.Resource
	switch name {
	case v1.ResourceCPU:
		return req.GetMilliCPU() + w.GetMilliCPU(), have.GetMilliCPU()
	case v1.ResourceMemory:
		return req.GetMemory() + w.GetMemory(), have.GetMemory()
	case v1.ResourceEphemeralStorage:
		return req.GetEphemeralStorage() + w.GetEphemeralStorage(), have.GetEphemeralStorage()
	}
	return req.GetScalarResources()[name] + w.GetScalarResources()[name], have.GetScalarResources()[name]
}

func (*Balanced) ScoreExtensions() framework.ScoreExtensions { return nil }
