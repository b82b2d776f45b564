package daemonset

import (
	"cmp"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"

	"github.com/reevehq/reeve/controlplane/controllers/podctl"
)

// always are the tolerations that every daemon pod has: it belongs on its node in good times and bad.
func always(spec *v1.PodSpec) []v1.Toleration {
	t := func(key string, effect v1.TaintEffect) v1.Toleration {
		return v1.Toleration{Key: key, Operator: v1.TolerationOpExists, Effect: effect}
	}
	out := []v1.Toleration{
		t(v1.TaintNodeNotReady, v1.TaintEffectNoExecute), t(v1.TaintNodeUnreachable, v1.TaintEffectNoExecute),
		t(v1.TaintNodeDiskPressure, v1.TaintEffectNoSchedule), t(v1.TaintNodeMemoryPressure, v1.TaintEffectNoSchedule),
		t(v1.TaintNodePIDPressure, v1.TaintEffectNoSchedule), t(v1.TaintNodeUnschedulable, v1.TaintEffectNoSchedule),
	}
	if spec.HostNetwork {
		out = append(out, t(v1.TaintNodeNetworkUnavailable, v1.TaintEffectNoSchedule))
	}
	return out
}

func withTolerations(spec *v1.PodSpec) {
	for _, t := range always(spec) {
		if !slices.ContainsFunc(spec.Tolerations, func(o v1.Toleration) bool { return o.MatchToleration(&t) }) {
			spec.Tolerations = append(spec.Tolerations, t)
		}
	}
}

// pinned has the scheduler put the pod on that node and no other.
func pinned(a *v1.Affinity, node string) *v1.Affinity {
	req := v1.NodeSelectorRequirement{Key: "metadata.name", Operator: v1.NodeSelectorOpIn, Values: []string{node}}
	only := &v1.NodeSelector{NodeSelectorTerms: []v1.NodeSelectorTerm{{MatchFields: []v1.NodeSelectorRequirement{req}}}}
	if a == nil {
		return &v1.Affinity{NodeAffinity: &v1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: only}}
	}
	a = a.DeepCopy()
	if a.NodeAffinity == nil {
		a.NodeAffinity = &v1.NodeAffinity{}
	}
	// The user's terms decided already whether the pod goes there; here the node's name is all that counts.
	a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution = only
	return a
}

// nodeOf is the node of a daemon pod, bound or not.
func nodeOf(p *v1.Pod) string {
	if p.Spec.NodeName != "" {
		return p.Spec.NodeName
	}
	a := p.Spec.Affinity
	if a == nil || a.NodeAffinity == nil || a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return ""
	}
	for _, t := range a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
		for _, f := range t.MatchFields {
			if f.Key == "metadata.name" && f.Operator == v1.NodeSelectorOpIn && len(f.Values) == 1 {
				return f.Values[0]
			}
		}
	}
	return ""
}

// placement says whether a node should get a pod, and whether one there may stay.
func placement(ds *appsv1.DaemonSet, node *v1.Node) (run, stay bool) {
	p := &v1.Pod{Spec: *ds.Spec.Template.Spec.DeepCopy()}
	withTolerations(&p.Spec)
	if p.Spec.NodeName != "" && p.Spec.NodeName != node.Name {
		return false, false
	}
	if ok, err := nodeaffinity.GetRequiredNodeAffinity(p).Match(node); err != nil || !ok {
		return false, false
	}
	bars := func(effects ...v1.TaintEffect) bool {
		_, found := corev1.FindMatchingUntoleratedTaint(klog.Background(), node.Spec.Taints, p.Spec.Tolerations, func(t *v1.Taint) bool {
			return slices.Contains(effects, t.Effect)
		}, false)
		return found
	}
	if bars(v1.TaintEffectNoExecute) {
		return false, false
	}
	return !bars(v1.TaintEffectNoSchedule), true
}

// actions of one reconciliation.
type actions struct {
	create []string // nodes
	delete []*v1.Pod
	failed []*v1.Pod // among delete: had failed, so their nodes are worth an event and a back-off
}

