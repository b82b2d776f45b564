package tainteviction

import (
	"fmt"
	"testing"
	"time"

	"go.uber.org/goleak"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/reevehq/reeve/controlplane/controllers/looptest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func tolerate(key string, seconds *int64) v1.Toleration {
	return v1.Toleration{Key: key, Operator: v1.TolerationOpExists, Effect: v1.TaintEffectNoExecute, TolerationSeconds: seconds}
}

func TestPatience(t *testing.T) {
	a, b := v1.Taint{Key: "a", Effect: v1.TaintEffectNoExecute}, v1.Taint{Key: "b", Value: "v", Effect: v1.TaintEffectNoExecute}
	soft := v1.Taint{Key: "c", Effect: v1.TaintEffectNoSchedule}
	for _, c := range []struct {
		name        string
		tolerations []v1.Toleration
		taints      []v1.Taint
		left        time.Duration
		forever     bool
	}{
		{"no taint", nil, nil, 0, true},
		{"NoSchedule evicts nobody", nil, []v1.Taint{soft}, 0, true},
		{"not tolerated", nil, []v1.Taint{a}, 0, false},
		{"for a time", []v1.Toleration{tolerate("a", ptr.To[int64](300))}, []v1.Taint{a}, 300 * time.Second, false},
		{"for good", []v1.Toleration{tolerate("a", nil)}, []v1.Taint{a}, 0, true},
		{"the shortest counts", []v1.Toleration{tolerate("a", ptr.To[int64](300)), tolerate("b", ptr.To[int64](5))}, []v1.Taint{a, b}, 5 * time.Second, false},
		{"one of two not tolerated", []v1.Toleration{tolerate("a", nil)}, []v1.Taint{a, b}, 0, false},
		{"negative is none", []v1.Toleration{tolerate("a", ptr.To[int64](-1))}, []v1.Taint{a}, 0, false},
		{"everything", []v1.Toleration{{Operator: v1.TolerationOpExists}}, []v1.Taint{a, b}, 0, true},
		{"by value", []v1.Toleration{{Key: "b", Value: "v"}}, []v1.Taint{b}, 0, true},
		{"by another value", []v1.Toleration{{Key: "b", Value: "w"}}, []v1.Taint{b}, 0, false},
	} {
		if left, forever := patience(c.tolerations, c.taints); left != c.left || forever != c.forever {
			t.Errorf("%s: %s, %v; want %s, %v", c.name, left, forever, c.left, c.forever)
		}
	}
}

func TestEvictsWhatDoesNotTolerate(t *testing.T) {
	pod := func(name string, tol ...v1.Toleration) *v1.Pod {
		return &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: types.UID(name)}, Spec: v1.PodSpec{NodeName: "n", Tolerations: tol}}
	}
	c := looptest.New(t, &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}},
		pod("goes"), pod("stays", tolerate("a", nil)), pod("a-while", tolerate("a", ptr.To[int64](1))))
	c.Run(New(c.Env))
	n := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}, Spec: v1.NodeSpec{Taints: []v1.Taint{{Key: "a", Effect: v1.TaintEffectNoExecute}}}}
	if _, err := c.CoreV1().Nodes().Update(t.Context(), n, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	gone := func(name string) func() error {
		return func() error {
			if _, err := c.CoreV1().Pods("default").Get(t.Context(), name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
				return fmt.Errorf("still there: %v", err)
			}
			return nil
		}
	}
	c.Eventually("the end of the intolerant", gone("goes"))
	if gone("a-while")() == nil {
		t.Error("a pod with a second's patience went at once")
	}
	c.Eventually("the end of patience", gone("a-while"))
	if gone("stays")() == nil {
		t.Error("a tolerating pod was evicted")
	}
}
