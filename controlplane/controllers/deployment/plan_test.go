package deployment

import (
	"fmt"
	"maps"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

func dep(replicas int32, surge, unavailable string) *appsv1.Deployment {
	s, u := intstr.Parse(surge), intstr.Parse(unavailable)
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "d", Namespace: "default", UID: "d", Generation: 1},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "d"}},
			ProgressDeadlineSeconds: ptr.To[int32](600), RevisionHistoryLimit: ptr.To[int32](10),
			Strategy: appsv1.DeploymentStrategy{Type: appsv1.RollingUpdateDeploymentStrategyType, RollingUpdate: &appsv1.RollingUpdateDeployment{MaxSurge: &s, MaxUnavailable: &u}},
			Template: v1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": "d"}}, Spec: v1.PodSpec{Containers: []v1.Container{{Name: "c", Image: "new"}}}},
		},
	}
}

var born = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// set makes a ReplicaSet of a size, of whose pods some are available; age orders creation, higher is older.
func set(name string, replicas, available int32, age int) *appsv1.ReplicaSet {
	return &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), CreationTimestamp: metav1.NewTime(born.Add(-time.Duration(age) * time.Hour))},
		Spec:       appsv1.ReplicaSetSpec{Replicas: &replicas},
		Status:     appsv1.ReplicaSetStatus{Replicas: replicas, ReadyReplicas: available, AvailableReplicas: available},
	}
}

func sized(rs *appsv1.ReplicaSet, desired, most int32) *appsv1.ReplicaSet {
	setSizes(rs, desired, most)
	return rs
}

func TestFences(t *testing.T) {
	for _, c := range []struct {
		replicas           int32
		surge, unavailable string
		wantS, wantU       int32
	}{
		{10, "25%", "25%", 3, 2},
		{1, "25%", "25%", 1, 0},
		{3, "0", "0", 0, 1}, // nothing could ever move
		{4, "0", "50%", 0, 2},
		{2, "100%", "5", 2, 2}, // never more missing than there are
		{0, "1", "1", 0, 0},
	} {
		s, u := fences(dep(c.replicas, c.surge, c.unavailable))
		if s != c.wantS || u != c.wantU {
			t.Errorf("fences(%d, %s, %s) = %d, %d, want %d, %d", c.replicas, c.surge, c.unavailable, s, u, c.wantS, c.wantU)
		}
	}
}

func TestNewReplicaSetGrowsIntoTheSurge(t *testing.T) {
	for _, c := range []struct {
		name          string
		d             *appsv1.Deployment
		newSize, olds int32
		want          int32 // -1: leave it
	}{
		{"first roll-out", dep(3, "1", "0"), 0, 0, 3},
		{"surge only", dep(10, "3", "0"), 0, 10, 3},
		{"no room", dep(10, "0", "2"), 0, 10, -1},
		{"room after old went", dep(10, "0", "2"), 0, 8, 2},
		{"never beyond the wanted", dep(4, "100%", "0"), 2, 1, 4},
		{"shrink", dep(2, "1", "1"), 5, 0, 2},
		{"right", dep(5, "1", "1"), 5, 3, -1},
	} {
		n, o := set("new", c.newSize, c.newSize, 0), set("old", c.olds, c.olds, 1)
		got := planNew(c.d, n, []*appsv1.ReplicaSet{n, o})
		if (got == nil) != (c.want < 0) || got != nil && got.to != c.want {
			t.Errorf("%s: got %+v, want %d", c.name, got, c.want)
		}
	}
}

