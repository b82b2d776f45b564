package nodelifecycle

import (
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// watched conditions become Unknown when a node falls silent.
var watched = []v1.NodeConditionType{v1.NodeReady, v1.NodeMemoryPressure, v1.NodeDiskPressure, v1.NodePIDPressure}

// unknown returns the conditions of a node that has been silent for too long, and whether any changed.
func unknown(have []v1.NodeCondition, now metav1.Time) ([]v1.NodeCondition, bool) {
	out := slices.Clone(have)
	changed := false
	for _, t := range watched {
		i := slices.IndexFunc(out, func(c v1.NodeCondition) bool { return c.Type == t })
		switch {
		case i < 0:
			out = append(out, v1.NodeCondition{
				Type: t, Status: v1.ConditionUnknown, Reason: "NodeStatusNeverUpdated", Message: "Kubelet never posted node status.",
				LastHeartbeatTime: now, LastTransitionTime: now,
			})
			changed = true
		case out[i].Status != v1.ConditionUnknown:
			out[i].Status, out[i].Reason, out[i].Message = v1.ConditionUnknown, "NodeStatusUnknown", "Kubelet stopped posting node status."
			out[i].LastTransitionTime = now
			changed = true
		}
	}
	return out, changed
}

func status(node *v1.Node, t v1.NodeConditionType) v1.ConditionStatus {
	for _, c := range node.Status.Conditions {
		if c.Type == t {
			return c.Status
		}
	}
	return ""
}

// ours lists the taints that this controller sets and clears.
func ours(t *v1.Taint) bool {
	switch t.Key {
	case v1.TaintNodeNotReady, v1.TaintNodeUnreachable:
		return t.Effect == v1.TaintEffectNoSchedule || t.Effect == v1.TaintEffectNoExecute
	case v1.TaintNodeMemoryPressure, v1.TaintNodeDiskPressure, v1.TaintNodePIDPressure, v1.TaintNodeNetworkUnavailable, v1.TaintNodeUnschedulable:
		return t.Effect == v1.TaintEffectNoSchedule
	}
	return false
}

// taints computes a node's taints from its conditions; those of others stay. evict says whether pods are to leave a node
// that is not ready; where it is false, NoExecute taints already there go.
func taints(node *v1.Node, evict bool, now metav1.Time) ([]v1.Taint, bool) {
	want := map[v1.Taint]bool{} // key and effect only
	noSchedule := func(key string, on bool) {
		if on {
			want[v1.Taint{Key: key, Effect: v1.TaintEffectNoSchedule}] = true
		}
	}
	ready := status(node, v1.NodeReady)
	down := ""
	switch ready {
	case v1.ConditionTrue:
	case v1.ConditionFalse:
		down = v1.TaintNodeNotReady
	case v1.ConditionUnknown:
		down = v1.TaintNodeUnreachable
	default: // no condition yet: the node has not reported
		down = v1.TaintNodeNotReady
	}
	if down != "" {
		noSchedule(down, true)
		if evict && ready != "" {
			want[v1.Taint{Key: down, Effect: v1.TaintEffectNoExecute}] = true
		}
	}
	noSchedule(v1.TaintNodeMemoryPressure, status(node, v1.NodeMemoryPressure) == v1.ConditionTrue)
	noSchedule(v1.TaintNodeDiskPressure, status(node, v1.NodeDiskPressure) == v1.ConditionTrue)
	noSchedule(v1.TaintNodePIDPressure, status(node, v1.NodePIDPressure) == v1.ConditionTrue)
	noSchedule(v1.TaintNodeNetworkUnavailable, status(node, v1.NodeNetworkUnavailable) == v1.ConditionTrue)
	noSchedule(v1.TaintNodeUnschedulable, node.Spec.Unschedulable)

	var out []v1.Taint
	changed := false
	for _, t := range node.Spec.Taints {
		bare := v1.Taint{Key: t.Key, Effect: t.Effect}
		if !ours(&t) || want[bare] {
			out = append(out, t)
			delete(want, bare)
			continue
		}
		changed = true
	}
	var add []v1.Taint
	for t := range want {
		t.TimeAdded = &now
		add = append(add, t)
	}
	slices.SortFunc(add, func(a, b v1.Taint) int {
		if a.Key != b.Key {
			if a.Key < b.Key {
				return -1
			}
			return 1
		}
		if a.Effect < b.Effect {
			return -1
		}
		return 1
	})
	return append(out, add...), changed || len(add) > 0
}

// mayEvict says whether pods should leave nodes that are down: not when every node seems to be, since then it is the network
// or the API server that failed.
func mayEvict(nodes []*v1.Node) bool {
	for _, n := range nodes {
		if status(n, v1.NodeReady) == v1.ConditionTrue {
			return true
		}
	}
	return false
}

// pace is how long after its predecessor a node may get its NoExecute taint: 0.1 nodes a second, as upstream; 0.01 in a
// cluster of more than 50 nodes where over 55 % are down.
func pace(nodes []*v1.Node) time.Duration {
	down := 0
	for _, n := range nodes {
		if status(n, v1.NodeReady) != v1.ConditionTrue {
			down++
		}
	}
	switch {
	case down <= 2 || float64(down) < 0.55*float64(len(nodes)):
		return 10 * time.Second
	case len(nodes) > 50:
		return 100 * time.Second
	}
	return -1 // a small cluster, mostly down: nobody is evicted
}