// fences resolves maxSurge and maxUnavailable for n nodes, both rounded up.
func fences(ds *appsv1.DaemonSet, n int) (surge, unavailable int) {
	ru := ds.Spec.UpdateStrategy.RollingUpdate
	if ds.Spec.UpdateStrategy.Type != appsv1.RollingUpdateDaemonSetStrategyType {
		return 0, 0
	}
	if ru == nil {
		return 0, 1
	}
	get := func(v *intstr.IntOrString) int {
		if v == nil {
			return 0
		}
		k, err := intstr.GetScaledValueFromIntOrPercent(v, n, true)
		if err != nil {
			return 0
		}
		return k
	}
	surge, unavailable = get(ru.MaxSurge), get(ru.MaxUnavailable)
	if surge == 0 && unavailable == 0 {
		unavailable = 1
	}
	return surge, unavailable
}

// byNode sorts pods to their nodes, the oldest first.
func byNode(pods []*v1.Pod) map[string][]*v1.Pod {
	out := map[string][]*v1.Pod{}
	for _, p := range pods {
		if n := nodeOf(p); n != "" {
			out[n] = append(out[n], p)
		}
	}
	for _, list := range out {
		slices.SortStableFunc(list, func(a, b *v1.Pod) int {
			return cmp.Or(cmp.Compare(b2i(b.Spec.NodeName != ""), b2i(a.Spec.NodeName != "")), a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
		})
	}
	return out
}

func b2i(b bool) int {
	if b {
		return 1
	}
	return 0
}

// manage compares nodes and pods: one pod where one should run, none elsewhere. During a surge a node may hold an old and a
// new pod until the new one is available.
func manage(ds *appsv1.DaemonSet, nodes []*v1.Node, pods map[string][]*v1.Pod, hash string, now time.Time) (a actions) {
	surge, _ := fences(ds, len(nodes))
	exists := map[string]bool{}
	for _, n := range nodes {
		exists[n.Name] = true
		run, stay := placement(ds, n)
		have := pods[n.Name]
		switch {
		case run && len(have) == 0:
			a.create = append(a.create, n.Name)
		case stay:
			var alive []*v1.Pod
			for _, p := range have {
				switch {
				case p.DeletionTimestamp != nil:
				case podctl.Finished(p):
					a.delete = append(a.delete, p)
					if p.Status.Phase == v1.PodFailed {
						a.failed = append(a.failed, p)
					}
				default:
					alive = append(alive, p)
				}
			}
			a.delete = append(a.delete, excess(ds, alive, surge, hash, now)...)
		default:
			for _, p := range have {
				if p.DeletionTimestamp == nil {
					a.delete = append(a.delete, p)
				}
			}
		}
	}
	for node, list := range pods {
		if exists[node] {
			continue
		}
		for _, p := range list { // bound ones are the pod collector's
			if p.DeletionTimestamp == nil && p.Spec.NodeName == "" {
				a.delete = append(a.delete, p)
			}
		}
	}
	return a
}

func excess(ds *appsv1.DaemonSet, alive []*v1.Pod, surge int, hash string, now time.Time) (out []*v1.Pod) {
	if surge == 0 {
		if len(alive) > 1 {
			return alive[1:]
		}
		return nil
	}
	var old, fresh []*v1.Pod
	for _, p := range alive {
		if p.Labels[appsv1.DefaultDaemonSetUniqueLabelKey] == hash {
			fresh = append(fresh, p)
		} else {
			old = append(old, p)
		}
	}
	if len(old) > 1 {
		out, old = append(out, old[1:]...), old[:1]
	}
	if len(fresh) > 1 {
		out, fresh = append(out, fresh[1:]...), fresh[:1]
	}
	if len(old) == 1 && len(fresh) == 1 {
		if ok, _ := podctl.Available(fresh[0], ds.Spec.MinReadySeconds, now); ok {
			out = append(out, old[0])
		}
	}
	return out
}

// roll picks old pods to replace now, and with a surge nodes to get their new pod first.
func roll(ds *appsv1.DaemonSet, nodes []*v1.Node, pods map[string][]*v1.Pod, hash string, now time.Time) (a actions) {
	var wanted []string
	for _, n := range nodes {
		if run, _ := placement(ds, n); run {
			wanted = append(wanted, n.Name)
		}
	}
	surge, unavailable := fences(ds, len(wanted))
	var broken, sound []*v1.Pod // old pods that may go at once, and those that serve
	var starting, surging int
	var candidates []string
	for _, node := range wanted {
		var old, fresh *v1.Pod
		for _, p := range pods[node] {
			switch {
			case p.DeletionTimestamp != nil || podctl.Finished(p):
			case p.Labels[appsv1.DefaultDaemonSetUniqueLabelKey] == hash:
				fresh = p
			default:
				old = p
			}
		}
		newOK, oldOK := false, false
		if fresh != nil {
			newOK, _ = podctl.Available(fresh, ds.Spec.MinReadySeconds, now)
		}
		if old != nil {
			oldOK, _ = podctl.Available(old, ds.Spec.MinReadySeconds, now)
		}
		switch {
		case old == nil && !newOK:
			starting++ // counts as unavailable
		case old == nil:
		case surge > 0 && fresh != nil:
			surging++
			if !oldOK {
				broken = append(broken, old)
			}
		case surge > 0 && !oldOK:
			broken = append(broken, old)
		case surge > 0:
			candidates = append(candidates, node)
		case !oldOK:
			broken = append(broken, old)
			starting++
		default:
			sound = append(sound, old)
		}
	}
	a.delete = broken
	if surge > 0 {
		for _, node := range candidates {
			if surging >= surge {
				break
			}
			a.create = append(a.create, node)
			surging++
		}
		return a
	}
	for _, p := range sound {
		if starting >= unavailable {
			break
		}
		a.delete = append(a.delete, p)
		starting++
	}
	return a
}

// status counts what nodes have. recheck is how long until a ready pod becomes available.
func status(ds *appsv1.DaemonSet, nodes []*v1.Node, pods map[string][]*v1.Pod, hash string, now time.Time) (s appsv1.DaemonSetStatus, recheck time.Duration) {
	s = appsv1.DaemonSetStatus{ObservedGeneration: ds.Generation, CollisionCount: ds.Status.CollisionCount, Conditions: ds.Status.Conditions}
	for _, n := range nodes {
		run, _ := placement(ds, n)
		var p *v1.Pod // the oldest that is not going, else the oldest
		for _, q := range pods[n.Name] {
			if q.Status.Phase == v1.PodSucceeded || q.Status.Phase == v1.PodFailed {
				continue
			}
			if p == nil || p.DeletionTimestamp != nil && q.DeletionTimestamp == nil {
				p = q
			}
		}
		switch {
		case !run && p != nil:
			s.NumberMisscheduled++
			continue
		case !run:
			continue
		}
		s.DesiredNumberScheduled++
		for _, q := range pods[n.Name] {
			if q.DeletionTimestamp == nil && q.Labels[appsv1.DefaultDaemonSetUniqueLabelKey] == hash {
				s.UpdatedNumberScheduled++
				break
			}
		}
		if p == nil {
			continue
		}
		s.CurrentNumberScheduled++
		ready := false
		for _, q := range pods[n.Name] {
			if !podctl.Ready(q) {
				continue
			}
			if !ready {
				s.NumberReady++
				ready = true
			}
			ok, left := podctl.Available(q, ds.Spec.MinReadySeconds, now)
			if ok {
				s.NumberAvailable++
				break
			}
			if left > 0 && (recheck == 0 || left < recheck) {
				recheck = left
			}
		}
	}
	s.NumberUnavailable = s.DesiredNumberScheduled - s.NumberAvailable
	return s, recheck
}
