package daemonset

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"
	appsv1 "k8s.io/api/apps/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/reevehq/reeve/controlplane/controllers/looptest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func daemon(change ...func(*appsv1.DaemonSet)) *appsv1.DaemonSet {
	l := map[string]string{"app": "d"}
	ds := &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Name: "d", Namespace: "default", UID: "d"},
		Spec: appsv1.DaemonSetSpec{
			Selector:       &metav1.LabelSelector{MatchLabels: l},
			Template:       v1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: l}, Spec: v1.PodSpec{Containers: []v1.Container{{Name: "c", Image: "one"}}}},
			UpdateStrategy: appsv1.DaemonSetUpdateStrategy{Type: appsv1.RollingUpdateDaemonSetStrategyType},
		},
	}
	for _, f := range change {
		f(ds)
	}
	return ds
}

func node(name string, labels map[string]string, taints ...v1.Taint) *v1.Node {
	return &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels}, Spec: v1.NodeSpec{Taints: taints}}
}

func TestPlacement(t *testing.T) {
	t1 := func(key string, e v1.TaintEffect) v1.Taint { return v1.Taint{Key: key, Effect: e} }
	selects := func(ds *appsv1.DaemonSet) { ds.Spec.Template.Spec.NodeSelector = map[string]string{"disk": "ssd"} }
	for _, c := range []struct {
		name      string
		ds        *appsv1.DaemonSet
		n         *v1.Node
		run, stay bool
	}{
		{"plain", daemon(), node("n", nil), true, true},
		{"in bad times too", daemon(), node("n", nil, t1(v1.TaintNodeNotReady, v1.TaintEffectNoExecute), t1(v1.TaintNodeUnschedulable, v1.TaintEffectNoSchedule), t1(v1.TaintNodeDiskPressure, v1.TaintEffectNoSchedule)), true, true},
		{"a user's NoSchedule keeps new ones away", daemon(), node("n", nil, t1("k", v1.TaintEffectNoSchedule)), false, true},
		{"a user's NoExecute keeps all away", daemon(), node("n", nil, t1("k", v1.TaintEffectNoExecute)), false, false},
		{"selected", daemon(selects), node("n", map[string]string{"disk": "ssd"}), true, true},
		{"not selected", daemon(selects), node("n", nil), false, false},
		{"by name", daemon(func(ds *appsv1.DaemonSet) { ds.Spec.Template.Spec.NodeName = "other" }), node("n", nil), false, false},
	} {
		if run, stay := placement(c.ds, c.n); run != c.run || stay != c.stay {
			t.Errorf("%s: run %v, stay %v", c.name, run, stay)
		}
	}
}

var now = time.Unix(10000, 0)

func dpod(name, on, hash string, ready bool) *v1.Pod {
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), Labels: map[string]string{appsv1.DefaultDaemonSetUniqueLabelKey: hash}}, Spec: v1.PodSpec{NodeName: on}, Status: v1.PodStatus{Phase: v1.PodRunning}}
	if ready {
		p.Status.Conditions = []v1.PodCondition{{Type: v1.PodReady, Status: v1.ConditionTrue, LastTransitionTime: metav1.Unix(1, 0)}}
	}
	return p
}

func names(pods []*v1.Pod) (out []string) {
	for _, p := range pods {
		out = append(out, p.Name)
	}
	slices.Sort(out)
	return out
}

func TestRoll(t *testing.T) {
	nodes := []*v1.Node{node("a", nil), node("b", nil), node("c", nil), node("d", nil)}
	with := func(surge, unavailable string) *appsv1.DaemonSet {
		return daemon(func(ds *appsv1.DaemonSet) {
			ds.Spec.UpdateStrategy.RollingUpdate = &appsv1.RollingUpdateDaemonSet{MaxSurge: ptr.To(intstr.Parse(surge)), MaxUnavailable: ptr.To(intstr.Parse(unavailable))}
		})
	}
	old := []*v1.Pod{dpod("pa", "a", "old", true), dpod("pb", "b", "old", true), dpod("pc", "c", "old", true), dpod("pd", "d", "old", true)}
	for _, c := range []struct {
		name   string
		ds     *appsv1.DaemonSet
		pods   []*v1.Pod
		delete []string
		create []string
	}{
		{"one at a time", with("0", "1"), old, []string{"pa"}, nil},
		{"half at once", with("0", "50%"), old, []string{"pa", "pb"}, nil},
		{"wait for the one that starts", with("0", "1"), append([]*v1.Pod{dpod("na", "a", "new", false)}, old[1:]...), nil, nil},
		{"those that serve nobody go at once", with("0", "1"), append([]*v1.Pod{dpod("pa", "a", "old", false), dpod("pb", "b", "old", false)}, old[2:]...), []string{"pa", "pb"}, nil},
		{"surge: new one first", with("1", "0"), old, nil, []string{"a"}},
		{"surge: not more than allowed", with("1", "0"), append([]*v1.Pod{dpod("na", "a", "new", false)}, old...), nil, nil},
		{"done", with("0", "1"), []*v1.Pod{dpod("na", "a", "new", true), dpod("nb", "b", "new", true), dpod("nc", "c", "new", true), dpod("nd", "d", "new", true)}, nil, nil},
	} {
		a := roll(c.ds, nodes, byNode(c.pods), "new", now)
		if !slices.Equal(names(a.delete), c.delete) || !slices.Equal(a.create, c.create) {
			t.Errorf("%s: delete %v, create %v; want %v, %v", c.name, names(a.delete), a.create, c.delete, c.create)
		}
	}
	// The old pod of a surge goes once the new one serves.
	a := manage(with("1", "0"), nodes, byNode(append([]*v1.Pod{dpod("na", "a", "new", true)}, old...)), "new", now)
	if !slices.Equal(names(a.delete), []string{"pa"}) || len(a.create) != 0 {
		t.Errorf("end of a surge: delete %v, create %v", names(a.delete), a.create)
	}
}

func TestOnePodANode(t *testing.T) {
	c := looptest.New(t, daemon(), node("a", nil), node("b", nil), node("barred", nil, v1.Taint{Key: "k", Effect: v1.TaintEffectNoSchedule}))
	c.Run(New(c.Env))
	on := func() (out []string) {
		list, err := c.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for i := range list.Items {
			out = append(out, nodeOf(&list.Items[i]))
		}
		slices.Sort(out)
		return out
	}
	want := func(nodes ...string) {
		t.Helper()
		c.Eventually(fmt.Sprintf("pods on %v", nodes), func() error {
			if got := on(); !slices.Equal(got, nodes) {
				return fmt.Errorf("on %v", got)
			}
			return nil
		})
	}
	want("a", "b")
	if _, err := c.CoreV1().Nodes().Create(t.Context(), node("c", nil), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	want("a", "b", "c")
	if err := c.CoreV1().Nodes().Delete(t.Context(), "b", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	want("a", "c") // the pod was not bound yet, so nobody else would remove it
	c.Eventually("status", func() error {
		ds, err := c.AppsV1().DaemonSets("default").Get(t.Context(), "d", metav1.GetOptions{})
		if err != nil || ds.Status.DesiredNumberScheduled != 2 || ds.Status.CurrentNumberScheduled != 2 || ds.Status.NumberMisscheduled != 0 {
			return fmt.Errorf("%+v, %v", ds.Status, err)
		}
		return nil
	})
}
