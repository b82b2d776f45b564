package state

import (
	"fmt"
	"sync/atomic"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	ndf "k8s.io/component-helpers/nodedeclaredfeatures"
	"k8s.io/klog/v2"
	"k8s.io/kube-scheduler/framework"
)

// generation numbers every change of any NodeInfo, so that a snapshot copies only nodes that changed since.
var generation atomic.Int64

// NodeInfo is a node and the sum of the pods on it. Not safe for concurrent change; snapshots are only read.
type NodeInfo struct {
	node        *v1.Node
	pods        []framework.PodInfo
	affinity    []framework.PodInfo
	anti        []framework.PodInfo
	ports       framework.HostPortInfo
	requested   *Resource
	nonZero     *Resource
	allocatable *Resource
	images      map[string]*framework.ImageStateSummary
	pvcs        map[string]int // namespace/name → pods using it
	gen         int64
}

var _ framework.NodeInfo = (*NodeInfo)(nil)

// NewNodeInfo returns an empty node with the given pods.
func NewNodeInfo(pods ...*v1.Pod) *NodeInfo {
	n := &NodeInfo{
		requested: &Resource{}, nonZero: &Resource{}, allocatable: &Resource{},
		ports: framework.HostPortInfo{}, images: map[string]*framework.ImageStateSummary{}, pvcs: map[string]int{},
		gen: generation.Add(1),
	}
	for _, p := range pods {
		pi, _ := NewPodInfo(p)
		n.AddPodInfo(pi)
	}
	return n
}

func (n *NodeInfo) Node() *v1.Node                                          { return n.node }
func (n *NodeInfo) GetPods() []framework.PodInfo                            { return n.pods }
func (n *NodeInfo) GetPodsWithAffinity() []framework.PodInfo                { return n.affinity }
func (n *NodeInfo) GetPodsWithRequiredAntiAffinity() []framework.PodInfo    { return n.anti }
func (n *NodeInfo) GetUsedPorts() framework.HostPortInfo                    { return n.ports }
func (n *NodeInfo) GetRequested() framework.Resource                        { return n.requested }
func (n *NodeInfo) GetNonZeroRequested() framework.Resource                 { return n.nonZero }
func (n *NodeInfo) GetAllocatable() framework.Resource                      { return n.allocatable }
func (n *NodeInfo) GetImageStates() map[string]*framework.ImageStateSummary { return n.images }
func (n *NodeInfo) GetPVCRefCounts() map[string]int                         { return n.pvcs }
func (n *NodeInfo) GetGeneration() int64                                    { return n.gen }
func (n *NodeInfo) GetNodeDeclaredFeatures() ndf.FeatureSet                 { return ndf.FeatureSet{} }
func (n *NodeInfo) GetNodeAllocatableDRAClaimState() map[types.NamespacedName]*framework.NodeAllocatableDRAClaimState {
	return nil
}

// SetNode replaces the node object and its allocatable.
func (n *NodeInfo) SetNode(node *v1.Node) {
	n.node = node
	n.allocatable = NewResource(node.Status.Allocatable)
	n.gen = generation.Add(1)
}

// AddPodInfo adds a pod with its requests, ports and claims.
func (n *NodeInfo) AddPodInfo(pi framework.PodInfo) {
	n.pods = append(n.pods, pi)
	if len(pi.GetRequiredAffinityTerms())+len(pi.GetRequiredAntiAffinityTerms())+
		len(pi.GetPreferredAffinityTerms())+len(pi.GetPreferredAntiAffinityTerms()) > 0 {
		n.affinity = append(n.affinity, pi)
	}
	if len(pi.GetRequiredAntiAffinityTerms()) > 0 {
		n.anti = append(n.anti, pi)
	}
	n.account(pi, 1)
}

// RemovePod removes the pod by UID; an unknown pod is an error.
func (n *NodeInfo) RemovePod(_ klog.Logger, pod *v1.Pod) error {
	for i, pi := range n.pods {
		if pi.GetPod().UID == pod.UID {
			n.pods = without(n.pods, i)
			n.affinity = withoutUID(n.affinity, pod.UID)
			n.anti = withoutUID(n.anti, pod.UID)
			n.account(pi, -1)
			return nil
		}
	}
	name := ""
	if n.node != nil {
		name = n.node.Name
	}
	return fmt.Errorf("remove pod %q from node %q: no such pod there", pod.Namespace+"/"+pod.Name, name)
}