func TestOldReplicaSetsShrinkOnlyAsFarAsAvailabilityAllows(t *testing.T) {
	for _, c := range []struct {
		name string
		d    *appsv1.Deployment
		new  *appsv1.ReplicaSet
		olds []*appsv1.ReplicaSet
		want map[string]int32
	}{
		{"surge not yet available", dep(10, "3", "0"), set("new", 3, 0, 0), []*appsv1.ReplicaSet{set("old", 10, 10, 1)}, nil},
		{"surge available", dep(10, "3", "0"), set("new", 3, 3, 0), []*appsv1.ReplicaSet{set("old", 10, 10, 1)}, map[string]int32{"old": 7}},
		{"may be missing", dep(10, "0", "3"), set("new", 0, 0, 0), []*appsv1.ReplicaSet{set("old", 10, 10, 1)}, map[string]int32{"old": 7}},
		{"unhealthy go first", dep(10, "0", "3"), set("new", 0, 0, 0), []*appsv1.ReplicaSet{set("sick", 3, 0, 2), set("old", 7, 7, 1)}, map[string]int32{"sick": 0}},
		{"oldest first", dep(4, "4", "0"), set("new", 4, 4, 0), []*appsv1.ReplicaSet{set("b", 2, 2, 1), set("a", 2, 2, 2)}, map[string]int32{"a": 0, "b": 0}},
		{"new ones fail: old stay", dep(4, "1", "1"), set("bad", 2, 0, 0), []*appsv1.ReplicaSet{set("old", 3, 3, 1)}, nil},
		{"done", dep(4, "1", "1"), set("new", 4, 4, 0), []*appsv1.ReplicaSet{set("old", 0, 0, 1)}, nil},
	} {
		got := map[string]int32{}
		for _, s := range planOld(c.d, c.new, c.olds) {
			got[s.rs.Name] = s.to
		}
		if !maps.Equal(got, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
}

// Whatever happens between steps, a roll-out must never have more pods than allowed, fewer available than promised, or stop.
func TestRolloutKeepsItsPromises(t *testing.T) {
	for replicas := int32(1); replicas <= 12; replicas++ {
		for _, f := range [][2]string{{"25%", "25%"}, {"1", "0"}, {"0", "1"}, {"50%", "0"}, {"0", "50%"}, {"100%", "100%"}, {"0", "0"}} {
			d := dep(replicas, f[0], f[1])
			surge, unavailable := fences(d)
			n, old := set("new", 0, 0, 0), set("old", replicas, replicas, 1)
			all := []*appsv1.ReplicaSet{n, old}
			for step := 0; ; step++ {
				if step > 100 {
					t.Fatalf("replicas %d, %v: roll-out stopped at new %d, old %d", replicas, f, size(n), size(old))
				}
				if tot := total(all); tot > replicas+surge {
					t.Fatalf("replicas %d, %v: %d pods, allowed %d", replicas, f, tot, replicas+surge)
				}
				if av := available(all); av < replicas-unavailable {
					t.Fatalf("replicas %d, %v: %d available, promised %d", replicas, f, av, replicas-unavailable)
				}
				if size(n) == replicas && size(old) == 0 && n.Status.AvailableReplicas == replicas {
					break
				}
				if s := planNew(d, n, all); s != nil {
					n.Spec.Replicas = &s.to
				} else if list := planOld(d, n, []*appsv1.ReplicaSet{old}); len(list) > 0 {
					old.Spec.Replicas = &list[0].to
					old.Status.AvailableReplicas = min(old.Status.AvailableReplicas, list[0].to)
					old.Status.Replicas = list[0].to
				} else if n.Status.AvailableReplicas < size(n) {
					n.Status.AvailableReplicas++ // one pod comes up at a time
					n.Status.Replicas = size(n)
				}
			}
		}
	}
}

func TestScalingDuringARolloutIsProportional(t *testing.T) {
	for _, c := range []struct {
		name string
		d    *appsv1.Deployment
		new  *appsv1.ReplicaSet
		olds []*appsv1.ReplicaSet
		want map[string]int32
	}{
		{"10 to 15 with 8+5 of 13", dep(15, "3", "2"), sized(set("new", 5, 0, 0), 10, 13), []*appsv1.ReplicaSet{sized(set("old", 8, 8, 1), 10, 13)}, map[string]int32{"old": 11, "new": 7}},
		{"down", dep(5, "0", "0"), sized(set("new", 5, 5, 0), 10, 10), []*appsv1.ReplicaSet{sized(set("old", 5, 5, 1), 10, 10)}, map[string]int32{"old": 2, "new": 3}},
		{"only one is active", dep(7, "1", "1"), sized(set("new", 3, 3, 0), 3, 4), []*appsv1.ReplicaSet{set("old", 0, 0, 1)}, map[string]int32{"new": 7}},
		{"to nothing", dep(0, "1", "1"), sized(set("new", 3, 3, 0), 5, 6), []*appsv1.ReplicaSet{sized(set("old", 2, 2, 1), 5, 6)}, map[string]int32{"new": 0, "old": 0}},
		{"new has all: old go", dep(3, "1", "1"), sized(set("new", 3, 3, 0), 3, 4), []*appsv1.ReplicaSet{sized(set("old", 1, 1, 1), 3, 4)}, map[string]int32{"old": 0}},
	} {
		got := map[string]int32{}
		for _, s := range planScale(c.d, c.new, c.olds) {
			got[s.rs.Name] = s.to
		}
		if !maps.Equal(got, c.want) {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
}

func TestRevisionsOnlyGrow(t *testing.T) {
	d := dep(1, "1", "1")
	d.Annotations = map[string]string{"kubernetes.io/change-cause": "why", v1.LastAppliedConfigAnnotation: "secret of the Deployment"}
	rs := set("a", 1, 1, 0)
	if !annotate(d, rs, 1, false) || rs.Annotations[annRevision] != "1" || rs.Annotations[annDesired] != "1" {
		t.Fatalf("new ReplicaSet's annotations: %v", rs.Annotations)
	}
	if rs.Annotations["kubernetes.io/change-cause"] != "why" || rs.Annotations[v1.LastAppliedConfigAnnotation] != "" {
		t.Errorf("copied annotations: %v", rs.Annotations)
	}
	if annotate(d, rs, 1, true) {
		t.Error("annotating again changed something")
	}
	annotate(d, rs, 4, true) // rolled back to
	annotate(d, rs, 6, true)
	if rs.Annotations[annRevision] != "6" || rs.Annotations[annHistory] != "1,4" {
		t.Errorf("after two roll-backs: revision %q, history %q", rs.Annotations[annRevision], rs.Annotations[annHistory])
	}
	if annotate(d, rs, 2, true) || rs.Annotations[annRevision] != "6" {
		t.Error("a revision went backwards")
	}
}

func TestSurplusRevisionsGoOldestFirstAndEmptyOnly(t *testing.T) {
	d := dep(1, "1", "1")
	d.Spec.RevisionHistoryLimit = ptr.To[int32](2)
	var olds []*appsv1.ReplicaSet
	for i := 1; i <= 5; i++ {
		rs := set(fmt.Sprint("r", i), 0, 0, i)
		rs.Annotations = map[string]string{annRevision: fmt.Sprint(i)}
		olds = append(olds, rs)
	}
	olds[1].Status.Replicas = 1 // r2 still has a pod
	var got []string
	for _, rs := range surplus(d, olds) {
		got = append(got, rs.Name)
	}
	if fmt.Sprint(got) != "[r1 r3]" {
		t.Errorf("surplus: %v, want [r1 r3]", got)
	}
}

func TestProgressDeadline(t *testing.T) {
	d := dep(2, "1", "1")
	now := metav1.NewTime(born)
	n := set("new", 2, 0, 0)
	n.Name = "new"
	d.Status.UpdatedReplicas, d.Status.Replicas = 2, 2
	d.Status.Conditions = []appsv1.DeploymentCondition{newCondition(appsv1.DeploymentProgressing, v1.ConditionTrue, reasonUpdated, "", metav1.NewTime(born.Add(-601*time.Second)))}
	s := rollout(d, []*appsv1.ReplicaSet{n}, n, now)
	if c := condition(&s, appsv1.DeploymentProgressing); c.Reason != reasonTimedOut || c.Status != v1.ConditionFalse {
		t.Errorf("after the deadline: %+v", c)
	}
	n.Status.ReadyReplicas, n.Status.AvailableReplicas = 1, 1
	s = rollout(d, []*appsv1.ReplicaSet{n}, n, now)
	if c := condition(&s, appsv1.DeploymentProgressing); c.Reason != reasonUpdated || !c.LastUpdateTime.Equal(&now) {
		t.Errorf("after progress: %+v", c)
	}
	n.Status.AvailableReplicas = 2
	s = rollout(d, []*appsv1.ReplicaSet{n}, n, now)
	if c := condition(&s, appsv1.DeploymentProgressing); c.Reason != reasonComplete {
		t.Errorf("when complete: %+v", c)
	}
}

func TestTemplateHashDependsOnTemplateAndCollisions(t *testing.T) {
	a, b := dep(1, "1", "1"), dep(1, "1", "1")
	if templateHash(&a.Spec.Template, nil) != templateHash(&b.Spec.Template, nil) {
		t.Error("equal templates hash differently")
	}
	if templateHash(&a.Spec.Template, nil) == templateHash(&a.Spec.Template, ptr.To[int32](1)) {
		t.Error("a collision does not change the hash")
	}
	b.Spec.Template.Spec.Containers[0].Image = "other"
	if templateHash(&a.Spec.Template, nil) == templateHash(&b.Spec.Template, nil) {
		t.Error("different templates share a hash")
	}
	labelled := a.Spec.Template.DeepCopy()
	labelled.Labels[hashLabel] = "x"
	if !sameTemplate(&a.Spec.Template, labelled) || sameTemplate(&a.Spec.Template, &b.Spec.Template) {
		t.Error("sameTemplate must ignore the hash label, and nothing else")
	}
}
