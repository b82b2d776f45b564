package plugins

import (
	"fmt"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/kube-scheduler/framework"
)

// Names of the plugins, as in a KubeSchedulerConfiguration.
const (
	NameSchedulingGates   = "SchedulingGates"
	NamePrioritySort      = "PrioritySort"
	NameNodeUnschedulable = "NodeUnschedulable"
	NameNodeName          = "NodeName"
	NameTaintToleration   = "TaintToleration"
	NameNodeAffinity      = "NodeAffinity"
	NameNodePorts         = "NodePorts"
	NameFit               = "NodeResourcesFit"
	NameBalanced          = "NodeResourcesBalancedAllocation"
	NameSpread            = "PodTopologySpread"
	NameInterPod          = "InterPodAffinity"
	NameImageLocality     = "ImageLocality"
	NameVolumeBinding     = "VolumeBinding"
	NameVolumeRestriction = "VolumeRestrictions"
	NameDefaultPreemption = "DefaultPreemption"
	NameDefaultBinder     = "DefaultBinder"
)

func fail(reasons ...string) *framework.Status {
	return framework.NewStatus(framework.Unschedulable, reasons...)
}

func failForGood(reasons ...string) *framework.Status {
	return framework.NewStatus(framework.UnschedulableAndUnresolvable, reasons...)
}

func skip() *framework.Status { return framework.NewStatus(framework.Skip) }

func on(r framework.EventResource, a framework.ActionType, fn framework.QueueingHintFn) framework.ClusterEventWithHint {
	return framework.ClusterEventWithHint{Event: framework.ClusterEvent{Resource: r, ActionType: a}, QueueingHintFn: fn}
}

// read fetches what a plugin's PreFilter or PreScore left for it.
func read[T framework.StateData](s framework.CycleState, key string) (T, error) {
	var zero T
	d, err := s.Read(framework.StateKey(key))
	if err != nil {
		return zero, fmt.Errorf("read scheduling state %q: %w", key, err)
	}
	t, ok := d.(T)
	if !ok {
		return zero, fmt.Errorf("read scheduling state %q: has type %T", key, d)
	}
	return t, nil
}

// normalize scales scores so that the highest becomes MaxNodeScore; reverse turns them over.
func normalize(scores framework.NodeScoreList, reverse bool) {
	var top int64
	for _, s := range scores {
		top = max(top, s.Score)
	}
	for i := range scores {
		s := int64(0)
		if top > 0 {
			s = scores[i].Score * framework.MaxNodeScore / top
		}
		if reverse {
			s = framework.MaxNodeScore - s
		}
		scores[i].Score = s
	}
}

func nodeOf(obj any) *v1.Node {
	n, _ := obj.(*v1.Node)
	return n
}

func podOf(obj any) *v1.Pod {
	p, _ := obj.(*v1.Pod)
	return p
}

func namespaceLabels(lister interface {
	Get(string) (*v1.Namespace, error)
}, name string) labels.Set {
	if ns, err := lister.Get(name); err == nil {
		return ns.Labels
	}
	return nil
}