func (n *NodeInfo) account(pi framework.PodInfo, sign int64) {
	r := pi.CalculateResource()
	if res, ok := r.Resource.(*Resource); ok {
		n.requested.change(res, sign)
	} else {
		n.requested.change(&Resource{
			MilliCPU: r.Resource.GetMilliCPU(), Memory: r.Resource.GetMemory(),
			EphemeralStorage: r.Resource.GetEphemeralStorage(), Scalar: r.Resource.GetScalarResources(),
		}, sign)
	}
	n.nonZero.MilliCPU += sign * r.Non0CPU
	n.nonZero.Memory += sign * r.Non0Mem
	pod := pi.GetPod()
	for _, p := range HostPorts(pod) {
		if sign > 0 {
			n.ports.Add(p.HostIP, string(p.Protocol), p.HostPort)
		} else {
			n.ports.Remove(p.HostIP, string(p.Protocol), p.HostPort)
		}
	}
	for i := range pod.Spec.Volumes {
		name := ClaimName(pod, &pod.Spec.Volumes[i])
		if name == "" {
			continue
		}
		key := pod.Namespace + "/" + name
		if n.pvcs[key] += int(sign); n.pvcs[key] <= 0 {
			delete(n.pvcs, key)
		}
	}
	n.gen = generation.Add(1)
}

// ClaimName is the name of the PersistentVolumeClaim behind a volume, or "".
func ClaimName(pod *v1.Pod, vol *v1.Volume) string {
	switch {
	case vol.PersistentVolumeClaim != nil:
		return vol.PersistentVolumeClaim.ClaimName
	case vol.Ephemeral != nil:
		return pod.Name + "-" + vol.Name
	}
	return ""
}

// HostPorts lists the ports that a pod takes on its node: of containers and of sidecars.
func HostPorts(pod *v1.Pod) []v1.ContainerPort {
	var ports []v1.ContainerPort
	collect := func(c *v1.Container) {
		for _, p := range c.Ports {
			if p.HostPort > 0 {
				ports = append(ports, p)
			}
		}
	}
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		if c.RestartPolicy != nil && *c.RestartPolicy == v1.ContainerRestartPolicyAlways {
			collect(c)
		}
	}
	for i := range pod.Spec.Containers {
		collect(&pod.Spec.Containers[i])
	}
	return ports
}

// Snapshot returns a copy that later changes of n do not touch.
func (n *NodeInfo) Snapshot() framework.NodeInfo { return n.clone() }

func (n *NodeInfo) clone() *NodeInfo {
	c := &NodeInfo{
		node: n.node, gen: n.gen,
		requested: n.requested.Clone(), nonZero: n.nonZero.Clone(), allocatable: n.allocatable,
		images: n.images,
		ports:  make(framework.HostPortInfo, len(n.ports)), pvcs: make(map[string]int, len(n.pvcs)),
		pods: append([]framework.PodInfo(nil), n.pods...), affinity: append([]framework.PodInfo(nil), n.affinity...),
		anti: append([]framework.PodInfo(nil), n.anti...),
	}
	for ip, m := range n.ports {
		mm := make(map[framework.ProtocolPort]struct{}, len(m))
		for p := range m {
			mm[p] = struct{}{}
		}
		c.ports[ip] = mm
	}
	for k, v := range n.pvcs {
		c.pvcs[k] = v
	}
	return c
}

func (n *NodeInfo) String() string {
	name := "<none>"
	if n.node != nil {
		name = n.node.Name
	}
	return fmt.Sprintf("node %s: %d pods, requested %d mCPU %d bytes", name, len(n.pods), n.requested.MilliCPU, n.requested.Memory)
}

func without(list []framework.PodInfo, i int) []framework.PodInfo {
	list[i] = list[len(list)-1]
	list[len(list)-1] = nil
	return list[:len(list)-1]
}

func withoutUID(list []framework.PodInfo, uid types.UID) []framework.PodInfo {
	for i, pi := range list {
		if pi.GetPod().UID == uid {
			return without(list, i)
		}
	}
	return list
}
