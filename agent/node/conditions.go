package node

import (
	"fmt"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// conditions are a pure function of what was asked; heartbeats are now, transitions are kept from old where nothing
// changed. network is whether sandboxes can be connected.
func conditions(rt *runtimeapi.StatusResponse, rtErr, other error, p Pressure, old *v1.NodeStatus, now time.Time) (out []v1.NodeCondition, ready, network bool) {
	out = []v1.NodeCondition{
		pressured(v1.NodeMemoryPressure, p.Memory, "KubeletHasInsufficientMemory", "kubelet has insufficient memory available",
			"KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
		pressured(v1.NodeDiskPressure, p.Disk, "KubeletHasDiskPressure", "kubelet has disk pressure",
			"KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
		pressured(v1.NodePIDPressure, p.PID, "KubeletHasInsufficientPID", "kubelet has insufficient PID available",
			"KubeletHasSufficientPID", "kubelet has sufficient PID available"),
	}
	c, network := readiness(rt, rtErr, other)
	out = append(out, c)
	for i := range out {
		x := &out[i]
		x.LastHeartbeatTime = metav1.NewTime(now).Rfc3339Copy()
		x.LastTransitionTime = x.LastHeartbeatTime
		if old == nil {
			continue
		}
		for _, o := range old.Conditions {
			if o.Type == x.Type && o.Status == x.Status {
				x.LastTransitionTime = o.LastTransitionTime
			}
		}
	}
	if old != nil {
		for _, o := range old.Conditions {
			known := false
			for i := range out {
				known = known || out[i].Type == o.Type
			}
			if !known {
				out = append(out, o) // a controller's, as NetworkUnavailable
			}
		}
	}
	return out, c.Status == v1.ConditionTrue, network
}

func pressured(t v1.NodeConditionType, on bool, yes, yesMsg, no, noMsg string) v1.NodeCondition {
	if on {
		return v1.NodeCondition{Type: t, Status: v1.ConditionTrue, Reason: yes, Message: yesMsg}
	}
	return v1.NodeCondition{Type: t, Status: v1.ConditionFalse, Reason: no, Message: noMsg}
}

func readiness(rt *runtimeapi.StatusResponse, rtErr, other error) (v1.NodeCondition, bool) {
	var why []string
	network := false
	if rtErr != nil {
		why = append(why, fmt.Sprintf("container runtime is down: %v", rtErr))
	} else {
		seen := map[string]bool{}
		for _, c := range rt.GetStatus().GetConditions() {
			seen[c.Type] = true
			switch {
			case c.Type == runtimeapi.NetworkReady && c.Status:
				network = true
			case c.Type == runtimeapi.NetworkReady:
				why = append(why, fmt.Sprintf("container runtime network not ready: NetworkReady=false reason:%s message:%s", c.Reason, c.Message))
			case c.Type == runtimeapi.RuntimeReady && !c.Status:
				why = append(why, fmt.Sprintf("container runtime not ready: RuntimeReady=false reason:%s message:%s", c.Reason, c.Message))
			}
		}
		if !seen[runtimeapi.RuntimeReady] {
			why = append(why, "container runtime status check may not have completed yet")
		}
	}
	if other != nil {
		why = append(why, "PLEG is not healthy: "+other.Error())
	}
	c := v1.NodeCondition{Type: v1.NodeReady, Status: v1.ConditionTrue, Reason: "KubeletReady", Message: "kubelet is posting ready status"}
	if len(why) > 0 {
		c.Status, c.Reason, c.Message = v1.ConditionFalse, "KubeletNotReady", strings.Join(why, ", ")
	}
	return c, network
}
