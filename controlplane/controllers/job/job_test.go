package job

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"
	batchv1 "k8s.io/api/batch/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/reevehq/reeve/controlplane/controllers/looptest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestIndexesReadAndWrite(t *testing.T) {
	for in, want := range map[string]string{"": "", "3": "3", "0,1": "0,1", "0,1,2": "0-2", "7,1,3-5,4": "1,3-5,7", "x,2": "2", "8-12": "8,9"} {
		if got := parseIndexes(in, 10).String(); got != want {
			t.Errorf("%q becomes %q, want %q", in, got, want)
		}
	}
}

func FuzzIndexes(f *testing.F) {
	f.Add("1,3-5,7", 10)
	f.Add("0-4", 3)
	f.Fuzz(func(t *testing.T, s string, n int) {
		if n < 0 || n > 1000 || len(s) > 100 {
			t.Skip("no job has that many completions here: it would only take long")
		}
		x := parseIndexes(s, n)
		if y := parseIndexes(x.String(), n); !slices.Equal(x, y) {
			t.Errorf("%v reads back as %v", x, y)
		}
	})
}

func newJobObj(completions, parallelism int32, change ...func(*batchv1.Job)) *batchv1.Job {
	j := &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Name: "j", Namespace: "default", UID: "j"},
		Spec: batchv1.JobSpec{
			Completions: &completions, Parallelism: &parallelism, BackoffLimit: ptr.To[int32](6),
			Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"job": "j"}},
			Template: v1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"job": "j"}}, Spec: v1.PodSpec{RestartPolicy: v1.RestartPolicyNever, Containers: []v1.Container{{Name: "c"}}}},
		},
	}
	for _, f := range change {
		f(j)
	}
	return j
}

func indexedMode(j *batchv1.Job) { j.Spec.CompletionMode = ptr.To(batchv1.IndexedCompletion) }

var now = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func jobPod(name string, phase v1.PodPhase, index int, change ...func(*v1.Pod)) *v1.Pod {
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), Finalizers: []string{batchv1.JobTrackingFinalizer}}, Status: v1.PodStatus{Phase: phase}}
	if index >= 0 {
		p.Annotations = map[string]string{batchv1.JobCompletionIndexAnnotation: fmt.Sprint(index)}
	}
	if phase == v1.PodFailed || phase == v1.PodSucceeded {
		code := int32(0)
		if phase == v1.PodFailed {
			code = 42
		}
		p.Status.ContainerStatuses = []v1.ContainerStatus{{Name: "c", State: v1.ContainerState{Terminated: &v1.ContainerStateTerminated{ExitCode: code, FinishedAt: metav1.NewTime(now.Add(-time.Hour))}}}}
	}
	for _, f := range change {
		f(p)
	}
	return p
}

