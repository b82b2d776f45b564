package statefulset

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

func sts(replicas int32, change ...func(*appsv1.StatefulSet)) *appsv1.StatefulSet {
	s := &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Name: "db", Namespace: "default", UID: "db"},
		Spec: appsv1.StatefulSetSpec{
			Replicas: &replicas, ServiceName: "db", Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "db"}},
			Template:       v1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "db"}}},
			UpdateStrategy: appsv1.StatefulSetUpdateStrategy{Type: appsv1.RollingUpdateStatefulSetStrategyType, RollingUpdate: &appsv1.RollingUpdateStatefulSetStrategy{Partition: new(int32)}},
		},
	}
	for _, f := range change {
		f(s)
	}
	return s
}

func parallel(s *appsv1.StatefulSet) { s.Spec.PodManagementPolicy = appsv1.ParallelPodManagement }

// pods reads "0:old 1:new! 2:new-" — ordinal, revision, and "!" for not ready, "-" for terminating, "x" for failed.
func pods(set *appsv1.StatefulSet, text string) (out []*v1.Pod) {
	for _, f := range strings.Fields(text) {
		num, rest, _ := strings.Cut(f, ":")
		rev := strings.TrimRight(rest, "!-x")
		var n int
		fmt.Sscan(num, &n)
		p := newPod(set, &set.Spec.Template, rev, n)
		p.UID = types.UID(f)
		p.Status.Phase = v1.PodRunning
		p.Status.Conditions = []v1.PodCondition{{Type: v1.PodReady, Status: v1.ConditionTrue, LastTransitionTime: metav1.Unix(1, 0)}}
		switch {
		case strings.HasSuffix(rest, "!"):
			p.Status.Conditions[0].Status = v1.ConditionFalse
		case strings.HasSuffix(rest, "-"):
			p.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)}
		case strings.HasSuffix(rest, "x"):
			p.Status.Phase = v1.PodFailed
		}
		out = append(out, p)
	}
	return out
}

func TestPlan(t *testing.T) {
	partition := func(n int32) func(*appsv1.StatefulSet) {
		return func(s *appsv1.StatefulSet) { s.Spec.UpdateStrategy.RollingUpdate.Partition = &n }
	}
	for _, c := range []struct {
		name string
		set  *appsv1.StatefulSet
		pods string
		want string
	}{
		{"the first", sts(3), "", "create 0"},
		{"the next, once the first is ready", sts(3), "0:new", "create 1"},
		{"not before the first is ready", sts(3), "0:new!", ""},
		{"a gap first", sts(3), "0:new 2:new", "create 1"},
		{"all at once", sts(3, parallel), "0:new!", "create 1, create 2"},
		{"failed ones are made anew", sts(2), "0:newx 1:new", "recreate 0"},
		{"nothing while one terminates", sts(3), "0:new 1:new-", ""},
		{"surplus from the top", sts(1), "0:new 1:new 2:new", "delete 2"},
		{"surplus waits for the one above", sts(1), "0:new 1:new 2:new-", ""},
		{"surplus, all at once", sts(1, parallel), "0:new 1:new 2:new", "delete 2, delete 1"},
		{"roll from the top", sts(3), "0:old 1:old 2:old", "delete 2"},
		{"roll on once it is back", sts(3), "0:old 1:old 2:new", "delete 1"},
		{"not before", sts(3), "0:old 1:old 2:new!", ""},
		{"down to the partition", sts(3, partition(2)), "0:old 1:old 2:new", ""},
		{"missing below the partition comes back old", sts(3, partition(2)), "1:old 2:new", "create 0 old"},
		{"missing above comes back new", sts(3, partition(1)), "0:old 2:new", "create 1"},
		{"on delete: left alone", sts(2, func(s *appsv1.StatefulSet) {
			s.Spec.UpdateStrategy = appsv1.StatefulSetUpdateStrategy{Type: appsv1.OnDeleteStatefulSetStrategyType}
		}), "0:old 1:old", ""},
		{"two may be missing", sts(4, parallel, func(s *appsv1.StatefulSet) {
			s.Spec.UpdateStrategy.RollingUpdate.MaxUnavailable = ptr.To(intstr.FromInt32(2))
		}), "0:old 1:old 2:old 3:old", "delete 3, delete 2"},
		{"one is missing already", sts(4, parallel, func(s *appsv1.StatefulSet) {
			s.Spec.UpdateStrategy.RollingUpdate.MaxUnavailable = ptr.To(intstr.FromInt32(2))
		}), "0:old 1:old 2:old 3:new!", "delete 2"},
		{"numbers from 5", sts(2, func(s *appsv1.StatefulSet) { s.Spec.Ordinals = &appsv1.StatefulSetOrdinals{Start: 5} }), "5:new", "create 6"},
	} {
		w := &world{set: c.set, pods: pods(c.set, c.pods), current: "old", update: "new", now: time.Unix(1000, 0)}
		var got []string
		for _, a := range plan(w) {
			s := fmt.Sprintf("%s %d", a.verb, a.ordinal)
			if a.old {
				s += " old"
			}
			got = append(got, s)
		}
		if s := strings.Join(got, ", "); s != c.want {
			t.Errorf("%s: %q, want %q", c.name, s, c.want)
		}
	}
}

func TestStatusEndsTheRollout(t *testing.T) {
	set := sts(2)
	w := &world{set: set, current: "old", update: "new", now: time.Unix(1000, 0), pods: pods(set, "0:old 1:new")}
	if s, _ := status(w); s.CurrentRevision != "old" || s.CurrentReplicas != 1 || s.UpdatedReplicas != 1 || s.ReadyReplicas != 2 {
		t.Errorf("half way: %+v", s)
	}
	w.pods = pods(set, "0:new 1:new")
	if s, _ := status(w); s.CurrentRevision != "new" || s.CurrentReplicas != 2 {
		t.Errorf("done: %+v", s)
	}
}

func TestClaimsFollowTheRetentionPolicy(t *testing.T) {
	const keep, del = appsv1.RetainPersistentVolumeClaimRetentionPolicyType, appsv1.DeletePersistentVolumeClaimRetentionPolicyType
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "db-3", UID: "pod"}}
	for _, c := range []struct {
		deleted, scaled appsv1.PersistentVolumeClaimRetentionPolicyType
		condemned       bool
		want            []string
	}{
		{keep, keep, true, nil}, {del, keep, false, []string{"db"}}, {del, keep, true, []string{"db"}},
		{keep, del, false, nil}, {keep, del, true, []string{"pod"}}, {del, del, true, []string{"pod"}}, {del, del, false, []string{"db"}},
	} {
		set := sts(3, func(s *appsv1.StatefulSet) {
			s.Spec.PersistentVolumeClaimRetentionPolicy = &appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{WhenDeleted: c.deleted, WhenScaled: c.scaled}
		})
		stale := []metav1.OwnerReference{{Kind: "Pod", Name: "db-3", UID: "an-older-pod"}}
		refs, _ := retention(set, p, c.condemned, stale)
		var got []string
		for _, r := range refs {
			got = append(got, string(r.UID))
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s/%s, condemned %v: owners %v, want %v", c.deleted, c.scaled, c.condemned, got, c.want)
		}
		if _, again := retention(set, p, c.condemned, refs); again {
			t.Errorf("%s/%s, condemned %v: a second look changes owners again", c.deleted, c.scaled, c.condemned)
		}
	}
}
