package queue

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
	"k8s.io/kube-scheduler/framework"
	"k8s.io/utils/ptr"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func pod(name string, priority int32) *v1.Pod {
	return &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: types.UID(name)}, Spec: v1.PodSpec{Priority: ptr.To(priority)}}
}

var nodeAdded = framework.ClusterEvent{Resource: framework.Node, ActionType: framework.Add}

// inBubble runs f with a queue whose clock is the test's.
func inBubble(t *testing.T, cfg Config, f func(q *Queue)) {
	synctest.Test(t, func(t *testing.T) {
		q := New(cfg)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { q.Run(ctx) })
		f(q)
		cancel()
		wg.Wait()
	})
}

// popped returns the name of the pod that is ready now, or "".
func popped(q *Queue) (*Pod, string) {
	synctest.Wait()
	ready, backing, _, _ := q.Counts()
	if ready == 0 && (backing == 0 || q.earlyLocked() == nil) {
		return nil, ""
	}
	p := q.Pop()
	return p, p.Info.Pod.Name
}

func (q *Queue) earlyLocked() *Pod {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.early()
}

func TestPriorityThenAge(t *testing.T) {
	inBubble(t, Config{}, func(q *Queue) {
		q.Add(pod("first", 0))
		time.Sleep(time.Second)
		q.Add(pod("second", 0))
		q.Add(pod("vip", 10))
		for _, want := range []string{"vip", "first", "second", ""} {
			p, got := popped(q)
			if got != want {
				t.Errorf("popped %q, want %q", got, want)
			}
			if p != nil {
				q.Done(p.uid())
			}
		}
	})
}

func hints(fn framework.QueueingHintFn) Config {
	return Config{Hints: map[string][]framework.ClusterEventWithHint{"Fit": {{Event: nodeAdded, QueueingHintFn: fn}}}}
}

func reject(q *Queue, p *Pod) {
	p.Rejectors, p.Pending = Set("Fit"), nil
	p.Unschedulable++
	p.Errors = 0
	q.Failed(p, p.Info.Pod)
}

func TestOnlyEventsThatHelpMoveAPod(t *testing.T) {
	fn := func(_ klog.Logger, _ *v1.Pod, _, obj any) (framework.QueueingHint, error) {
		if obj.(*v1.Node).Name == "big" {
			return framework.Queue, nil
		}
		return framework.QueueSkip, nil
	}
	node := func(name string) *v1.Node { return &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}} }
	inBubble(t, hints(fn), func(q *Queue) {
		q.Add(pod("p", 0))
		p, _ := popped(q)
		reject(q, p)
		if _, got := popped(q); got != "" {
			t.Error("an unschedulable pod was tried again without an event")
		}
		q.MoveOn(framework.ClusterEvent{Resource: framework.PersistentVolume, ActionType: framework.Add}, nil, nil)
		q.MoveOn(nodeAdded, nil, node("small"))
		if _, got := popped(q); got != "" {
			t.Error("an event that cannot help moved the pod")
		}
		q.MoveOn(nodeAdded, nil, node("big"))
		if p, _ = popped(q); p == nil { // at once, though it backs off: nothing else is ready
			t.Fatal("the event that helps did not move the pod")
		}
		// An event during the attempt counts too.
		q.MoveOn(nodeAdded, nil, node("big"))
		reject(q, p)
		if p, _ = popped(q); p == nil {
			t.Fatal("an event during the attempt was lost")
		}
		reject(q, p)
		time.Sleep(MaxUnschedulable + time.Minute)
		if p, _ = popped(q); p == nil {
			t.Error("a pod was forgotten: not tried again after MaxUnschedulable")
		}
	})
}

func TestErrorsBackOffLongerEachTime(t *testing.T) {
	inBubble(t, Config{}, func(q *Queue) {
		q.Add(pod("p", 0))
		for i, want := range []time.Duration{1, 2, 4, 8, 10, 10} {
			p, _ := popped(q)
			if p == nil {
				t.Fatalf("attempt %d: not ready", i)
			}
			p.Errors++
			q.Failed(p, p.Info.Pod)
			time.Sleep(want*time.Second - time.Millisecond)
			if _, got := popped(q); got != "" {
				t.Fatalf("attempt %d: ready before %d s", i, want)
			}
			time.Sleep(2 * time.Millisecond)
		}
	})
}

func TestGates(t *testing.T) {
	gate := func(_ context.Context, p *v1.Pod) *framework.Status {
		if len(p.Spec.SchedulingGates) > 0 {
			return framework.NewStatus(framework.UnschedulableAndUnresolvable).WithPlugin("Gates")
		}
		return nil
	}
	inBubble(t, Config{PreEnqueue: gate}, func(q *Queue) {
		p := pod("p", 0)
		p.Spec.SchedulingGates = []v1.PodSchedulingGate{{Name: "g"}}
		q.Add(p)
		q.MoveOn(framework.ClusterEvent{Resource: framework.WildCard, ActionType: framework.All}, nil, nil)
		if _, got := popped(q); got != "" {
			t.Error("a gated pod came out")
		}
		if _, _, _, gated := q.Counts(); gated != 1 {
			t.Errorf("%d pods are gated, want 1", gated)
		}
		q.Update(p, pod("p", 0))
		if _, got := popped(q); got != "p" {
			t.Error("the pod did not come out though its gates fell")
		}
	})
}

func TestDeletedPodsDoNotComeOut(t *testing.T) {
	inBubble(t, hints(nil), func(q *Queue) {
		for i := range 3 {
			q.Add(pod(fmt.Sprint("p", i), 0))
		}
		p, name := popped(q)
		reject(q, p)
		q.Delete(pod("p0", 0))
		q.Delete(pod("p1", 0))
		q.Delete(pod("p2", 0))
		q.MoveOn(nodeAdded, nil, nil)
		if _, got := popped(q); got != "" {
			t.Errorf("%q came out (%q was in flight first)", got, name)
		}
	})
}

func TestNominationsOutliveUpdatesThatDoNotSpeakOfThem(t *testing.T) {
	inBubble(t, hints(nil), func(q *Queue) {
		q.Add(pod("p", 0))
		p, _ := popped(q)
		q.AddNominatedPod(klog.Background(), p.Info, &framework.NominatingInfo{NominatingMode: framework.ModeOverride, NominatedNodeName: "n"})
		q.Update(pod("p", 0), pod("p", 0))
		if got := q.NominatedPodsForNode("n"); len(got) != 1 {
			t.Errorf("%d pods are nominated, want 1", len(got))
		}
		q.DeleteNominatedPodIfExists(p.Info.Pod)
		if got := q.NominatedPodsForNode("n"); len(got) != 0 {
			t.Errorf("%d pods are nominated, want none", len(got))
		}
	})
}
