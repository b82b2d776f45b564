package queue

import (
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
	"k8s.io/kube-scheduler/framework"

	"github.com/reevehq/reeve/controlplane/scheduler/state"
)

// nominator remembers which waiting pods hold a claim on which node, after preemption made room for them there.
type nominator struct {
	byNode map[string][]*state.PodInfo
	node   map[types.UID]string
}

func (n *nominator) set(pi *state.PodInfo, node string) {
	n.remove(pi.Pod.UID)
	if node == "" {
		node = pi.Pod.Status.NominatedNodeName
	}
	if node == "" {
		return
	}
	n.node[pi.Pod.UID] = node
	n.byNode[node] = append(n.byNode[node], pi)
}

func (n *nominator) remove(uid types.UID) {
	node, ok := n.node[uid]
	if !ok {
		return
	}
	delete(n.node, uid)
	list := n.byNode[node]
	for i, pi := range list {
		if pi.Pod.UID == uid {
			n.byNode[node] = append(list[:i:i], list[i+1:]...)
			break
		}
	}
	if len(n.byNode[node]) == 0 {
		delete(n.byNode, node)
	}
}

var _ framework.PodNominator = (*Queue)(nil)

// AddNominatedPod records the nomination that info carries, or the pod's own.
func (q *Queue) AddNominatedPod(_ klog.Logger, pod framework.PodInfo, info *framework.NominatingInfo) {
	q.mu.Lock()
	defer q.mu.Unlock()
	pi, ok := pod.(*state.PodInfo)
	if !ok {
		pi, _ = state.NewPodInfo(pod.GetPod())
	}
	if info.Mode() == framework.ModeOverride {
		q.nominees.remove(pi.Pod.UID)
		if info.NominatedNodeName != "" {
			q.nominees.set(pi, info.NominatedNodeName)
		}
		return
	}
	q.nominees.set(pi, "")
}

// DeleteNominatedPodIfExists drops the pod's nomination.
func (q *Queue) DeleteNominatedPodIfExists(pod *v1.Pod) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.nominees.remove(pod.UID)
}

// UpdateNominatedPod follows a change of the pod.
func (q *Queue) UpdateNominatedPod(_ klog.Logger, _ *v1.Pod, pod framework.PodInfo) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if pi, ok := pod.(*state.PodInfo); ok {
		q.nominees.set(pi, "")
	}
}

// NominatedPodsForNode returns the pods that claim the node.
func (q *Queue) NominatedPodsForNode(node string) []framework.PodInfo {
	q.mu.Lock()
	defer q.mu.Unlock()
	list := q.nominees.byNode[node]
	out := make([]framework.PodInfo, len(list))
	for i := range list {
		out[i] = list[i]
	}
	return out
}