func TestPlan(t *testing.T) {
	just := func(p *v1.Pod) {
		p.Status.ContainerStatuses[0].State.Terminated.FinishedAt = metav1.NewTime(now.Add(-3 * time.Second))
	}
	for _, c := range []struct {
		name   string
		j      *batchv1.Job
		pods   []*v1.Pod
		create int
		index  []int
		delete int
		wait   time.Duration
	}{
		{"start", newJobObj(5, 2), nil, 2, nil, 0, 0},
		{"only what is left", newJobObj(3, 5), []*v1.Pod{jobPod("a", v1.PodSucceeded, -1), jobPod("b", v1.PodRunning, -1)}, 1, nil, 0, 0},
		{"scaled down", newJobObj(5, 1), []*v1.Pod{jobPod("a", v1.PodRunning, -1), jobPod("b", v1.PodPending, -1)}, 0, nil, 1, 0},
		{"suspended", newJobObj(5, 2, func(j *batchv1.Job) { j.Spec.Suspend = ptr.To(true) }), []*v1.Pod{jobPod("a", v1.PodRunning, -1)}, 0, nil, 1, 0},
		{"after a failure, in time", newJobObj(1, 1), []*v1.Pod{jobPod("a", v1.PodFailed, -1)}, 1, nil, 0, 0},
		{"after a failure, too soon", newJobObj(1, 1), []*v1.Pod{jobPod("a", v1.PodFailed, -1, just)}, 0, nil, 0, 7 * time.Second},
		{"two failures double the pause", newJobObj(1, 1), []*v1.Pod{jobPod("a", v1.PodFailed, -1, just), jobPod("b", v1.PodFailed, -1)}, 0, nil, 0, 17 * time.Second},
		{"work queue that had a success", &batchv1.Job{Spec: batchv1.JobSpec{Parallelism: ptr.To[int32](3)}}, []*v1.Pod{jobPod("a", v1.PodSucceeded, -1), jobPod("b", v1.PodRunning, -1)}, 0, nil, 0, 0},
		{"indexes that are missing", newJobObj(4, 3, indexedMode), []*v1.Pod{jobPod("a", v1.PodSucceeded, 0), jobPod("b", v1.PodRunning, 2)}, 2, []int{1, 3}, 0, 0},
		{"an index twice", newJobObj(2, 2, indexedMode), []*v1.Pod{jobPod("a", v1.PodRunning, 0), jobPod("b", v1.PodRunning, 0), jobPod("c", v1.PodRunning, 1)}, 0, nil, 1, 0},
	} {
		o := look(c.j, c.pods)
		n := plan(c.j, o, now)
		if n.create != c.create || !slices.Equal(n.index, c.index) || len(n.delete) != c.delete || n.wait != c.wait {
			t.Errorf("%s: %+v; want create %d %v, delete %d, wait %s", c.name, n, c.create, c.index, c.delete, c.wait)
		}
	}
}

func TestVerdict(t *testing.T) {
	limit := func(n int32) func(*batchv1.Job) { return func(j *batchv1.Job) { j.Spec.BackoffLimit = &n } }
	policy := func(a batchv1.PodFailurePolicyAction) func(*batchv1.Job) {
		return func(j *batchv1.Job) {
			j.Spec.PodFailurePolicy = &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{{Action: a,
				OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{Operator: batchv1.PodFailurePolicyOnExitCodesOpIn, Values: []int32{42}}}}}
		}
	}
	for _, c := range []struct {
		name   string
		j      *batchv1.Job
		pods   []*v1.Pod
		kind   batchv1.JobConditionType
		reason string
	}{
		{"going on", newJobObj(2, 1), []*v1.Pod{jobPod("a", v1.PodSucceeded, -1)}, "", ""},
		{"complete", newJobObj(2, 1), []*v1.Pod{jobPod("a", v1.PodSucceeded, -1), jobPod("b", v1.PodSucceeded, -1)}, batchv1.JobSuccessCriteriaMet, batchv1.JobReasonCompletionsReached},
		{"within the limit", newJobObj(1, 1, limit(1)), []*v1.Pod{jobPod("a", v1.PodFailed, -1)}, "", ""},
		{"beyond the limit", newJobObj(1, 1, limit(0)), []*v1.Pod{jobPod("a", v1.PodFailed, -1)}, batchv1.JobFailureTarget, batchv1.JobReasonBackoffLimitExceeded},
		{"too late", newJobObj(1, 1, func(j *batchv1.Job) {
			j.Spec.ActiveDeadlineSeconds = ptr.To[int64](10)
			j.Status.StartTime = ptr.To(metav1.NewTime(now.Add(-11 * time.Second)))
		}), nil, batchv1.JobFailureTarget, batchv1.JobReasonDeadlineExceeded},
		{"exit code fails the Job", newJobObj(1, 1, policy(batchv1.PodFailurePolicyActionFailJob)), []*v1.Pod{jobPod("a", v1.PodFailed, -1)}, batchv1.JobFailureTarget, batchv1.JobReasonPodFailurePolicy},
		{"exit code is ignored", newJobObj(1, 1, limit(0), policy(batchv1.PodFailurePolicyActionIgnore)), []*v1.Pod{jobPod("a", v1.PodFailed, -1)}, "", ""},
		{"success policy", newJobObj(3, 3, indexedMode, func(j *batchv1.Job) {
			j.Spec.SuccessPolicy = &batchv1.SuccessPolicy{Rules: []batchv1.SuccessPolicyRule{{SucceededIndexes: ptr.To("0,2"), SucceededCount: ptr.To[int32](1)}}}
		}), []*v1.Pod{jobPod("a", v1.PodSucceeded, 2)}, batchv1.JobSuccessCriteriaMet, batchv1.JobReasonSuccessPolicy},
		{"too many failed indexes", newJobObj(3, 3, indexedMode, func(j *batchv1.Job) {
			j.Spec.BackoffLimitPerIndex, j.Spec.MaxFailedIndexes = ptr.To[int32](0), ptr.To[int32](0)
		}), []*v1.Pod{jobPod("a", v1.PodFailed, 1)}, batchv1.JobFailureTarget, batchv1.JobReasonMaxFailedIndexesExceeded},
	} {
		v, _ := decide(c.j, look(c.j, c.pods), now)
		if v.kind != c.kind || v.reason != c.reason {
			t.Errorf("%s: %+v, want %s %s", c.name, v, c.kind, c.reason)
		}
	}
}

