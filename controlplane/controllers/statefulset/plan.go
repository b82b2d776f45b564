package statefulset

import (
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/reevehq/reeve/controlplane/controllers/podctl"
)

type verb string

const (
	create   verb = "create"
	remove   verb = "delete"
	recreate verb = "recreate" // delete a finished pod; it is made anew once it is gone
	fix      verb = "fix"      // name labels or volumes are not right
	claim    verb = "claim"    // make the claims that are missing
)

// action on one pod.
type action struct {
	verb    verb
	ordinal int
	pod     *v1.Pod // nil for create
	old     bool    // create at the current rather than the update revision
}

// world is what a plan looks at.
type world struct {
	set             *appsv1.StatefulSet
	pods            []*v1.Pod
	current, update string // revisions' names
	now             time.Time
}

func rolling(set *appsv1.StatefulSet) *appsv1.RollingUpdateStatefulSetStrategy {
	if set.Spec.UpdateStrategy.Type == appsv1.OnDeleteStatefulSetStrategyType {
		return nil
	}
	if ru := set.Spec.UpdateStrategy.RollingUpdate; ru != nil {
		return ru
	}
	return &appsv1.RollingUpdateStatefulSetStrategy{}
}

func revision(p *v1.Pod) string { return p.Labels[appsv1.ControllerRevisionHashLabelKey] }

func healthy(p *v1.Pod) bool {
	return p.Status.Phase == v1.PodRunning && podctl.Ready(p) && p.DeletionTimestamp == nil
}

func (w *world) available(p *v1.Pod) bool {
	ok, _ := podctl.Available(p, w.set.Spec.MinReadySeconds, w.now)
	return ok && healthy(p)
}

// plan decides the next actions. In ordered management each pod must be available before the next is touched, and at most one
// is on its way out.
func plan(w *world) []action {
	set := w.set
	ordered := set.Spec.PodManagementPolicy != appsv1.ParallelPodManagement
	start, n := first(set), int(ptr.Deref(set.Spec.Replicas, 1))
	slots := make([]*v1.Pod, n)
	var condemned []*v1.Pod
	for _, p := range w.pods {
		switch o := ordinal(set, p); {
		case o < 0:
		case o >= start && o < start+n:
			slots[o-start] = p
		default:
			condemned = append(condemned, p)
		}
	}
	slices.SortFunc(condemned, func(a, b *v1.Pod) int { return ordinal(set, b) - ordinal(set, a) })

	var out []action
	for i, p := range slots {
		o := start + i
		switch {
		case p == nil:
			out = append(out, action{verb: create, ordinal: o, old: w.wantsOld(o)})
			if ordered {
				return out
			}
		case podctl.Finished(p):
			if p.DeletionTimestamp == nil {
				out = append(out, action{verb: recreate, ordinal: o, pod: p})
			}
			if ordered {
				return out
			}
		case p.DeletionTimestamp != nil:
			if ordered {
				return out
			}
		default:
			if p.Status.Phase == v1.PodPending {
				out = append(out, action{verb: claim, ordinal: o, pod: p})
			}
			if !identified(set, p, o) {
				out = append(out, action{verb: fix, ordinal: o, pod: p})
			}
			if ordered && !w.available(p) {
				return out
			}
		}
	}
	var sick *v1.Pod // the first that is not healthy: it alone may go while ill
	for _, p := range slots {
		if p != nil && !healthy(p) {
			sick = p
			break
		}
	}
	if sick == nil {
		for i := len(condemned) - 1; i >= 0; i-- {
			if !healthy(condemned[i]) {
				sick = condemned[i]
				break
			}
		}
	}
	for _, p := range condemned {
		if p.DeletionTimestamp != nil {
			if ordered {
				return out
			}
			continue
		}
		if ordered && !healthy(p) && p != sick {
			return out
		}
		out = append(out, action{verb: remove, ordinal: ordinal(set, p), pod: p})
		if ordered {
			return out
		}
	}
	return append(out, w.roll(slots)...)
}

// wantsOld says whether a missing pod is made at the current revision: below the partition, or, without one, as long as the
// current revision still has pods to come.
func (w *world) wantsOld(o int) bool {
	if w.current == w.update {
		return false
	}
	ru := w.set.Spec.UpdateStrategy.RollingUpdate
	if w.set.Spec.UpdateStrategy.Type == appsv1.RollingUpdateStatefulSetStrategyType && ru != nil && ru.Partition != nil {
		return o < first(w.set)+int(*ru.Partition)
	}
	return o < first(w.set)+int(w.set.Status.CurrentReplicas)
}

// roll replaces outdated pods from the highest number down to the partition, as many at once as maxUnavailable allows.
func (w *world) roll(slots []*v1.Pod) (out []action) {
	ru := rolling(w.set)
	if ru == nil {
		return nil
	}
	budget := 1
	if ru.MaxUnavailable != nil {
		if k, err := intstr.GetScaledValueFromIntOrPercent(ru.MaxUnavailable, len(slots), true); err == nil {
			budget = max(k, 1)
		}
	}
	if ru.MaxUnavailable != nil {
		for _, p := range slots {
			if p == nil || !w.available(p) {
				budget--
			}
		}
	}
	for i := len(slots) - 1; i >= int(ptr.Deref(ru.Partition, 0)) && i >= 0; i-- {
		p := slots[i]
		if p == nil {
			return out
		}
		if revision(p) != w.update && p.DeletionTimestamp == nil {
			if ru.MaxUnavailable != nil && budget <= 0 && w.available(p) {
				return out
			}
			if w.available(p) {
				budget--
			}
			out = append(out, action{verb: remove, ordinal: first(w.set) + i, pod: p})
			if ru.MaxUnavailable == nil || budget <= 0 {
				return out
			}
			continue
		}
		if ru.MaxUnavailable == nil && !w.available(p) {
			return out // the one before must be up first
		}
	}
	return out
}

// status counts pods. recheck is how long until a ready pod becomes available.
func status(w *world) (s appsv1.StatefulSetStatus, recheck time.Duration) {
	old := w.set.Status
	s = appsv1.StatefulSetStatus{
		ObservedGeneration: w.set.Generation, CurrentRevision: w.current, UpdateRevision: w.update,
		CollisionCount: old.CollisionCount, Conditions: old.Conditions,
	}
	for _, p := range w.pods {
		if ordinal(w.set, p) < 0 || podctl.Finished(p) {
			continue
		}
		s.Replicas++
		if p.Status.Phase == v1.PodRunning && podctl.Ready(p) {
			s.ReadyReplicas++
			ok, left := podctl.Available(p, w.set.Spec.MinReadySeconds, w.now)
			if ok {
				s.AvailableReplicas++
			} else if recheck == 0 || left < recheck {
				recheck = left
			}
		}
		if p.DeletionTimestamp == nil {
			if revision(p) == w.current {
				s.CurrentReplicas++
			}
			if revision(p) == w.update {
				s.UpdatedReplicas++
			}
		}
	}
	if rolling(w.set) != nil && s.UpdatedReplicas == s.Replicas && s.ReadyReplicas == s.Replicas && s.Replicas == ptr.Deref(w.set.Spec.Replicas, 1) {
		s.CurrentReplicas, s.CurrentRevision = s.UpdatedReplicas, s.UpdateRevision // the rollout is over
	}
	return s, recheck
}
