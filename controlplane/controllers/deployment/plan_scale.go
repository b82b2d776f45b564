package deployment

import (
	"cmp"
	"math"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

// scaling sets one ReplicaSet to a size.
type scaling struct {
	rs *appsv1.ReplicaSet
	to int32
}

// fences resolves maxSurge (rounded up) and maxUnavailable (rounded down) to pods. If both come to zero, one pod may be
// missing, else nothing could ever move.
func fences(d *appsv1.Deployment) (surge, unavailable int32) {
	ru := d.Spec.Strategy.RollingUpdate
	if d.Spec.Strategy.Type != appsv1.RollingUpdateDeploymentStrategyType || ru == nil || wanted(d) == 0 {
		return 0, 0
	}
	part := func(v *intstr.IntOrString, up bool) int32 {
		if v == nil {
			return 0
		}
		n, err := intstr.GetScaledValueFromIntOrPercent(v, int(wanted(d)), up)
		if err != nil {
			return 0
		}
		return int32(n)
	}
	surge, unavailable = part(ru.MaxSurge, true), part(ru.MaxUnavailable, false)
	if surge == 0 && unavailable == 0 {
		unavailable = 1
	}
	return surge, min(unavailable, wanted(d))
}

func wanted(d *appsv1.Deployment) int32   { return ptr.Deref(d.Spec.Replicas, 1) }
func size(rs *appsv1.ReplicaSet) int32    { return ptr.Deref(rs.Spec.Replicas, 1) }
func mostPods(d *appsv1.Deployment) int32 { s, _ := fences(d); return wanted(d) + s }

func total(sets []*appsv1.ReplicaSet) (n int32) {
	for _, rs := range sets {
		n += size(rs)
	}
	return n
}

func running(sets []*appsv1.ReplicaSet) (n int32) {
	for _, rs := range sets {
		n += rs.Status.Replicas
	}
	return n
}

func available(sets []*appsv1.ReplicaSet) (n int32) {
	for _, rs := range sets {
		n += rs.Status.AvailableReplicas
	}
	return n
}

func active(sets []*appsv1.ReplicaSet) (out []*appsv1.ReplicaSet) {
	for _, rs := range sets {
		if size(rs) > 0 {
			out = append(out, rs)
		}
	}
	return out
}

// newSize is how large the new ReplicaSet should be now, given all of them.
func newSize(d *appsv1.Deployment, all []*appsv1.ReplicaSet, current int32) int32 {
	if d.Spec.Strategy.Type != appsv1.RollingUpdateDeploymentStrategyType {
		return wanted(d)
	}
	room := mostPods(d) - total(all)
	if room <= 0 {
		return current
	}
	return current + min(room, wanted(d)-current)
}

// planNew sizes the new ReplicaSet in a rolling update; nil if it is right already.
func planNew(d *appsv1.Deployment, newRS *appsv1.ReplicaSet, all []*appsv1.ReplicaSet) *scaling {
	switch cur := size(newRS); {
	case cur == wanted(d):
		return nil
	case cur > wanted(d):
		return &scaling{newRS, wanted(d)}
	default:
		if n := newSize(d, all, cur); n != cur {
			return &scaling{newRS, n}
		}
	}
	return nil
}

// planOld takes pods from the old ReplicaSets of a rolling update: unhealthy ones first, since they serve nobody, then as
// many healthy ones as availability allows.
func planOld(d *appsv1.Deployment, newRS *appsv1.ReplicaSet, olds []*appsv1.ReplicaSet) []scaling {
	old := active(olds)
	if total(old) == 0 {
		return nil
	}
	all := append(slices.Clone(old), newRS)
	_, maxUnavailable := fences(d)
	least := wanted(d) - maxUnavailable
	// New pods that are not available yet may still fail: they do not count towards what may go.
	budget := total(all) - least - (size(newRS) - newRS.Status.AvailableReplicas)
	if budget <= 0 {
		return nil
	}
	slices.SortStableFunc(old, byCreation)
	sizes := map[*appsv1.ReplicaSet]int32{}
	for _, rs := range old {
		sizes[rs] = size(rs)
		if budget == 0 || size(rs) == rs.Status.AvailableReplicas {
			continue
		}
		n := min(budget, max(size(rs)-rs.Status.AvailableReplicas, 0))
		sizes[rs] -= n
		budget -= n
	}
	spare := available(all) - least
	for _, rs := range old {
		if spare <= 0 {
			break
		}
		n := min(spare, sizes[rs])
		sizes[rs] -= n
		spare -= n
	}
	var out []scaling
	for _, rs := range old {
		if sizes[rs] != size(rs) {
			out = append(out, scaling{rs, sizes[rs]})
		}
	}
	return out
}

// planScale spreads a change of spec.replicas when no rollout is being carried out (paused, or just scaled): a single active
// ReplicaSet takes it all; during a rollout each takes its share.
func planScale(d *appsv1.Deployment, newRS *appsv1.ReplicaSet, olds []*appsv1.ReplicaSet) []scaling {
	if one := onlyActive(newRS, olds); one != nil {
		if size(one) != wanted(d) {
			return []scaling{{one, wanted(d)}}
		}
		return nil
	}
	if saturated(d, newRS) {
		var out []scaling
		for _, rs := range active(olds) {
			out = append(out, scaling{rs, 0})
		}
		return out
	}
	if d.Spec.Strategy.Type != appsv1.RollingUpdateDeploymentStrategyType {
		return nil
	}
	sets := active(append(slices.Clone(olds), present(newRS)...))
	allowed := int32(0)
	if wanted(d) > 0 {
		allowed = mostPods(d)
	}
	add := allowed - total(sets)
	if add >= 0 { // larger first, then newer
		slices.SortStableFunc(sets, func(a, b *appsv1.ReplicaSet) int { return cmp.Or(cmp.Compare(size(b), size(a)), byCreation(b, a)) })
	} else { // larger first, then older
		slices.SortStableFunc(sets, func(a, b *appsv1.ReplicaSet) int { return cmp.Or(cmp.Compare(size(b), size(a)), byCreation(a, b)) })
	}
	sizes := make([]int32, len(sets))
	added := int32(0)
	for i, rs := range sets {
		sizes[i] = size(rs)
		if add != 0 {
			n := share(d, rs, add, added)
			sizes[i] += n
			added += n
		}
	}
	if add != 0 && len(sets) > 0 { // what rounding left goes to the first
		sizes[0] = max(sizes[0]+add-added, 0)
	}
	var out []scaling
	for i, rs := range sets {
		out = append(out, scaling{rs, sizes[i]}) // even if unchanged: its annotations may be
	}
	return out
}

func present(rs *appsv1.ReplicaSet) []*appsv1.ReplicaSet {
	if rs == nil {
		return nil
	}
	return []*appsv1.ReplicaSet{rs}
}

func onlyActive(newRS *appsv1.ReplicaSet, olds []*appsv1.ReplicaSet) *appsv1.ReplicaSet {
	all := append(slices.Clone(olds), present(newRS)...)
	slices.SortStableFunc(all, func(a, b *appsv1.ReplicaSet) int { return byCreation(b, a) })
	switch act := active(all); {
	case len(act) == 1:
		return act[0]
	case len(act) > 1 || len(all) == 0:
		return nil
	case newRS != nil:
		return newRS
	default:
		return all[0]
	}
}

func saturated(d *appsv1.Deployment, rs *appsv1.ReplicaSet) bool {
	return rs != nil && size(rs) == wanted(d) && desiredOf(rs) == wanted(d) && rs.Status.AvailableReplicas == wanted(d)
}

// share is a ReplicaSet's part of add pods, of which added are already given out: in proportion to its size and to how much
// the whole grew since the set last saw it.
func share(d *appsv1.Deployment, rs *appsv1.ReplicaSet, add, added int32) int32 {
	if size(rs) == 0 {
		return 0
	}
	part := fraction(d, rs)
	left := add - added
	if add > 0 {
		return min(part, left)
	}
	return max(part, left)
}

func fraction(d *appsv1.Deployment, rs *appsv1.ReplicaSet) int32 {
	if wanted(d) == 0 {
		return -size(rs)
	}
	before := maxOf(rs)
	if before == 0 {
		before = d.Status.Replicas
		if before == 0 {
			return 0
		}
	}
	return int32(math.Round(float64(size(rs))*float64(mostPods(d))/float64(before))) - size(rs)
}

func byCreation(a, b *appsv1.ReplicaSet) int {
	return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
}
