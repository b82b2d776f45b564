package nodelifecycle

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"
	coordinationv1 "k8s.io/api/coordination/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/reevehq/reeve/controlplane/controllers/looptest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func node(name string, ready v1.ConditionStatus, taints ...v1.Taint) *v1.Node {
	n := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: v1.NodeSpec{Taints: taints}}
	if ready != "" {
		n.Status.Conditions = []v1.NodeCondition{{Type: v1.NodeReady, Status: ready}}
	}
	return n
}

func taint(key string, e v1.TaintEffect) v1.Taint { return v1.Taint{Key: key, Effect: e} }

func TestTaintsFollowConditions(t *testing.T) {
	const ns, ne = v1.TaintEffectNoSchedule, v1.TaintEffectNoExecute
	users := v1.Taint{Key: "team", Value: "a", Effect: ne}
	pressed := node("n", v1.ConditionTrue)
	pressed.Status.Conditions = append(pressed.Status.Conditions, v1.NodeCondition{Type: v1.NodeDiskPressure, Status: v1.ConditionTrue})
	pressed.Spec.Unschedulable = true
	for _, c := range []struct {
		name  string
		n     *v1.Node
		evict bool
		want  []string
	}{
		{"ready clears ours and keeps the user's", node("n", v1.ConditionTrue, taint(v1.TaintNodeNotReady, ns), users, taint(v1.TaintNodeUnreachable, ne)), true, []string{"team:NoExecute"}},
		{"not ready", node("n", v1.ConditionFalse), true, []string{"node.kubernetes.io/not-ready:NoExecute", "node.kubernetes.io/not-ready:NoSchedule"}},
		{"unknown", node("n", v1.ConditionUnknown, taint(v1.TaintNodeNotReady, ne)), true, []string{"node.kubernetes.io/unreachable:NoExecute", "node.kubernetes.io/unreachable:NoSchedule"}},
		{"nobody is evicted", node("n", v1.ConditionUnknown, taint(v1.TaintNodeUnreachable, ne)), false, []string{"node.kubernetes.io/unreachable:NoSchedule"}},
		{"not reported yet", node("n", ""), true, []string{"node.kubernetes.io/not-ready:NoSchedule"}},
		{"pressure and cordon", pressed, true, []string{"node.kubernetes.io/disk-pressure:NoSchedule", "node.kubernetes.io/unschedulable:NoSchedule"}},
	} {
		got, changed := taints(c.n, c.evict, metav1.Now())
		var names []string
		for _, x := range got {
			names = append(names, x.Key+":"+string(x.Effect))
		}
		if !changed || !slices.Equal(names, c.want) {
			t.Errorf("%s: %v (changed %v), want %v", c.name, names, changed, c.want)
		}
		c.n.Spec.Taints = got
		if _, again := taints(c.n, c.evict, metav1.Now()); again {
			t.Errorf("%s: a second look changes taints again", c.name)
		}
	}
}

func TestPaceSlowsDownWhenManyAreDown(t *testing.T) {
	cluster := func(up, down int) (out []*v1.Node) {
		for range up {
			out = append(out, node("", v1.ConditionTrue))
		}
		for range down {
			out = append(out, node("", v1.ConditionUnknown))
		}
		return out
	}
	for _, c := range []struct {
		up, down int
		want     time.Duration
	}{{9, 1, 10 * time.Second}, {1, 2, 10 * time.Second}, {10, 30, -1}, {20, 60, 100 * time.Second}} {
		if got := pace(cluster(c.up, c.down)); got != c.want {
			t.Errorf("pace with %d up and %d down is %s, want %s", c.up, c.down, got, c.want)
		}
	}
	if mayEvict(cluster(0, 3)) || !mayEvict(cluster(1, 2)) {
		t.Error("only a cluster with a node that is up may evict")
	}
}

func lease(name string) *coordinationv1.Lease {
	return &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: v1.NamespaceNodeLease}, Spec: coordinationv1.LeaseSpec{RenewTime: ptr.To(metav1.NowMicro())}}
}

func TestSilentNodeBecomesUnknownAndItsPodsNotReady(t *testing.T) {
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "default"}, Spec: v1.PodSpec{NodeName: "silent"},
		Status: v1.PodStatus{Conditions: []v1.PodCondition{{Type: v1.PodReady, Status: v1.ConditionTrue}}}}
	c := looptest.New(t, node("silent", v1.ConditionTrue), node("alive", v1.ConditionTrue), pod, lease("silent"), lease("alive"))
	c.Run(New(c.Env, 300*time.Millisecond))
	get := func(name string) *v1.Node {
		n, err := c.CoreV1().Nodes().Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	renew := func(name string) {
		if _, err := c.CoordinationV1().Leases(v1.NamespaceNodeLease).Update(t.Context(), lease(name), metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	c.Eventually("the silent node's state", func() error {
		renew("alive")
		n := get("silent")
		p, err := c.CoreV1().Pods("default").Get(t.Context(), "p", metav1.GetOptions{})
		if err != nil || status(n, v1.NodeReady) != v1.ConditionUnknown || len(n.Spec.Taints) != 2 || p.Status.Conditions[0].Status != v1.ConditionFalse {
			return fmt.Errorf("node %+v %+v, pod %+v, %v", n.Status.Conditions, n.Spec.Taints, p.Status.Conditions, err)
		}
		return nil
	})
	if s := status(get("alive"), v1.NodeReady); s != v1.ConditionTrue {
		t.Errorf("the node that renews its lease is Ready=%s", s)
	}
	// It comes back: its own report makes it ready, and the taints go.
	c.Eventually("its report", func() error {
		back := get("silent")
		for i := range back.Status.Conditions {
			back.Status.Conditions[i].Status = v1.ConditionTrue
			back.Status.Conditions[i].LastHeartbeatTime = metav1.Now()
		}
		back.Status.Conditions = back.Status.Conditions[:1]
		_, err := c.CoreV1().Nodes().UpdateStatus(t.Context(), back, metav1.UpdateOptions{})
		return err
	})
	c.Eventually("no taints", func() error {
		renew("silent")
		renew("alive")
		if n := get("silent"); len(n.Spec.Taints) != 0 {
			return fmt.Errorf("taints %+v, conditions %+v", n.Spec.Taints, n.Status.Conditions)
		}
		return nil
	})
}