// kubelet ends every pod with the phase that end says.
func kubelet(t *testing.T, c *looptest.Cluster, end func(n int) v1.PodPhase) func() {
	seen := map[types.UID]int{}
	return func() {
		list, err := c.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for i := range list.Items {
			p := &list.Items[i]
			if _, ok := seen[p.UID]; ok {
				continue
			}
			seen[p.UID] = len(seen)
			p.Status.Phase = end(seen[p.UID])
			if _, err := c.CoreV1().Pods("default").UpdateStatus(t.Context(), p, metav1.UpdateOptions{}); err != nil {
				delete(seen, p.UID)
			}
		}
	}
}

func TestCountsEveryPodOnce(t *testing.T) {
	for _, mode := range []func(*batchv1.Job){func(*batchv1.Job) {}, indexedMode} {
		c := looptest.New(t, newJobObj(7, 3, mode))
		c.Run(New(c.Env))
		step := kubelet(t, c, func(int) v1.PodPhase { return v1.PodSucceeded })
		c.Eventually("the Job's end", func() error {
			step()
			j, err := c.BatchV1().Jobs("default").Get(t.Context(), "j", metav1.GetOptions{})
			if err != nil || !finished(j) {
				return fmt.Errorf("%+v, %v", j.Status, err)
			}
			if j.Status.Succeeded != 7 || j.Status.Failed != 0 || j.Status.Active != 0 || j.Status.CompletionTime == nil {
				t.Fatalf("ended with %+v", j.Status)
			}
			return nil
		})
		list, _ := c.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{})
		if len(list.Items) != 7 {
			t.Errorf("%d pods were made, want 7", len(list.Items))
		}
		for _, p := range list.Items {
			if hasFinalizer(&p) {
				t.Errorf("pod %s still has the finalizer", p.Name)
			}
		}
	}
}

func TestFailedJobSaysSo(t *testing.T) {
	c := looptest.New(t, newJobObj(1, 1, func(j *batchv1.Job) { j.Spec.BackoffLimit = new(int32) }))
	c.Run(New(c.Env))
	step := kubelet(t, c, func(int) v1.PodPhase { return v1.PodFailed })
	c.Eventually("the Job's failure", func() error {
		step()
		j, err := c.BatchV1().Jobs("default").Get(t.Context(), "j", metav1.GetOptions{})
		if err != nil || condition(j, batchv1.JobFailed) == nil || j.Status.Failed != 1 {
			return fmt.Errorf("%+v, %v", j.Status, err)
		}
		return nil
	})
}
