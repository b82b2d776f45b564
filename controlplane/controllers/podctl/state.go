package podctl

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Condition returns the pod's condition of the type, or nil.
func Condition(pod *v1.Pod, t v1.PodConditionType) *v1.PodCondition {
	for i := range pod.Status.Conditions {
		if pod.Status.Conditions[i].Type == t {
			return &pod.Status.Conditions[i]
		}
	}
	return nil
}

// Ready reports whether the Ready condition is true.
func Ready(pod *v1.Pod) bool {
	c := Condition(pod, v1.PodReady)
	return c != nil && c.Status == v1.ConditionTrue
}

// Available reports whether the pod has been ready for minReady, and if it is ready but not yet for that long, how much is
// left.
func Available(pod *v1.Pod, minReadySeconds int32, now time.Time) (ok bool, left time.Duration) {
	if !Ready(pod) {
		return false, 0
	}
	if minReadySeconds == 0 {
		return true, 0
	}
	since := Condition(pod, v1.PodReady).LastTransitionTime
	if since.IsZero() {
		return false, 0
	}
	left = since.Add(time.Duration(minReadySeconds) * time.Second).Sub(now)
	return left <= 0, max(left, 0)
}

// Finished pods run no more.
func Finished(pod *v1.Pod) bool {
	return pod.Status.Phase == v1.PodSucceeded || pod.Status.Phase == v1.PodFailed
}

// Active pods are neither finished nor on their way out.
func Active(pod *v1.Pod) bool { return !Finished(pod) && pod.DeletionTimestamp == nil }

// ActiveOf keeps the active ones.
func ActiveOf(pods []*v1.Pod) []*v1.Pod {
	out := make([]*v1.Pod, 0, len(pods))
	for _, p := range pods {
		if Active(p) {
			out = append(out, p)
		}
	}
	return out
}

// Victims orders pods so that those whose deletion costs least come first: no node, then not running, not ready, cheap by
// annotation, on crowded nodes, ready for a short time, restarted often, young. related are the pods that count as crowding.
func Victims(pods, related []*v1.Pod, now time.Time) []*v1.Pod {
	perNode := map[string]int{}
	for _, p := range related {
		if Active(p) && p.Spec.NodeName != "" {
			perNode[p.Spec.NodeName]++
		}
	}
	out := slices.Clone(pods)
	slices.SortStableFunc(out, func(a, b *v1.Pod) int {
		return cmp.Or(
			boolFirst(a.Spec.NodeName == "", b.Spec.NodeName == ""),
			cmp.Compare(phaseRank(a), phaseRank(b)),
			boolFirst(!Ready(a), !Ready(b)),
			cmp.Compare(deletionCost(a), deletionCost(b)),
			cmp.Compare(perNode[b.Spec.NodeName], perNode[a.Spec.NodeName]),
			byReadyTime(a, b, now),
			cmp.Compare(restarts(b), restarts(a)),
			byAge(a.CreationTimestamp, b.CreationTimestamp, now),
			cmp.Compare(a.Name, b.Name),
		)
	})
	return out
}

func boolFirst(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return -1
	}
	return 1
}

func phaseRank(p *v1.Pod) int {
	switch p.Status.Phase {
	case v1.PodRunning:
		return 2
	case v1.PodUnknown:
		return 1
	}
	return 0
}

func deletionCost(p *v1.Pod) int32 {
	n, err := strconv.ParseInt(p.Annotations[v1.PodDeletionCost], 10, 32)
	if err != nil {
		return 0
	}
	return int32(n)
}

func byReadyTime(a, b *v1.Pod, now time.Time) int {
	if !Ready(a) || !Ready(b) {
		return 0
	}
	return byAge(Condition(a, v1.PodReady).LastTransitionTime, Condition(b, v1.PodReady).LastTransitionTime, now)
}

// byAge puts the younger first. Ages compare by powers of two, so that pods that are about as old are taken by the later
// criteria; no time at all counts as youngest.
func byAge(a, b metav1.Time, now time.Time) int {
	if a.Equal(&b) {
		return 0
	}
	if a.IsZero() || b.IsZero() {
		return boolFirst(a.IsZero(), b.IsZero())
	}
	return cmp.Compare(logAge(a, now), logAge(b, now))
}

func logAge(t metav1.Time, now time.Time) int {
	d := now.Sub(t.Time).Nanoseconds()
	if d <= 0 {
		return -1
	}
	return int(math.Log2(float64(d)))
}

func restarts(p *v1.Pod) (n int32) {
	for _, c := range p.Status.ContainerStatuses {
		n = max(n, c.RestartCount)
	}
	for _, c := range p.Status.InitContainerStatuses {
		n = max(n, c.RestartCount)
	}
	return n
}
